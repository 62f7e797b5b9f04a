"""Miranda and Von Zuben 2016, "Reducing the training time of neural networks by partitioning".

The paper does not state how pixels are scaled on MNIST, nor how weights are drawn there; here
pixels lie between 0 and 1 and fillers are those of Caffe's LeNet, drawn for the width of each
sub-model.  On CIFAR-10 all settings are those of cuda-convnet's 11pct files, but for what the
recipe `cuda-convnet` says of the schedule.
"""

from collections.abc import Mapping
from typing import Any

from dualnet.config import RECIPES, TrainConfig
from dualnet.methods.net2wider.settings import Net2WiderConfig
from dualnet.methods.partition.settings import PartitionConfig
from dualnet.reproduce.target import Published, Target, Variant

PAPER = "Miranda and Von Zuben 2016"
PHASES = "dualnet.reproduce.phases:phases"
SPEED = "dualnet.reproduce.speed:iteration_speed"
SMOKE = {"data": "shapes", "iterations": 3, "batch_size": 10, "eval_every": 0, "log_every": 1}

# Section 3.1; an epoch has 120 iterations.
MNIST = {"net": "lenet-dropout", "data": "mnist", "mean": "none", "scale": 1 / 255, "lr": 0.1,
         "lr_schedule": "constant", "momentum": 0.9, "batch_size": 500}
CIFAR = {**RECIPES["cuda-convnet"], "data": "cifar10", "momentum": 0.9}


def _variant(scale: str, name: str, config: type[TrainConfig], settings: Mapping[str, Any],
             published: Mapping[str, list[Published]], **more: Any) -> Variant:
    """A variant, cut down where `scale` is smoke."""
    is_smoke = scale == "smoke"
    values = {**settings, **(SMOKE if is_smoke else {})}
    for key in ("merge_at", "widen_at"):
        if is_smoke and values.get(key):
            values[key] = 1
    chosen = config(**values)
    if isinstance(chosen, PartitionConfig | Net2WiderConfig):
        chosen = chosen.resolved()
    return Variant(name, chosen, published, **{"test_images": 50 if is_smoke else None, **more})


def _words(text: str, where: str) -> list[Published]:
    return [Published(None, f"{PAPER}, {where}: {text}")]


# -- table 1 ---------------------------------------------------------------------------------------

# Sub-models, parameters of one, speed-up of one iteration.
TABLE_1 = ((1, 431_080, 1.0), (2, 109_295, 2.10), (5, 18_224, 3.17), (10, 4_867, 4.17))


def _table_1(scale: str) -> list[Variant]:
    iterations = {"smoke": 3, "cpu": 110, "gpu": 1100, "full": 1100}[scale]
    rows = [(f"MNIST, K = {num_subs}", {**MNIST, "sub_models": num_subs}, speedup, parameters,
             f"{PAPER}, table 1") for num_subs, parameters, speedup in TABLE_1]
    rows.append(("CIFAR-10, K = 2", {**CIFAR, "sub_models": 2}, 3.3, 533_226,
                 f"{PAPER}, section 3.2"))
    found = []
    for name, settings, speedup, parameters, source in rows:
        said = source if name.startswith("MNIST") else "cuda-convnet's 11pct files, by arithmetic"
        found.append(_variant(
            scale, name, PartitionConfig, {**settings, "iterations": iterations, "merge_at": 1},
            {"iteration_speedup": [Published(speedup, f"{source}, GeForce GTX 760")],
             "parameters": [] if scale == "smoke" else [Published(float(parameters), said)]},
            figure="iteration_speedup", unit="ratio", measure=SPEED))
    return found


# -- figures 2 and 3 -------------------------------------------------------------------------------

def _mnist(scale: str) -> list[Variant]:
    """K sub-models for half of the iterations, the merged net for the other half."""
    epochs = 2 if scale == "cpu" else 200
    settings = {**MNIST, "iterations": 120 * epochs, "merge_at": 60 * epochs,
                "eval_every": 20 if scale == "cpu" else 1200}
    return [_variant(scale, f"K = {num_subs}", PartitionConfig,
                     {**settings, "sub_models": num_subs}, _said_of(num_subs),
                     figure="errors", unit="per 10,000", measure=PHASES)
            for num_subs, _, _ in TABLE_1]


def _said_of(num_subs: int) -> dict[str, list[Published]]:
    if num_subs == 1:
        return {"errors": _words("in curves only", "figure 3")}
    step = _words("a step at the merge", "figure 3")
    return {
        "errors": _words("the performance of the full training, reached faster", "figure 3"),
        "errors_before": step, "errors_after": step,
        "diversity": _words("the more sub-models, the more diverse", "figure 2"),
        "speedup": _words("a single machine is faster with K = 2 only", "section 3.1")}


# -- table 2 ---------------------------------------------------------------------------------------

