"""The benchmarks run, say and write down what they measured, and leave nothing behind."""

import json

import pytest
import torch

from dualnet import nets
from dualnet.bench import (
    caffe_memory,
    capacity,
    meprop,
    monolith,
    report,
    resnet,
    results,
)
from dualnet.bench.exchange import WARM_UP, WAYS, count_of
from dualnet.bench.figure import draw
from dualnet.cli import main
from dualnet.cli.bench_exchange import sizes_of
from dualnet.errors import DataError, UserError
from dualnet.memory import largest_batch
from dualnet.methods.dual.settings import DualConfig
from dualnet.methods.monolith.settings import MonolithConfig
from dualnet.methods.resnet.settings import ResnetConfig

MB = 2**20


# -- exchange --------------------------------------------------------------------------------------

def test_every_way_of_sending_is_measured_written_down_and_leaves_nothing(tmp_path, capsys):
    folder, written = tmp_path / "messages", tmp_path / "results"
    folder.mkdir()
    words = ["--dir", str(folder), "--sizes", "4k", "--count", "5", "--rounds", "1"]
    assert main(["bench", "exchange", *words, "--results", str(written)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "4096 bytes, 5 messages a round"
    assert [line.split()[0] for line in lines[2:8]] == list(WAYS)
    assert not list(folder.iterdir())
    line = json.loads((written / "bench-exchange.jsonl").read_text())
    rows = {row["way"]: row for row in line["measured"]}
    assert all(0 < row["seconds"][0] < 1 and row["count"] == 5 for row in rows.values())
    # the message is noticed before it is read, and no later than it is there
    for way in ("mapped", "rename"):
        assert 0 < rows[way]["notice_s"][0] <= rows[way]["seconds"][0]
        assert rows[way]["folder"] == str(folder)
    for way in ("gloo", "channel"):
        assert rows[way]["notice_s"] == [] and rows[way]["folder"] is None
    assert (written / "bench-exchange.png").read_bytes().startswith(b"\x89PNG")
    assert "| 4 kB | mapped |" in (written / "bench.md").read_text()


def test_fewer_of_the_large_messages_are_sent():
    # of 128 MB an eighth of what is sent of 16 MB, and never fewer than warm up
    assert [count_of(100, size) for size in (4096, 16 * MB, 128 * MB)] == [100, 100, 12]
    assert count_of(10, 128 * MB) == WARM_UP and count_of(3, 128 * MB) == 3


def test_sizes_are_read_by_their_units():
    assert sizes_of("64,64k,2M,1G") == [64, 65536, 2**21, 2**30]


@pytest.mark.parametrize(("words", "sentence"), [
    (["exchange", "--dir", "missing"], "is no folder"),
    (["exchange", "--dir", ".", "--sizes", "4"], "multiples of 8 bytes"),
    (["exchange", "--sizes", "4T"], "expected bytes like"),
    (["exchange", "--rounds", "0"], "expected a whole number from 1"),
    (["pipeline", "--micro-batches", "two"], "expected a whole number from 1"),
    (["pipeline", "--micro-batches", "65"], "at most --batch-size 64"),
    (["capacity", "--net", "caffenet-small", "--cut", "pool3"], "did you mean pool"),
    (["capacity", "--net", "lenet", "--memory-limit", "64k"], "not even one image fits"),
    (["report"], "--results"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_nonsense_is_refused(tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(["bench", *words])
    except SystemExit as ended:
        code = ended.code
    assert code == 2 and sentence in capsys.readouterr().err


# -- pipeline --------------------------------------------------------------------------------------

def line_of(bench, measured, **settings):
    return {"bench": bench, "device": "cpu", "device_name": "Test", "cores": 2, "rounds": 2,
            "versions": {"torch": "2"}, "commit": "c" * 40, "dirty": False, "command": "dualnet",
            "date": "2026-01-02T03:04:05+00:00", "wall_s": 1.0, "settings": settings,
            "measured": measured}


@pytest.fixture
def speeds():
    """Batches of 10: single 0.1 and 0.2 s per iteration, halves alone 0.08 and 0.05, 0.1 and 0.05.

    The best pipeline takes 0.1 and 0.16 s, of which net1 waits a tenth.
    """
    def dual(way, rates, waits, alone):
        return {"way": way, "images_per_s": rates, "wait_share": {"net1": waits, "net2": waits},
                "alone_s": alone}
    alone = {"net1": [0.08, 0.1], "net2": [0.05, 0.05]}
    return line_of("pipeline", [
        {"way": "single", "images_per_s": [100.0, 50.0], "wait_share": {}},
        {"way": "single, all cores", "images_per_s": [150.0, 75.0], "wait_share": {}},
        dual("lockstep", [80.0, 50.0], [0.4, 0.4], alone),
        dual("pipelined, M = 2", [100.0, 62.5], [0.1, 0.1], alone),
        dual("gloo: lockstep", [40.0, 55.0], [0.4, 0.4], alone)],
        net="caffenet", cut="pool2", batch_size=10)


def test_ratios_are_taken_within_a_round(speeds):
    # 0.1 / 0.08 and 0.2 / 0.1
    assert results.bounds(speeds) == pytest.approx([1.25, 2.0])
    assert results.speed_ups(speeds, "pipelined, M = 2") == pytest.approx([1.0, 1.25])
    # 40 of 80 and 55 of 50
    assert results.over_folder(speeds, "gloo: lockstep") == pytest.approx([0.5, 1.1])
    for way in ("lockstep", "gloo: pipelined, M = 2"):      # not over gloo; not measured
        assert results.over_folder(speeds, way) is None
    # net1's own are 0.08 of 0.1 s and 0.1 of 0.16 s: 0.8 and 0.625; waiting 0.1; rest 0.1 and 0.275
    assert results.shares(speeds, "pipelined, M = 2", "net1") == pytest.approx(
        (0.7125, 0.1, 0.1875))


def test_rounds_are_gathered_into_lists():
    measured = {}
    for rate in (1.0, 2.0):
        results.gather(measured, [
            {"way": "a", "images_per_s": rate, "wait_share": {"net1": rate}}])
    assert measured == {"a": {"way": "a", "images_per_s": [1.0, 2.0],
                              "wait_share": {"net1": [1.0, 2.0]}}}


@pytest.mark.slow
@pytest.mark.timeout(900)       # a dozen processes that import torch
def test_the_schedules_are_measured_beside_the_single_net(tmp_path, capsys):
    words = ["--net", "caffenet-small", "--batch-size", "8", "--iterations", "2", "--rounds", "1",
             "--micro-batches", "2", "--dir", str(tmp_path), "--results", str(tmp_path / "results")]
    assert main(["bench", "pipeline", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    ways = ["single", "single, all cores", "lockstep", "pipelined, M = 2", "async",
            "gloo: lockstep", "gloo: pipelined, M = 2"]
    assert [line[:24].strip() for line in lines[:7]] == ways and lines[7].startswith("bound: ")
    rows = results.newest(tmp_path / "results", "pipeline")["measured"]
    assert [row["way"] for row in rows] == ways
    for row in rows[2:]:
        assert all(0 <= row["wait_share"][role][0] < 1 for role in ("net1", "net2"))
        assert all(0 < row["alone_s"][role][0] < 10 for role in ("net1", "net2"))
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


# -- capacity --------------------------------------------------------------------------------------

def test_caffes_memory_by_hand():
    net = nets.build("caffenet-small", (3, 32, 32), 10)
    readings = caffe_memory.caffe_memory(net, (3, 32, 32), "pool2")
    image, conv1, pool1, conv2, pool2, conv3 = 3072, 32 * 1024, 32 * 256, 32 * 256, 32 * 64, 64 * 64
    front = 2 * conv1 + 3 * pool1 + 2 * conv2 + 3 * pool2       # data, diff; maxima of the pools
    back = 2 * 4096 + 3 * 64 * 16 + 2 * 64 + 2 * 10             # conv4 pool4 fc5 fc6
    training = readings[caffe_memory.TRAINING]
    assert training["single"].per_image == 4 * (image + front + 2 * conv3 + back + 10)
    # net1 also has conv3p and the difference; net2 reads pool2, whose diff nobody asks for
    assert training["net1"].per_image == 4 * (image + front + 2 * conv3 + 2 * conv3)
    assert training["net2"].per_image == 4 * (pool2 + 2 * conv3 + back + 10)
    columns = 75 * 1024 + 800 * 256 + 288 * 64 + 576 * 64
    assert training["single"].once == 4 * (3 * 149738 + columns)
    # the test net has the data and the maxima, but no diffs
    data = image + conv1 + 2 * pool1 + conv2 + 2 * pool2 + conv3 + 4096 + 2 * 1024 + 64 + 10 + 10
    tested = readings[caffe_memory.TESTING]
    assert tested["single"].per_image == training["single"].per_image + 4 * data
    assert tested["net1"] == training["net1"]


def test_caffes_rule_is_for_caffes_layers():
    assert caffe_memory.caffe_memory(torch.nn.Sequential(torch.nn.Tanh()), (1, 4, 4), "0") == {}


def test_the_largest_batch_fills_the_memory_and_no_more():
    settings = DualConfig(net="caffenet-small", loss="euclidean").resolved()
    limit = 2**28
    row, = capacity.counted(settings, ["pool2"], limit)
    for name, kept in row["memory"].items():
        count = row["images"][name][0]
        assert count * kept["per_image"] + kept["once"] <= limit
        assert (count + 1) * kept["per_image"] + kept["once"] > limit
    # weights, gradients and momentum of the single net
    assert row["memory"]["single"]["once"] == 3 * 4 * 149738
    smaller = min(row["images"]["net1"][0], row["images"]["net2"][0])
    assert results.batch_ratios(row) == [smaller / row["images"]["single"][0]]


def test_batches_are_tried_with_an_update_of_the_weights():
    settings = DualConfig(net="caffenet-small", loss="euclidean").resolved()
    cpu = torch.device("cpu")       # on which everything fits, up to the largest that is tried
    for make in capacity.makers(settings, cpu).values():
        load = make()
        assert largest_batch(load, cpu, limit=5) == 5
        assert all(weight.grad is not None for weight in load.net.parameters())


def test_capacity_is_told_for_every_cut(tmp_path, capsys):
    words = ["--net", "caffenet-small", "--memory-limit", "1G", "--results", str(tmp_path)]
    assert main(["bench", "capacity", *words]) == 0
    cuts = capacity.cuts_of(DualConfig(net="caffenet-small"))
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out[1:1 + len(cuts)]] == cuts
    assert (tmp_path / "bench-capacity.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "bench.md").read_text()
    assert text.count("| counted |") == len(cuts) and "The thesis' ratio" not in text


# -- ledger and report -----------------------------------------------------------------------------

def test_a_report_of_nothing_says_not_measured(tmp_path, capsys):
    assert main(["bench", "report", "--results", str(tmp_path / "new")]) == 0
    text = (tmp_path / "new" / "bench.md").read_text()
    assert text.count("not measured; `dualnet bench") == len(results.BENCHES)
    assert "| yes |" not in text


def test_targets_are_held_against_what_was_measured(tmp_path, speeds):
    def row(way, size, seconds, notice=()):
        return {"way": way, "size": size, "seconds": seconds, "notice_s": list(notice), "count": 9,
                "folder": "d" if way in ("mapped", "save") else None,
                "file_system": "tmpfs" if way in ("mapped", "save") else None}
    measured = [
        row("memcpy", 65536, [2e-6, 2e-6]), row("mapped", 65536, [9e-5, 9e-5], [8e-5, 2e-4]),
        row("gloo", 65536, [5e-5, 4e-5]),
        row("memcpy", 2 * MB, [1e-4, 1e-4]), row("mapped", 2 * MB, [1.5e-4, 1.7e-4], [1, 1]),
        row("save", 2 * MB, [1.65e-3, 1.87e-3]),
        row("memcpy", 16 * MB, [1e-3, 2e-3]), row("mapped", 16 * MB, [1.4e-3, 2.4e-3], [1, 1])]
    results.ledger(tmp_path, "exchange").append(line_of("exchange", measured, sizes=[], count=9))
    results.ledger(tmp_path, "pipeline").append(speeds)
    lines = {line.split(" | ")[0].strip("| "): line.split(" | ")
             for line in report.render(tmp_path).splitlines() if line.startswith("| ")}

    def told(what):
        return lines[what][2], lines[what][5].strip(" |")
    # 1.4 and 1.2; 0.05 and 0.07 ms; 11 and 11 times; 0.56 and 0.44 times; 0.08 and 0.2 ms
    assert told("mapped, 16 MB, over two memcpys") == ("1.3 (1.2 to 1.4) x", "yes")
    assert told("mapped, 2 MB, above two memcpys") == ("0.06 (0.05 to 0.07) ms", "yes")
    assert told("mapped, 2 MB, faster than np.save + np.load") == ("11 x", "yes")
    assert told("mapped, 64 kB, faster than gloo on loopback") == ("0.5 (0.444 to 0.556) x", "no")
    assert told("mapped, 64 kB, from announcement to notice") == ("0.14 (0.08 to 0.2) ms", "no")
    # 1 of 1.25 and 1.25 of 2
    assert told("best `pipelined` over the single net, as a share of the bound") == (
        "0.713 (0.625 to 0.8) of the bound", "no")
    assert told("the single net on all cores, beside it") == ("1.5 x", "-")
    assert told("`lockstep` over gloo, beside the same through the folder") == (
        "0.8 (0.5 to 1.1) x", "-")
    assert told("`pipelined` over gloo, beside the same through the folder") == (
        "not measured", "-")
    assert told("`caffenet`, largest batch dual over single, at pool2") == ("not measured", "-")
    for bench in ("exchange", "pipeline"):
        draw(results.newest(tmp_path, bench), tmp_path / f"{bench}.png")
        assert (tmp_path / f"{bench}.png").read_bytes().startswith(b"\x89PNG")


def test_the_newest_line_counts_and_a_damaged_one_is_named(tmp_path):
    ledger = results.ledger(tmp_path, "capacity")
    for net in ("first", "second"):
        ledger.append(line_of("capacity", [], net=net))
    assert results.newest(tmp_path, "capacity")["settings"]["net"] == "second"
    ledger.path.write_text(ledger.path.read_text() + "{\n")
    with pytest.raises(DataError, match=r"bench-capacity\.jsonl, line 3"):
        report.render(tmp_path)


def test_a_net_that_cannot_be_cut_is_refused():
    with pytest.raises(UserError, match="unknown cut 'pool'"):
        capacity.cuts_of(DualConfig(net="caffenet-small"), ["pool"])


# -- resnet ----------------------------------------------------------------------------------------

def test_each_way_of_training_a_residual_net_is_compared_with_its_own_base(tmp_path):
    measured = {}
    for base, other, one, two in ((10.0, 16.0, 10.0, 18.0), (20.0, 30.0, 5.0, 9.5)):
        results.gather(measured, [
            {"way": "baseline", "base": "baseline", "images_per_s": base, "blocks": 1.0},
            {"way": "stochastic depth, uniform 0.5", "base": "baseline", "images_per_s": other,
             "blocks": 0.5}])
        results.gather(measured, [
            {"way": "1 process", "base": "1 process", "images_per_s": one},
            {"way": "2 processes", "base": "1 process", "images_per_s": two}])
    assert measured["stochastic depth, uniform 0.5"] == {
        "way": "stochastic depth, uniform 0.5", "base": "baseline", "images_per_s": [16.0, 30.0],
        "blocks": [0.5, 0.5]}
    line = results.Stopwatch().line("resnet", "dualnet bench resnet", 2, {
        "net": "resnet20", "batch_size": 128}, list(measured.values()), torch.device("cpu"))
    assert results.over_base(line, "stochastic depth, uniform 0.5") == [1.6, 1.5]
    assert results.over_base(line, "2 processes") == [1.8, 1.9]
    assert results.over_base(line, "baseline") == [1.0, 1.0]
    assert results.over_base(line, "3 processes") is None
    results.ledger(tmp_path, "resnet").append(line)
    text = report.render(tmp_path)
    assert "stochastic depth, uniform 0.5 | 1.6 | 1.55 (1.5 to 1.6) x | 2 |" in text
    assert "| 2 processes | 13.8 (9.5 to 18.0) | 1 process | 1.85 (1.80 to 1.90) | - |" in text
    assert "stochastic depth, linear to 0.5 | 1.25 | not measured | 0 |" in text


@pytest.mark.slow
def test_the_switches_of_train_resnet_are_measured_beside_the_plain_training(tmp_path, capsys):
    words = ["--batch-size", "2", "--iterations", "2", "--rounds", "1", "--processes", "1",
             "--results", str(tmp_path)]
    assert main(["bench", "resnet", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = lines[1:1 + len(resnet.STEPS)]
    assert [line[:32].strip() for line in shown] == list(resnet.STEPS)
    shares = [int(line.split("%")[0].split()[-1]) for line in shown]
    assert shares[0] == 100 and shares[1] < 100     # of the blocks that are computed
    assert (tmp_path / "bench-resnet.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_are_measured_beside_one():
    settings = ResnetConfig(batch_size=2, device="cpu")
    found = next(resnet.parallel_rows(settings, processes=2, iterations=2, rounds=1))
    assert [row["way"] for row in found] == ["1 process", "2 processes"]
    assert all(row["images_per_s"] > 0 for row in found)
    with pytest.raises(UserError, match="unknown network 'resnet21'; did you mean resnet"):
        next(resnet.parallel_rows(settings.replace(net="resnet21"), 2, 2, 1))


# -- meprop ----------------------------------------------------------------------------------------

def test_sparse_backward_passes_are_measured_beside_the_dense_one(tmp_path, monkeypatch, capsys):
    small = [meprop.Layer(meprop.LINEAR, (6, 8), (10, 8), (6, 10), 3),
             meprop.Layer("3x3", (2, 3, 5, 5), (4, 3, 3, 3), (2, 4, 5, 5), 1)]
    monkeypatch.setattr(meprop, "LAYERS", small)
    assert main(["bench", "meprop", "--rounds", "2", "--count", "3", "--results",
                 str(tmp_path)]) == 0
    assert "3 of 10 outputs kept" in capsys.readouterr().out
    line = results.newest(tmp_path, "meprop")
    assert [row["way"] for row in line["measured"]] == 2 * list(meprop.WAYS)
    assert all(len(row["seconds"]) == 2 and min(row["seconds"]) > 0 for row in line["measured"])
    text = (tmp_path / "bench.md").read_text()
    assert "| 3x3 | by sample | 1 of 4 |" in text and "| 3x3 | dense | 4 of 4 |" in text
    assert (tmp_path / "bench-meprop.png").read_bytes().startswith(b"\x89PNG")


def test_speed_ups_of_meprop_are_taken_round_by_round():
    rows = [{"layer": "a", "way": way, "k": 1, "outputs": 4, "count": 1, "seconds": seconds}
            for way, seconds in (("dense", [4.0, 9.0]), ("unified", [2.0, 3.0]),
                                 ("by sample", [8.0, 9.0]))]
    line = line_of("meprop", rows)
    assert meprop.speed_ups(line, "a", "unified") == [2.0, 3.0]
    assert meprop.speed_ups(line, "a", "by sample") == [0.5, 1.0]


# -- monolith --------------------------------------------------------------------------------------

def test_kept_features_are_measured_beside_running_the_trunks(tmp_path, capsys):
    words = ["--images", "40", "--batch-size", "20", "--trunks", "2", "--rounds", "2", "--device",
             "cpu", "--results", str(tmp_path)]
    assert main(["bench", "monolith", *words]) == 0
    assert capsys.readouterr().out.startswith("2xwrn-10-1, epochs of 40 images, 20 per iteration")
    line = results.newest(tmp_path, "monolith")
    assert [row["way"] for row in line["measured"]] == [
        "trunks in each step", "kept features", "to keep them, once"]
    assert all(len(row["images_per_s"]) == 2 for row in line["measured"])
    assert min(results.over_base(line, "kept features")) > 1
    text = (tmp_path / "bench.md").read_text()
    assert "| trunks in each step | " in text and "2xwrn-10-1, 20 images per step" in text
    assert (tmp_path / "bench-monolith.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(DataError, match="larger than the data"):
        next(monolith.rows(MonolithConfig(depth=10, width=1).resolved(), 200, 1))
