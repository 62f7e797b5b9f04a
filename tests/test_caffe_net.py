"""Net definitions: shapes and counts known by hand, Caffe's rules, and refusals by line."""

import math

import numpy as np
import pytest
import torch
from caffe_nets import COLOUR, image, layer, net_from, refused
from prototxts import CAFFENET, LEGACY, LENET, QUICK

from dualnet import nets
from dualnet.caffe.definition import NetState, net_of, read_net
from dualnet.caffe.net import CaffeNet
from dualnet.caffe.params import param_groups
from dualnet.caffe.prototxt import PrototxtError, parse

DIGITS = (1, 28, 28)


def num_weights(net):
    return sum(parameter.numel() for parameter in net.parameters())


def run(text, seed=0, **blobs):
    net = net_from(text)
    x = torch.tensor(np.random.default_rng(seed).standard_normal((2, 4, 6, 6)), dtype=torch.float32)
    return net, x, net({"data": x, **blobs})


# -- whole nets ------------------------------------------------------------------------------------

def test_the_digits_have_the_shapes_and_the_weights_of_lenet():
    net = net_from(LENET, image_shape=DIGITS)
    assert {name: shape[1:] for name, shape in net.shapes.items()} == {
        "data": (1, 28, 28), "label": (), "conv1": (20, 24, 24), "pool1": (20, 12, 12),
        "conv2": (50, 8, 8), "pool2": (50, 4, 4), "ip1": (500,), "ip2": (10,), "loss": ()}
    assert num_weights(net) == 431_080
    assert {shape[0] for shape in net.shapes.values() if shape} == {64}
    test_net = net_from(LENET, "TEST", image_shape=DIGITS)
    assert test_net.shapes["ip2"] == (100, 10) and "accuracy" in test_net.shapes


def test_an_old_net_is_brought_up_to_date():
    net = net_from(QUICK)
    assert {name: net.shapes[name] for name in ("conv1", "pool1", "pool2", "conv3", "pool3")} == {
        "conv1": (100, 32, 32, 32), "pool1": (100, 32, 16, 16), "pool2": (100, 32, 8, 8),
        "conv3": (100, 64, 8, 8), "pool3": (100, 64, 4, 4)}
    # 32 75 + 32,  32 800 + 32,  64 800 + 64,  64 1024 + 64,  10 64 + 10
    assert num_weights(net) == 145_578
    groups = {(group["lr_mult"], group["decay_mult"]): len(group["params"])
              for group in param_groups(net)}
    assert groups == {(1, 1): 5, (2, 1): 4, (2, 0): 1}
    assert [type(step.module).__name__ for step in net.steps][-1] == "SoftmaxWithLoss"


def test_caffenet_has_its_known_shapes_and_60965224_weights():
    net = net_from(CAFFENET, "TEST", device="meta")
    assert num_weights(net) == 60_965_224
    assert {name: net.shapes[name][1:] for name in net.shapes} == {
        "data": (3, 227, 227), "conv1": (96, 55, 55), "pool1": (96, 27, 27), "norm1": (96, 27, 27),
        "conv2": (256, 27, 27), "pool2": (256, 13, 13), "norm2": (256, 13, 13),
        "conv3": (384, 13, 13), "conv4": (384, 13, 13), "conv5": (256, 13, 13),
        "pool5": (256, 6, 6), "fc6": (4096,), "fc7": (4096,), "fc8": (1000,), "prob": (1000,)}
    assert list(net.inputs) == ["data"] and net.inputs["data"][0] == 10


