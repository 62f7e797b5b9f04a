"""The two roles of the dual net in memory: against the single net, against Caffe, and controls."""

import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from dualnet import nets
from dualnet.caffe import Convolution, InnerProduct, max_pool
from dualnet.channel import QueueChannel
from dualnet.config import TrainConfig
from dualnet.cut import cut, join
from dualnet.methods.dual import formats
from dualnet.methods.dual.build import build_parts, build_role, describe_wires
from dualnet.methods.dual.collapse import collapse_reason
from dualnet.methods.dual.settings import LOSSES, DualConfig
from dualnet.methods.dual.wire import all_channels
from dualnet.methods.single import Single

GOLDEN = Path(__file__).parent / "golden" / "caffe"
CPU = torch.device("cpu")


class RandomBatches:
    """Random images and labels, the same in every call."""

    steps_per_epoch = 4
    num_samples, num_test_batches, num_test_samples = 32, 2, 16
    batch_size = 8

    def __init__(self, batch_size=8, shape=(3, 16, 16)):
        generator = np.random.default_rng(5)
        self._images = generator.standard_normal((self.num_samples, *shape)).astype(np.float32)
        self._labels = generator.integers(0, 10, self.num_samples)
        self._size = batch_size

    def epoch(self, step):
        return step / self.steps_per_epoch

    def sample_ids(self, step):
        return (np.arange(self._size) + step * self._size) % self.num_samples

    def images(self, step):
        return self._images[self.sample_ids(step)]

    def labels(self, step):
        return self._labels[self.sample_ids(step)]

    def test_images(self, index):
        return self._images[index * 8:(index + 1) * 8]

    def test_labels(self, index):
        return self._labels[index * 8:(index + 1) * 8]


def run_roles(settings, parts, batches, shape=(3, 16, 16)):
    """Train each role in a thread; returns the roles and their records, the test score last."""
    settings = settings.resolved()
    wires = describe_wires(parts, shape)
    channels = QueueChannel.ends(all_channels(wires), timeout_s=30)
    roles = [build_role(name, settings, parts, wires, batches, channels[name], CPU)
             for name in settings.roles]
    records, errors = [[] for _ in roles], []

    def work(number):
        try:
            records[number] = list(roles[number].steps())
            records[number].append(roles[number].evaluate())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(roles))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors, errors
    return roles, records


def settings_for(loss, **changes):
    return DualConfig(**{"loss": loss, "iterations": 6, "batch_size": 8, "log_every": 1,
                         "lr_schedule": "constant", **changes})


def small_parts(settings):
    return build_parts(settings, nets.build(settings.net, (3, 16, 16), 10))


def largest_difference(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item() for a, b in pairs)


# -- tied ADMM is backpropagation ------------------------------------------------------------------

@pytest.mark.parametrize("changes", [
    {}, {"rho": 1e-3}, {"rho_growth": 10.0}, {"before_activation": True}, {"cut": "pool1"},
    {"cut": "conv3"}, {"cut": "relu5"}, {"net": "caffenet"},
    {"solver": "caffe", "weight_decay": 1e-3, "bias_lr": 2.0, "lr_schedule": "step", "lr_step": 3},
    {"schedule": "pipelined"}, {"schedule": "pipelined", "micro_batches": 3, "net": "caffenet"},
    {"schedule": "pipelined", "micro_batches": 8, "rho_growth": 10.0},
], ids=lambda changes: " ".join(f"{k}={v}" for k, v in changes.items()) or "defaults")
def test_tied_admm_equals_the_single_net_for_ten_iterations_in_float64(changes):
    settings = settings_for("admm", iterations=10, precision="float64", message_dtype="float64",
                            **changes)
    batches = RandomBatches()
    parts = small_parts(settings)
    run_roles(settings, parts, batches)
    common = {key: value for key, value in settings.to_dict().items()
              if key in TrainConfig.__dataclass_fields__}
    single = Single(TrainConfig(**common), nets.build(settings.net, (3, 16, 16), 10), batches, CPU)
    before = [p.clone() for p in single.net.parameters()]
    list(single.steps())
    assert max((p - q).abs().max() for p, q in
               zip(before, single.net.parameters(), strict=True)) > 1e-3   # it did train
    assert largest_difference(join(parts), single.net) < 1e-12
    assert largest_difference(join(parts, merged=True), single.net) < 1e-12


def test_untied_admm_differs_from_the_single_net():
    settings = settings_for("admm", tie=False, rho=1e-3)
    parts = small_parts(settings)
    _, records = run_roles(settings, parts, RandomBatches())
    assert records[0][0]["dual/residual"] > 0.5
    assert largest_difference(join(parts), join(parts, merged=True)) > 0.1


