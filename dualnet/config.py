"""Settings: frozen dataclasses whose fields are the flags and the keys of config.json.

A setting is written once, as a field made by `flag`: its name, type, default, unit and limits give
the command-line flag, the check of its value and the key in the file.  None stands for "auto".
"""

import argparse
import dataclasses
import difflib
import hashlib
import json
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from dualnet.errors import UserError

AUTO = "auto"


def flag(default: Any, help: str, *, minimum: float | None = None, choices: tuple[str, ...] = (),
         local: bool = False, group: str = "training") -> Any:
    """A dataclass field that is also a flag.

    help      what it sets, with its unit
    minimum   the smallest number allowed
    choices   the words allowed
    local     True for what does not change the result (devices, folders, time limits): the two
              sides need not agree on it, and it is no part of the run's name
    group     the heading it stands under in --help
    """
    return dataclasses.field(default=default, metadata={
        "help": help, "minimum": minimum, "choices": choices, "local": local, "group": group})


def changed(config: "type[Config]", name: str, default: Any, **metadata: Any) -> Any:
    """The field `name` of a base class with another default, and other metadata where given."""
    field = config.__dataclass_fields__[name]  # type: ignore[attr-defined]
    return dataclasses.field(default=default, metadata={**field.metadata, **metadata})


def spelling(name: str) -> str:
    """The flag that sets the field `name`."""
    return "--" + name.replace("_", "-")


def nearest(word: str, known: Iterable[str]) -> str:
    """'; did you mean X?' for the known word closest to `word`, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def choose(what: str, word: str, known: Iterable[str]) -> str:
    """`word` if it is known.  Raises UserError naming the nearest known word and all of them."""
    known = list(known)
    if word not in known:
        raise UserError(f"unknown {what} '{word}'{nearest(word, known)} "
                        f"(known: {', '.join(known)})")
    return word


def _base_type(field: dataclasses.Field) -> tuple[type, bool]:
    """The field's plain type, and whether None ("auto") is allowed beside it."""
    if isinstance(field.type, types.UnionType):
        plain, = (t for t in typing.get_args(field.type) if t is not type(None))
        return plain, True
    return typing.cast(type, field.type), False


