"""Tasks with their own alphabet: problems, verifiers, lessons."""
