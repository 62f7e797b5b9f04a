"""One net as a chain of three and more parts, in memory: against the single net, and by hand."""

import copy
from collections import OrderedDict
from functools import cache
from itertools import combinations, pairwise

import pytest
import torch
from test_dual import CPU, RandomBatches, largest_difference, run_roles, settings_for
from test_own_nets import with_fixed_statistics
from test_resume import check_roles, together
from test_resume import settings_for as resumable
from torch import nn
from torch.nn import functional

from dualnet import nets
from dualnet.channel import QueueChannel
from dualnet.config import TrainConfig
from dualnet.cut import cut, join
from dualnet.errors import UserError
from dualnet.losses import BOUNDARY_LOSSES
from dualnet.methods.dual.build import build_parts, build_role, describe_wires
from dualnet.methods.dual.figures import joint_facts
from dualnet.methods.dual.settings import LOSSES, DualConfig
from dualnet.methods.dual.wire import Wire, all_channels
from dualnet.methods.single import Single
from dualnet.nets.dropout import Dropout

SHAPE = (3, 16, 16)


class Block(nn.Module):
    """Two convolutions beside a skip, with dropout between them."""

    def __init__(self, name, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.drop = Dropout(f"{name}.drop", 0.25)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        inside = self.drop(torch.relu(self.norm1(self.conv1(x))))
        return torch.relu(x + self.conv2(inside))


def mlp():
    sizes = (3 * 16 * 16, 12, 11, 10, 9)
    layers = OrderedDict(flat=nn.Flatten())
    for number, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
        layers[f"fc{number}"], layers[f"act{number}"] = nn.Linear(inputs, outputs), nn.Tanh()
    layers["fc5"] = nn.Linear(9, 10)
    return nn.Sequential(layers)


def residual():
    """Batch normalisation with the statistics of evaluation, in training, too."""
    net = nn.Sequential(OrderedDict(
        stem=nn.Conv2d(3, 5, 3, stride=2, padding=1), norm=nn.BatchNorm2d(5), relu=nn.ReLU(),
        block1=Block("block1", 5), block2=Block("block2", 5), block3=Block("block3", 5),
        pool=nn.AdaptiveAvgPool2d(2), flat=nn.Flatten(), fc=nn.Linear(20, 10)))
    return with_fixed_statistics(net)


NETS = {"mlp": mlp, "residual": residual,
        "caffenet-small": lambda: nets.build("caffenet-small", SHAPE, 10)}
BOUNDARIES = {
    "mlp": ["flat", "fc1", "act1", "fc2", "act2", "fc3", "act3", "fc4", "act4"],
    "residual": ["stem", "norm", "relu", "block1", "block2", "block3", "pool", "flat"],
    "caffenet-small": ["conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "conv3", "relu3",
                       "conv4", "relu4", "pool4", "fc5", "relu5"]}


def can_be_cut(name, boundaries):
    try:
        cut(NETS[name](), boundaries)
    except UserError:
        return False
    return True


def chains(name, parts, every=1):
    """Every `every`-th chain of `parts` parts that can be made, and all of neighbours."""
    possible = [chain for chain in combinations(BOUNDARIES[name], parts - 1)
                if can_be_cut(name, chain)]
    position = BOUNDARIES[name].index
    close = [chain for chain in possible if position(chain[-1]) - position(chain[0]) < parts]
    return sorted({*possible[::every], *close}, key=lambda chain: [*map(position, chain)])


def exact(loss="admm", **changes):
    return settings_for(loss, **{"iterations": 10, "precision": "float64",
                                 "message_dtype": "float64", **changes})


@cache
def single_net(name, **changes):
    """The uncut net after ten iterations."""
    common = {key: value for key, value in exact(**changes).to_dict().items()
              if key in TrainConfig.__dataclass_fields__}
    single = Single(TrainConfig(**common), NETS[name](), RandomBatches(), CPU)
    before = [parameter.detach().clone() for parameter in single.net.parameters()]
    list(single.steps())
    assert all((old - new).abs().max() > 1e-4 for old, new
               in zip(before, single.net.parameters(), strict=True))    # it did train
    return single.net


def untrained(name, settings):
    """The parts with the weights of the seed, in float64."""
    return [part.double() for part in build_parts(settings, NETS[name]())]


def chain_of(name, settings):
    """The parts after training, and the records of each role."""
    parts = build_parts(settings, NETS[name]())
    return parts, run_roles(settings, parts, RandomBatches())[1]


# -- tied ADMM is backpropagation through the whole chain ------------------------------------------

CHAINS = [(name, ",".join(chain)) for name, parts, every in (
    ("mlp", 2, 1), ("mlp", 3, 6), ("mlp", 4, 20),
    ("caffenet-small", 2, 1), ("caffenet-small", 3, 16), ("caffenet-small", 4, 60),
    ("residual", 2, 1), ("residual", 3, 6), ("residual", 4, 10))
    for chain in chains(name, parts, every)]


@pytest.mark.parametrize(("name", "cut"), CHAINS)
def test_a_tied_chain_equals_the_single_net_for_ten_iterations(name, cut):
    parts, _ = chain_of(name, exact(cut=cut))
    assert largest_difference(join(parts), single_net(name)) < 1e-12
    assert largest_difference(join(parts, merged=True), single_net(name)) < 1e-12


LONGER = "act1,fc2,fc3"


@pytest.mark.parametrize(("name", "cut", "changes"), [
    ("residual", "relu,block1,block2", {"schedule": "pipelined", "micro_batches": 3}),
    ("caffenet-small", "pool1,pool2,pool4", {"schedule": "pipelined", "micro_batches": 8}),
    ("caffenet-small", "pool1,pool2", {"before_activation": True}),
    ("mlp", "act1,act2,act3,act4", {"rho": 1e-3}), ("mlp", LONGER, {"rho_growth": 10.0}),
    ("mlp", LONGER, {"solver": "caffe", "weight_decay": 1e-3, "bias_lr": 2.0,
                     "lr_schedule": "step", "lr_step": 3}),
], ids=str)
def test_so_it_does_in_a_pipeline_and_under_other_settings(name, cut, changes):
    parts, _ = chain_of(name, exact(cut=cut, **changes))
    of_the_net = {key: value for key, value in changes.items() if key in
                  TrainConfig.__dataclass_fields__}
    single = single_net(name, **of_the_net)
    assert largest_difference(join(parts), single) < 1e-12
    assert largest_difference(join(parts, merged=True), single) < 1e-12


def test_each_role_tells_the_figures_of_its_own_boundaries():
    _, records = chain_of("mlp", exact(cut="act1,act2"))
    asks, answers = {"dual/norm_x", "dual/residual"}, {"dual/norm_y", "dual/norm_z", "dual/rho"}
    found = [{key for key in record[0] if key in asks | answers} for record in records]
    assert found == [asks, asks | answers, answers]
    assert [("accuracy" in record[0]) for record in records] == [False, False, True]
    assert all(line["dual/residual"] < 1e-12 for line in [*records[0][:-1], *records[1][:-1]])


# -- what a middle role does, by hand --------------------------------------------------------------

def test_the_answer_of_a_middle_role_is_a_step_down_the_gradient_of_its_own_loss():
    """y*_1 = y_1 - N dE_2/dy_1 / rho, with E_2 = rho/(2N) sum |x_2 - y*_2|^2 written out."""
    rho, count = 0.5, 8
    settings = exact(cut="act1,act2", iterations=1, rho=rho, lr=0.0, tie=False).resolved()
    parts = build_parts(settings, mlp())
    wires = describe_wires(parts, SHAPE)
    channels = QueueChannel.ends(all_channels(wires), timeout_s=30)
    role = build_role("net2", settings, parts, wires, RandomBatches(), channels["net2"], CPU)
    images = torch.tensor(RandomBatches().images(0)).double()
    z1 = parts[0].double()(images).detach()
    target = torch.randn(count, 10, dtype=torch.float64)        # y*_2 of net3, any
    channels["net1"].send(wires[0].activation, 0, z1)
    channels["net3"].send(wires[1].penalty, 0, torch.tensor([rho], dtype=torch.float64))
    channels["net3"].send(wires[1].answer, 0, target)
    channels["net3"].send(wires[1].diagnosis, 0, target)
    list(role.steps())
    y1 = parts[1].head(z1).detach().requires_grad_()
    x2 = parts[1].tail(parts[1].body(y1))
    gradient, = torch.autograd.grad(rho / (2 * count) * (x2 - target).square().sum(), y1)
    answer = channels["net1"].recv(wires[0].answer, 0, tuple(y1.shape), torch.float64)
    torch.testing.assert_close(answer, y1 - count * gradient / rho, rtol=1e-12, atol=1e-12)
    z2 = channels["net3"].recv(wires[1].activation, 0, (count, 11), torch.float64)
    torch.testing.assert_close(z2, parts[1].body(y1), rtol=1e-12, atol=1e-12)


class Spy:
    """A channel that notes whether weights of `part` have gradients when a message leaves."""

    def __init__(self, channel, part, layers):
        self._channel, self._part, self._layers = channel, part, layers
        self.seen = {}

    def __getattr__(self, name):
        return getattr(self._channel, name)

    def send(self, name, sequence, tensor):
        self.seen[name] = [layer for layer in self._layers
                           if self._part.get_submodule(layer).weight.grad is not None]
        self._channel.send(name, sequence, tensor)


@pytest.mark.parametrize("schedule", ["lockstep", "pipelined", "async"])
def test_a_middle_role_answers_before_it_forms_the_gradients_of_its_weights(schedule):
    settings = exact(cut="pool1,pool2", iterations=1, schedule=schedule).resolved()
    parts = build_parts(settings, NETS["caffenet-small"]())
    wires = describe_wires(parts, SHAPE)
    channels = QueueChannel.ends(all_channels(wires), timeout_s=30)
    spy = Spy(channels["net2"], parts[1], ["head.conv2", "tail.conv3"])
    roles = [build_role(name, settings, parts, wires, RandomBatches(),
                        spy if name == "net2" else channels[name], CPU)
             for name in settings.roles]
    together({role.name: role for role in roles}, lambda role: list(role.steps()))
    assert spy.seen[wires[0].answer] == []
    assert parts[1].head.conv2.weight.grad is not None


# -- other losses, controls and schedules ----------------------------------------------------------

@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "admm"])
def test_a_plain_loss_trains_each_part_by_its_own_boundary_alone(loss):
    """Against SGD by hand of each part on its own loss, with y and z held as constants."""
    kind = LOSSES[loss]
    lr_net1 = None if not kind.updates else 1e-2
    settings = exact(loss, cut="act1,act2", iterations=3, momentum=0.0, lr_net1=lr_net1)
    (parts, _), batches = chain_of("mlp", settings), RandomBatches()
    expected = untrained("mlp", settings)
    earlier = {}
    for step in range(3):
        z = torch.tensor(batches.images(step)).double()
        steps = []
        for number, part in enumerate(expected):
            z = z.detach()
            out = part(z)
            if number == 2:
                loss_of = functional.cross_entropy(out, torch.tensor(batches.labels(step)))
            else:
                target = expected[number + 1].head(out).detach()
                known, earlier[number] = earlier.get(number, target), target
                target = {"zero": torch.zeros_like(target), "earlier": known}.get(kind.answer,
                                                                                  target)
                loss_of = kind.weight * BOUNDARY_LOSSES[kind.function](part.tail(out), target,
                                                                       "constant")
            weights = list(part.parameters())
            gradients = torch.autograd.grad(loss_of, weights)
            rate = settings.lr if number == 2 else settings.resolved().lr_net1 or 0.0
            steps.append((weights, gradients, rate))
            z = out
        with torch.no_grad():
            for weights, gradients, rate in steps:
                for weight, gradient in zip(weights, gradients, strict=True):
                    weight.sub_(rate * gradient)
    assert max(map(largest_difference, parts, expected)) < 1e-12


