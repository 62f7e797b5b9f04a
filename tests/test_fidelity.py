"""The comparison with Caffe's arrays itself, on a set of other names, shapes and values.

The set is made here by numpy on paper's formulas (and autograd for the nets), so that a case
passes only if the comparison reads its parameters from the set.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from dualnet.errors import UserError
from dualnet.reproduce import fidelity
from dualnet.reproduce.fidelity.fillers import parse_fields
from dualnet.reproduce.fidelity.golden import measure

ROOT = Path(__file__).resolve().parent.parent
RNG = np.random.default_rng(5)


def normal(*shape):
    return RNG.standard_normal(shape)


# -- a set made by hand ----------------------------------------------------------------------------

def conv_case():
    """1 x 1 with stride (1, 2): y = w x at every second column."""
    x, w, dy = normal(2, 3, 5, 7), normal(4, 3, 1, 1), normal(2, 4, 5, 4)
    seen, dx = x[:, :, :, ::2], np.zeros_like(x)
    dx[:, :, :, ::2] = np.einsum("oc,nohw->nchw", w[:, :, 0, 0], dy)
    y = np.einsum("oc,nchw->nohw", w[:, :, 0, 0], seen)
    dw = np.einsum("nohw,nchw->oc", dy, seen)[:, :, None, None]
    fields = {"kernel_size": 1, "stride_h": 1, "stride_w": 2, "num_output": 4, "bias_term": False}
    return fields, {"x": x, "w": w, "dy": dy, "y": y, "dx": dx, "dw": dw}


def inner_product_case():
    x, w, b, dy = normal(3, 2, 4), normal(8, 5), normal(5), normal(3, 5)
    flat = x.reshape(3, 8)
    return {"num_output": 5, "transpose": True}, {
        "x": x, "w": w, "b": b, "dy": dy, "y": flat @ w + b, "dx": (dy @ w.T).reshape(x.shape),
        "dw": flat.T @ dy, "db": dy.sum(0)}


def pool_case():
    """AVE of 2 x 3 blocks without overlap."""
    x, dy = normal(1, 2, 4, 6), normal(1, 2, 2, 2)
    y = x.reshape(1, 2, 2, 2, 2, 3).mean((3, 5))
    dx = np.repeat(np.repeat(dy, 2, axis=2), 3, axis=3) / 6
    return {"pool": "AVE", "kernel_h": 2, "kernel_w": 3, "stride_h": 2, "stride_w": 3}, {
        "x": x, "dy": dy, "y": y, "dx": dx}


def lrn_case():
    """A window of one channel: y = x s^-beta, s = k + alpha x^2."""
    x, dy = normal(1, 2, 3, 3), normal(1, 2, 3, 3)
    s = 1.5 + 0.8 * x ** 2
    dx = dy * (s ** -0.6 - 2 * 0.8 * 0.6 * x ** 2 * s ** -1.6)
    return {"local_size": 1, "alpha": 0.8, "beta": 0.6, "k": 1.5}, {
        "x": x, "dy": dy, "y": x * s ** -0.6, "dx": dx}


def relu_case():
    x, dy = normal(4, 4), normal(4, 4)
    slope = np.where(x > 0, 1, 0.3)
    return {"negative_slope": 0.3}, {"x": x, "dy": dy, "y": x * slope, "dx": dy * slope}


def softmax_case():
    x, label = normal(4, 3), np.array([0, 2, 1, 1])
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    dx = 3 * (p - np.eye(3)[label])
    return {"normalization": "NONE", "loss_weight": 3}, {
        "x": x, "label": label, "prob": p, "dx": dx, "net_loss_diff": np.array(3.0),
        "loss": -np.log(p[np.arange(4), label]).sum()}


def euclidean_case():
    a, b = normal(5, 2), normal(5, 2)
    return {"loss_weight": 4}, {"a": a, "b": b, "da": 4 * (a - b) / 5, "db": 4 * (b - a) / 5,
                                "loss": ((a - b) ** 2).sum() / 10}


def accuracy_case():
    x = np.array([[3, 2, 1.0], [1, 2, 3], [2, 2, 0]])     # right, third, tied for second
    return {"top_k": 2}, {"x": x, "label": np.array([0, 0, 0]), "accuracy": np.array(2 / 3)}


def dropout_case():
    x, dy = normal(50, 60), normal(50, 60)
    scale = (RNG.random(x.shape) >= 0.2) / 0.8
    return {"dropout_ratio": 0.2, "phase": "TRAIN"}, {"x": x, "dy": dy, "y": x * scale,
                                                      "dx": dy * scale}


def filler_case():
    sample = RNG.uniform(-2, 3, 40 * 900)
    stats = [sample.mean(), sample.std(), sample.min(), sample.max(), 0]
    return {"filler": 'type: "uniform" min: -2 max: 3.0', "blob_shape": [40, 900]}, {
        "stats": np.array(stats), "quantiles": np.quantile(sample, np.linspace(0, 1, 101)),
        "bias_stats": np.zeros(2)}


def solver_cases():
    """One layer, two batches, three steps of Caffe's SGD at the rates 0.2 / (1 + t)."""
    x, label = normal(2, 4, 3), np.array([[0, 1, 1, 0], [1, 0, 1, 0]])
    w, b, v_w, v_b = normal(2, 3), normal(2), 0.0, 0.0
    history = {"w1": [w], "b1": [b], "loss": []}
    for step in range(3):
        scores = x[step % 2] @ w.T + b
        p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        history["loss"].append(-np.log(p[np.arange(4), label[step % 2]]).mean())
        error = (p - np.eye(2)[label[step % 2]]) / 4
        v_w = 0.7 * v_w + 0.2 / (1 + step) * (error.T @ x[step % 2] + 0.05 * w)
        v_b = 0.7 * v_b + 0.2 / (1 + step) * 3 * error.sum(0)
        w, b = w - v_w, b - v_b
        history["w1"].append(w)
        history["b1"].append(b)
    arrays = {key: np.array(values) for key, values in history.items()}
    arrays["upd_w1"] = -np.diff(arrays["w1"], axis=0)
    fields = {"base_lr": 0.2, "lr_policy": "inv", "gamma": 1, "power": 1, "momentum": 0.7,
              "weight_decay": 0.05, "lr_mult": [1, 3], "decay_mult": [1, 0]}
    return {"inputs": ({"note": "batches"}, {"x": x, "label": label}), "slow": (fields, arrays)}


