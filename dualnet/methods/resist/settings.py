"""Settings of ResIST and of local SGD.  No torch."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from dualnet.config import TrainConfig, changed, flag
from dualnet.errors import UserError

RESIST = "resist"
IID = "iid"
DROPS = (0.5, 0.75)     # shares of the iterations after which the rate drops

# The authors' code: 40 epochs of 390 batches at each of four sites, 50 iterations in a round.
_PUBLISHED = {"sites": 4, "iterations": 40 * 390, "local_iterations": 50, "mean": "channel"}


@dataclasses.dataclass(frozen=True)
class ResistConfig(TrainConfig):
    """What `train resist` needs besides the settings of every method."""

    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {"published": _PUBLISHED}

    net: str = changed(TrainConfig, "net", "preact-resnet101-basic")
    mirror: bool = changed(TrainConfig, "mirror", True)
    crop: int = changed(TrainConfig, "crop", 4)
    batch_size: int = changed(TrainConfig, "batch_size", 128,
                              help="images per iteration of each site")
    iterations: int = changed(TrainConfig, "iterations", 1000,
                              help="updates of the weights at each site")
    lr: float = changed(TrainConfig, "lr", 0.03)
    lr_schedule: str = changed(
        TrainConfig, "lr_schedule", "drops", choices=("drops", "constant", "tail", "step"),
        help="learning rate over time: drops (times --lr-factor after half and after three quarters"
        " of the iterations); constant; tail (constant, then linear to 0 over the last 30 %); step")
    weight_decay: float = changed(TrainConfig, "weight_decay", 5e-4)
    log_every: int = changed(TrainConfig, "log_every", 1, help="iterations between two lines of"
                             " metrics, which come at the end of a round")
    eval_every: int = changed(TrainConfig, "eval_every", 0, help="iterations between two tests on"
                              " the test images, which come at the end of a round; 0 tests once, at"
                              " the end")
    checkpoint_every: int = changed(
        TrainConfig, "checkpoint_every", 1, help="iterations between two checkpoints, which come at"
        " the end of a round, and from which the same command resumes; 0 writes one at the end or"
        " when stopped")
    sites: int = flag(2, "sites that train sub-nets; one alone trains the whole net", minimum=1,
                      group="resist")
    local_iterations: int = flag(50, "iterations of a round, after which the sites' weights are"
                                 " averaged and the blocks dealt out anew", minimum=1,
                                 group="resist")
    decompose: bool = flag(True, "deal blocks out to the sites; without it each trains the whole"
                           " net, which is local SGD", group="resist")
    sections: str = flag("longest", "sections of the net whose blocks are dealt out, counted from"
                         " 1 and begun by each block that changes the shape: longest, or numbers"
                         " such as 2,3", group="resist")
    share_strided: bool = flag(True, "blocks that change the shape are at all sites; without it"
                               " their branches are dealt out as the others", group="resist")
    min_blocks: int = flag(0, "blocks that each site has at least, so that sites overlap; 0: no"
                           " more than its share", minimum=0, group="resist")
    assign: str = flag("balanced", "how blocks are dealt: balanced, each to as many sites as any"
                       " other; random, drawn by each site for itself, so that some may rest in a"
                       " round", choices=("balanced", "random"), group="resist")
    scale_branches: bool = flag(True, "in a test the branch of a dealt block counts by the share"
                                " of the sites that have it", group="resist")
    statistics: str = flag("batch", "statistics of batch normalisation in a test: those of the"
                           " tested batch, as the authors' code has it, or running ones, which are"
                           " averaged as the weights are", choices=("batch", "running"),
                           group="resist")
    split: str = flag(IID, "training images of a site: iid, all of them in an order of its own, or"
                      " dirichlet:A, of each class a share drawn with concentration A",
                      group="resist")
    rank_timeout: float = flag(1800.0, "seconds that a site waits for the others under torchrun"
                               " or at a folder, tests of the first one included", minimum=0,
                               local=True, group="machine")

    @property
    def is_decomposed(self) -> bool:
        """Whether there is anything to deal out."""
        return self.decompose and self.sites > 1

    @property
    def concentration(self) -> float | None:
        """A of --split dirichlet:A; None if all sites have all images.

        Raises UserError for anything else.
        """
        if self.split == IID:
            return None
        match = re.fullmatch(r"dirichlet:(\d+(?:\.\d*)?|\.\d+)", self.split)
        if match is None or float(match[1]) == 0:
            raise UserError("--split takes iid or dirichlet:A with a number A above 0, found "
                            f"'{self.split}'")
        return float(match[1])

    def resolved(self) -> Self:
        """The same, if it fits together.  Raises UserError if it does not."""
        if self.prototxt or self.solver_prototxt:
            raise UserError("Caffe's files are for `train single` and `train dual`; give --net and "
                            "the rates by flags")
        if self.sections != "longest" and not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", self.sections):
            raise UserError(f"--sections takes longest or numbers such as 2,3, found "
                            f"'{self.sections}'")
        _ = self.concentration
        return self

    # -- rounds --------------------------------------------------------------------------------

    def round_end(self, start: int) -> int:
        """How many iterations are over after the round that begins with iteration `start`."""
        return min(start + self.local_iterations, self.iterations)

    def is_logged(self, step: int) -> bool:
        """At the end of a round, if a line has become due in it."""
        return self._is_due(step, self.log_every)

    def is_evaluated(self, step: int) -> bool:
        """At the end of a round, if a test has become due in it."""
        return self._is_due(step, self.eval_every)

    def is_saved(self, step: int) -> bool:
        """At the end of a round, if a checkpoint has become due in it."""
        return self._is_due(step, self.checkpoint_every)

    def _is_due(self, step: int, every: int) -> bool:
        done = step + 1
        if done == self.iterations:
            return True
        before = done - self.local_iterations
        return done % self.local_iterations == 0 and every > 0 and done // every > before // every