EPOCHS = 520        # of its schedule; the rate falls behind 500
# Merge after so many epochs: errors of Net2WiderNet and of partitioning, minutes of training with
# the sub-models in series and in parallel.
TABLE_2 = {0: (1175.75, 1177.20, 124.69, 124.69), 50: (1189.80, 1183.25, 120.18, 116.89),
           100: (1187.80, 1180.15, 115.68, 109.10), 150: (1198.80, 1177.55, 111.18, 101.31),
           200: (1198.85, 1173.75, 106.67, 93.51), 250: (1200.85, 1178.40, 102.17, 85.72),
           300: (1219.60, 1177.05, 97.67, 77.93), 350: (1244.05, 1177.55, 93.16, 70.13),
           400: (1278.15, 1184.10, 85.89, 59.57), 450: (1325.95, 1191.75, 78.62, 49.01),
           500: (1388.50, 1257.70, 71.34, 38.44)}
WHOLE_NETS = {"original": ("cuda-convnet", 1182.95, 142.39),
              "duplicated": ("cuda-convnet-duplicated", 1184.60, 124.69)}
DUPLICATED_MIN = 124.69
MERGES = {"smoke": (0, 200), "cpu": (0, 200, 400), "gpu": (0, 200, 300, 400, 500),
          "full": tuple(TABLE_2)}
PER_EPOCH = {"smoke": 1, "cpu": 1, "gpu": 39, "full": 390}


def _table_2(scale: str) -> list[Variant]:
    """The published schedule, an epoch of which takes PER_EPOCH iterations."""
    per_epoch = PER_EPOCH[scale]
    settings = {**CIFAR, "iterations": EPOCHS * per_epoch, "lr_step": 500 * per_epoch,
                "batch_size": 32 if scale == "cpu" else 128}
    more: dict[str, Any] = {"figure": "errors", "unit": "per 10,000", "measure": PHASES}
    if scale == "cpu":
        more["test_images"] = 2000
    found = [_variant(scale, name, TrainConfig, {**settings, "net": net},
                      {"errors": [_mean(errors)],
                       "train_s": _words(f"{minutes} minutes", "table 2")},
                      **more)
             for name, (net, errors, minutes) in WHOLE_NETS.items()]
    for epochs in MERGES[scale]:
        net2wider, partition, serial, parallel = TABLE_2[epochs]
        at = epochs * per_epoch
        found.append(_variant(
            scale, f"partition, merge at {epochs}/{EPOCHS}", PartitionConfig,
            {**settings, "merge_at": at},
            {"errors": [_mean(partition)], "speedup": [_ratio(serial)],
             "speedup_parallel": [_ratio(parallel)]}, **more))
        found.append(_variant(
            scale, f"net2wider, widened at {epochs}/{EPOCHS}", Net2WiderConfig,
            {**settings, "widen_at": at},
            {"errors": [_mean(net2wider)], "speedup": [_ratio(parallel)]}, **more))
    return found


def _mean(errors: float) -> Published:
    return Published(errors, f"{PAPER}, table 2, 520 epochs, mean of 20 runs")


def _ratio(minutes: float) -> Published:
    return Published(round(DUPLICATED_MIN / minutes, 2), f"{PAPER}, table 2, GeForce GTX 760")


CPU = ("The published seconds are of a GPU, of which small nets leave a part idle. A CPU core is "
       "busy with a small net too: an iteration costs about what its arithmetic does, and small "
       "sub-models gain more. Each row is measured in a process of its own: the allocator "
       "of one that has trained larger nets before serves the whole net faster.")
SECONDS = ("Seconds are iterations times the median time of one, without tests; on a CPU with one "
           "thread those in which the processor worked for the process.")

TARGETS = (
    Target("partition-table-1", f"{PAPER}, table 1",
           "parameters of a sub-model, and how much faster than one of the whole net its iteration "
           "is; on a machine that does nothing else",
           {"smoke": "5 s", "cpu": "5 min a seed", "gpu": "1 min a seed, estimated",
            "full": "1 min a seed on a GPU, estimated"}, _table_1,
           remark=f"{CPU} K = 1 compares the whole net with itself."),
    Target("partition-mnist", f"{PAPER}, figures 2 and 3 (section 3.1)",
           "how differently sub-models see the test images just before the merge, and loss and "
           "errors before and behind it",
           {"smoke": "10 s", "cpu": "6 min a seed", "gpu": "8 min a run, estimated",
            "full": "8 min a run on a GPU, estimated; 50 seeds as published"}, _mnist,
           {"test_loss": "log", "test_loss_s": "log", "errors": "log", "errors_s": "log"},
           densities=("probabilities",),
           remark=f"{SECONDS} {CPU} The curves of sub-models are means over them.",
           references=("K = 1",)),
    Target("partition-table-2", f"{PAPER}, table 2 (section 3.2)",
           "when to merge, on CIFAR-10: the full nets, partitioning and Net2WiderNet, errors and "
           "speed-ups in series and in parallel (at scale cpu an epoch is one iteration of 32 "
           "images, and the first 2,000 test images are scored)",
           {"smoke": "10 s", "cpu": "9 min a seed", "gpu": "8 min a run, estimated",
            "full": "an hour a run on a GPU, estimated; 20 seeds as published"}, _table_2,
           remark=f"{SECONDS} `speedup` is that to the whole net in all iterations, with the "
                  "sub-models in series, `speedup_parallel` with all at once. What the duplicated "
                  "net gains over the original is in their `train_s`.",
           references=("original",)),
)
