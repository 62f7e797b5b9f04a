"""Residual nets: their sizes, what their blocks compute, how they start, where they are cut."""

from functools import partial

import pytest
import torch
from test_dual import CPU, RandomBatches, largest_difference, run_roles
from torch import nn
from torch.nn import functional

from dualnet import nets
from dualnet.config import TrainConfig
from dualnet.cut import compared_layer, cut, join
from dualnet.cuts import list_cuts
from dualnet.errors import UserError
from dualnet.methods.dual.build import build_parts
from dualnet.methods.dual.settings import DualConfig
from dualnet.methods.single import Single
from dualnet.nets.initial import draw_weights
from dualnet.nets.preact_resnet import PreactBlock, PreactBottleneck, preact
from dualnet.nets.residual import PaddedShortcut, blocks_of, fold_survival
from dualnet.nets.resnet import BasicBlock, resnet
from dualnet.nets.wide_resnet import wide_resnet

RGB = (3, 32, 32)


def by_hand(blocks, *, projection=0, norm_stem=16, norm_first=0, widths=(16, 32, 64), stem=16,
            stem_bias=0):
    """Weights of a net for 32x32x3 and ten classes, summed up layer by layer.

    projection  1 adds convolutions of 1x1 where the width changes, 2 with normalisation
    norm_stem   maps of the normalisation outside of the blocks
    norm_first  1 if a block normalises its input, 0 if its own maps
    """
    total = 3 * 9 * stem + stem * stem_bias + 2 * norm_stem + widths[-1] * 10 + 10
    channels = stem
    for width in widths:
        for number in range(blocks):
            first = channels if number == 0 else width
            total += 9 * first * width + 9 * width * width
            total += 2 * (first if norm_first else width) + 2 * width
            if first != width and projection:
                total += first * width + (2 * width if projection == 2 else 0)
        channels = width
    return total


@pytest.mark.parametrize(("name", "published", "expected"), [
    ("resnet20", 269_722, by_hand(3)),
    ("resnet32", 464_154, by_hand(5)),
    ("resnet44", 658_586, by_hand(7)),
    ("resnet56", 853_018, by_hand(9)),
    ("resnet110", 1_727_962, by_hand(18)),
    ("resnet20-projection", 272_490, by_hand(3, projection=2, stem_bias=1)),
    ("resnet122-projection", None, by_hand(20, projection=2, stem_bias=1)),
    ("preact-resnet20", None, by_hand(3, norm_stem=64, norm_first=1)),
    ("preact-resnet110", None, by_hand(18, norm_stem=64, norm_first=1)),
    ("preact-resnet122-projection", None,
     by_hand(20, projection=1, norm_stem=64, norm_first=1, stem_bias=1)),
    ("wrn-28-10", 36_479_194, by_hand(4, projection=1, norm_stem=640, norm_first=1,
                                      widths=(160, 320, 640))),
    ("wrn-28-2", 1_467_610, by_hand(4, projection=1, norm_stem=128, norm_first=1,
                                    widths=(32, 64, 128))),
])
def test_the_numbers_of_weights(name, published, expected):
    net = nets.build(name, RGB, 10)
    assert sum(p.numel() for p in net.parameters()) == expected
    assert published in (None, expected)


@pytest.mark.parametrize(("name", "layers"), [
    ("resnet20", 20), ("resnet110", 110), ("resnet122-projection", 122), ("preact-resnet56", 56)])
def test_the_layers_of_the_name_are_counted_without_shortcuts(name, layers):
    weighted = [path for path, module in nets.build(name, RGB, 10).named_modules()
                if isinstance(module, (nn.Conv2d, nn.Linear)) and "shortcut" not in path]
    assert len(weighted) == layers


@pytest.mark.parametrize(("name", "classes", "weights"), [
    ("preact-resnet101-basic", 10, 41_350_730), ("preact-resnet101-basic", 100, 41_396_900),
    ("preact-resnet101-bottleneck", 10, 42_501_194)])
