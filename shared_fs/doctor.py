"""Test a mount: two real processes use a folder as an exchange does, and say whether it will do."""

import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from .errors import ExchangeError, HandshakeMismatch, RoleTaken, WaitTimeout
from .exchange import Exchange
from .probe import (
    CHANNELS,
    ROLES,
    Block,
    Medium,
    NewName,
    Pair,
    Replaced,
    claims,
    lock_fault,
    observation_times,
    torn_reads,
)
from .profile import LOCAL, NETWORK, detect, kind_of
from .storage import Storage
from .waiting import wait_for

FOLDER = "dualnet-doctor"  # where the two processes of two hosts meet
SLOW_S = 0.05  # a median above this is called slow
START_S = 120.0  # seconds for the second process of this machine to start and answer
LEAVE_S = 60.0
SIGHT_S = 60.0  # for a new folder to be seen through another mount
SPARE = 1.5
FEWEST_FILES = 100
WINDOW = 2  # messages under way per channel, as in `Exchange`

IN_PLACE = "rewritten in place, kept open"
DIRECT = "rewritten in place, kept open with O_DIRECT"
REOPENED = "rewritten in place, opened for each look"
REPLACED = "replaced by rename, opened for each look"
NEW_NAME = "new name, folder listed"

_CAREFUL = (NETWORK.name, LOCAL.name)  # the more careful profile first


@dataclass(frozen=True)
class Report:
    """What was found in a folder.

    kinds       file-system types of the folder and of the peer's folder
    free_bytes, free_files   room for this user; None: no limit is told
    direct      O_DIRECT is accepted
    seen        way of telling -> seconds until the other process saw it; empty: not seen
    messages    seconds of messages of `num_bytes` from before publish to after read
    locks       "flock", "lease" -> what is wrong with it; empty if it excludes
    faults      why the folder cannot be used, one sentence each
    notes       what to know if it is used
    profile     "local" or "network": how to use it; empty if it cannot be used
    automatic   the profile that its type alone suggests, which is the default
    """

    kinds: tuple[str, ...]
    automatic: str
    num_bytes: int
    free_bytes: int | None = None
    free_files: int | None = None
    direct: bool = False
    seen: Mapping[str, list[float]] = field(default_factory=dict)
    messages: list[float] = field(default_factory=list)
    locks: Mapping[str, str] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    profile: str = ""


def examine(folder: Path, peer_folder: Path | None = None, *, num_bytes: int) -> Report:
    """Test `folder` with a second process of this machine, which goes by way of `peer_folder`,
    another mount of the same folder, if that is given.  Leaves nothing behind.

    num_bytes  of a message
    """
    blank = _room(folder, num_bytes)
    if blank.faults:
        return blank
    try:
        with _scratch(folder) as scratch:
            theirs = (peer_folder or folder) / scratch.name
            _await_sight(theirs)
            context = multiprocessing.get_context("spawn")
            second = context.Process(target=_be_second, args=(theirs, num_bytes), daemon=True)
            second.start()
            try:
                return _take_part(scratch, ROLES[0], blank, START_S)
            finally:
                second.join(LEAVE_S)
                second.kill()
                second.join()
    except (ExchangeError, OSError) as error:
        return replace(blank, faults=(_sentence(folder, error),))


def examine_as(folder: Path, role: str, *, num_bytes: int, timeout_s: float) -> Report:
    """Test `folder` together with the same call of the other role, "first" or "second", on
    another host.  Both get the same report; nothing is left behind.

    num_bytes  of a message; that of the first counts
    timeout_s  how long to wait for the other host
    """
    blank = _room(folder, num_bytes)
    if blank.faults:
        return blank
    scratch = folder / FOLDER
    try:
        try:
            report = _take_part(scratch, role, blank, timeout_s)
        except (RoleTaken, HandshakeMismatch):
            raise  # the folder belongs to somebody else
        except BaseException:
            _remove(scratch)
            raise
        _leave(scratch, role)
        return report
    except (ExchangeError, OSError) as error:
        return replace(blank, faults=(_sentence(folder, error),))


def _be_second(scratch: Path, num_bytes: int) -> None:
    with suppress(ExchangeError, OSError):  # the first process learns of it, and tells
        _take_part(scratch, ROLES[1], _room(scratch, num_bytes), START_S)


def _room(folder: Path, num_bytes: int) -> Report:
    """What one process sees by itself, and a fault if a run would not fit."""
    found = os.statvfs(folder)
    free_bytes = found.f_bavail * found.f_frsize
    free_files = found.f_favail if found.f_files else None  # btrfs and others have no limit
    needed = int(SPARE * 2 * (WINDOW + 1) * num_bytes)
    faults = []
    if free_bytes < needed:
        faults.append(f"{folder} has {_mb(free_bytes)} free, and messages of {_mb(num_bytes)} need "
                      f"{_mb(needed)}; free some space there")
    if free_files is not None and free_files < FEWEST_FILES:
        faults.append(f"{folder} has room for {free_files} more files, and an exchange needs "
                      f"{FEWEST_FILES}; remove some there")
    return Report((kind_of(folder),), detect(folder).name, num_bytes, free_bytes, free_files,
                  faults=tuple(faults))


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A new folder, gone again afterwards."""
    scratch = Path(tempfile.mkdtemp(prefix=f"{FOLDER}-", dir=folder))
    try:
        yield scratch
    finally:
        _remove(scratch)


def _await_sight(scratch: Path) -> None:
    wait_for(lambda: scratch.name in os.listdir(scratch.parent) or None,
             lambda: f"{scratch} to appear: is {scratch.parent} a mount of the same folder?",
             timeout_s=SIGHT_S, longest_sleep_s=0.5, clock=time)


def _remove(scratch: Path) -> None:
    """Remove the folder, again and again while this client's cache hides what is in it."""

    def is_gone() -> bool | None:
        try:
            shutil.rmtree(scratch)
        except FileNotFoundError:
            return None if os.path.lexists(scratch) else True
        except OSError:
            return None
        return True

    wait_for(is_gone, lambda: f"{scratch} to be removed; remove it by hand", timeout_s=LEAVE_S,
             longest_sleep_s=0.5, clock=time)


