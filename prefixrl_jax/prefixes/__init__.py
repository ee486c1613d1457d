"""Traces become prefixes, prefixes a mixture to train on."""
