"""What is missing, what it costs, and the time that is left."""

import re

import pytest
import torch

from dualnet.cli import main
from dualnet.errors import DataError
from dualnet.reproduce.plan import Remaining, plan, seconds_of, total
from dualnet.reproduce.targets import TARGETS


@pytest.mark.parametrize(("cost", "seconds"), [
    ("4 min a seed", 30.0), ("10 s", 1.25), ("7 min a row", 420.0), ("1.5 h a run", 5400.0),
    ("WRN-10-1, 10,000 images: 7 min a row", 420.0), ("8 min a run on a GPU; 50 seeds", 480.0),
    ("3.7e18 operations a row: not run", None), ("122 layers, up to 4 GPUs: not run", None)])
def test_a_cost_in_words_is_seconds_of_one_of_eight_rows(cost, seconds):
    assert seconds_of(cost, rows=8) == seconds


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_says_what_the_scales_for_a_cpu_cost(name):
    for scale in ("smoke", "cpu"):
        assert seconds_of(TARGETS[name].cost[scale], len(TARGETS[name].variants(scale)))


def test_a_sum_of_which_a_part_is_not_known_is_not_known():
    assert total([1.0, 2.5]) == 3.5 and total([]) == 0.0
    assert total([1.0, None]) is None


def test_the_rest_takes_as_much_longer_than_estimated_as_what_is_done_took():
    # 10, 20, 30 and one not known, which is taken for their mean, 20
    remaining = Remaining([10.0, 20.0, None, 30.0])
    assert remaining.done(20.0) == pytest.approx(2 * (20 + 20 + 30))
    assert remaining.done(10.0) == pytest.approx(1 * (20 + 30))      # 30 estimated, 30 taken
    assert remaining.done(70.0) == pytest.approx(2 * 30)             # 50 estimated, 100 taken
    assert remaining.done(1.0) == 0.0
    # Nothing is known: by their number
    unknown = Remaining([None, None, None])
    assert unknown.done(7.0) == pytest.approx(14.0)


def test_what_is_in_the_ledger_is_neither_missing_nor_paid_for(tmp_path, capsys):
    words = ["--scale", "smoke", "--device", "cpu", "--results", str(tmp_path), "--out",
             str(tmp_path / "runs")]
    assert main(["reproduce", "thesis-9.4", "thesis-9.2", "--dry-run", *words]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "thesis-9.4: 3 of 3 missing, about 0:00:02", "  cut at pool1: seed 0",
        "  cut at pool2: seed 0", "  cut at relu3: seed 0",
        "thesis-9.2: 4 of 4 missing, about 0:00:16", "  single: seeds 0, 1",
        "  no loss_weight: seeds 0, 1", "Dziwulski 2017: about 0:00:18",
        "in all: 7 measurements, about 0:00:18", "costs are for cores that do nothing else"]
    assert list(tmp_path.iterdir()) == []

    assert main(["reproduce", "thesis-9.4", *words]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("1/1  thesis-9.4 at scale smoke: 3 to measure, 0 in ")
    assert said[0].endswith("about 0:00:02 from here")
    assert [line.split("  ")[0] for line in said[1:]] == ["1/3", "2/3", "3/3"]
    assert said[-1].endswith("ETA 0:00:00") and re.search(r"ETA \d:\d\d:\d\d$", said[1])

    assert main(["reproduce", "thesis-9.4", "--dry-run", *words]) == 0
    assert capsys.readouterr().out.startswith("thesis-9.4: 0 of 3 missing\nDziwulski 2017: about 0")
    again = plan(TARGETS["thesis-9.4"], "smoke", [0], {}, tmp_path, again=True)
    assert len(again.wanted) == 3 and again.known == 0


def test_all_goes_on_where_a_damaged_ledger_is_mended_and_measures_nothing_before(tmp_path):
    (tmp_path / "monolith-table-1.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"monolith-table-1\.jsonl, line 1"):
        plan(TARGETS["monolith-table-1"], "smoke", [0], {}, tmp_path)
    assert main(["reproduce", "--all", "--scale", "smoke", "--results", str(tmp_path)]) == 65
    assert [path.name for path in tmp_path.iterdir()] == ["monolith-table-1.jsonl"]


def test_all_leaves_out_the_targets_whose_data_set_is_not_there(tmp_path, capsys):
    (tmp_path / "cifar-10-batches-py").mkdir()
    words = ["--dry-run", "--data-dir", str(tmp_path), "--results", str(tmp_path / "results")]
    assert main(["reproduce", "--all", *words]) == 0
    said = capsys.readouterr().out.splitlines()
    left = {line.partition(":")[0]: line for line in said if f" is not in {tmp_path}" in line}
    assert set(left) == {"thesis-table", "partition-table-1", "partition-mnist", "resist-cifar100",
                         "resist-svhn"}
    assert left["resist-svhn"] == (
        f"resist-svhn: left out, 10 measurements; svhn is not in {tmp_path}: 'dualnet data fetch "
        f"svhn --data-dir {tmp_path}' gets it")
    counted = [line.partition(":")[0] for line in said if " missing, about" in line]
    assert sorted([*left, *counted]) == sorted(TARGETS)

    assert main(["reproduce", "resist-svhn", *words]) == 0       # asked for by its name
    assert capsys.readouterr().out.startswith("resist-svhn: 10 of 10 missing, about ")


@pytest.mark.parametrize(("capability", "count"), [("AVX2", 2), ("AVX512", 0)])
def test_all_leaves_out_the_rows_for_which_the_cpu_has_no_arithmetic(tmp_path, capsys, monkeypatch,
                                                                     capability, count):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    (tmp_path / "cifar-10-batches-py").mkdir()
    words = ["--dry-run", "--device", "cpu", "--data-dir", str(tmp_path), "--results",
             str(tmp_path / "results")]
    rows = ["half precision", "pre-activation, stochastic depth, half precision"]
    assert main(["reproduce", "--all", *words]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split("'")[1] for line in said if "no AVX-512" in line] == rows[:count]
    assert [line for line in said if line.startswith("resnet-speedups: ") and " missing" in line] \
        == [f"resnet-speedups: {22 - 2 * count} of {22 - 2 * count} missing, about "
            f"{'3:00:00' if count else '3:40:00'}"]
    assert [f"  {row}: seeds 0, 1" in said for row in rows] == [not count] * 2

    # Asked for by its name
    assert main(["reproduce", "resnet-speedups", *words]) == 0
    assert capsys.readouterr().out.startswith("resnet-speedups: 22 of 22 missing")


def test_a_row_is_measured_alone(tmp_path, capsys):
    words = ["--dry-run", "--results", str(tmp_path)]
    named = ["--variant", "frozen", "--variant", "mnist, admm"]
    assert main(["reproduce", "thesis-table", *named, *words]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("thesis-table: 4 of 4 missing, about ")
    assert said[1:3] == ["  frozen: seeds 0, 1", "  mnist, admm: seeds 0, 1"]
    assert main(["reproduce", "thesis-table", "--variant", "frozn", *words]) == 2
    assert "unknown variant 'frozn'; did you mean frozen?" in capsys.readouterr().err
    for targets in (["thesis-table", "thesis-9.1"], []):
        assert main(["reproduce", *targets, "--all", "--variant", "frozen", *words]) == 2
        assert "rows of one target" in capsys.readouterr().err
