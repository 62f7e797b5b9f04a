"""What another rank than 0 does, of a training that torchrun has started."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dualnet.cli.exit_codes import tell
from dualnet.errors import Stopped


def help_rank_0(helper: Callable[[Any], None], settings: Any) -> int:
    """Train by `helper`; rank 0 says what there is to say and writes what is written."""
    from dualnet import data
    from shared_fs import PeerLost

    try:
        helper(settings.replace(data=data.resolve(settings.data, Path(settings.data_dir))))
    except (Stopped, PeerLost) as error:
        code = tell(error)
        # Sums that rank 0 has left are under way, and an orderly exit waits for them in vain.
        os._exit(code)
    return 0
