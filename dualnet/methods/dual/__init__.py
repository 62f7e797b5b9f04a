"""The dual net: one net cut in two, trained by two processes that exchange activations."""
