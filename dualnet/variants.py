"""Which settings tell runs apart: the names of the variants in tables and legends."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from dualnet.config import spelling
from dualnet.methods.dual.settings import DualConfig
from dualnet.methods.monolith.settings import MonolithConfig
from dualnet.methods.partition.settings import PartitionConfig
from dualnet.methods.resist.settings import ResistConfig
from dualnet.methods.resnet.settings import ResnetConfig

Settings = Mapping[str, Any]

# What may differ between runs that are repetitions of each other.
SEED = "seed"
LOCAL = {field.name for config in (DualConfig, MonolithConfig, PartitionConfig, ResistConfig,
                               ResnetConfig)
         for field in dataclasses.fields(config) if field.metadata["local"]}


def kind(config: Settings) -> str:
    """What was trained, in a word: the loss of a dual net, else the method."""
    return str(config["loss"] if config["method"] == "dual" else config["method"])


def differing(configs: Sequence[Settings]) -> list[str]:
    """Names of the settings that are not the same in all runs; those of the machine left out.

    A setting that a method does not have does not count against it.
    """
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if key not in LOCAL and
            len({config[key] for config in configs if key in config}) > 1]


def labels(configs: Sequence[Settings]) -> list[str]:
    """One name per run, the same for runs that differ in the seed alone.

    It starts with the kind and adds only what is needed to tell the variants apart:
    "admm", or "admm, lr 0.1" beside "admm, lr 0.01".
    """
    keys = [key for key in differing(configs) if key != SEED]
    variants = [(kind(config), *(config.get(key) for key in keys)) for config in configs]
    names = [kind(config) for config in configs]
    for key in keys:
        if len(set(names)) == len(set(variants)):
            break
        finer = [f"{name}, {_said(key, config)}" if key in config else name
                 for name, config in zip(names, configs, strict=True)]
        names = finer if len(set(finer)) > len(set(names)) else names
    return names


def _said(key: str, config: Settings) -> str:
    value = config[key]
    words = spelling(key).removeprefix("--").replace("-", " ")
    if isinstance(value, bool):
        return words if value else f"no {words}"
    return f"{words} {value:g}" if isinstance(value, float) else f"{words} {value}"
