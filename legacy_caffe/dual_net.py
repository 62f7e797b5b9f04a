"""One side of the dual net in Caffe: python legacy_caffe/dual_net.py net1 --exchange-dir DIR ...

The other side is this script as the other role, or `dualnet net1` / `dualnet net2`.
"""

import argparse
import dataclasses
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if not __package__:
    # Run as a file: this folder is on the path then, where the one above it is needed, also by
    # Caffe, which imports legacy_caffe.losses by itself.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from legacy_caffe import nets, roles
from legacy_caffe.batches import BadData, Batches, load
from legacy_caffe.settings import (
    DENOMINATORS,
    LOSSES,
    MEANS,
    MESSAGE_DTYPES,
    SCHEDULES,
    BadSetting,
    Settings,
)
from legacy_caffe.single import train_single
from shared_fs import Exchange, errors

EXIT_CODES = """\
exit codes:
  0    done
  2    a wrong flag, value or folder; no Caffe
  65   data or a message that are missing or damaged
  69   the role is taken by another process
  74   the disk: full, read-only, not writable
  75   the other role is lost, failed, began anew or did not start
  76   the training diverged
  78   the two sides disagree, or the exchange folder belongs to another run
  130  Ctrl-C; 143: SIGTERM"""

HELP = {
    "iterations": "updates of the weights",
    "batch_size": "images per iteration",
    "seed": "seed of the order of images and of Caffe's fillers",
    "loss": "loss of net1, or a control: " + ", ".join(LOSSES),
    "denominator": "denominator of the normalised losses: " + ", ".join(DENOMINATORS),
    "schedule": "whose weights move when: " + ", ".join(SCHEDULES),
    "net1_steps": "iterations of a turn of net1, with --schedule alternating",
    "net2_steps": "iterations of a turn of net2, with --schedule alternating",
    "log_every": "iterations between two lines",
    "eval_every": "iterations between two tests; 0 tests once, at the end",
    "mean": "mean of the training images to subtract: " + ", ".join(MEANS),
    "scale": "factor on the pixels, after the mean",
    "equalise": "equalise the histogram of each image and channel",
    "bgr": "channels in the order blue, green, red",
    "mirror": "mirror half of the training images",
    "message_dtype": "number format of the messages: " + ", ".join(MESSAGE_DTYPES),
}
CHOICES: dict[str, Sequence[str]] = {
    "loss": tuple(LOSSES), "denominator": DENOMINATORS, "schedule": SCHEDULES, "mean": MEANS,
    "message_dtype": MESSAGE_DTYPES}
# What the flags start from: the thesis' nets get what its finished code fed them.
PRESETS: dict[str, dict[str, Any]] = {
    "thesis": {"mean": "none", "scale": 1.0, "equalise": True, "bgr": True, "mirror": True,
               "batch_size": 1000, "schedule": "alternating", "iterations": 8000},
    "caffenet227": {"mean": "channel", "scale": 1.0, "bgr": True, "batch_size": 256},
}


