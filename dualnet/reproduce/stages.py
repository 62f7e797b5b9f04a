"""Train a MonolithNet in its three stages, and tell what each of them reaches."""

from collections.abc import Iterator
from statistics import fmean

from dualnet import machine, session
from dualnet.errors import Diverged
from dualnet.methods.monolith.settings import HEAD, MONOLITH, WHOLE, MonolithConfig
from dualnet.methods.protocol import Record
from dualnet.monolith_costs import costs_of, parameters_of
from dualnet.monolith_session import Monolith
from dualnet.reproduce.runner import Job, dataset_of, thinned
from dualnet.reproduce.target import Outcome
from dualnet.run import Run

# Figures of the summary that are told.
TOLD = ("accuracy_head", "accuracy_best_trunk", "accuracy_mean_logits",
        "accuracy_mean_probabilities", "parameters", "parameters_trunk", "bytes_exchanged")
SHAPE, CLASSES, IMAGES = (3, 32, 32), 10, 50_000       # of CIFAR-10


def stages(job: Job) -> Outcome:
    """Train all stages in this process, the trunks one after another."""
    settings: MonolithConfig = job.settings
    run = Run(job.folder)
    dataset = session.limited(dataset_of(settings.data, settings.data_dir, job.test_images),
                              settings)
    where = machine.environment(machine.prepare(settings, WHOLE, (WHOLE,)))
    run.start(MONOLITH, settings, overwrite=True)
    published = float(parameters_of(costs_of(MonolithConfig().resolved(), SHAPE, CLASSES, IMAGES)))
    figures: dict[str, float | None] = {"parameters_3xwrn_28_20": published}
    try:
        for _ in _all(Monolith(settings, run, dataset)):
            pass
    except Diverged:
        end = run.divergence() or {}
        return Outcome({**figures, "accuracy": None, "diverged_at": end.get("step")}, {}, where)
    summary = run.summary()
    figures |= {"accuracy": summary["test_accuracy"], "diverged_at": None,
                **{name: float(summary[name]) for name in TOLD},
                "accuracy_mean_trunks": _mean_trunks(settings, summary)}
    return Outcome(figures, _curves(settings, run, figures), where)


def _all(monolith: Monolith) -> Iterator[Record]:
    for role in monolith.settings.trunk_roles:
        yield from monolith.train_trunk(role)
    yield from monolith.train_head()
    yield from monolith.train_all()


def _mean_trunks(settings: MonolithConfig, summary: Record) -> float:
    return fmean(summary[f"accuracy_{role}"] for role in settings.trunk_roles)


def _curves(settings: MonolithConfig, run: Run,
            figures: dict[str, float | None]) -> dict[str, list[list[float]]]:
    """Losses by iteration, those of the trunks as their mean; accuracies at the end of stages, that
    of stage 1 before and behind the mean of the trunks' probabilities."""
    lines = {role: [line for line in run.metrics(role) if line["split"] == "train"]
             for role in (*settings.trunk_roles, HEAD, WHOLE)}
    loss = [[one["step"], fmean(each["loss"] for each in (one, *others))] for one, *others in
            zip(*(lines[role] for role in settings.trunk_roles), strict=True)]
    loss += [[line["step"], line["loss"]] for role in (HEAD, WHOLE) for line in lines[role]]
    ends = {role: lines[role][-1]["step"] for role in (settings.trunk_roles[0], HEAD, WHOLE)}
    at = [ends[settings.trunk_roles[0]]] * 2 + [ends[HEAD], ends[WHOLE]]
    names = ("accuracy_mean_trunks", "accuracy_mean_probabilities", "accuracy_head", "accuracy")
    accuracy = [[step, figures[name] or 0.0] for step, name in zip(at, names, strict=True)]
    return {"loss": thinned(loss), "accuracy": thinned(accuracy)}