TOPOLOGY = {
    "input": [1, 4, 4], "boundary": "q",
    "net1": [{"name": "c", "type": "Convolution", "kernel_size": 3, "pad": 1, "num_output": 2,
              "relu": True},
             {"name": "q", "type": "Pooling", "pool": "AVE", "kernel_size": 2, "stride": 2},
             {"name": "d", "type": "InnerProduct", "num_output": 6, "relu": True}],
    "net2": [{"name": "e", "type": "InnerProduct", "num_output": 6, "relu": True},
             {"name": "f", "type": "InnerProduct", "num_output": 3}],
    "variants": {"plain.npz": {"loss": "normalized_both", "denominator": "exact"},
                 "odd.npz": {"loss": "euclidean", "stale_target": 2, "clear_diffs": False,
                             "loss_weight": 0.5}},
    "single": {"file": "whole.npz"}, "iterations": 4}
SHAPES = {"net1.c": (2, 1, 3, 3), "net1.d": (6, 8), "net2.e": (6, 8), "net2.f": (3, 6)}


def exactly(x, y):
    squares = x.square().sum(1) + y.square().sum(1)
    return ((x - y).square().sum(1) / squares.sqrt()).mean() / 2


def halved(x, y):
    return (x - y).square().sum(1).mean() / 2


def dual_run(weights, images, labels, distance, lag=0, clear=True, weight=1.0):
    """The dual net of TOPOLOGY on plain tensors; learning rates 0.05 and 0.1."""
    w = {name: torch.tensor(value, requires_grad=True) for name, value in weights.items()}
    found, sent = {}, [torch.zeros(images.shape[1], 6)] * lag
    for x, label in zip(images, labels, strict=True):
        hidden = functional.conv2d(torch.tensor(x), w["net1.c.w"], w["net1.c.b"], padding=1)
        q = functional.avg_pool2d(hidden.relu(), 2)
        d = functional.linear(q.flatten(1), w["net1.d.w"], w["net1.d.b"]).relu()
        e = functional.linear(q.detach().flatten(1), w["net2.e.w"], w["net2.e.b"]).relu()
        f = functional.linear(e, w["net2.f.w"], w["net2.f.b"])
        sent.append(e.detach())
        losses = distance(d, sent.pop(0)), functional.cross_entropy(f, torch.tensor(label))
        (weight * losses[0] + losses[1]).backward()
        values = {"q": q, "d": d, "e": e, "f": f, "loss1": losses[0], "loss2": losses[1]}
        for name, value in values.items():
            found.setdefault(name, []).append(value.detach().numpy())
        with torch.no_grad():
            for name, parameter in w.items():
                parameter -= (0.05 if name.startswith("net1") else 0.1) * parameter.grad
                if clear:
                    parameter.grad = None
    final = {f"final.{name}": value.detach().numpy() for name, value in w.items()}
    return {name: np.stack(values) for name, values in found.items()} | final | {
        "lr1": np.array(0.05), "lr2": np.array(0.1)}


