"""Tasks with an alphabet of their own: problems, verifiers, lessons."""
