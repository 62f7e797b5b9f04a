"""Read a set of golden arrays, and measure the distance to it."""

import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dualnet.errors import UserError

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Difference:
    """How far one array is from Caffe's.

    absolute  largest difference of two elements
    relative  that over the largest element of Caffe's array; inf if that is 0 and ours is not.
              Fillers, which are random, say in their own runner what is measured.
    """

    array: str
    absolute: float
    relative: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.relative <= self.tolerance      # false for nan


@dataclass(frozen=True)
class CaseResult:
    """One case of a set.

    undefined  what of it Caffe leaves undefined, "" for nothing
    ignored    its fields that nothing here reads; they are harmless as long as the case agrees
    """

    file: str
    case: str
    differences: tuple[Difference, ...]
    undefined: str = ""
    ignored: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return all(d.passed for d in self.differences)

    @property
    def worst(self) -> Difference:
        """The array that is nearest to its tolerance, or furthest beyond."""
        return max(self.differences, key=lambda d: d.relative / d.tolerance
                   if d.tolerance and not math.isnan(d.relative) else
                   (0.0 if d.relative == 0 else math.inf))


def measure(array: str, found: Tensor | np.ndarray | float, expected: np.ndarray,
            tolerance: float) -> Difference:
    """The difference of two arrays; nan equals nan, infinities equal themselves.

    Raises UserError if the shapes differ.
    """
    value = found.detach().numpy() if isinstance(found, Tensor) else np.asarray(found)
    if value.shape != expected.shape:
        raise UserError(f"'{array}' has shape {list(expected.shape)} in the golden set, "
                        f"but its parameters give {list(value.shape)}")
    ours, caffes = value.astype(np.float64), expected.astype(np.float64)
    is_same = (ours == caffes) | (np.isnan(ours) & np.isnan(caffes))
    with np.errstate(invalid="ignore"):
        distances = np.where(is_same, 0.0, np.abs(ours - caffes))
    absolute = float(distances.max(initial=0.0))
    if absolute == 0:
        return Difference(array, 0.0, 0.0, tolerance)
    scale = float(np.abs(caffes[np.isfinite(caffes)]).max(initial=0.0))
    return Difference(array, absolute, absolute / scale if scale else math.inf, tolerance)


class Golden:
    """A folder of golden arrays."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.cases: dict[str, dict[str, Any]] = self._json("cases.json")
        self.topology: dict[str, Any] = self._json("e2e_topology.json")

    def _json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        if not path.is_file():
            return {}
        try:
            content: dict[str, Any] = json.loads(path.read_text())
        except ValueError as error:
            raise UserError(f"{path} is not JSON: {error}") from None
        return content

    def arrays(self, file: str, prefix: str = "") -> dict[str, np.ndarray]:
        """The arrays of `file`, with or without .npz, that begin with `prefix`.

        Raises UserError if it cannot be read.
        """
        path = self.folder / (file if file.endswith(".npz") else f"{file}.npz")
        try:
            with np.load(path) as content:
                return {key: content[key] for key in content.files if key.startswith(prefix)}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} cannot be read as .npz: {error}") from None


class Case:
    """One case: its arrays by their short names, and its fields, which are read one by one."""

    def __init__(self, golden: Golden, file: str, name: str) -> None:
        self.golden, self.file, self.name = golden, file, name
        self._fields = dict(golden.cases[file][name])
        self._fields.pop("note", None)
        shapes: dict[str, list[int]] = self._fields.pop("keys")
        arrays = golden.arrays(file, f"{name}__")
        missing = [key for key in shapes if f"{name}__{key}" not in arrays]
        if missing:
            raise UserError(f"{file}.npz lacks {', '.join(f'{name}__{key}' for key in missing)}, "
                            "which cases.json names")
        self.arrays = {key: arrays[f"{name}__{key}"] for key in shapes}
        self.undefined = ""

    def field(self, name: str, default: Any = None) -> Any:
        """The value of a field, read once; `default` if the case lacks it or has null."""
        value = self._fields.pop(name, None)
        return default if value is None else value

    def required(self, name: str) -> Any:
        """The value of a field.  Raises KeyError if the case lacks it."""
        return self._fields.pop(name)

    def size(self, name: str, default: int | None = None) -> Any:
        """kernel_size, or kernel_h and kernel_w; stride and pad alike: a number or (h, w)."""
        base = name.removesuffix("_size")
        pair = self.field(f"{base}_h"), self.field(f"{base}_w")
        if None not in pair:
            return pair
        value = self.field(name, default)
        if isinstance(value, list):
            return tuple(value) if len(value) == 2 else value[0]
        return value

    def unread(self) -> tuple[str, ...]:
        """The fields that no one has read."""
        return tuple(sorted(self._fields))

    def tensor(self, key: str) -> Tensor:
        return torch.tensor(self.arrays[key])

    def differences(self, found: Mapping[str, Tensor], tolerance: float,
                    given: str) -> list[Difference]:
        """Each array but the `given` ones against what was found.

        Raises UserError if the case has an array that was neither given nor found.
        """
        outputs = [key for key in self.arrays if key not in given.split()]
        unknown = [key for key in outputs if key not in found]
        if unknown:
            raise UserError(f"{self.file} '{self.name}' has arrays that are not understood: "
                            f"{', '.join(unknown)}")
        return [measure(key, found[key], self.arrays[key], tolerance) for key in outputs]
