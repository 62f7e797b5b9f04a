"""Two roles that send each other numbers, in processes of their own."""

import numpy as np
from test_shared_fs_processes import Role

from shared_fs import Exchange

CHANNELS = {"x": ("net1", "net2"), "back": ("net2", "net1")}


def exchange(folder, role, **options):
    """With messages in files, unless told otherwise: those are what the disk can fail."""
    options = {"handshake_timeout_s": 60, "transport": "rename", **options}
    return Exchange(folder, role, channels=CHANNELS, **options)


def ping(say, folder, count, storage=None, **options):
    """As net1: send and receive `count` arrays that name their sequence, and check them."""
    made = {} if storage is None else {"storage": storage[0](folder, *storage[1:])}
    out = np.empty(256, np.float32)
    with exchange(folder, "net1", **made, **options) as mine:
        say("open")
        for sequence in range(count):
            mine.send("x", sequence, np.full(256, sequence, np.float32))
            mine.recv("back", sequence, out)
            assert (out == sequence).all()
    return made["storage"].seen if made else None


def pong(say, folder, count, storage=None, **options):
    """As net2: the other end of `ping`."""
    made = {} if storage is None else {"storage": storage[0](folder, *storage[1:])}
    out = np.empty(256, np.float32)
    with exchange(folder, "net2", **made, **options) as mine:
        say("open")
        for sequence in range(count):
            mine.recv("x", sequence, out)
            assert (out == sequence).all()
            mine.send("back", sequence, out)
    return made["storage"].seen if made else None


def both(folder, count, storage1=None, storage2=None, **options):
    """Run `ping` and `pong` to the end; what their storages have seen."""
    with (
        Role(with_storage, ping, folder, count, storage1, options) as first,
        Role(with_storage, pong, folder, count, storage2, options) as second,
    ):
        assert [first.hear(60), second.hear(60)] == ["open"] * 2
        return first.result(60), second.result(60)


def with_storage(say, function, folder, count, storage, options):
    """`ping` or `pong` with options, in a process of its own."""
    return function(say, folder, count, storage, **options)
