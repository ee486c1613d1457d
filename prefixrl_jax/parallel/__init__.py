"""Runs side by side: processes that share the cores of one machine."""
