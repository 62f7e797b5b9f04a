"""clean: remove what a finished or dead run left in its exchange folder."""

import argparse
from pathlib import Path
from typing import Any

ABOUT = """\
Removes the messages, records and locks of an exchange whose roles are over, and only those: a
file that is not of an exchange is named and left.  Of a run folder only exchange/ is cleaned;
metrics and checkpoints stay, and an unfinished run can go on from them.

A role that is alive is never cleaned away.  One of this host is judged by its process and its
lock, one of another host by its status, which changes every 2 s.  One of another host that did
not end, and is silent, is cleaned with --force only."""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("clean", description=ABOUT,
                                 help="remove what a finished or dead run left")
    parser.add_argument("folder", type=Path, metavar="DIR", help="run folder or exchange folder")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    parser.add_argument("--force", action="store_true",
                        help="also if a role of another host is silent; be sure that it is gone")
    parser.set_defaults(command=clean, parser=parser)


def clean(arguments: argparse.Namespace) -> int:
    """The command `clean`."""
    from dualnet.errors import UserError
    from dualnet.run import Run
    from shared_fs.clean import clean as remove
    from shared_fs.clean import is_cleanable

    candidates = (Run(arguments.folder).exchange, arguments.folder)
    folder = next(filter(is_cleanable, candidates), None)
    if folder is None:
        raise UserError(f"{arguments.folder} is neither a run nor an exchange folder: there is "
                        "nothing of a role in it to clean")
    found = remove(folder, force=arguments.force, dry_run=arguments.dry_run)
    verb = "would remove" if arguments.dry_run else "removed"
    for name in found.removed:
        print(f"{verb} {folder / name}")
    for name in found.left:
        print(f"left {folder / name}: it is not of an exchange")
    print(f"{verb} {len(found.removed)} files and folders, left {len(found.left)}")
    return 0
