"""Shows how training goes: a bar on a terminal, log lines otherwise."""

import sys
from typing import Any

from dualnet.metrics import NOTE, RESUME


class Progress:
    """Merges the lines of one or several roles into one line per step.

    roles  the roles whose lines are expected, in the order in which they are shown
    run    what is trained, for the line that says where it resumes
    """

    def __init__(self, iterations: int, roles: tuple[str, ...], *, run: Any = "the run",
                 quiet: bool = False) -> None:
        self._iterations, self._roles, self._quiet = iterations, roles, quiet
        self._run, self._generation = run, 0
        self._lines: dict[str, dict[str, Any]] = {}
        self._warned = False
        self._bar: Any = None
        if not quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=iterations, unit="it", dynamic_ncols=True)

    def show(self, role: str, line: dict[str, Any]) -> None:
        """Take a line of metrics; shown once all roles have reached its step."""
        if self._quiet:
            return
        if line["split"] == RESUME:
            self._roll_back(line)
            return
        if line["split"] == NOTE:
            self._write(f"{line['text']}  ETA {clock_text(line['left_s'])}")
            return
        if line["split"] == "test":
            self._write(f"step {line['step']}: {_test_text(line)}")
            return
        self._lines[role] = line
        self._warn(line)
        if len({known["step"] for known in self._lines.values()}) == 1 \
                and len(self._lines) == len(self._roles):
            self._show_step(line["step"])

    def say(self, text: str) -> None:
        """A line of its own."""
        if not self._quiet:
            self._write(text)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar:
            self._bar.close()

    def _roll_back(self, line: dict[str, Any]) -> None:
        """Each role has such a line; what is said of the generation is said once."""
        self._lines.clear()
        if line["generation"] == self._generation:
            return
        self._generation = line["generation"]
        self._write(f"resuming {self._run} from iteration {line['step']}")
        if self._bar:
            self._bar.n = line["step"]
            self._bar.refresh()

    def _show_step(self, step: int) -> None:
        text = train_text([self._lines[role] for role in self._roles])
        if self._bar:
            self._bar.update(step - self._bar.n)
            self._bar.set_postfix_str(text)
        else:
            left = max(line["time_s"] for line in self._lines.values()) / step
            self._write(f"step {step}/{self._iterations}  {text}  "
                        f"ETA {clock_text(left * (self._iterations - step))}")

    def _warn(self, line: dict[str, Any]) -> None:
        if line.get("dual/collapsed") and not self._warned:
            self._warned = True
            self._write(f"warning: at step {line['step']} the two copies agree by shrinking "
                        f"(norm {line['dual/norm_y']:.3g}): the net collapses")

    def _write(self, text: str) -> None:
        if self._bar:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)


def train_text(lines: list[dict[str, Any]]) -> str:
    """Losses, accuracy, speed and wait shares of the roles at one step."""
    losses = "  ".join(f"loss{number if len(lines) > 1 else ''} {_number(line['loss'])}"
                       for number, line in enumerate(lines, start=1))
    accuracy = "".join(f"  accuracy {line['accuracy']:.3f}" for line in lines
                       if "accuracy" in line)
    speed = min(line["images_per_s"] for line in lines)
    waits = "/".join(f"{100 * line['wait_share']:.0f}" for line in lines)
    wait = f"  wait {waits} %" if any(line["wait_share"] for line in lines) else ""
    return f"{losses}{accuracy}  {speed:.0f} images/s{wait}"


def _test_text(line: dict[str, Any]) -> str:
    merged = line.get("dual/accuracy_merged")
    through = "" if merged is None else f" through conv3', {100 * merged:.2f} % through conv3"
    return f"test accuracy {100 * line['accuracy']:.2f} %{through}"


def _number(value: float | None) -> str:
    return "nan" if value is None else f"{value:.4g}"


def clock_text(seconds: float) -> str:
    """Hours, minutes and seconds: 0:03:07."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:d}:{minutes:02d}:{seconds:02d}"
