"""Curves: what is drawn, in which formats."""

import numpy as np
import pytest

from dualnet.errors import UserError
from dualnet.methods.dual.settings import DualConfig
from dualnet.plot import draw, smooth
from dualnet.run import Run


def make_run(folder, roles=("net1", "net2"), loss=1.0):
    run = Run(folder)
    run.start("dual", DualConfig().resolved())
    for role in roles:
        metrics = run.open_metrics(role, {})
        for step in (10, 20, 30):
            accuracy = {} if role == "net1" else {"accuracy": step / 100}
            metrics.write({"step": step, "split": "train", "loss": loss / step, **accuracy})
        if role != "net1":
            metrics.write({"step": 30, "split": "test", "loss": 1.0, "accuracy": 0.4,
                           "dual/accuracy_merged": 0.3})
    return folder


def test_smoothing_by_hand():
    # weight 0.5: m = 2, 3, 1.5; divided by 1/2, 3/4, 7/8
    assert smooth(np.array([4.0, 4.0, 0.0]), 0.5).tolist() == pytest.approx([4, 4, 12 / 7])


@pytest.mark.parametrize(("suffix", "start"), [
    ("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_runs_are_drawn_in_every_format(tmp_path, suffix, start):
    single = make_run(tmp_path / "a", roles=["single"])
    path = tmp_path / f"out.{suffix}"
    draw([make_run(tmp_path / "b"), single], [path])
    assert path.read_bytes().startswith(start)


def test_the_figure_holds_the_numbers_of_the_run(tmp_path):
    path = tmp_path / "out.svg"
    draw([make_run(tmp_path / "my-run")], [path])
    text = path.read_text()
    for label in ("loss of net1 at the cut", "classification loss", "accuracy", "iteration",
                  "admm", "test images through conv3'", "test images through conv3"):
        assert f"<!-- {label} -->" in text


def test_a_loss_that_was_not_finite_leaves_a_gap(tmp_path):
    run = make_run(tmp_path / "run", loss=float("nan"))
    draw([run], [tmp_path / "out.png"])
    assert (tmp_path / "out.png").stat().st_size > 10_000


@pytest.mark.parametrize(("name", "sentence"), [
    ("out.xyz", r"cannot write .*out\.xyz"), ("missing/out.png", "No such file or directory")])
def test_a_figure_that_cannot_be_written_is_refused(tmp_path, name, sentence):
    with pytest.raises(UserError, match=sentence):
        draw([make_run(tmp_path / "run")], [tmp_path / name])


def test_a_folder_without_metrics_is_refused(tmp_path):
    with pytest.raises(UserError, match="nothing to draw"):
        draw([tmp_path], [tmp_path / "out.png"])