def test_the_parts_of_a_chain_take_turns():
    settings = exact(cut="act1,act2", schedule="alternating", net1_steps=2, net2_steps=3)
    for iterations, moved in ((2, [True, False, False]), (4, [True, True, False]),
                              (5, [True, True, True])):
        before = untrained("mlp", settings)
        parts, _ = chain_of("mlp", settings.replace(iterations=iterations))
        assert [largest_difference(*pair) > 0 for pair in zip(parts, before, strict=True)] == moved


def test_one_batch_ahead_the_bodies_lag_one_update_and_the_shared_layers_none():
    """Against one process that has the gradients of the definition piece by piece.

    f_k are the bodies, c_k the shared layers: logits = f3 c2 f2 c1 f1 of the images.  For batch t
    the bodies f1 and f2 have the weights of before update t - 1; so has c1 where f2 takes its y,
    but its gradients, and those of c2, are taken with the weights of now.
    """
    settings = exact(cut="act1,act3", schedule="async", iterations=7, checkpoint_every=4, rho=1e-2,
                     momentum=0.0)
    parts, records = chain_of("mlp", settings)
    first, second, third = untrained("mlp", settings)
    f1, c1, f2, c2, f3 = first.body, second.head, second.body, third.head, third.body
    old = [copy.deepcopy(module) for module in (f1, c1, f2)]
    batches = RandomBatches()
    for step in range(7):
        now = [copy.deepcopy(module) for module in (f1, c1, f2)]
        # Steps 0 and 4 follow a start or a checkpoint, across which nothing runs ahead.
        g1, d1, g2 = now if step in (0, 4) else old
        z1 = g1(torch.tensor(batches.images(step)).double())
        y1 = d1(z1).detach().requires_grad_()
        z2 = g2(y1)
        y2 = c2(z2)
        loss = functional.cross_entropy(f3(y2), torch.tensor(batches.labels(step)))
        of_last = torch.autograd.grad(loss, [*c2.parameters(), *f3.parameters(), *g2.parameters(),
                                             y1])
        y1_now = c1(z1)     # the same z, the weights of now
        of_first = torch.autograd.grad(y1_now, [*c1.parameters(), *g1.parameters()],
                                       of_last[-1])
        moving = [*c2.parameters(), *f3.parameters(), *f2.parameters(),
                  *c1.parameters(), *f1.parameters()]
        with torch.no_grad():
            for weight, gradient in zip(moving, [*of_last[:-1], *of_first], strict=True):
                weight.sub_(settings.lr * gradient)
        old = now
    assert largest_difference(join(parts), nn.Sequential(*f1, *c1, *f2, *c2, *f3)) < 1e-10
    assert largest_difference(join(parts, merged=True), join(parts)) < 1e-10
    assert all(line["dual/residual"] < 1e-10 for role in records[:2] for line in role[:-1])
    lockstep, _ = chain_of("mlp", settings.replace(schedule="lockstep"))
    assert largest_difference(join(parts), join(lockstep)) > 1e-6       # it is stale


