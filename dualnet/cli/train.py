"""train: a whole run on this machine, by one of the methods."""

from typing import Any

from dualnet.cli import boosted, dual, monolith, pretrain, resist, resnet, single


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("train", help="train a net on this machine")
    methods = parser.add_subparsers(title="methods", metavar="METHOD", required=True,
                                    parser_class=type(parser))
    for method in (dual, single, pretrain, resnet, boosted, monolith, resist):
        method.add(methods)
