"""Curves: what is drawn, in which formats."""

import re

import numpy as np
import pytest

from dualnet.cli import main
from dualnet.config import TrainConfig
from dualnet.errors import UserError
from dualnet.methods.dual.settings import DualConfig
from dualnet.panels import METRICS, PANELS, with_chain_as_pair
from dualnet.plot import draw, smooth
from dualnet.run import Run


def make_run(folder, roles=("net1", "net2"), loss=1.0, collapsed=False, diverged=None,
             **settings):
    """Three lines of metrics per role, after 10, 20 and 30 iterations of half a second."""
    run = Run(folder)
    if roles == ["single"]:
        run.start("single", TrainConfig(**settings))
    else:
        run.start("dual", DualConfig(**settings).resolved())
    for role in roles:
        metrics = run.open_metrics(role, {})
        figures = {
            "net1": {"dual/norm_x": 3.0, "dual/residual": 0.1, "dual/grad_norm": 1.0,
                     "dual/dead_x": 0.2},
            "net2": {"dual/norm_y": 4.0, "dual/grad_norm": 2.0, "dual/dead_y": 0.3},
            "single": {"single/grad_norm": 2.0}}[role]
        for step in (10, 20, 30):
            accuracy = {} if role == "net1" else {"accuracy": step / 100}
            collapse = {"dual/collapsed": collapsed and step > 10} if role == "net2" else {}
            metrics.write({"step": step, "time_s": step / 2, "split": "train", "generation": 1,
                           "loss": loss / step, **accuracy, **figures, **collapse})
        if role != "net1":
            metrics.write({"step": 30, "time_s": 16.0, "split": "test", "generation": 1,
                           "loss": 1.0, "accuracy": 0.4, "dual/accuracy_merged": 0.3})
    if diverged is not None:
        run.write_divergence(diverged, "the loss is nan")
    return folder


def words_of(folders, path, **options):
    """All that is written in the figure: matplotlib's svg has each text as a comment."""
    draw(folders, [path], **options)
    return set(re.findall("<!-- (.*) -->", path.read_text()))


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


def test_the_figure_says_what_it_shows(tmp_path):
    words = words_of([make_run(tmp_path / "my-run")], tmp_path / "out.svg")
    assert {"loss at the cut", "classification loss", "accuracy", "iteration", "admm",
            "test images through conv3'", "test images through conv3"} <= words
    assert "mean norm at the cut" not in words and "diverged" not in words


TITLES = {"loss": "classification loss", "accuracy": "accuracy", "norms": "mean norm at the cut",
          "residual": "residual |x - y| / |y|", "grad_norm": "norm of all gradients",
          "dead": "share of dead units"}


@pytest.mark.parametrize("metric", METRICS)
def test_a_metric_is_drawn_where_it_is_asked_for(tmp_path, metric):
    words = words_of([make_run(tmp_path / "run")], tmp_path / "out.svg", metrics=[metric])
    assert words & set(TITLES.values()) == {TITLES[metric]}


def test_both_roles_share_an_axis_and_a_single_net_has_no_norms_to_draw(tmp_path):
    dual, single = make_run(tmp_path / "a"), make_run(tmp_path / "b", roles=["single"])
    assert {"conv3 of net1", "conv3' of net2"} <= words_of(
        [dual, single], tmp_path / "out.svg", metrics=["norms"])
    titles = set(TITLES.values()) & words_of([single], tmp_path / "out.svg", metrics=METRICS)
    assert titles == {"classification loss", "accuracy", "norm of all gradients"}
    with pytest.raises(UserError, match="no run has norms in its metrics"):
        draw([single], [tmp_path / "out.svg"], metrics=["norms"])


