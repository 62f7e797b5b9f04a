"""The README says what the program does."""

import re
import shlex
from pathlib import Path

import pytest

from dualnet.cli import build_parser
from dualnet.cli.exit_codes import EXIT_CODES

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def leaves(parser, words=()):
    """Every command with its parser: ("train", "dual") -> parser."""
    groups = [action for action in parser._actions if isinstance(action.choices, dict)]
    if not groups:
        yield words, parser
    for group in groups:
        for name, below in group.choices.items():
            yield from leaves(below, (*words, name))


COMMANDS = dict(leaves(build_parser()))
NAMES = "|".join(sorted({words[0] for words in COMMANDS}))
# A line of output may begin with the name of the program, too, but not with a command of it.
LINES = sorted(set(re.findall(
    rf"^\$ dualnet .*|^dualnet (?:{NAMES})\b.*|^(?:\$ )?\./run_two_gpu\.sh .*|`dualnet [^`]+`",
    README.replace("\\\n", " "), re.M)))
OF_THE_TESTS = {"--fault-table"}
OF_TORCHRUN = {"--standalone", "--nproc-per-node"}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_its_place(words):
    assert re.search(rf"^###.*{' '.join(words)}\b", README, re.M), f"no section for {words}"


@pytest.mark.parametrize("line", LINES)
def test_every_command_line_of_the_readme_parses(line):
    line = line.strip("`$ ").replace("./run_two_gpu.sh", "dualnet train dual")
    words = [word for word in shlex.split(line, comments=True)[1:] if not word.startswith("[")]
    words = [word.strip("[]").removesuffix("...") for word in words]
    assert hasattr(build_parser().parse_args(words), "command")


def test_every_flag_of_the_readme_exists():
    known = {flag for parser in COMMANDS.values() for action in parser._actions
             for flag in action.option_strings}
    for flag in set(re.findall(r"(?<![-\w])--[a-z][a-z0-9-]+", README)):
        assert flag in known | OF_THE_TESTS | OF_TORCHRUN | {"--help"}, flag


def test_the_exit_codes_of_the_readme_are_those_of_the_program():
    assert EXIT_CODES in README


def test_links_lead_somewhere():
    headings = {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")
                for heading in re.findall(r"^#+ (.*)$", README, re.M)}
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif not target.startswith("http"):
            assert (ROOT / target.partition("#")[0]).exists(), target


def test_nothing_is_left_to_fill_in():
    assert not re.search(r"@[A-Z]+@|TODO|XXX", README)
