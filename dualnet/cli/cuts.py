"""--list-cuts and --cut auto of the dual net."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dualnet.config import AUTO
from dualnet.methods.dual.settings import DualConfig

if TYPE_CHECKING:
    from dualnet.cuts import Cut

HEAD = ("cut behind", "shared", "z kB", "y kB", "net1 M", "net2 M", "net1 weights", "net2 weights",
        "bound")
LEGEND = """\
z, y      bytes of the messages of an iteration of {batch_size} samples in {message_dtype}
M         million multiply-adds forward, per sample
bound     times the speed of the uncut net, where messages cost nothing
*         what --cut auto takes"""


def resolve_cut(settings: Any) -> Any:
    """The settings with `--cut auto` decided; says what it takes.

    Raises UserError if the net has no place to cut, or not enough of them for --parts.
    """
    if getattr(settings, "cut", "") != AUTO:
        return settings
    from dualnet import session
    from dualnet.cuts import best, bound

    chain = best(session.cuts_of(settings), settings.parts or 2)
    print(f"cutting behind {', '.join(each.boundary for each in chain)}: at most "
          f"{bound(chain):.2f} times the speed of the uncut net (--list-cuts shows all)",
          file=sys.stderr)
    return settings.replace(cut=",".join(each.boundary for each in chain), parts=None)


def show_cuts(settings: DualConfig, parts: int | None = None) -> None:
    """Print a line for each cut of the net, and mark those of the best chain of `parts` parts.

    Raises UserError if there is none.
    """
    from dualnet import session
    from dualnet.cuts import best, bound

    cuts = session.cuts_of(settings)
    chain = best(cuts, parts or 2)
    print(table(cuts, chain))
    print(LEGEND.format(batch_size=settings.batch_size, message_dtype=settings.message_dtype))
    if len(chain) > 1:
        print(f"{len(chain) + 1} parts: at most {bound(chain):.2f} times the speed of the uncut "
              "net")


def table(cuts: "Sequence[Cut]", chosen: "Sequence[Cut]") -> str:
    """The cuts as lines of aligned columns, names to the left and numbers to the right."""
    rows = [HEAD, *(_row(each, "*" if each in chosen else "") for each in cuts)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) if index < 2 else cell.rjust(width)
                               for index, (cell, width) in enumerate(zip(row, widths, strict=True)))
                     for row in rows)


def _row(cut: "Cut", mark: str) -> tuple[str, ...]:
    return (cut.boundary + mark, cut.compared,
            *(f"{size / 1000:,.1f}" for size in (cut.z_bytes, cut.y_bytes)),
            *(f"{work / 1e6:,.3f}" for work in cut.multiply_adds),
            *(f"{count:,}" for count in cut.weights), f"{cut.bound:.2f}")
