"""reproduce: measures what a paper published, appends it to the ledger, draws and reports it."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualnet.cli.parser import default_data_dir
from dualnet.cli.progress import clock_text
from dualnet.cli.rendering import render
from dualnet.config import choose
from dualnet.errors import UserError
from dualnet.reproduce.target import SCALES
from dualnet.reproduce.targets import CAFFE_FIDELITY, FIDELITY_TABLE, TARGETS

if TYPE_CHECKING:
    from dualnet.ledger import Line
    from dualnet.reproduce.plan import Plan, Remaining


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "reproduce", help="measure published tables and figures again",
        description="Measure published tables and figures again. What the ledger in --results "
        "holds already is not measured twice; the same command again goes on where it stopped.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="what to measure; see --list")
    parser.add_argument("--list", action="store_true", help="show all targets and their cost")
    parser.add_argument("--all", action="store_true",
                        help="measure all targets whose data set is in --data-dir")
    parser.add_argument("--dry-run", action="store_true",
                        help="list what is missing and what it costs, measure nothing")
    parser.add_argument("--report", action="store_true",
                        help="draw and render everything in --results from the ledgers, measure "
                        "nothing")
    parser.add_argument("--verify", action="store_true",
                        help="check that every figure and number has its entry in a ledger; ends "
                        "with 1 if one has not")
    parser.add_argument("--scale", choices=SCALES, default="cpu",
                        help="smoke: seconds, says nothing; cpu: at most 15 minutes on two cores; "
                        "gpu: at most 8 minutes a run; full: as published (default: cpu)")
    parser.add_argument("--seeds", type=_seeds, default=[0, 1], metavar="N,...",
                        help="seeds to measure with (default: 0,1)")
    parser.add_argument("--variant", action="append", default=[], metavar="NAME",
                        help="measure this row only, of one target; may be given several times")
    parser.add_argument("--again", action="store_true",
                        help="measure what is in the ledger once more")
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"), metavar="DIR",
                        help="folder of the runs (default: runs/reproduce)")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR",
                        help="folder of ledgers, figures and report (default: results)")
    parser.add_argument("--data-dir", default=default_data_dir(), metavar="DIR",
                        help="folder of the data sets (default: data, or DUALNET_DATA)")
    parser.add_argument("--device", default="auto", help="cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--threads", type=int, default=1, metavar="N",
                        help="CPU threads, 0 for one per core (default: 1)")
    parser.add_argument("--golden", type=Path, metavar="DIR",
                        help=f"folder of the arrays that Caffe wrote, for {CAFFE_FIDELITY}")
    parser.set_defaults(command=reproduce, parser=parser)


def _seeds(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise argparse.ArgumentTypeError(f"expected whole numbers from 0, as in 0,1,2; found "
                                         f"'{text}'")
    return list(dict.fromkeys(map(int, words)))


def reproduce(arguments: argparse.Namespace) -> int:
    """The command `reproduce`."""
    names = list(TARGETS) if arguments.all else [
        choose("target", name, [*TARGETS, CAFFE_FIDELITY]) for name in arguments.targets]
    if not (names or arguments.list or arguments.report or arguments.verify):
        raise UserError("reproduce needs a target, --all, --list, --report or --verify; --list "
                        "shows the targets")
    if arguments.list:
        print(listing())
    measured = [name for name in dict.fromkeys(names) if name != CAFFE_FIDELITY]
    _measure(measured, arguments)
    if CAFFE_FIDELITY in names and not arguments.dry_run:
        _fidelity(arguments)
    if arguments.report or (names and not arguments.dry_run):
        render(arguments.results)
    return _verify(arguments.results) if arguments.verify else 0


def listing() -> str:
    """Every target: where it is from, what it shows, what it costs."""
    texts = []
    for target in TARGETS.values():
        costs = "\n".join(f"    {scale:6} {target.cost[scale]}" for scale in SCALES)
        texts.append(f"{target.name}\n  {target.paper}\n  {target.shows}\n{costs}")
    texts.append(f"{CAFFE_FIDELITY}\n  BVLC Caffe 1.0\n  layers, losses, solvers and whole nets "
                 "against arrays that Caffe wrote (--golden DIR)\n    one scale: a minute")
    return "\n".join(texts)


def _measure(names: Sequence[str], arguments: argparse.Namespace) -> None:
    """Measure what is missing, target by target, one line of progress each."""
    from dualnet.reproduce.plan import Remaining, plan, total

    local = {"data_dir": arguments.data_dir, "device": arguments.device,
             "threads": arguments.threads}
    if arguments.variant and len(names) != 1:
        raise UserError("--variant names rows of one target; give that target and no other")
    plans = [plan(TARGETS[name], arguments.scale, arguments.seeds, local, arguments.results,
                  arguments.again, arguments.variant) for name in names]
    left_out: list[str] = []
    if arguments.all:
        plans, left_out = _fit(plans)
    if arguments.dry_run:
        print("\n".join([*left_out, missing_text(plans)]))
        return
    for text in left_out:
        _say(text)
    remaining = Remaining([each.seconds for each in plans for _ in each.wanted])
    for number, each in enumerate(plans, start=1):
        left = total(later.cost_s for later in plans[number - 1:])
        _say(f"{number}/{len(plans)}  {each.target.name} at scale {arguments.scale}: "
             f"{len(each.wanted)} to measure, {each.known} in {each.ledger.path}  "
             f"{_about(left)} from here")
        _reproduce(each, remaining, arguments.out / each.target.name)


def _reproduce(plan: "Plan", remaining: "Remaining", out: Path) -> None:
    """Measure a target, one line of progress for each measurement."""
    from dualnet.compare import Folder
    from dualnet.reproduce.measure import measure

    with Folder(out).held():
        started = time.monotonic()
        for count, line in enumerate(measure(plan.wanted, plan.ledger, out), start=1):
            left, started = remaining.done(time.monotonic() - started), time.monotonic()
            _say(f"{count}/{len(plan.wanted)}  {_found(line)}  {line['wall_s']:.1f} s  "
                 f"ETA {clock_text(left)}")
    print(f"ledger: {plan.ledger.path}")


def missing_text(plans: "Sequence[Plan]") -> str:
    """What is missing and what it costs: by variant, by paper and in all."""
    from dualnet.reproduce.plan import total

    lines: list[str] = []
    papers: dict[str, list[Plan]] = {}
    for each in plans:
        papers.setdefault(each.target.publication, []).append(each)
        count = len(each.wanted)
        lines.append(f"{each.target.name}: {count} of {count + each.known} missing"
                     + f", {_about(each.cost_s)}" * bool(count))
        lines += [f"  {variant}: seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
                  for variant, seeds in each.missing.items()]
    lines += [f"{paper}: {_about(total(each.cost_s for each in found))}"
              for paper, found in papers.items()]
    return "\n".join([*lines, f"in all: {sum(len(each.wanted) for each in plans)} measurements, "
                      f"{_about(total(each.cost_s for each in plans))}",
                      "costs are for cores that do nothing else"])


def _fit(plans: "Sequence[Plan]") -> "tuple[list[Plan], list[str]]":
    """What this machine can measure within the stated cost; and a sentence on each of the rest."""
    fit, left_out = [], []
    for plan in plans:
        name = plan.target.name
        if plan.lacks:
            names, folder = " ".join(plan.lacks), plan.wanted[0].settings.data_dir
            left_out.append(
                f"{name}: left out, {len(plan.wanted)} measurements; {names} is not in {folder}: "
                f"'dualnet data fetch {names} --data-dir {folder}' gets it")
            continue
        left_out += [f"{name}: '{each}' left out, as this CPU has no AVX-512 and computes bfloat16 "
                     "in software, which takes hours; --variant measures it"
                     for each in plan.in_software]
        fit.append(plan.without(plan.in_software))
    return fit, left_out


def _about(seconds: float | None) -> str:
    return "cost not known" if seconds is None else f"about {clock_text(seconds)}"


def _found(line: "Line") -> str:
    from dualnet.reproduce.rows import said

    ours = line["ours"]
    end = line["figures"].get("diverged_at")
    text = (f"{line['figure']} {said(line['figure'], ours)}" if ours is not None
            else f"diverged in iteration {end}" if end is not None else "no figure")
    known = [said(line["figure"], each["value"]) for each in line["published"]
             if each["value"] is not None]
    return (f"{line['variant']}, seed {line['seed']}: {text}"
            + (f" (published: {', '.join(known)})" if known else ""))


def _verify(results: Path) -> int:
    """Say what does not agree; 1 if anything does not."""
    from dualnet.page.verify import problems

    found = problems(results)
    for problem in found:
        _say(problem)
    print(f"{results}: {len(found)} disagreement{'s' * (len(found) != 1)}" if found else
          f"{results}: every figure and number has its entry in a ledger")
    return int(bool(found))


def _fidelity(arguments: argparse.Namespace) -> None:
    """Compare with Caffe's arrays and write the table; no ledger, since nothing is trained."""
    from dualnet.reproduce.fidelity import compare, write_table

    if arguments.golden is None:
        raise UserError(f"{CAFFE_FIDELITY} needs --golden DIR, the arrays that Caffe wrote")
    if not arguments.golden.is_dir():
        raise UserError(f"--golden {arguments.golden} is no folder; name one that is there")
    found = compare(arguments.golden)
    path = arguments.results / FIDELITY_TABLE
    write_table(found, path)
    for case in found:
        if not case.passed:
            _say(f"differs from Caffe: {case.file} {case.case}, array {case.worst.array}")
    print(f"{sum(case.passed for case in found)} of {len(found)} cases within tolerance\n"
          f"table: {path}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
