"""The table of a comparison: its arithmetic, its forms, and a comparison that is interrupted."""

import csv
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from official_files import write_cifar10

from dualnet import fingerprint
from dualnet.cli import build_parser, main
from dualnet.cli.plan import Planned, digest_of, plan_of
from dualnet.compare import Folder, compare, markdown, rows_csv, runs_csv, text
from dualnet.config import TrainConfig
from dualnet.errors import UserError
from dualnet.methods.dual.settings import DualConfig
from dualnet.run import Run
from dualnet.variants import differing, labels

ROOT = Path(__file__).resolve().parent.parent
DEADLINE_S = 120


def make(folder, accuracy, *, merged=None, single=False, diverged=None, collapsed=False,
         **settings):
    """A run folder as training leaves it, without the training."""
    run = Run(folder)
    if single:
        run.start("single", TrainConfig(**settings))
    else:
        run.start("dual", DualConfig(**settings).resolved())
    if diverged is not None:
        run.write_divergence(diverged, "the loss is nan")
        return run
    scores = {"test_accuracy": accuracy} | ({} if merged is None else
                                            {"test_accuracy_merged": merged})
    run.write_summary({**scores, "wall_s": 2.0, "bytes_exchanged": 0 if single else 3_000_000,
                       "collapsed": collapsed})
    return run


@pytest.fixture
def runs(tmp_path):
    """
        seed   single   admm           difference   euclidean
        0      0.50     0.52 (0.51)    +0.02        0.10, collapsed
        1      0.60     0.56 (0.55)    -0.04        diverged in iteration 7
        2      0.70     0.72 (0.71)    +0.02        0.16
    """
    made = [make(tmp_path / f"single-s{seed}", accuracy, single=True, seed=seed)
            for seed, accuracy in enumerate((0.5, 0.6, 0.7))]
    made += [make(tmp_path / f"admm-s{seed}", accuracy, merged=accuracy - 0.01, seed=seed)
             for seed, accuracy in enumerate((0.52, 0.56, 0.72))]
    euclidean = {"loss": "euclidean", "merged": 0.1}
    made.append(make(tmp_path / "euclidean-s0", 0.10, collapsed=True, seed=0, **euclidean))
    made.append(make(tmp_path / "euclidean-s1", None, diverged=7, seed=1, **euclidean))
    made.append(make(tmp_path / "euclidean-s2", 0.16, seed=2, **euclidean))
    return made


def test_mean_deviation_and_paired_difference_by_hand(runs):
    single, admm, euclidean = compare(runs).rows
    # 0.5, 0.6, 0.7: mean 0.6, deviations -0.1, 0, 0.1, sum of squares 0.02 over n - 1 = 2
    assert single.spread("accuracy") == pytest.approx((0.6, 0.1, 3))
    assert single.spread("merged") is None and single.spread("difference") is None
    # 0.52, 0.56, 0.72: mean 0.6, deviations -0.08, -0.04, 0.12: squares 0.0224 over 2
    assert admm.spread("accuracy") == pytest.approx((0.6, math.sqrt(0.0112), 3))
    assert admm.spread("merged") == pytest.approx((0.59, math.sqrt(0.0112), 3))
    # +0.02, -0.04, +0.02: mean 0, squares 0.0004 + 0.0016 + 0.0004 over 2
    assert admm.spread("difference") == pytest.approx((0.0, math.sqrt(0.0012), 3), abs=1e-12)
    # 0.10 and 0.16; against 0.5 and 0.7: -0.40 and -0.54, mean -0.47, squares 2 * 0.0049 over 1
    assert euclidean.spread("accuracy") == pytest.approx((0.13, math.sqrt(0.0018), 2))
    assert euclidean.spread("difference") == pytest.approx((-0.47, math.sqrt(0.0098), 2))
    assert [row.collapsed for row in (single, admm, euclidean)] == [0, 0, 1]
    assert euclidean.spread("bytes").mean == 3e6 and euclidean.spread("seconds").mean == 2.0


def test_one_value_has_a_mean_and_no_deviation(runs):
    row = compare([runs[0], runs[3]]).rows[1]
    assert row.spread("difference") == (pytest.approx(0.02), None, 1)
    assert "+2.00" in text(compare([runs[0], runs[3]]))


