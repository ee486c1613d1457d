"""The stages: each from artifacts to artifacts, what the command runs."""
