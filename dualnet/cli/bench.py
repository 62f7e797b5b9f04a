"""bench: what a message costs, how fast the dual net is, how much it holds; ratios in one run."""

from pathlib import Path
from typing import Any

from dualnet.cli import (
    bench_capacity,
    bench_exchange,
    bench_meprop,
    bench_monolith,
    bench_pipeline,
    bench_resist,
    bench_resnet,
)
from dualnet.cli.benching import count, report


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("bench", help="measure speed and memory, as ratios in one run")
    subjects = parser.add_subparsers(title="subjects", metavar="SUBJECT", required=True,
                                     parser_class=type(parser))
    for name, text, flags, command in (
            ("exchange", "one message between two processes, beside memcpy, gloo and np.save",
             bench_exchange.flags, bench_exchange.exchange),
            ("pipeline", "the schedules of the dual net beside the single net",
             bench_pipeline.flags, bench_pipeline.pipeline),
            ("capacity", "the largest batch of the single net and of each half",
             bench_capacity.flags, bench_capacity.capacity),
            ("resnet", "the switches of train resnet, and several processes, beside the plain one",
             bench_resnet.flags, bench_resnet.resnet),
            ("meprop", "sparse backward passes of single layers beside the dense one",
             bench_meprop.flags, bench_meprop.meprop),
            ("monolith", "stage 2 of train monolith with kept features beside running the trunks",
             bench_monolith.flags, bench_monolith.monolith),
            ("resist", "rounds of train resist beside rounds of local SGD",
             bench_resist.flags, bench_resist.resist),
            ("report", "render bench.md from the ledgers, measure nothing", None, report)):
        subject = subjects.add_parser(name, help=text)
        if flags is not None:
            flags(subject)
            subject.add_argument("--rounds", type=count, default=5, metavar="N",
                                 help="how often each has its turn (default: 5)")
        subject.add_argument("--results", type=Path, required=flags is None, metavar="DIR",
                             help="folder of ledgers, figures and bench.md"
                             + (" to write to (default: only print)" if flags else ""))
        subject.set_defaults(command=command, parser=subject)