def test_the_numbers_of_weights_of_the_nets_of_resist(name, classes, weights):
    """The first by layer: stem 3*9*64; blocks w -> w of 18 w^2 + 4 w, of which the first of a stage
    has 9 (c w + w w) + 2 c + 2 w + c w with its shortcut; 513 K at the end."""
    assert sum(p.numel() for p in nets.build(name, RGB, classes).parameters()) == weights
    if name.endswith("basic"):
        total, channels = 3 * 9 * 64 + 513 * classes, 64
        for width, count in ((64, 3), (128, 4), (256, 23), (512, 3)):
            total += count * (18 * width**2 + 4 * width)
            if channels != width:
                total += 9 * (channels - width) * width + 2 * (channels - width) + channels * width
            channels = width
        assert total == weights


def test_a_bottleneck_block_by_hand():
    block, x = of_batch(PreactBottleneck(4, 3, 2))
    activated = normalised(x, block.bn1).relu()
    branch = normalised(conv(activated, block.conv1), block.bn2).relu()
    branch = normalised(conv(branch, block.conv2, 2), block.bn3).relu()
    assert torch.allclose(block(x), conv(activated, block.shortcut, 2) + conv(branch, block.conv3),
                          atol=1e-12)
    same = PreactBottleneck(12, 3, 1)
    assert isinstance(same.shortcut, nn.Identity) and same(torch.zeros(2, 12, 4, 4)).shape[1] == 12


def test_each_later_stage_halves_the_sides():
    x, shapes = torch.zeros(1, *RGB), {}
    for name, layer in nets.build("resnet20", RGB, 10).named_children():
        x = layer(x)
        shapes[name] = tuple(x.shape[1:])
    assert list(shapes) == ["stem", *(f"block{s}_{n}" for s in (1, 2, 3) for n in range(3)),
                            "pool", "fc"]
    assert [shapes[f"block{s}_{n}"] for s in (1, 2, 3) for n in (0, 2)] == [
        (16, 32, 32)] * 2 + [(32, 16, 16)] * 2 + [(64, 8, 8)] * 2


def test_a_shortcut_without_weights_takes_every_other_pixel_and_adds_empty_maps():
    x = torch.arange(2 * 25.0).reshape(1, 2, 5, 5)
    found = PaddedShortcut(2, 5, 2)(x)
    assert found.shape == (1, 5, 3, 3)
    assert torch.equal(found[0, 0], torch.tensor([[0., 2, 4], [10, 12, 14], [20, 22, 24]]))
    assert torch.equal(found[0, 1], found[0, 0] + 25)
    assert not found[0, 2:].any()


# -- what a block computes, from the formulas ------------------------------------------------------

def normalised(x, norm):
    """Over the batch, by hand."""
    mean = x.mean((0, 2, 3), keepdim=True)
    var = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
    scaled = (x - mean) / (var + 1e-5).sqrt()
    return scaled * norm.weight[:, None, None] + norm.bias[:, None, None]


