"""Fingerprints: what a figure was drawn from, kept in the file of the figure."""

import hashlib
import json
import struct
import zlib
from pathlib import Path
from typing import Any

KEYWORD = "Fingerprint"
PNG = b"\x89PNG\r\n\x1a\n"


def fingerprint(content: Any) -> str:
    """Sixteen hex digits that name `content`, anything that JSON can hold.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1})
    True
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def metadata(content: Any) -> dict[str, str]:
    """What matplotlib's `savefig` is to write into a PNG that is drawn from `content`."""
    return {KEYWORD: fingerprint(content)}


def of_png(path: Path) -> str | None:
    """The fingerprint in a PNG; None if there is no file, or none in it, or it is damaged.

    A tEXt chunk (PNG specification, third edition, section 11.3.3.3): length, b"tEXt", keyword, a
    zero byte, text, and the checksum of all but the length.
    """
    data = path.read_bytes() if path.is_file() else b""
    if not data.startswith(PNG):
        return None
    at, found, kind = len(PNG), None, b""
    while at + 12 <= len(data) and kind != b"IEND":
        size, = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4:at + 8], data[at + 8:at + 8 + size]
        checksum = data[at + 8 + size:at + 12 + size]
        if checksum != struct.pack(">I", zlib.crc32(kind + body)):
            return None
        keyword, _, text = body.partition(b"\0")
        if kind == b"tEXt" and keyword == KEYWORD.encode():
            found = text.decode("latin-1")
        at += 12 + size
    return found if kind == b"IEND" else None
