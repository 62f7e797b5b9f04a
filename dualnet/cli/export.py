"""export: the trained net as a plain state_dict."""

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "export", help="write the trained net as a plain state_dict",
        description="Write the weights of a finished run under the names of the uncut net, for "
        "net.load_state_dict(torch.load(FILE)).")
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("file", type=Path, metavar="FILE",
                        help="a .pt or .pth file, or .safetensors where that package is installed")
    parser.add_argument("--merged", action="store_true",
                        help="take each shared layer from the part before its cut (conv3 of net1) "
                        "instead of the part behind it (conv3' of net2)")
    parser.add_argument("--overwrite", action="store_true", help="replace the file")
    parser.set_defaults(command=export, parser=parser)


def export(arguments: argparse.Namespace) -> int:
    """The command `export`."""
    from dualnet.export import state_of, write
    from dualnet.run import Run

    state = state_of(Run(arguments.run), merged=arguments.merged)
    write(state, arguments.file, overwrite=arguments.overwrite)
    count = sum(value.numel() for value in state.values())
    print(f"{arguments.file}: {len(state)} tensors, {count:,} numbers")
    return 0
