"""Checkpoints of one role: what training goes on from after a kill at any instant.

    gen00000003-step00000400.pt      the state, as torch.save writes it
    gen00000003-step00000400.json    the commit marker: SHA-256 of the state, settings, run, time

The state is written first and the marker afterwards, each whole and synced, so a kill leaves the
old checkpoint or the new one and at worst a state without a marker, which is swept.  Weights,
momentum, dual variables and the penalty are in the state.  No generator is: order, augmentation
and dropout are pure functions of (seed, step), so the number of iterations stands for them.
"""

import hashlib
import io
import json
import logging
import os
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dualnet.errors import DataError, UserError, WrongSettings
from shared_fs import Checkpoint, Storage, patiently

log = logging.getLogger("dualnet")

NAME = re.compile(r"gen(\d{8})-step(\d{8})\.(pt|json)")
RETRY_S = 60.0


@dataclass(frozen=True)
class Spent:
    """What training has taken so far: seconds, those of them spent waiting, bytes sent."""

    wall_s: float = 0.0
    wait_s: float = 0.0
    bytes_sent: int = 0


@dataclass(frozen=True)
class Marker:
    """The content of the commit marker.

    settings  digest of the settings and data that all roles agree on
    versions  of the packages that wrote the state, by name
    """

    run: str
    generation: int
    step: int
    sha256: str
    settings: str
    spent: Spent
    versions: Mapping[str, str]

    @property
    def checkpoint(self) -> Checkpoint:
        """Its identity."""
        return Checkpoint(self.run, self.generation, self.step)


