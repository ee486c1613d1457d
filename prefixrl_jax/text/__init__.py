"""Tokenizers and chat templates, conversations and thoughts."""
