"""What dead processes of a role left in the folder, removed by the next one that is this role."""

import re

from .records import Generation
from .storage import Storage

_FOLDER = re.compile(r"g[0-9]{8}")


def remove_old_generations(storage: Storage, role: str, now: Generation | None) -> None:
    """Remove my messages of generations before `now`, which nobody reads any more.

    None: the run is over, and nobody reads any.
    """
    for name in storage.listing("."):
        if _FOLDER.fullmatch(name) and (now is None or name < now.folder):
            storage.sweep(f"{name}/{role}")
            storage.remove_folder(f"{name}/{role}")
            storage.remove_folder(name)  # succeeds for the last role to come by


def remove_parts(storage: Storage, role: str, *, leader: bool) -> None:
    """Remove the half-written files of an earlier process of this role.

    Its lock is mine, so no live process writes them.
    """
    storage.sweep("hello", lambda name: _is_part_of(f"{role}.json", name))
    if leader:
        storage.sweep("gen", lambda name: name.startswith(".") and name.endswith(".part"))
        storage.sweep(".", lambda name: _is_part_of("RUN.json", name))


def _is_part_of(final: str, name: str) -> bool:
    return name.startswith(f".{final}.") and name.endswith(".part")