def single_run(weights, images, labels):
    w = {name.split(".", 1)[1]: torch.tensor(value, requires_grad=True)
         for name, value in weights.items() if "net2.e" not in name}
    found = {"loss": [], "d": [], "gl2": []}
    for x, label in zip(images, labels, strict=True):
        q = functional.avg_pool2d(
            functional.conv2d(torch.tensor(x), w["c.w"], w["c.b"], padding=1).relu(), 2)
        d = functional.linear(q.flatten(1), w["d.w"], w["d.b"]).relu()
        loss = functional.cross_entropy(functional.linear(d, w["f.w"], w["f.b"]),
                                        torch.tensor(label))
        gradients = torch.autograd.grad(loss, w.values())
        found["gl2"].append(sum(g.square().sum() for g in gradients).sqrt())
        found["loss"].append(loss.detach())
        found["d"].append(d.detach())
        with torch.no_grad():
            for parameter, gradient in zip(w.values(), gradients, strict=True):
                parameter -= 0.2 * gradient
    final = {f"final.{name}": value.detach().numpy() for name, value in w.items()}
    return {name: torch.stack(values).numpy() for name, values in found.items()} | final | {
        "lr": np.array(0.2)}


def write_nets(folder):
    weights = {f"{name}.{key}": 0.5 * normal(*(shape if key == "w" else shape[:1]))
               for name, shape in SHAPES.items() for key in "wb"}
    images, labels = normal(4, 5, 1, 4, 4), RNG.integers(0, 3, (4, 5))
    runs = {"e2e_inputs": {"x": images, "label": labels,
                           **{f"init.{name}": value for name, value in weights.items()}},
            "plain": dual_run(weights, images, labels, exactly),
            "odd": dual_run(weights, images, labels, halved, lag=2, clear=False, weight=0.5),
            "whole": single_run(weights, images, labels)}
    for name, arrays in runs.items():
        save(folder / f"{name}.npz", arrays)
    (folder / "e2e_topology.json").write_text(json.dumps(TOPOLOGY))


def save(path, arrays):
    np.savez(path, **{key: np.asarray(value, np.float32) for key, value in arrays.items()})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of the set; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("golden")
    files = {"conv": {"wide": conv_case()}, "inner_product": {"turned": inner_product_case()},
             "pool": {"blocks": pool_case()}, "lrn": {"alone": lrn_case()},
             "relu": {"slope": relu_case()}, "softmax_loss": {"sum": softmax_case()},
             "euclidean_loss": {"heavy": euclidean_case()}, "accuracy": {"two": accuracy_case()},
             "dropout": {"fifth": dropout_case()}, "fillers": {"broad": filler_case()},
             "solver": solver_cases()}
    cases = {file: {name: {**fields, "keys": {key: list(np.shape(a)) for key, a in arrays.items()}}
                    for name, (fields, arrays) in content.items()}
             for file, content in files.items()}
    for file, content in files.items():
        save(folder / f"{file}.npz", {f"{name}__{key}": a for name, (_, arrays) in content.items()
                                      for key, a in arrays.items()})
    (folder / "cases.json").write_text(json.dumps(cases))
    write_nets(folder)
    return folder


@pytest.fixture
def copy(made, tmp_path):
    for path in made.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def change_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def perturb(folder, file, key, factor=1.001):
    with np.load(folder / f"{file}.npz") as content:
        arrays = dict(content)
    arrays[key] = arrays[key] * np.float32(factor)
    save(folder / f"{file}.npz", arrays)


# -- what the comparison finds ---------------------------------------------------------------------

def test_every_case_of_another_set_agrees(made):
    results = fidelity.compare(made)
    assert [(r.file, r.case) for r in results if not r.passed] == []
    assert [(r.file, r.case) for r in results] == fidelity.list_cases(made)
    assert len(results) == 11 + 3
    compared = {d.array for r in results if r.file == "odd.npz" for d in r.differences}
    assert compared == {"q", "d", "e", "f", "loss1", "loss2"} | {
        f"final.{name}.{key}" for name in SHAPES for key in "wb"}


