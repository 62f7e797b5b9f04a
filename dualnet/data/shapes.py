"""The built-in data set: ten classes of textured, rotated, scaled shapes on clutter, from a seed.

Only the outline tells the class.  Shape and background exchange their colours between images as
often as not, so every class has the same mean image and a linear model finds nothing; a small
convolutional net finds the outlines.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dualnet.data.dataset import Dataset
from dualnet.data.official import OfficialFile
from dualnet.seeding import uniform

FILES: tuple[OfficialFile, ...] = ()  # it is drawn, so there is nothing to fetch

SEED = 20
SIDE = 32
NUM_TRAIN = 8_000
NUM_TEST = 2_000

# Lengths are in pixels, tones and their differences in parts of full scale, 255.
RADIUS = (7.0, 12.5)  # of the circle that a shape fills
SHIFT = (-4.0, 4.0)  # of the shape from the middle of the image, along each axis
CONTRAST = (0.25, 0.65)  # between shape and background, of either sign
MARGIN = 0.05  # that both tones keep from black and white
TINT = (-0.12, 0.12)  # of a colour channel against the tone
STRIPES = (0.0, 0.15)  # amplitude of the texture
PERIOD = (3.0, 9.0)  # of the texture
NUM_CLUTTER = 5  # rectangles behind the shape
CLUTTER_SIDE = (2.0, 6.0)
CLUTTER_TONE = (-0.3, 0.3)  # of a rectangle against the background
NOISE = (-0.06, 0.06)  # of each pixel

# Images are drawn this many at once: a plane of them is 2 MB and stays in the cache.
_CHUNK = 250

Outline = Callable[[np.ndarray, np.ndarray], np.ndarray]


def present(folder: Path) -> bool:
    """True: it is there wherever the program is."""
    return True


def verify(folder: Path) -> dict[str, bool]:
    """Nothing, since there are no files."""
    return {}


def load(folder: Path | None = None) -> Dataset:
    """Draw the set: 8,000 training and 2,000 test images, uint8 [N, 3, 32, 32].

    Image i of either split is of class i mod 10.  The arrays are the same in every call, and on
    every machine whose sine and cosine agree.  `folder` is not looked at: there are no files.
    """
    labels = np.arange(NUM_TRAIN + NUM_TEST, dtype=np.int64) % len(OUTLINES)
    chunks = range(len(labels) // _CHUNK)
    images = np.concatenate([_draw(labels[i * _CHUNK :][:_CHUNK], _Draws(i)) for i in chunks])
    return Dataset(
        name="shapes",
        class_names=tuple(OUTLINES),
        train_images=images[:NUM_TRAIN],
        train_labels=labels[:NUM_TRAIN],
        test_images=images[NUM_TRAIN:],
        test_labels=labels[NUM_TRAIN:],
    )


@dataclass(frozen=True)
class _Draws:
    """The random numbers of one chunk of images, a pure function of the chunk's number."""

    chunk: int

    def between(self, purpose: str, limits: tuple[float, float], *shape: int) -> np.ndarray:
        """Uniform between `limits`, float64 [_CHUNK, *shape]; one per image is [_CHUNK, 1, 1]."""
        shape = shape or (1, 1)
        numbers = uniform(SEED, f"shapes/{purpose}", self.chunk, _CHUNK * math.prod(shape))
        low, high = limits
        return low + (high - low) * numbers.reshape(_CHUNK, *shape)


def _draw(labels: np.ndarray, draws: _Draws) -> np.ndarray:
    """A chunk of images, uint8 [_CHUNK, 3, SIDE, SIDE], of the classes `labels`."""
    middle_to_edge = np.arange(SIDE) - (SIDE - 1) / 2
    x, y = middle_to_edge[np.newaxis, :], middle_to_edge[:, np.newaxis]

    tone, back_tone = _two_tones(draws)
    shape = _with_tint("shape", tone + _stripes("shape", draws, x, y), draws)
    back = back_tone + _stripes("back", draws, x, y) + _clutter(draws, x, y)
    back = _with_tint("back", back, draws)
    cover = _shape_cover(labels, draws, x, y)[:, np.newaxis]
    noise = draws.between("noise", NOISE, 1, SIDE, SIDE)

    images = back + cover * (shape - back) + noise
    levels: np.ndarray = np.clip(np.rint(images * 255), 0, 255)
    return levels.astype(np.uint8)


def _two_tones(draws: _Draws) -> tuple[np.ndarray, np.ndarray]:
    """Grey levels of shape and background; their joint distribution is symmetric in the two."""
    half = draws.between("contrast", CONTRAST) / 2
    half = np.where(draws.between("polarity", (0, 1)) < 0.5, half, -half)
    middle = 0.5 + draws.between("tone", (-1, 1)) * (0.5 - MARGIN - abs(half))
    return middle + half, middle - half


