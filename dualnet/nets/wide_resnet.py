"""Wide residual nets WRN-d-k: pre-activated, with k times as many maps.

Zagoruyko and Komodakis 2016, "Wide residual networks", table 1: d layers, (d - 4) / 6 blocks in
each stage, 16k, 32k and 64k maps, projections where the shape changes.
"""

from functools import partial

from torch import nn

from dualnet.errors import UserError
from dualnet.nets.preact_resnet import preact
from dualnet.nets.resnet import WIDTHS


def wide_resnet(input_shape: tuple[int, int, int], classes: int, *, depth: int, widen: int,
                dropout: float = 0.0) -> nn.Sequential:
    """WRN-depth-widen.  Raises UserError for a depth that is not 6n + 4."""
    blocks, rest = divmod(depth - 4, 6)
    if blocks < 1 or rest:
        raise UserError(f"the depth of a wide residual net is 6n + 4, such as 16 or 28, not "
                        f"{depth}")
    return preact(input_shape, classes, blocks=blocks, projection=True, dropout=dropout,
                  widths=[widen * width for width in WIDTHS])


wrn_16_4 = partial(wide_resnet, depth=16, widen=4)
wrn_28_2 = partial(wide_resnet, depth=28, widen=2)
wrn_28_10 = partial(wide_resnet, depth=28, widen=10)    # 36,479,194 weights for 32x32x3 and 10
