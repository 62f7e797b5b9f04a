"""A pytest plugin: `pytest --fault-table=PATH` writes what became of each row of the fault list."""

import ast
import datetime
import importlib.metadata
import os
import platform
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from fault_list import (
    EXPECTED_FAULTS,
    FAULTS,
    SECURITY,
    UNTESTED_FAULTS,
    UNTESTED_SECURITY,
)

LISTS = {
    # marker: rows, headings of their columns, rows declared to have no test
    "fault": (FAULTS, ("fault", "required behaviour"), UNTESTED_FAULTS),
    "security": (SECURITY, ("rule",), UNTESTED_SECURITY),
}
VERSIONS = ("numpy", "filelock", "torch", "pytest")


@dataclass(frozen=True)
class Injection:
    """One test of one row: "test_x.py::test_name" and how it injects the fault."""

    marker: str
    row: int
    test: str
    how: str


def pytest_addoption(parser):
    parser.addoption("--fault-table", metavar="PATH", type=Path,
                     help="write what became of each row of the fault list")


def pytest_configure(config):
    path = config.getoption("fault_table")
    is_worker = hasattr(config, "workerinput")      # of pytest-xdist: the first process has it all
    if path is not None and not config.option.collectonly and not is_worker:
        config.pluginmanager.register(FaultTable(path, config.invocation_params.args))


class FaultTable:
    """Collects the outcomes of all marked tests and writes them when the session ends."""

    def __init__(self, path, arguments):
        self.path, self.command = path, " ".join(("pytest", *map(str, arguments)))
        self.outcomes = {}  # node id -> outcome, of every test that ran

    def pytest_runtest_logreport(self, report):
        now, reason = report.outcome, ""
        if now == "skipped":
            reason = str(report.longrepr[2]).removeprefix("Skipped: ")
        # Of setup, call and teardown the worst counts; a skip comes before the call.
        before = self.outcomes.get(report.nodeid, ("passed", ""))
        if now != "passed" or before[0] == "passed":
            self.outcomes[report.nodeid] = (now, reason)

    def pytest_sessionfinish(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = table(injections(), self.outcomes, self.command)
        self.path.write_text(text, encoding="utf-8")


def injections(folder=Path(__file__).parent):
    """Every mark in the sources of the tests, whether it is run or not."""
    found = []
    for path in sorted(folder.glob("test_*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        named = {target.id: statement.value for statement in module.body
                 if isinstance(statement, ast.Assign) for target in statement.targets
                 if isinstance(target, ast.Name)}
        for function in ast.walk(module):
            if isinstance(function, ast.FunctionDef):
                test = f"{path.name}::{function.name}"
                found += [Injection(*mark, test, how) for *mark, how in _marks(function, named)]
    return found


def _marks(function, named):
    """Marker, row and text of the marks of a test, also of those that have a name in its module."""
    for decorator in function.decorator_list:
        if isinstance(decorator, ast.Name):
            decorator = named.get(decorator.id, decorator)
        for node in ast.walk(decorator):
            marker = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            marker = marker.removeprefix("pytest.mark.")
            if marker in LISTS:
                row, how = (ast.literal_eval(argument) for argument in node.args)
                yield marker, row, how


def outcome_of(test, outcomes):
    """What became of a test with all its cases: one word, the number of cases, a reason."""
    cases = [outcome for node, outcome in outcomes.items()
             if node.partition("[")[0].rpartition("/")[2] == test]
    kinds = Counter(kind for kind, _ in cases)
    times = f" ({len(cases)} cases)" if len(cases) > 1 else ""
    if not cases:
        return "not run", ""
    for kind in ("failed", "passed"):
        if kinds[kind]:
            few = f" ({kinds[kind]} of {len(cases)} cases)" if kinds[kind] < len(cases) else times
            return kind, kind + few
    reasons = sorted({reason for _, reason in cases})
    return "skipped", f"skipped: {'; '.join(reasons)}"


def table(marked, outcomes, command):
    """The whole text of results/faults.md."""
    parts = [_head(command), *(_section(marker, marked, outcomes) for marker in LISTS)]
    return "\n".join(parts)


def _head(command):
    installed = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in VERSIONS)
    who = "root" if os.geteuid() == 0 else "an ordinary user"
    return f"""# Faults, and what became of them

Written by a test run: `{command}`, {datetime.date.today()}.

- host: {platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} cores, as {who}
- versions: Python {platform.python_version()}, {installed}

A row has passed if each of its tests that ran has passed.  All faults are injected into real
processes and real files.
"""  # noqa: E501


def _section(marker, marked, outcomes):
    rows, headings, untested = LISTS[marker]
    lines, counts = [], Counter()
    for number, texts in rows.items():
        tests = [injection for injection in marked
                 if (injection.marker, injection.row) == (marker, number)]
        row_outcome, cells = _cells(tests, outcomes, _without_test(marker, number, untested))
        counts[row_outcome] += 1
        lines.append(" | ".join((f"| {number}", *texts, *cells)) + " |")
    counted = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    title = {"fault": "Fault list", "security": "Security list"}[marker]
    header = ("#", *headings, "test", "how injected", "outcome")
    return "\n".join((f"## {title}: {len(rows)} rows, {counted}\n", f"| {' | '.join(header)} |",
                      "|---" * len(header) + "|", *lines, ""))


def _without_test(marker, number, untested):
    if number in untested:
        return untested[number]
    return "its test is not here yet" if marker == "fault" and number in EXPECTED_FAULTS else ""


def _cells(tests, outcomes, reason):
    """The outcome of a row, and its last three cells: tests, how, outcomes."""
    if not tests:
        return "without a test", ("none", "", reason or "no test, and no reason given")
    found = [outcome_of(injection.test, outcomes) for injection in tests]
    kinds = [kind for kind, _ in found]
    for kind in ("failed", "passed", "skipped"):
        if kind in kinds:
            break
    else:
        kind = "not run"
    cells = (
        "<br>".join(f"`{injection.test}`" for injection in tests),
        "<br>".join(injection.how.replace("|", "\\|") for injection in tests),
        "<br>".join((text or kind).replace("|", "\\|") for kind, text in found),
    )
    return kind, cells
