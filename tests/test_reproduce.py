"""The ledger, the report, the targets and the command that joins them."""

import dataclasses
import json
import re

import numpy as np
import pytest
from matplotlib import pyplot
from official_files import write_cifar100, write_svhn

from dualnet.cli import main
from dualnet.config import TrainConfig, flag
from dualnet.errors import DataError
from dualnet.methods.dual.settings import DualConfig
from dualnet.reproduce.figure import _draw_curves, limits
from dualnet.reproduce.ledger import KEYS, Key, Ledger
from dualnet.reproduce.measure import missing, tasks
from dualnet.reproduce.report import render
from dualnet.reproduce.rows import Row, said
from dualnet.reproduce.target import SCALES, Published, Target, Variant, digest
from dualnet.reproduce.targets import TARGETS

SETTINGS = TrainConfig(data="shapes", iterations=7)


def line_of(variant="a", seed=0, ours=0.5, **changes):
    """A line as a measurement of `SETTINGS` would give it."""
    return {
        "target": "t", "variant": variant, "seed": seed, "scale": "cpu",
        "config": digest(SETTINGS.replace(seed=seed)), "figure": "accuracy", "ours": ours,
        "unit": "share", "published": [], "iterations": 7, "data": "shapes",
        "data_official": None, "device": "cpu", "device_name": "a processor", "threads": 1,
        "versions": {}, "commit": "c" * 40, "dirty": False, "date": "2026-01-02T03:04:05+00:00",
        "command": "", "wall_s": 1.5, "figures": {"accuracy": ours, "loss1_last": 2.0},
        "curves": {}, **changes}


def target_of(*variants):
    return Target("t", "A paper, figure 1", "something", dict.fromkeys(SCALES, "a minute"),
                  lambda scale: list(variants))


def variant_of(name, published=None):
    return Variant(name, SETTINGS, published or {})


# -- the ledger ------------------------------------------------------------------------------------

def test_a_line_is_read_as_it_was_appended_and_nothing_before_it_changes(tmp_path):
    ledger = Ledger(tmp_path / "new" / "folder", "t")
    assert ledger.lines() == []
    ledger.append(line_of(ours=0.25))
    before = ledger.path.read_bytes()
    ledger.append(line_of(seed=1, figures={"accuracy": float("nan"), "deep": [float("inf"), 1.0]}))
    assert ledger.path.read_bytes().startswith(before)
    first, second = ledger.lines()
    assert first == line_of(ours=0.25)
    assert second["figures"] == {"accuracy": None, "deep": [None, 1.0]}     # JSON has no nan


def test_a_line_without_a_key_is_not_written(tmp_path):
    ledger = Ledger(tmp_path, "t")
    line = line_of()
    del line["wall_s"]
    with pytest.raises(ValueError, match="wall_s"):
        ledger.append(line)
    assert not ledger.path.exists()


@pytest.mark.parametrize(("damage", "said"), [
    ('{"target": "t", "vari', "no JSON"), ("[]", "target"), ("7", "no JSON"),
    (json.dumps({key: 0 for key in KEYS if key != "date"}), "missing is date")])
def test_a_damaged_line_is_refused_by_file_and_number(tmp_path, damage, said):
    ledger = Ledger(tmp_path, "t")
    ledger.append(line_of())
    ledger.path.write_text(ledger.path.read_text() + damage + "\n")
    with pytest.raises(DataError, match=rf"t\.jsonl, line 2: .*{said}"):
        ledger.lines()


def test_the_newest_line_of_a_key_counts(tmp_path):
    ledger = Ledger(tmp_path, "t")
    for ours in (0.1, 0.2):
        ledger.append(line_of(ours=ours))
    assert [line["ours"] for line in ledger.lines()] == [0.1, 0.2]
    key = Key("a", 0, "cpu", digest(SETTINGS))
    assert {key: line["ours"] for key, line in ledger.latest().items()} == {key: 0.2}


