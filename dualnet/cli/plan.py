"""What a comparison trains: the runs that its flags ask for."""

import argparse
import hashlib
import re
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from dualnet.cli.parser import Parser, add_settings, settings_of, with_dashes
from dualnet.cli.runs import resolve_auto
from dualnet.config import TrainConfig, choose, field_names
from dualnet.errors import UserError
from dualnet.methods.dual.settings import LOSSES, DualConfig

CHOSEN = ("loss", "seed")     # by --losses and --seeds
SINGLE = "single"
NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]*"


class Variant(NamedTuple):
    """A dual net of the user's choice: its name, and what its flags set beside the common ones."""

    name: str
    given: dict[str, Any]


class Planned(NamedTuple):
    """One run of the comparison; dual or single by the class of its settings.

    kind  the name of its variant: "single", a loss, or the user's
    """

    kind: str
    settings: TrainConfig

    @property
    def method(self) -> str:
        """The method, as config.json has it."""
        return "dual" if isinstance(self.settings, DualConfig) else SINGLE


def add_chosen(parser: argparse.ArgumentParser) -> None:
    """The flags that say which variants are trained, and the settings that they share."""
    parser.add_argument("--losses", type=_losses, default=[], metavar="LOSS,...",
                        help=f"losses and controls to train: {', '.join(LOSSES)}")
    parser.add_argument("--variant", type=_variant, action="append", default=[],
                        metavar="NAME=FLAGS", help="a dual net with further flags of `train dual`,"
                        " as in 'fast=--schedule pipelined --micro-batches 4'; may be repeated")
    parser.add_argument("--seeds", type=_seeds, metavar="N,...",
                        help="seeds to train each with (default: 0)")
    parser.add_argument("--single", action="store_true", help="train the uncut net as well")
    add_settings(parser, DualConfig, without=CHOSEN)


def _losses(text: str) -> list[str]:
    try:
        return _unique([choose("loss", word.strip(), LOSSES) for word in text.split(",")])
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class _VariantParser(Parser):
    """Reads the flags of a variant; a wrong one is an error of --variant."""

    def error(self, message: str) -> NoReturn:
        raise argparse.ArgumentTypeError(f"{self.prog}: {message}")


def _variant(text: str) -> Variant:
    name, equals, flags = text.partition("=")
    if not equals or not re.fullmatch(NAME, name):
        raise argparse.ArgumentTypeError(
            "expected NAME=FLAGS, the name of letters, digits and ._+-, as in 'async=--schedule "
            f"async'; found '{text}'")
    try:
        words = with_dashes(shlex.split(flags))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{name}: {str(error).lower()} in '{flags}'") from None
    parser = _VariantParser(name, add_help=False)
    add_settings(parser, DualConfig, without=("seed",))
    given = vars(parser.parse_args(words))
    return Variant(name, {key: value for key, value in given.items() if value is not None
                          or key not in ("config", "recipe")})


def _seeds(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise argparse.ArgumentTypeError(f"expected whole numbers from 0, as in 0,1,2; found "
                                         f"'{text}'")
    return _unique([int(word) for word in words])


def _unique(found: list[Any]) -> list[Any]:
    return list(dict.fromkeys(found))


def plan_of(arguments: argparse.Namespace) -> list[Planned]:
    """All runs, seed by seed, so that a comparison that was stopped holds whole pairs.

    Raises UserError for settings that a loss does not allow, before anything is trained.
    """
    _check_names(arguments)
    base = resolve_auto(settings_of(arguments, DualConfig, "dual"))
    chosen = {variant.name: _variant_settings(arguments, variant, base)
              for variant in arguments.variant}
    plan = []
    for seed in seeds_of(arguments):
        if arguments.single:
            settings = _single_settings(arguments, base)
            plan.append(Planned(SINGLE, settings.replace(seed=seed, data=base.data)))
        plan += [Planned(loss, _dual_settings(base, loss, seed)) for loss in arguments.losses]
        plan += [Planned(name, _dual_settings(settings, settings.loss, seed))
                 for name, settings in chosen.items()]
    return plan


def _check_names(arguments: argparse.Namespace) -> None:
    names = [SINGLE] * arguments.single + arguments.losses
    if not names and not arguments.variant:
        raise UserError("compare needs something to compare: --losses LOSS,..., --variant "
                        "NAME=FLAGS, --single, or the folders of finished runs")
    for variant in arguments.variant:
        if variant.name in names:
            raise UserError(f"two variants are called {variant.name}; give each --variant a name "
                            "of its own")
        names.append(variant.name)


def _variant_settings(arguments: argparse.Namespace, variant: Variant,
                      base: DualConfig) -> DualConfig:
    """What `train dual` makes of the common flags and those of the variant, which win."""
    given = argparse.Namespace(**{**vars(arguments), **variant.given})
    try:
        settings: DualConfig = settings_of(given, DualConfig, "dual")
        if settings.data == "auto":
            settings = settings.replace(data=base.data)
        resolved: DualConfig = resolve_auto(settings)
    except UserError as error:
        raise UserError(f"--variant {variant.name}: {error}") from None
    return resolved


def _dual_settings(base: DualConfig, loss: str, seed: int) -> DualConfig:
    """What `train dual` makes of the flags; a rate of net1 is for the losses that train it."""
    lr_net1 = base.lr_net1 if LOSSES[loss].updates else None
    return base.replace(loss=loss, seed=seed, lr_net1=lr_net1).resolved()


def _single_settings(arguments: argparse.Namespace, base: DualConfig) -> TrainConfig:
    """What `train single` makes of the same flags; a --config of a dual net serves it too."""
    if arguments.config is None:
        settings: TrainConfig = settings_of(arguments, TrainConfig, "single")
        return settings
    return TrainConfig(**{name: getattr(base, name) for name in field_names(TrainConfig)})


def digest_of(plan: Sequence[Planned]) -> str:
    """Eight hex digits that name the runs, whatever their order and the machine."""
    words = sorted(f"{planned.kind} {planned.settings.digest()}" for planned in plan)
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:8]


def seeds_of(arguments: argparse.Namespace) -> list[int]:
    """The seeds asked for, by default 0."""
    return arguments.seeds or [0]
