"""Settings: from flags and files, checked, named."""

import argparse
import dataclasses

import pytest

from dualnet.cli.parser import Parser, add_settings, settings_of, with_dashes
from dualnet.config import Config, TrainConfig, flag
from dualnet.errors import UserError
from dualnet.methods.dual.settings import LOSSES, DualConfig
from dualnet.run import Run


@dataclasses.dataclass(frozen=True)
class Small(Config):
    recipes = {"fast": {"rate": 0.5, "word": "b"}}
    rate: float = flag(0.1, "a rate, per step", minimum=0)
    count: int | None = flag(None, "how many", minimum=1)
    word: str = flag("a", "a word", choices=("a", "b"))
    switch: bool = flag(False, "a switch")
    folder: str = flag("here", "a folder", local=True)


def settings(*words, config=Small):
    parser = Parser("test")
    add_settings(parser, config)
    return settings_of(parser.parse_args(with_dashes(words)), config, "test")


def test_flags_become_fields():
    assert settings("--rate", "3", "--count=2", "--switch") == Small(3.0, 2, "a", True)
    assert settings() == Small()
    assert settings("--count", "auto").count is None
    assert settings("--no-switch").switch is False


def test_underscores_are_taken_for_dashes_in_flags_but_not_in_values():
    assert with_dashes(["--data_dir", "my_dir", "--out=a_b"]) == ["--data-dir", "my_dir",
                                                                 "--out=a_b"]


@pytest.mark.parametrize(("words", "sentence"), [
    (["--rate", "-1"], "--rate must be at least 0, found -1"),
    (["--rate", "nan"], "--rate must be at least 0, found nan"),
    (["--count", "0"], "--count must be at least 1, found 0"),
    (["--word", "c"], "unknown value of --word 'c'"),
    (["--recipe", "fats"], "unknown recipe 'fats'; did you mean fast?"),
])
def test_a_bad_value_is_refused_in_a_sentence(words, sentence):
    with pytest.raises(UserError, match=sentence):
        settings(*words)


@pytest.mark.parametrize(("words", "sentence"), [
    (["--rat", "1"], "unknown argument '--rat'; did you mean --rate?"),
    (["--count", "x"], "argument --count: expected int or 'auto', found 'x'"),
    (["--rate"], "argument --rate: expected one argument"),
])
def test_a_bad_flag_ends_with_code_2_and_the_nearest_flag(words, sentence, capsys):
    with pytest.raises(SystemExit) as end:
        settings(*words)
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert sentence in message and message.count("\n") == 1


def test_flags_win_over_the_file_and_the_file_over_the_recipe(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"method": "test", "word": "a", "count": 7}')
    found = settings("--recipe", "fast", "--config", str(path), "--count", "8")
    assert found == Small(rate=0.5, count=8, word="a")


@pytest.mark.parametrize(("text", "sentence"), [
    ('{"rte": 1}', "sets 'rte', which is no setting here; did you mean rate?"),
    ('{"rate": "1"}', "--rate takes float, found '1'"),
    ('{"switch": 1}', "--switch takes bool, found 1"),
    ('{"method": "other"}', "belongs to the method 'other', not 'test'"),
    ("{", "is no JSON"),
    ("[]", "must hold an object"),
])
def test_a_bad_file_is_refused_in_a_sentence(tmp_path, text, sentence):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        settings("--config", str(path))


def test_config_json_gives_the_same_settings_back(tmp_path):
    wanted = DualConfig(loss="euclidean", lr=0.3, rho=None, mirror=True).resolved()
    Run(tmp_path / "run").start("dual", wanted)
    parser = Parser("test")
    add_settings(parser, DualConfig)
    arguments = parser.parse_args(["--config", str(tmp_path / "run" / "config.json")])
    assert settings_of(arguments, DualConfig, "dual") == wanted


def test_the_name_depends_on_what_changes_the_result_only():
    assert Small(folder="there").digest() == Small().digest()
    assert Small(rate=0.2).digest() != Small().digest()
    assert "folder" not in Small().agreed() and "rate" in Small().agreed()


def test_every_flag_has_help_with_its_default():
    parser = argparse.ArgumentParser()
    add_settings(parser, DualConfig)
    text = " ".join(parser.format_help().split())
    for field in dataclasses.fields(DualConfig):
        assert "--" + field.name.replace("_", "-") in text
        assert field.metadata["help"]
    assert text.count("(default: ") >= len(dataclasses.fields(DualConfig))


# loss, denominator -> rate of net1; the table of architecture decisions, typed again
RATES = [("admm", "constant", 0.02), ("euclidean", "constant", 1e-5),
         ("normalized_both", "exact", 1e-3), ("normalized_both", "constant", 1e-4),
         ("normalized", "exact", 1e-3), ("normalized", "target", 1e-4)]


@pytest.mark.parametrize(("loss", "denominator", "rate"), RATES)
def test_the_rate_of_net1_follows_the_loss_unless_given(loss, denominator, rate):
    assert DualConfig(loss=loss, denominator=denominator, lr=0.02).resolved().lr_net1 == rate
    assert DualConfig(loss=loss, lr_net1=0.5).resolved().lr_net1 == 0.5


def test_only_admm_ties_the_copies_by_itself():
    for loss in LOSSES:
        assert DualConfig(loss=loss).resolved().tie is (loss == "admm")
    assert DualConfig(tie=False).resolved().tie is False


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"loss": "normalized_both", "denominator": "target"}, "--denominator must be constant"),
    ({"rho": 0.0}, "--rho must be above 0"),
    ({"loss": "frozen", "lr_net1": 0.1}, "--loss frozen never updates net1"),
    ({"dual": "sample"}, "--dual sample needs --loss admm --no-tie"),
    ({"dual": "sample", "tie": False, "mirror": True}, "leave out --mirror and --crop"),
    ({"loss": "admn"}, "unknown value of --loss 'admn'; did you mean admm?"),
])
def test_settings_that_contradict_each_other_are_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        DualConfig(**changes)


def test_the_recipe_of_the_thesis_is_what_its_finished_code_says():
    found = settings("--recipe", "thesis", config=DualConfig)
    assert (found.net, found.loss, found.solver) == ("caffenet", "euclidean", "caffe")
    assert (found.lr, found.lr_net1, found.weight_decay) == (4e-3, 5e-11, 5e-4)
    assert (found.schedule, found.net1_steps, found.net2_steps, found.iterations) == (
        "alternating", 50, 150, 8000)
    assert (found.batch_size, found.lr_step, found.bias_lr, found.bias_decay) == (1000, 2500, 2, 0)
    assert (found.mean, found.scale, found.equalise, found.bgr, found.mirror, found.crop) == (
        "none", 1.0, True, True, True, 0)
    assert settings("--recipe", "thesis", config=TrainConfig).lr == 1e-3