def grown(config, **defaults):
    """`config` as it may be one day, with settings of which nobody knows yet."""
    fields = [(name, type(value), flag(value, "new")) for name, value in defaults.items()]
    return dataclasses.make_dataclass(config.__name__, fields, bases=(config,), frozen=True)


def test_only_what_changes_the_result_and_is_not_the_default_names_a_measurement():
    same = digest(SETTINGS)
    assert digest(SETTINGS.replace(device="cpu", threads=3, data_dir="elsewhere")) == same
    assert digest(grown(TrainConfig, new=7)(data="shapes", iterations=7)) == same
    assert digest(grown(TrainConfig, new=7)(data="shapes", iterations=7, new=8)) != same
    others = [SETTINGS.replace(lr=0.5), SETTINGS.replace(seed=1),
              DualConfig(data="shapes", iterations=7)]
    assert len({same, *map(digest, others)}) == 4


def test_what_the_ledger_holds_is_not_measured_again(tmp_path):
    ledger = Ledger(tmp_path, "t")
    planned = tasks(target_of(variant_of("a"), variant_of("b")), "cpu", [0, 1], {})
    assert [(task.variant.name, task.settings.seed) for task in planned] == [
        ("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert missing(planned, ledger) == planned
    ledger.append(line_of("a", 0))
    ledger.append(line_of("b", 0, scale="gpu"))         # another scale
    ledger.append(line_of("a", 1, config="00000000"))   # other settings
    assert missing(planned, ledger) == planned[1:]


# -- the report ------------------------------------------------------------------------------------

def row_of(report, variant, figure="accuracy"):
    found = re.search(rf"^\| {variant} \| {figure} \|.*$", report, re.M)
    return Row(*(cell.strip() for cell in found.group().strip("|").split("|")))


def test_the_report_has_the_mean_and_the_sample_standard_deviation(tmp_path):
    # 50, 53 and 59 %: mean 54; deviations -4, -1, 5, squares 16 + 1 + 25 = 42, root of 42/2 4.58
    ledger = Ledger(tmp_path, "t")
    for seed, ours in enumerate((0.50, 0.53, 0.59)):
        ledger.append(line_of("a", seed, ours))
    published = {"accuracy": [Published(0.6375, "a table"), Published(None, "in words"),
                              Published(0.5, "a log")],
                 "loss1_last": [Published(105.0, "a log")]}
    report = render([target_of(variant_of("a", published), variant_of("b"))], tmp_path)
    assert row_of(report, "a") == Row(
        "a", "accuracy", "63.75 % (a table); in words; 50.00 % (a log)", "54.00 %",
        "-9.75; +4.00", "4.58 %", "3", "-", "cpu: shapes, 7 iterations",
        "a processor, 1 thread", "2026-01-02")
    assert row_of(report, "a", "loss1_last")[2:7] == ("105 (a log)", "2", "-103", "0", "3")
    assert row_of(report, "b")[2:7] == ("-", "not measured", "-", "-", "0")
    assert "`dualnet reproduce t --scale cpu --seeds 0,1,2`, 4 s in all; commit cccccccc." in report


def test_a_variant_stands_beside_its_reference_seed_by_seed(tmp_path):
    # c less a: +3, +5 and +4 points, mean 4, deviation 1; t of 2 degrees of freedom 4.303, so the
    # interval is 4 -+ 4.303 / sqrt(3) = 4 -+ 2.484.  The seed 7 of c has no partner.
    # b less a: -2, +2 and +0, mean 0, deviation 2, interval 0 -+ 4.97
    ledger = Ledger(tmp_path, "t")
    values = {"a": (0.5, 0.6, 0.7), "b": (0.48, 0.62, 0.7), "c": (0.53, 0.65, 0.74)}
    for name, found in values.items():
        for seed, ours in enumerate(found):
            ledger.append(line_of(name, seed, ours))
    ledger.append(line_of("c", 7, 0.1))
    ledger.append(line_of("d", 1, 0.5))
    ledger.append(line_of("e", 1, None))
    target = dataclasses.replace(target_of(*map(variant_of, "zabcde")), references=("a",))
    report = render([target], tmp_path)
    assert row_of(report, "z").paired == row_of(report, "a").paired == "-"
    assert row_of(report, "b").paired == (
        "+0.00 [-4.97, +4.97] (3) to a: no difference shown")
    assert row_of(report, "c").paired == "+4.00 [+1.52, +6.48] (3) to a: higher"
    assert row_of(report, "d").paired == "-10.00 (1) to a: one seed shows nothing"
    assert row_of(report, "e").paired == "-"


def test_a_figure_that_no_line_has_is_told_from_one_that_was_not_reached(tmp_path):
    ledger, goal, names = Ledger(tmp_path, "t"), "seconds_to_40_percent", ("old", "slow", "fast")
    for name, more in zip(names, ({}, {goal: None}, {goal: 7.0}), strict=True):
        line = line_of(name, 0, 0.5)
        ledger.append({**line, "figures": {**line["figures"], **more}})
    report = render([target_of(*(variant_of(name, {goal: []}) for name in names))], tmp_path)
    assert [row_of(report, name, goal).ours for name in names] == [
        "not measured", "not reached", "7"]


def test_a_target_without_lines_says_so_and_how_to_measure_it(tmp_path):
    report = render([target_of(variant_of("a"))], tmp_path)
    assert row_of(report, "a").ours == "not measured"
    assert ("`dualnet reproduce t --scale cpu --seeds 0,1`, a minute; not measured yet."
            in report)


def test_a_remark_stands_above_the_table(tmp_path):
    target = dataclasses.replace(target_of(variant_of("a")), remark="Mind the gap.")
    assert "something.\n\nMind the gap.\n\n| variant" in render([target], tmp_path)
    counts = {"parameters": [Published(18_224.0, "a table")]}
    assert row_of(render([target_of(variant_of("a", counts))], tmp_path), "a",
                  "parameters").published == "18,224 (a table)"


def test_runs_that_diverged_are_told_and_stay_out_of_the_mean(tmp_path):
    ledger = Ledger(tmp_path, "t")
    for seed, step in ((0, 7), (1, 9)):
        ledger.append(line_of("a", seed, None, figures={"accuracy": None, "diverged_at": step}))
    row = row_of(render([target_of(variant_of("a"))], tmp_path), "a")
    assert (row.ours, row.spread, row.n) == ("2 of 2 diverged, in iteration 7, 9", "-", "0")
    ledger.append(line_of("a", 2, 0.25))
    row = row_of(render([target_of(variant_of("a"))], tmp_path), "a")
    assert (row.ours, row.spread, row.n) == (
        "25.00 % (2 of 3 diverged, in iteration 7, 9)", "-", "1")


def test_lines_of_other_settings_stay_out_of_the_mean(tmp_path):
    ledger = Ledger(tmp_path, "t")
    ledger.append(line_of(ours=0.2))
    ledger.append(line_of(ours=0.8, config="00000000"))
    assert row_of(render([target_of(variant_of("a"))], tmp_path), "a").ours == "20.00 %"


def test_a_value_is_said_in_the_unit_of_its_figure():
    assert said("accuracy@750", 0.5) == "50.00 %" and said("loss1_last", 948.31) == "948.3"


# -- the figure ------------------------------------------------------------------------------------

def test_an_axis_shows_where_curves_begin_and_end_but_no_explosion_between():
    assert limits([[10.0, 1e30, 2.0], [12.0, 7.0]], "linear") == (0.0, 14.0)     # 2, 12; 10 / 5 = 2
    assert limits([[8.0, 1e30, 4.0]], "log") == (2.0, 16.0)
    assert limits([[8.0, 1e-25], [8.0, 0.0]], "log") == (4.0, 16.0)     # the tail is below the axis
    assert limits([[0.0, 0.0]], "log") == (0.5, 2.0)
    assert limits([[0.5, 0.9, 0.6]], "linear") == pytest.approx((0.42, 0.98))    # shares: all
    assert limits([[3.0, 3.0]], "linear") == pytest.approx((2.8, 3.2))


def test_a_curve_with_two_values_at_one_place_is_marked_there():
    # a merge at 2: the loss falls from 0.5 to 0.25 there
    lines = [line_of(curves={"test_loss": [[1, 1.0], [2, 0.5], [2, 0.25], [3, 0.125]]}),
             line_of("b", curves={"test_loss": [[1, 1.0], [3, 0.5]]}),
             line_of("a", seed=1, curves={"test_loss": [[1, 9.0]]})]
    figure = pyplot.figure()
    axis = figure.subplots()
    _draw_curves(axis, "test_loss", "log", [variant_of("a"), variant_of("b")], lines)
    marks = [line for line in axis.lines if line.get_linestyle() == ":"
             and list(line.get_xdata()) == [2, 2]]
    rings = [line for line in axis.lines if line.get_marker() == "o" and len(line.get_xdata())]
    assert len(marks) == len(rings) == 1
    assert rings[0].get_xydata().tolist() == [[2, 0.5], [2, 0.25]]
    assert axis.get_xlabel() == "epoch" and axis.get_ylim() == (0.0625, 2.0)
    pyplot.close(figure)


# -- the targets -----------------------------------------------------------------------------------

@pytest.mark.parametrize("name", TARGETS)
def test_every_target_says_what_was_published_and_what_it_costs(name):
    target = TARGETS[name]
    assert target.name == name and target.paper and target.shows
    assert set(target.cost) == set(SCALES)
    published = [each for variant in target.variants("full")
                 for found in variant.published.values() for each in found]
    assert published and all(each.source for each in published)
    assert set(target.references) <= {variant.name for variant in target.variants("full")}
    for scale in SCALES:
        variants = target.variants(scale)
        names = [variant.name for variant in variants]
        assert len(set(names)) == len(names)
        settings = [variant.settings for variant in variants]
        assert len({digest(each) for each in settings}) == len(names)
        assert all(each == getattr(each, "resolved", lambda each=each: each)()
                   for each in settings)
        assert scale != "smoke" or all(each.iterations <= 3 or each.data == "auto"
                                       for each in settings)


def test_shares_are_published_as_shares():
    for target in TARGETS.values():
        for variant in target.variants("full"):
            for figure, found in variant.published.items():
                for each in found:
                    if figure.startswith("accuracy") and each.value is not None:
                        assert 0 < each.value < 1, (target.name, variant.name)


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """A few images in the files of the data sets that targets take at scale smoke."""
    return write_cifar100(write_svhn(tmp_path_factory.mktemp("official")))


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_every_target_can_be_measured_drawn_and_reported(name, official, tmp_path, capsys):
    words = ["reproduce", name, "--scale", "smoke", "--seeds", "0", "--device", "cpu",
             "--data-dir", str(official), "--out", str(tmp_path / "runs"),
             "--results", str(tmp_path / "results")]
    assert main(words) == 0
    variants = TARGETS[name].variants("smoke")
    lines = Ledger(tmp_path / "results", name).lines()
    assert [line["variant"] for line in lines] == [variant.name for variant in variants]
    assert all(line["ours"] is not None or line["figures"]["diverged_at"] for line in lines)
    figure = (tmp_path / "results" / f"{name}.png").read_bytes()
    assert figure.startswith(b"\x89PNG") and len(figure) < 120_000
    progress = capsys.readouterr().err.splitlines()
    assert len(progress) == 1 + len(variants) and "ETA 0:00:00" in progress[-1]

    assert main([*words, "--report"]) == 0          # all there: nothing is measured again
    assert Ledger(tmp_path / "results", name).lines() == lines
    assert f"{len(variants)} in" in capsys.readouterr().err
    report = (tmp_path / "results" / "README.md").read_text()
    section = report.partition(f"## {name}\n")[2].partition("\n## ")[0]
    assert section.count("| smoke: ") >= len(variants) and f"({name}.png)" in section
    assert "not measured" not in section


# -- the command -----------------------------------------------------------------------------------

def test_the_list_has_every_target_with_its_cost_at_each_scale(capsys):
    assert main(["reproduce", "--list"]) == 0
    text = capsys.readouterr().out
    for target in TARGETS.values():
        section = re.search(rf"^{target.name}\n((?:  .*\n?)+)", text, re.M)[1]
        assert target.paper in section and target.shows in section
        for scale in SCALES:
            assert re.search(rf"^ +{scale} +{re.escape(target.cost[scale])}$", section, re.M)
    assert "caffe-fidelity" in text


@pytest.mark.parametrize(("words", "sentence"), [
    (["thesis-9.7"], r"unknown target 'thesis-9.7'; did you mean thesis-9\.\d\?"),
    ([], "needs a target, --all, --list, --report or --verify"),
])
def test_a_wrong_target_is_a_sentence(words, sentence, capsys):
    assert main(["reproduce", *words]) == 2
    assert re.search(sentence, capsys.readouterr().err)


def test_a_damaged_ledger_ends_the_command_with_its_own_code(tmp_path, capsys):
    (tmp_path / "thesis-9.4.jsonl").write_text("{}\n")
    words = ["--scale", "smoke", "--results", str(tmp_path), "--out", str(tmp_path / "runs")]
    assert main(["reproduce", "thesis-9.4", *words]) == 65
    assert "thesis-9.4.jsonl, line 1" in capsys.readouterr().err


def test_again_adds_a_line_instead_of_replacing_one(tmp_path):
    words = ["reproduce", "thesis-9.4", "--scale", "smoke", "--device", "cpu", "--results",
             str(tmp_path), "--out", str(tmp_path / "runs")]
    assert main(words) == main([*words, "--again"]) == 0
    lines = Ledger(tmp_path, "thesis-9.4").lines()
    assert [line["seed"] for line in lines] == [0] * 6      # the seed changes nothing here
    assert [line["variant"] for line in lines[:3]] == [line["variant"] for line in lines[3:]]


# -- caffe-fidelity --------------------------------------------------------------------------------

def golden_set(folder, factor=1.0):
    """One case, by hand: a ReLU of four numbers and the gradient through it."""
    x, dy = np.array([[-1.0, 2.0, -3.0, 4.0]]), np.array([[5.0, 6.0, 7.0, 8.0]])
    folder.mkdir()
    arrays = {"x": x, "dy": dy, "y": np.array([[0.0, 2.0, 0.0, 4.0 * factor]]),
              "dx": np.array([[0.0, 6.0, 0.0, 8.0]])}
    np.savez(folder / "relu.npz", **{f"basic__{name}": array.astype(np.float32)
                                     for name, array in arrays.items()})
    (folder / "cases.json").write_text(json.dumps({"relu": {"basic": {"keys": {
        name: list(array.shape) for name, array in arrays.items()}}}}))
    return folder


def test_the_comparison_with_caffe_writes_its_table_and_names_what_differs(tmp_path, capsys):
    words = ["reproduce", "caffe-fidelity", "--results", str(tmp_path), "--golden"]
    assert main([*words, str(golden_set(tmp_path / "same"))]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("1 of 1 cases within tolerance") and not said.err
    assert "| relu | basic |" in (tmp_path / "caffe_fidelity.md").read_text()
    assert "(caffe_fidelity.md)" in render([], tmp_path)
    assert main([*words, str(golden_set(tmp_path / "other", factor=1.01))]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("0 of 1 cases")
    assert said.err == "differs from Caffe: relu basic, array y\n"


@pytest.mark.parametrize(("words", "sentence"), [
    ([], "needs --golden DIR"), (["--golden", "nowhere"], "nowhere is no folder")])
def test_the_comparison_with_caffe_asks_for_its_arrays(words, sentence, capsys):
    assert main(["reproduce", "caffe-fidelity", *words]) == 2
    assert sentence in capsys.readouterr().err