def _leave(scratch: Path, role: str) -> None:
    """The second says that it has let go of the folder, and the first removes it."""
    word = f"{ROLES[1]}.left"
    if role == ROLES[1]:
        (scratch / word).touch()
        return
    with suppress(WaitTimeout):
        wait_for(lambda: word in os.listdir(scratch) or None, lambda: word, timeout_s=LEAVE_S,
                 longest_sleep_s=0.5, clock=time)
    _remove(scratch)


def _take_part(scratch: Path, role: str, blank: Report, timeout_s: float) -> Report:
    """Be one of the two processes."""
    exchange = Exchange(scratch / "exchange", role, channels=CHANNELS, window=WINDOW,
                        handshake_timeout_s=timeout_s, progress_timeout_s=START_S)
    with exchange as link:
        storage = Storage(scratch / "trials")
        try:
            pair = Pair(link, storage)
            alone = pair.meet(asdict(blank))
            first = blank if pair.leads else _from_json(alone)
            found = replace(first, **_trials(pair, first.num_bytes))
            if pair.leads:
                found = replace(
                    found,
                    kinds=tuple(dict.fromkeys((*blank.kinds, *alone["kinds"]))),
                    automatic=min(blank.automatic, alone["automatic"], key=_CAREFUL.index),
                )
            told = pair.meet(asdict(judge(found)))
        finally:
            storage.shut()
    return judge(found) if role == ROLES[0] else _from_json(told)


def _from_json(raw: dict[str, Any]) -> Report:
    tuples = {name: tuple(raw[name]) for name in ("kinds", "faults", "notes")}
    return Report(**{**raw, **tuples})


def _trials(pair: Pair, num_bytes: int) -> dict[str, Any]:
    """All measurements, as fields of a report."""
    storage = pair.storage
    direct = Block(pair, "direct", fsync=True, direct=True)
    media: dict[str, Medium] = {
        IN_PLACE: Block(pair, "kept", fsync=False),
        DIRECT: direct,
        REOPENED: Block(pair, "reopened", fsync=True, reopen=True),
        REPLACED: Replaced(pair),
        NEW_NAME: NewName(pair),
    }
    accepts_direct = direct.is_direct
    return {
        "direct": accepts_direct,
        "seen": {name: observation_times(pair, medium) for name, medium in media.items()},
        "faults": (
            *_claim_fault(pair, "O_EXCL", lambda name: storage.create_exclusive(name, b"mine")),
            *_claim_fault(pair, "link", lambda name: storage.create_once(name, b"mine")),
            *_rename_fault(torn_reads(pair)),
        ),
        "locks": {"flock": lock_fault(pair, LOCAL), "lease": lock_fault(pair, NETWORK)},
        "messages": pair.messages(num_bytes),
    }


def _claim_fault(pair: Pair, what: str, create: Callable[[str], bool]) -> Iterator[str]:
    nobody, _, both = claims(pair, create, what)
    if nobody or both:
        yield (f"exclusive creation by {what} fails: of the names that both processes wanted, "
               f"both got {both} and nobody got {nobody}")


def _rename_fault(torn: int | None) -> Iterator[str]:
    if torn is None:
        yield "a file replaced by rename was not seen by the other process"
    elif torn:
        yield f"rename fails: a reader saw {torn} mixtures of an old and a new file"


def judge(found: Report) -> Report:
    """The report with its profile: the first whose status is seen in time and whose lock holds."""
    faults, notes = list(found.faults), []
    fast = {name: bool(times) and median(times) < SLOW_S for name, times in found.seen.items()}
    profile = ""
    if found.automatic == LOCAL.name and fast[IN_PLACE] and not found.locks["flock"]:
        profile = LOCAL.name
    elif not found.seen[DIRECT]:
        faults.append("a status rewritten in place was not seen by the other process")
    elif found.locks["lease"]:
        faults.append(f"two processes could take one role: {found.locks['lease']}")
    else:
        profile = NETWORK.name
        if not fast[DIRECT]:
            notes.append(f"slow: each message waits {_ms(found.seen[DIRECT])} until it is noticed")
    if faults:
        return replace(found, faults=tuple(faults), profile="")
    if profile != found.automatic:
        notes.append(f"its type alone would make it {found.automatic}: "
                     f"give --fs-profile {profile}")
    return replace(found, notes=tuple(notes), profile=profile)


def _sentence(folder: Path, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{folder} cannot be used: {error.strerror or error}"
    return str(error)


def _mb(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB"


def _ms(times: list[float]) -> str:
    return f"{1e3 * median(times):.0f} ms"
