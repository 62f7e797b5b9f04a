"""BoostResNet in training: one block and its classifier at a time, behind frozen blocks.

The oracle of the paper's algorithm 2 minimises sum_i sum_{l != y_i} exp(s_{t+1}(i,l) -
s_{t+1}(i,y_i)) over the block and its classifier.  The sum telescopes, so this is a loss of o_{t+1}
alone, and the samples count alike: what the weights of boosting say, the features already carry.
As the paper's own experiments do, the logits take the place of alpha o.
"""

import itertools
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dualnet.data.batches import Batches
from dualnet.evaluate import score
from dualnet.methods.boosted.modules import FrozenFeatures, draw_heads, modules_of
from dualnet.methods.boosted.settings import ROLE, BoostedConfig
from dualnet.methods.boosted.telescope import Telescope
from dualnet.methods.protocol import Record
from dualnet.nets.dropout import set_iteration
from dualnet.nets.initial import draw_weights
from dualnet.optimizer import Optimizer, gradient_norm


def block_loss(logits: Tensor, labels: Tensor, name: str) -> Tensor:
    """Mean over the batch of what a block minimises.

    cross_entropy   -z_y + ln sum_l exp z_l
    exponential     sum_{l != y} exp(z_l - z_y), which is exp(cross entropy) - 1
    """
    losses = functional.cross_entropy(logits, labels, reduction="none")
    return (losses if name == "cross_entropy" else losses.expm1()).mean()


