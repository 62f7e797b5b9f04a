"""Data sets by name; the module of one is imported only when it is loaded."""

import importlib
from pathlib import Path

from dualnet.config import choose
from dualnet.data.dataset import Dataset

# Each module has `load(folder) -> Dataset`.
DATASETS: dict[str, str] = {
    "cifar10": "dualnet.data.cifar10",
    "mnist": "dualnet.data.mnist",
    "shapes": "dualnet.data.shapes",
}


def resolve(name: str, folder: Path) -> str:
    """The data set that `name` means: "auto" is CIFAR-10 if `folder` holds it, else `shapes`.

    Raises UserError if there is no such data set.
    """
    if name == "auto":
        from dualnet.data import cifar10

        return "cifar10" if cifar10.present(folder) else "shapes"
    return choose("data set", name, ["auto", *DATASETS])


def load(name: str, folder: Path) -> Dataset:
    """The data set `name`, read from `folder` if it has files; "auto" is resolved first.

    Raises UserError if there is no such data set, DataError if its files are missing or damaged.
    """
    module = importlib.import_module(DATASETS[resolve(name, folder)])
    dataset: Dataset = module.load(folder)
    return dataset
