"""No row of the fault list is silently missing."""

import subprocess
import sys
from pathlib import Path

import pytest
from fault_list import EXPECTED_FAULTS, FAULTS, SECURITY
from fault_table import LISTS, injections, outcome_of, table

ROOT = Path(__file__).resolve().parent.parent


def test_the_lists_are_complete():
    assert list(FAULTS) == list(range(1, 74))
    assert list(SECURITY) == list(range(1, 19))


@pytest.mark.parametrize("marker", LISTS)
def test_every_row_has_a_test_or_a_reason_and_no_mark_is_of_another_row(marker):
    rows, _, untested = LISTS[marker]
    tested = {injection.row for injection in injections() if injection.marker == marker}
    assert tested <= rows.keys()
    assert not tested & untested.keys(), "a row has a test and a reason why it has none"
    expected = EXPECTED_FAULTS if marker == "fault" else set()
    assert rows.keys() - tested - untested.keys() - expected == set()


def test_marks_are_found_on_functions_on_cases_and_under_a_name(tmp_path):
    (tmp_path / "test_x.py").write_text("""
DISKS = pytest.mark.parametrize("size", [pytest.param(1, marks=pytest.mark.fault(29, "a " "disk"))])

@DISKS
@pytest.mark.security(4, "chown")
def test_one(size): ...

@pytest.mark.slow
def test_two(): ...
""")
    found = {(i.marker, i.row, i.test, i.how) for i in injections(tmp_path)}
    assert found == {("fault", 29, "test_x.py::test_one", "a disk"),
                     ("security", 4, "test_x.py::test_one", "chown")}


def test_a_row_fails_with_one_case_passes_with_some_and_says_why_it_was_skipped():
    outcomes = {"tests/test_a.py::test_x[1]": ("passed", ""),
                "tests/test_a.py::test_x[2]": ("failed", ""),
                "tests/test_a.py::test_y[1]": ("passed", ""),
                "tests/test_a.py::test_y[2]": ("skipped", "needs root"),
                "tests/test_a.py::test_z": ("skipped", "needs root")}
    assert outcome_of("test_a.py::test_x", outcomes) == ("failed", "failed (1 of 2 cases)")
    assert outcome_of("test_a.py::test_y", outcomes) == ("passed", "passed (1 of 2 cases)")
    assert outcome_of("test_a.py::test_z", outcomes) == ("skipped", "skipped: needs root")
    assert outcome_of("test_a.py::test_w", outcomes) == ("not run", "")


def test_a_table_without_any_test_names_every_row():
    lines = table([], {}, "pytest").splitlines()
    for marker, (rows, _, untested) in LISTS.items():
        for number, texts in rows.items():
            (line,) = [line for line in lines if line.startswith(f"| {number} | {texts[0]} |")]
            assert "none" in line
            assert untested.get(number, "no") in line, marker


def test_the_option_writes_the_outcomes_of_a_run(tmp_path):
    path = tmp_path / "faults.md"
    one = "tests/test_shared_fs_processes.py::test_a_reused_pid_is_another_process"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
               "--fault-table", str(path), one]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120, capture_output=True)
    row = next(line for line in path.read_text().splitlines() if line.startswith("| 23 "))
    assert "<br>`test_shared_fs_processes.py::test_a_reused_pid_is_another_process` |" in row
    assert row.endswith("| not run<br>passed |")  # another test of this row was not run