class Boosted:
    """A residual net of which one hypothesis module is in training, those before it frozen.

    net  before its weights are drawn
    Raises UserError if the net has no residual blocks, or more than iterations.
    """

    name = ROLE
    is_whole = True     # nothing is under way between iterations

    def __init__(self, settings: BoostedConfig, net: nn.Sequential, batches: Batches,
                 device: torch.device) -> None:
        self.batches, self.device = batches, device
        self.dtype: torch.dtype = getattr(torch, settings.weight_format)
        self._modules, last = modules_of(net)
        self.settings = settings.shared_out(len(self._modules))
        draw_weights(net, settings.seed)
        self._heads = draw_heads(self._modules, last, batches.input_shape, settings.seed)
        for part in (*self._modules, *self._heads):
            part.to(device, self.dtype)
        classes: int = self._outputs_of(batches.unaugmented(slice(0, 1))).shape[1]
        labels = torch.as_tensor(batches.dataset.train_labels).long()
        self._telescope = Telescope(labels, classes)
        self._features = FrozenFeatures(batches, device, self.dtype, settings.cache_mb * 2**20)
        self._rounds: list[dict[str, Any]] = []
        self._used = 1          # modules that the net is made of
        self._begin(0, since=0)

    def _outputs_of(self, images: Any) -> Tensor:
        with torch.no_grad():
            x = torch.as_tensor(images).to(self.device, self.dtype)
            return self._heads[0].eval()(self._modules[0].eval()(x))

    def _begin(self, index: int, since: int) -> None:
        """Module `index` is in training from iteration `since` on; its momentum begins at 0."""
        self._index, self._since = index, since
        self._in_training = nn.ModuleDict({"part": self._modules[index],
                                           "head": self._heads[index]})
        share = self.settings.replace(iterations=self.settings.block_iterations)
        self._optimizer = Optimizer(self._in_training, share, self.settings.lr)

    # -- training ------------------------------------------------------------------------------

    def steps(self, start: int = 0) -> Iterator[Record]:
        """Train from iteration `start`, one record per iteration."""
        for step in range(start, self.settings.iterations):
            record = self._iteration(step)
            if self.settings.is_round_over(step):
                record |= self._judge(step)
            yield record

    def _iteration(self, step: int) -> Record:
        part, head = self._modules[self._index], self._heads[self._index]
        self._in_training.train()
        set_iteration(self._in_training, self.settings.seed, step)
        labels = torch.as_tensor(self.batches.labels(step)).to(self.device)
        logits = head(part(self._features.batch(step)))
        loss = block_loss(logits, labels, self.settings.block_loss)
        self._optimizer.zero_grad()
        loss.backward()
        assert self.settings.block_iterations is not None
        own = (step - self._since) % self.settings.block_iterations
        record = {"step": step, "epoch": self.batches.epoch(step + 1),
                  "lr": self._optimizer.lr(own), "loss": loss.item(),
                  "accuracy": (logits.argmax(1) == labels).double().mean().item()}
        if self.settings.is_logged(step):
            record |= {f"{self.name}/module": self._index,
                       f"{self.name}/grad_norm": gradient_norm(self._in_training)}
        self._optimizer.step(own)
        return record

    def _judge(self, step: int) -> Record:
        """Measure the module in training; if it is a weak learner, the next one begins.

        A module that is none when the iterations are used up is left out: the paper's T.
        """
        outputs = self._all_outputs()
        found = self._telescope.judge(outputs)
        passes = found.gamma > self.settings.gamma
        self._used = self._index + 1 if passes else max(self._index, 1)
        figures = {**found._asdict(), "gamma": found.gamma}
        self._rounds.append({"step": step + 1, "module": self._names[self._index],
                             "index": self._index, "passes": passes, **figures})
        if passes and self._index + 1 < len(self._modules) and step + 1 < self.settings.iterations:
            self._telescope.add(outputs)
            self._features.freeze(self._modules[self._index])
            self._begin(self._index + 1, since=step + 1)
        return {f"{self.name}/{key}": value for key, value in figures.items()}

    @torch.no_grad()
    def _all_outputs(self) -> Tensor:
        """o of the module in training for all training images, float64 [m, k]."""
        self._in_training.eval()
        part, head = self._modules[self._index], self._heads[self._index]
        return torch.cat([head(part(chunk)).double().softmax(1).cpu()
                          for chunk in self._features.chunks()])

    @property
    def _names(self) -> list[str]:
        return [next(iter(dict(module.named_children()))) for module in self._modules]

    # -- what has been trained -----------------------------------------------------------------

    def net(self, count: int) -> nn.Sequential:
        """The net of the first `count` modules with the classifier behind the last of them."""
        parts = (*self._modules[:count], self._heads[count - 1])
        return nn.Sequential(OrderedDict(itertools.chain.from_iterable(
            part.named_children() for part in parts)))

    def evaluate(self) -> Record:
        """Loss and accuracy on the test images, of the modules trained so far; in the end of those
        that are weak learners."""
        is_over = bool(self._rounds) and self._rounds[-1]["step"] == self.settings.iterations
        net = self.net(self._used if is_over else self._index + 1)
        return score(net, self.batches, self.device, self.dtype, self.settings.num_views)

    def state_dict(self) -> dict[str, Any]:
        """The net, and what its growth goes on from."""
        reached = self._index + 1
        telescope = self._telescope
        return {
            "net": self.net(self._used).state_dict(), "used": self._used,
            "modules": [part.state_dict() for part in self._modules[:reached]],
            "heads": [head.state_dict() for head in self._heads[:reached]],
            "optimizer": self._optimizer.state_dict(), "index": self._index, "since": self._since,
            "rounds": list(self._rounds), "outputs": telescope.outputs, "alpha": telescope.alpha,
            "edge": telescope.edge, "sum_gamma_squared": telescope.sum_gamma_squared}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        for kind, parts in (("modules", self._modules), ("heads", self._heads)):
            for part, tensors in zip(parts, state[kind], strict=False):     # the others as drawn
                part.load_state_dict(tensors)
        for module in self._modules[:state["index"]]:
            self._features.freeze(module)
        self._begin(state["index"], state["since"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._used, self._rounds = state["used"], list(state["rounds"])
        for name in ("outputs", "alpha", "edge", "sum_gamma_squared"):
            setattr(self._telescope, name, state[name])

    def facts(self) -> Record:
        """The judgements in order; a net that grows has no copies that could collapse."""
        return {"collapsed": False, "collapse_reason": "", "modules": len(self._modules),
                "modules_used": self._used, "block_iterations": self.settings.block_iterations,
                "rounds": self._rounds}


def grown_net(settings: BoostedConfig, net: nn.Sequential, used: int,
              input_shape: tuple[int, ...]) -> nn.Sequential:
    """The net of the first `used` modules of `net`, before its weights are loaded."""
    modules, last = modules_of(net)
    heads = draw_heads(modules, last, input_shape, settings.seed)
    parts = (*modules[:used], heads[used - 1])
    return nn.Sequential(OrderedDict(itertools.chain.from_iterable(
        part.named_children() for part in parts)))
