"""Layers without bottoms: which blobs they give, and in which shapes.

Nothing is read here: whoever runs the net hands in the blobs.
"""

from collections.abc import Callable

from dualnet.caffe.definition import fail
from dualnet.caffe.schema import Record

Shape = tuple[int, ...]
LARGEST_BLOB = 2**31 - 1        # numbers; Caffe counts them in an int


def data_shapes(layer: Record, image_shape: Shape | None) -> list[Shape]:
    """The shapes of the tops of a data layer.

    image_shape  [C, H, W] of the images, for layers that read them from files
    Raises PrototxtError.
    """
    shapes = DATA_LAYERS[layer["type"]](layer, image_shape)
    if len(layer["top"]) > len(shapes):
        raise fail(layer, f"has {len(shapes)} tops, found {len(layer['top'])}", "top", len(shapes))
    for shape in shapes:
        size = 1
        for dim in shape:
            size *= dim
        if not shape or min(shape) < 1 or size > LARGEST_BLOB:
            raise fail(layer, "needs dimensions of at least 1 and at most 2^31 numbers, found "
                       f"{list(shape)}")
    return shapes[:len(layer["top"])]


def _input(layer: Record, image_shape: Shape | None) -> list[Shape]:
    return _one_each(layer, [tuple(shape["dim"]) for shape in layer["input_param"]["shape"]])


def _one_each(layer: Record, shapes: list[Shape]) -> list[Shape]:
    """One shape per top; a single one serves all."""
    num = len(layer["top"])
    if len(shapes) not in (1, num):
        raise fail(layer, f"needs a shape for each of its {num} tops, found {len(shapes)}")
    return shapes * num if len(shapes) == 1 else shapes


def _memory_data(layer: Record, image_shape: Shape | None) -> list[Shape]:
    param = layer["memory_data_param"]
    shape = tuple(_positive(layer, param, name)
                  for name in ("batch_size", "channels", "height", "width"))
    return [shape, shape[:1]]


def _data(layer: Record, image_shape: Shape | None) -> list[Shape]:
    param = layer["data_param"]
    if image_shape is None:
        raise fail(layer, f"reads its images from '{param['source'] or ''}', so the file does not "
                   "say how large they are; give their shape", "data_param")
    return _images(layer, param, image_shape)


def _image_data(layer: Record, image_shape: Shape | None) -> list[Shape]:
    param = layer["image_data_param"]
    height, width = param["new_height"], param["new_width"]
    if height and width:
        image_shape = (3 if param["is_color"] else 1, height, width)
    if image_shape is None:
        raise fail(layer, "needs 'new_height' and 'new_width', or else the shape of the images",
                   "image_data_param")
    return _images(layer, param, image_shape)


def _images(layer: Record, param: Record, image_shape: Shape) -> list[Shape]:
    channels, height, width = image_shape
    crop = layer["transform_param"]["crop_size"] or param["crop_size"]
    if crop > min(height, width):
        raise fail(layer, f"crops {crop} pixels from images of {height}x{width}",
                   "transform_param")
    batch_size = _positive(layer, param, "batch_size")
    return [(batch_size, channels, crop or height, crop or width), (batch_size,)]


def _dummy_data(layer: Record, image_shape: Shape | None) -> list[Shape]:
    param = layer["dummy_data_param"]
    if param["shape"]:
        return _one_each(layer, [tuple(shape["dim"]) for shape in param["shape"]])
    sides = [param[name] for name in ("num", "channels", "height", "width")]
    if len({len(side) for side in sides}) != 1:
        raise fail(layer, "needs 'shape', or as many 'num' as 'channels', 'height' and 'width'",
                   "dummy_data_param")
    return _one_each(layer, list(zip(*sides, strict=True)))


def _positive(layer: Record, param: Record, name: str) -> int:
    value: int | None = param[name]
    if not value:
        raise param.fail(f"layer '{layer['name'] or ''}' needs a '{name}' of at least 1, found "
                         f"{'none' if value is None else value}", name)
    return value


DATA_LAYERS: dict[str, Callable[[Record, Shape | None], list[Shape]]] = {
    "Input": _input, "MemoryData": _memory_data, "Data": _data, "ImageData": _image_data,
    "DummyData": _dummy_data}
