"""ResIST: who has what, averages against numpy, one site against plain training, bytes by hand."""

import itertools
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from test_resume import differing, through_the_disk

from dualnet import nets
from dualnet.config import TrainConfig, field_names
from dualnet.data.batches import Batches, Preprocessing
from dualnet.data.dataset import Dataset
from dualnet.errors import UserError
from dualnet.methods.resist.deal import deal, hand_sizes, site_seed, split_images
from dualnet.methods.resist.parts import (
    Average,
    as_tested,
    dealt_blocks,
    pack,
    packed_size,
    published_bytes,
    round_bytes,
    sections_of,
    sub_net,
    tensors_of,
    unpack,
)
from dualnet.methods.resist.settings import ResistConfig
from dualnet.methods.resist.training import Helper, Resist
from dualnet.methods.single import Single
from dualnet.nets.initial import draw_weights
from dualnet.nets.preact_resnet import preact
from dualnet.nets.resnet import resnet
from dualnet.resist_folder import FolderLinks, channel_name
from shared_fs import Exchange

CPU = torch.device("cpu")
SHAPE = (3, 8, 8)
BLOCKS = [f"block3_{number}" for number in range(1, 23)]
tiny = partial(preact, SHAPE, 10, blocks=(1, 5, 1), widths=(4, 6, 8), stem=4, projection=True,
               last_norm=False)
DEALT = [f"block2_{number}" for number in range(1, 5)]


def settings_for(**changes):
    return ResistConfig(**{
        "iterations": 6, "batch_size": 8, "local_iterations": 2, "mirror": False, "crop": 0,
        "net": "preact-resnet26-basic", "lr": 0.1, "weight_decay": 1e-3, **changes}).resolved()


def batches_of(seed=0, count=64):
    random = np.random.default_rng(3)
    images = random.integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    labels = np.arange(count) % 10
    dataset = Dataset("random", tuple("abcdefghij"), images, labels, images[:16], labels[:16])
    return Batches(dataset, 8, seed, Preprocessing(mirror=True))


def method_of(net=None, **changes):
    return Resist(settings_for(**changes), net or tiny(), batches_of(), CPU)


# -- who has what ----------------------------------------------------------------------------------

@pytest.mark.parametrize(("sites", "min_blocks", "sizes", "holders"), [
    (1, 0, [22], {1: 22}), (2, 0, [11, 11], {1: 22}), (4, 0, [6, 6, 5, 5], {1: 22}),
    (8, 0, [3, 3, 3, 3, 3, 3, 2, 2], {1: 22}),
    (8, 4, [4] * 8, {1: 12, 2: 10}),            # 32 places for 22 blocks
    (3, 22, [22] * 3, {3: 22})])
@pytest.mark.parametrize("number", range(5))
def test_each_dealt_block_is_at_the_stated_number_of_sites(number, sites, min_blocks, sizes,
                                                           holders):
    assert hand_sizes(22, sites, min_blocks) == sizes
    hands = deal(BLOCKS, settings_for(sites=sites, min_blocks=min_blocks), number)
    assert [len(hand) for hand in hands] == sizes       # sets: no block twice at a site
    assert Counter(Counter(itertools.chain(*hands)).values()) == holders


def test_blocks_are_dealt_anew_in_each_round_and_the_same_everywhere():
    settings = settings_for(sites=2)
    rounds = [deal(BLOCKS, settings, number) for number in range(20)]
    assert rounds == [deal(BLOCKS, settings, number) for number in range(20)]
    assert len({hands[0] for hands in rounds}) == 20
    together = sum("block3_1" in hands[0] for hands in rounds)
    assert 3 <= together <= 17                          # 10 +- 2.2
    assert deal(BLOCKS, settings.replace(seed=1), 0) != rounds[0]


def test_random_hands_leave_blocks_out_and_at_several_sites():
    settings = settings_for(sites=4, assign="random")
    holders = [Counter(itertools.chain(*deal(BLOCKS, settings, number))) for number in range(50)]
    assert all(sum(found.values()) == 22 for found in holders)
    # a block is at no site with probability (16/22)^2 (17/22)^2 = 0.316: 6.9 of 22
    resting = np.mean([22 - len(found) for found in holders])
    assert 5.5 < resting < 8.5


def test_more_blocks_than_there_are_cannot_be_asked_for():
    with pytest.raises(UserError, match="--min-blocks 23 is more than the 22 blocks"):
        hand_sizes(22, 8, 23)


# -- which blocks are dealt ------------------------------------------------------------------------

