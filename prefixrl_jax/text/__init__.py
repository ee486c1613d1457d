"""Token ids and text, and how people's conversations are read."""
