"""Correct off-policy traces: collected, imported, or written by rule."""