def conv(x, layer, stride=1):
    return functional.conv2d(x, layer.weight, layer.bias, stride, layer.kernel_size[0] // 2)


def of_batch(block, seed=3):
    """A drawn block in float64, its scales and shifts drawn too, and images for it."""
    draw_weights(block, seed)
    generator = torch.Generator().manual_seed(seed)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator)
            nn.init.uniform_(module.bias, -1, 1, generator)
    return block.double(), torch.randn(4, 4, 6, 6, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize(("width", "stride"), [(4, 1), (6, 2)])
def test_a_basic_block(width, stride, projection):
    block, x = of_batch(BasicBlock(4, width, stride, projection))
    branch = normalised(conv(x, block.conv1, stride), block.bn1).relu()
    branch = normalised(conv(branch, block.conv2), block.bn2)
    shortcut = x
    if stride == 2 and projection:
        shortcut = normalised(conv(x, block.shortcut.conv, 2), block.shortcut.bn)
    elif stride == 2:
        shortcut = torch.cat([x[:, :, ::2, ::2], torch.zeros(4, 2, 3, 3)], 1)
    assert torch.allclose(block(x), (shortcut + branch).relu(), atol=1e-12)


@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize(("width", "stride"), [(4, 1), (6, 2)])
def test_a_pre_activated_block(width, stride, projection):
    block, x = of_batch(PreactBlock(4, width, stride, projection))
    activated = normalised(x, block.bn1).relu()
    branch = normalised(conv(activated, block.conv1, stride), block.bn2).relu()
    shortcut = x
    if stride == 2 and projection:
        shortcut = conv(activated, block.shortcut, 2)
    elif stride == 2:
        shortcut = torch.cat([x[:, :, ::2, ::2], torch.zeros(4, 2, 3, 3)], 1)
    assert torch.allclose(block(x), shortcut + conv(branch, block.conv2), atol=1e-12)


def test_a_wide_net_of_another_depth_is_refused():
    with pytest.raises(UserError, match=r"is 6n \+ 4, such as 16 or 28, not 20"):
        wide_resnet(RGB, 10, depth=20, widen=1)


def test_convolutions_start_with_a_deviation_of_the_root_of_2_by_their_inputs():
    net = nets.build("wrn-28-2", RGB, 10)
    draw_weights(net, 0)
    assert net.block3_1.conv1.weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.01)
    assert not nets.build("resnet20-projection", RGB, 10).stem.conv.bias.any()


def test_weights_are_a_function_of_seed_and_name():
    one, two, other = (resnet(RGB, 10, blocks=1) for _ in range(3))
    draw_weights(one, 1)
    torch.manual_seed(9)
    draw_weights(two, 1)
    draw_weights(other, 2)
    assert torch.equal(one.block2_0.conv1.weight, two.block2_0.conv1.weight)
    assert not torch.equal(one.block2_0.conv1.weight, other.block2_0.conv1.weight)
    assert not torch.equal(one.block1_0.conv1.weight, one.block1_0.conv2.weight)


# -- cut -------------------------------------------------------------------------------------------

def test_what_is_shared_behind_a_cut_is_a_whole_block():
    front, back = cut(nets.build("resnet20", RGB, 10), ["block2_0"])
    assert compared_layer(front) == "block2_1"
    assert isinstance(front.tail.block2_1, BasicBlock)
    assert list(dict(back.body.named_children())) == ["block2_2", "block3_0", "block3_1",
                                                      "block3_2", "pool", "fc"]
    last, _ = cut(nets.build("preact-resnet20", RGB, 10), ["block3_2"])
    assert list(dict(last.tail.named_children())) == ["bn", "relu"]


def test_the_work_of_the_cuts_of_resnet20_by_hand():
    """A block of two convolutions has 4.72 M multiply-adds in each stage, 3.54 M if it halves."""
    pixels = {1: 32 * 32, 2: 16 * 16, 3: 8 * 8}
    block = {s: 2 * pixels[s] * (16 * 2 ** (s - 1)) ** 2 * 9 for s in pixels}
    first = {s: block[s] * 3 // 4 for s in (2, 3)}
    stem, fc = pixels[1] * 16 * 27, 640
    total = stem + 3 * block[1] + 2 * block[2] + first[2] + 2 * block[3] + first[3] + fc
    found = {each.boundary: each for each in list_cuts(nets.build("resnet20", RGB, 10), RGB,
                                                       batch_size=10)}
    middle = found["block2_0"]
    assert middle.multiply_adds == (stem + 3 * block[1] + first[2] + block[2],
                                    total - stem - 3 * block[1] - first[2])
    assert middle.z_bytes == middle.y_bytes == 10 * 32 * 16 * 16 * 4
    assert list(found) == ["stem", *(f"block{s}_{n}" for s in (1, 2, 3) for n in range(3)), "pool"]


SMALL = {"resnet": partial(resnet, blocks=2), "projection": partial(resnet, blocks=2,
                                                                     projection=True),
         "preact": partial(preact, blocks=2), "wide": partial(wide_resnet, depth=16, widen=1)}
SMALL_SHAPE = (3, 16, 16)


@pytest.mark.parametrize("boundary", ["stem", "block1_1", "block2_0"])
@pytest.mark.parametrize("kind", SMALL)
def test_tied_admm_equals_the_single_net_when_a_block_is_shared(kind, boundary):
    """In float64, statistics of the normalisation included."""
    settings = DualConfig(loss="admm", cut=boundary, iterations=4, batch_size=8, log_every=1,
                          lr_schedule="constant", precision="float64", message_dtype="float64",
                          weight_decay=1e-3)
    batches = RandomBatches()
    parts = build_parts(settings, SMALL[kind](SMALL_SHAPE, 10))
    run_roles(settings, parts, batches)
    common = {key: value for key, value in settings.to_dict().items()
              if key in TrainConfig.__dataclass_fields__}
    single = Single(TrainConfig(**common), SMALL[kind](SMALL_SHAPE, 10), batches, CPU)
    list(single.steps())
    assert largest_difference(join(parts), single.net) < 1e-10
    assert largest_difference(join(parts, merged=True), single.net) < 1e-10


# -- blocks that are skipped -----------------------------------------------------------------------

def calls_of(net):
    """How often each convolution is called, by its name, counted from now on."""
    calls = {}
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda *_, name=name: calls.update({name: calls.get(name, 0) + 1}))
    return calls


