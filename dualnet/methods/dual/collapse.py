"""The collapse: the two copies agree by shrinking towards zero instead of by learning."""

# In 2017's losses the norm falls by a factor of 34 to 400; a net that learns raises it.
SHRUNK = 0.1


def collapse_reason(layer: str, first_norm: float, latest_norm: float) -> str:
    """Why the run counts as collapsed, in a sentence; empty if it does not.

    first_norm, latest_norm  mean per-sample norm of net2's activation at the first and at the
                             latest logged iteration
    """
    if latest_norm >= SHRUNK * first_norm:
        return ""
    return (f"the norm of {layer}' fell from {first_norm:.4g} to {latest_norm:.4g}, below "
            f"{SHRUNK:g} of its start: the copies agree by shrinking")
