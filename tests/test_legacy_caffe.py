"""legacy_caffe in real Caffe, where there is one: its nets repeat the golden runs."""

import json
from pathlib import Path

import numpy as np
import pytest

caffe = pytest.importorskip("caffe", reason="needs pycaffe, which is built by hand")

from legacy_caffe import nets, roles
from legacy_caffe.settings import LOSSES, Settings

FOLDER = Path(nets.__file__).parent
GOLDEN = Path(__file__).parent / "golden" / "caffe"
TOPOLOGY = json.loads((GOLDEN / "e2e_topology.json").read_text())
BATCH, CLASSES, ITERATIONS = 8, 10, 5

# variant of the golden runs -> (settings, options)
VARIANTS = {
    "euclid": ({}, {"builtin": True}),
    "py_euclid": ({}, {}),
    "no_loss_weight": ({"loss": "no_loss_weight"}, {}),
    "norm93_const": ({"loss": "normalized_both"}, {}),
    "norm93_exact": ({"loss": "normalized_both", "denominator": "exact"}, {}),
    "norm94_conv3_const": ({"loss": "normalized"}, {}),
    "norm94_conv3_exact": ({"loss": "normalized", "denominator": "exact"}, {}),
    "norm94_conv3p": ({"loss": "normalized", "denominator": "target"}, {}),
    "accum_diffs": ({}, {"builtin": True, "accumulate": True}),
    "euclid_big_lr1": ({}, {"builtin": True}),
}


@pytest.fixture(scope="module")
def tiny_nets(tmp_path_factory):
    """The nets of the golden runs: those of `small` with other numbers of outputs."""
    folder = tmp_path_factory.mktemp("tiny")
    outputs = {layer["name"]: layer["num_output"] for half in ("net1", "net2")
               for layer in TOPOLOGY[half] if "num_output" in layer}
    for path in (FOLDER / "small").glob("*.prototxt"):
        lines, name = path.read_text().splitlines(), ""
        for number, line in enumerate(lines):
            if line.startswith("  name: "):
                name = line.split('"')[1]
            elif "num_output:" in line:
                lines[number] = f"num_output: {outputs[name]}"
            elif "memory_data_param" in line:
                channels = outputs["conv2" if name == "pool2" else "conv3"]
                side = 32 if name == "data" else 8
                lines[number] = (f"memory_data_param {{ batch_size: 1 channels: {channels} "
                                 f"height: {side} width: {side} }}")
        (folder / path.name).write_text("\n".join(lines))
    return folder


def build(folder, variant):
    settings, options = VARIANTS[variant]
    with np.load(GOLDEN / "e2e_inputs.npz") as inputs, \
            np.load(GOLDEN / f"e2e_dual_{variant}.npz") as golden:
        settings = Settings(batch_size=BATCH, **settings)
        pair = []
        for role, rate in (("net1", "lr1"), ("net2", "lr2")):
            net = nets.NETS[role](nets.Options(folder, float(golden[rate]), **options), settings,
                                  (3, 32, 32), CLASSES)
            for name, blobs in net.net.params.items():
                for blob, letter in zip(blobs, "wb", strict=True):
                    blob.data[...] = inputs[f"init.{role}.{name}.{letter}"]
            pair.append(net)
        return (*pair, dict(inputs), dict(golden))


def assert_close(found, expected, tolerance=1e-5):
    # An all-zero expectation must be met exactly.
    assert np.abs(np.asarray(found) - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("variant", VARIANTS)
def test_five_iterations_are_those_of_the_golden_run(tiny_nets, variant):
    net1, net2, inputs, golden = build(tiny_nets, variant)
    for it in range(ITERATIONS):
        pool2 = net1.forward(inputs["x"][it])
        assert_close(pool2, golden["pool2"][it])
        loss2, fc6 = net2.forward(pool2, inputs["label"][it])
        assert_close(fc6, golden["fc6"][it])
        assert_close(loss2, golden["loss2"][it])
        assert_close(net1.compared(), golden["conv3"][it])
        assert_close(net2.answer(), golden["conv3p"][it])
        assert_close(net1.loss(net2.answer()), golden["loss1"][it])
        net2.learn()
        net1.learn()
    for role, net in (("net1", net1), ("net2", net2)):
        for name, blobs in net.net.params.items():
            for blob, letter in zip(blobs, "wb", strict=True):
                assert_close(blob.data, golden[f"final.{role}.{name}.{letter}"])


def test_without_loss_weight_nothing_of_net1_moves(tiny_nets):
    net1, net2, inputs, _ = build(tiny_nets, "no_loss_weight")
    before = [blob.data.copy() for blobs in net1.net.params.values() for blob in blobs]
    net2.forward(net1.forward(inputs["x"][0]), inputs["label"][0])
    net1.compared()
    assert net1.loss(net2.answer()) > 0
    net1.learn()
    after = [blob.data for blobs in net1.net.params.values() for blob in blobs]
    assert all((a == b).all() for a, b in zip(after, before, strict=True))


def test_the_test_net_has_the_trained_weights_and_takes_conv3_in_the_place_of_conv3p(tiny_nets):
    net1, net2, inputs, _ = build(tiny_nets, "py_euclid")
    pool2 = net1.forward(inputs["x"][0]).copy()
    net2.forward(pool2, inputs["label"][0])
    net2.learn()
    _, expected = net2.forward(pool2, inputs["label"][0])     # there is no dropout in these nets
    few = 3     # as in a last batch that is not full
    assert_close(net2.scores(pool2[:few]), expected[:few])
    assert_close(net2.scores_of_compared(net2.answer()[:few]), expected[:few])


def test_caffes_own_update_is_the_hand_update_without_momentum_and_decay(tiny_nets):
    # `small` has multipliers of 1, a fixed rate, and neither momentum nor decay.
    weights = []
    for update in ("hand", "solver"):
        net1, net2, inputs, _ = build(tiny_nets, "py_euclid")
        net2._options = net2._options._replace(update=update)
        for it in range(ITERATIONS):
            net2.forward(net1.forward(inputs["x"][it]), inputs["label"][it])
            net2.learn()
        weights.append([blob.data.copy() for blobs in net2.net.params.values() for blob in blobs])
    for hand, solver in zip(*weights, strict=True):
        assert_close(solver, hand)


@pytest.mark.parametrize("name", ["small", "thesis", "caffenet227"])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_prototxt_is_built_with_every_loss(name, loss):
    settings = Settings(batch_size=2, loss=loss)
    side = 227 if name == "caffenet227" else 32
    made = {role: nets.NETS[role](nets.Options(FOLDER / name), settings, (3, side, side), 7)
            for role in (("net1", "net2", "single") if loss == "euclidean" else ("net1",))}
    pool2 = made["net1"].forward(np.ones((2, 3, side, side), np.float32))
    assert np.isfinite(pool2).all()
    if "net2" in made:
        assert made["net2"].boundary == pool2.shape[1:]
        assert made["net2"].compared == made["net1"].compared().shape[1:]
        assert made["net2"].scores(pool2).shape == (2, 7)
        assert roles.correct(made["single"].scores(np.zeros((2, 3, side, side))), [0, 0]) <= 2
