"""Numbered arrays between processes that share nothing but a folder.  See README.md."""

from .errors import (
    ExchangeError,
    HandshakeMismatch,
    InvalidMessage,
    NonFinite,
    PeerFailed,
    PeerLost,
    PeerRestarted,
    PeerStopped,
    RoleTaken,
    RunOver,
    StorageError,
    WaitTimeout,
)
from .exchange import Exchange
from .lineage import Checkpoint, Start
from .observe import Observation, is_exchange, observe
from .patience import patiently
from .profile import Profile, detect
from .storage import Storage

__all__ = [
    "Checkpoint",
    "Exchange",
    "ExchangeError",
    "HandshakeMismatch",
    "InvalidMessage",
    "NonFinite",
    "Observation",
    "PeerFailed",
    "PeerLost",
    "PeerRestarted",
    "PeerStopped",
    "Profile",
    "RoleTaken",
    "RunOver",
    "Start",
    "Storage",
    "StorageError",
    "WaitTimeout",
    "detect",
    "is_exchange",
    "observe",
    "patiently",
]
