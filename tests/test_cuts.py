"""What each cut costs, against numbers by hand."""

from itertools import combinations, pairwise

import pytest
from torch import nn

from dualnet import nets
from dualnet.cli import main
from dualnet.cli.cuts import resolve_cut
from dualnet.cut import cut
from dualnet.cuts import NEARLY, best, bound, list_cuts
from dualnet.errors import UserError
from dualnet.methods.dual.settings import DualConfig

# LeNet, 28x28x1.  Multiply-adds of one image, outputs x (inputs of each):
CONV1 = 20 * 24 * 24 * (1 * 25)     # 288,000
CONV2 = 50 * 8 * 8 * (20 * 25)      # 1,600,000
FC3 = 500 * 800                     # 400,000
FC4 = 10 * 500                      # 5,000
TOTAL = CONV1 + CONV2 + FC3 + FC4
# Weights and biases.
W1, W2, W3, W4 = 20 * 26, 50 * 501, 500 * 801, 10 * 501


def lenet_cuts(**options):
    cuts = list_cuts(nets.build("lenet", (1, 28, 28), 10), (1, 28, 28), batch_size=100, **options)
    return {each.boundary: each for each in cuts}


def test_the_cuts_of_lenet_by_hand():
    cuts = lenet_cuts()
    assert list(cuts) == ["conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "fc3", "relu3"]
    pool1 = cuts["pool1"]
    assert pool1.compared == "conv2"
    assert pool1.z_bytes == 100 * 20 * 12 * 12 * 4
    assert pool1.y_bytes == 100 * 50 * 8 * 8 * 4
    assert pool1.multiply_adds == (CONV1 + CONV2, CONV2 + FC3 + FC4)
    assert pool1.weights == (W1 + W2, W2 + W3 + W4)
    assert pool1.bound == TOTAL / (CONV2 + FC3 + FC4)
    pool2 = cuts["pool2"]
    assert pool2.multiply_adds == (CONV1 + CONV2 + FC3, FC3 + FC4)
    assert (pool2.z_bytes, pool2.y_bytes) == (100 * 800 * 4, 100 * 500 * 4)
    assert pool2.bound == pytest.approx(TOTAL / (CONV1 + CONV2 + FC3))
    assert cuts["relu3"].multiply_adds == (TOTAL, FC4) and cuts["relu3"].bound == 1


def test_the_number_format_sets_the_size_of_the_messages():
    assert lenet_cuts(message_dtype="float16")["pool2"].z_bytes == 100 * 800 * 2
    assert lenet_cuts(message_dtype="int8")["pool2"].z_bytes == 100 * (800 + 4)


def test_caffenet_small_is_best_cut_at_pool2():
    """Multiply-adds by hand: 32x32, 16x16, 8x8, 8x8 maps; fc5 and fc6."""
    convs = [32 * 32 * 32 * 75, 32 * 16 * 16 * 800, 64 * 8 * 8 * 288, 64 * 8 * 8 * 576]
    fcs = [64 * 1024, 640]
    cuts = list_cuts(nets.build("caffenet-small", (3, 32, 32), 10), (3, 32, 32), batch_size=100)
    for each in cuts:
        if each.boundary == "pool2":
            assert each.multiply_adds == (sum(convs[:3]), sum(convs[2:]) + sum(fcs))
        if each.boundary == "pool1":
            assert each.multiply_adds == (sum(convs[:2]), sum(convs[1:]) + sum(fcs))
    bounds = {each.boundary: each.bound for each in cuts}
    # cut at pool1: the slower side has conv2..fc6; at pool2 conv1..conv3
    total = sum(convs) + sum(fcs)
    assert bounds["pool1"] == total / (sum(convs[1:]) + sum(fcs))
    assert bounds["pool2"] == total / sum(convs[:3])
    # 1.242 and 1.238, but 6.55 MB against 2.46 MB of messages; behind conv3 it is 1.005
    assert bounds["pool1"] > bounds["pool2"]
    assert [each.boundary for each in best(cuts)] == ["pool2"]
    chosen, = best([each for each in cuts if each.boundary in ("pool1", "fc5")])
    assert chosen.boundary == "pool1"


@pytest.mark.slow
def test_every_boundary_of_every_net_that_can_be_cut_is_listed_and_no_other():
    for name in nets.NETS:
        net = nets.build(name, (3, 32, 32), 10)
        listed = [each.boundary for each in list_cuts(net, (3, 32, 32), batch_size=2)]
        possible = []
        for boundary, _ in net.named_children():
            try:
                cut(net, [boundary])
                possible.append(boundary)
            except UserError:
                continue
        assert listed == possible


def test_a_net_without_a_place_to_cut_is_refused():
    net = nn.Sequential()
    net.add_module("fc", nn.Linear(3, 2))
    with pytest.raises(UserError, match="no layer of this net can be cut behind"):
        best(list_cuts(net, (3,), batch_size=1))


def test_list_cuts_shows_the_figures_and_marks_what_auto_takes(capsys):
    assert main(["train", "dual", "--net", "lenet", "--data", "shapes", "--list-cuts",
                 "--batch-size", "10"]) == 0
    out = capsys.readouterr().out
    # 32x32x3: conv1 20 maps of 28x28 from 75, conv2 50 of 10x10 from 500, fc3 500 from 1250
    conv1, conv2, fc3, fc4 = 20 * 784 * 75, 50 * 100 * 500, 500 * 1250, 5000
    row = next(line.split() for line in out.splitlines() if line.startswith("pool1"))
    assert row == ["pool1*", "conv2", f"{10 * 20 * 196 * 4 / 1000:.1f}",
                   f"{10 * 50 * 100 * 4 / 1000:.1f}", f"{(conv1 + conv2) / 1e6:.3f}",
                   f"{(conv2 + fc3 + fc4) / 1e6:.3f}", f"{20 * 76 + 50 * 501:,}",
                   f"{50 * 501 + 500 * 1251 + 5010:,}",
                   f"{(conv1 + conv2 + fc3 + fc4) / (conv1 + conv2):.2f}"]
    assert out.count("*") == 2 and "in float32" in out


def test_cut_auto_is_decided_before_anything_is_written():
    settings = DualConfig(net="lenet", data="shapes", cut="auto")
    assert resolve_cut(settings).cut == "pool1"
    assert resolve_cut(settings.replace(cut="pool2")).cut == "pool2"


def multiply_adds_of(parts, work):
    """Of each part of a chain, from those of the layers: its own copies included."""
    return [sum(work[name] for group in (part.head, part.body, part.tail)
                for name, _ in group.named_children()) for part in parts]


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_the_best_chain_is_the_best_of_all_there_are(parts):
    """Against every combination of boundaries, cut for real."""
    net = nets.build("caffenet-small", (3, 32, 32), 10)
    convs = [32 * 32 * 32 * 75, 32 * 16 * 16 * 800, 64 * 8 * 8 * 288, 64 * 8 * 8 * 576]
    work = dict.fromkeys(dict(net.named_children()), 0) | {
        "conv1": convs[0], "conv2": convs[1], "conv3": convs[2], "conv4": convs[3],
        "fc5": 64 * 1024, "fc6": 640}
    cuts = {each.boundary: each for each in list_cuts(net, (3, 32, 32), batch_size=10)}
    whole = {}      # chains whose shared layers are not cut short: slowest part, bytes
    for chain in combinations(cuts, parts - 1):
        if any(cuts[one].span[1] > cuts[other].span[0] for one, other in pairwise(chain)):
            continue
        whole[chain] = (max(multiply_adds_of(cut(net, chain), work)),
                        sum(cuts[name].z_bytes + cuts[name].y_bytes for name in chain))
    limit = min(slowest for slowest, _ in whole.values()) / NEARLY
    fewest, fastest = min((size, slowest) for slowest, size in whole.values() if slowest <= limit)
    chosen = best(list(cuts.values()), parts)
    assert whole[tuple(each.boundary for each in chosen)] == (fastest, fewest)
    assert bound(chosen) == pytest.approx(sum(work.values()) / fastest)


def test_a_net_with_too_few_layers_for_so_many_parts_is_refused():
    cuts = list_cuts(nets.build("lenet", (1, 28, 28), 10), (1, 28, 28), batch_size=1)
    assert len(best(cuts, 4)) == 3
    with pytest.raises(UserError, match=r"cannot be cut into 5 parts.*take fewer with --parts"):
        best(cuts, 5)


def test_a_number_of_parts_without_a_cut_takes_the_best(capsys):
    assert main(["train", "dual", "--net", "lenet", "--data", "shapes", "--list-cuts",
                 "--parts", "3"]) == 0
    out = capsys.readouterr().out
    assert out.count("*") == 3 and "3 parts: at most " in out
    settings = DualConfig(net="lenet", data="shapes", cut="auto", parts=3)
    assert resolve_cut(settings).cuts == [row.split("*")[0] for row in out.splitlines()
                                          if "*" in row.split()[0] and not row.startswith("*")]