def test_a_diverged_run_is_a_row_that_says_so(runs):
    table = compare(runs)
    assert table.rows[2].diverged == [7] and len(table.rows[2].outcomes) == 3
    lines = text(table).splitlines()
    assert any(line.startswith("euclidean-s1") and "DIVERGED at iteration 7" in line
               for line in lines)
    assert any(line.startswith("euclidean ") and "DIVERGED 1 of 3 (at 7)" in line
               for line in lines)


def test_a_run_that_is_not_over_is_refused(tmp_path):
    Run(tmp_path / "run").start("dual", DualConfig().resolved())
    with pytest.raises(UserError, match="has not finished"):
        compare([Run(tmp_path / "run")])


def test_csv_gives_the_numbers_back_unrounded(runs):
    table = compare(runs)
    rows = {row["variant"]: row for row in csv.DictReader(io.StringIO(rows_csv(table)))}
    assert list(rows) == ["single", "admm", "euclidean"]
    assert float(rows["admm"]["accuracy_sd"]) == pytest.approx(math.sqrt(0.0112), rel=1e-15)
    assert rows["single"]["merged_mean"] == "" and rows["single"]["merged_n"] == "0"
    assert (rows["euclidean"]["diverged"], rows["euclidean"]["diverged_at"]) == ("1", "7")
    runs_found = list(csv.DictReader(io.StringIO(runs_csv(table))))
    assert [run["name"] for run in runs_found] == [run.folder.name for run in runs]
    assert float(runs_found[4]["difference"]) == pytest.approx(-0.04)
    assert runs_found[7]["accuracy"] == "" and runs_found[7]["diverged"] == "7"


def test_markdown_gives_both_tables_back(runs):
    blocks = markdown(compare(runs)).split("\n\n")
    variants, by_run = ([[cell.strip() for cell in line.strip("|").split("|")]
                         for line in block.splitlines()] for block in blocks[:2])
    assert variants[1] == by_run[1][:7] == ["---"] * 7
    assert all(len(line) == 7 for line in variants) and all(len(line) == 8 for line in by_run)
    # the mean of +2, -4, +2 points is a rounding error, which must not read "-0.00"
    assert variants[3][:4] == ["admm", "60.00 +- 10.58 (3)", "59.00 +- 10.58 (3)",
                               "+0.00 [-8.61, +8.61] (3)"]
    assert [line[0] for line in by_run[2:]] == [run.folder.name for run in runs]


def test_settings_that_differ_are_named_and_those_of_the_machine_are_not(tmp_path):
    runs = [make(tmp_path / name, 0.5, **settings) for name, settings in {
        "a": {"lr": 0.01, "seed": 0}, "b": {"lr": 0.01, "seed": 1, "threads": 1},
        "c": {"lr": 0.1, "seed": 0, "data_dir": "elsewhere"}}.items()]
    table = compare(runs)
    # net1's own rate follows that of net2 for admm
    assert table.settings == ["lr", "seed", "lr_net1"]
    assert [(row.variant, len(row.outcomes)) for row in table.rows] == [
        ("admm, lr 0.01", 2), ("admm, lr 0.1", 1)]
    assert "Settings that differ: lr, seed, lr_net1." in text(table)


def test_labels_hold_no_more_than_is_needed():
    def config(**settings):
        dual = DualConfig(**settings).resolved()
        return {"method": "dual", **dual.to_dict()}
    single = {"method": "single", **TrainConfig().to_dict()}
    assert labels([config(), single, config(loss="euclidean")]) == ["admm", "single", "euclidean"]
    assert labels([config(seed=1), config(seed=2)]) == ["admm", "admm"]
    assert labels([config(mirror=True), config(), single]) == [
        "admm, mirror", "admm, no mirror", "single, no mirror"]
    assert differing([config(), single]) == ["method"]


def test_a_run_is_paired_with_the_single_net_that_is_nearest(tmp_path):
    runs = [make(tmp_path / "far", 0.1, single=True, lr=0.5),
            make(tmp_path / "near", 0.4, single=True, lr=0.01),
            make(tmp_path / "longer", 0.9, single=True, lr=0.01, iterations=2000),
            make(tmp_path / "other seed", 0.8, single=True, lr=0.01, seed=1),
            make(tmp_path / "admm", 0.6, lr=0.01)]
    assert compare(runs).outcomes[-1].difference == pytest.approx(0.2)
    assert compare([runs[2], runs[3], runs[4]]).outcomes[-1].difference is None


