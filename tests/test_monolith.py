"""MonolithNet: the stages, the averages and the costs by hand, and what rests in stage 2."""

import resource

import numpy as np
import pytest
import torch
from monoliths import TINY, is_same, settings_of
from torch.nn import functional

from dualnet.cli import main
from dualnet.methods.monolith.settings import HEAD, STAGES, TRUNK, WHOLE, MonolithConfig, Span
from dualnet.methods.monolith.training import Head, averages, subset_of, trunk_net
from dualnet.monolith_costs import costs_of
from dualnet.nets.monolith import average_proxies, joined
from dualnet.session import load_data

CPU = torch.device("cpu")


def head_of(**changes):
    """The head of a new net with drawn trunks that have seen some images, and these trunks."""
    settings = settings_of(**changes)
    _, batches = load_data(settings.replace(batch_size=20))
    trunks = [trunk_net(settings, role, batches.input_shape, 10).double()
              for role in settings.trunk_roles]
    for trunk in trunks:
        trunk.train()(torch.as_tensor(batches.images(0)).double())
    span = Span(0, 6, 0.0, 5)
    return Head(settings.of_stage(HEAD, span), settings.stage(HEAD), span, trunks, batches,
                CPU), trunks


def copied(state):
    return {name: tensor.clone() for name, tensor in state.items()}


# -- settings --------------------------------------------------------------------------------------

def test_the_published_stages_on_cifar10_by_hand():
    # 40,000 images in batches of 128: 312 an epoch; 50,000 in 300: 166; in 88: 568
    settings = MonolithConfig().resolved()
    spans = settings.spans(50_000)
    assert spans[TRUNK] == Span(0, 200 * 312, 0.0, 312)
    assert spans[HEAD] == Span(62_400, 62_400 + 40 * 166, 200.0, 166)
    assert spans[WHOLE] == Span(69_040, 69_040 + 25 * 568, 240.0, 568)
    assert settings.counted(50_000).iterations == 83_240
    stages = {name: settings.stage(name) for name in STAGES}
    assert [stage.lr for stage in stages.values()] == [0.1, 0.005, 1e-4]
    assert spans[TRUNK].milestones(stages[TRUNK]) == (60 * 312, 120 * 312, 160 * 312)
    assert spans[HEAD].milestones(stages[HEAD]) == tuple(62_400 + 13 * n * 166 for n in (1, 2, 3))
    assert spans[WHOLE].milestones(stages[WHOLE]) == (69_040 + 13 * 568,)
    assert [stage.factor for stage in stages.values()] == [0.2, 0.3, 0.2]
    assert (settings.momentum, settings.weight_decay) == (0.9, 5e-4)
    assert (settings.mirror, settings.crop, settings.mean) == (True, 4, "channel")
    assert settings.net == "3xwrn-28-20" and settings == settings.resolved()


def test_subsets_are_of_the_given_size_differ_and_depend_on_seed_and_trunk_alone():
    settings = MonolithConfig(subset=0.3)
    one, other = (subset_of(settings, role, 100) for role in ("trunk1", "trunk2"))
    assert len(set(one.tolist())) == len(one) == 30 and one.tolist() == sorted(one)
    assert one.min() >= 0 and one.max() < 100 and set(one) != set(other)
    assert np.array_equal(one, subset_of(settings.replace(trunks=7), "trunk1", 100))
    assert not np.array_equal(one, subset_of(settings.replace(seed=1), "trunk1", 100))


# -- stage 2 ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("keeps", [False, True])
def test_resting_trunks_do_not_move_by_a_bit_statistics_included(keeps):
    method, trunks = head_of(**({} if not keeps else {"augment_head": False}))
    before = [copied(trunk.state_dict()) for trunk in trunks]
    head = copied(method.net.state_dict())
    if keeps:
        method.keep(np.concatenate(list(method.features())))
    for _ in method.steps():
        pass
    method.evaluate()
    assert all(is_same(state, trunk.state_dict())
               for state, trunk in zip(before, trunks, strict=True))
    assert all(parameter.grad is None for trunk in trunks for parameter in trunk.parameters())
    assert not any(torch.equal(head[name], tensor)
                   for name, tensor in method.net.state_dict().items())
    assert set(method.state_dict()["net"]) == {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}


def test_kept_features_train_the_head_as_computed_ones_do():
    kept, _ = head_of(augment_head=False, mirror=False, crop=0)
    computed, _ = head_of(mirror=False, crop=0)
    kept.keep(np.concatenate(list(kept.features())))
    for parameter in kept.trunks.parameters():      # nobody asks the trunks again
        parameter.data.fill_(torch.nan)
    for one, other in zip(kept.steps(), computed.steps(), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-12)
    for name, tensor in kept.net.state_dict().items():
        torch.testing.assert_close(tensor, computed.net.state_dict()[name], rtol=1e-10, atol=1e-12)


def test_an_augmented_head_sees_other_features_each_time():
    method, _ = head_of()
    images = torch.as_tensor(method.batches.images(3)).double()
    assert torch.equal(method._batch(3), method.trunks(images))
    plain = method.batches.dataset.train_images[method.batches.sample_ids(3)]
    assert not np.array_equal(images.numpy(), plain)