def parser() -> argparse.ArgumentParser:
    """The flags; those of `Settings` leave no trace when they are not given."""
    made = argparse.ArgumentParser(
        "dual_net.py", description=__doc__, epilog=EXIT_CODES, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("role", choices=[*roles.ROLES, "single"],
                      help="the part to train; single: the undivided net, alone")
    made.add_argument("--exchange-dir", type=Path, metavar="DIR",
                      help="folder that both roles see; not used before")
    made.add_argument("--data", type=Path, required=True, metavar="DIR",
                      help="folder that prepare_cifar10.py or prepare_images.py wrote")
    made.add_argument("--net", default="small", metavar="NAME",
                      help="small, thesis, caffenet227, or a folder of prototxts (default: small)")
    for field in dataclasses.fields(Settings):
        words: dict[str, Any] = {"default": argparse.SUPPRESS, "dest": field.name,
                                 "help": f"{HELP[field.name]} (default: {field.default})"}
        if isinstance(field.default, bool):
            words["action"] = argparse.BooleanOptionalAction
        else:
            kind = type(field.default)
            words |= {"type": kind, "choices": CHOICES.get(field.name),
                      "metavar": "NAME" if field.name in CHOICES else kind.__name__.upper()}
        made.add_argument("--" + field.name.replace("_", "-"), **words)
    _add_own(made.add_argument_group("this side alone"))
    return made


def _add_own(group: Any) -> None:
    group.add_argument("--lr", type=float, help="learning rate (default: base_lr of the solver)")
    group.add_argument("--update", choices=("hand", "solver"), default="hand",
                       help="hand: w -= lr dw, as the thesis does (eq. 7.1), without momentum, "
                       "decay, policy and multipliers; solver: Caffe's update (default: hand)")
    group.add_argument("--accumulate-diffs", action="store_true",
                       help="never clear the gradients, as bare forward and backward calls do")
    group.add_argument("--builtin-loss", action="store_true",
                       help="Caffe's own EuclideanLoss in place of the Python layer")
    group.add_argument("--gpu", type=int, metavar="N", help="GPU to train on (default: the CPU)")
    group.add_argument("--save", type=Path, metavar="FILE", help="write the weights, a .caffemodel")
    group.add_argument("--window", type=int, default=2,
                       help="messages in flight per channel, the same on both sides (default: 2)")
    group.add_argument("--handshake-timeout", type=float, default=600.0, metavar="SECONDS",
                       help="how long to wait for the other role to start (default: 600)")
    group.add_argument("--peer-timeout", type=float, metavar="SECONDS", help="silence after which "
                       "the other role is lost (default: 120; 300 on network file systems)")


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The flags over the preset of the net.  Raises BadSetting."""
    names = {field.name for field in dataclasses.fields(Settings)}
    given = {name: value for name, value in vars(arguments).items() if name in names}
    settings = Settings(**{**PRESETS.get(Path(arguments.net).name, {}), **given})
    if arguments.builtin_loss and LOSSES[settings.loss].layer != "EuclideanLossLayer":
        raise BadSetting(f"--builtin-loss is the Euclidean loss, found --loss {settings.loss}")
    if arguments.builtin_loss and not LOSSES[settings.loss].has_weight:
        raise BadSetting("Caffe's own loss layers have their loss_weight by default: leave out "
                         "--builtin-loss with --loss no_loss_weight")
    if (arguments.role == "single") != (arguments.exchange_dir is None):
        raise BadSetting("net1 and net2 need --exchange-dir, single has no use for it")
    return settings


def train(arguments: argparse.Namespace) -> None:
    """Train one side to the end."""
    settings, role = settings_of(arguments), arguments.role
    options = nets.Options(nets.folder_of(arguments.net), arguments.lr, arguments.update,
                           arguments.accumulate_diffs, arguments.builtin_loss, arguments.gpu)
    nets.import_caffe()
    dataset = load(arguments.data)
    batches = Batches(dataset, settings.batch_size, settings.seed, **settings.preprocessing())
    net = nets.NETS[role](options, settings, dataset.train_images.shape[1:], dataset.num_classes)

    def say(line: str) -> None:
        print(f"{role}: {line}", flush=True)

    if role == "single":
        train_single(net, batches, settings, say)
    else:
        exchange = Exchange(
            arguments.exchange_dir, role, channels=roles.CHANNELS, roles=roles.ROLES,
            agreement=settings.agreement(dataset.fingerprint()), window=arguments.window,
            handshake_timeout_s=arguments.handshake_timeout,
            peer_timeout_s=arguments.peer_timeout)
        train_part: Any = {"net1": roles.train_net1, "net2": roles.train_net2}[role]
        with exchange:
            train_part(roles.Link(exchange, settings.message_dtype), net, batches, settings, say)
    if arguments.save is not None:
        net.net.save(str(arguments.save))


def explain(error: BaseException) -> tuple[int, str]:
    """The exit code and the sentence for `error`; re-raises what is a bug."""
    if isinstance(error, errors.PeerRestarted):
        return 75, f"{error}; this side keeps no checkpoints: start both with a fresh folder"
    codes: tuple[tuple[type[BaseException], int], ...] = (
        (BadSetting, 2), (nets.NoCaffe, 2), (roles.Diverged, 76), (BadData, 65),
        (errors.NonFinite, 76), (errors.InvalidMessage, 65), (errors.RoleTaken, 69),
        (errors.StorageError, 74), (errors.HandshakeMismatch, 78), (errors.ExchangeError, 75))
    for kind, code in codes:
        if isinstance(error, kind):
            return code, str(error)
    raise error


def _terminate(number: int, frame: Any) -> None:
    raise SystemExit(128 + number)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        train(arguments)
        return 0
    except KeyboardInterrupt:
        code, sentence = 130, "stopped by Ctrl-C"
    except Exception as error:
        code, sentence = explain(error)
    print(f"dual_net.py: {sentence}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
