"""The transformer: Flax Linen inside, pure functions of parameters outside."""