def test_the_longest_section_is_dealt_but_for_its_strided_block():
    net = nets.build("preact-resnet101-basic", (3, 32, 32), 10)
    assert dealt_blocks(settings_for(), net) == BLOCKS
    assert [len(section) for section in sections_of(net)] == [3, 4, 23, 3]
    assert dealt_blocks(settings_for(sites=1), net) == []
    assert dealt_blocks(settings_for(decompose=False), net) == []
    every = dealt_blocks(settings_for(sections="1,2,3,4"), net)
    assert len(every) == 33 - 3 and "block1_0" in every and "block2_0" not in every
    assert len(dealt_blocks(settings_for(sections="2,3", share_strided=False), net)) == 27


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"sections": "4"}, "has 3 sections"), ({"sections": "1,x"}, "takes longest or numbers"),
    ({"sections": "3"}, "leaves no block"), ({"min_blocks": 5}, "more than the 4 blocks"),
    ({"split": "dirichlet"}, "--split takes iid or dirichlet:A"),
    ({"split": "dirichlet:0"}, "--split takes iid or dirichlet:A")])
def test_what_does_not_fit_is_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        method_of(**changes)


def test_a_net_without_blocks_is_refused():
    with pytest.raises(UserError, match="no residual blocks"):
        method_of(nets.build("lenet", (3, 28, 28), 10))


# -- sub-nets --------------------------------------------------------------------------------------

@pytest.mark.parametrize("share_strided", [True, False])
@pytest.mark.parametrize("make", [tiny, partial(
    resnet, SHAPE, 10, blocks=(1, 5, 1), widths=(4, 6, 8), projection=True)], ids=["pre", "post"])
def test_a_sub_net_computes_what_the_whole_does_when_branches_are_zero(make, share_strided):
    """A branch ends with a convolution or a normalisation; with zeros there it adds nothing."""
    net = make().double()
    draw_weights(net, 1)
    absent = ["block2_2", "block2_4", *([] if share_strided else ["block2_0", "block3_0"])]
    sub = sub_net(net, absent)
    x = torch.randn(4, *SHAPE, dtype=torch.float64)
    for name in absent:
        for parameter in net.get_submodule(name).last_layer().parameters():
            torch.nn.init.zeros_(parameter)
    assert torch.allclose(sub(x), net(x), atol=1e-12)
    assert not any(name.startswith("block2_2.") for name in tensors_of(sub))
    if not share_strided:       # the shortcut stays, with what it needs
        kept = {name.split(".")[1] for name in tensors_of(sub) if name.startswith("block2_0.")}
        assert kept == ({"shortcut", "bn1"} if make is tiny else {"shortcut"})
    assert packed_size(sub) < packed_size(net)


def test_what_is_packed_can_be_unpacked_elsewhere():
    one, other = tiny(), tiny()
    draw_weights(one, 1), draw_weights(other, 2)
    unpack(other, pack(one))
    assert differing(dict(one.named_parameters()), dict(other.named_parameters())) == []


def test_the_average_is_that_of_numpy_over_the_sites_that_have_a_tensor():
    net = tiny()
    draw_weights(net, 0)
    before = {name: tensor.clone() for name, tensor in tensors_of(net).items()}
    absent = [["block2_1", "block2_4"], ["block2_2", "block2_4"], ["block2_1", "block2_4"]]
    subs = [sub_net(net, names) for names in absent]
    for seed, sub in enumerate(subs):
        draw_weights(sub, 10 + seed)
    average = Average()
    for sub in subs:
        average.add(tensors_of(sub))
    average.give(net)
    for name, tensor in tensors_of(net).items():
        held = [tensors_of(sub)[name].numpy() for sub in subs if name in tensors_of(sub)]
        expected = np.mean(held, axis=0, dtype=np.float64) if held else before[name].numpy()
        assert np.allclose(tensor.numpy(), expected, atol=1e-6), name
        assert len(held) == {"block2_1": 1, "block2_2": 2, "block2_4": 0}.get(
            name.split(".")[0], 3)


# -- training --------------------------------------------------------------------------------------

@pytest.mark.parametrize("statistics", ["running", "batch"])
def test_one_site_is_plain_training_bit_for_bit(statistics):
    method = method_of(sites=1, statistics=statistics, lr_schedule="tail")
    plain = TrainConfig(**{name: getattr(method.settings, name)
                           for name in field_names(TrainConfig)})
    single = Single(plain, as_tested(method.settings, tiny()), batches_of(), CPU)
    assert [r["loss"] for r in method.steps()] == [r["loss"] for r in single.steps()]
    assert differing(tensors_of(method.net), tensors_of(single.net)) == []
    assert method.evaluate() == single.evaluate()