def test_one_batch_ahead_statistics_count_each_batch_once():
    settings = exact(cut="act1,norm2", schedule="async", iterations=5)
    net = nn.Sequential(OrderedDict(
        flat=nn.Flatten(), fc1=nn.Linear(768, 6), act1=nn.Tanh(), fc2=nn.Linear(6, 6),
        norm2=nn.BatchNorm1d(6), act2=nn.Tanh(), fc3=nn.Linear(6, 10)))
    parts = build_parts(settings.replace(cut="act1,act2"), net)
    run_roles(settings.replace(cut="act1,act2"), parts, RandomBatches())
    assert int(parts[0].tail.norm2.num_batches_tracked) == 5
    assert int(parts[1].head.norm2.num_batches_tracked) == 5


# -- a restart, and what is tested -----------------------------------------------------------------

@pytest.mark.parametrize(("stop", "changes"), [
    (5, {"cut": "pool1,pool2"}), (4, {"cut": "pool1,pool2", "loss": "misaligned"}),
    (5, {"cut": "pool1,pool2", "dual": "sample", "tie": False, "rho": 1e-3}),
    (5, {"cut": "pool1,pool2,pool4", "schedule": "pipelined", "micro_batches": 3,
         "rho_growth": 3.0}),
    (4, {"cut": "pool1,pool2", "schedule": "async", "checkpoint_every": 4}),
    (4, {"cut": "pool1,pool2", "schedule": "alternating", "net1_steps": 3, "net2_steps": 2}),
], ids=str)
def test_a_chain_goes_on_bit_for_bit(tmp_path, stop, changes):
    check_roles(resumable(**{"loss": "admm", **changes}), stop, tmp_path)


