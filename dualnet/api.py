"""The package from Python: cut a net of one's own, train it in two processes, get it back whole.

    from dualnet.api import save_arrays, train

    save_arrays("points", train=(x, y), test=(test_x, test_y))
    trained = train(my_net, "points", cut="auto", iterations=300)
    net = trained.net()

`my_net` is a function in a file; it returns an nn.Sequential of named layers.  The calls stand
under `if __name__ == "__main__":`, since both processes read that file to find the function.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualnet.errors import UserError

if TYPE_CHECKING:
    from collections import OrderedDict

    import numpy as np
    from torch import Tensor, nn

    from dualnet.methods.dual.settings import DualConfig
    from dualnet.run import Run

AS_THEY_ARE = {"mean": "none", "scale": 1.0}    # preprocessing of floating samples


class TrainingFailed(Exception):
    """A process of the training ended in an error, which is the text.

    code  the exit code, as the command line has it
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Trained:
    """A finished run of the dual net.

    folder  of the run, with its metrics, curves and checkpoints
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def summary(self) -> dict[str, Any]:
        """What came of it: test_accuracy (0-1), wall_s and more, as in summary.json."""
        return self._run().summary()

    def state_dict(self, *, merged: bool = False) -> "OrderedDict[str, Tensor]":
        """Weights and buffers under the names of the uncut net.

        merged  take each shared layer from the part before its cut instead of the part behind it
        """
        from dualnet.export import state_of

        return state_of(self._run(), merged=merged)

    def net(self, *, merged: bool = False) -> "nn.Sequential":
        """The uncut net with its trained weights, on the CPU, in evaluation mode.

        Raises UserError if the file that makes it has changed.
        """
        from dualnet import session

        net = session.net_of(self._run())
        net.load_state_dict(self.state_dict(merged=merged))
        return net.eval()

    def _run(self) -> "Run":
        from dualnet.run import Run

        return Run(self.folder)


def load(folder: str | Path) -> Trained:
    """The run that was trained into `folder`.  Raises UserError if it has not finished."""
    trained = Trained(Path(folder))
    _ = trained.summary
    return trained


def save_arrays(folder: str | Path, *, train: "tuple[np.ndarray, np.ndarray]",
                test: "tuple[np.ndarray, np.ndarray]") -> Path:
    """Write samples x [N, ...] and labels y [N] where both processes find them.

    x  floating numbers of any shape, or images uint8 [N, C, H, W]; arrays or tensors on the CPU
    y  whole numbers from 0
    Raises DataError for anything else.
    """
    from dualnet.data import arrays

    arrays.save(Path(folder), train, test)
    return Path(folder)


def train(net: "str | Callable[..., nn.Sequential]", data: str | Path = "auto", *,
          cut: str = "auto", out: str | Path | None = None, overwrite: bool = False,
          quiet: bool = False, **settings: Any) -> Trained:
    """Cut `net` in two, or into a chain, and train it on this machine, a process for each part.

    net        a function that stands in a file, package.module:function, path/to/file.py:function,
               or the name of a network of the package
    data       the name of a data set, or a folder: of images, at train/CLASS/ and test/CLASS/, or
               of `save_arrays`, whose floating samples are taken as they are
    cut        layer behind which the net is cut, or several, "pool1,pool2"; "auto" takes where the
               work is split best, with `parts=3` for three parts
    out        run folder; by default runs/ and a name made of the settings
    overwrite  replace a run that is there
    quiet      no progress on standard error
    settings   what the flags of `dualnet train dual` set, by their names with underscores

    The same call goes on with a run that was interrupted.  Call it in the main thread: it passes
    signals on to the processes.
    Raises UserError and DataError for what cannot be trained, TrainingFailed, Stopped.
    """
    from dualnet.cli.dual import run_dual
    from dualnet.cli.runs import resolve_auto, run_named
    from dualnet.nets import own

    if own.is_loading():
        raise UserError("train() was called while its file was read to find the net; put the call "
                        'under if __name__ == "__main__":')
    values = {"net": source_of(net), "cut": cut, **_data_settings(data), **settings}
    found: DualConfig = resolve_auto(_settings(values))
    run = run_named(None if out is None else Path(out), "dual", found)
    failure = run_dual(found, run, run.exchange, overwrite=overwrite, quiet=quiet)
    if failure is not None:
        raise TrainingFailed(failure.code, failure.reason)
    return Trained(run.folder)


def source_of(net: "str | Callable[..., nn.Sequential]") -> str:
    """`net` as --net takes it.  Raises UserError for a function that no other process can find."""
    if isinstance(net, str):
        return net
    name = getattr(net, "__qualname__", type(net).__name__)
    module = inspect.getmodule(net)
    file: str | None = getattr(module, "__file__", None)
    is_at_top = inspect.isfunction(net) and getattr(module, name, None) is net
    if module is None or file is None or not is_at_top:
        raise UserError(f"net should be a function at the top of a file, which both processes can "
                        f"read, found {name}; put it into a file and give path/to/file.py:function")
    # A file of a package may import its neighbours by relative names, so it goes by its name.
    is_packaged = bool(getattr(module, "__package__", "")) and module.__name__ != "__main__"
    return f"{module.__name__ if is_packaged else Path(file).resolve()}:{name}"


def _data_settings(data: str | Path) -> dict[str, Any]:
    from dualnet.cli.parser import default_data_dir
    from dualnet.data import DATASETS, arrays, folder

    if isinstance(data, str) and data in ("auto", *DATASETS):
        return {"data": data, "data_dir": default_data_dir()}
    path = Path(data)
    if arrays.present(path):
        is_floating = arrays.load(path).train_images.dtype.kind == "f"
        return {"data": "arrays", "data_dir": str(path), **(AS_THEY_ARE if is_floating else {})}
    if folder.present(path):
        return {"data": "folder", "data_dir": str(path)}
    raise UserError(f"data should be the name of a data set ({', '.join(('auto', *DATASETS))}), a "
                    f"folder with train/CLASS/ and test/CLASS/, or one of save_arrays, found "
                    f"'{data}'")


def _settings(values: dict[str, Any]) -> "DualConfig":
    from dualnet.cli.parser import completed
    from dualnet.config import from_dict
    from dualnet.methods.dual.settings import DualConfig

    settings: DualConfig = from_dict(DualConfig, completed(values, "dual"), "train()").resolved()
    return settings
