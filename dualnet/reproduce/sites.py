"""Train at several sites, all of them in this process, and count what they would exchange."""

from collections.abc import Sequence

import torch

from dualnet import machine, nets, session
from dualnet.errors import Diverged
from dualnet.methods.protocol import Record
from dualnet.methods.resist.deal import deal
from dualnet.methods.resist.parts import as_tested, dealt_blocks, published_bytes, round_bytes
from dualnet.methods.resist.settings import RESIST, ResistConfig
from dualnet.methods.resist.training import Resist
from dualnet.operations import num_parameters
from dualnet.reproduce.runner import Job, dataset_of, thinned
from dualnet.reproduce.target import Outcome
from dualnet.run import Run
from dualnet.train import Clock, train

SHAPE = (3, 32, 32)
CLASSES = (10, 100)     # of CIFAR-10 and SVHN, of CIFAR-100


def training(job: Job) -> Outcome:
    """Train and test; accuracy by the images that all sites have seen together."""
    settings: ResistConfig = job.settings
    dataset = dataset_of(settings.data, settings.data_dir, job.test_images)
    device = machine.prepare(settings, RESIST, (RESIST,))
    batches = session.batches_of(dataset, settings)
    method = Resist(settings, nets.build(settings.net, batches.input_shape, dataset.num_classes),
                    batches, device)
    run = Run(job.folder)
    run.start(RESIST, settings, overwrite=True)
    metrics, clock = run.open_metrics(RESIST, machine.environment(device)), Clock()
    end: dict[str, float | None] = {"diverged_at": None}
    try:
        lines = list(train(method, settings, metrics, clock))
    except Diverged:
        lines, end = run.metrics(RESIST), {"diverged_at": clock.done + 1.0}
    finally:
        metrics.close()
    return Outcome({**_figures(settings, method, lines), **end}, _curves(settings, lines),
                   machine.environment(device))


def _figures(settings: ResistConfig, method: Resist,
             lines: Sequence[Record]) -> dict[str, float | None]:
    """`bytes_rounds` is what all sites receive and send; `bytes_exchanged` leaves out the first
    one, which under torchrun averages in its own process."""
    facts, last = method.facts(), lines[-1]
    return {"accuracy": last["accuracy"] if last["split"] == "test" else None,
            "bytes_rounds": float(facts["bytes_rounds"]),
            "bytes_exchanged": float(facts["bytes_rounds"] * (settings.sites - 1)
                                     // settings.sites),
            "blocks_per_site": float(facts["blocks_per_site"]),
            "dealt_blocks": float(facts["dealt_blocks"]),
            "parameters": float(facts["parameters"]),
            "images": float(_images(settings, settings.iterations)),
            "loss_last": next((line["loss"] for line in reversed(lines)
                               if line["split"] == "train"), None)}


def _images(settings: ResistConfig, step: int) -> int:
    """Training images of all sites together after `step` iterations of each."""
    return step * settings.batch_size * settings.sites


def _curves(settings: ResistConfig, lines: Sequence[Record]) -> dict[str, list[list[float]]]:
    points = {split: [[_images(settings, line["step"]), line[key]] for line in lines
                      if line["split"] == split and line[key] is not None]
              for split, key in (("train", "loss"), ("test", "accuracy"))}
    return {"loss_images": thinned(points["train"]), "accuracy_images": thinned(points["test"])}


def gigabytes(job: Job) -> Outcome:
    """GB of a round, by arithmetic: as the paper counts them, and of the blocks really dealt out.

    Nothing is trained; the net has no memory.
    """
    settings: ResistConfig = job.settings
    figures: dict[str, float | None] = {}
    for classes in CLASSES:
        with torch.device("meta"):
            net = as_tested(settings, nets.build(settings.net, SHAPE, classes))
        blocks = dealt_blocks(settings, net)
        figures |= {
            f"gb_{classes}_classes": published_bytes(net, blocks, settings.sites,
                                                     settings.min_blocks) / 1e9,
            f"gb_{classes}_classes_dealt": round_bytes(
                net, blocks, deal(blocks, settings, 0)) / 1e9,
            f"parameters_{classes}_classes":
                float(num_parameters(net))}
    return Outcome(figures, {}, machine.environment(torch.device("cpu")))
