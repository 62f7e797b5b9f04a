"""Nets of the user: a function in a module or a file, which returns an nn.Sequential.

    package.module:function        found as Python finds modules, the working folder included
    path/to/file.py:function       a file anywhere; what lies beside it can be imported by it

The function is called with those of `input_shape` and `num_classes` that it takes.  The SHA-256 of
the file that holds it stands for the net; what that file imports is not looked at.
"""

import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from dualnet.config import nearest
from dualnet.errors import UserError
from dualnet.seeding import torch_seed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

EXAMPLE = 'nn.Sequential(OrderedDict([("fc1", nn.Linear(4, 8)), ...]))'
_loading: list[str] = []


class Source(NamedTuple):
    """Where a net comes from: a module's name or a file, and a function in it."""

    place: str
    function: str

    @property
    def is_file(self) -> bool:
        """Whether `place` is a path."""
        return self.place.endswith(".py") or "/" in self.place

    def __str__(self) -> str:
        return f"{self.place}:{self.function}"


def is_own(name: str) -> bool:
    """Whether `name` says where a net is, instead of naming one of ours."""
    return ":" in name


def is_loading() -> bool:
    """Whether the user's file is being run now, only to find the function in it."""
    return bool(_loading)


def parse(text: str) -> Source:
    """The source that `text` names, a file by its whole path.  Raises UserError."""
    place, _, function = text.rpartition(":")
    if not place or not function.isidentifier():
        raise UserError("--net takes the name of a network, package.module:function or "
                        f"path/to/file.py:function, found '{text}'")
    source = Source(place, function)
    return Source(str(Path(place).resolve()), function) if source.is_file else source


def settings_from(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings given; those of a net of the user with its function as `net`, its place and
    the SHA-256 of its file.  Raises UserError."""
    given = str(values.get("net", ""))
    given = given if is_own(given) else str(values.get("net_source", ""))
    if not given:
        return dict(values)
    if values.get("prototxt") or values.get("solver_prototxt"):
        raise UserError(f"--net {given} and --prototxt both say what the net is; leave one out")
    source = parse(given)
    return {**values, "net": source.function, "net_source": str(source),
            "net_sha256": values.get("net_sha256") or sha256(source)}


def sha256(source: Source) -> str:
    """SHA-256 of the file that holds the function, hexadecimal.  Raises UserError."""
    return hashlib.sha256(_content(source)).hexdigest()


def _content(source: Source) -> bytes:
    path = Path(source.place) if source.is_file else _file_of_module(source)
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"--net {source}: cannot read {path} ({error.strerror}); name a Python "
                        "file that is there") from None


def _file_of_module(source: Source) -> Path:
    _make_importable(Path.cwd())
    with _told(source, "while it was looked for"):
        try:
            found = importlib.util.find_spec(source.place)
        except ModuleNotFoundError as error:
            if not _is_part(error.name, source.place):
                raise
            found = None
        except ValueError:      # a name like a..b or one without a spec
            found = None
    if found is None or not found.origin or not found.origin.endswith(".py"):
        raise UserError(f"--net {source}: there is no module '{source.place}' that is a Python "
                        "file; give package.module:function or path/to/file.py:function")
    return Path(found.origin)


def _is_part(missing: str | None, place: str) -> bool:
    return missing is not None and (place == missing or place.startswith(f"{missing}."))


def build(source: Source, expected_sha256: str, input_shape: tuple[int, ...], num_classes: int,
          seed: int) -> "nn.Sequential":
    """What the function returns, checked on one sample of zeros of `input_shape`.

    It is called under a generator that `seed` alone decides, so that weights which `draw_weights`
    cannot draw are the same in every process.
    Raises UserError if it is not what can be cut, or if its file is not that of `expected_sha256`.
    """
    found = sha256(source)
    if found != expected_sha256:
        raise UserError(f"the file of --net {source} has changed since this run began: its sha256 "
                        f"is {found}, expected {expected_sha256}; put the file back, or start a "
                        "new run")
    import torch

    function = _function(source)
    words = _arguments(source, function, input_shape, num_classes)
    with torch.random.fork_rng(devices=[]), _told(source, f"in {source.function}()"):
        torch.manual_seed(torch_seed(seed, "net"))
        net = function(**words)
    _check_layers(source, net)
    for module in net.modules():
        if getattr(module, "inplace", False):   # would change what is sent, or compared
            module.inplace = False
    with torch.random.fork_rng(devices=[]):
        _check_shapes(source, net, input_shape, num_classes)
    from dualnet.nets.dropout import with_named_dropout

    return with_named_dropout(net)


def _function(source: Source) -> Callable[..., Any]:
    module = _module(source)
    function = getattr(module, source.function, None)
    known = [name for name, value in vars(module).items()
             if inspect.isfunction(value) and value.__module__ == module.__name__]
    if not callable(function):
        raise UserError(f"--net {source}: there is no function '{source.function}' in "
                        f"{source.place}{nearest(source.function, known)} "
                        f"(functions: {', '.join(known) or 'none'})")
    return function


def _module(source: Source) -> ModuleType:
    _loading.append(str(source))
    try:
        if not source.is_file:
            _make_importable(Path.cwd())
            with _told(source, "while it was imported"):
                return importlib.import_module(source.place)
        content = _content(source)
        module = ModuleType(f"dualnet_net_{hashlib.sha256(content).hexdigest()[:16]}")
        module.__file__ = source.place
        sys.modules[module.__name__] = module
        _make_importable(Path(source.place).parent)
        with _told(source, "while it was imported"):
            exec(compile(content, source.place, "exec"), module.__dict__)
        return module
    finally:
        _loading.pop()


def _make_importable(folder: Path) -> None:
    """From now on modules in `folder` can be imported: the net may do so when it is called."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


@contextmanager
def _told(source: Source, when: str) -> "Iterator[None]":
    """An error of the user's code becomes one sentence with its last line and its place."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        said = traceback.format_exception_only(error)[-1].strip()
        raise UserError(f"--net {source} failed {when}: {said} ({_place_of(error)})") from error


def _place_of(error: BaseException) -> str:
    """The deepest line of code that is not of a library, or the deepest of all."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)
              if not frame.filename.startswith("<") and frame.filename != __file__]
    own = [frame for frame in frames if "site-packages" not in frame.filename]
    if not frames:
        return "before its first line"
    last = (own or frames)[-1]
    return f"{last.filename}, line {last.lineno}"


