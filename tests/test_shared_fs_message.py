"""A message is exactly what was sent, or it is refused before anything of it is used."""

import io
import pickle
import struct
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared_fs import InvalidMessage, message
from shared_fs.message import TRAILER_SIZE, Identity, decode, encode

IDENTITY = Identity(
    run="0123456789abcdef" * 2, generation=3, channel="pool2", sequence=412, incarnation="ab" * 16
)
NUMBERS = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    hnp.complex_number_dtypes(endianness="?"),
)


class MemorySource:
    """The bytes of a file, and how many of them were read."""

    def __init__(self, data):
        self.path, self.size, self._file = Path("net1/pool2.npy"), len(data), io.BytesIO(data)

    @property
    def read(self):
        return self._file.tell()

    def read_exactly(self, buffer):
        assert self._file.readinto(buffer) == len(buffer)


def joined(array, identity=IDENTITY):
    return b"".join(encode(array, identity))


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(NUMBERS, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)))
def test_what_is_decoded_is_what_was_encoded_and_numpy_agrees(array):
    data = joined(array)
    out = np.empty(array.shape, array.dtype.newbyteorder("="))
    assert decode(MemorySource(data), out, IDENTITY) is out
    np.testing.assert_array_equal(out, array)
    loaded = np.load(io.BytesIO(data), allow_pickle=False)
    np.testing.assert_array_equal(loaded, array)
    assert loaded.dtype == out.dtype


@pytest.mark.parametrize("make", [np.asfortranarray, lambda a: a[::2, ::-1], lambda a: a.T])
def test_any_memory_order_is_sent_in_c_order(make):
    array = make(np.arange(24.0).reshape(4, 6))
    out = np.empty(array.shape)
    np.testing.assert_array_equal(decode(MemorySource(joined(array)), out, IDENTITY), array)


def test_the_payload_is_not_copied():
    array = np.arange(10.0)
    payload = encode(array, IDENTITY)[1]
    assert np.shares_memory(np.frombuffer(payload, np.uint8), array)


def test_the_trailer_is_laid_out_as_the_readme_says():
    array = np.arange(6, dtype=np.float32)
    trailer = joined(array)[-104:]
    payload = array.astype("<f4").tobytes()
    fields = b"DNXMSG01" + struct.pack("<HH", 1, 0) + b"pool2".ljust(32, b"\0")
    fields += bytes.fromhex(IDENTITY.run) + bytes.fromhex(IDENTITY.incarnation)
    fields += struct.pack("<IQQI", 3, 412, 24, zlib.crc32(payload))
    assert trailer == fields + struct.pack("<I", zlib.crc32(fields))


@pytest.mark.parametrize("dtype", [object, "V8", "S4", "U4", "M8[s]", [("a", "f4")]])
@pytest.mark.security(1, "object, void, text and time arrays are sent")
def test_only_numbers_are_sent(dtype):
    with pytest.raises(TypeError, match="pool2: cannot send dtype"):
        encode(np.zeros(2, dtype), IDENTITY)


@pytest.mark.parametrize(
    "change",
    [
        {"run": "f" * 32},
        {"generation": 4},
        {"channel": "conv3p"},
        {"sequence": 411},
        {"incarnation": "cd" * 16},
    ],
)
@pytest.mark.fault(50, "each field of the identity changed")
def test_a_message_of_any_other_identity_is_refused_and_both_are_named(change):
    array = np.zeros(3)
    (value,) = change.values()
    with pytest.raises(InvalidMessage, match=f"sequence=412.*found .*{value}"):
        decode(MemorySource(joined(array, replace(IDENTITY, **change))), array, IDENTITY)


@pytest.mark.fault(45, "each bit of a message flipped")
def test_every_single_flipped_bit_is_noticed():
    array = np.arange(8, dtype=np.float32)
    data = joined(array)
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        out = np.empty_like(array)
        # A space of the header's padding that became another is the one harmless flip.
        try:
            decode(MemorySource(bytes(flipped)), out, IDENTITY)
        except InvalidMessage:
            continue
        assert bit // 8 < len(data) - array.nbytes - TRAILER_SIZE
        np.testing.assert_array_equal(out, array)


