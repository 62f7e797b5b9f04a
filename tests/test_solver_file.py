"""Solver prototxts: rates and updates by hand, the path of the net, refusals by line."""

import pytest
import torch
from prototxts import LEGACY, LENET, SOLVER

from dualnet.caffe.definition import net_of
from dualnet.caffe.net import CaffeNet
from dualnet.caffe.params import param_groups
from dualnet.caffe.prototxt import PrototxtError, parse
from dualnet.caffe.solver_file import read_solver, solver_of

SHORT = 'net: "n" base_lr: 0.5 max_iter: 10 lr_policy: "fixed" '


def solver_from(text):
    return solver_of(parse(text, "file"))


def test_a_solver_of_2015_is_read():
    found = solver_from(SOLVER)
    assert (found.type, found.max_iter, found.test_interval) == ("SGD", 10000, 500)
    assert found.seed is None
    assert found.rate(0) == 0.01
    assert found.rate(5000) == pytest.approx(0.01 * 1.5 ** -0.75)
    assert "file:4:1: 'test_iter' has no effect here: a test takes all test images" in found.notes
    assert len(found.notes) == 5


def test_one_update_heeds_the_multipliers_of_the_net():
    # w 2, gradient 1, rate 0.5, decay 0.1: weights 2 - 0.5 (1 + 0.1 2), biases 2 - 0.5 2 (1 + 0)
    net = CaffeNet(net_of(parse(LENET.replace("param { lr_mult: 2 }",
                                              "param { lr_mult: 2 decay_mult: 0 }"))),
                   image_shape=(1, 28, 28))
    optimizer = solver_from(SHORT + "weight_decay: 0.1").optimizer(param_groups(net))
    for parameter in net.parameters():
        torch.nn.init.constant_(parameter, 2.0)
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in net.named_parameters():
        expected = 1.0 if name.endswith("bias") else 1.4
        assert torch.allclose(parameter, torch.tensor(expected)), name


@pytest.mark.parametrize(("words", "type"), [
    ("", "SGD"), ('type: "Nesterov" momentum: 0.5', "Nesterov"),
    ("solver_type: NESTEROV", "Nesterov"), ("solver_type: ADAGRAD", "AdaGrad"),
    ("solver_type: RMSPROP", "RMSProp"), ("solver_type: ADADELTA momentum: 0.9", "AdaDelta"),
    ("solver_type: 5 momentum: 0.9", "Adam"), ('type: "Adam" momentum2: 0.9', "Adam")])
def test_types_and_their_old_form(words, type):
    found = solver_from(SHORT + words)
    assert found.type == type
    optimizer = found.optimizer([torch.zeros(3, requires_grad=True)])
    assert optimizer.__class__.__name__ == type


@pytest.mark.parametrize(("words", "step", "expected"), [
    ('lr_policy: "fixed"', 9, 0.5), ('lr_policy: "step" gamma: 0.1 stepsize: 4', 9, 0.5 * 0.1**2),
    ('lr_policy: "exp" gamma: 0.9', 9, 0.5 * 0.9**9),
    ('lr_policy: "inv" gamma: 0.1 power: 2', 9, 0.5 / 1.9**2),
    ('lr_policy: "multistep" gamma: 0.5 stepvalue: 3 stepvalue: 8', 9, 0.125),
    ('lr_policy: "multistep" gamma: 0.5 stepvalue: [3, 8]', 7, 0.25),
    ('lr_policy: "poly" power: 2', 5, 0.5 * 0.25),
    ('lr_policy: "sigmoid" gamma: 1 stepsize: 5', 5, 0.25)])
def test_rates(words, step, expected):
    found = solver_from(f'net: "n" base_lr: 0.5 max_iter: 10 {words}')
    assert found.rate(step) == pytest.approx(expected)


def test_arguments_reach_the_solver():
    found = solver_from(SHORT + 'regularization_type: "L1" clip_gradients: 3 iter_size: 2 '
                        "random_seed: 7 train_state { level: 2 stage: 'a' }")
    optimizer = found.optimizer([torch.zeros(1)])
    assert (optimizer.regularization_type, optimizer.clip_gradients, optimizer.iter_size) == (
        "L1", 3.0, 2)
    assert found.seed == 7 and found.state.level == 2 and found.state.stages == ("a",)


