"""Accuracy without prefix first, then by prefix length; the report."""
