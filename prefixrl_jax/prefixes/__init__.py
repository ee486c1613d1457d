"""Where traces are cut into prefixes, and what each step trains on."""