@pytest.mark.fault(44, "a message cut at each byte")
def test_every_truncation_and_every_extra_byte_is_refused():
    array = np.arange(8, dtype=np.float32)
    data = joined(array)
    for wrong in [data[:n] for n in range(len(data))] + [data + b"\0"]:
        with pytest.raises(InvalidMessage):
            decode(MemorySource(wrong), np.empty_like(array), IDENTITY)


def crafted(header, payload=bytes(32)):
    """A file that numpy might read, with a sound trailer and any header text."""
    text = header.encode("latin-1")
    start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text
    return start + payload + joined(np.zeros(8, np.float32))[-TRAILER_SIZE:]


def fields(descr="'<f4'", fortran="False", shape="(8,)"):
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}}}\n"


@pytest.mark.parametrize(
    "data",
    [
        crafted(fields(shape="(2, 4)")),
        crafted(fields(shape="(10**15,)")),
        crafted(fields(shape="(1000000000000000,)")),
        crafted(fields(shape="(-8,)")),
        crafted(fields(shape="(True, 8)")),
        crafted(fields(shape="8")),
        crafted(fields(descr="'>f4'")),
        crafted(fields(descr="'<i4'")),
        crafted(fields(descr="'|O'")),
        crafted(fields(descr="'|V0'")),
        crafted(fields(fortran="True", shape="(2, 4)")),
        crafted("(" * 400),
        crafted("{" * 500),
        crafted("\0" * 100),
        crafted("'" * 99),
        crafted(fields() + " " * 600),
        b"\x93NUMPY\x02\x00" + crafted(fields())[8:],
        pickle.dumps(np.zeros(8, np.float32)).ljust(200, b"."),
        b"PK\x03\x04".ljust(200, b"\0"),
        b"",
    ],
    ids=lambda data: repr(bytes(data[10:60])),
)
@pytest.mark.fault(46, "crafted pickle, zip and object headers")
@pytest.mark.fault(47, "crafted headers, memory traced")
@pytest.mark.fault(48, "crafted byte order, memory order, dtype")
@pytest.mark.security(3, "crafted headers, memory traced")
def test_a_crafted_header_is_refused_and_allocates_nothing(data):
    out = np.zeros(8, np.float32)
    decode(MemorySource(joined(out)), out, IDENTITY)  # fills the caches
    tracemalloc.start()
    try:
        with pytest.raises(InvalidMessage):
            decode(MemorySource(data), out, IDENTITY)
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


def test_a_plain_header_in_other_words_is_accepted():
    data = crafted("{'shape': (8,), 'fortran_order': False, 'descr': '<f4'}\n")
    out = np.ones(8, np.float32)
    decode(MemorySource(data), out, IDENTITY)
    np.testing.assert_array_equal(out, np.zeros(8))


def test_a_file_of_the_wrong_size_is_refused_before_it_is_read():
    source = MemorySource(joined(np.zeros(1000)))
    with pytest.raises(InvalidMessage, match="bytes for <f8"):
        decode(source, np.zeros(8), IDENTITY)
    assert source.read == 0


@pytest.mark.parametrize(
    "out", [np.zeros((4, 4))[:, ::2], np.zeros(8, ">f8"), np.broadcast_to(np.zeros(1), 8)]
)
def test_an_out_that_cannot_be_read_into_is_refused(out):
    with pytest.raises(ValueError, match="out must be"):
        decode(MemorySource(joined(np.zeros(8))), out, IDENTITY)


def test_a_long_message_is_shown_stretch_by_stretch_whole_and_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(message, "STRETCH", 100)
    array = np.arange(60, dtype=np.float64).reshape(3, 20)
    memory = memoryview(bytearray(message.encoded_size(array)))
    message.encode_into(memory, array, IDENTITY, checksum=False)
    seen, out = [], np.empty_like(array)
    message.decode_from(tmp_path, memory, out, IDENTITY, lambda part: seen.append(part.copy()))
    np.testing.assert_array_equal(out, array)
    assert [len(part) for part in seen] == [12] * 5     # of 8 bytes each
    np.testing.assert_array_equal(np.concatenate(seen), array.ravel())