def test_the_test_images_go_through_the_heads_and_through_the_tails():
    settings = exact(cut="act1,act2", iterations=2, tie=False, rho=1e-2)
    parts, records = chain_of("mlp", settings)
    batches = RandomBatches()
    score = records[2][-1]
    for net, key in ((join(parts), "accuracy"), (join(parts, merged=True), "dual/accuracy_merged")):
        correct = sum(int((net(torch.tensor(batches.test_images(index)).double()).argmax(1)
                           == torch.tensor(batches.test_labels(index))).sum())
                      for index in range(batches.num_test_batches))
        assert score[key] == pytest.approx(correct / batches.num_test_samples)
    assert records[0][-1] == records[1][-1] == {}


# -- names, roles, what is refused -----------------------------------------------------------------

def test_the_messages_of_a_chain_bear_the_number_of_their_boundary():
    parts = build_parts(exact(cut="pool1,pool2"), NETS["caffenet-small"]())
    first, second = describe_wires(parts, SHAPE)
    assert first.channels() == {
        **dict.fromkeys(("pool1_1", "test_pool1_1", "test_conv2_1"), ("net1", "net2")),
        **dict.fromkeys(("conv2p_1", "conv2p_y_1", "rho_1"), ("net2", "net1"))}
    assert set(second.channels()) == {"pool2_2", "test_pool2_2", "test_conv3_2", "conv3p_2",
                                      "conv3p_y_2", "rho_2"}
    assert set(second.channels().values()) == {("net2", "net3"), ("net3", "net2")}
    assert len(all_channels([first, second])) == 12
    long = Wire("a" * 40, "b", (1,), (1,), 3)
    assert len(long.activation) == 32 and long.activation.endswith("_3")


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"cut": "pool1,,pool2"}, "--cut takes names of layers with commas between"),
    ({"cut": "auto,pool1"}, "or auto; found 'auto,pool1'"),
    ({"cut": "a,b,c,d,e,f,g,h"}, "at most 8 parts, found 9"),
    ({"cut": "auto", "parts": 9}, "at most 8 parts, found 9"),
    ({"cut": "pool2", "parts": 3}, "--cut pool2 makes 2 parts; leave one out")], ids=str)
def test_a_chain_that_cannot_be_is_refused_in_one_sentence(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        DualConfig(**changes)


def test_the_settings_name_the_roles():
    settings = DualConfig(cut="pool1, pool2 ,pool4")
    assert (settings.cut, settings.cuts) == ("pool1,pool2,pool4", ["pool1", "pool2", "pool4"])
    assert settings.roles == ("net1", "net2", "net3", "net4")
    assert "parts" not in DualConfig().agreed()     # it changes no digest


def test_a_chain_collapsed_if_one_of_its_boundaries_did():
    well, ill = ({"rho": 1.0, "collapsed": bool(text), "collapse_reason": text}
                 for text in ("", "conv3' fell"))
    told = {"net1": {"pid": 4}, "net2": well, "net3": ill}
    assert joint_facts(told) == {"rho": {"net2": 1.0, "net3": 1.0}, "collapsed": True,
                                 "collapse_reason": "conv3' fell"}
    assert joint_facts({"net1": {}, "net2": well}) == well
