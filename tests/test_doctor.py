"""doctor DIR: two processes try a folder out, and say whether it will do."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from mounts import ext4, run, tmpfs
from test_shared_fs_processes import Role

from dualnet.cli import main
from shared_fs import Exchange, Storage, doctor, probe
from shared_fs.blocks import BLOCK_SIZE
from shared_fs.doctor import DIRECT, IN_PLACE, Report, examine, judge
from shared_fs.profile import LOCAL

ROOT = Path(__file__).parent.parent
FAST, SLOW = [0.001, 0.002, 0.003], [1.0, 1.0, 1.1]
FOUND = Report(("nfs4",), "network", 4096, seen={IN_PLACE: FAST, DIRECT: FAST},
               locks={"flock": "", "lease": ""})


def last_line(folder, capsys, *flags):
    code = main(["doctor", str(folder), *flags])
    return code, capsys.readouterr().out.splitlines()[-1]


def test_a_local_file_system_may_be_used_as_local_and_nothing_is_left(tmp_path, capsys):
    with tmpfs(tmp_path, "size=64m") as point:
        before = sorted(os.listdir(point))
        answer = last_line(point, capsys, "--size", "100000")
        assert answer == (0, "dualnet may use it, with the profile local")
        assert sorted(os.listdir(point)) == before


def test_a_folder_too_small_for_its_messages_is_refused_in_figures(tmp_path, capsys):
    with tmpfs(tmp_path, "size=1m") as point:
        code, line = last_line(point, capsys)
        assert code == 74
        # 2 channels of 2 + 1 messages of 2 MiB, and half as much again: 9 * 2 * 2^20 bytes.
        assert f"{point} has 1.0 MB free, and messages of 2.1 MB need 18.9 MB" in line
        assert os.listdir(point) == []


def test_a_folder_with_too_few_inodes_is_refused(tmp_path, capsys):
    with tmpfs(tmp_path, "size=64m,nr_inodes=20") as point:
        code, line = last_line(point, capsys)
        assert code == 74
        assert f"{point} has room for 19 more files, and an exchange needs 100" in line


def test_a_read_only_mount_is_refused(tmp_path, capsys):
    with ext4(tmp_path) as point:
        run("mount", "-o", "remount,ro", point)
        code, line = last_line(point, capsys)
        assert code == 74
        assert line == f"dualnet may not use it: {point} cannot be used: Read-only file system"


def test_two_folders_that_are_not_the_same_never_meet(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "SIGHT_S", 1)
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    code, line = last_line(tmp_path / "one", capsys, "--peer-dir", str(tmp_path / "other"))
    assert code == 74
    assert f"is {tmp_path / 'other'} a mount of the same folder?" in line
    assert list(tmp_path.rglob("*")) == [tmp_path / "one", tmp_path / "other"]


def command(folder, role):
    return subprocess.Popen(
        [sys.executable, "-m", "dualnet", "doctor", folder, "--role", role, "--size", "100000",
         "--wait", "100"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_two_hosts_meet_by_files_and_both_are_told_the_same(tmp_path):
    second = command(tmp_path, "second")
    while not (tmp_path / "dualnet-doctor" / "exchange" / "hello" / "second.json").exists():
        assert second.poll() is None, second.communicate()[0]
    first = command(tmp_path, "first")
    told = [process.communicate(timeout=200)[0].splitlines() for process in (first, second)]
    assert told[0][0] == "waiting up to 100 s for the other host: dualnet doctor DIR --role second"
    assert told[0][1:] == told[1][1:]
    assert told[0][-1] == "dualnet may use it, with the profile local"
    assert (first.returncode, second.returncode) == (0, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_host_that_waits_alone_gives_up_and_leaves_nothing(tmp_path, capsys):
    code, line = last_line(tmp_path, capsys, "--role", "first", "--wait", "1")
    assert code == 74
    assert "waited 1 s for second to join" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flags", [
    ["missing"], [".", "--size", "0"], [".", "--wait", "0"],
    [".", "--role", "first", "--peer-dir", "."]], ids=" ".join)
def test_nonsense_is_refused(flags, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", *flags]) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("changes", "profile", "said"), [
    ({}, "network", ""),
    ({"automatic": "local"}, "local", ""),
    # A network file system whose cache hides what the local profile reads, and vice versa.
    ({"automatic": "local", "seen": {IN_PLACE: [], DIRECT: FAST}}, "network", "--fs-profile"),
    ({"automatic": "local", "seen": {IN_PLACE: SLOW, DIRECT: FAST}}, "network", "--fs-profile"),
    ({"automatic": "local", "locks": {"flock": "both", "lease": ""}}, "network", "--fs-profile"),
    ({"locks": {"flock": "both", "lease": ""}}, "network", ""),
    ({"seen": {IN_PLACE: FAST, DIRECT: SLOW}}, "network", "slow: each message waits 1000 ms"),
    ({"seen": {IN_PLACE: FAST, DIRECT: []}}, "", "was not seen by the other process"),
    ({"locks": {"flock": "", "lease": "both held it"}}, "", "two processes could take one role"),
    ({"faults": ("rename fails",)}, "", "rename fails"),
])
def test_the_verdict_follows_the_measurements(changes, profile, said):
    verdict = judge(replace(FOUND, **changes))
    assert verdict.profile == profile
    assert said in "; ".join(verdict.faults + verdict.notes)
    assert bool(verdict.faults) == (not profile)


@pytest.mark.slow
def test_the_figures_are_of_the_mount_that_holds_the_folder(tmp_path):
    with ext4(tmp_path) as point:
        found = os.statvfs(point)
        report = examine(point, num_bytes=1000)
    assert (report.kinds, report.profile) == (("ext4",), "local")
    assert report.free_bytes == found.f_bavail * found.f_frsize
    assert report.free_files == found.f_favail
    assert [len(times) for times in report.seen.values()] == [30] * 5
    assert len(report.messages) == 30 and 0 < min(report.messages) < 10


class TornStorage(Storage):
    """A mount whose rename is no rename, and whose O_EXCL does not exclude."""

    def publish(self, name, data, *, fsync, recycle=None):
        fd = self.open(name, os.O_WRONLY | os.O_CREAT)
        for byte in range(0, sum(map(len, data)), BLOCK_SIZE):
            os.pwrite(fd, b"".join(data)[byte:byte + BLOCK_SIZE], byte)
            self.sleep(0.001)  # a slow disk: the other process gets to look meanwhile
        self.close(fd)

    def create_exclusive(self, name, data):
        return True


class NoLock:
    """A lock that everybody gets."""

    def __init__(self, storage, role, profile):
        pass

    def acquire(self, holder):
        pass

    def release(self):
        pass


def try_out(say, folder, role, storage, lock):
    doctor.Storage, probe.RoleLock, probe.CONTEND_S = storage, lock, 0.3
    blank = Report(("ext4",), "local", 1000)
    return doctor._take_part(folder, role, blank, 60)


def test_a_mount_that_keeps_none_of_the_promises_is_found_out(tmp_path):
    arguments = (TornStorage, NoLock)
    with (
        Role(try_out, tmp_path, "first", *arguments) as first,
        Role(try_out, tmp_path, "second", *arguments) as second,
    ):
        report = first.result(100)
        assert report.faults == second.result(100).faults
    assert report.profile == ""
    told = "; ".join(report.faults)
    assert "exclusive creation by O_EXCL fails: of the names that both processes wanted, both " \
           "got 20 and nobody got 0" in told
    assert "by link" not in told
    assert re.search("a reader saw [1-9][0-9]* mixtures of an old and a new file", told)
    assert "two processes could take one role: both processes held it at once" in told


def fight(say, folder, role, lock):
    probe.CONTEND_S = 0.3
    probe.RoleLock = lock or probe.RoleLock
    with Exchange(folder / "exchange", role, channels=probe.CHANNELS) as link:
        storage = Storage(folder / "trials")
        storage.make_folder("roles")
        return probe._overlap(probe.Pair(link, storage), LOCAL)


@pytest.mark.parametrize(("lock", "fault"), [(None, "^$"), (NoLock, "at once, [1-9][0-9]* times")])
def test_intervals_of_holding_that_overlap_are_a_fault(lock, fault, tmp_path):
    with (
        Role(fight, tmp_path, "first", lock) as first,
        Role(fight, tmp_path, "second", lock) as second,
    ):
        assert [bool(re.search(fault, role.result(100))) for role in (first, second)] == [True] * 2
