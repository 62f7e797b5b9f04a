"""The prototxts of legacy_caffe, read as text: whole, of one net, and that of the port."""

import re
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from dualnet import nets as port_nets
from dualnet.nets.dropout import Dropout

FOLDER = Path(__file__).resolve().parent.parent / "legacy_caffe"
NAMES = ("small", "thesis", "caffenet227")
FILES = sorted(FOLDER.glob("*/*.prototxt"))
TOKEN = re.compile(r'\s+|#[^\n]*|(\w+)\s*(:?)\s*(?=[{])|(\w+)\s*:\s*("[^"]*"|[-+.\w]+)|(\})')


def parse(text):
    """A protobuf text as {field: [values]}; nested messages are of the same kind."""
    stack, position = [defaultdict(list)], 0
    while position < len(text):
        if text[position] == "{":
            position += 1
            continue
        match = TOKEN.match(text, position)
        assert match, f"what is {text[position:position + 40]!r}?"
        message, _, field, value, end = match.groups()
        if message:
            stack.append(defaultdict(list))
            stack[-2][message].append(stack[-1])
        elif field:
            stack[-1][field].append(value.strip('"'))
        elif end:
            stack.pop()
            assert stack, "one } too many"
        position = match.end()
    assert len(stack) == 1, "a } is missing"
    return stack[0]


def layers(name, file):
    """name -> layer, in order."""
    found = parse((FOLDER / name / f"{file}.prototxt").read_text())["layer"]
    assert len({layer["name"][0] for layer in found}) == len(found)
    return {layer["name"][0]: layer for layer in found}


