"""Nets that the package has never seen: found, checked, drawn, cut and trained."""

import textwrap
from collections import OrderedDict

import pytest
import torch
from test_dual import CPU, RandomBatches, largest_difference, run_roles
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dualnet.config import TrainConfig
from dualnet.cut import join
from dualnet.errors import UserError
from dualnet.methods.dual.build import build_parts
from dualnet.methods.dual.settings import DualConfig
from dualnet.methods.dual.wire import Wire
from dualnet.methods.single import Single
from dualnet.nets import own
from dualnet.nets.dropout import Dropout
from dualnet.nets.initial import draw_weights

SHAPE = (3, 16, 16)
NETS = textwrap.dedent('''
    """Two small nets."""
    from collections import OrderedDict

    import torch
    from torch import nn


    def mlp(input_shape, num_classes):
        features = torch.Size(input_shape).numel()
        return nn.Sequential(OrderedDict([
            ("flat", nn.Flatten()), ("fc1", nn.Linear(features, 24)), ("act1", nn.Tanh()),
            ("fc2", nn.Linear(24, 16)), ("act2", nn.GELU()), ("drop2", nn.Dropout(0.3)),
            ("fc3", nn.Linear(16, num_classes))]))


    class Residual(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.conv = nn.Conv2d(channels, channels, 3, padding="same", bias=False)
            self.norm = nn.BatchNorm2d(channels)

        def forward(self, x):
            return torch.relu(x + self.norm(self.conv(x)))


    def residual(num_classes=10):
        return nn.Sequential(OrderedDict([
            ("stem", nn.Conv2d(3, 6, 3, stride=2, padding=1)), ("norm", nn.BatchNorm2d(6)),
            ("relu", nn.ReLU()), ("block1", Residual(6)), ("block2", Residual(6)),
            ("pool", nn.AdaptiveAvgPool2d(2)), ("flat", nn.Flatten()),
            ("fc", nn.Linear(24, num_classes))]))
''')
BOUNDARIES = {"mlp": ["flat", "fc1", "act1", "fc2", "act2", "drop2"],
              "residual": ["stem", "norm", "relu", "block1", "block2", "pool", "flat"]}
CUTS = [(name, boundary) for name, names in BOUNDARIES.items() for boundary in names]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(NETS)
    return path


def build(path, name, seed=0, shape=SHAPE, classes=10):
    source = own.parse(f"{path}:{name}")
    return own.build(source, own.sha256(source), shape, classes, seed)


# -- tied ADMM is backpropagation, for these nets too ----------------------------------------------

def train_both(path, name, boundary, prepare=lambda net: net, **changes):
    """Ten iterations of the cut net and of the uncut one, in float64."""
    settings = DualConfig(loss="admm", cut=boundary, iterations=10, batch_size=8, log_every=1,
                          lr_schedule="constant", precision="float64", message_dtype="float64",
                          **changes)
    batches = RandomBatches()
    parts = build_parts(settings, prepare(build(path, name)))
    run_roles(settings, parts, batches)
    common = {key: value for key, value in settings.to_dict().items()
              if key in TrainConfig.__dataclass_fields__}
    single = Single(TrainConfig(**common), prepare(build(path, name)), batches, CPU)
    before = [p.detach().clone() for p in single.net.parameters()]
    list(single.steps())
    assert max((p - q).abs().max() for p, q in
               zip(before, single.net.parameters(), strict=True)) > 1e-4   # it did train
    return parts, single.net


class FixedNorm(nn.BatchNorm2d):
    """Normalises by its running statistics, in training, too."""

    def train(self, mode=True):
        return super().train(False)


