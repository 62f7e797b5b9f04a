"""Optimisers and backward passes that torch has no counterpart for."""
