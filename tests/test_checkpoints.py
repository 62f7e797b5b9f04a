"""Checkpoints on the disk: whole or absent whatever happens, and only the sound ones count."""

import errno
import json
import logging
import os
import subprocess

import pytest
import torch

from dualnet.checkpoints import Checkpoints, Spent
from dualnet.errors import DataError, UserError, WrongSettings
from shared_fs import Checkpoint, Storage, StorageError

RUN = "0" * 31 + "1"
OTHER_RUN = "0" * 31 + "2"


def state(value):
    return {"net": {"weight": torch.full((3, 2), float(value))}, "rho": value, "duals": None}


def at(step, generation=1, run=RUN):
    return Checkpoint(run, generation, step)


def save(checkpoints, *identities):
    for identity in identities:
        checkpoints.save(identity, state(identity.step), Spent(identity.step / 2, 1.0, 7))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_loaded_is_what_was_saved(tmp_path):
    folder = tmp_path / "net1" / "checkpoints"
    save(Checkpoints(folder, "abc", versions={"torch": "2"}), at(5), at(10))
    checkpoints = Checkpoints(folder, "abc")
    assert checkpoints.held() == [at(5), at(10)] and checkpoints.newest() == at(10)
    found, spent = checkpoints.load(at(5))
    assert torch.equal(found["net"]["weight"], torch.full((3, 2), 5.0))
    assert (found["rho"], found["duals"], spent) == (5, None, Spent(2.5, 1.0, 7))
    marker = json.loads((folder / "gen00000001-step00000005.json").read_text())
    assert marker["run"] == RUN and marker["settings"] == "abc" and marker["versions"] == {
        "torch": "2"}
    assert names(folder) == ["gen00000001-step00000005.json", "gen00000001-step00000005.pt",
                             "gen00000001-step00000010.json", "gen00000001-step00000010.pt"]


def test_reading_makes_no_folder_and_an_empty_one_says_so(tmp_path):
    checkpoints = Checkpoints(tmp_path / "nothing")
    assert checkpoints.held() == []
    checkpoints.sweep()
    with pytest.raises(UserError, match="there is no checkpoint in"):
        checkpoints.newest()
    assert not (tmp_path / "nothing").exists()


class Crash(BaseException):
    """The process is killed here."""