def test_the_folder_is_named_by_what_changes_the_result():
    plan = [Planned("admm", DualConfig(threads=1)), Planned("single", TrainConfig())]
    assert digest_of(plan) == digest_of([Planned("single", TrainConfig(threads=2)),
                                     Planned("admm", DualConfig())])
    assert digest_of(plan) != digest_of([Planned("admm", DualConfig(lr=0.02)), plan[1]])


def test_a_variant_has_the_common_flags_and_its_own_which_win():
    words = ["--lr", "0.5", "--data", "shapes", "--threads", "1", "--seeds", "3,4", "--losses",
             "euclidean", "--single", "--variant", "fast=--schedule pipelined --micro_batches 2",
             "--variant", "slow=--lr 0.25 --loss euclidean"]
    plan = plan_of(build_parser().parse_args(["compare", *words]))
    assert [(planned.kind, planned.settings.seed) for planned in plan] == [
        (kind, seed) for seed in (3, 4) for kind in ("single", "euclidean", "fast", "slow")]
    common = {"lr": 0.5, "data": "shapes", "threads": 1}
    assert plan[2].settings == DualConfig(**common, seed=3, schedule="pipelined",
                                          micro_batches=2).resolved()
    assert plan[7].settings == DualConfig(**{**common, "lr": 0.25}, seed=4,
                                          loss="euclidean").resolved()
    assert plan[1].settings == DualConfig(**common, seed=3, loss="euclidean").resolved()


def test_a_table_of_trained_variants_has_the_names_they_were_given(runs):
    table = compare(runs, ["single"] * 3 + ["mine"] * 3 + ["yours"] * 3)
    assert [row.variant for row in table.rows] == ["single", "mine", "yours"]
    assert table.rows[1].spread("difference") == pytest.approx((0.0, math.sqrt(0.0012), 3),
                                                               abs=1e-12)


# -- the command, with real runs -------------------------------------------------------------------

