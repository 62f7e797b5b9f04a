"""The run folder: what it refuses, what it removes, what a reader sees."""

import json

import pytest

from dualnet.checkpoints import Spent
from dualnet.errors import UserError
from dualnet.methods.dual.settings import DualConfig
from dualnet.metrics import MetricsReader
from dualnet.run import Run
from shared_fs import Checkpoint

SETTINGS = DualConfig().resolved()


def test_numbers_that_are_not_finite_become_null(tmp_path):
    run = Run(tmp_path / "run")
    run.start("dual", SETTINGS)
    metrics = run.open_metrics("net1", {})
    metrics.write({"step": 1, "loss": float("nan"), "lr": float("inf"), "accuracy": 0.5})
    text = run.metrics_path("net1").read_text()
    assert json.loads(text) == {"step": 1, "loss": None, "lr": None, "accuracy": 0.5}


def test_a_reader_takes_whole_lines_as_they_come(tmp_path):
    path = tmp_path / "metrics.jsonl"
    reader = MetricsReader(path)
    assert reader.new() == []
    path.write_bytes(b'{"step": 1}\n{"st')
    assert reader.new() == [{"step": 1}]
    with open(path, "ab") as file:
        file.write(b'ep": 2}\n')
    assert reader.new() == [{"step": 2}]
    assert reader.new() == []


def test_a_finished_run_is_not_replaced_unless_asked(tmp_path):
    run = Run(tmp_path / "run")
    run.start("dual", SETTINGS)
    run.write_summary({"test_accuracy": 0.5})
    with pytest.raises(UserError, match="holds a finished run; choose another folder"):
        run.start("dual", SETTINGS)
    run.start("dual", SETTINGS, overwrite=True)
    assert not run.summary_path.exists() and run.config_path.exists()


def test_a_run_that_was_interrupted_goes_on_with_the_same_settings_only(tmp_path):
    run = Run(tmp_path / "run")
    run.start("dual", SETTINGS)
    run.open_metrics("net1", {}).write({"step": 1})
    run.start("dual", SETTINGS.replace(threads=3))      # a setting of the machine may change
    assert run.roles == ["net1"]
    with pytest.raises(UserError, match=r"belongs to a run with lr = 0\.01, not 0\.5"):
        run.start("dual", SETTINGS.replace(lr=0.5))
    with pytest.raises(UserError, match="belongs to a run with method = 'dual', not 'single'"):
        run.start("single", SETTINGS)
    run.start("dual", SETTINGS, overwrite=True)
    assert run.roles == []


def test_a_home_is_drawn_once_and_taken_back_if_nothing_was_trained(tmp_path):
    run = Run(tmp_path / "run")
    home = run.home("net1")
    assert len(bytes.fromhex(home)) == 16
    assert (run.home("net1"), run.home("net1") == run.home("net2")) == (home, False)
    run.leave("net1")
    assert (tmp_path / "run" / "net2" / "home").exists() and not (tmp_path / "run/net1").exists()
    run.leave("net2")
    assert not run.folder.exists()
    again = run.home("net1")
    assert again != home
    run.join("dual", SETTINGS)
    run.leave("net1")
    assert run.home("net1") == again


def test_it_goes_on_from_the_newest_checkpoint_that_all_roles_hold(tmp_path):
    run = Run(tmp_path / "run")
    run.start("dual", SETTINGS)
    assert run.resumes_from(("net1", "net2")) is None
    for role, steps in {"net1": (5, 10), "net2": (5,)}.items():
        run.open_metrics(role, {}).write({"step": 1, "generation": 4})
        assert run.next_generation(role) == 5
        for step in steps:
            run.checkpoints(role).save(Checkpoint("0" * 32, 7, step), {}, Spent())
    assert run.resumes_from(("net1", "net2")) == 5
    assert run.resumes_from(("net1",)) == 10
    assert run.next_generation("net1") == 8
    with pytest.raises(UserError, match="has not finished: the newest checkpoint of net2 is of "
                                        "iteration 5, not 20"):
        run.load_checkpoint("net2", 20)
    assert run.load_checkpoint("net2", 5) == {}


def test_a_run_that_diverged_says_so_until_it_is_replaced(tmp_path):
    run = Run(tmp_path / "run")
    run.start("dual", SETTINGS)
    assert run.divergence() is None and not run.is_over
    run.write_divergence(7, "the loss is nan")
    assert (run.divergence()["step"], run.is_over) == (7, True)
    with pytest.raises(UserError, match="holds a run that diverged; choose another folder"):
        run.start("dual", SETTINGS)
    run.start("dual", SETTINGS, overwrite=True)
    assert run.divergence() is None


def test_clearing_a_run_keeps_what_is_not_its_own(tmp_path):
    run = Run(tmp_path)
    (tmp_path / "net1").mkdir()
    (tmp_path / "net1" / "thesis.txt").write_text("mine")
    (tmp_path / "notes.txt").write_text("mine")
    run.clear()                                   # no config.json: not a run, nothing to clear
    run.start("dual", SETTINGS)
    run.open_metrics("net2", {}).close()
    run.clear()
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == ["net1", "net1/thesis.txt", "notes.txt"]


def test_a_folder_with_somebody_elses_config_is_left_alone(tmp_path):
    (tmp_path / "config.json").write_text('{"editor": "vi"}')
    with pytest.raises(UserError, match="is not of a run"):
        Run(tmp_path).start("dual", SETTINGS, overwrite=True)
    assert (tmp_path / "config.json").read_text() == '{"editor": "vi"}'


def test_each_role_joins_and_joins_again_with_the_same_settings(tmp_path):
    run = Run(tmp_path / "run")
    for role in ("net1", "net2", "net1"):
        run.admit(role, "dual", SETTINGS)
        run.join("dual", SETTINGS)
        run.open_metrics(role, {}).close()
    for refused in (lambda settings: run.admit("net1", "dual", settings),
                    lambda settings: run.join("dual", settings)):
        with pytest.raises(UserError, match=r"belongs to a run with lr = 0\.01, not 0\.5"):
            refused(SETTINGS.replace(lr=0.5))
    assert sorted(run.roles) == ["net1", "net2"]
    run.write_summary({})
    with pytest.raises(UserError, match="holds a finished run"):
        run.admit("net1", "dual", SETTINGS)
    run.admit("net1", "dual", SETTINGS.replace(lr=0.5), overwrite=True)
    assert run.roles == ["net2"] and not run.summary_path.exists()


def test_reading_what_is_not_there_says_why(tmp_path):
    with pytest.raises(UserError, match="this is no run"):
        Run(tmp_path).config()
    Run(tmp_path).start("dual", SETTINGS)
    with pytest.raises(UserError, match=r"no summary\.json in .*: the run has not finished"):
        Run(tmp_path).summary()
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        Run(tmp_path).config()