class Checkpoints:
    """The checkpoints of one role, in a folder of its own that no other process writes to.

    settings  digest of the settings and data; None to read those of any settings
    retry_s   seconds to try again while the disk is full or out of order
    Reading leaves the folder as it is; the folder is made when something is written.
    """

    def __init__(self, folder: Path, settings: str | None = None, *,
                 versions: Mapping[str, str] | None = None, storage: Storage | None = None,
                 retry_s: float = RETRY_S) -> None:
        self.folder = folder
        self._settings, self._versions = settings, dict(versions or {})
        self._injected = storage
        self._retry_s = retry_s
        self._told: set[str] = set()

    @cached_property
    def _storage(self) -> Storage:
        """The way to write.  Raises StorageError if the folder cannot be used."""
        return self._injected or Storage(self.folder)

    # -- writing -------------------------------------------------------------------------------

    def save(self, checkpoint: Checkpoint, state: Mapping[str, Any], spent: Spent) -> None:
        """Write `state` so that it survives a kill, and a power loss, from now on.

        Raises StorageError if the disk refuses it for as long as is tried again.
        """
        import torch

        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        data = buffer.getbuffer()
        marker = Marker(checkpoint.run, checkpoint.generation, checkpoint.step,
                        hashlib.sha256(data).hexdigest(), self._settings or "", spent,
                        self._versions)
        name = _name(checkpoint)
        text = json.dumps(asdict(marker), indent=1).encode() + b"\n"
        # An older state under this name must not be taken for the one its marker speaks of.
        self._storage.remove(f"{name}.json")
        self._patiently(lambda: self._publish(f"{name}.pt", data))
        self._patiently(lambda: self._storage.publish_durable(f"{name}.json", text))

    def _patiently(self, write: Callable[[], None]) -> None:
        patiently(write, patience_s=self._retry_s, clock=self._storage)

    def _publish(self, name: str, data: memoryview) -> None:
        self._storage.publish(name, [data], fsync=True)
        self._storage.sync_folder(".")

    def remove_older(self, kept: Checkpoint) -> None:
        """Remove the checkpoints older than `kept`, and those of other runs."""
        for name, (generation, step) in self._names().items():
            marker = self._marker(name)
            foreign = marker is not None and marker.run != kept.run
            if foreign or (generation, step) < (kept.generation, kept.step):
                self._storage.remove(f"{name}.json")    # first, as no marker may lack its state
                self._storage.remove(f"{name}.pt")

    def sweep(self) -> None:
        """Remove what kills have left: states without a marker, and parts of files."""
        if not self.folder.is_dir():
            return
        for name in self._names():
            if not (self.folder / f"{name}.json").exists():
                self._storage.remove(f"{name}.pt")
        for path in self.folder.glob(".gen*.part"):
            self._storage.remove(path.name)

    # -- reading -------------------------------------------------------------------------------

    def held(self, run: str | None = None) -> list[Checkpoint]:
        """The sound checkpoints, the oldest first; those of `run` if it is given.

        A damaged one is left out, with one warning.  Raises WrongSettings for one that was
        written with other settings or other data.
        """
        markers = [marker for name in sorted(self._names())
                   if (marker := self._sound(name)) is not None]
        return [marker.checkpoint for marker in markers if run in (None, marker.run)]

    def listed(self, run: str) -> list[Checkpoint]:
        """The checkpoints of `run` that have a marker, the oldest first; their states unread."""
        markers = map(self._marker, sorted(self._names()))
        return [marker.checkpoint for marker in markers
                if marker is not None and marker.run == run]

    def load(self, checkpoint: Checkpoint) -> tuple[dict[str, Any], Spent]:
        """The state, its tensors on the CPU, and what it took to get there.

        Raises DataError if it is missing or damaged, WrongSettings.
        """
        import torch

        name = _name(checkpoint)
        marker = self._sound(name)
        if marker is None or marker.checkpoint != checkpoint:
            raise DataError(f"{self.folder / name}.pt is missing or damaged; run the same command "
                            "again to go on from an older checkpoint")
        try:
            state: dict[str, Any] = torch.load(io.BytesIO(self._state(name)), map_location="cpu",
                                               weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise DataError(f"{self.folder / name}.pt holds no state of a net ({error})") from None
        return state, marker.spent

    def newest(self) -> Checkpoint:
        """The sound checkpoint that was written last.  Raises UserError if there is none."""
        held = self.held()
        if not held:
            raise UserError(f"there is no checkpoint in {self.folder}: the run has not begun, or "
                            "its weights were removed")
        return held[-1]

    def _names(self) -> dict[str, tuple[int, int]]:
        """Generation and iteration of all that is here, sound or not, by name without suffix."""
        names = os.listdir(self.folder) if self.folder.is_dir() else []
        matches = filter(None, map(NAME.fullmatch, names))
        return {match[0].rpartition(".")[0]: (int(match[1]), int(match[2])) for match in matches}

    def _sound(self, name: str) -> Marker | None:
        marker = self._marker(name)
        if marker is None:
            self._warn_once(name, "has no marker that can be read")
            return None
        if self._settings is not None and marker.settings != self._settings:
            raise WrongSettings(
                f"{self.folder / name}.pt was written with settings or data {marker.settings}, but "
                f"these are {self._settings}; give the settings and data of that run, or another "
                "folder with --out")
        if hashlib.sha256(self._state(name)).hexdigest() != marker.sha256:
            self._warn_once(name, "is damaged: its SHA-256 is not that of its marker")
            return None
        return marker

    def _warn_once(self, name: str, why: str) -> None:
        if name not in self._told:
            self._told.add(name)
            log.warning("%s.pt %s; an older checkpoint is used", self.folder / name, why)

    def _marker(self, name: str) -> Marker | None:
        try:
            raw = json.loads((self.folder / f"{name}.json").read_bytes())
            marker = Marker(**{**raw, "spent": Spent(**raw["spent"])})
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None
        return marker if _name(marker.checkpoint) == name else None

    def _state(self, name: str) -> bytes:
        try:
            return (self.folder / f"{name}.pt").read_bytes()
        except OSError as error:    # no state has this digest, so it will count as damaged
            log.debug("cannot read %s.pt: %s", name, error)
            return b""


def _name(checkpoint: Checkpoint) -> str:
    return f"gen{checkpoint.generation:08d}-step{checkpoint.step:08d}"
