"""Data sets by name; the module of one is imported only when it is loaded."""

import importlib
from pathlib import Path
from types import ModuleType

from dualnet.config import choose
from dualnet.data.dataset import Dataset

# Each module has
#     load(folder) -> Dataset              reads the files under the folder of the data sets
#     present(folder) -> bool              whether they seem to be there
#     verify(folder) -> dict[str, bool]    for each file, whether it is the official one
#     FILES                                what `dualnet.data.fetch` downloads
DATASETS: dict[str, str] = {
    "cifar10": "dualnet.data.cifar10",
    "cifar100": "dualnet.data.cifar100",
    "mnist": "dualnet.data.mnist",
    "svhn": "dualnet.data.svhn",
    "shapes": "dualnet.data.shapes",
}
# The user's own, with `load` and `present` only: there is nothing to fetch or to verify.
OWN: dict[str, str] = {
    "folder": "dualnet.data.folder",
    "arrays": "dualnet.data.arrays",
}


def resolve(name: str, folder: Path) -> str:
    """The data set that `name` means: "auto" is CIFAR-10 if `folder` holds it, else `shapes`.

    Raises UserError if there is no such data set.
    """
    if name == "auto":
        from dualnet.data import cifar10

        return "cifar10" if cifar10.present(folder) else "shapes"
    return choose("data set", name, ["auto", *DATASETS, *OWN])


def load(name: str, folder: Path) -> Dataset:
    """The data set `name`, read from `folder` if it has files; "auto" is resolved first.

    Raises UserError if there is no such data set, DataError if its files are missing or damaged.
    """
    found = resolve(name, folder)
    dataset: Dataset = importlib.import_module({**DATASETS, **OWN}[found]).load(folder)
    return dataset


def module_of(name: str) -> ModuleType:
    """The module of the data set `name`.  Raises UserError if there is none."""
    return importlib.import_module(DATASETS[choose("data set", name, DATASETS)])
