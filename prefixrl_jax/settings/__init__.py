"""What a config may say, and every check of it."""
