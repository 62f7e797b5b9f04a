"""The JSON files of the handshake: hello per role, generation, RUN.json; read with care."""

import errno
import hashlib
import json
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import filelock
import numpy as np

from .errors import InvalidMessage
from .lineage import Checkpoint
from .peer_text import parse_object
from .process import Process
from .storage import Storage

PROTOCOL = 3
_GENERATION = re.compile(r"([0-9]{8})\.json")
HELLO_LIMIT = 64 * 1024  # bytes
RECORD_LIMIT = 256 * 1024


@dataclass(frozen=True)
class Hello:
    """What a role says on arrival.

    answers      role -> the incarnation of it that I have seen
    committed    number of the generation I committed as the leader or, where no folder keeps the
                 numbers, the newest that I took part in; 0 before
    profile      "local" or "network": what it takes the file system for
    home         names where this role keeps its checkpoints, "" if it keeps none
    checkpoints  what I can start from
    """

    role: str
    incarnation: str
    process: Process
    agreement: dict[str, Any]
    agreement_sha256: str
    answers: dict[str, str] = field(default_factory=dict)
    committed: int = 0
    protocol: int = PROTOCOL
    versions: dict[str, str] = field(default_factory=dict)
    profile: str = "network"
    home: str = ""
    checkpoints: tuple[Checkpoint, ...] = ()

    @classmethod
    def of(
        cls,
        role: str,
        incarnation: str,
        process: Process,
        agreement: Mapping[str, Any],
        **beliefs: Any,
    ) -> "Hello":
        """The first hello of a role, which answers nobody yet; `beliefs` are its other fields."""
        versions = {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "filelock": filelock.__version__,
        }
        digest = hashlib.sha256(canonical(agreement)).hexdigest()
        return cls(
            role, incarnation, process, dict(agreement), digest, versions=versions, **beliefs
        )


@dataclass(frozen=True)
class Generation:
    """One agreed start: from which generation's checkpoint (base, start_step), and who takes part.

    A message or status of any other incarnation does not belong to it.  homes: role -> where it
    keeps its checkpoints, agreements: role -> sha256 of its settings; who begins anew must bring
    the same.
    """

    generation: int
    base: int
    start_step: int
    run: str
    incarnations: dict[str, str]
    homes: dict[str, str]
    agreements: dict[str, str]

    @property
    def folder(self) -> str:
        """The folder of its messages: "g00000001"."""
        return f"g{self.generation:08d}"


