"""What the kind of file system under the exchange folder decides: waits, fsync, time limits."""

import os
from dataclasses import dataclass
from pathlib import Path

# Kinds whose clients all see a write at once: one kernel, or a distributed lock manager (Lustre).
LOCAL_KINDS = frozenset(
    {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "lustre", "overlay", "ramfs"}
    | {"reiserfs", "tmpfs", "xfs", "zfs"}
)


@dataclass(frozen=True)
class Profile:
    """The numbers that differ between one kernel's cache and the caches of several clients.

    name              "local" or "network"
    fsync_messages    fsync before a message is announced, to see a full disk in time
    direct_status     poll status past the client's cache; on a local disk that would force a
                      disk write per poll (measured: 62 us instead of 2 us), for nothing
    longest_sleep_s   longest single sleep of a wait, seconds
    latency_wait_s    how long an announced name may stay invisible, seconds
    peer_timeout_s    silence after which a peer is lost, seconds
    """

    name: str
    fsync_messages: bool
    direct_status: bool
    longest_sleep_s: float
    latency_wait_s: float
    peer_timeout_s: float


LOCAL = Profile("local", False, False, 0.001, 5.0, 120.0)
NETWORK = Profile("network", True, True, 0.05, 60.0, 300.0)


PROFILES = {profile.name: profile for profile in (LOCAL, NETWORK)}


def detect(path: Path, name: str = "auto") -> Profile:
    """The profile of the file system that holds `path`; NETWORK, the careful one, if unknown.

    name  "local" or "network" to say it instead, where `doctor` measured it
    """
    if name != "auto":
        return PROFILES[name]
    return LOCAL if kind_of(path) in LOCAL_KINDS else NETWORK


def kind_of(path: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> str:
    """The file system type of `path` ("ext4", "nfs4", "fuse.sshfs"), "unknown" if not found."""
    try:
        lines = mountinfo.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return "unknown"
    real = os.path.realpath(path)
    best, kind = "", "unknown"
    for line in lines:
        mount_point, mount_kind = _parse(line)
        # ">=": of two mounts on one point, the later line is the one on top.
        if _holds(mount_point, real) and len(mount_point) >= len(best):
            best, kind = mount_point, mount_kind
    return kind


def _parse(line: str) -> tuple[str, str]:
    """Mount point and type of one line: `36 35 98:0 / /mnt rw shared:1 - ext4 /dev/vda rw`."""
    left, _, right = line.partition(" - ")
    fields, kind = left.split(), right.split()
    if len(fields) < 5 or not kind:
        return "", "unknown"
    point = fields[4]
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        point = point.replace(code, character)
    return point, kind[0]


def _holds(mount_point: str, path: str) -> bool:
    return bool(mount_point) and (path + "/").startswith(mount_point.rstrip("/") + "/")