@pytest.mark.parametrize(("name", "folder"), [("caffenet", "thesis"), ("caffenet-small", "small")])
def test_the_nets_of_dualnet_are_those_of_the_files(name, folder):
    ours = nets.build(name, COLOUR, 10)
    theirs = CaffeNet(read_net(LEGACY / folder / "single_train_test.prototxt")).as_sequential()
    assert [key for key, _ in ours.named_children()] == [key for key, _ in theirs.named_children()]
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in theirs.state_dict().items()}
    for net in (ours, theirs):      # the same fillers draw the same numbers
        for module in net.children():
            torch.manual_seed(7)
            getattr(module, "reset_parameters", lambda: None)()
    for key, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[key]), key
    x = torch.randn(2, *COLOUR)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("folder", ["small", "thesis", "caffenet227"])
def test_the_halves_of_the_files_fit_together(folder):
    net1, net2 = (CaffeNet(read_net(LEGACY / folder / f"{name}.prototxt"), device="meta")
                  for name in ("net1", "net2"))
    assert net1.shapes["pool2"] == net2.inputs["pool2"]
    assert net1.shapes["conv3"] == net1.inputs["conv3p"] == net2.shapes["conv3p"]
    assert net1.losses()[0].loss_weights == [1.0]


# -- rules of Caffe --------------------------------------------------------------------------------

def test_layers_compute_what_torch_computes():
    conv = ("convolution_param { num_output: 6 kernel_h: 3 kernel_w: 2 pad_h: 1 stride: 2 group: 2"
            ' dilation: 1 weight_filler { type: "msra" } bias_filler { value: 0.5 } }')
    net, x, blobs = run(image(layer("Convolution", conv)))
    weight = net.steps[0].module.weight
    assert torch.equal(net.steps[0].module.bias, torch.full((6,), 0.5))
    expected = torch.nn.functional.conv2d(x, weight, torch.full((6,), 0.5), 2, (1, 0), 1, 2)
    assert torch.equal(blobs["x"], expected) and expected.shape == net.shapes["x"]


@pytest.mark.parametrize(("type", "param", "expected"), [
    ("ReLU", "", lambda x: x.clamp(min=0)),
    ("ReLU", "relu_param { negative_slope: 0.1 }", lambda x: torch.where(x > 0, x, 0.1 * x)),
    ("Sigmoid", "", lambda x: 1 / (1 + (-x).exp())),
    ("TanH", "", lambda x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp())),
    ("ELU", "elu_param { alpha: 2 }", lambda x: torch.where(x > 0, x, 2 * (x.exp() - 1))),
    ("Power", "power_param { power: 2 scale: 3 shift: 1 }", lambda x: (1 + 3 * x) ** 2),
    ("Softmax", "", lambda x: x.exp() / x.exp().sum(1, keepdim=True)),
    ("Flatten", "", lambda x: x.reshape(2, 144)),
    ("Flatten", "flatten_param { axis: 2 end_axis: 3 }", lambda x: x.reshape(2, 4, 36)),
    ("Pooling", "pooling_param { pool: AVE global_pooling: true }",
     lambda x: x.mean((2, 3), keepdim=True)),
    ("Pooling", "pooling_param { pool: MAX kernel_size: 2 stride: 2 }",
     lambda x: x.reshape(2, 4, 3, 2, 3, 2).amax((3, 5))),
    ("LRN", "lrn_param { norm_region: WITHIN_CHANNEL local_size: 1 alpha: 2 beta: 1 }",
     lambda x: x / (1 + 2 * x**2)),
    ("LRN", "lrn_param { local_size: 1 alpha: 2 beta: 1 k: 3 }", lambda x: x / (3 + 2 * x**2))])
def test_a_layer_without_weights_is_its_formula(type, param, expected):
    net, x, blobs = run(image(layer(type, param)))
    assert torch.allclose(blobs["x"], expected(x), atol=1e-6)
    assert net.shapes["x"] == tuple(expected(x).shape)


