"""Training methods; they do not know each other."""