def test_a_round_is_that_of_sites_trained_by_hand():
    """Two sites, two iterations: sub-nets, a fresh momentum, the second site's own images."""
    method = method_of(sites=2, iterations=4, lr_schedule="constant")
    whole = as_tested(method.settings, tiny())
    draw_weights(whole, 0)
    found = method.steps()
    for number in range(2):
        hands = deal(DEALT, method.settings, number)
        losses, subs = [], []
        for site, hand in enumerate(hands):
            sub = sub_net(whole, set(DEALT) - hand).train()
            optimizer = torch.optim.SGD(sub.parameters(), 0.1, 0.9, weight_decay=1e-3)
            own = batches_of(seed=0).drawn_by(site_seed(method.settings, site))
            for step in (2 * number, 2 * number + 1):
                loss = torch.nn.functional.cross_entropy(
                    sub(torch.as_tensor(own.images(step))), torch.as_tensor(own.labels(step)))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            subs.append(tensors_of(sub))
        for name, tensor in tensors_of(whole).items():
            held = [sub[name] for sub in subs if name in sub]
            tensor.copy_(sum(held) / len(held))
        records = list(itertools.islice(found, 2))
        assert [r["loss"] for r in records] == pytest.approx(
            [(a + b) / 2 for a, b in zip(losses[:2], losses[2:], strict=True)], rel=1e-6)
        assert records[1]["resist/round"] == number + 1
        assert all(torch.allclose(tensor, tensors_of(whole)[name], atol=1e-6)
                   for name, tensor in tensors_of(method.net).items())


def test_local_sgd_with_the_same_images_and_full_batches_keeps_the_sites_equal():
    """With all blocks at all sites, the average of one iteration is that with the mean gradient."""
    method = method_of(sites=2, decompose=False, local_iterations=1, iterations=1, momentum=0.0,
                       lr_schedule="constant", precision="float64", weight_decay=0.0)
    whole = as_tested(method.settings, tiny())
    draw_weights(whole, 0)
    whole.double()
    losses = []
    for site in range(2):
        own = batches_of().drawn_by(site_seed(method.settings, site))
        losses.append(torch.nn.functional.cross_entropy(
            whole(torch.as_tensor(own.images(0)).double()), torch.as_tensor(own.labels(0))))
    (sum(losses) / 2).backward()
    list(method.steps())
    for name, parameter in whole.named_parameters():
        expected = parameter.detach() - 0.1 * parameter.grad
        assert torch.allclose(tensors_of(method.net)[name], expected, atol=1e-12), name


def test_a_dealt_branch_counts_by_the_share_of_the_sites_in_a_test():
    net = as_tested(settings_for(sites=8, min_blocks=2), tiny())
    assert [net.get_submodule(name).survival for name in DEALT] == [0.5] * 4   # max(1/8, 2/4)
    assert net.block2_0.survival == net.block3_0.survival == 1
    net = as_tested(settings_for(sites=2), tiny())
    assert net.block2_1.survival == 0.5
    net = as_tested(settings_for(sites=2, scale_branches=False), tiny())
    assert net.block2_1.survival == 1


def test_batch_statistics_are_those_of_the_tested_batch():
    net = as_tested(settings_for(), tiny()).double().eval()
    draw_weights(net, 0)
    x = 5 + 3 * torch.randn(16, *SHAPE, dtype=torch.float64)
    seen = []
    net.block1_0.bn1.register_forward_hook(lambda module, given, out: seen.append(out))
    net(x)
    assert torch.allclose(seen[0].mean((0, 2, 3)), torch.zeros(4, dtype=torch.float64), atol=1e-9)
    assert not any("running" in name for name in net.state_dict())


@pytest.mark.parametrize("changes", [{}, {"sites": 1}, {"statistics": "running"}], ids=str)
def test_resumes_after_a_round_bit_for_bit(changes, tmp_path):
    whole, half = method_of(**changes), method_of(**changes)
    records = list(whole.steps())
    list(itertools.islice(half.steps(), 4))
    resumed = method_of(**changes)
    resumed.load_state_dict(through_the_disk(tmp_path, 4, half.state_dict()))
    assert [r["loss"] for r in resumed.steps(4)] == [r["loss"] for r in records[4:]]
    assert differing(resumed.state_dict(), whole.state_dict()) == []


def test_a_checkpoint_comes_only_between_rounds():
    settings = settings_for(iterations=7, local_iterations=2, eval_every=3, checkpoint_every=5)
    assert [s + 1 for s in range(7) if settings.is_logged(s)] == [2, 4, 6, 7]
    assert [s + 1 for s in range(7) if settings.is_evaluated(s)] == [4, 6, 7]
    assert [s + 1 for s in range(7) if settings.is_saved(s)] == [6, 7]
    method = method_of(iterations=4)
    assert [method.is_whole for _ in method.steps()] == [False, True, False, True]


def test_the_rate_drops_after_half_and_three_quarters():
    method = method_of(iterations=8, lr=0.1)
    assert [record["lr"] for record in method.steps()] == pytest.approx(
        [0.1] * 4 + [0.01] * 2 + [0.001] * 2)


