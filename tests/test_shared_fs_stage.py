"""stage.json shows each role's stage, counts its versions, and is rebuilt if it is damaged."""

import json

import pytest
from test_shared_fs_processes import Role

from shared_fs import Storage
from shared_fs.locks import stage_lock
from shared_fs.profile import LOCAL
from shared_fs.stage import read_stage, update_stage


def test_the_stage_holds_the_newest_of_every_role(tmp_path):
    storage = Storage(tmp_path)
    update_stage(storage, LOCAL, "net1", generation=1, phase="train", epoch=0, step=0)
    update_stage(storage, LOCAL, "net2", generation=1, phase="train", epoch=0, step=1)
    update_stage(storage, LOCAL, "net1", generation=1, phase="evaluate", epoch=3, step=99)
    stage = json.loads((tmp_path / "stage.json").read_text())
    assert (stage["version"], stage["phase"], stage["step"]) == (3, "evaluate", 99)
    assert stage["roles"]["net1"]["epoch"] == 3
    assert stage["roles"]["net2"]["step"] == 1
    assert read_stage(storage) == stage


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"version": "x"}', b"[" * 60000])
def test_a_damaged_stage_is_rebuilt(tmp_path, damage):
    (tmp_path / "stage.json").write_bytes(damage)
    storage = Storage(tmp_path)
    assert update_stage(storage, LOCAL, "net1", phase="train")
    assert read_stage(storage)["version"] == 1


def test_a_locked_stage_is_not_written_and_the_run_goes_on(tmp_path, monkeypatch):
    storage = Storage(tmp_path)
    with stage_lock(storage, LOCAL):
        assert not update_stage(storage, LOCAL, "net1", phase="train")
    assert read_stage(storage)["version"] == 0


def change(say, folder, role):
    storage = Storage(folder)
    return sum(update_stage(storage, LOCAL, role, phase=str(i)) for i in range(50))


def test_no_change_of_two_processes_is_lost(tmp_path):
    roles = [Role(change, tmp_path, role) for role in ("net1", "net2")]
    written = sum(role.result(60) for role in roles)
    assert read_stage(Storage(tmp_path))["version"] == written