def test_the_residual_of_tied_admm_stays_at_rounding():
    _, records = run_roles(settings_for("admm"), small_parts(settings_for("admm")),
                           RandomBatches())
    assert all(record["dual/residual"] < 1e-5 for record in records[0][:-1])


@pytest.mark.parametrize(("changes", "expected"), [
    ({}, [1.0, 0.0]), ({"before_activation": True}, [None, None])],
    ids=["behind the ReLU", "before the ReLU"])
def test_dead_units_are_counted_per_copy_and_only_behind_a_relu(changes, expected):
    settings = settings_for("frozen", iterations=1, **changes)
    parts = small_parts(settings)
    # A bias far below any activation kills all units of conv3; far above, none of conv3'.
    torch.nn.init.constant_(parts[0].tail.conv3.bias, -1e4)
    torch.nn.init.constant_(parts[1].head.conv3.bias, 1e4)
    _, records = run_roles(settings, parts, RandomBatches())
    assert [records[0][0].get("dual/dead_x"), records[1][0].get("dual/dead_y")] == expected


# -- the pipeline is lockstep in pieces ------------------------------------------------------------

@pytest.mark.parametrize(("loss", "changes"), [
    *((loss, {}) for loss in LOSSES), ("admm", {"tie": False, "dual": "sample"}),
    ("normalized", {"denominator": "exact"}), ("admm", {"micro_batches": 5})],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())))
def test_the_pipeline_gives_the_weights_and_records_of_lockstep(loss, changes):
    lr_net1 = None if loss in ("admm", "frozen") else 1e-3
    settings = settings_for(loss, precision="float64", message_dtype="float64", lr_net1=lr_net1,
                            rho=1e-3, **changes)    # auto measures it on the first micro-batch
    found = {}
    for schedule in ("lockstep", "pipelined"):
        parts = small_parts(settings)
        _, records = run_roles(settings.replace(schedule=schedule), parts, RandomBatches())
        found[schedule] = parts, records
    (one, first), (other, second) = found.values()
    assert max(map(largest_difference, one, other)) < 1e-12
    for role, role_again in zip(first, second, strict=True):
        for record, again in zip(role, role_again, strict=True):
            same = {key: value for key, value in record.items() if key != "dual/rho"}
            assert same == pytest.approx({key: again[key] for key in same}, rel=1e-6, abs=1e-9)


# -- one batch ahead -------------------------------------------------------------------------------

def test_async_trains_conv1_and_conv2_on_gradients_of_weights_that_are_one_update_old():
    """Against plain SGD of the uncut net, whose first layers see their gradients one step late."""
    settings = settings_for("admm", schedule="async", iterations=6, checkpoint_every=4, rho=1e-3,
                            precision="float64", message_dtype="float64", momentum=0.0)
    batches, parts = RandomBatches(), small_parts(settings)
    reference = small_parts(settings)
    run_roles(settings, parts, batches)
    front, rest = reference[0].double(), join(reference).double()[6:]
    old = [p.detach().clone() for p in front.body.parameters()]
    for step in range(6):
        now = [p.detach().clone() for p in front.body.parameters()]
        # Steps 0 and 4 follow a start or a checkpoint, across which nothing runs ahead.
        seen = now if step in (0, 4) else old
        for p, value in zip(front.body.parameters(), seen, strict=True):
            p.data = value.clone()
        logits = rest(front.body(torch.tensor(batches.images(step)).double()))
        loss = functional.cross_entropy(logits, torch.tensor(batches.labels(step)))
        ahead = [*front.body.parameters()]
        behind = [*rest.parameters()]
        gradients = torch.autograd.grad(loss, [*ahead, *behind])
        with torch.no_grad():
            for p, value, gradient in zip(ahead, now, gradients, strict=False):
                p.data = value - settings.lr * gradient
            for p, gradient in zip(behind, gradients[len(ahead):], strict=True):
                p.sub_(settings.lr * gradient)
        old = now
    assert largest_difference(parts[0].body, front.body) < 1e-10
    assert largest_difference(join(parts)[6:], rest) < 1e-10


# -- the faithful losses, against what Caffe did ---------------------------------------------------

class CaffeBatches(RandomBatches):
    """The five batches that Caffe saw."""

    steps_per_epoch, num_test_batches = 5, 0
    num_test_samples = 1

    def __init__(self):
        inputs = np.load(GOLDEN / "e2e_inputs.npz")
        self._x, self._y = inputs["x"], inputs["label"].astype(np.int64)

    def images(self, step):
        return self._x[step]

    def labels(self, step):
        return self._y[step]