def test_averages_are_those_of_logits_and_of_probabilities_by_hand():
    method, trunks = head_of()
    images = torch.as_tensor(method.batches.test_images(0)).double()
    labels = method.batches.test_labels(0)
    logits = np.stack([trunk.eval()(images).detach().numpy() for trunk in trunks])
    logits[1] *= 5      # a trunk that is more certain counts more among logits
    with torch.no_grad():
        for tensor in trunks[1].fc.parameters():
            tensor.mul_(5)
    chances = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    expected = {"accuracy_trunk1": logits[0], "accuracy_trunk2": logits[1],
                "accuracy_mean_logits": logits.mean(0),
                "accuracy_mean_probabilities": chances.mean(0)}
    found = averages(trunks, method.batches, CPU, torch.float64)
    assert found == {name: (each.argmax(1) == labels).mean() for name, each in expected.items()}


class Answers(torch.nn.Module):
    """The same logits for every image."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = torch.tensor(logits, dtype=torch.float64)

    def forward(self, x):
        return self.logits.expand(len(x), -1)


def test_a_certain_trunk_outvotes_two_others_among_logits_and_not_among_probabilities():
    # logits: mean (10/3, 2), class 0; probabilities: about (1, 0), (.05, .95), (.05, .95): class 1
    method, _ = head_of()
    trunks = [Answers(10, 0), Answers(0, 3), Answers(0, 3)]
    method.batches.dataset.test_labels[:3] = 0      # of class 0 more images than of class 1
    share = [(method.batches.dataset.test_labels == label).mean() for label in (0, 1)]
    assert share[0] != share[1]
    found = averages(trunks, method.batches, CPU, torch.float64)
    assert (found["accuracy_mean_logits"], found["accuracy_mean_probabilities"]) == tuple(share)


def test_a_linear_head_begins_as_the_mean_of_the_logits():
    method, trunks = head_of(neurons=0)
    images = torch.as_tensor(method.batches.test_images(0)).double()
    mean = sum(trunk.eval()(images) for trunk in trunks) / 2
    net = joined(trunks, method.net).eval()
    torch.testing.assert_close(net(images), mean, rtol=1e-12, atol=1e-12)
    labels = torch.as_tensor(method.batches.test_labels(0))
    assert method.evaluate()["loss"] == pytest.approx(
        functional.cross_entropy(mean, labels).item(), rel=1e-12)
    average_proxies(method.net, [trunks[0], trunks[0]])     # and of one trunk that one's
    twice = method.net(torch.cat([method.trunks.trunk1(images)] * 2, 1))
    torch.testing.assert_close(twice, trunks[0](images), rtol=1e-12, atol=1e-12)


# -- costs -----------------------------------------------------------------------------------------

def test_costs_of_a_small_net_by_hand():
    settings = MonolithConfig(depth=10, width=1, trunks=2, images=0).resolved()
    trunk, head, whole = costs_of(settings, (3, 32, 32), 10, 50_000)
    # multiply-adds of 3x3 convolutions: stem 432 weights and block 1 4,608 at 32 x 32; block 2
    # 13,824 and its shortcut 512 at 16 x 16; block 3 55,296 and 2,048 at 8 x 8; proxy 640
    forward = (432 + 4_608) * 1024 + (13_824 + 512) * 256 + (55_296 + 2_048) * 64
    assert (trunk.trained, trunk.resting, trunk.forward) == (77_850, 0, forward + 640)
    # backward twice as many, but nobody asks for the gradient of the image
    assert trunk.operations == 2 * (3 * trunk.forward - 432 * 1024)
    assert trunk.total == 2 * trunk.operations * 128 * 200 * 312
    assert head.trained == 129 * 16 + 170 and head.resting == 2 * 77_200
    reads = 128 * 16 + 160
    assert head.forward == 2 * forward + reads
    assert head.operations == 2 * (2 * forward + 3 * reads - 128 * 16)
    assert whole.trained == head.trained + head.resting
    assert whole.operations == 2 * (2 * (3 * forward - 432 * 1024) + 3 * reads)
    # statistics: mean and variance of 16 16 16 32 32 64 64 maps, and a count each
    statistics = 4 * 2 * (16 + 16 + 16 + 32 + 32 + 64 + 64) + 7 * 8
    assert trunk.weight_bytes == 3 * 4 * 77_850 + statistics
    assert head.weight_bytes == 3 * 4 * head.trained + 4 * head.resting + 2 * statistics
    # the features, what the 16 neurons give behind the ReLU, logits: nothing of the trunks
    assert head.image_bytes < 4 * (128 + 16 + 10) + 100 < whole.image_bytes / 100
    # both trunks read the same image, 3 x 32 x 32 numbers
    assert whole.image_bytes == pytest.approx(2 * trunk.image_bytes - 4 * 3072, rel=1e-3)


def test_kept_features_cost_a_pass_of_the_trunks_once():
    plain = MonolithConfig(depth=10, width=1, trunks=2).resolved()
    _, computed, _ = costs_of(plain, (3, 32, 32), 10, 500)
    _, kept, _ = costs_of(plain.replace(augment_head=False), (3, 32, 32), 10, 500)
    assert computed.once == 0 and kept.once == 500 * (computed.operations - kept.operations)
    reads = 128 * 16 + 160
    assert kept.operations == 2 * (3 * reads - 128 * 16)


def test_meta_tells_the_published_net_without_making_it(capsys):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert main(["train", "monolith", "--meta", "--data", "cifar10", "--data-dir", str(TINY)]) == 0
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200_000      # kilobytes; the net alone has 1,750,000
    said = capsys.readouterr().out
    assert "3xwrn-28-20" in said and "437,469,738 weights" in said and "145,815,514" in said
    row = next(line for line in said.splitlines() if line.startswith("stage 2"))
    assert "61,626" in row and "437,408,112" in row
