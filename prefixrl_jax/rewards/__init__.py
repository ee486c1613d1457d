"""Verifiers: a completion in, a reward out."""
