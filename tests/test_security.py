"""What another user, or a damaged or hostile peer, must not achieve; the rows of SECURITY."""

import ast
import dataclasses
import json
import os
import re
import stat
import threading
import tomllib
from pathlib import Path

import numpy as np
import pytest
from test_shared_fs_processes import Role

from dualnet import bootstrap
from dualnet.cli import main
from shared_fs import (
    Exchange,
    HandshakeMismatch,
    InvalidMessage,
    PeerFailed,
    RoleTaken,
    Storage,
    StorageError,
    WaitTimeout,
    membership,
    message,
    process,
    records,
)
from shared_fs.peer_text import DEEPEST, parse_object, printable
from shared_fs.profile import LOCAL, NETWORK
from shared_fs.status import StatusReader, read_status

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(path for name in ("dualnet", "shared_fs", "legacy_caffe")
                 for path in (ROOT / name).rglob("*.py"))
# Each has an unpickler that looks no name up but those of an array of bytes.
RESTRICTED = {ROOT / "dualnet" / "data" / "pickled.py",
              ROOT / "legacy_caffe" / "prepare_cifar10.py"}
# `--net my_nets.py:function` runs a file that the user names, for that is what was asked.
NET_OF_THE_USER = ROOT / "dualnet" / "nets" / "own.py"
CHANNELS = {"x": ("net1", "net2"), "back": ("net2", "net1")}
NOBODY = 65534
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files to another user")


def exchange(folder, role, **options):
    options = {"handshake_timeout_s": 60, "transport": "rename", **options}
    return Exchange(folder, role, channels=CHANNELS, **options)


