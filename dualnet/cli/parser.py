"""Flags to settings: defaults, then the recipe, then the file, then the flags."""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from dualnet.config import AUTO, Config, TrainConfig, add_flags, choose, from_dict, nearest
from dualnet.errors import UserError


class Parser(argparse.ArgumentParser):
    """Refuses a wrong flag or command in one sentence that names the nearest right one."""

    def __init__(self, prog: str | None = None, **kwargs: Any) -> None:
        super().__init__(prog, allow_abbrev=False,
                         formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            parser = getattr(parsed, "parser", self)
            flags = [word for action in parser._actions for word in action.option_strings]
            word = unknown[0].split("=")[0]
            parser.error(f"unknown argument '{word}'{nearest(word, flags)}")
        return parsed

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(
                None, f"unknown command '{value}'{nearest(str(value), known)} "
                f"(known: {', '.join(known)})")


def with_dashes(argv: Sequence[str]) -> list[str]:
    """`--batch_size` is taken for `--batch-size`."""
    def dashes(word: str) -> str:
        flag, equals, value = word.partition("=")
        return flag.replace("_", "-") + equals + value
    return [dashes(word) if word.startswith("--") else word for word in argv]


def add_settings(parser: argparse.ArgumentParser, config: type[Config],
                 without: Sequence[str] = ()) -> None:
    """The flags of `config`, and those that set many of them at once; see `add_flags`."""
    parser.add_argument("--config", type=Path, metavar="FILE",
                        help="config.json of a run, to start from its settings")
    parser.add_argument("--recipe", metavar="NAME",
                        help=f"named settings: {', '.join(config.recipes)}")
    add_flags(parser, config, without)


def default_data_dir() -> str:
    """The folder of the data sets where no flag names one: the variable DUALNET_DATA, or data."""
    return os.environ.get("DUALNET_DATA") or TrainConfig.data_dir


def settings_of(arguments: argparse.Namespace, config: type[Config], method: str) -> Any:
    """The settings that the flags ask for.  Raises UserError for a bad one."""
    known = {field.name for field in dataclasses.fields(config)}  # type: ignore[arg-type]
    values: dict[str, Any] = {"data_dir": default_data_dir()} if "data_dir" in known else {}
    if arguments.recipe is not None:
        values |= config.recipes[choose("recipe", arguments.recipe, config.recipes)]
    if arguments.config is not None:
        values |= _read(arguments.config, method)
    if hasattr(arguments, "net"):   # another net than that of the file
        values = {key: value for key, value in values.items() if not key.startswith("net_")}
    values |= {key: value for key, value in vars(arguments).items()
               if key in known}
    return from_dict(config, completed(values, method), str(arguments.config))


def completed(values: dict[str, Any], method: str) -> dict[str, Any]:
    """The settings given, and those that the file of the net or Caffe's files say; a number of
    parts without a cut stands for the best.

    Raises UserError where they disagree or a file cannot be used.
    """
    if values.get("parts") and "cut" not in values:
        values = {**values, "cut": AUTO}
    from dualnet.nets import own

    values = own.settings_from(values)
    if values.get("prototxt") or values.get("solver_prototxt"):
        from dualnet.from_prototxt import settings_from

        values = settings_from(values, method)
    return values


def _read(path: Path, method: str) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read --config {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"--config {path} is no JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"--config {path} must hold an object of settings")
    found = values.pop("method", method)
    if found != method:
        raise UserError(f"--config {path} belongs to the method '{found}', not '{method}'")
    return values