def _with_tint(purpose: str, grey: np.ndarray, draws: _Draws) -> np.ndarray:
    """Colours grey images: [_CHUNK, SIDE, SIDE] becomes [_CHUNK, 3, SIDE, SIDE]."""
    planes: np.ndarray = grey[:, np.newaxis] + draws.between(f"{purpose}/tint", TINT, 3, 1, 1)
    return planes


def _stripes(purpose: str, draws: _Draws, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Straight waves of triangular profile and mean zero, in any direction."""
    angle = draws.between(f"{purpose}/angle", (0, math.tau))
    period = draws.between(f"{purpose}/period", PERIOD)
    waves: np.ndarray = (np.cos(angle) * x + np.sin(angle) * y) / period
    waves += draws.between(f"{purpose}/phase", (0, 1))
    waves = 4 * abs(waves - np.floor(waves) - 0.5) - 1
    waves *= draws.between(f"{purpose}/amplitude", STRIPES)
    return waves


def _clutter(draws: _Draws, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The sum of rectangles of either sign anywhere in the image."""
    total = np.zeros((_CHUNK, SIDE, SIDE))
    for name in (f"clutter{i}" for i in range(NUM_CLUTTER)):
        across = abs(x - draws.between(f"{name}/x", (-SIDE / 2, SIDE / 2)))
        along = abs(y - draws.between(f"{name}/y", (-SIDE / 2, SIDE / 2)))
        across = across - draws.between(f"{name}/width", CLUTTER_SIDE) / 2
        along = along - draws.between(f"{name}/height", CLUTTER_SIDE) / 2
        total += draws.between(f"{name}/tone", CLUTTER_TONE) * _cover(np.maximum(across, along))
    return total


def _shape_cover(labels: np.ndarray, draws: _Draws, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How much of each pixel the shape covers, in its own place, size and rotation."""
    radius = draws.between("radius", RADIUS)
    angle = draws.between("angle", (0, math.tau))
    x, y = x - draws.between("x", SHIFT), y - draws.between("y", SHIFT)
    cos, sin = np.cos(angle) / radius, np.sin(angle) / radius
    x, y = cos * x + sin * y, cos * y - sin * x
    distance = np.empty_like(x)
    for label, outline in enumerate(OUTLINES.values()):
        of_class = labels == label
        distance[of_class] = outline(x[of_class], y[of_class])
    return _cover(distance * radius)


def _cover(distance: np.ndarray) -> np.ndarray:
    """The part of a pixel inside an outline at a signed distance, in pixels, negative inside."""
    cover: np.ndarray = np.clip(0.5 - distance, 0, 1)
    return cover


# The outlines: signed distances, or bounds with the same zeros, of shapes filling the unit circle.


def _length(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # Not hypot: square roots are rounded alike everywhere, hypot is not.
    length: np.ndarray = np.sqrt(x * x + y * y)
    return length


def _both(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    # What is inside two outlines is as far outside as the farther of them.
    distance: np.ndarray = np.maximum(one, other)
    return distance


def _disc(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _length(x, y) - 0.85


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return abs(_length(x, y) - 0.75) - 0.2


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _both(abs(x), abs(y)) - 0.72


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _both(-y, 0.5 * y + math.sqrt(0.75) * abs(x)) - 0.5


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = abs(x), abs(y)
    return _both(_both(x, y) - 1.0, np.minimum(x, y) - 0.24)


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # A pentagram is what lies behind at least four of its five lines: the second largest counts.
    angles = [math.tau / 5 * i for i in range(5)]
    lines = np.stack([math.cos(angle) * x + math.sin(angle) * y for angle in angles])
    second_largest: np.ndarray = np.partition(lines, 3, axis=0)[3]
    return second_largest - math.cos(math.tau / 5)


def _bar(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _both(abs(x) - 1.0, abs(y) - 0.3)


def _crescent(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _both(_length(x, y) - 0.95, 0.7 - _length(x - 0.5, y))


def _hourglass(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = abs(x), abs(y)
    return _both(x - 0.8, (y - 0.75 * x - 0.05) / 1.25)


def _pair(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _length(abs(x) - 0.58, y) - 0.4


OUTLINES: dict[str, Outline] = {
    "disc": _disc,
    "ring": _ring,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "star": _star,
    "bar": _bar,
    "crescent": _crescent,
    "hourglass": _hourglass,
    "pair": _pair,
}