def caffe_net():
    """The net of the golden runs: widths 8, 8, 12, 12, 16."""
    layers = OrderedDict()
    widths = {1: (3, 8, 5), 2: (8, 8, 5), 3: (8, 12, 3), 4: (12, 12, 3)}
    for number, sizes in widths.items():
        layers[f"conv{number}"] = Convolution(*sizes)
        layers[f"relu{number}"] = nn.ReLU()
        if number != 3:
            layers[f"pool{number}"] = max_pool(3, 2)
    layers.update(fc5=InnerProduct(192, 16), relu5=nn.ReLU(), fc6=InnerProduct(16, 10))
    return nn.Sequential(layers)


def load_caffe_weights(parts, arrays, prefix):
    for part, net in zip(parts, ("net1", "net2"), strict=True):
        for group in (part.head, part.body, part.tail):
            for name, layer in group.named_children():
                key = f"{prefix}.{net}.{name}{'p' if group is part.head else ''}"
                if f"{key}.w" in arrays:
                    layer.weight.data = torch.tensor(arrays[f"{key}.w"])
                    layer.bias.data = torch.tensor(arrays[f"{key}.b"])


@pytest.mark.parametrize(("golden", "loss", "denominator", "changes"), [
    ("euclid", "euclidean", "constant", {}),
    ("norm93_const", "normalized_both", "constant", {}),
    ("norm93_exact", "normalized_both", "exact", {}),
    ("norm94_conv3_const", "normalized", "constant", {}),
    ("norm94_conv3_exact", "normalized", "exact", {}),
    ("norm94_conv3p", "normalized", "target", {}),
    ("no_loss_weight", "no_loss_weight", "constant", {}),
    ("prerelu", "euclidean", "constant", {"before_activation": True}),
])
def test_five_iterations_agree_with_caffe(golden, loss, denominator, changes):
    expected = np.load(GOLDEN / f"e2e_dual_{golden}.npz")
    settings = settings_for(loss, denominator=denominator, iterations=5, momentum=0.0,
                            lr=float(expected["lr2"]), lr_net1=float(expected["lr1"]), **changes)
    parts = cut(caffe_net(), ["pool2"], before_activation=settings.before_activation)
    load_caffe_weights(parts, np.load(GOLDEN / "e2e_inputs.npz"), "init")
    _, (net1, net2) = run_roles(settings, parts, CaffeBatches(), (3, 32, 32))
    assert [r["loss"] for r in net1[:5]] == pytest.approx(expected["loss1"].tolist(), rel=1e-4)
    assert [r["loss"] for r in net2[:5]] == pytest.approx(expected["loss2"].tolist(), rel=1e-4)
    reached = cut(caffe_net(), ["pool2"], before_activation=settings.before_activation)
    load_caffe_weights(reached, expected, "final")
    for part, golden_part in zip(parts, reached, strict=True):
        assert largest_difference(part, golden_part) < 1e-4


# -- controls --------------------------------------------------------------------------------------

def weights_of(part):
    return {name: value.clone() for name, value in part.state_dict().items()}


@pytest.mark.parametrize("loss", LOSSES)
def test_net1_moves_unless_it_is_a_control_that_keeps_it_still(loss):
    settings = settings_for(loss, lr_net1=None if loss in ("admm", "frozen") else 1e-3)
    parts = small_parts(settings)
    before = [weights_of(part) for part in parts]
    run_roles(settings, parts, RandomBatches())
    moved = [any(not torch.equal(value, old[name]) for name, value in weights_of(part).items())
             for part, old in zip(parts, before, strict=True)]
    assert moved == [loss not in ("frozen", "no_loss_weight"), True]


def test_the_weights_of_the_resting_net_do_not_move():
    settings = settings_for("admm", schedule="alternating", net1_steps=2, net2_steps=3)
    for iterations, moved in ((2, [True, False]), (5, [True, True])):
        parts = small_parts(settings)
        before = [weights_of(part) for part in parts]
        run_roles(settings.replace(iterations=iterations), parts, RandomBatches())
        assert moved == [
            any(not torch.equal(value, old[name]) for name, value in weights_of(part).items())
            for part, old in zip(parts, before, strict=True)]


def answers_of(loss, iterations=3):
    """What net2 sends and the y it computes, per iteration, with net1 held still."""
    settings = settings_for(loss, iterations=iterations, lr_net1=0.0, lr=0.0).resolved()
    parts = small_parts(settings)
    wire, = describe_wires(parts, (3, 16, 16))
    batches = RandomBatches()
    near, far = QueueChannel.ends(wire.channels(), timeout_s=30).values()
    net2 = build_role("net2", settings, parts, [wire], batches, far, CPU)
    answers, ys = [], []
    records = net2.steps()
    for step in range(iterations):
        z = parts[0](torch.tensor(batches.images(step)))
        near.send(wire.activation, step, z)
        next(records)
        answers.append(near.recv(wire.answer, step, (8, *wire.compared_shape), torch.float32))
        ys.append(parts[1].head(z).detach())
    return answers, ys