@pytest.mark.parametrize(("type", "param", "expected"), [
    ("Concat", "", lambda x, y: torch.cat([x, y], 1)),
    ("Concat", "concat_param { axis: -1 }", lambda x, y: torch.cat([x, y], 3)),
    ("Eltwise", "", lambda x, y: x + y),
    ("Eltwise", "eltwise_param { coeff: 1 coeff: -2 }", lambda x, y: x - 2 * y),
    ("Eltwise", "eltwise_param { operation: PROD }", lambda x, y: x * y),
    ("Eltwise", "eltwise_param { operation: MAX }", torch.maximum)])
def test_two_branches_come_together(type, param, expected):
    split = 'layer { name: "s" type: "Split" bottom: "data" top: "a" top: "b" }'
    text = image(split, layer("ReLU", bottom="a", name="c"),
                 layer(type, param, 'c" bottom: "b'))
    _, x, blobs = run(text)
    assert torch.equal(blobs["x"], expected(x.clamp(min=0), x))


def test_a_filler_that_is_left_out_gives_zeros_and_a_rate_that_is_left_out_is_one():
    net = net_from(image(layer("InnerProduct", "inner_product_param { num_output: 3 }")))
    assert all(not parameter.any() for parameter in net.parameters())
    assert [(g["lr_mult"], g["decay_mult"]) for g in param_groups(net)] == [(1, 1)]


def test_a_filler_ignores_what_its_type_does_not_read():
    text = image(layer("InnerProduct", "inner_product_param { num_output: 400 weight_filler "
                       '{ type: "xavier" std: 9 value: 9 } }'))
    bound = math.sqrt(3 / 144)
    weights = net_from(text).steps[0].module.weight
    assert 0.99 * bound < weights.abs().max() <= bound


def test_a_shared_weight_is_one_weight():
    param = 'param { name: "w" } inner_product_param { num_output: 4 bias_term: false axis: -1 }'
    text = image(layer("InnerProduct", param, name="a"),
                 layer("InnerProduct", param, bottom="a", name="b"), shape="dim: 2 dim: 4")
    net = net_from(text)
    assert net.steps[0].module.weight is net.steps[1].module.weight
    assert num_weights(net) == 16 and len(param_groups(net)[0]["params"]) == 1
    wrong = text.replace("num_output: 4", "num_output: 5", 1)
    assert "shares 'w' with layer 'a', whose shape is [5, 4] and not [4, 5]" in str(refused(wrong))
    first, second = text.rsplit('name: "w"', 1)
    other = first.replace('name: "w"', 'name: "w" lr_mult: 3') + 'name: "w" lr_mult: 1' + second
    assert "another lr_mult" in str(refused(other))


def test_a_rate_of_zero_and_propagate_down_stop_gradients():
    ip = ('param {{ lr_mult: {} }} inner_product_param {{ num_output: 3 bias_term: false '
          'weight_filler {{ type: "xavier" }} }} {}')
    text = image(layer("InnerProduct", ip.format(1, ""), name="a"),
                 layer("InnerProduct", ip.format(0, ""), bottom="a", name="b"),
                 layer("InnerProduct", ip.format(1, "{}"), bottom="b", name="c"),
                 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "c" bottom: "label" }',
                 label=True)
    for extra, reaches in (("", True), ("propagate_down: false", False)):
        net, _, blobs = run(text.replace("{}", extra), label=torch.tensor([0.0, 2.0]))
        net.loss(blobs).backward()
        gradients = [step.module.weight.grad for step in net.steps[:3]]
        assert (gradients[0] is not None) == reaches
        assert gradients[1] is None and gradients[2].any()


def test_a_python_layer_without_loss_weight_weighs_nothing():
    ip = layer("InnerProduct", 'inner_product_param { num_output: 3 weight_filler {type:"msra"} }',
               name="a")
    python = ('layer { name: "loss" type: "Python" bottom: "a" bottom: "y" top: "loss" %s\n'
              '  python_param { module: "legacy_caffe.losses" layer: "EuclideanLossLayer" } }')
    y = 'layer { name: "y" type: "Input" top: "y" input_param { shape { dim: 2 dim: 3 } } }'
    for weight, factor in (("", 0), ("loss_weight: 0.5", 0.5)):
        net, _, blobs = run(image(y, ip, python % weight), y=torch.zeros(2, 3))
        by_hand = blobs["a"].square().sum() / 4
        assert torch.allclose(blobs["loss"], by_hand)
        assert torch.allclose(net.loss(blobs), factor * by_hand)
        assert net.loss(blobs).requires_grad == bool(factor)


