"""Print the Python interpreter that satisfies the requirements, making .venv if need be.

    python3 dualnet/bootstrap.py [--dev]

The front doors, run_two_gpu.sh and tests/run, ask this script.  It needs nothing but Python's
standard library, and takes the interpreter that runs it when its packages are new enough.
"""

import fcntl
import importlib.metadata
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"


def required(dev: bool) -> dict:
    """Lower bounds {package: (numbers)} of pyproject.toml, those of the tests included if dev."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + (project["optional-dependencies"]["dev"] if dev else [])
    return {name: numbers(bound) for name, bound in (line.split(">=") for line in lines)}


def numbers(version: str) -> tuple:
    """The numbers of a version, without its local part: "2.13.0+cpu" -> (2, 13, 0)."""
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0]))


def missing(dev: bool) -> list:
    """The packages that this interpreter lacks, or has too old."""
    def satisfied(name: str, bound: tuple) -> bool:
        try:
            return numbers(importlib.metadata.version(name)) >= bound
        except importlib.metadata.PackageNotFoundError:
            return False
    return [name for name, bound in required(dev).items() if not satisfied(name, bound)]


def make_venv(dev: bool) -> pathlib.Path:
    """Make or complete .venv; two front doors at once wait for each other."""
    python = VENV / "bin" / "python"
    check = [str(python), __file__, "--check", *(["--dev"] if dev else [])]
    with open(ROOT / ".venv.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not python.exists():
            print(f"making {VENV} ...", file=sys.stderr)
            subprocess.run([sys.executable, "-m", "venv", VENV], check=True, stdout=sys.stderr)
        if subprocess.run(check).returncode != 0:
            print(f"installing the requirements into {VENV} ...", file=sys.stderr)
            words = ["-r", str(ROOT / "requirements.txt")]
            if dev:
                words += [f"{name}>={'.'.join(map(str, bound))}"
                          for name, bound in required(dev).items() if name not in required(False)]
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *words], check=True,
                           stdout=sys.stderr)
    return python


def main(arguments: list) -> int:
    """Print the interpreter; exit code 2 if there is none that will do."""
    if sys.version_info < (3, 11):  # noqa: UP036 (this file runs first, under any Python 3)
        print(f"dualnet needs Python 3.11 or newer, found {sys.version.split()[0]}; set PYTHON to "
              "a newer one", file=sys.stderr)
        return 2
    dev = "--dev" in arguments
    lacking = missing(dev)
    if "--check" in arguments:
        return 1 if lacking else 0
    try:
        print(make_venv(dev) if lacking else sys.executable)
    except (subprocess.CalledProcessError, OSError) as error:
        print(f"cannot make {VENV} with {', '.join(lacking)}: {error}; install requirements.txt by "
              "hand and try again", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