def _arguments(source: Source, function: Callable[..., Any], input_shape: tuple[int, ...],
               num_classes: int) -> dict[str, Any]:
    offered = {"input_shape": tuple(input_shape), "num_classes": num_classes}
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return offered
    needed = [parameter.name for parameter in parameters if parameter.default is parameter.empty
              and parameter.kind is not parameter.VAR_POSITIONAL
              and parameter.name not in offered]
    if needed:
        raise UserError(f"--net {source}: the function is called with input_shape and num_classes "
                        f"only, but it needs {', '.join(needed)}; give those a default")
    return {parameter.name: offered[parameter.name] for parameter in parameters
            if parameter.name in offered}


def _check_layers(source: Source, net: Any) -> None:
    from torch import nn

    if not isinstance(net, nn.Sequential):
        raise UserError(f"--net {source} should return an nn.Sequential of named layers, found "
                        f"{type(net).__name__}; return {EXAMPLE}")
    if type(net).forward is not nn.Sequential.forward:
        raise UserError(f"--net {source} should return layers that run one after another, but "
                        f"{type(net).__name__} has a forward of its own; return {EXAMPLE}")
    unnamed = [name for name in net._modules if name.isdecimal()]
    if unnamed or len(net) == 0:
        found = f"layers without a name: {', '.join(unnamed)}" if unnamed else "no layer"
        raise UserError(f"--net {source} should return layers with names to cut behind, found "
                        f"{found}; return {EXAMPLE}")
    owners: dict[int, str] = {}
    for name, layer in net._modules.items():
        assert layer is not None, name
        for thing in (layer, *layer.parameters()):
            owner = owners.setdefault(id(thing), name)
            if owner != name:
                what = "are one and the same module" if thing is layer else "share a weight"
                raise UserError(f"--net {source}: the layers '{owner}' and '{name}' {what}, which "
                                "a cut would part; make one for each")


def _check_shapes(source: Source, net: "nn.Sequential", input_shape: tuple[int, ...],
                  num_classes: int) -> None:
    """Run one sample through: layers that do not fit are found before any process waits."""
    import torch

    x = torch.zeros(1, *input_shape)
    net.eval()
    with torch.no_grad():
        for name, layer in net.named_children():
            given, version = x, x._version
            with _told(source, f"in its layer '{name}' on an input of shape {list(x.shape)}"):
                x = layer(given)
            if given._version != version:
                raise UserError(f"--net {source}: the layer '{name}' changes its input in place, "
                                "which a cut before it would send or compare; make it return "
                                "another tensor")
            if not isinstance(x, torch.Tensor) or x.shape[:1] != (1,):
                raise UserError(f"--net {source}: the layer '{name}' should give one tensor [N, "
                                f"...] with a row per sample, found {_said(x)}")
    net.train()
    if x.shape != (1, num_classes):
        raise UserError(f"--net {source} should give scores [N, {num_classes}], one per class of "
                        f"the data, found {['N', *x.shape[1:]]} for an input "
                        f"{['N', *input_shape]}".replace("'", ""))


def _said(value: Any) -> str:
    return f"shape {list(value.shape)}" if hasattr(value, "shape") else type(value).__name__