def with_fixed_statistics(net):
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            generator = torch.Generator().manual_seed(1)
            module.running_mean.uniform_(-1, 1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.__class__ = FixedNorm
    return net


@pytest.mark.parametrize(("name", "boundary"), CUTS, ids="-".join)
def test_tied_admm_equals_the_single_net_at_every_boundary(file, name, boundary):
    parts, single = train_both(file, name, boundary)
    assert largest_difference(join(parts), single) < 1e-12
    assert largest_difference(join(parts, merged=True), single) < 1e-12


@pytest.mark.parametrize("changes", [{}, {"before_activation": True}], ids=["", "before"])
def test_activations_in_place_do_not_change_what_is_compared(tmp_path, file, changes):
    """Against the net whose activations are not in place."""
    (tmp_path / "in_place.py").write_text(NETS.replace("nn.ReLU()", "nn.ReLU(inplace=True)"))
    _, expected = train_both(file, "residual", "stem", **changes)
    parts, single = train_both(tmp_path / "in_place.py", "residual", "stem", **changes)
    assert largest_difference(single, expected) == 0
    assert largest_difference(join(parts), single) < 1e-12
    assert largest_difference(join(parts, merged=True), single) < 1e-12


def test_frozen_layers_stay_as_they_were_drawn(file):
    def frozen(net):
        net.fc2.requires_grad_(False)
        return net

    parts, single = train_both(file, "mlp", "act1", frozen)
    assert largest_difference(join(parts), single) < 1e-12
    draw_weights(fresh := build(file, "mlp"), 0)
    assert torch.equal(parts[1].head.fc2.weight, fresh.fc2.weight.double())


@pytest.mark.parametrize("boundary", ["norm", "relu", "block1", "pool"])
def test_with_fixed_statistics_the_pipeline_equals_the_single_net(file, boundary):
    parts, single = train_both(file, "residual", boundary, with_fixed_statistics,
                               schedule="pipelined")
    assert largest_difference(join(parts), single) < 1e-12
    assert largest_difference(join(parts, merged=True), single) < 1e-12


# -- weights are drawn from the seed and the layer's name ------------------------------------------

def test_weights_of_any_module_depend_on_the_seed_and_the_name_alone(file):
    drawn = []
    for disturbance, seed in ((1, 0), (2, 0), (2, 5)):
        torch.manual_seed(disturbance)
        net = build(file, "residual", seed)
        draw_weights(net, seed)
        drawn.append(net)
    assert largest_difference(drawn[0], drawn[1]) == 0
    assert not torch.equal(drawn[1].block1.conv.weight, drawn[2].block1.conv.weight)
    assert not torch.equal(drawn[0].block1.conv.weight, drawn[0].block2.conv.weight)
    part = nn.Sequential(OrderedDict(block2=build(file, "residual").block2))
    draw_weights(part, 0)
    assert torch.equal(part.block2.conv.weight, drawn[0].block2.conv.weight)


ATTENTION = '''
from collections import OrderedDict
import torch
from torch import nn


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.place = nn.Parameter(torch.randn(4, 12))
        self.attention = nn.MultiheadAttention(12, 2, batch_first=True)

    def forward(self, x):
        x = x.reshape(len(x), 4, 12) + self.place
        return self.attention(x, x, x)[0]


def net(num_classes):
    return nn.Sequential(OrderedDict([
        ("fc1", nn.Linear(8, 48)), ("tokens", Tokens()), ("flat", nn.Flatten()),
        ("fc2", nn.Linear(48, num_classes))]))
'''


def test_weights_that_no_layer_draws_are_those_of_the_seed_too(tmp_path):
    (tmp_path / "net.py").write_text(ATTENTION)
    nets = []
    for disturbance, seed in ((1, 0), (2, 0), (2, 5)):
        torch.manual_seed(disturbance)
        nets.append(build(tmp_path / "net.py", "net", seed, (8,), 3))
        draw_weights(nets[-1], seed)
    assert largest_difference(nets[0], nets[1]) == 0
    for weight in ("place", "attention.in_proj_weight"):
        assert not torch.equal(nets[1].tokens.get_parameter(weight),
                               nets[2].tokens.get_parameter(weight))
    # torch starts the attention with an output bias of zero, whatever its linear layer would draw
    assert nets[0].tokens.attention.out_proj.bias.count_nonzero() == 0
    with pytest.raises(UserError, match="'tokens' has weights, but no reset_parameters to draw an"):
        draw_weights(nn.Sequential(OrderedDict(tokens=nets[0].tokens)), 0, suffix="/net1")


def test_dropout_inside_and_between_layers_draws_from_the_step(tmp_path, file):
    text = NETS.replace("return torch.relu(", "return self.drop(").replace(
        "self.norm = nn", "self.drop = nn.Dropout(0.5)\n        self.norm = nn")
    (tmp_path / "dropping.py").write_text(text)
    net = build(tmp_path / "dropping.py", "residual")
    assert [module.name for module in net.modules() if isinstance(module, Dropout)] == [
        "block1.drop", "block2.drop"]
    assert isinstance(build(file, "mlp").drop2, Dropout) and build(file, "mlp").drop2.ratio == 0.3


# -- what is no net is refused in a sentence -------------------------------------------------------

WRONG = {
    "no_list = 3\ndef net(): return [1]": "should return an nn.Sequential of named layers, found "
                                         "list",
    "def net(): return nn.Sequential(nn.Linear(3, 2))": "layers without a name: 0",
    "def net(): return nn.Sequential()": "found no layer",
    "def net(depth): return depth": "it needs depth; give those a default",
    "def net():\n    return 1 / 0": r"failed in net\(\): ZeroDivisionError: division by zero "
                                   r"\(\S*wrong.py, line 4\)",
    "import nothing_like_it": "failed while it was imported: ModuleNotFoundError.*wrong.py, line 3",
    "def net(:": "failed while it was imported: SyntaxError.*wrong.py, line 3",
    "raise SystemExit(3)": r"failed while it was imported: SystemExit: 3 \(\S*wrong.py, line 3\)",
    "def nett(): pass": r"there is no function 'net' in \S*wrong.py; did you mean nett\? "
                        r"\(functions: nett\)",
    "r = nn.ReLU()\ndef net(): return nn.Sequential(OrderedDict(a=r, b=nn.Linear(768, 10), c=r))":
        "the layers 'a' and 'c' are one and the same module",
    "def net():\n a = nn.Linear(9, 9)\n b = nn.Linear(9, 9)\n b.weight = a.weight\n"
    " return nn.Sequential(OrderedDict(a=a, b=b))": "the layers 'a' and 'b' share a weight",
    "def net(): return nn.Sequential(OrderedDict(fc=nn.Linear(5, 10)))":
        r"failed in its layer 'fc' on an input of shape \[1, 3, 16, 16\]: RuntimeError",
    "def net(): return nn.Sequential(OrderedDict(f=nn.Flatten(), fc=nn.Linear(768, 7)))":
        r"should give scores \[N, 10\], one per class of the data, found \[N, 7\] for an input "
        r"\[N, 3, 16, 16\]",
    "def net(): return nn.Sequential(OrderedDict(f=nn.Flatten(0), fc=nn.Linear(768, 10)))":
        r"the layer 'f' should give one tensor \[N, ...\] with a row per sample, found shape "
        r"\[768\]",
    "class L(nn.Linear):\n def forward(self, x):\n  x += 1\n  return super().forward(x)\n"
    "def net(): return nn.Sequential(OrderedDict(f=nn.Flatten(), fc=L(768, 10)))":
        "the layer 'fc' changes its input in place",
    "class S(nn.Sequential):\n def forward(self, x): return x\n"
    "def net(): return S(OrderedDict(a=nn.ReLU()))": "S has a forward of its own",
}


@pytest.mark.parametrize(("text", "sentence"), WRONG.items(), ids=range(len(WRONG)))
def test_what_is_no_net_is_refused(tmp_path, text, sentence):
    path = tmp_path / "wrong.py"
    path.write_text("from torch import nn\nfrom collections import OrderedDict\n" + text)
    with pytest.raises(UserError, match=sentence):
        build(path, "net")


@pytest.mark.parametrize(("text", "sentence"), [
    ("lenet:", "takes the name of a network, package.module:function or path/to/file.py:function"),
    ("missing.py:net", "cannot read .*missing.py .No such file or directory.; name a Python file"),
    ("no_such_package.nets:net", "there is no module 'no_such_package.nets' that is a Python file"),
    ("torch.no_such_module:net", "there is no module 'torch.no_such_module'"),
    ("sys:exit", "there is no module 'sys' that is a Python file")])
def test_what_cannot_be_found_is_refused(text, sentence):
    with pytest.raises(UserError, match=sentence):
        own.settings_from({"net": text})


# -- the file's content counts, its place does not -------------------------------------------------

def test_the_content_of_the_file_names_the_net_and_its_place_does_not(file, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / "other_name.py"
    moved.write_text(NETS)
    found = [TrainConfig(**own.settings_from({"net": f"{path}:mlp"})) for path in (file, moved)]
    assert found[0].digest() == found[1].digest() and found[0].net == "mlp"
    agreed = [DualConfig(**own.settings_from({"net": f"{path}:mlp"})).agreement()
              for path in (file, moved)]
    assert agreed[0] == agreed[1] and "net_sha256" in agreed[0]["optional"]
    moved.write_text(NETS + "\n")
    changed = TrainConfig(**own.settings_from({"net": f"{moved}:mlp"}))
    assert changed.digest() != found[0].digest()
    with pytest.raises(UserError, match="has changed since this run began: its sha256 is "):
        own.build(own.parse(found[1].net_source), found[1].net_sha256, SHAPE, 10, 0)


def test_a_module_is_found_from_the_working_folder_and_a_file_finds_its_neighbours(
        tmp_path, monkeypatch):
    folder = tmp_path / "own_package_of_this_test"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "nets.py").write_text(NETS)
    (folder / "neighbour_of_this_test.py").write_text("from own_package_of_this_test.nets import "
                                                      "mlp")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    assert list(dict(build("own_package_of_this_test.nets", "mlp").named_children()))[1] == "fc1"
    (folder / "main.py").write_text("from neighbour_of_this_test import mlp")
    assert len(build(folder / "main.py", "mlp")) == 7


# -- names of the messages -------------------------------------------------------------------------

def test_long_names_of_layers_stay_apart_and_equal_ones_are_refused():
    long = Wire("a" * 40, "a" * 39 + "b", (1,), (1,))
    assert len(long.channels()) == 6 and max(map(len, long.channels())) <= 32
    assert Wire("pool2", "conv3", (1,), (1,)).answer == "conv3p"
    for boundary, compared in (("rho", "fc"), ("fcp", "fc"), ("fc.P", "fc_")):
        with pytest.raises(UserError, match=f"layers '{boundary}' and '{compared}' would give two"):
            Wire(boundary, compared, (1,), (1,))
