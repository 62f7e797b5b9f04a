"""clean: what a run left goes, whatever else is there stays, and no live role loses a file."""

import json
import os
import signal
from shutil import rmtree

import numpy as np
import pytest
from test_shared_fs_processes import Role

from dualnet.cli import main
from shared_fs import Exchange, RoleTaken, StorageError
from shared_fs.clean import clean

CHANNELS = {"x": ("net1", "net2"), "back": ("net2", "net1")}


def tree(folder):
    """Every name below `folder`, as text, links and hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def send_and_stay(say, folder):
    with Exchange(folder, "net1", channels=CHANNELS, handshake_timeout_s=60) as mine:
        mine.report(step=1, phase="train")
        mine.send("x", 0, np.zeros(5))
        say("sent")
        mine.recv("back", 0, np.empty(5))


def send_and_pause(say, folder):
    """Look at the peer no more, so that its death ends nothing."""
    with Exchange(folder, "net1", channels=CHANNELS, handshake_timeout_s=60) as mine:
        mine.send("x", 0, np.zeros(5))
        say("sent")
        signal.pause()


def join_and_stay(say, folder):
    with Exchange(folder, "net2", channels=CHANNELS, handshake_timeout_s=60) as mine:
        mine.recv("x", 0, np.empty(5))
        say("read")
        mine.recv("x", 1, np.empty(5))


@pytest.fixture
def dead(tmp_path):
    """An exchange folder whose two roles were killed in the middle of a run."""
    folder = tmp_path / "exchange"
    with Role(send_and_stay, folder) as first, Role(join_and_stay, folder) as second:
        assert (first.hear(60), second.hear(60)) == ("sent", "read")
        for role in (first, second):
            role.kill()
            role.process.join(30)
    return folder


def test_after_kill_9_nothing_of_the_run_is_left_and_the_folder_can_be_used_again(dead, capsys):
    part = "g00000001/net1/.x-000000000001.npy." + 32 * "a" + ".part"
    (dead / part).write_bytes(b"half a message")
    names = tree(dead)
    assert {"RUN.json", "hello/net1.json", "status/net2.block", part} <= {*names}
    assert main(["clean", str(dead), "--dry-run"]) == 0
    assert tree(dead) == names
    assert main(["clean", str(dead)]) == 0
    assert tree(dead) == []
    lines = capsys.readouterr().out.splitlines()
    told = len(lines) // 2
    assert sorted(lines[:told - 1]) == sorted(f"would remove {dead / name}" for name in names)
    assert sorted(lines[told:-1]) == sorted(f"removed {dead / name}" for name in names)
    assert lines[-1] == f"removed {len(names)} files and folders, left 0"
    with Role(send_and_stay, dead) as first, Role(join_and_stay, dead) as second:
        assert (first.hear(60), second.hear(60)) == ("sent", "read")


def test_what_is_not_of_an_exchange_is_named_and_left(dead, tmp_path):
    outside = tmp_path / "precious"
    outside.mkdir()
    (outside / "x-000000000001.npy").write_bytes(b"precious")
    (dead / "notes.txt").write_text("mine")
    (dead / "hello" / "net1.json~").write_text("an editor's copy")
    (dead / "g00000001" / "net1" / "x-1.npy").write_text("too few digits")
    (dead / "stage.json").unlink()
    (dead / "stage.json").symlink_to(outside / "x-000000000001.npy")     # a link to a file
    (dead / "g00000002").symlink_to(outside)                             # a link to a folder
    rmtree(dead / "g00000001" / "net2")
    (dead / "g00000001" / "net2").symlink_to(outside)
    os.mkfifo(dead / "status" / "net3.block")
    kept = ["notes.txt", "hello/net1.json~", "g00000001/net1/x-1.npy", "stage.json", "g00000002",
            "g00000001/net2", "status/net3.block"]
    assert sorted(clean(dead).left) == sorted(kept)
    folders = {os.path.dirname(name) for name in kept} - {""} | {"g00000001"}
    assert tree(dead) == sorted({*kept, *folders})
    assert (outside / "x-000000000001.npy").read_bytes() == b"precious"


def test_a_folder_that_is_no_exchange_or_a_link_to_one_is_refused(dead, tmp_path, capsys):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "RUN.json").write_text("{}")
    assert main(["clean", str(tmp_path / "home")]) == 2
    assert "neither a run nor an exchange folder" in capsys.readouterr().err
    (tmp_path / "link").symlink_to(dead)
    with pytest.raises(StorageError, match="no role was ever here"):
        clean(tmp_path / "link")
    assert (tmp_path / "home" / "RUN.json").exists()
    assert (dead / "RUN.json").exists()


def test_of_a_run_folder_only_the_exchange_is_cleaned(dead, capsys):
    run = dead.parent
    (run / "config.json").write_text("{}")
    (run / "net1" / "checkpoints").mkdir(parents=True)
    (run / "net1" / "checkpoints" / "step00000001.pt").write_bytes(b"weights")
    assert main(["clean", str(run)]) == 0
    assert tree(run) == ["config.json", "exchange", "net1", "net1/checkpoints",
                         "net1/checkpoints/step00000001.pt"]


def test_a_live_role_is_refused_and_loses_nothing(tmp_path, capsys):
    folder = tmp_path / "exchange"
    with Role(send_and_pause, folder) as first, Role(join_and_stay, folder) as second:
        assert (first.hear(60), second.hear(60)) == ("sent", "read")
        second.kill()
        second.process.join(30)
        names = tree(folder)
        for flags in ([], ["--force"]):
            assert main(["clean", str(folder), *flags]) == 69
            assert f"net1 (pid {first.pid} on" in capsys.readouterr().err
        assert tree(folder) == names


def wait_alone(say, folder):
    Exchange(folder, "net2", channels=CHANNELS, handshake_timeout_s=60).open()


def test_a_role_whose_lock_is_held_is_alive_whatever_its_files_say(tmp_path):
    with Role(wait_alone, tmp_path) as second:
        while not (tmp_path / "hello" / "net2.json").exists():
            assert second.process.is_alive()
        (tmp_path / "hello" / "net2.json").unlink()
        with pytest.raises(RoleTaken, match=r"net2 is alive \(its lock is held\)"):
            clean(tmp_path)
        assert (tmp_path / "status" / "net2.block").exists()


def move_to_another_host(folder, role):
    """Edit a hello: it was said on a host whose processes cannot be seen from here."""
    path = folder / "hello" / f"{role}.json"
    hello = json.loads(path.read_text())
    hello["process"] |= {"boot_id": "of another host", "host": "elsewhere"}
    path.write_text(json.dumps(hello))


def test_a_silent_role_of_another_host_is_cleaned_with_force_only(dead, capsys):
    move_to_another_host(dead, "net1")
    names = tree(dead)
    with pytest.raises(RoleTaken, match=r"net1 .* on elsewhere\) did not end, and its status has "
                                        r"not changed for 6 s; .* add --force"):
        clean(dead)
    assert tree(dead) == names
    assert main(["clean", str(dead), "--force"]) == 0
    assert tree(dead) == []


def test_a_role_of_another_host_whose_heart_beats_is_alive_even_with_force(tmp_path):
    with Role(wait_alone, tmp_path) as second:
        while not (tmp_path / "hello" / "net2.json").exists():
            assert second.process.is_alive()
        move_to_another_host(tmp_path, "net2")
        with pytest.raises(RoleTaken, match=r"is alive \(its status changed within 6 s\)"):
            clean(tmp_path, force=True)
        assert (tmp_path / "hello" / "net2.json").exists()


def test_a_cleaning_that_was_broken_off_can_be_finished(dead):
    (dead / "hello" / "net1.json").unlink()
    (dead / "hello" / "net2.json").unlink()
    (dead / "hello").rmdir()
    clean(dead)
    assert tree(dead) == []
