"""Dun et al. 2021, "ResIST: layer-wise decomposition of ResNets for distributed training": its
tables of accuracies, its gigabytes per round and its ablation.

There are two sets of figures: those of the poster by Dun, Wolfe and Kyrillidis, and the final ones
with standard deviations.  All rows of a table see as many images in all, whichever the sites.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from dualnet.methods.resist.settings import ResistConfig
from dualnet.reproduce.target import SCALES, Published, Target, Variant

POSTER, FINAL = "Dun, Wolfe and Kyrillidis, poster", "Dun et al. 2021"
TRAINING = "dualnet.reproduce.sites:training"
GIGABYTES = "dualnet.reproduce.sites:gigabytes"
ONE = "one site"

# Test accuracies in %: one site, then 2, 4 and 8 sites.
POSTER_TABLE = {"cifar10": (92.39, 92.34, 90.59, 89.19), "cifar100": (71.01, 70.68, 69.06, 68.93),
                "svhn": (95.76, 95.41, 95.17, 94.48)}
SITES = (2, 4, 8)
# Mean and standard deviation of ResIST, then local SGD.
FINAL_TABLE = {"cifar10": ((91.95, 0.32, 92.36), (92.35, 0.22, 92.90), (91.45, 0.30, 92.00)),
               "cifar100": ((70.06, 0.51, 70.67), (71.30, 0.20, 71.51), (70.26, 0.21, 69.64))}
# GB per round on CIFAR-100 of local SGD and of ResIST.
GB = {2: (0.662, 0.454), 4: (1.325, 0.720), 8: (2.649, 1.289)}

# Training images of all sites together: 160 epochs are published.
IMAGES = {"smoke": 64, "cpu": 51_200, "gpu": 10 * 384 * 128, "full": 160 * 390 * 128}
SETTINGS: dict[str, dict[str, Any]] = {
    "smoke": {"net": "preact-resnet26-basic", "batch_size": 2, "local_iterations": 2},
    "cpu": {"net": "preact-resnet26-basic", "batch_size": 32, "local_iterations": 10},
    "gpu": {}, "full": {}}
# That each of eight sites has: 4 of 22 blocks are published, of 8 the nearest are 2.
MIN_BLOCKS = {"smoke": 2, "cpu": 2, "gpu": 4, "full": 4}
TESTS = 4       # of the test images in a row


def _settings(scale: str, data: str, sites: int, **changes: Any) -> ResistConfig:
    """Settings of a row, with as many iterations as give the images of the scale."""
    data = "shapes" if (scale, data) == ("smoke", "cifar10") else data
    settings = ResistConfig(data=data, sites=sites, mean="channel", checkpoint_every=0,
                            **SETTINGS[scale])
    iterations = IMAGES[scale] // (settings.batch_size * sites)
    if scale == "smoke":
        iterations = 1
    return settings.replace(
        iterations=iterations, eval_every=iterations // TESTS, log_every=max(iterations // 50, 1),
        **changes).resolved()


def _tuned(scale: str) -> dict[str, int]:
    """Shorter rounds for eight sites; how much shorter is not published."""
    return {"local_iterations": SETTINGS[scale].get(
        "local_iterations", ResistConfig.local_iterations) // 2}


def _variant(scale: str, name: str, settings: ResistConfig,
             accuracy: list[Published]) -> Variant:
    return Variant(name, settings, {
        "accuracy": accuracy,
        "bytes_exchanged": [Published(None, f"{FINAL}: GB per round only, see resist-gb")]},
        test_images=20 if scale == "smoke" else None, measure=TRAINING)


def _said(percent: float, source: str, more: str = "") -> Published:
    return Published(round(percent / 100, 4), f"{source}, table of accuracies{more}")


def _table(scale: str, data: str) -> list[Variant]:
    poster, final = POSTER_TABLE[data], FINAL_TABLE.get(data)
    rows = [_variant(scale, ONE, _settings(scale, data, 1), [_said(poster[0], POSTER)])]
    for index, sites in enumerate(SITES):
        if scale == "cpu" and sites == 4:
            continue
        eight = _tuned(scale) if sites == 8 else {}
        overlap = {"min_blocks": MIN_BLOCKS[scale]} if sites == 8 else {}
        mean, deviation, local = final[index] if final else (None, None, None)
        said_local = [_said(local, FINAL)] if local else [
            Published(None, f"{POSTER}: not among its rows")]
        said = [_said(poster[index + 1], POSTER)] + (
            [_said(mean, FINAL, f", +- {deviation:.2f}")] if mean else [])
        rows += [_variant(scale, f"local SGD, {sites} sites",
                          _settings(scale, data, sites, decompose=False, **eight), said_local),
                 _variant(scale, f"ResIST, {sites} sites",
                          _settings(scale, data, sites, **eight, **overlap), said)]
    return rows


# -- the ledger of gigabytes -----------------------------------------------------------------------

def _gigabytes(scale: str) -> list[Variant]:
    """The same rows at every scale: arithmetic of the published net."""
    rows = []
    for sites, (local, resist) in GB.items():
        overlap = MIN_BLOCKS["full"] if sites == 8 else 0
        for name, value, changes in (("local SGD", local, {"decompose": False}),
                                     ("ResIST", resist, {"min_blocks": overlap})):
            settings = ResistConfig(sites=sites).replace(**changes).resolved()
            rows.append(Variant(f"{name}, {sites} sites", settings, {
                "gb_100_classes": [Published(value, f"{FINAL}, GB per round on CIFAR-100")],
                "gb_100_classes_dealt": [], "gb_10_classes": []},
                figure="gb_100_classes", unit="GB", measure=GIGABYTES))
    return rows


# -- the ablation ----------------------------------------------------------------------------------

NAIVE: dict[str, Any] = {"share_strided": False, "scale_branches": False}
NAIVE_2, PLAIN_8 = "2 sites, naive", "8 sites"


def _ablation(scale: str) -> list[Variant]:
    """Each row has what the rows before it have; all sections are dealt out in the first two."""
    pre = SETTINGS[scale].get("net", ResistConfig.net)
    steps: list[tuple[str, float, Mapping[str, Any]]] = [
        (NAIVE_2, 66.3, {**NAIVE, "sections": "1,2,3,4", "net": _post(pre)}),
        ("+ strided blocks shared", 68.3, {**NAIVE, "sections": "1,2,3,4", "net": _post(pre),
                                           "share_strided": True}),
        ("+ longest section only", 84.3, {"scale_branches": False, "net": _post(pre)}),
        ("+ branches scaled in a test", 91.5, {"net": _post(pre)}),
        ("+ pre-activation", 92.0, {})]
    overlap = {"min_blocks": MIN_BLOCKS[scale]}
    eights: list[tuple[str, float, Mapping[str, Any]]] = [
        (PLAIN_8, 86.5, {}), ("8 sites, + overlap", 89.9, overlap),
        ("8 sites, + shorter rounds", 91.3, {**overlap, **_tuned(scale)})]
    return [_variant(scale, name, _settings(scale, "cifar10", sites, **changes),
                     [Published(round(percent / 100, 4), f"{FINAL}, ablation")])
            for sites, rows in ((2, steps), (8, eights)) for name, percent, changes in rows]


def _post(net: str) -> str:
    """The net of the same size that normalises behind each convolution."""
    return net.removeprefix("preact-")


# -- the targets -----------------------------------------------------------------------------------

CURVES = {"loss_images": "log", "accuracy_images": "linear"}
LENGTHS = {"gpu": "10 of the published 160 epochs a row: not run",
           "full": "160 epochs of the published net a row: not run"}
SMALL = ("At scale cpu the net is a small one with nine blocks in one section, eight of which are "
         "dealt out, and 51,200 images are trained in all. ")
REMARK = (f"{SMALL}All rows see as many images, so a site of S has 1/S of the iterations. "
          "`bytes_exchanged` is what the first site and the others would send to each other in all "
          "rounds; here one process trains all of them. Tests use the statistics of the tested "
          "batch, as the authors' code does. How long the rounds of eight sites are is not "
          "published: half as long here, in local SGD too.")


def _accuracies(data: str, title: str, at_cpu: str) -> Target:
    here = "" if data == "cifar10" else f", with {title} in --data-dir"
    return Target(
        f"resist-{data}", f"{FINAL}, table of accuracies, {title}",
        "test accuracy of sub-nets trained at 2, 4 and 8 sites (2 and 8 at scale cpu) beside one "
        "site and beside local SGD with the same schedule",
        {"smoke": f"10 s{here}", "cpu": at_cpu, **LENGTHS}, partial(_table, data=data), CURVES,
        remark=REMARK, references=[f"local SGD, {sites} sites" for sites in SITES])


TARGETS = (
    _accuracies("cifar10", "CIFAR-10", "5 min a row"),
    _accuracies("cifar100", "CIFAR-100", "5 min a row, estimated"),
    _accuracies("svhn", "SVHN", "5 min a row, estimated"),
    Target("resist-gb", f"{FINAL}, GB per round",
           "what all sites receive and send in a round, by arithmetic",
           dict.fromkeys(SCALES, "5 s"), _gigabytes, seeded=False,
           remark="4 bytes for each weight that comes and each that goes, at each site. The paper "
                  "counts at every site as many blocks as the one with the most has, and cuts "
                  "0.4546 to 0.454; with 8 sites each has at least 4 blocks. `_dealt` counts the "
                  "blocks that are dealt out."),
    Target("resist-ablation", f"{FINAL}, ablation on CIFAR-10",
           "test accuracy as the parts of the method are added one after the other",
           {"smoke": "10 s", "cpu": "4 min a row", **LENGTHS}, _ablation, CURVES,
           remark=REMARK, references=(NAIVE_2, PLAIN_8), compared=False),
)
