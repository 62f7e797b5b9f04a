"""The run folder: what it refuses, what it removes, what a reader sees."""

import json

import pytest

from dualnet.errors import UserError
from dualnet.methods.dual.settings import DualConfig
from dualnet.run import MetricsReader, Run

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


def test_a_run_is_not_replaced_unless_asked(tmp_path):
    run = Run(tmp_path / "run")
    run.start("dual", SETTINGS)
    with pytest.raises(UserError, match="holds a run that did not finish; choose another folder"):
        run.start("dual", SETTINGS)
    run.write_summary({"test_accuracy": 0.5})
    with pytest.raises(UserError, match="holds a finished run"):
        run.start("dual", SETTINGS)
    run.start("dual", SETTINGS, overwrite=True)
    assert not run.summary_path.exists() and run.config_path.exists()


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


def test_the_second_role_joins_and_a_third_is_refused(tmp_path):
    run = Run(tmp_path / "run")
    for role in ("net1", "net2"):
        run.join(role, "dual", SETTINGS)
        run.open_metrics(role, {}).close()
    with pytest.raises(UserError, match="holds a run that did not finish"):
        run.join("net1", "dual", SETTINGS)
    with pytest.raises(UserError, match=r"belongs to a run with lr = 0\.01, not 0\.5"):
        run.join("net1", "dual", SETTINGS.replace(lr=0.5))
    assert sorted(run.roles) == ["net1", "net2"]


def test_reading_what_is_not_there_says_why(tmp_path):
    with pytest.raises(UserError, match="this is no run"):
        Run(tmp_path).config()
    Run(tmp_path).start("dual", SETTINGS)
    with pytest.raises(UserError, match=r"no summary\.json in .*: the run has not finished"):
        Run(tmp_path).summary()
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        Run(tmp_path).config()
