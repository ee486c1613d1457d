"""The sampler: a trunk is prefilled once, many lanes decode from it."""