def start(*words, folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DUALNET_DATA": str(folder)}
    return subprocess.Popen([sys.executable, "-m", "dualnet", "compare", *map(str, words)],
                            cwd=folder, env=environment, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


def finish(*words, folder):
    process = start(*words, folder=folder)
    out, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, out, err


SMALL = ["--data", "cifar10", "--batch-size", "20", "--iterations", "5", "--threads", "1",
         "--log-every", "2", "--out", "all"]


@pytest.mark.slow
def test_a_comparison_goes_on_where_it_was_killed(tmp_path):
    write_cifar10(tmp_path)
    words = ["--losses", "admm,frozen", "--seeds", "0,1", "--single", *SMALL]
    folder = tmp_path / "all"
    process = start(*words, folder=tmp_path)
    # runs come as single-s0, admm-s0, frozen-s0, single-s1, ...: kill it in or before the third
    deadline = time.monotonic() + DEADLINE_S
    while not (folder / "admm-s0" / "summary.json").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (folder / "table.txt").exists()
    before = (folder / "admm-s0" / "summary.json").stat().st_mtime_ns
    # Half a run: settings, and metrics that no training would have written.
    torn = Run(folder / "frozen-s1")
    torn.start("dual", _frozen(folder))
    torn.open_metrics("net1", {}).write({"step": 99, "split": "train", "generation": 1})
    with Folder(folder).held():
        code, _, err = finish(*words, folder=tmp_path)
        assert code == 2 and "another process trains in all" in err

    code, out, err = finish(*words, folder=tmp_path)
    assert code == 0, err
    assert (folder / "admm-s0" / "summary.json").stat().st_mtime_ns == before
    assert [line["step"] for line in torn.metrics("net1")] == [2, 4, 5]
    table = (folder / "table.txt").read_text()
    assert out.startswith(table)
    assert [line.split()[0] for line in table.split("\n\n")[0].splitlines()] == [
        "variant", "single", "admm", "frozen"]
    rows = list(csv.DictReader(io.StringIO((folder / "runs.csv").read_text())))
    for row in rows:
        summary = json.loads((folder / row["name"] / "summary.json").read_text())
        assert float(row["accuracy"]) == summary["test_accuracy"]
    assert fingerprint.of_png(folder / "curves.png") == fingerprint.fingerprint(
        (folder / "runs.csv").read_text())
    assert "6/6  frozen-s1" in err and "ETA 0:00:00" in err

    code, again, err = finish(*words, folder=tmp_path)
    assert (code, again) == (0, out) and "6 of them trained before" in err
    code, _, err = finish(*words, "--lr", "0.5", folder=tmp_path)
    assert code == 2 and "belongs to a run with lr = 0.01, not 0.5" in err


@pytest.mark.slow
def test_variants_of_the_schedule_are_trained_tabulated_and_found_again(tmp_path):
    write_cifar10(tmp_path)
    words = ["--single", "--seeds", "1", *SMALL, "--variant", "lockstep=", "--variant",
             "in-halves=--schedule pipelined --micro-batches 2"]
    code, out, err = finish(*words, folder=tmp_path)
    assert code == 0, err
    folder = tmp_path / "all"
    assert [line.split()[0] for line in (folder / "table.txt").read_text().split("\n\n")[0]
            .splitlines()] == ["variant", "single", "lockstep", "in-halves"]
    rows = {row["name"]: row for row in csv.DictReader((folder / "runs.csv").open())}
    assert list(rows) == ["single-s1", "lockstep-s1", "in-halves-s1"]
    config = json.loads((folder / "in-halves-s1" / "config.json").read_text())
    assert (config["schedule"], config["micro_batches"], config["seed"]) == ("pipelined", 2, 1)
    # the pipeline adds up the gradients of its halves: the numbers of lockstep
    assert rows["in-halves-s1"]["accuracy"] == rows["lockstep-s1"]["accuracy"]
    code, again, err = finish(*words, folder=tmp_path)
    assert (code, again) == (0, out) and "3 of them trained before" in err


def _frozen(folder):
    values = Run(folder / "admm-s0").config()
    values.pop("method")
    return DualConfig(**{**values, "loss": "frozen", "seed": 1, "lr_net1": None, "tie": False})


@pytest.mark.slow
def test_a_diverged_run_does_not_end_the_comparison_and_another_failure_does(tmp_path):
    write_cifar10(tmp_path)
    code, out, err = finish("--losses", "admm", "--single", *SMALL, "--iterations", "30", "--lr",
                            "1e6", folder=tmp_path)
    assert code == 0, err
    steps = [Run(tmp_path / "all" / name).divergence()["step"] for name in ("single-s0", "admm-s0")]
    for name, step in zip(("single-s0", "admm-s0"), steps, strict=True):
        assert any(line.startswith(name) and line.split()[-6:-2] == [
            "DIVERGED", "at", "iteration", str(step)] for line in out.splitlines()), out
    code, _, err = finish("--losses", "admm", *SMALL, "--out", "other", "--batch-size", "101",
                          folder=tmp_path)
    assert code == 65 and "batch larger than the data" in err
    assert "the same command again goes on there" in err


@pytest.mark.parametrize(("words", "sentence"), [
    ([], "compare needs something to compare"),
    (["--losses", "admn"], "did you mean admm?"),
    (["--losses", "admm", "--seeds", "0,-1"], "expected whole numbers from 0"),
    (["--losses", "admm", "--loss", "admm"], "unknown argument '--loss'; did you mean --losses?"),
    (["--losses", "admm,normalized_both", "--denominator", "target"], "found target"),
    (["nothing"], "this is no run"),
    (["nothing", "--lr", "0.1"], "trains nothing, so --lr has no use"),
    (["--losses", "admm", "--exchange-dir", "missing"], "--exchange-dir missing is no folder"),
    (["--variant", "fast=--schedul pipelined"], "fast: unknown argument '--schedul'; did you mean "
     "--schedule?"),
    (["--variant", "fast=--schedule pipelind"], "--variant fast: unknown value of --schedule"),
    (["--variant", "fast=--out there"], "fast: unknown argument '--out'"),
    (["--variant", "fast=--seed 1"], "fast: unknown argument '--seed'"),
    (["--variant", "fast=--lr ten"], "fast: argument --lr: expected float, found 'ten'"),
    (["--variant", "fast='--lr 1"], "fast: no closing quotation"),
    (["--variant", "../fast=--lr 1"], "expected NAME=FLAGS"),
    (["--variant", "fast"], "expected NAME=FLAGS"),
    (["--single", "--variant", "single=--lr 1"], "two variants are called single"),
    (["--variant", "a=--lr 1", "--variant", "a=--lr 2"], "two variants are called a"),
    (["nothing", "--variant", "a=--lr 1"], "trains nothing, so --variant has no use"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_bad_input_is_refused_before_anything_is_trained(tmp_path, monkeypatch, capsys, words,
                                                         sentence):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DUALNET_DATA", str(tmp_path))
    try:
        code = main(["compare", *words])
    except SystemExit as ended:
        code = ended.code
    assert code == 2 and sentence in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
