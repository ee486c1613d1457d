"""The learner: advantages, losses, updates."""
