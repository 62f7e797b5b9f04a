"""legacy_caffe's loop, with nets of numpy for those of Caffe, against real dualnet processes."""

import dataclasses
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from official_files import write_cifar10

from dualnet import nets as port_nets
from dualnet.data import cifar10
from dualnet.methods.dual.build import build_parts
from dualnet.methods.dual.settings import LOSSES as PORT_LOSSES
from dualnet.methods.dual.settings import DualConfig
from legacy_caffe import dual_net, prepare_cifar10, roles
from legacy_caffe.batches import Batches, load
from legacy_caffe.settings import LOSSES, Settings
from shared_fs import Exchange, HandshakeMismatch

ROOT = Path(__file__).resolve().parent.parent
DEADLINE_S = 250
BATCH, ITERATIONS, SEED = 15, 6, 3
BOUNDARY, COMPARED = (32, 8, 8), (64, 8, 8)
SETTINGS = Settings(batch_size=BATCH, iterations=ITERATIONS, seed=SEED, log_every=2, eval_every=4)
FLAGS = ["--batch-size", BATCH, "--iterations", ITERATIONS, "--seed", SEED, "--log-every", 2,
         "--eval-every", 4, "--loss", "euclidean", "--threads", 1, "--data", "cifar10"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cifar")
    write_cifar10(folder)
    prepare_cifar10.prepare(folder / cifar10.BATCHES_FOLDER, folder / "arrays")
    return folder


@pytest.fixture(scope="module")
def batches(tiny):
    return Batches(load(tiny / "arrays"), BATCH, SEED)


def port_parts():
    """net1 and net2 of the port as they start."""
    settings = DualConfig(loss="euclidean", seed=SEED)
    parts = build_parts(settings, port_nets.build(settings.net, (3, 32, 32), 10))
    return [part.eval() for part in parts]


def relu(x):
    return np.maximum(x, 0)


def mix(matrix, maps):
    """A 1x1 convolution: [out, in] on [n, in, h, w]."""
    return np.einsum("oi,nihw->nohw", matrix, maps, dtype=np.float32)


class Net1OfNumpy:
    """Images averaged over 4x4 pixels, and two 1x1 convolutions for conv1..pool2 and conv3."""

    def __init__(self, lr):
        random = np.random.default_rng(7)
        self.first = random.normal(0, 0.6, (32, 3)).astype(np.float32)
        self.second = random.normal(0, 0.2, (64, 32)).astype(np.float32)
        self.lr, self.losses, self.sent, self.answers = lr, [], [], []

    def forward(self, images):
        self.pixels = images.reshape(len(images), 3, 8, 4, 8, 4).mean(axis=(3, 5))
        self.z = relu(mix(self.first, self.pixels))
        return self.z

    def compared(self):
        self.x = relu(mix(self.second, self.z))
        return self.x

    def loss(self, answer):
        self.sent.append(self.z)
        self.answers.append(answer)
        self.difference = self.x - answer
        self.losses.append(float((self.difference**2).sum() / (2 * len(answer))))
        return self.losses[-1]

    def learn(self):
        up = self.difference / len(self.x) * (self.x > 0)
        down = mix(self.second.T, up) * (self.z > 0)
        self.second = self.second - self.lr * np.einsum("nohw,nihw->oi", up, self.z)
        self.first = self.first - self.lr * np.einsum("nohw,nihw->oi", down, self.pixels)


class Net2OfNumpy:
    """A 1x1 convolution for conv3', and a linear classifier on the mean of each map."""

    boundary, compared = BOUNDARY, COMPARED

    def __init__(self, lr):
        random = np.random.default_rng(8)
        self.first = random.normal(0, 0.2, (64, 32)).astype(np.float32)
        self.second = random.normal(0, 0.2, (10, 64)).astype(np.float32)
        self.lr, self.received, self.answers, self.tested = lr, [], [], []

    def forward(self, boundary, labels):
        self.received.append(boundary.copy())
        self.y = relu(mix(self.first, boundary))
        self.features = self.y.mean(axis=(2, 3))
        scores = self.features @ self.second.T
        self.p = np.exp(scores - scores.max(axis=1, keepdims=True))
        self.p /= self.p.sum(axis=1, keepdims=True)
        self.labels = labels
        return float(-np.log(self.p[np.arange(len(labels)), labels]).mean()), scores

    def answer(self):
        self.answers.append(self.y)
        return self.y

    def learn(self):
        error = self.p - np.eye(10)[self.labels]
        self.second = self.second - self.lr * error.T @ self.features / len(self.labels)

    def scores(self, boundary):
        self.tested.append(boundary.copy())
        return relu(mix(self.first, boundary)).mean(axis=(2, 3)) @ self.second.T

    def scores_of_compared(self, compared):
        self.tested.append(compared.copy())
        return compared.mean(axis=(2, 3)) @ self.second.T


def train_with_port(tmp_path, tiny, role, net, batches, flags):
    """Train `net` as `role` here against a real process of the other role.

    Returns what the loop returned and said, and the run folder of the port.
    """
    other = "net2" if role == "net1" else "net1"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DUALNET_DATA": str(tiny)}
    port = subprocess.Popen(
        [sys.executable, "-m", "dualnet", other, "--exchange-dir", "meeting", "--out", "run",
         *map(str, [*FLAGS, *flags])], cwd=tmp_path, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    said: list[str] = []
    try:
        exchange = Exchange(
            tmp_path / "meeting", role, channels=roles.CHANNELS, roles=roles.ROLES,
            agreement=SETTINGS.agreement(batches.dataset.fingerprint()),
            handshake_timeout_s=DEADLINE_S, peer_timeout_s=DEADLINE_S)
        with exchange:
            part = {"net1": roles.train_net1, "net2": roles.train_net2}[role]
            result = part(roles.Link(exchange, "float32"), net, batches, SETTINGS, said.append)
        _, err = port.communicate(timeout=DEADLINE_S)
    finally:
        port.kill()
    assert port.returncode == 0, err
    return result, said, tmp_path / "run"


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_net1_of_another_framework_trains_with_the_ports_net2(tmp_path, tiny, batches):
    net = Net1OfNumpy(lr=1e-2)
    _, said, run = train_with_port(tmp_path, tiny, "net1", net, batches, ["--lr", 0])
    # net2 rests, so each answer is the conv3' of its seed, applied to the pool2 it was sent.
    resting = port_parts()[1]
    head = resting.head
    with torch.no_grad():
        for sent, answer in zip(net.sent, net.answers, strict=True):
            expected = head(torch.from_numpy(sent)).numpy()
            np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)
    # Answered by a conv3' that rests, net1 comes nearer to it, batch after batch.
    assert len(net.losses) == ITERATIONS and net.losses[-1] < 0.7 * net.losses[0]
    assert [line.split()[1] for line in said] == ["2/6", "4/6", "6/6"]
    assert f"loss1 {net.losses[-1]:.6g}" in said[-1]
    summary = json.loads((run / "summary.json").read_text())
    tests = [line for line in lines_of(run / "net2" / "metrics.jsonl") if line["split"] == "test"]
    assert [line["step"] for line in tests] == [4, 6]
    # Both readings of the test images come from what this side sent: pool2 and its own conv3.
    sent = [(net.forward(images), net.compared(), labels) for images, labels in batches.tests()]
    with torch.no_grad():
        z, x, _ = (torch.from_numpy(np.concatenate(part)) for part in zip(*sent, strict=True))
        scores = {"test_accuracy": resting(z), "test_accuracy_merged": resting.body(x)}
        cross = torch.nn.functional.cross_entropy(resting(z), torch.from_numpy(
            batches.dataset.test_labels.copy())).item()
    for name, each in scores.items():
        assert summary[name] == (each.argmax(1).numpy() == batches.dataset.test_labels).mean()
    assert tests[-1]["loss"] == pytest.approx(cross, rel=1e-4)
    # Per iteration both maps, conv3' again on three logged ones, two tests of 20 images, float32.
    z, y = 32 * 8 * 8 * 4, 64 * 8 * 8 * 4
    assert summary["bytes_exchanged"] == 6 * 15 * (z + y) + 3 * 15 * y + 2 * 20 * (z + y)
    assert summary["pids"]["net1"] == os.getpid()


def test_a_net2_of_another_framework_trains_with_the_ports_net1(tmp_path, tiny, batches):
    net = Net2OfNumpy(lr=0.5)
    scores, _, run = train_with_port(tmp_path, tiny, "net2", net, batches, ["--lr-net1", 0])
    front = port_parts()[0]
    images = [batches.images(step) for step in range(ITERATIONS)]
    tests = np.concatenate([images for images, _ in batches.tests()])
    with torch.no_grad():
        z = [front(torch.from_numpy(each)) for each in [*images, tests]]
        x = [front.tail(each).numpy() for each in z]
    # net1 rests, so pool2 is that of its seed, on the batches that this side computes by itself.
    for received, expected in zip(net.received, z[:-1], strict=True):
        np.testing.assert_allclose(received, expected.numpy(), rtol=1e-4, atol=1e-5)
    # The answers reach its loss: eq. 9.2 with its conv3, in the mean of the two iterations a line.
    losses = [((a - b) ** 2).sum() / (2 * BATCH) for a, b in zip(x, net.answers, strict=False)]
    found = [line["loss"] for line in lines_of(run / "net1" / "metrics.jsonl")]
    assert found == pytest.approx([(losses[i] + losses[i + 1]) / 2 for i in (0, 2, 4)], rel=1e-4)
    # Two tests of two batches, 15 and 5 images, each with pool2 and conv3.
    assert [each.shape[:2] for each in net.tested] == [(15, 32), (15, 64), (5, 32), (5, 64)] * 2
    labels = batches.dataset.test_labels
    through = {"conv3p": net.scores(z[-1].numpy()), "conv3": net.scores_of_compared(x[-1])}
    assert scores == {name: (each.argmax(1) == labels).mean() for name, each in through.items()}


def test_two_roles_of_this_script_train_and_test_each_other(tmp_path, batches):
    net1, net2 = Net1OfNumpy(lr=1e-2), Net2OfNumpy(lr=0.5)

    def train(role, part, net):
        with Exchange(tmp_path, role, channels=roles.CHANNELS, roles=roles.ROLES,
                      agreement=SETTINGS.agreement(""), handshake_timeout_s=DEADLINE_S) as mine:
            return part(roles.Link(mine, "float16"), net, batches, SETTINGS, lambda line: None)

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(train, "net1", roles.train_net1, net1)
        scores = train("net2", roles.train_net2, net2)
        other.result(timeout=DEADLINE_S)
    for sent, received in zip(net1.sent, net2.received, strict=True):
        assert (received == sent.astype(np.float16)).all()
    for answer, received in zip(net2.answers, net1.answers, strict=True):
        assert (received == answer.astype(np.float16)).all()
    # The last test, after the last update: pool2 and conv3 of both batches of test images.
    last = [array for images, _ in batches.tests()
            for array in (net1.forward(images).copy(), net1.compared())]
    for sent, received in zip(last, net2.tested[-4:], strict=True):
        assert (received == sent.astype(np.float16)).all()
    labels = batches.dataset.test_labels
    x = np.concatenate(last[1::2]).astype(np.float16).astype(np.float32)
    assert scores["conv3"] == (net2.scores_of_compared(x).argmax(1) == labels).mean()


def test_both_sides_name_the_settings_in_which_they_differ(tmp_path, tiny, batches):
    with pytest.raises(HandshakeMismatch, match="log_every: net2 has 2, net1 has 3") as caught:
        train_with_port(tmp_path, tiny, "net2", Net2OfNumpy(0.0), batches, ["--log-every", 3])
    assert "momentum" not in str(caught.value)     # a setting that this side does not know


def test_both_implementations_agree_on_the_same_settings():
    ours = SETTINGS.agreement("of the images")
    theirs = DualConfig().agreement()
    theirs.pop("optional")
    assert ours.keys() - {"images"} == theirs.keys()
    # Every value that a setting of both has by default is the same, but for the loss: the script
    # knows none of the port's own.
    same = {field.name: getattr(Settings(), field.name) for field in dataclasses.fields(Settings)}
    assert {name: theirs[name] for name in same} == {**same, "loss": "admm"}


def test_the_losses_are_those_of_the_port_but_for_its_own():
    # In Caffe every Python layer has its gradient by hand; --builtin-loss is the other form.
    assert LOSSES.keys() == PORT_LOSSES.keys() - {"admm", "euclidean_by_hand"}
    functions = {"euclidean": "EuclideanLossLayer", "normalized": "NormalizedLossLayer",
                 "normalized_both": "NormalizedBothLossLayer"}
    for name, loss in LOSSES.items():
        port = PORT_LOSSES[name]
        assert (loss.answer, loss.updates, float(loss.has_weight), loss.layer) == (
            port.answer, port.updates, port.weight, functions[port.function])


@pytest.mark.parametrize(("rule", "expected"), [("y", [1, 2, 3]), ("zero", [0, 0, 0]),
                                                ("earlier", [1, 1, 2])])
def test_what_net2_sends(rule, expected):
    earlier, sent = None, []
    for value in (1, 2, 3):
        y = np.full((1, 2), value)
        sent.append(roles.what_is_sent(rule, y, earlier)[0, 0])
        earlier = y
    assert sent == expected


def test_turns_are_those_of_the_port():
    from dualnet.schedules import SCHEDULES

    settings = Settings(schedule="alternating", net1_steps=2, net2_steps=3)
    turns = SCHEDULES["alternating"](12, net1_steps=2, net2_steps=3)
    for turn in turns:
        assert tuple(r for r in roles.ROLES if settings.updates(r, turn.step)) == turn.updates


def test_a_tie_counts_against_the_true_class_as_in_caffe():
    with np.load(ROOT / "tests" / "golden" / "caffe" / "accuracy.npz") as golden:
        scores, labels = golden["ties_top1__x"], golden["ties_top1__label"].astype(int)
        assert roles.correct(scores, labels) / len(labels) == pytest.approx(
            golden["ties_top1__accuracy"])


def run_without_caffe(*words):
    code = ("import sys; sys.modules['caffe'] = None; from legacy_caffe import dual_net;"
            "sys.exit(dual_net.main(sys.argv[1:]))")
    return subprocess.run([sys.executable, "-c", code, *map(str, words)], cwd=ROOT, text=True,
                          capture_output=True, timeout=DEADLINE_S)


@pytest.mark.parametrize(("words", "named"), [
    ([], "build BVLC Caffe 1.0 with WITH_PYTHON_LAYER=1"),
    (["--net", "larger"], "expected one of caffenet227, small, thesis, or a folder"),
    (["--loss", "normalized_both", "--denominator", "target"], "must be constant or exact"),
    (["--loss", "normalized", "--builtin-loss"], "--builtin-loss is the Euclidean loss"),
    (["--batch-size", "0"], "--batch-size must be at least 1, found 0"),
], ids=["no caffe", "net", "denominator", "builtin", "batch size"])
def test_a_wrong_start_ends_in_one_sentence(tmp_path, words, named):
    done = run_without_caffe("net1", "--data", tmp_path, "--exchange-dir", tmp_path / "e", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and named in done.stderr
    assert not (tmp_path / "e").exists()


def test_help_needs_no_caffe_and_names_every_setting():
    done = subprocess.run([sys.executable, ROOT / "legacy_caffe" / "dual_net.py", "--help"],
                          capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    for field in dataclasses.fields(Settings):
        assert f"--{field.name.replace('_', '-')} " in done.stdout or \
            f"--{field.name.replace('_', '-')}," in done.stdout, field.name


def test_the_preset_of_the_thesis_is_the_recipe_of_the_port():
    words = ["net1", "--data", "d", "--exchange-dir", "e", "--net", "thesis"]
    settings = dual_net.settings_of(dual_net.parser().parse_args(words))
    recipe = DualConfig.recipes["thesis"]
    shared = {field.name for field in dataclasses.fields(Settings)} & recipe.keys()
    assert {"mean", "equalise", "bgr", "batch_size", "iterations", "schedule"} <= shared
    assert {name: getattr(settings, name) for name in shared} == {
        name: recipe[name] for name in shared}
