"""A message: a valid .npy file (version 1.0) and a fixed trailer that says whose it is.

    | magic, header | payload: prod(shape) * itemsize bytes | trailer: 104 bytes |

It is a file of its own, or it lies at the beginning of a larger one that is mapped (slots.py).

`numpy.load` ignores what follows the payload, so people can open a message with it; this package
never does.  It trusts nothing but the shape, dtype and identity that it expects.
"""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.lib import format as npy

from .errors import InvalidMessage

MAGIC = b"DNXMSG01"
TRAILER_VERSION = 1
STRETCH = 2**21  # bytes that are copied at a time, few enough to stay in the processor's cache
LONGEST_HEADER = 512  # bytes of .npy header text; numpy writes 118 for up to about 20 axes

# magic, version, flags, channel, run, incarnation, generation, sequence, payload bytes and crc;
# then the crc of all that.
_FIELDS = struct.Struct("<8sHH32s16s16sIQQI")
_SAME = struct.Struct("<8sHH32s16s16sI")  # what all messages of a channel have in common,
_OWN = struct.Struct("<QQI")  # and what each has of its own
_CRC = struct.Struct("<I")
_PREFIX = struct.Struct("<6sBBH")  # of .npy: magic, major, minor, header length
TRAILER_SIZE = _FIELDS.size + _CRC.size
NO_CHECKSUM = 1  # a flag: the payload was in memory all the way, its crc32 was not computed

_KINDS = "biufc"  # bool, signed, unsigned, float, complex: fixed size and no pointers

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Identity:
    """Who sent a message, and which of its messages it is.

    run and incarnation are 32 hex digits; sequence counts within the channel and generation.
    """

    run: str
    generation: int
    channel: str
    sequence: int
    incarnation: str


class Source(Protocol):
    """An open file: where it is, how long it is, and its next bytes."""

    path: Path
    size: int

    def read_exactly(self, buffer: memoryview, /) -> None: ...


def encode(array: Array, identity: Identity) -> list[bytes | memoryview]:
    """The buffers of a message, to be written one after the other; the payload is not copied.

    An array that is not C-ordered or not little endian is copied once.
    Raises TypeError for a dtype that is not bool, integer, float or complex.
    """
    _check_kind(array, identity)
    array = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    payload = _as_bytes(array)
    return [_header(array.shape, array.dtype), payload, _trailer(payload, identity)]


def encoded_size(array: Array) -> int:
    """Bytes of the message that carries `array`."""
    return len(_header(array.shape, array.dtype)) + array.nbytes + TRAILER_SIZE


def encode_into(memory: memoryview, array: Array, identity: Identity, *, checksum: bool) -> None:
    """Write a message to the beginning of `memory`, which is large enough; one copy, no other.

    Raises TypeError for a dtype that is not bool, integer, float or complex.
    """
    _check_kind(array, identity)
    header = _header(array.shape, array.dtype)
    start, end = len(header), len(header) + array.nbytes
    memory[:start] = header
    payload = memory[start:end]
    np.copyto(np.frombuffer(payload, array.dtype.newbyteorder("<")).reshape(array.shape), array)
    memory[end : end + TRAILER_SIZE] = _trailer(payload, identity, checksum=checksum)


def decode(source: Source, out: Array, expected: Identity) -> Array:
    """Read a message into `out` and return it, if it is exactly the expected one.

    out  C-ordered, writeable, little endian; its shape and dtype are what the file must hold.
    The size and the header are checked before one byte of the payload is read, and nothing is
    allocated from what the file claims.

    Raises InvalidMessage if anything differs; `out` is then unspecified.
    Raises ValueError if `out` cannot be read into.
    """
    _check_out(out, expected)
    _check_header(source, out)
    payload = _as_bytes(out)
    trailer = bytearray(TRAILER_SIZE)
    source.read_exactly(payload)
    source.read_exactly(memoryview(trailer))
    _check_trailer(source.path, bytes(trailer), payload, expected)
    return out


def decode_from(
    path: Path,
    memory: memoryview,
    out: Array,
    expected: Identity,
    look: Callable[[Array], None] = lambda part: None,
) -> Array:
    """`decode` from memory that holds the message at its beginning; one copy, no other.

    A message without a checksum is accepted.

    path  what the memory is, for messages
    look  called with each stretch of `out`, flat, while it is in the processor's cache
    """
    _check_out(out, expected)
    header = _header(out.shape, out.dtype)
    start, end = len(header), len(header) + out.nbytes
    if len(memory) < end + TRAILER_SIZE:
        raise _invalid(path, f"{end + TRAILER_SIZE} bytes for {_kind(out)}", len(memory))
    if memory[:start] != header:
        raise _invalid(path, f"the header of {_kind(out)}", bytes(memory[:start]))
    flat, stretch = out.reshape(-1), STRETCH // out.itemsize
    for first in range(0, len(flat), stretch):
        part, at = flat[first : first + stretch], start + first * out.itemsize
        _as_bytes(part)[:] = memory[at : at + part.nbytes]
        look(part)
    payload, trailer = _as_bytes(out), bytes(memory[end : end + TRAILER_SIZE])
    if trailer != _trailer(payload, expected, checksum=False):  # what differs is said below
        _check_trailer(path, trailer, payload, expected, allowed_flags=(0, NO_CHECKSUM))
    return out


