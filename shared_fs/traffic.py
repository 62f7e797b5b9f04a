"""What one role has sent and received over all its generations, and where its time went."""

import logging
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger("shared_fs")

# From when on, and above which share of the time, a slow file system is worth a warning.
SLOW_AFTER_S = 60.0
SLOW_SHARE = 0.5


@dataclass
class Traffic:
    """Seconds in waits and in reading and writing files, and bytes of payload."""

    wait_s: float = 0.0
    storage_s: float = 0.0
    bytes_sent: int = 0
    bytes_received: int = 0
    _first: float | None = None
    _told: bool = False

    def note_storage(self, began: float, ended: float, folder: Path) -> None:
        """Count the time of one message; warn, once, if files take most of all the time."""
        first = self._first = began if self._first is None else self._first
        self.storage_s += ended - began
        passed = ended - first
        if self._told or passed < SLOW_AFTER_S or self.storage_s < SLOW_SHARE * passed:
            return
        self._told = True
        log.warning(
            "%s: reading and writing files takes %.0f %% of the time; an exchange folder on a "
            "local disk or in memory is faster", folder, 100 * self.storage_s / passed,
        )
