"""Fields that many layers have, read with Caffe's rules.

Raise PrototxtError, or ValueError with the end of a sentence about the layer.
"""

import math

from dualnet.caffe.definition import fail, title
from dualnet.caffe.fillers import FILLERS, Filler, filler
from dualnet.caffe.layer_data import Shape
from dualnet.caffe.schema import Record
from dualnet.config import nearest

_FILLER_FIELDS = {"constant": ("value",), "uniform": ("min", "max"),
                  "gaussian": ("mean", "std", "sparse"), "xavier": ("variance_norm",),
                  "msra": ("variance_norm",)}


def _filler(record: Record) -> Filler:
    """The filler of a block; what its type does not read is ignored, as in Caffe."""
    type = record["type"]
    if type not in FILLERS:
        raise record.fail(f"unknown filler '{type}'{nearest(type, FILLERS)} "
                          f"(known: {', '.join(FILLERS)})", "type")
    fields = {name: record[name] for name in _FILLER_FIELDS.get(type, ())}
    if type == "gaussian" and not 0 <= fields["std"] < math.inf:
        raise record.fail(f"'std' must be at least 0, found {fields['std']:g}", "std")
    if type == "uniform" and not -math.inf < fields["min"] <= fields["max"] < math.inf:
        raise record.fail(f"'min' must be at most 'max', found {fields['min']:g} and "
                          f"{fields['max']:g}", "min")
    try:
        return filler(type, **fields)
    except ValueError as error:
        raise record.fail(str(error)) from None


def fillers_of(param: Record) -> dict[str, Filler]:
    """The arguments weight_filler and bias_filler of a layer."""
    return {name: _filler(param[name]) for name in ("weight_filler", "bias_filler")}


def sides_of(layer: Record, param: Record, name: str, stem: str, default: int | None,
             minimum: int) -> tuple[int, int]:
    """A size that is given as one number, as two, or as stem_h and stem_w."""
    given = param[name] if isinstance(param[name], list) else (
        [param[name]] if name in param else [])
    if f"{stem}_h" in param or f"{stem}_w" in param:
        if given:
            raise param.fail(f"'{name}' or '{stem}_h' and '{stem}_w' are to be given, found both",
                             name)
        given = [param[f"{stem}_h"] or 0, param[f"{stem}_w"] or 0]
    if not given and default is not None:
        given = [default]
    if len(given) not in (1, 2):
        raise fail(layer, f"needs one '{name}', or one for each of 2 dimensions, found "
                   f"{len(given)}", next((k for k in layer.values if k.endswith("_param")), ""))
    if min(given) < minimum:
        raise param.fail(f"'{name}' must be at least {minimum}, found {min(given)}", name)
    return given[0], given[-1]


def num_output_of(layer: Record, param: Record) -> int:
    """The number of outputs, which must be given."""
    number: int | None = param["num_output"]
    if not number:
        raise param.fail(f"{title(layer)} needs a 'num_output' of at least 1, found "
                         f"{'none' if number is None else number}", "num_output")
    return number


def need_image(shape: Shape) -> Shape:
    """`shape` if it is [N, C, H, W]."""
    if len(shape) != 4:
        raise ValueError(f"needs a bottom of 4 dimensions, found {list(shape)}")
    return shape


def axis_from_front(axis: int, shape: Shape) -> int:
    """`axis` counted from the front."""
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"has no axis {axis} in a bottom of {list(shape)}")
    return axis % len(shape)