def calls_and_names(path):
    """Every call and every dotted name in a source file, as text."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return calls, names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
@pytest.mark.security(1, "the sources are read for pickle and allow_pickle")
@pytest.mark.security(8, "the sources are read for torch.load")
@pytest.mark.security(12, "the sources are read for eval, exec and yaml")
@pytest.mark.security(13, "the sources are read for a shell")
def test_nothing_in_the_sources_runs_what_it_reads(path):
    calls, names = calls_and_names(path)
    allowed = {"pickle.UnpicklingError"} | ({"pickle.Unpickler"} if path in RESTRICTED else set())
    assert {name for name in names if name.startswith("pickle.")} <= allowed
    imported = {alias.name for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names}
    imported |= {node.module for node in ast.walk(ast.parse(path.read_text()))
                 if isinstance(node, ast.ImportFrom)}
    assert not imported & {"yaml", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
    for call in calls:
        function = ast.unparse(call.func)
        words = {word.arg: ast.unparse(word.value) for word in call.keywords}
        assert words.get("allow_pickle", "False") == "False"
        assert words.get("shell", "False") == "False"
        runs = {"eval", "exec", "os.system", "os.popen"}
        assert function not in runs - ({"exec"} if path == NET_OF_THE_USER else set())
        if function == "torch.load":
            assert words.get("weights_only") == "True"


@pytest.mark.parametrize(
    "text",
    [
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 1}}',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": ' + b"[" * DEEPEST + b"]" * DEEPEST + b"}",
        b'{"a": ' + b"[" * 100_000,
        b'{"a": ' + b'{"a": ' * DEEPEST + b"1" + b"}" * DEEPEST + b"}",
        b'{"a": "\xc3\xa9"}',
        b'{"a": 1} {}',
        b"[]",
        b"1",
        b"",
        b"9" * 10_000,
    ],
    ids=lambda text: repr(text[:24]),
)
@pytest.mark.security(2, "JSON with a key twice, NaN, deep nesting")
def test_json_that_readers_may_differ_on_is_refused(text):
    with pytest.raises(ValueError):
        parse_object(text)


@pytest.mark.security(2, "brackets in strings and beside each other")
def test_json_is_measured_by_its_depth_not_by_its_brackets():
    value = {"a": [[]] * 100, "b": "[" * 100 + '\\"[', "c": "\\"}
    assert parse_object(json.dumps(value).encode()) == value
    deepest = b'{"a": ' + b"[" * (DEEPEST - 1) + b"]" * (DEEPEST - 1) + b"}"
    assert parse_object(deepest)["a"] is not None


@pytest.mark.security(2, "an agreement nested too deep for the peers")
def test_settings_that_a_peer_would_refuse_to_read_are_refused_here(tmp_path):
    deep = json.loads("[" * DEEPEST + "]" * DEEPEST)
    with pytest.raises(ValueError, match="agreement must be JSON-able: nested deeper"):
        exchange(tmp_path, "net1", agreement={"a": deep})


def a_hello(text):
    """A hello of net2 that a reader would take, with `text` put in front of its fields."""
    me = process.this_process()
    hello = records.Hello.of("net2", "ab" * 16, me, {}, profile="local")
    return text + json.dumps(dataclasses.asdict(hello)).encode()[1:]


@pytest.mark.parametrize(
    ("text", "readable"),
    [(b"{", True), (b'{"role": "net2", ', False), (b'{"x": NaN, ', False),
     (b'{"x": ' + b"[" * 99 + b"]" * 99 + b", ", False),
     (b'{"x": "' + b"x" * records.HELLO_LIMIT + b'", ', False)],
    ids=["plain", "a key twice", "NaN", "deep", "65 kB"],
)
@pytest.mark.security(2, "a hello with a key twice, NaN, deep nesting, more than 64 KiB")
@pytest.mark.security(17, "a hello of more than 64 KiB")
def test_a_hello_that_is_not_plain_json_of_64_kib_counts_as_absent(tmp_path, text, readable):
    storage = Storage(tmp_path)
    storage.make_folder("hello")
    (tmp_path / "hello" / "net2.json").write_bytes(a_hello(text))
    assert (records.read_hello(storage, "net2") is not None) == readable


@pytest.mark.security(2, "a status block of 4097 bytes, RUN.json and a generation of 256 KiB")
@pytest.mark.security(17, "files of the handshake that are too long")
def test_files_over_their_caps_are_not_read(tmp_path):
    storage = Storage(tmp_path)
    for folder in ("status", "gen"):
        storage.make_folder(folder)
    (tmp_path / "RUN.json").write_bytes(b'{"run": "ab"}'.ljust(records.RECORD_LIMIT))
    assert records.read_run(storage) == {"run": "ab"}
    (tmp_path / "RUN.json").write_bytes(b'{"run": "ab"}'.ljust(records.RECORD_LIMIT + 1))
    assert records.read_run(storage) == {}
    (tmp_path / "gen" / "00000001.json").write_bytes(b"{}".ljust(records.RECORD_LIMIT + 1))
    assert records.read_generation(storage, 1) is None
    (tmp_path / "status" / "net1.block").write_bytes(b" " * 4097)
    assert read_status(storage, "net1") is None


def hold(say, folder, umask=0o022, profile=LOCAL):
    os.umask(umask)
    membership.detect = lambda path, name: profile
    with exchange(folder, "net1") as mine:
        mine.report(phase="train")
        mine.send("x", 0, np.arange(5.0))
        say("sent")
        threading.Event().wait(60)


@AS_ROOT
@pytest.mark.parametrize("name", ["g00000001/net1/x-000000000000.npy", "hello/net1.json",
                                  "RUN.json", "gen/00000001.json"])
@pytest.mark.security(4, "chown of a file to another user")
def test_a_file_of_another_user_is_refused(tmp_path, name):
    with Role(hold, tmp_path) as peer:
        mine = exchange(tmp_path, "net2").open()
        assert peer.hear(60) == "sent"
        storage = Storage(tmp_path)
        storage.open_checked(name).close()
        os.chown(tmp_path / name, NOBODY, NOBODY)
        with pytest.raises(InvalidMessage, match=f"found one of user {NOBODY}; all roles must be"):
            storage.open_checked(name)
        if name.endswith(".npy"):
            with pytest.raises(InvalidMessage, match=f"found one of user {NOBODY}"):
                mine.recv("x", 0, np.empty(5))
        mine.close(RuntimeError("end of the test"))


@AS_ROOT
@pytest.mark.security(4, "chown of a status block and of a folder to another user")
def test_a_block_or_a_folder_of_another_user_is_refused(tmp_path):
    storage = Storage(tmp_path)
    for folder in ("status", "hello"):
        storage.make_folder(folder)
    block = tmp_path / "status" / "net1.block"
    block.write_bytes(b"")
    os.chown(block, NOBODY, NOBODY)
    for open_it in (lambda: StatusReader(storage, "net1", "ab" * 16, direct=True),
                    lambda: StatusReader(storage, "net1", "ab" * 16, direct=False),
                    lambda: exchange(tmp_path, "net1").open()):
        with pytest.raises(InvalidMessage, match=f"found one of user {NOBODY}"):
            open_it()
    os.chown(tmp_path / "hello", NOBODY, NOBODY)
    with pytest.raises(StorageError, match="belongs to another user"):
        exchange(tmp_path, "net1").open()


@AS_ROOT
@pytest.mark.security(4, "a mount that shows all files as another user's")
def test_a_mount_that_shows_my_own_files_as_somebody_elses_can_be_used(tmp_path):
    # As NFS with root_squash or sshfs do: the folder and all that I make in it is that user's.
    (tmp_path / "file").write_bytes(b"x")
    for path in (tmp_path, tmp_path / "file"):
        os.chown(path, NOBODY, NOBODY)
    Storage(tmp_path).open_checked("file").close()


@pytest.mark.parametrize("kind", ["symlink", "fifo", "folder", "hard link"])
@pytest.mark.parametrize("role", ["net1", "net2"])
@pytest.mark.security(4, "symlink, mkfifo, mkdir, link in place of my or a peer's status block")
def test_a_status_block_that_is_no_file_of_its_own_is_refused(tmp_path, kind, role):
    storage = Storage(tmp_path)
    storage.make_folder("status")
    block, other = tmp_path / "status" / f"{role}.block", tmp_path / "other"
    other.write_bytes(b"mine")
    {"symlink": lambda: block.symlink_to(other), "fifo": lambda: os.mkfifo(block),
     "folder": block.mkdir, "hard link": lambda: os.link(other, block)}[kind]()
    if role == "net1":
        with pytest.raises((InvalidMessage, StorageError), match=r"net1\.block"):
            exchange(tmp_path, "net1", handshake_timeout_s=0.1).open()
    elif kind != "hard link":  # reading one does no harm; its content decides
        with pytest.raises((InvalidMessage, StorageError), match=r"net2\.block"):
            StatusReader(storage, "net2", "ab" * 16, direct=False)
    assert other.read_bytes() == b"mine"


@pytest.mark.parametrize("umask", [0, 0o077])
@pytest.mark.parametrize("profile", [LOCAL, NETWORK], ids=lambda profile: profile.name)
@pytest.mark.security(6, "umask 0 and 077 in real roles; every file is looked at")
def test_everything_in_an_exchange_is_private(tmp_path, umask, profile):
    folder = tmp_path / "exchange"
    with Role(hold, folder, umask, profile) as first, Role(receive, folder, umask, profile) as peer:
        assert [first.hear(60), peer.hear(60)] == ["sent", "received"]
        found = {path: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}
        assert {path.name for path in found} >= {"x-000000000000.npy", "net1.block", "net1.lock",
                                                 "net1.json", "RUN.json", "00000001.json"}
        for path, mode in found.items():
            assert mode == (0o700 if path.is_dir() else 0o600), path


def receive(say, folder, umask, profile):
    os.umask(umask)
    membership.detect = lambda path, name: profile
    with exchange(folder, "net2") as mine:
        mine.recv("x", 0, np.empty(5))
        say("received")
        threading.Event().wait(60)


@pytest.mark.fault(47, "a sparse file whose header and size are of 2 GB; resident memory measured")
@pytest.mark.security(3, "a sparse file of 2 GB, resident memory measured")
def test_a_huge_message_is_refused_without_a_byte_of_memory(tmp_path):
    path, out = tmp_path / "huge.npy", np.zeros(8, np.float32)
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (500_000_000,)})
        file.truncate(2_000_000_000 + 128 + 104)
    identity = message.Identity("ab" * 16, 1, "x", 0, "cd" * 16)
    storage = Storage(tmp_path)
    before = resident_kb()
    for _ in range(50):
        with storage.open_checked("huge.npy") as file, pytest.raises(InvalidMessage):
            message.decode(file, out, identity)
    assert resident_kb() - before < 4000


def resident_kb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4


@pytest.mark.security(7, "the README is read")
def test_the_readme_says_who_is_trusted():
    text = " ".join((ROOT / "shared_fs" / "README.md").read_text().split())
    assert "it is no authentication" in text
    assert "Do not put an exchange where others can write" in text


EVIL = "\x1b]0;owned\x07\x1b[2J\u202e\n\r"


def misbehave(say, folder, how):
    """A peer whose host, settings, info and error would take over a terminal."""
    there = process.this_process()
    membership.this_process = lambda: dataclasses.replace(there, host=f"host{EVIL}")
    agreement = {"lr": EVIL} if how == "agreement" else {}
    with exchange(folder, "net2", agreement=agreement) as mine:
        mine.report(step=1, phase=f"train{EVIL}", iterations=EVIL, **{f"key{EVIL}": [EVIL]})
        say("open")
        if how == "error":
            raise ValueError(f"boom{EVIL}")
        threading.Event().wait(60)


def is_clean(text):
    return printable(text) == " ".join(text.split()) and "\x1b" not in text


@pytest.mark.security(14, "escape sequences in host, info and error of a real peer")
def test_a_peer_cannot_write_control_characters_to_my_terminal(tmp_path, capsys, caplog):
    with Role(misbehave, tmp_path, "error") as peer:
        mine = exchange(tmp_path, "net1").open()
        assert peer.hear(60) == "open"
        with pytest.raises(PeerFailed, match="boom") as failed:
            mine.recv("back", 0, np.empty(5))
        assert is_clean(str(failed.value))
        info = mine.peer_info("net2")
        assert is_clean(str(info)) and info["phase"].startswith("train?]0;owned?")
        assert main(["status", str(tmp_path)]) == 0
        out = capsys.readouterr().out
        assert "net2" in out and all(is_clean(line) for line in out.splitlines())
        mine.close(RuntimeError("end of the test"))
    assert all(is_clean(record.getMessage()) for record in caplog.records)


@pytest.mark.security(14, "escape sequences in the settings of a real peer")
def test_differing_settings_are_named_without_control_characters(tmp_path):
    with (
        Role(misbehave, tmp_path, "agreement"),
        pytest.raises(HandshakeMismatch, match="lr") as caught,
    ):
        exchange(tmp_path, "net1", agreement={"lr": 1}).open()
    assert is_clean(str(caught.value))


@pytest.mark.security(14, "escape sequences as the host of the holder of a role")
def test_the_holder_of_a_role_is_named_without_control_characters(tmp_path):
    with Role(misbehave, tmp_path, "hold") as peer:
        mine = exchange(tmp_path, "net1").open()
        assert peer.hear(60) == "open"
        with pytest.raises(RoleTaken) as taken:
            exchange(tmp_path, "net2").open()
        assert f"pid {peer.pid} on host" in str(taken.value) and is_clean(str(taken.value))
        mine.close(RuntimeError("end of the test"))
    with pytest.raises(WaitTimeout) as waited:  # its hello is still there
        exchange(tmp_path / "other", "net1", handshake_timeout_s=0.1).open()
    assert is_clean(str(waited.value))


@pytest.mark.security(14, "the sources are read for os.environ")
def test_the_environment_is_never_dumped():
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        for line in text.splitlines():
            if "os.environ" in line:
                # Name by name, or whole to a child, which would get it anyway.
                assert re.search(r"os\.environ(\.get\(|\[|\.setdefault\()|env=\{\*\*os\.environ",
                                 line), f"{path}: {line}"


class WatchedStorage(Storage):
    """Notes the files it creates, with the flags."""

    def __init__(self, folder):
        super().__init__(folder)
        self.created = []

    def open(self, name, flags, mode=0o600):
        if flags & os.O_CREAT:
            self.created.append((name, flags))
        return super().open(name, flags, mode)


@pytest.mark.security(16, "the names and flags of all files that are created")
def test_hidden_files_are_exclusive_and_their_names_cannot_be_guessed(tmp_path):
    storage = WatchedStorage(tmp_path)
    for _ in range(20):
        storage.publish("a", [b"x"], fsync=False)
    storage.create_once("b", b"x")
    for _ in range(2):
        fd, memory = storage.create_mapped("c", 4096)
        memory.close()
        storage.close(fd)
    nonces = {re.fullmatch(r"\.[abc]\.([0-9a-f]{32})\.part", name)[1]
              for name, _ in storage.created}
    assert len(nonces) == 23
    wanted = os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    assert all(flags & wanted == wanted for _, flags in storage.created)


@pytest.mark.security(18, "pyproject.toml is read")
def test_the_bounds_contain_the_fixes():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = {name: bootstrap.numbers(version) for name, version in
              (line.split(">=") for line in project["dependencies"])}
    assert bounds["filelock"] >= (4, 1)  # a lease judged on the contender's clock
    assert bounds["torch"] >= (2, 10)  # two ways around weights_only
    assert bounds["numpy"] >= (1, 26)