def test_there_are_three_nets_of_three_parts_with_their_solvers():
    assert {path.relative_to(FOLDER).as_posix() for path in FILES} == {
        f"{name}/{file}.prototxt" for name in NAMES for file in
        ("single_train_test", "single_solver", "net1", "net1_solver", "net2", "net2_solver")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_file_is_whole_and_of_fields_that_caffe_1_0_has(path):
    fields = set()

    def collect(message):
        for field, values in message.items():
            fields.add(field)
            for value in values:
                if not isinstance(value, str):
                    collect(value)

    collect(parse(path.read_text()))
    solver = {"net", "type", "base_lr", "lr_policy", "gamma", "stepsize", "momentum", "max_iter",
              "weight_decay", "test_iter", "test_interval", "test_initialization", "display",
              "snapshot", "snapshot_prefix", "solver_mode"}
    net = {"name", "layer", "type", "bottom", "top", "param", "lr_mult", "decay_mult", "include",
           "phase", "loss_weight", "convolution_param", "num_output", "pad", "kernel_size",
           "stride", "weight_filler", "bias_filler", "std", "value", "pooling_param", "pool",
           "inner_product_param", "dropout_param", "dropout_ratio", "memory_data_param",
           "batch_size", "channels", "height", "width", "input_param", "shape", "dim",
           "python_param", "module"}
    assert fields <= (solver if path.stem.endswith("solver") else net)


@pytest.mark.parametrize("name", NAMES)
def test_the_halves_have_the_layers_of_the_single_net(name):
    single, net1, net2 = (layers(name, file) for file in ("single_train_test", "net1", "net2"))
    names = [layer for layer in single if layer not in ("data", "loss", "accuracy")]
    cut = names.index("conv3")
    assert [layer for layer in net1 if layer not in ("data", "conv3p", "loss")] == names[:cut + 2]
    renamed = [{"conv3": "conv3p", "relu3": "relu3p"}.get(layer, layer) for layer in names[cut:]]
    assert [layer for layer in net2 if layer not in ("pool2", "loss", "accuracy")] == renamed
    for half, pairs in ((net1, zip(names[:cut + 2], names, strict=False)),
                        (net2, zip(renamed, names[cut:], strict=True))):
        for own, whole in pairs:
            for field in ("type", "param", "convolution_param", "pooling_param",
                          "inner_product_param", "dropout_param"):
                assert half[own][field] == single[whole][field], f"{own}: {field}"


@pytest.mark.parametrize(("name", "port"), [("small", "caffenet-small"), ("thesis", "caffenet")])
def test_the_single_net_is_the_ports(name, port):
    net, found = port_nets.build(port, (3, 32, 32), 10), layers(name, "single_train_test")
    modules = dict(net.named_children())
    assert [layer for layer in found if layer not in ("data", "loss", "accuracy")] == list(modules)
    for layer, module in modules.items():
        numbers = {field: int(value[0]) for part in ("convolution_param", "pooling_param",
                                                     "inner_product_param")
                   for message in found[layer][part] for field, value in message.items()
                   if field in ("num_output", "pad", "kernel_size", "stride")}
        assert numbers == EXPECTED[found[layer]["type"][0]](module), layer


# type of a layer -> what the prototxt must say, from the module of the port
EXPECTED = {
    "Convolution": lambda m: {"num_output": len(m.weight), "pad": m.padding[0],
                              "kernel_size": m.kernel_size[0], "stride": m.stride[0]},
    "Pooling": lambda m: {"kernel_size": m.kernel_size, "stride": m.stride},
    "InnerProduct": lambda m: {"num_output": len(m.weight)},
    "ReLU": lambda m: {} if isinstance(m, torch.nn.ReLU) else None,
    "Dropout": lambda m: {} if isinstance(m, Dropout) and m.ratio == 0.5 else None,
}


def filler(layer, which):
    part = (layer["convolution_param"] or layer["inner_product_param"])[0]
    return {field: value[0] for field, value in part[which][0].items()}


def test_the_thesis_net_is_filled_and_multiplied_as_its_finished_code_says():
    # gaussian 0.01, 0.005 for fc5, whose bias is 1; biases learn at twice the rate without decay
    for name, layer in layers("thesis", "single_train_test").items():
        if layer["param"]:
            std = "0.005" if name == "fc5" else "0.01"
            assert filler(layer, "weight_filler") == {"type": "gaussian", "std": std}
            bias = "1" if name == "fc5" else "0"
            assert filler(layer, "bias_filler") == {"type": "constant", "value": bias}
            multipliers = [(p["lr_mult"], p["decay_mult"]) for p in layer["param"]]
            assert multipliers == [(["1"], ["1"]), (["2"], ["0"])]
    rates = {role: parse((FOLDER / "thesis" / f"{role}_solver.prototxt").read_text())["base_lr"]
             for role in ("single", "net1", "net2")}
    assert {role: float(rate) for role, (rate,) in rates.items()} == {
        "single": 1e-3, "net1": 5e-11, "net2": 4e-3}


@pytest.mark.parametrize("name", NAMES)
def test_what_pycaffe_feeds_is_the_first_layer_and_has_two_tops(name):
    for file, first in (("single_train_test", "data"), ("net1", "conv3p"), ("net2", "pool2")):
        found = layers(name, file)
        memory = [layer for layer, each in found.items() if each["type"] == ["MemoryData"]]
        assert memory == [first] == list(found)[:1]
        assert len(found[first]["top"]) == 2
    net1 = layers(name, "net1")
    assert net1["data"]["type"] == ["Input"]
    assert net1["loss"]["loss_weight"] == ["1"]
    assert net1["loss"]["bottom"] == ["conv3", "conv3p"]


@pytest.mark.parametrize("name", NAMES)
def test_relus_are_in_place(name):
    for file in ("single_train_test", "net1", "net2"):
        for layer in layers(name, file).values():
            if layer["type"] in (["ReLU"], ["Dropout"]):
                assert layer["bottom"] == layer["top"]


@pytest.mark.parametrize("path", [path for path in FILES if path.stem.endswith("solver")],
                         ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_solver_names_its_own_net(path):
    net = Path(parse(path.read_text())["net"][0])
    assert net.parent == Path("legacy_caffe") / path.parent.name
    assert net.stem.split("_")[0] == path.stem.split("_")[0]
    assert (FOLDER.parent / net).is_file()
