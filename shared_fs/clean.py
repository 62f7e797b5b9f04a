"""Remove what a finished or dead run left in an exchange folder, and only that."""

import re
import stat
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .errors import RoleTaken, StorageError
from .locks import RoleLock
from .observe import WATCH_S, Observation, is_exchange, observe
from .peer_text import printable
from .process import this_process
from .profile import NETWORK, Profile, detect
from .storage import Storage

_ROLE = r"[a-z0-9_]{1,32}"
_LOCK_LEFTOVER = r"(\.(break|restore)\.[0-9]+\.[0-9a-f]{32})?"  # of a lease that was broken
_FOLDER = re.compile(rf"roles|hello|gen|status|g[0-9]{{8}}(/{_ROLE})?")
_FILE = re.compile(
    rf"RUN\.json|stage\.json|stage\.lock{_LOCK_LEFTOVER}|roles/{_ROLE}\.lock{_LOCK_LEFTOVER}"
    rf"|hello/{_ROLE}\.json|gen/[0-9]{{8}}\.json|status/{_ROLE}\.block"
    rf"|g[0-9]{{8}}/{_ROLE}/({_ROLE}-([0-9]{{12}}|slot[0-9]+)\.npy|counters)"
)
_PART = re.compile(r"(?P<folder>(.*/)?)\.(?P<base>[^/]+)\.[0-9a-f]{32}\.part")
_LOCK = re.compile(rf"roles/(?P<role>{_ROLE})\.lock")


@dataclass(frozen=True)
class Cleaned:
    """Names in the folder; those in `left` are not of an exchange, or not regular files."""

    removed: tuple[str, ...]
    left: tuple[str, ...]


def is_cleanable(folder: Path) -> bool:
    """Whether a role was ever in this folder; an exchange that was cleaned by half counts too."""
    if folder.is_symlink():
        return False
    return is_exchange(folder) or any((folder / "roles").glob("*.lock"))


def clean(folder: Path | str, *, force: bool = False, dry_run: bool = False) -> Cleaned:
    """Remove the files of an exchange whose roles are all over; the folder itself stays.

    force    also if a role of another host is silent, but may be alive
    dry_run  remove nothing, and take no lock: say what would be removed

    Takes up to 6 s for each role of another host that did not end properly.
    Raises RoleTaken if a role may be alive, StorageError if there is no exchange, or if it cannot
    be read or written.
    """
    folder = Path(folder)
    if not is_cleanable(folder):
        raise StorageError(f"{folder}: no role was ever here, so there is nothing to clean; "
                           "name an exchange folder")
    storage = Storage(folder)
    try:
        found = _sort(storage)
        locked = {lock["role"] for lock in map(_LOCK.fullmatch, found.removed) if lock}
        observations = observe(folder) if is_exchange(folder) else []
        for observation in observations:
            _refuse_live(folder, observation, force)
        if dry_run:
            return found
        silent = {o.role for o in observations if o.state == "silent"}
        killed = {o.role for o in observations if o.state == "killed"}
        profiles = {o.hello.profile for o in observations if o.hello}  # which lock they took
        profile = detect(folder, NETWORK.name if NETWORK.name in profiles else "auto")
        return _clean(storage, profile, (locked | {o.role for o in observations}) - silent,
                      killed)
    finally:
        storage.shut()


def _clean(storage: Storage, profile: Profile, roles: set[str], killed: set[str]) -> Cleaned:
    """Remove everything while holding the locks of `roles`, so that none of them can start.

    killed  the roles whose process is known to have ended
    """
    storage.make_folder("roles")
    with ExitStack() as stack:
        for role in sorted(roles):
            lock = RoleLock(storage, role, profile)
            try:
                lock.acquire(lambda: "", partial(_is_killed, role in killed))
            except RoleTaken:
                raise RoleTaken(f"{storage.root}: {role} is alive (its lock is held); stop it first"
                                ) from None
            stack.callback(lock.release)
        found = _sort(storage)
        # A lease is a file that its release removes; a file under flock goes while it is held.
        leases = {f"roles/{role}.lock" for role in roles} if profile.name == "network" else set()
        # The locks last: until then nobody new can begin here, and the folder is known as ours.
        for name in sorted(found.removed, key=lambda name: name.startswith("roles")):
            if name not in leases:
                _remove(storage, name)
    storage.remove_folder("roles")
    return found


def _is_killed(killed: bool, pid: int | None) -> bool:
    return killed


def _remove(storage: Storage, name: str) -> None:
    """Remove one file of ours, or a folder unless something else is in it."""
    if _FOLDER.fullmatch(name):
        storage.remove_folder(name)
    else:
        storage.remove(name)


def _refuse_live(folder: Path, observation: Observation, force: bool) -> None:
    """Raise RoleTaken if this role may be alive; says how that was judged."""
    hello, state = observation.hello, observation.state
    if hello is None or state in ("killed", "done", "failed", "stopping"):
        return  # if its process is still there, it holds its lock
    where = printable(hello.process.host)
    who = f"{folder}: {observation.role} (pid {hello.process.pid} on {where})"
    if state == "silent":
        if force:
            return
        raise RoleTaken(
            f"{who} did not end, and its status has not changed for {WATCH_S:g} s; this host "
            "cannot see its process: if you know that it is gone, add --force"
        )
    same = hello.process.boot_id == this_process().boot_id
    seen = "its process is there" if same else f"its status changed within {WATCH_S:g} s"
    raise RoleTaken(f"{who} is alive ({seen}); stop it first")


def _sort(storage: Storage) -> Cleaned:
    """All names in the folder: those of an exchange, each folder after its content, and others."""
    ours: list[str] = []
    others: list[str] = []
    _walk(storage, "", ours, others)
    return Cleaned(tuple(ours), tuple(others))


def _walk(storage: Storage, folder: str, ours: list[str], others: list[str]) -> None:
    """Sort the content of one folder; no link is followed, no unknown folder entered."""
    with storage.explaining("list", folder):
        names = [f"{folder}{name}" for name in sorted(storage.listdir(folder or "."))]
    for name in names:
        with storage.explaining("inspect", name):
            mode = storage.lstat(name).st_mode
        if stat.S_ISDIR(mode) and _FOLDER.fullmatch(name):
            before = len(others)
            _walk(storage, f"{name}/", ours, others)
            if len(others) == before:
                ours.append(name)
        elif stat.S_ISREG(mode) and _is_ours(name):
            ours.append(name)
        else:
            others.append(name)


def _is_ours(name: str) -> bool:
    part = _PART.fullmatch(name)
    return bool(_FILE.fullmatch(f"{part['folder']}{part['base']}" if part else name))