# -- sites apart ----------------------------------------------------------------------------------

def test_sites_that_share_a_folder_compute_what_one_process_does(tmp_path):
    """Three rounds of two sites, one of them in a thread that has no weights of its own."""
    names = ("site1", "site2")
    channels = {channel_name(0, 1): names, channel_name(1, 0): names[::-1]}
    simulated = method_of()
    expected = [record["loss"] for record in simulated.steps()]
    with torch.device("meta"):
        empty = tiny()

    def help_the_first():
        with Exchange(tmp_path, "site2", channels=channels, roles=names) as exchange:
            helper = Helper(settings_for(), empty, batches_of(), CPU, FolderLinks(exchange, 1), 1)
            found = [record["loss"] for record in helper.steps(0)]
            exchange.finish()
        return found

    with ThreadPoolExecutor(1) as pool:
        helped = pool.submit(help_the_first)
        with Exchange(tmp_path, "site1", channels=channels, roles=names) as exchange:
            first = Resist(settings_for(), tiny(), batches_of(), CPU, FolderLinks(exchange, 0))
            assert [record["loss"] for record in first.steps()] == expected
            exchange.finish()
    assert len(helped.result()) == 6
    assert differing(tensors_of(first.net), tensors_of(simulated.net)) == []


# -- images of the sites ---------------------------------------------------------------------------

def test_a_dirichlet_split_gives_every_image_to_one_site_and_the_more_uneven_the_smaller_a():
    labels = np.arange(5000) % 10

    def unevenness(concentration):
        parts = split_images(labels, settings_for(sites=4, split=f"dirichlet:{concentration}"))
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(5000))
        counts = np.array([np.bincount(labels[part], minlength=10) for part in parts]) / 500
        return counts.std(axis=0).mean()        # of Dirichlet: sqrt(p (1 - p) / (4 A + 1)), p = 1/4

    for concentration in (0.1, 0.5, 5):
        expected = (3 / 16 / (4 * concentration + 1)) ** 0.5
        assert unevenness(concentration) == pytest.approx(expected, rel=0.35)
    assert split_images(labels, settings_for(split="iid")) is None


def test_a_split_that_leaves_a_site_without_a_batch_is_refused():
    with pytest.raises(UserError, match="leaves a site without a batch of 8 images"):
        split_images(np.arange(20) % 10, settings_for(sites=4, split="dirichlet:0.01"))


def test_a_site_sees_its_own_images_only():
    parts = split_images(batches_of().dataset.train_labels,
                         settings_for(split="dirichlet:1", sites=2, batch_size=8))
    own = batches_of().drawn_by(7, parts[0])
    seen = np.concatenate([own.sample_ids(step) for step in range(own.steps_per_epoch)])
    assert set(seen) <= set(parts[0]) and len(set(seen)) == len(seen)
    assert np.array_equal(own.mean, batches_of().mean)


# -- bytes -----------------------------------------------------------------------------------------

@pytest.mark.parametrize(("sites", "min_blocks", "published"), [
    (2, 0, {10: None, 100: 0.454}), (4, 0, {10: 0.719, 100: 0.720}),
    (8, 4, {10: 1.286, 100: 1.289})])
def test_bytes_of_a_round_to_the_digits_that_the_paper_prints(sites, min_blocks, published):
    """S sites send and receive 4 bytes for each of the shared weights and of at most m blocks: with
    100 classes 15,422,116 + m 1,180,672, m = 11, 6, 4.  The paper cuts 0.4546 to 0.454."""
    for classes, printed in published.items():
        net = as_tested(settings_for(), nets.build("preact-resnet101-basic", (3, 32, 32), classes))
        most = {2: 11, 4: 6, 8: 4}[sites]
        shared = 15_422_116 - 513 * (100 - classes)
        found = published_bytes(net, BLOCKS, sites, min_blocks)
        assert found == 2 * sites * 4 * (shared + most * 1_180_672)
        if printed:
            assert abs(found / 1e9 - printed) < 0.001
        assert published_bytes(net, [], sites, 0) == 2 * sites * 4 * (shared + 22 * 1_180_672)


def test_bytes_of_a_round_are_those_of_the_hands():
    net = as_tested(settings_for(), nets.build("preact-resnet101-basic", (3, 32, 32), 100))
    hands = deal(BLOCKS, settings_for(sites=4), 0)
    # 6 + 6 + 5 + 5 blocks, each once
    assert round_bytes(net, BLOCKS, hands) == 2 * 4 * (4 * 15_422_116 + 22 * 1_180_672)
    assert round_bytes(net, BLOCKS, hands) == sum(
        2 * 4 * packed_size(sub_net(net, set(BLOCKS) - hand)) for hand in hands)
