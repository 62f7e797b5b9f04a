"""What one role brings to an exchange; see `Exchange` for what each setting means."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .lineage import Checkpoint


@dataclass(frozen=True)
class Settings:
    """The arguments of an `Exchange`, checked; `agreement` is the full one, as the peers see it."""

    role: str
    roles: tuple[str, ...]
    channels: Mapping[str, tuple[str, str]]
    agreement: Mapping[str, Any]
    window: int
    transport: str
    checksum: bool
    fsync: str
    fs_profile: str
    nonfinite: str
    home: str
    held: Callable[[], Sequence[Checkpoint]]
    message_bytes: Mapping[str, int]
    handshake_timeout_s: float
    peer_timeout_s: float | None
    progress_timeout_s: float
    storage_timeout_s: float
    final_barrier: bool

    @property
    def leads(self) -> bool:
        """Whether this role is the leader, which commits the generations."""
        return self.role == self.roles[0]