def test_the_answer_is_y_zero_or_the_y_of_the_batch_before():
    answers, ys = answers_of("euclidean")
    assert all(torch.equal(a, y) for a, y in zip(answers, ys, strict=True))
    answers, _ = answers_of("zero_target")
    assert all(a.count_nonzero() == 0 for a in answers)
    answers, ys = answers_of("misaligned")
    assert torch.equal(answers[0], ys[0])
    assert torch.equal(answers[1], ys[0]) and torch.equal(answers[2], ys[1])


def test_the_answer_of_admm_is_one_step_down_the_gradient_of_each_samples_own_loss():
    settings = settings_for("admm", rho=0.5, lr=0.0, iterations=1).resolved()
    parts = small_parts(settings)
    wire, = describe_wires(parts, (3, 16, 16))
    batches = RandomBatches()
    near, far = QueueChannel.ends(wire.channels(), timeout_s=30).values()
    z = parts[0](torch.tensor(batches.images(0))).detach()
    near.send(wire.activation, 0, z)
    next(build_role("net2", settings, parts, [wire], batches, far, CPU).steps())
    answer = near.recv(wire.answer, 0, (8, *wire.compared_shape), torch.float32)
    for n in range(8):                                      # one sample at a time
        y = parts[1].head(z[n:n + 1]).detach().requires_grad_()
        label = torch.tensor(batches.labels(0)[n:n + 1])
        gradient, = torch.autograd.grad(functional.cross_entropy(parts[1].body(y), label), y)
        torch.testing.assert_close(answer[n:n + 1], y - gradient / 0.5, rtol=1e-4, atol=1e-5)


def test_the_dual_variable_gathers_the_residual_of_each_sample():
    settings = settings_for("admm", tie=False, rho=1e-3, dual="sample", lr=0.0, iterations=8)
    parts = small_parts(settings)
    batches = RandomBatches()
    (net1, _), _ = run_roles(settings, parts, batches)
    with torch.no_grad():       # nothing moves at rate 0: two visits add the same x - y twice
        z = parts[0](torch.tensor(batches._images))
        expected = 2 * (parts[0].tail(z) - parts[1].head(z))
    torch.testing.assert_close(net1.asking.duals, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_short_messages_train_nearly_the_same(dtype):
    parts = {}
    for each in ("float32", dtype):
        settings = settings_for("admm", rho=1e-3, message_dtype=each)
        parts[each] = small_parts(settings)
        run_roles(settings, parts[each], RandomBatches())
    difference = largest_difference(join(parts[dtype]), join(parts["float32"]))
    assert 0 < difference < 0.3     # of the largest weight of a layer; a short run, chaotic


@pytest.mark.parametrize(("dtype", "largest_error", "num_bytes"), [
    ("float64", 0.0, 8 * 12), ("float32", 0.0, 4 * 12), ("float16", 2**-11, 2 * 12),
    ("bfloat16", 2**-8, 2 * 12), ("int8", 0.5 / 127, 12 + 4)])
def test_a_message_format_has_the_error_and_the_size_of_its_bits(dtype, largest_error, num_bytes):
    x = torch.randn(5, 3, 2, 2)
    x[3] = 0
    message = formats.pack(x, dtype)
    assert message.dtype == formats.message_dtype(dtype)
    assert tuple(message.shape) == formats.message_shape(tuple(x.shape), dtype)
    assert message.nbytes == formats.message_bytes(tuple(x.shape), dtype) == 5 * num_bytes
    back = formats.unpack(message, tuple(x.shape), dtype)
    largest = x.flatten(1).abs().amax(1)
    assert ((back - x).flatten(1).abs().amax(1) <= largest * largest_error + 1e-12).all()


def test_a_sample_that_is_not_finite_stays_so_in_int8():
    x = torch.ones(2, 3)
    x[1, 0] = torch.inf
    back = formats.unpack(formats.pack(x, "int8"), (2, 3), "int8")
    assert torch.equal(back[0], torch.ones(3)) and not back[1].isfinite().any()


def test_a_collapse_is_told_from_the_norms():
    assert collapse_reason("conv3", 10.0, 5.0) == ""
    assert "fell from 10 to 0.5" in collapse_reason("conv3", 10.0, 0.5)
