"""A scatter plot as SVG within the page: its text and lines take the colours of the page."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from dualnet.page.elements import attribute, said

WIDTH, HEIGHT = 480, 340
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 14, 44      # margins
ZERO = 34       # width of the strip at the left where 0 stands on a logarithmic axis
RADIUS = 8


class Mark(NamedTuple):
    """A circle.

    y, sd  in %
    label  stands in the circle
    words  are shown when it is pointed at
    """

    x: float
    y: float
    sd: float
    label: str
    colour: str
    words: str


def scatter(marks: Sequence[Mark], x_title: str, description: str) -> str:
    """y in % on a linear axis against x on a logarithmic one; x of 0 stands left of it."""
    has_zero = any(mark.x <= 0 for mark in marks)
    low, high = x_range([mark.x for mark in marks if mark.x > 0])
    bottom, top = y_range(marks)
    left = LEFT + ZERO * has_zero

    def across(x: float) -> float:
        if x <= 0:
            return LEFT + ZERO / 2
        return left + (WIDTH - RIGHT - left) * math.log(x / low) / math.log(high / low)

    def down(y: float) -> float:
        return TOP + (HEIGHT - BOTTOM - TOP) * (top - y) / (top - bottom)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label={attribute(description)}>']
    floor = HEIGHT - BOTTOM
    for tick in ticks(low, high) if any(mark.x > 0 for mark in marks) else []:
        parts += _vertical(across(tick), f"{tick:,g}", floor)
    if has_zero:
        parts += _vertical(across(0), "0", floor)
    step = 5 if top - bottom <= 30 else 20
    for level in range(math.ceil(bottom / step) * step, math.floor(top) + 1, step):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down(level):.1f}" '
                     f'y2="{down(level):.1f}"/><text x="{LEFT - 6}" y="{down(level) + 4:.1f}" '
                     f'text-anchor="end">{level} %</text>')
    parts.append(f'<text x="{(LEFT + WIDTH) / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle">'
                 f"{said(x_title)}</text>")
    parts += [_circle(mark, across(mark.x), down(mark.y),
                      down(max(mark.y - mark.sd, bottom)), down(min(mark.y + mark.sd, top)))
              for mark in marks]
    return "".join([*parts, "</svg>"])


def _vertical(x: float, text: str, floor: int) -> list[str]:
    return [f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{floor}"/>',
            f'<text x="{x:.1f}" y="{floor + 16}" text-anchor="middle">{text}</text>']


def _circle(mark: Mark, x: float, y: float, low: float, high: float) -> str:
    return (f"<g><title>{said(mark.words)}</title>"
            f'<line class="bar" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" '
            f'stroke="{mark.colour}"/>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS}" fill="{mark.colour}"/>'
            f'<text class="label" x="{x:.1f}" y="{y + 3:.1f}" text-anchor="middle">'
            f"{said(mark.label)}</text></g>")


def x_range(values: Sequence[float]) -> tuple[float, float]:
    """Ends of a logarithmic axis, with a margin of a fifth of it, at least a factor of 1.5.

    >>> x_range([])
    (1.0, 10.0)
    """
    if not values:
        return 1.0, 10.0
    margin = max((max(values) / min(values)) ** 0.1, 1.5)
    return min(values) / margin, max(values) * margin


def y_range(marks: Sequence[Mark]) -> tuple[float, float]:
    """Ends of the axis in %, whole fives beyond all circles, within 0 to 100 but for a margin."""
    low = math.floor((min(mark.y for mark in marks) - 2) / 5) * 5
    high = math.ceil((max(mark.y for mark in marks) + 2) / 5) * 5
    return max(low, -5), min(high, 102)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between both ends, closer together where the axis is short.

    >>> ticks(1.5, 30), ticks(0.5, 2000)
    ([2.0, 5.0, 10.0, 20.0], [1.0, 10.0, 100.0, 1000.0])
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = ((1, 1.5, 2, 3, 4, 5, 7) if high / low < 6 else (1, 2, 5) if high / low < 200
               else (1,))
    return [value for decade in decades for factor in factors
            if low <= (value := float(f"{factor}e{decade}")) <= high]
