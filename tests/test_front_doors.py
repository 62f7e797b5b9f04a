"""The scripts that start everything, and what they decide before they start it."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from dualnet import bootstrap

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ["run_two_gpu.sh", "tests/run", ".ci/run", "examples/torchrun.sh",
           "examples/slurm/file_exchange.sbatch", "examples/slurm/torchrun.sbatch"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.security(13, "the scripts are read")
def test_scripts_are_executable_and_strict(script):
    path = ROOT / script
    assert path.stat().st_mode & 0o111
    assert "set -euo pipefail" in path.read_text()
    assert subprocess.run(["bash", "-n", path], timeout=10).returncode == 0


@pytest.mark.security(18, "both lists are read")
def test_requirements_and_packaging_name_the_same_packages_and_bounds():
    lines = (ROOT / "requirements.txt").read_text().split()
    pinned = dict(re.split("==|>=", line) for line in lines)
    bounds = dict(line.split(">=") for line in PROJECT["dependencies"])
    assert pinned.keys() == bounds.keys()
    for name, version in pinned.items():
        assert bootstrap.numbers(version) >= bootstrap.numbers(bounds[name]), name


@pytest.mark.parametrize(("version", "numbers"), [
    ("2.13.0+cpu", (2, 13, 0)), ("4.1", (4, 1)), ("10.0", (10, 0)), ("2.10", (2, 10))])
def test_versions_compare_as_numbers(version, numbers):
    assert bootstrap.numbers(version) == numbers


def test_an_interpreter_that_has_everything_is_taken():
    found = subprocess.run([sys.executable, ROOT / "dualnet" / "bootstrap.py"],
                           capture_output=True, text=True, timeout=60)
    assert found.stdout.strip() == sys.executable and found.returncode == 0


def test_an_interpreter_that_lacks_a_package_is_told_apart(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True,
                   timeout=60)
    found = subprocess.run([tmp_path / "bare" / "bin" / "python", ROOT / "dualnet" / "bootstrap.py",
                            "--check"], timeout=60)
    assert found.returncode == 1


@pytest.mark.security(13, "the scripts are read")
def test_the_shell_scripts_quote_what_they_expand():
    for script in SCRIPTS:
        code = re.sub(r"<<'TEXT'.*?^TEXT$", "", (ROOT / script).read_text(), flags=re.S | re.M)
        for line in code.splitlines():
            bare = re.sub(r'"[^"]*"|#.*|\[\[.*?\]\]', "", line.replace('"$(', "").replace("$(", ""))
            assert not re.search(r"\$[A-Za-z@{]", bare), f"{script}: {line}"
