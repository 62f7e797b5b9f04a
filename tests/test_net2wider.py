"""Net2WiderNet preserves the function of the net it widens (Chen, Goodfellow and Shlens 2016)."""

import pytest
import torch
from test_partition import count, drawn, everything
from torch import nn

from dualnet import nets
from dualnet.errors import UserError
from dualnet.methods.net2wider.widen import add_noise, exact_mapping, random_mapping, widen
from dualnet.methods.partition.split import split
from dualnet.nets.local import GroupedLRN
from dualnet.widths import read


def doubled(net):
    return {layer: exact_mapping(width, 2 * width) for layer, width in read(net).hidden.items()}


def without_norm(net):
    net.norm1 = nn.Identity()
    return net


def test_exact_doubling_preserves_the_function_of_every_kind_of_layer():
    teacher = drawn(everything(width=6)).eval()
    student = widen(teacher, doubled(teacher)).eval()
    x = torch.randn(5, 1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(student(x), teacher(x), rtol=0, atol=1e-12)
    assert tuple(read(student).hidden.values()) == (12, 24, 12, 12, 12)
    assert student.norm1.sizes == (6, 6)


@pytest.mark.parametrize("new_width", [6, 7, 11, 25])
def test_random_mappings_preserve_the_function_too(new_width):
    teacher = without_norm(drawn(everything(width=6))).eval()
    generator = torch.Generator().manual_seed(1)
    mappings = {layer: random_mapping(width, new_width * width // 6, generator)
                for layer, width in read(teacher).hidden.items()}
    student = widen(teacher, mappings).eval()
    x = torch.randn(5, 1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(student(x), teacher(x), rtol=0, atol=1e-12)


def test_one_layer_alone_can_be_widened():
    teacher = drawn(nets.build("lenet", (1, 28, 28), 10).double())
    student = widen(teacher, {"conv2": exact_mapping(50, 150)})
    x = torch.randn(2, 1, 28, 28, dtype=torch.float64)
    torch.testing.assert_close(student(x), teacher(x), rtol=0, atol=1e-11)
    assert read(student).hidden == {"conv1": 20, "conv2": 150, "fc3": 500}


def test_a_doubled_sub_model_is_as_large_as_the_net_it_was_cut_from():
    net = nets.build("cuda-convnet", (3, 24, 24), 10)
    sub = split(net, 2)[0]
    student = widen(sub, doubled(sub))
    assert count(student) == 2_112_970
    assert repr(student) == repr(nets.build("cuda-convnet-duplicated", (3, 24, 24), 10))
    assert isinstance(student.norm1, GroupedLRN)


def test_the_equations_by_hand():
    # two units, the second copied twice more: g = 0, 1, 1, 1
    teacher = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        for tensor, values in zip(teacher.parameters(), ([[1], [2]], [3, 4], [[5, 6]], [7]),
                                  strict=True):
            tensor.copy_(torch.tensor(values))
    student = widen(teacher, {"0": torch.tensor([0, 1, 1, 1])})
    assert [tensor.tolist() for tensor in student.parameters()] == [
        [[1], [2], [2], [2]], [3, 4, 4, 4], [[5, 2, 2, 2]], [7]]


def test_the_exact_mapping_has_the_copies_behind_the_originals():
    assert exact_mapping(3, 6).tolist() == [0, 1, 2, 0, 1, 2]


def test_the_random_mapping_keeps_the_originals_and_draws_the_rest_from_them():
    mapping = random_mapping(5, 500, torch.Generator().manual_seed(0))
    assert mapping[:5].tolist() == [0, 1, 2, 3, 4]
    counts = torch.bincount(mapping[5:])
    assert len(counts) == 5 and (counts > 60).all()         # 99 each on average


def test_noise_breaks_the_symmetry_of_copies_within_its_amplitude():
    teacher = drawn(nets.build("lenet", (1, 28, 28), 10).double())
    student = widen(teacher, doubled(teacher))
    noisy = widen(teacher, doubled(teacher))
    add_noise(noisy, 0.02, seed=0)
    assert torch.equal(student.conv1.weight[:20], student.conv1.weight[20:])
    assert not torch.equal(noisy.conv1.weight[:20], noisy.conv1.weight[20:])
    for (name, one), other in zip(student.named_parameters(), noisy.parameters(), strict=True):
        largest = (one - other).abs().max() / one.abs().max()
        if name == "fc4.bias":                      # of the classes: no unit was copied
            assert largest == 0
        else:
            assert 0.015 < largest <= 0.02, name
    noise = (noisy.fc3.weight - student.fc3.weight) / student.fc3.weight.abs().max()
    assert abs(noise.mean().item()) < 1e-4      # 800,000 numbers of +-0.02: 0 +- 1.3e-5
    again = widen(teacher, doubled(teacher))
    add_noise(again, 0.02, seed=0)
    assert torch.equal(noisy.fc3.weight, again.fc3.weight)


def test_what_cannot_be_widened_is_refused():
    net = nets.build("lenet", (1, 28, 28), 10)
    with pytest.raises(UserError, match="30 is no multiple of 20 units"):
        exact_mapping(20, 30)
    with pytest.raises(UserError, match="20 units cannot be widened to 10"):
        exact_mapping(20, 10)
    with pytest.raises(UserError, match="no hidden layer 'fc4' to widen"):
        widen(net, {"fc4": torch.arange(10)})
    for units in ([0] * 20, [*range(19), 20]):
        with pytest.raises(UserError, match="each of its 20 units at least once and no other"):
            widen(net, {"conv1": torch.tensor(units)})


def test_normalisation_over_maps_is_refused_behind_an_irregular_mapping():
    net = split(nets.build("cuda-convnet", (3, 24, 24), 10), 2)[0]
    mapping = random_mapping(32, 64, torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match="'norm1' normalises over the maps of 'conv1', which only "
                                        "the exact mapping preserves"):
        widen(net, {"conv1": mapping})