def test_rules_choose_the_layers_of_a_state():
    def rule(words):
        return layer("ReLU", words, name="x")
    net = net_of(parse(image(
        rule("include { phase: TRAIN }"), rule("exclude { phase: TRAIN } exclude { min_level: 2 }"),
        layer("ReLU", "include { stage: 'a' stage: 'b' }", name="ab"),
        layer("ReLU", "include { not_stage: 'a' }", name="not_a"),
        layer("ReLU", "include { min_level: 1 max_level: 3 }", name="level"))))
    def names(*state):
        return [each["name"] for each in net.select(NetState(*state))][1:]
    assert names("TRAIN") == ["x", "not_a"]
    assert names("TEST", 2) == ["not_a", "level"]
    assert names("TEST", 1, ("a", "b")) == ["x", "ab", "level"]
    assert names("TEST", 4, ("b",)) == ["not_a"]


def test_the_phase_decides_whether_dropout_drops():
    text = image(layer("Dropout", "dropout_param { dropout_ratio: 0.25 }"))
    x = torch.ones(2, 4, 6, 6)
    assert torch.equal(net_from(text, "TEST")({"data": x})["x"], x)
    y = net_from(text, "TRAIN")({"data": x})["x"]
    assert y.unique().tolist() == pytest.approx([0, 4 / 3])


def test_data_layers_say_the_shapes_of_their_blobs():
    relu = layer("ReLU")
    for data, shape in (
            ('type: "MemoryData" memory_data_param '
             '{ batch_size: 7 channels: 2 height: 3 width: 5 }', (7, 2, 3, 5)),
            ('type: "Data" data_param { batch_size: 7 } transform_param { crop_size: 28 }',
             (7, 3, 28, 28)),
            ('type: "Data" data_param { batch_size: 7 crop_size: 27 }', (7, 3, 27, 27)),
            ('type: "ImageData" image_data_param { batch_size: 7 new_height: 9 new_width: 8 '
             'is_color: false }', (7, 1, 9, 8)),
            ('type: "DummyData" dummy_data_param { num: 7 num: 8 channels: 2 channels: 1 '
             'height: 3 height: 1 width: 5 width: 1 }', (7, 2, 3, 5))):
        net = net_from(f'layer {{ top: "data" top: "label" {data} }} {relu}', device="meta")
        assert net.shapes["x"] == net.inputs["data"] == shape


def test_a_net_that_is_no_chain_names_the_layer():
    text = image(layer("ReLU", name="a"), layer("ReLU", bottom="data", name="b"))
    with pytest.raises(PrototxtError, match=r"layer 'b'.*takes the blob 'data' and not 'a'") as e:
        net_from(text).as_sequential()
    assert e.value.line == 5
    with pytest.raises(PrototxtError, match=r"layer 'train'.*needs a name of its own"):
        net_from(image(layer("ReLU", name="train"))).as_sequential()


def test_forward_says_which_blob_is_missing_or_wrong():
    net = net_from(image(layer("ReLU")))
    with pytest.raises(ValueError, match="needs the blob 'data'"):
        net({})
    with pytest.raises(ValueError, match="no data layer gives the blob 'dat'; did you mean data"):
        net({"dat": torch.zeros(2, 4, 6, 6)})
    with pytest.raises(ValueError, match=r"\[2, 4, 6, 6\] in the file, found \[2, 4, 6, 7\]"):
        net({"data": torch.zeros(2, 4, 6, 7)})
