"""A data set and settings that make a MonolithNet of seconds."""

import atexit
import shutil
import tempfile
from pathlib import Path

import torch
from official_files import write_cifar10

from dualnet.methods.monolith.settings import MonolithConfig

# 100 training images, 20 test images, as long as this process lives
TINY = write_cifar10(Path(tempfile.mkdtemp(prefix="dualnet-tests-")))
atexit.register(shutil.rmtree, TINY)


def settings_of(**changes):
    return MonolithConfig(**{
        "data": "cifar10", "data_dir": str(TINY), "depth": 10, "width": 1, "trunks": 2,
        "precision": "float64", "head_batch": 20, "threads": 1, **changes}).resolved()


def is_same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