class Dying(Storage):
    """Dies before its n-th change of the disk, and changes nothing from then on."""

    def __init__(self, root, last):
        super().__init__(root)
        self.left = last

    def _live(self):
        self.left -= 1
        if self.left < 0:
            raise Crash

    def open(self, name, flags, mode=0o600):
        if flags & os.O_CREAT:
            self._live()
        return super().open(name, flags, mode)

    def write(self, fd, data):
        self._live()
        half = data[:max(1, len(data) // 2)]    # a short write: a kill can leave half a file
        return super().write(fd, half)

    def fsync(self, fd):
        self._live()
        super().fsync(fd)

    def replace(self, source, target):
        self._live()
        super().replace(source, target)

    def unlink(self, name):
        self._live()
        super().unlink(name)


@pytest.mark.fault(7, "a crash before each change of the disk while a checkpoint is written")
def test_a_kill_at_any_instant_leaves_the_old_checkpoints_or_also_the_new_one(tmp_path, caplog):
    found = []
    for last in range(1000):
        folder = tmp_path / str(last)
        save(Checkpoints(folder, "abc"), at(5))
        storage = Dying(folder, last)
        died = False
        try:
            save(Checkpoints(folder, "abc", storage=storage), at(10))
        except Crash:
            died = True
        checkpoints = Checkpoints(folder, "abc")
        held = checkpoints.held()
        assert held in ([at(5)], [at(5), at(10)])
        for checkpoint in held:
            assert torch.equal(checkpoints.load(checkpoint)[0]["net"]["weight"],
                               torch.full((3, 2), float(checkpoint.step)))
        checkpoints.sweep()
        assert checkpoints.held() == held
        assert len(os.listdir(folder)) == 2 * len(held)
        found.append(len(held))
        if not died:
            break
    # It came to its end, it was killed often before, and the new one appears once and stays.
    assert not died and len(found) > 20 and found == sorted(found) and set(found) == {1, 2}


@pytest.mark.fault(62, "a flipped byte, a cut file, a missing marker, a marker that is no JSON")
@pytest.mark.parametrize("damage", ["byte", "cut", "empty", "marker gone", "marker damaged"])
def test_a_damaged_checkpoint_is_left_out_with_one_warning(tmp_path, caplog, damage):
    save(Checkpoints(tmp_path), at(5), at(10))
    path = tmp_path / "gen00000001-step00000010.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "marker gone":
        path.with_suffix(".json").unlink()
    elif damage == "marker damaged":
        path.with_suffix(".json").write_text("{")
    else:
        path.write_bytes({"byte": data, "cut": data[:-100], "empty": b""}[damage])
    checkpoints = Checkpoints(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert [checkpoints.held(), checkpoints.held()] == [[at(5)], [at(5)]]
    assert len(caplog.records) == 1
    assert f"{path}" in caplog.text and "an older checkpoint is used" in caplog.text
    with pytest.raises(DataError, match="missing or damaged"):
        checkpoints.load(at(10))


def test_a_state_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "hacked"),)

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(at(5), {"net": Evil()}, Spent())
    with pytest.raises(DataError, match="holds no state of a net"):
        checkpoints.load(at(5))
    assert not (tmp_path / "hacked").exists()


@pytest.mark.fault(63, "a checkpoint that other settings have written")
def test_a_checkpoint_of_other_settings_is_refused_with_both_digests(tmp_path):
    save(Checkpoints(tmp_path, "11111111"), at(5))
    with pytest.raises(WrongSettings, match="with settings or data 11111111, but these are 2222"):
        Checkpoints(tmp_path, "22222222").held()
    with pytest.raises(WrongSettings, match="11111111"):
        Checkpoints(tmp_path, "22222222").load(at(5))
    assert Checkpoints(tmp_path).held() == [at(5)]


def test_a_checkpoint_under_another_name_is_not_taken_for_it(tmp_path, caplog):
    save(Checkpoints(tmp_path), at(5))
    for suffix in ("pt", "json"):
        (tmp_path / f"gen00000001-step00000005.{suffix}").rename(
            tmp_path / f"gen00000002-step00000009.{suffix}")
    assert Checkpoints(tmp_path).held() == []


def test_older_ones_and_those_of_other_runs_are_removed(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, at(15), at(5), at(10, generation=2), at(5, generation=3),
         at(100, generation=7, run=OTHER_RUN))
    assert checkpoints.held(RUN) == [at(5), at(15), at(10, generation=2), at(5, generation=3)]
    checkpoints.remove_older(at(10, generation=2))
    # (1, 5) and (1, 15) are older than (2, 10), whatever their iteration
    assert checkpoints.held() == [at(10, generation=2), at(5, generation=3)]
    assert len(names(tmp_path)) == 4


class Full(Storage):
    """A disk that is full for the first `times` files."""

    def __init__(self, root, times, number=errno.ENOSPC):
        super().__init__(root)
        self.times, self.number = times, number
        self.now, self.slept = 0.0, 0.0

    def write(self, fd, data):
        if self.times > 0:
            self.times -= 1
            raise OSError(self.number, os.strerror(self.number))
        return super().write(fd, data)

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += max(seconds, 0.01)


@pytest.mark.fault(69, "ENOSPC from write, for a while and for good")
def test_a_full_disk_is_waited_for_with_one_warning(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path, storage=Full(tmp_path, times=5))
    with caplog.at_level(logging.WARNING):
        save(checkpoints, at(5))
    assert checkpoints.held() == [at(5)]
    assert len(caplog.records) == 1 and "trying again for up to 60 s" in caplog.text


@pytest.mark.fault(69, "ENOSPC and EROFS from write, for good")
@pytest.mark.parametrize(("number", "seconds"), [(errno.ENOSPC, 60), (errno.EROFS, 0)])
def test_a_disk_that_stays_full_is_an_error_and_keeps_the_old_one(tmp_path, number, seconds):
    save(Checkpoints(tmp_path), at(5))
    storage = Full(tmp_path, times=10**9, number=number)
    with pytest.raises(StorageError) as raised:
        save(Checkpoints(tmp_path, storage=storage), at(10))
    assert raised.value.errno == number and seconds <= storage.now < seconds + 5
    assert Checkpoints(tmp_path).held() == [at(5)] and len(names(tmp_path)) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs takes root")
@pytest.mark.fault(69, "a tmpfs of 64 kB under the checkpoints")
def test_a_real_full_disk(tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path],
                      capture_output=True).returncode != 0:
        pytest.skip("no right to mount a tmpfs here")
    storage = Storage(tmp_path)
    try:
        checkpoints = Checkpoints(tmp_path, storage=storage, retry_s=0.1)
        save(checkpoints, at(5))
        with pytest.raises(StorageError, match="free space there") as raised:
            checkpoints.save(at(10), {"net": torch.zeros(100_000)}, Spent())
        assert raised.value.errno == errno.ENOSPC
        assert checkpoints.held() == [at(5)] and len(names(tmp_path)) == 2
    finally:
        storage.shut()
        subprocess.run(["umount", tmp_path], check=True)
