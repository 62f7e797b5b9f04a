"""stage.json: where the run stands, for people and monitors.  No role ever acts on it."""

import json
import logging
from typing import Any

from .errors import ExchangeError
from .locks import stage_lock
from .peer_text import parse_object
from .profile import Profile
from .storage import Storage

log = logging.getLogger("shared_fs")

NAME = "stage.json"
LIMIT = 64 * 1024  # bytes


def read_stage(storage: Storage) -> dict[str, Any]:
    """The stage as a dict with at least `version` and `roles`; a fresh one if absent or damaged."""
    fresh: dict[str, Any] = {"version": 0, "roles": {}}
    try:
        raw = parse_object(storage.read_small(NAME, LIMIT) or b"{}")
    except (ExchangeError, ValueError):
        return fresh
    if type(raw.get("version")) is not int:
        return fresh
    return raw if isinstance(raw.get("roles"), dict) else fresh


def update_stage(storage: Storage, profile: Profile, role: str, **stage: Any) -> bool:
    """Write the stage of one role, and as the newest of the run: version, generation, phase, ...

    Read, change and write happen under the stage lock.  False, with a warning, if the lock was
    not free within a second or the disk refused: the run goes on without.
    """
    if not storage.is_in_place():  # the lock, unlike all else, is found by its path
        log.warning("%s: moved or replaced; stage.json stays as is", storage.root)
        return False
    try:
        with stage_lock(storage, profile) as held:
            if held:
                _write(storage, role, stage)
            return held
    except ExchangeError as error:
        log.warning("stage.json is not updated: %s", error)
        return False


def _write(storage: Storage, role: str, stage: dict[str, Any]) -> None:
    # Under the lock nobody else writes this file, so what is half written is of a dead process.
    storage.sweep(".", lambda name: name.startswith(f".{NAME}.") and name.endswith(".part"))
    now = read_stage(storage)
    roles = {**now["roles"], role: stage}
    changed = {"version": now["version"] + 1, **stage, "last_role": role, "roles": roles}
    storage.publish(NAME, [json.dumps(changed, indent=1).encode("ascii") + b"\n"], fsync=False)