def test_the_roles_of_a_chain_take_the_places_of_a_pair():
    chain = {f"net{number}": [{"step": number}] for number in (1, 2, 3, 4)}
    assert with_chain_as_pair(chain) == {
        "net1": [{"step": 1}], "middle2": [{"step": 2}], "middle3": [{"step": 3}],
        "net2": [{"step": 4}]}
    for plain in ({"net1": [], "net2": []}, {"single": []}, {"net2": []}):
        assert with_chain_as_pair(plain) == plain
    at_the_cut, classification = (panel for panel in PANELS if panel.metric == "loss")
    assert {"net1", "middle2", "middle7"} <= at_the_cut.keys.keys()
    assert "middle2" not in classification.keys


def test_time_runs_in_seconds(tmp_path):
    words = words_of([make_run(tmp_path / "run")], tmp_path / "out.svg", x="time")
    assert "seconds of training" in words and "iteration" not in words
    assert "16" in words and "30" not in words        # the last line is 16 s old, 30 steps in


def test_the_legend_names_the_settings_that_differ_and_each_variant_once(tmp_path):
    runs = [make_run(tmp_path / name, **settings) for name, settings in {
        "a": {"lr": 0.01, "seed": 0}, "b": {"lr": 0.01, "seed": 1}, "c": {"lr": 0.1}}.items()]
    assert {"admm, lr 0.01", "admm, lr 0.1"} <= words_of(runs, tmp_path / "out.svg")
    assert {"admm, seed 0", "admm, seed 1"} <= words_of(runs[:2], tmp_path / "out.svg")


def test_the_figure_says_which_runs_collapsed_or_diverged(tmp_path):
    runs = [make_run(tmp_path / "a", collapsed=True, seed=0),
            make_run(tmp_path / "b", seed=1), make_run(tmp_path / "c", roles=["single"],
                                                       diverged=20)]
    words = words_of(runs, tmp_path / "out.svg")
    assert {"admm (1 of 2 COLLAPSED)", "single (DIVERGED)", "collapsed from here on",
            "diverged"} <= words


def test_a_collapse_that_a_run_recovered_from_is_not_marked(tmp_path):
    run = make_run(tmp_path / "run", collapsed=True)
    Run(run).open_metrics("net2", {}).write({"step": 40, "time_s": 20.0, "split": "train",
                                             "generation": 1, "loss": 1.0,
                                             "dual/collapsed": False})
    assert not any("COLLAPSED" in word for word in words_of([run], tmp_path / "out.svg"))


def test_a_run_that_diverges_does_not_flatten_the_others(tmp_path):
    good = make_run(tmp_path / "a", roles=["single"])
    bad = make_run(tmp_path / "b", roles=["single"], loss=1e25, diverged=31, lr=1.0)
    scale = {"1e24", "1e25"}                                      # what stands above such an axis
    assert not scale & words_of([bad, good], tmp_path / "out.svg", metrics=["loss"])
    assert scale & words_of([bad], tmp_path / "out.svg", metrics=["loss"])


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_same_runs_give_the_same_bytes(tmp_path, suffix):
    run = make_run(tmp_path / "run", collapsed=True)
    paths = [tmp_path / f"{name}.{suffix}" for name in ("first", "second")]
    for path in paths:
        draw([run], [path], metrics=METRICS)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert b"dc:date" not in paths[0].read_bytes() and b"CreationDate" not in paths[0].read_bytes()


@pytest.mark.parametrize(("words", "sentence"), [
    (["--metric", "norm"], "did you mean norms?"), (["--x", "times"], "did you mean time?"),
    (["--smooth", "1"], "from 0 to below 1, found 1")])
def test_a_wrong_word_is_refused(tmp_path, capsys, words, sentence):
    assert main(["plot", str(make_run(tmp_path / "run")), *words]) == 2
    assert sentence in capsys.readouterr().err


def test_the_command_draws_all_there_is(tmp_path, capsys):
    path = tmp_path / "out.svg"
    code = main(["plot", str(make_run(tmp_path / "run")), "--metric", "all", "--smooth", "0",
                 "-o", str(path)])
    assert (code, capsys.readouterr().out) == (0, f"{path}\n")
    assert all(f"<!-- {title} -->" in path.read_text() for title in TITLES.values())


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
