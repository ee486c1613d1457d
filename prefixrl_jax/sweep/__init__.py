"""Sweeps: every arm at every combination of settings, as one command."""
