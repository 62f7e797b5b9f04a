"""bench resist: operations and weights by hand, ratios round by round, and what is told of them."""

import pytest
import torch

from dualnet.bench import report, resist, results
from dualnet.cli import main
from dualnet.methods.resist.settings import ResistConfig
from dualnet.operations import counted

# Of an image, preact-resnet26-basic: multiply-adds of the stem, of a block of one width, and of one
# that halves the sides: two convolutions of 3x3 and one of 1x1.
STEM = 3 * 16 * 9 * 32 * 32
BLOCK = 2 * 64 * 64 * 9 * 8 * 8
STRIDED = (16 * 32 * 9 + 32 * 32 * 9 + 16 * 32) * 16 * 16
WHOLE = STEM + 9 * BLOCK + 3 * STRIDED + 128 * 10
SETTINGS = ResistConfig(net="preact-resnet26-basic", batch_size=2, local_iterations=1, threads=1,
                        device="cpu").resolved()


def test_a_product_has_as_many_operations_as_its_gradients_need():
    x, weight = torch.empty(2, 3, requires_grad=True), torch.empty(3, 5, requires_grad=True)
    found = counted(lambda: (x @ weight).sum())
    assert found == (2 * 3 * 5, 2 * 2 * 3 * 5) and found.training == 6 * 2 * 3 * 5
    assert counted(lambda: (x.detach() @ weight.detach()).sum()) == (30, 0)


def test_operations_weights_and_bytes_of_a_round_by_hand():
    found = {row["way"]: row for row in next(resist.rows(SETTINGS, [2], 1))}
    local, ours = found["local SGD, 2 sites"], found["ResIST, 2 sites"]
    assert (local["base"], ours["base"]) == ("local SGD, 2 sites",) * 2
    # the backward pass has twice as many, but for the images, of which no gradient is asked; two
    # sites with two images; each site is without 4 of the 8 blocks that are dealt out
    assert local["operations"] == 4 * 2 * (3 * WHOLE - STEM)
    assert ours["operations"] == 4 * 2 * (3 * (WHOLE - 4 * BLOCK) - STEM)
    weights = 2 * (64 * 64 * 9 + 2 * 64)
    assert (local["parameters"], ours["parameters"]) == (2 * 899_994, 2 * (899_994 - 4 * weights))
    assert (local["bytes"], ours["bytes"]) == (8 * local["parameters"], 8 * ours["parameters"])
    assert all(row["images_per_s"] == pytest.approx(4 / row["seconds"]) for row in found.values())


def test_ratios_are_taken_round_by_round_and_held_against_those_they_follow():
    base, way = "local SGD, 2 sites", "ResIST, 2 sites"
    measured = [
        {"way": base, "base": base, "seconds": [2.0, 4.0], "operations": [10, 10],
         "bytes": [8, 8], "parameters": [1, 1], "images_per_s": [1, 1]},
        {"way": way, "base": base, "seconds": [1.0, 3.0], "operations": [5, 6],
         "bytes": [4, 4], "parameters": [0.5, 0.25], "images_per_s": [1, 1]}]
    line = {"bench": "resist", "measured": measured}
    assert results.over_base(line, way, "seconds") == [0.5, 0.75]
    assert resist.followed(line, way, "seconds") == [1.0, pytest.approx(0.75 / 0.6)]
    assert resist.followed(line, way, "bytes") == [1.0, 2.0]
    assert results.over_base(line, "ResIST, 8 sites", "seconds") is None
    assert resist.ways(line) == [way]


def test_rounds_are_measured_written_down_and_told(tmp_path, capsys):
    words = ["--net", "preact-resnet26-basic", "--sites", "2", "--batch-size", "2", "--rounds", "1",
             "--device", "cpu", "--results", str(tmp_path)]
    assert main(["bench", "resist", *words]) == 0
    said = capsys.readouterr().out
    assert said.count("ResIST, 2 sites") == 2 and "parameters  " in said
    assert len(results.newest(tmp_path, "resist")["measured"]) == 2
    assert (tmp_path / "bench-resist.png").read_bytes().startswith(b"\x89PNG")
    text = report.render(tmp_path)
    # bytes follow the weights exactly; nothing was measured with 8 sites
    assert "2 sites: bytes of a round over local SGD's, as a share of the ratio of parameters | " \
           "0.85 to 1.15 | 1 x | 1 | " in text
    assert "| `train resist`, 8 sites: seconds of a round over local SGD's, as a share of the " \
           "ratio of operations | 0.85 to 1.15 | not measured | 0 | - | - |" in text


def test_sites_that_are_no_numbers_are_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["bench", "resist", "--sites", "two"])
    assert ended.value.code == 2
    assert "expected a whole number from 1" in capsys.readouterr().err
