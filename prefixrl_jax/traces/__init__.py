"""Correct off-policy traces: collected, stored."""