@pytest.mark.parametrize(("file", "key"), [
    ("conv", "wide__dw"), ("inner_product", "turned__db"), ("pool", "blocks__dx"),
    ("lrn", "alone__y"), ("relu", "slope__dx"), ("softmax_loss", "sum__net_loss_diff"),
    ("euclidean_loss", "heavy__loss"), ("accuracy", "two__accuracy"), ("dropout", "fifth__y"),
    ("solver", "slow__upd_w1"), ("plain", "final.net1.c.w"), ("odd", "loss1"), ("whole", "gl2")])
def test_a_tenth_of_a_percent_in_one_array_is_found_in_its_case_alone(copy, file, key):
    perturb(copy, file, key)
    failed = [r for r in fidelity.compare(copy) if not r.passed]
    assert [r.file.removesuffix(".npz") for r in failed] == [file]
    assert key.endswith(failed[0].worst.array)


@pytest.mark.parametrize(("filler", "array"), [
    ('type: "uniform" min: -2 max: 3.1', "limits"),
    ('type: "gaussian" mean: 0.5 std: 1.443', "quantiles"),
    ('type: "gaussian" mean: 0.5 std: 1.5', "std"), ('type: "uniform" min: -2.1 max: 2.9', "mean")])
def test_another_distribution_is_found(copy, filler, array):
    change_json(copy / "cases.json", lambda c: c["fillers"]["broad"].update(filler=filler))
    result = fidelity.compare_case(copy, "fillers", "broad")
    assert array in {d.array for d in result.differences if not d.passed}


@pytest.mark.parametrize(("file", "case", "field", "value"), [
    ("conv", "wide", "stride_w", 1), ("pool", "blocks", "pool", "MAX"),
    ("lrn", "alone", "k", 1.6), ("relu", "slope", "negative_slope", 0.2),
    ("softmax_loss", "sum", "normalization", "VALID"), ("softmax_loss", "sum", "ignore_label", 2),
    ("euclidean_loss", "heavy", "loss_weight", 2), ("accuracy", "two", "top_k", 1),
    ("dropout", "fifth", "dropout_ratio", 0.25), ("solver", "slow", "momentum", 0.6),
    ("solver", "slow", "decay_mult", [1, 1]), ("solver", "slow", "clip_gradients", 0.01),
    ("solver", "slow", "type", "Nesterov"), ("solver", "slow", "lr_policy", "fixed")])
def test_every_field_is_read(copy, file, case, field, value):
    change_json(copy / "cases.json", lambda c: c[file][case].update({field: value}))
    try:
        assert not fidelity.compare_case(copy, file, case).passed
    except UserError as error:      # another output size
        assert "has shape" in str(error)


@pytest.mark.parametrize(("variant", "field", "value"), [
    ("plain.npz", "loss", "normalized"), ("plain.npz", "denominator", "constant"),
    ("plain.npz", "compare", "pre_relu"), ("odd.npz", "stale_target", 1),
    ("odd.npz", "clear_diffs", True), ("odd.npz", "loss_weight", 0)])
def test_every_field_of_a_variant_is_read(copy, variant, field, value):
    change_json(copy / "e2e_topology.json", lambda t: t["variants"][variant].update({field: value}))
    assert not fidelity.compare_case(copy, variant, "").passed


def test_a_field_that_nothing_reads_is_named_in_result_and_table(copy):
    change_json(copy / "cases.json", lambda c: c["conv"]["wide"].update(engine="CUDNN", axis=1))
    results = fidelity.compare(copy)
    assert {r.ignored for r in results} == {(), ("axis", "engine")}
    fidelity.write_table(results, copy / "table.md")
    assert "* conv wide: axis, engine" in (copy / "table.md").read_text()


def test_a_constant_agrees_although_caffes_mean_is_rounded(copy):
    value, stats = np.float32(0.1), [0.1 + 7e-9, 2e-9, 0.1, 0.1, 0]
    change_json(copy / "cases.json", lambda c: c["fillers"]["broad"].update(
        filler='type: "constant" value: 0.1'))
    save(copy / "fillers.npz", {"broad__stats": stats, "broad__quantiles": [value] * 101,
                                "broad__bias_stats": [0, 0]})
    assert fidelity.compare_case(copy, "fillers", "broad").passed
    perturb(copy, "fillers", "broad__stats")
    assert not fidelity.compare_case(copy, "fillers", "broad").passed


