"""What the makers of a data set publish: address, checksum and size of each of their files."""

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

_BLOCK = 2**20  # bytes


@dataclass(frozen=True)
class OfficialFile:
    """One file to download.

    path      where it goes, relative to the folder of the data sets
    url       official address
    md5       of the file, or of its content if it is `gzipped`: packing it again changes the file
    size      bytes
    gzipped   whether `md5` is that of the unpacked content
    members   files to unpack from the archive, relative to the folder of the data sets; none if
              the file is used as it is
    """

    path: str
    url: str
    md5: str
    size: int
    gzipped: bool = False
    members: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return self.path.rpartition("/")[2]


def md5_of(path: Path, *, gzipped: bool = False, max_bytes: int = 2**31) -> str | None:
    """MD5 of a file, or of what it unpacks to; None if it cannot be read or is larger than that."""
    digest, left = hashlib.md5(usedforsecurity=False), max_bytes
    try:
        with (gzip.open if gzipped else open)(path, "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                left -= len(block)
                if left < 0:
                    return None
    except (OSError, EOFError, zlib.error):
        return None
    return digest.hexdigest()