def _check_kind(array: Array, identity: Identity) -> None:
    if array.dtype.kind not in _KINDS:
        raise TypeError(f"{identity.channel}: cannot send dtype {array.dtype}, only numbers")


def _check_out(out: Array, expected: Identity) -> None:
    if not (out.flags.c_contiguous and out.flags.writeable and out.dtype.isnative):
        raise ValueError(f"{expected.channel}: out must be C-ordered, writeable and native")


def _as_bytes(array: Array) -> memoryview:
    """The memory of a C-ordered array; by way of uint8, as memoryview cannot cast empty ones."""
    return array.reshape(-1).view(np.uint8).data


@lru_cache(maxsize=256)
def _header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    text = io.BytesIO()
    descr = npy.dtype_to_descr(dtype.newbyteorder("<"))
    fields = {"descr": descr, "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(text, fields)
    return text.getvalue()


def _trailer(payload: memoryview, identity: Identity, *, checksum: bool = True) -> bytes:
    same, crc = _same_fields(identity.run, identity.generation, identity.channel,
                             identity.incarnation, 0 if checksum else NO_CHECKSUM)
    own = _OWN.pack(identity.sequence, len(payload), zlib.crc32(payload) if checksum else 0)
    return same + own + _CRC.pack(zlib.crc32(own, crc))


@lru_cache(maxsize=256)
def _same_fields(run: str, generation: int, channel: str, incarnation: str,
                 flags: int) -> tuple[bytes, int]:
    """The beginning of a trailer, and the crc32 of it; kept, as it is half of a small message."""
    same = _SAME.pack(MAGIC, TRAILER_VERSION, flags, channel.encode("ascii"), bytes.fromhex(run),
                      bytes.fromhex(incarnation), generation)
    return same, zlib.crc32(same)


def _check_header(source: Source, out: Array) -> None:
    """Check the exact file size, then the .npy header, against the shape and dtype of `out`."""
    smallest = _PREFIX.size + out.nbytes + TRAILER_SIZE
    if not smallest <= source.size <= smallest + LONGEST_HEADER:
        raise _invalid(source.path, f"about {smallest} bytes for {_kind(out)}", source.size)
    prefix = bytearray(_PREFIX.size)
    source.read_exactly(memoryview(prefix))
    magic, major, minor, length = _PREFIX.unpack(prefix)
    if (magic, major, minor) != (npy.MAGIC_PREFIX, 1, 0):
        raise _invalid(source.path, "a .npy file of version 1.0", bytes(prefix[:8]))
    if source.size != smallest + length:
        raise _invalid(source.path, f"{smallest + length} bytes for {_kind(out)}", source.size)
    text = bytearray(length)
    source.read_exactly(memoryview(text))
    header = bytes(prefix + text)
    # Parsing costs 30 us; our own numpy writes the same bytes for the same shape and dtype.
    if header != _header(out.shape, out.dtype):
        _check_parsed(source.path, header, out)


def _check_parsed(path: Path, header: bytes, out: Array) -> None:
    text = io.BytesIO(header[npy.MAGIC_LEN :])
    try:
        shape, fortran, dtype = npy.read_array_header_1_0(text, max_header_size=LONGEST_HEADER)
    except Exception as error:  # numpy's parser raises at least six kinds
        raise _invalid(path, "a readable .npy header", error) from error
    same = (shape, fortran, dtype.str) == (out.shape, False, out.dtype.newbyteorder("<").str)
    if not same:
        order = " in Fortran order" if fortran else ""
        raise _invalid(path, _kind(out), f"{dtype.str} {list(shape)}{order}")


def _check_trailer(
    path: Path,
    trailer: bytes,
    payload: memoryview,
    expected: Identity,
    allowed_flags: tuple[int, ...] = (0,),
) -> None:
    fields = trailer[: _FIELDS.size]
    (crc,) = _CRC.unpack(trailer[_FIELDS.size :])
    magic, version, flags, channel, run, incarnation, generation, sequence, length, payload_crc = (
        _FIELDS.unpack(fields)
    )
    if magic != MAGIC or crc != zlib.crc32(fields):
        raise _invalid(path, "an intact trailer", "a damaged one")
    if version != TRAILER_VERSION or flags not in allowed_flags:
        wanted = f"trailer version {TRAILER_VERSION}, flags {' or '.join(map(str, allowed_flags))}"
        raise _invalid(path, wanted, (version, flags))
    found = Identity(
        run.hex(),
        generation,
        channel.rstrip(b"\0").decode("ascii", "replace"),
        sequence,
        incarnation.hex(),
    )
    if found != expected:
        raise _invalid(path, expected, found)
    if length != len(payload):
        raise _invalid(path, f"a payload of {len(payload)} bytes", length)
    if not flags & NO_CHECKSUM and payload_crc != zlib.crc32(payload):
        raise _invalid(path, f"payload crc32 {payload_crc:08x}", f"{zlib.crc32(payload):08x}")


def _kind(array: Array) -> str:
    return f"{array.dtype.newbyteorder('<').str} {list(array.shape)}"


def _invalid(path: Path, expected: object, found: object) -> InvalidMessage:
    return InvalidMessage(
        f"{path}: expected {expected}, found {found}; "
        "look for what else writes there, and start again in a fresh folder"
    )