def test_nan_equals_nan_and_nothing_else():
    nan = np.float32(np.nan)
    same = measure("y", np.array([nan, 1, -np.inf]), np.array([nan, 1, -np.inf]), 1e-6)
    assert (same.absolute, same.passed) == (0.0, True)
    assert not measure("y", np.array([nan, 1]), np.array([2, 1]), 1e-6).passed
    assert not measure("y", np.array([2, 1]), np.array([nan, 1]), 1e-6).passed
    # largest difference 0.5, largest element 4
    found = measure("y", np.array([1.0, 4.0]), np.array([1.5, 4.0]), 1e-6)
    assert (found.absolute, found.relative) == (0.5, 0.125)
    assert measure("y", np.array([1e-9]), np.array([0.0]), 1e-6).relative == np.inf


def test_the_fields_of_a_filler_block_are_parsed():
    text = 'type: "msra"  variance_norm:AVERAGE mean: -1e-3 sparse: 15 std: .5'
    assert parse_fields(text) == {"type": "msra", "variance_norm": "AVERAGE", "mean": -1e-3,
                                  "sparse": 15, "std": 0.5}


# -- what it refuses -------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "change", "message"), [
    ("cases.json", lambda c: c["relu"]["slope"]["keys"].update(mask=[4, 4]),
     "lacks slope__mask, which cases.json names"),
    ("cases.json", lambda c: c["relu"]["slope"]["keys"].pop("x"), "lacks 'x'"),
    ("cases.json", lambda c: c["conv"]["wide"].pop("num_output"), "lacks 'num_output'"),
    ("cases.json", lambda c: c["accuracy"]["two"]["keys"].pop("accuracy"), "no array to compare"),
    ("cases.json", lambda c: c.update(concat=c.pop("relu")), "nothing to compare 'concat' with"),
    ("e2e_topology.json", lambda t: t["variants"]["odd.npz"].update(delay=3), "'delay'"),
    ("e2e_topology.json", lambda t: t["net1"][0].update(type="Scale"), "'c' is not understood"),
    ("e2e_topology.json", lambda t: t["net1"][0].update(bend=1), "'c' is not understood"),
    ("e2e_topology.json", lambda t: t.update(boundary="z"), "'z' is no layer of net1"),
    ("e2e_topology.json", lambda t: t["variants"].update({"lost.npz": {"loss": "euclidean"}}),
     "lost.npz cannot be read"),
    ("e2e_topology.json", lambda t: t["variants"]["odd.npz"].pop("loss"), "'loss'"),
    ("e2e_topology.json", lambda t: t["net1"][0].update(name="k"), "lacks 'init.net1.k.w'")])
def test_what_is_not_understood_is_refused(copy, name, change, message):
    change_json(copy / name, change)
    with pytest.raises(UserError, match=message):
        fidelity.compare(copy)


def test_a_damaged_file_is_refused(copy):
    path = copy / "relu.npz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"relu.npz cannot be read as .npz"):
        fidelity.compare(copy)


def test_a_folder_without_a_set_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"expected cases.json or e2e_topology.json"):
        fidelity.compare(tmp_path)
    (tmp_path / "cases.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        fidelity.compare(tmp_path)


# -- the table and the tests of a set --------------------------------------------------------------

def test_the_table_has_a_row_for_each_case_and_names_what_differs(copy):
    perturb(copy, "pool", "blocks__y")
    path = copy / "results" / "table.md"
    fidelity.write_table(fidelity.compare(copy), path)
    text = path.read_text()
    assert "**13 of 14 cases within tolerance.**" in text
    rows = [line for line in text.splitlines() if line.endswith(("| ok |", "| **differs** |"))]
    assert len(rows) == 14
    assert [row for row in rows if "differs" in row] == [
        row for row in rows if row.startswith("| pool | blocks | y |")]


def test_the_golden_tests_run_over_the_set_that_the_environment_names(copy):
    perturb(copy, "odd", "final.net2.f.b")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "caffe_golden",
         "tests/test_caffe_golden.py"], cwd=ROOT, capture_output=True, text=True, timeout=240,
        env={**os.environ, "DUALNET_CAFFE_GOLDEN": str(copy)})
    assert "1 failed, 13 passed" in done.stdout, done.stdout
    assert "test_agrees_with_caffe[odd.npz]" in done.stdout