@pytest.mark.parametrize("kind", SMALL)
def test_a_skipped_block_computes_nothing_and_gets_no_gradient(kind):
    net = SMALL[kind](SMALL_SHAPE, 10).train()
    draw_weights(net, 0)
    net.block2_1.is_skipped = True
    before = net.block2_1.bn1.running_mean.clone()
    calls = calls_of(net)
    net(torch.randn(4, *SMALL_SHAPE)).sum().backward()
    assert not any(name.startswith("block2_1") for name in calls)
    assert calls["block2_0.conv1"] == calls["block2_0.conv2"] == calls["block3_0.conv1"] == 1
    assert all(p.grad is None for p in net.block2_1.parameters())
    assert all(p.grad is not None for name, p in net.named_parameters() if "block2_1" not in name)
    assert torch.equal(net.block2_1.bn1.running_mean, before)


@pytest.mark.parametrize("kind", SMALL)
def test_a_skipped_block_that_changes_the_shape_keeps_its_shortcut(kind):
    net = SMALL[kind](SMALL_SHAPE, 10).train()
    draw_weights(net, 0)
    net.block2_0.is_skipped = True
    calls = calls_of(net)
    net(torch.randn(4, *SMALL_SHAPE)).sum().backward()
    own = {name for name in calls if name.startswith("block2_0")}
    assert own == {name for name, m in net.named_modules() if isinstance(m, nn.Conv2d)
                   and name.startswith("block2_0.shortcut")}
    assert all(net.get_submodule(name).weight.grad is not None for name in own)
    assert net.block2_0.conv1.weight.grad is None is net.block2_0.conv2.weight.grad


def test_in_a_test_each_branch_is_multiplied_by_its_survival():
    block, x = of_batch(PreactBlock(4, 4, 1))
    block.eval()
    branch = block(x) - x
    block.survival = 0.25
    block.is_skipped = True     # of no account in a test
    assert torch.allclose(block(x), x + 0.25 * branch, atol=1e-12)


@pytest.mark.parametrize("kind", SMALL)
def test_folded_survival_gives_the_same_answers_from_the_plain_net(kind):
    net, x = SMALL[kind](SMALL_SHAPE, 10), torch.randn(4, *SMALL_SHAPE)
    draw_weights(net, 0)
    net(x)          # statistics of the normalisation
    for number, (_, block) in enumerate(blocks_of(net)):
        block.survival = 1 - 0.1 * number
        nn.init.uniform_(block.bn2.bias)
    expected = net.eval()(x)
    fold_survival(net)
    plain = SMALL[kind](SMALL_SHAPE, 10)
    plain.load_state_dict(net.state_dict())
    assert torch.allclose(plain.eval()(x), expected, atol=1e-5)