@pytest.mark.parametrize("limit", [3.0, 1000.0])
def test_the_mean_of_the_batches_updates_as_their_sum_does(limit):
    # The sum of two gradients, (6, 8), has the norm 10; it is cut to the limit and halved.
    found = solver_from(SHORT + f"iter_size: 2 clip_gradients: {limit}")
    sum_of_two = torch.tensor([6.0, 8.0])
    for gradient, is_mean in ((sum_of_two, False), (sum_of_two / 2, True)):
        weight = torch.zeros(2, requires_grad=True)
        weight.grad = gradient.clone()
        found.optimizer([weight], is_mean=is_mean).step()
        assert torch.allclose(weight, -0.5 * sum_of_two * min(1, limit / 10) / 2)


def test_the_net_is_found_from_the_working_directory_or_beside_the_solver(tmp_path, monkeypatch):
    here, beside = tmp_path / "here", tmp_path / "beside"
    for folder in (here, beside):
        folder.mkdir()
    solver = beside / "solver.prototxt"
    solver.write_text(SHORT.replace('"n"', '"net.prototxt"'))
    monkeypatch.chdir(here)
    with pytest.raises(PrototxtError, match=r"'net' names net.prototxt, which is neither in the"):
        read_solver(solver).net()
    (beside / "net.prototxt").write_text(LENET.replace("digits", "beside"))
    assert read_solver(solver).net().name == "beside"
    (here / "net.prototxt").write_text(LENET.replace("digits", "here"))
    assert read_solver(solver).net().name == "here"


def test_the_net_may_stand_in_the_solver():
    text = SHORT.replace('net: "n"', f"net_param {{ {LENET} }}")
    assert solver_from(text).net().name == "digits" and solver_from(text).net_path() is None


@pytest.mark.parametrize(("text", "line", "sentence"), [
    ('base_lr: 1\n lr_policy: "fixed"', 1, "a solver needs 'max_iter'"),
    (SHORT + '\ntype: "Adma"', 2, "unknown solver type 'Adma'; did you mean Adam?"),
    (SHORT + '\nsolver_type: ADMA', 2, "takes one of SGD, NESTEROV"),
    (SHORT + '\ntype: "SGD" solver_type: SGD', 2, "found both"),
    (SHORT.replace("fixed", "fixd"), 1, "unknown lr_policy 'fixd'; did you mean fixed?"),
    (SHORT.replace("fixed", "step") + "\ngamma: 1", 1, "needs stepsize"),
    (SHORT + "\nmomentun: 1", 2, "no field 'momentun'; did you mean momentum?"),
    (SHORT + "\nmomentum: 1", 2, "less than 1"), (SHORT + "\nmomentum: nan", 2, "must be finite"),
    (SHORT + "\niter_size: 0", 2, "'iter_size' must be at least 1, found 0"),
    (SHORT + '\ntype: "AdaGrad" momentum: 0.9', 2, "AdaGrad takes no momentum"),
    (SHORT + '\nregularization_type: "L3"', 1, "L1 or L2")])
def test_a_bad_solver_is_refused_with_the_line(text, line, sentence):
    with pytest.raises(PrototxtError) as caught:
        solver_from(text)
    assert sentence in str(caught.value) and caught.value.line == line


def test_a_solver_names_one_net():
    for words, found in (("", "found none"), ('net: "a" train_net: "b"', "found net, train_net")):
        with pytest.raises(PrototxtError, match=found):
            solver_from(words + SHORT.replace('net: "n"', "")).net()


def test_the_rates_of_the_thesis(monkeypatch):
    monkeypatch.chdir(LEGACY.parent)
    for name, base in (("single", 1e-3), ("net2", 4e-3), ("net1", 5e-11)):
        found = read_solver(LEGACY / "thesis" / f"{name}_solver.prototxt")
        assert [found.rate(step) for step in (0, 2499, 2500, 5000)] == pytest.approx(
            [base, base, base / 10, base / 100])
        assert found.net().name == f"thesis_{name}"
