"""Training methods; they do not know each other."""


def role_of_whole(method: str) -> str:
    """The role whose last checkpoint is the whole net, of any method but the dual net."""
    from dualnet.methods.monolith.settings import MONOLITH, WHOLE
    from dualnet.methods.net2wider.settings import WIDER
    from dualnet.methods.partition.settings import MERGED

    return {"partition": MERGED, "net2wider": WIDER, MONOLITH: WHOLE}.get(method, method)
