"""PrefixRL in JAX: RL on hard problems, conditioned on off-policy prefixes."""

__version__ = "0.1.0"