def canonical(value: Any) -> bytes:
    """The one JSON text of a value.

    Raises ValueError or TypeError if it is not JSON-able (NaN and infinity are not).
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def write_hello(storage: Storage, hello: Hello) -> None:
    """Publish my hello.  Raises ValueError if the agreement makes it longer than 64 KiB."""
    storage.publish_durable(_hello_name(hello.role), hello_text(hello))


def hello_text(hello: Hello) -> bytes:
    """What the peers read.  Raises ValueError if the agreement makes it longer than 64 KiB."""
    text = _pretty(asdict(hello))
    if len(text) > HELLO_LIMIT:
        raise ValueError(f"hello of {len(text)} bytes, at most {HELLO_LIMIT}: agree on less")
    return text


def read_hellos(storage: Storage, roles: Iterable[str]) -> dict[str, Hello]:
    """The hellos that are there, by role; listed first, as a missed look-up may be cached."""
    present = set(storage.listing("hello"))
    hellos = {}
    for role in roles:
        if f"{role}.json" in present:
            hello = read_hello(storage, role)
            if hello is not None:
                hellos[role] = hello
    return hellos


def read_hello(storage: Storage, role: str) -> Hello | None:
    """The hello of a role, None if it is absent or unreadable (its owner may yet replace it)."""
    return parse_hello(_read(storage, _hello_name(role), HELLO_LIMIT), role)


def parse_hello(text: bytes | None, role: str) -> Hello | None:
    """The hello of a role from its text, None if there is none or it is no such hello."""
    raw = _parse(text)
    try:
        checkpoints = tuple(Checkpoint(**held) for held in raw["checkpoints"])
        process = Process(**raw["process"])
        # A newer protocol may say more; its number must be readable, to be named in the refusal.
        known = {name: raw[name] for name in raw.keys() & Hello.__dataclass_fields__.keys()}
        hello = Hello(**{**known, "process": process, "checkpoints": checkpoints})
    except (TypeError, KeyError):
        return None
    return hello if _is_sound(hello) and hello.role == role else None


def still_mine(storage: Storage, role: str, incarnation: str) -> bool:
    """Whether the hello of my role is still the one of `incarnation`; cheap, as it is asked often.

    Raises StorageError if it is gone, for then so is the folder.
    """
    hello = storage.read_small(_hello_name(role), HELLO_LIMIT)
    if hello is None:
        with storage.explaining("find", _hello_name(role)):
            raise FileNotFoundError(errno.ENOENT, "it was there and is gone")
    # The incarnations of other roles are in `answers`; mine can only be my own.
    return incarnation.encode("ascii") in hello


def generation_name(number: int) -> str:
    """The name of a generation record in the exchange folder."""
    return f"gen/{number:08d}.json"


def commit(storage: Storage, generation: Generation) -> bool:
    """Commit a generation by put-if-absent; False if that number is already committed."""
    name = generation_name(generation.generation)
    return storage.create_once(name, generation_text(generation))


def read_generation(storage: Storage, number: int) -> Generation | None:
    """A committed generation, None if it is not (or not wholly) visible yet."""
    generation = parse_generation(_read(storage, generation_name(number), RECORD_LIMIT))
    return generation if generation and generation.generation == number else None


def generation_text(generation: Generation) -> bytes:
    """What the other roles read."""
    return _pretty(asdict(generation))


def parse_generation(text: bytes | None) -> Generation | None:
    """A generation from its text, None if there is none or it is no such record."""
    try:
        generation = Generation(**_parse(text))
    except TypeError:
        return None
    numbers = (generation.generation, generation.base, generation.start_step)
    sound = (
        all(type(value) is int for value in numbers)
        and isinstance(generation.run, str)
        and all(
            isinstance(by_role, dict)
            for by_role in (generation.incarnations, generation.homes, generation.agreements)
        )
    )
    return generation if sound else None


def committed_numbers(storage: Storage) -> list[int]:
    """The numbers of all generations that were ever committed here, oldest first."""
    found = (_GENERATION.fullmatch(name) for name in storage.listing("gen"))
    return sorted(int(match[1]) for match in found if match)


def newest_generation(storage: Storage) -> Generation | None:
    """The newest committed generation that can be read, None if there is none."""
    for number in reversed(committed_numbers(storage)):
        if (generation := read_generation(storage, number)) is not None:
            return generation
    return None


def write_run(storage: Storage, generation: Generation, leader: Hello) -> None:
    """RUN.json: what this folder is, for people and monitors."""
    run = {"run": generation.run, "protocol": PROTOCOL, "agreement": leader.agreement}
    run["versions"] = leader.versions
    run["roles"], run["channels"] = leader.agreement["roles"], leader.agreement["channels"]
    storage.create_once("RUN.json", _pretty(run))


def read_run(storage: Storage) -> dict[str, Any]:
    """What RUN.json says; empty before a generation was committed."""
    return _parse(_read(storage, "RUN.json", RECORD_LIMIT))


def _hello_name(role: str) -> str:
    return f"hello/{role}.json"


def _pretty(value: Any) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode("ascii") + b"\n"


def _read(storage: Storage, name: str, limit: int) -> bytes | None:
    """The bytes of a file; None if it is absent, irregular or too long."""
    try:
        return storage.read_small(name, limit)
    except InvalidMessage:
        return None


def _parse(text: bytes | None) -> dict[str, Any]:
    """A JSON object; empty if there is no text, or it is damaged."""
    try:
        return parse_object(text or b"{}")
    except (InvalidMessage, ValueError):
        return {}


def _is_sound(hello: Hello) -> bool:
    """Whether the fields that decide anything are of their kind."""
    process = hello.process
    texts = (hello.role, hello.incarnation, process.host, process.boot_id, process.start_token)
    return (
        all(isinstance(text, str) for text in texts)
        and type(process.pid) is int
        and type(hello.committed) is int
        and isinstance(hello.answers, dict)
        and isinstance(hello.agreement, dict)
        and isinstance(hello.home, str)
        and isinstance(hello.versions, dict)
        and isinstance(hello.profile, str)
        and all(type(n) is int for c in hello.checkpoints for n in (c.generation, c.step))
        and all(isinstance(c.run, str) for c in hello.checkpoints)
    )
