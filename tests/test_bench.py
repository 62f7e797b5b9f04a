"""The benchmarks run, say what they measured, and leave nothing behind."""

import pytest

from dualnet.bench import pipeline
from dualnet.bench.exchange import WAYS
from dualnet.cli import main
from dualnet.cli.bench import size_of


def test_every_way_of_sending_is_measured_and_leaves_nothing(tmp_path, capsys):
    words = ["--dir", str(tmp_path), "--sizes", "4k", "--count", "5", "--rounds", "1"]
    assert main(["bench", "exchange", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "4096 bytes"
    assert [line.split()[0] for line in lines[2:]] == list(WAYS)
    assert all(0 < float(line.split()[1]) < 1000 for line in lines[2:])     # ms
    assert not list(tmp_path.iterdir())


def test_sizes_are_read_by_their_units():
    assert [size_of(word) for word in ("64", "64k", "2M", "1G")] == [64, 65536, 2**21, 2**30]


def test_nonsense_is_refused(tmp_path, capsys):
    assert main(["bench", "exchange", "--dir", str(tmp_path / "missing")]) == 2
    assert "is no folder" in capsys.readouterr().err
    assert main(["bench", "exchange", "--dir", str(tmp_path), "--sizes", "4"]) == 2
    assert main(["bench", "pipeline", "--micro-batches", "two"]) == 2


def test_the_bound_is_the_single_net_over_the_slower_half_by_hand():
    single = pipeline.Speed("single", [100.0, 120.0, 80.0], {"single": [0.0] * 3})
    lockstep = pipeline.Speed("lockstep", [50.0] * 3, {"net1": [0.4] * 3, "net2": [0.5] * 3})
    assert lockstep.busy_s("net1", 10) == pytest.approx(0.12)       # of 0.2 s per iteration
    assert pipeline.bound(single, lockstep, 10) == pytest.approx(0.1 / 0.12)


@pytest.mark.slow
def test_the_schedules_are_measured_beside_the_single_net(capsys):
    words = ["--net", "caffenet-small", "--batch-size", "8", "--iterations", "12",
             "--micro-batches", "2"]
    assert main(["bench", "pipeline", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    ways = ["single", "single, all cores", "lockstep", "pipelined, M = 2", "async"]
    assert [line[:20].strip() for line in lines[:-1]] == ways
    assert lines[-1].startswith("bound: ")