class Config:
    """Base of the settings: checks each value against its field when it is made.

    recipes  named settings that `--recipe NAME` sets; flags given beside it win
    """

    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            self._check(field, getattr(self, field.name))

    def _check(self, field: dataclasses.Field, value: Any) -> None:
        plain, optional = _base_type(field)
        if value is None and optional:
            return
        if plain is float and type(value) is int:
            object.__setattr__(self, field.name, float(value))
        elif type(value) is not plain:
            raise UserError(f"{spelling(field.name)} takes {plain.__name__}, found {value!r}")
        choices, minimum = field.metadata["choices"], field.metadata["minimum"]
        if choices:
            choose(f"value of {spelling(field.name)}", value, choices)
        if minimum is not None and not value >= minimum:
            raise UserError(f"{spelling(field.name)} must be at least {minimum:g}, found {value:g}")

    def replace(self, **changes: Any) -> typing.Self:
        """The same settings with some changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def to_dict(self) -> dict[str, Any]:
        """All settings, defaults included."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    def agreed(self) -> dict[str, Any]:
        """The settings that change the result: what all roles must share."""
        return {field.name: getattr(self, field.name)
                for field in dataclasses.fields(self)  # type: ignore[arg-type]
                if not field.metadata["local"]}

    def digest(self) -> str:
        """Eight hex digits that name the agreed settings."""
        text = json.dumps(self.agreed(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def field_names(config: type[Config]) -> list[str]:
    """The names of all settings of `config`."""
    return [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]


def check_keys(config: type[Config], keys: Iterable[str], source: str) -> None:
    """Raises UserError if `source` sets something that `config` does not know."""
    known = field_names(config)
    for key in keys:
        if key not in known:
            raise UserError(f"{source} sets '{key}', which is no setting here{nearest(key, known)}")


def from_dict(config: type[Config], values: Mapping[str, Any], source: str) -> Any:
    """Settings from the content of a file.  Raises UserError for an unknown key or a bad value."""
    check_keys(config, values, source)
    return config(**values)


def add_flags(parser: argparse.ArgumentParser, config: type[Config],
              without: Sequence[str] = ()) -> None:
    """One flag per field; a flag that is not given leaves no trace in the parsed arguments.

    without  fields that get no flag
    """
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        if field.name in without:
            continue
        title = field.metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        plain, optional = _base_type(field)
        default = AUTO if field.default is None else field.default
        default = "none" if default == "" else default
        words: dict[str, Any] = {
            "dest": field.name, "default": argparse.SUPPRESS,
            "help": f"{field.metadata['help']} (default: {default})".replace("%", "%%")}
        if plain is bool:
            words["action"] = argparse.BooleanOptionalAction
        else:
            words["type"] = _parser_of(plain, optional)
            words["metavar"] = ("{" + ",".join(field.metadata["choices"]) + "}"
                                if field.metadata["choices"] else plain.__name__.upper())
        groups[title].add_argument(spelling(field.name), **words)


def _parser_of(plain: type, optional: bool) -> Any:
    def parse(text: str) -> Any:
        if optional and text == AUTO:
            return None
        try:
            return plain(text)
        except ValueError:
            word = f"{plain.__name__} or '{AUTO}'" if optional else plain.__name__
            raise argparse.ArgumentTypeError(f"expected {word}, found '{text}'") from None
    return parse


RECIPES: dict[str, dict[str, Any]] = {
    # Dziwulski 2017 and its finished code: raw pixels, histogram equalisation, BGR, and Caffe's
    # solver; single net 1e-3, net2 4e-3 and net1 5e-11, divided by 10 every 2500 iterations.
    "thesis": {
        "net": "caffenet", "mean": "none", "scale": 1.0, "equalise": True, "bgr": True,
        "mirror": True, "iterations": 6000, "batch_size": 1000, "lr": 1e-3, "lr_schedule": "step",
        "lr_step": 2500, "lr_factor": 0.1, "weight_decay": 5e-4, "solver": "caffe",
        "bias_lr": 2.0, "bias_decay": 0.0},
    # Krizhevsky 2012, layers-cifar10-11pct.cfg and layer-params-cifar10-11pct.cfg.  Its schedule
    # has 350 epochs on four fifths of the images, 150 on all, and 10 each at a tenth and a
    # hundredth of the rate; here all 520 epochs are on all images, the last 20 at a tenth.
    "cuda-convnet": {
        "net": "cuda-convnet", "scale": 1.0, "mirror": True, "input_side": 24,
        "iterations": 520 * 390, "batch_size": 128, "lr": 1e-3, "lr_schedule": "step",
        "lr_step": 500 * 390, "lr_factor": 0.1, "solver": "caffe", "bias_lr": 2.0,
        "bias_decay": 0.0, "layer_decay": "local3=0.004,local4=0.004,fc5=0.01"},
}


def _by_layer(flag: str, text: str) -> dict[str, float]:
    """The numbers of LAYER=NUMBER,... by layer.  Raises UserError for anything else."""
    numbers = {}
    for entry in filter(None, text.split(",")):
        layer, equals, number = (word.strip() for word in entry.partition("="))
        try:
            numbers[layer] = float(number)
        except ValueError:
            equals = ""
        if not layer or not equals or not numbers[layer] >= 0:
            raise UserError(f"{flag} takes LAYER=NUMBER,... with numbers of at least 0, found "
                            f"'{entry}'")
    return numbers


@dataclasses.dataclass(frozen=True)
class TrainConfig(Config):
    """What every method needs to train a net."""

    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = RECIPES

    data: str = flag("auto", "data set; auto takes cifar10 if it is in --data-dir, else shapes;"
                     " your own in --data-dir: folder (images at train/CLASS/ and test/CLASS/) or"
                     " arrays (train.npz and test.npz with x and y)", group="data")
    data_dir: str = flag("data", "folder of the data sets; the variable DUALNET_DATA sets another"
                         " default", local=True, group="data")
    mean: str = flag("image", "mean of the training images to subtract", group="data",
                     choices=("image", "channel", "none"))
    scale: float = flag(1 / 64, "factor on the pixels, after the mean", minimum=0, group="data")
    equalise: bool = flag(False, "equalise the histogram of each image and channel", group="data")
    bgr: bool = flag(False, "channels in the order blue, green, red", group="data")
    mirror: bool = flag(False, "mirror half of the training images", group="data")
    crop: int = flag(0, "pixels to pad before a random crop to the old size; 0 does not crop",
                     minimum=0, group="data")
    input_side: int = flag(0, "side of the window to cut from each image: at random in training, in"
                           " the middle in tests; 0 takes the whole image", minimum=0, group="data")
    ten_views: bool = flag(False, "test on ten views of each image, windows in the middle and the"
                           " corners and their mirror images, and take the mean of the"
                           " probabilities; with --input-side", group="data")
    net: str = flag("caffenet-small", "network: caffenet, caffenet-small, lenet, resnet20,"
                    " wrn-28-2, ..., or your own by package.module:function or"
                    " path/to/file.py:function, which returns an nn.Sequential of named layers",
                    group="network")
    net_source: str = flag("", "where the function of --net is, if its file has moved since"
                           " config.json was written", local=True, group="network")
    net_sha256: str = flag("", "content that the file of that function must have; empty: any",
                           group="network")
    prototxt: str = flag("", "file of a Caffe net, in place of --net; for a dual net those of both"
                         " roles, NET1,NET2", local=True, group="Caffe's files")
    solver_prototxt: str = flag("", "file of a Caffe solver, which gives rates, iterations and,"
                                " without --prototxt, the net; for a dual net those of both roles."
                                "  Beside the files --iterations, --seed, --eval-every, --loss and"
                                " --denominator win; any other contradiction is refused",
                                local=True, group="Caffe's files")
    prototxt_sha256: str = flag("", "content that these files must have; empty: any",
                                group="Caffe's files")
    precision: str = flag("float32", "number format of weights and activations; float64 is for"
                          " checking equalities", choices=("float32", "float64"), group="network")
    iterations: int = flag(1000, "updates of the weights", minimum=1)
    batch_size: int = flag(100, "images per iteration", minimum=1)
    lr: float = flag(0.01, "learning rate", minimum=0)
    lr_schedule: str = flag("tail", "learning rate over time: constant; tail (constant, then"
                            " linear to 0 over the last 30 %); step; solver (that of"
                            " --solver-prototxt)", choices=("constant", "tail", "step", "solver"))
    lr_step: int = flag(2500, "iterations between two drops of --lr-schedule step", minimum=1)
    lr_factor: float = flag(0.1, "factor of each drop of --lr-schedule step", minimum=0)
    momentum: float = flag(0.9, "momentum of SGD", minimum=0)
    weight_decay: float = flag(0.0, "weight decay, added to the gradient", minimum=0)
    layer_decay: str = flag("", "weight decay of layers that have another than --weight-decay, such"
                            " as conv1=0,fc5=0.01")
    layer_lr: str = flag("", "learning rate of layers that have another than --lr, as a multiple of"
                         " it, such as conv1=0.1,fc5=2")
    solver: str = flag("torch", "form of SGD: torch's, or Caffe's (rate inside the momentum)",
                       choices=("torch", "caffe"))
    bias_lr: float = flag(1.0, "learning rate of biases, as a multiple of the weights'", minimum=0)
    bias_decay: float = flag(1.0, "decay of biases, as a multiple of the weights'", minimum=0)
    seed: int = flag(0, "seed of weights, order, augmentation and dropout", minimum=0)
    log_every: int = flag(10, "iterations between two lines of metrics", minimum=1)
    eval_every: int = flag(0, "iterations between two tests on the test images; 0 tests once, at"
                           " the end", minimum=0)
    checkpoint_every: int = flag(200, "iterations between two checkpoints, from which the same"
                                 " command resumes; 0 writes one at the end or when stopped",
                                 minimum=0)
    device: str = flag("auto", "cpu, cuda or cuda:N; auto spreads the roles over the GPUs, or"
                       " takes the CPU", local=True, group="machine")
    threads: int = flag(0, "CPU threads of each process; 0 takes one per core, or a share"
                       " where `train dual` has all roles work at the same time", minimum=0,
                        local=True, group="machine")

    @property
    def weight_format(self) -> str:
        """Number format of the weights, where --precision does not mean them."""
        return self.precision

    @property
    def num_views(self) -> int:
        """Views of each test image."""
        return 10 if self.ten_views else 1

    @property
    def num_images(self) -> int:
        """How many of the training images count, the first ones; 0 takes all."""
        return 0

    def layer_decays(self) -> dict[str, float]:
        """--layer-decay by layer.  Raises UserError if it cannot be read."""
        return _by_layer("--layer-decay", self.layer_decay)

    def layer_lrs(self) -> dict[str, float]:
        """--layer-lr by layer.  Raises UserError if it cannot be read."""
        return _by_layer("--layer-lr", self.layer_lr)

    def is_logged(self, step: int) -> bool:
        """Whether iteration `step` (counted from 0) ends a line of metrics."""
        return (step + 1) % self.log_every == 0 or step + 1 == self.iterations

    def is_evaluated(self, step: int) -> bool:
        """Whether the test images are scored after iteration `step` (counted from 0)."""
        done = step + 1
        return done == self.iterations or (self.eval_every > 0 and done % self.eval_every == 0)

    def is_saved(self, step: int) -> bool:
        """Whether a checkpoint follows iteration `step` (counted from 0)."""
        done = step + 1
        return done == self.iterations or (self.checkpoint_every > 0
                                           and done % self.checkpoint_every == 0)
