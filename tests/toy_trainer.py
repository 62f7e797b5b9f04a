"""A trainer of numbers, with nothing but numpy and shared_fs, to try faults on.

    python tests/toy_trainer.py net1 FOLDER HOME --iterations 40 --checkpoint-every 5

and the same for net2, in any order, with a HOME of its own.  Each iteration sends the state down
the chain of roles and back up, and every message is mixed into the state of its receiver: one that
is applied twice, left out, or taken from an abandoned history changes the digest printed at the
end, which is the same for every run that has the same --iterations, --size and --roles.

A role that is killed is started again by the same command.  SIGTERM: checkpoint, then exit 143.
Exit codes are those of dualnet: 0 done, 65 bad message, 69 role taken, 74 storage, 75 peer lost or
failed (the same command goes on), 78 the roles do not agree.
"""

import argparse
import hashlib
import re
import signal
import sys
import uuid
from itertools import pairwise
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from shared_fs import (
    Checkpoint,
    Exchange,
    HandshakeMismatch,
    InvalidMessage,
    PeerFailed,
    PeerLost,
    PeerRestarted,
    RoleTaken,
    RunOver,
    Storage,
    StorageError,
    WaitTimeout,
)

EXIT_CODES = ((InvalidMessage, 65), (RoleTaken, 69), (StorageError, 74), (PeerLost, 75),
              (PeerFailed, 75), (WaitTimeout, 75), (HandshakeMismatch, 78))
NAME = re.compile(r"([0-9a-f]{32})-([0-9]{8})-([0-9]{12})\.npy")
FACTOR = np.uint64(6364136223846793005)  # odd, so that mixing loses nothing modulo 2**64


class Stopped(BaseException):
    """SIGTERM was received; like KeyboardInterrupt, it is not an error."""


class Home:
    """The checkpoints of one role: one .npy file each, in a folder of its own."""

    def __init__(self, folder, storage=Storage):
        self.storage = storage(folder)
        self.storage.sweep(".", lambda name: name.endswith(".part"))  # of a dead predecessor
        self.storage.create_once("home", uuid.uuid4().hex.encode())
        self.name = self.storage.read_small("home", 32).decode()

    def held(self):
        found = [NAME.fullmatch(name) for name in self.storage.listing(".")]
        return sorted(Checkpoint(m[1], int(m[2]), int(m[3])) for m in found if m)

    def save(self, checkpoint, state):
        self.storage.publish_durable(self._name(checkpoint), state.tobytes())

    def load(self, checkpoint):
        return np.frombuffer(self.storage.read_small(self._name(checkpoint), 2**30), np.uint64)

    def remove_older(self, common):
        for checkpoint in self.held():
            if checkpoint < common:
                self.storage.remove(self._name(checkpoint))

    @staticmethod
    def _name(checkpoint):
        return f"{checkpoint.run}-{checkpoint.generation:08d}-{checkpoint.step:012d}.npy"


def channels_of(roles):
    """A chain: down1 leads from the first role to the second, up1 back."""
    pairs = list(enumerate(pairwise(roles), 1))
    return {f"down{i}": pair for i, pair in pairs} | {f"up{i}": pair[::-1] for i, pair in pairs}


def mixed(state, message, step):
    with np.errstate(over="ignore"):
        return state * FACTOR + message + np.uint64(step)


class Trainer:
    """One role of the toy; `trace` is called with what happens, for tests that follow it."""

    def __init__(self, exchange, home, iterations, every, size, trace=lambda *_: None):
        self.exchange, self.home, self.trace = exchange, home, trace
        self.iterations, self.every, self.size = iterations, every, size
        self.place = exchange.roles.index(exchange.role)
        self.stop = False
        exchange.stop_waiting = lambda: self.stop

    def run(self):
        """Train to the end, however often another role restarts; returns the final state."""
        try:
            with self.exchange:
                while True:
                    try:
                        return self._generation()
                    except PeerRestarted:
                        self.trace("rejoin")
                        self.exchange.rejoin()
        except RunOver:
            return self.home.load(self.home.held()[-1])

    def _generation(self):
        start = self.exchange.start
        self.trace("start", start.generation, start.base, start.step)
        self.exchange.report(phase="train")
        seed = np.arange(self.size, dtype=np.uint64) + np.uint64(1000 * self.place)
        state = self.home.load(start.checkpoint) if start.checkpoint else seed
        for step in range(start.step, self.iterations):
            try:
                state = self._iteration(state, step)
            except PeerLost:
                self._save(step, state)
                raise
            done = step + 1
            if done % self.every == 0 or done == self.iterations:
                self._save(done, state)
            if self.stop and done < self.iterations:
                self._save(done, state)
                raise Stopped
        if self.exchange.role == self.exchange.roles[-1]:
            self.exchange.wait_for_others_done()
        self.exchange.finish()
        return state

    def _iteration(self, state, step):
        exchange, place, last = self.exchange, self.place, len(self.exchange.roles) - 1
        exchange.report(step=step)
        message = np.empty(self.size, np.uint64)
        if place > 0:
            state = mixed(state, exchange.recv(f"down{place}", step, message), step)
        if place < last:
            exchange.send(f"down{place + 1}", step, state)
            state = mixed(state, exchange.recv(f"up{place + 1}", step, message), step)
        if place > 0:
            exchange.send(f"up{place}", step, state)
        self.trace("step", step)
        return state

    def _save(self, step, state):
        start = self.exchange.start
        if step > start.step:
            self.home.save(Checkpoint(start.run, start.generation, step), state)
            self.exchange.announce_held(self.home.held())
            if (common := self.exchange.common(self.home.held())) is not None:
                self.home.remove_older(common)


def digest(state):
    return hashlib.sha256(state.tobytes()).hexdigest()[:16]


def undisturbed(roles, iterations, size):
    """The digests that all roles must end with, computed without any exchange."""
    states = [np.arange(size, dtype=np.uint64) + np.uint64(1000 * i) for i in range(len(roles))]
    for step in range(iterations):
        for below in range(1, len(roles)):
            states[below] = mixed(states[below], states[below - 1], step)
        for above in reversed(range(len(roles) - 1)):
            states[above] = mixed(states[above], states[above + 1], step)
    return [digest(state) for state in states]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("role")
    parser.add_argument("folder", type=Path, help="the exchange folder, the same for all roles")
    parser.add_argument("home", type=Path, help="the folder of this role's checkpoints")
    parser.add_argument("--roles", default="net1,net2", help="the chain (default: %(default)s)")
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--checkpoint-every", type=int, default=5)
    parser.add_argument("--size", type=int, default=64, help="numbers per message, 8 bytes each")
    parser.add_argument("--window", type=int, default=2)
    parser.add_argument("--peer-timeout", type=float, default=60.0, help="seconds")
    parser.add_argument("--handshake-timeout", type=float, default=120.0, help="seconds")
    parser.add_argument("--storage-timeout", type=float, default=60.0, help="seconds")
    parser.add_argument("--fsync", choices=("auto", "never", "always"), default="auto")
    parser.add_argument("--transport", choices=("auto", "rename", "mapped"), default="auto")
    parser.add_argument("--trace", action="store_true", help="print each start and iteration")
    return parser.parse_args()


def trainer(args, storage=Storage, trace=lambda *_: None):
    """The trainer that the command line describes; `storage` is the class of its folders."""
    roles, home = tuple(args.roles.split(",")), Home(args.home, storage)
    exchange = Exchange(
        args.folder, args.role, channels=channels_of(roles), roles=roles, home=home.name,
        held=home.held, window=args.window, fsync=args.fsync, transport=args.transport,
        storage=storage(args.folder),
        agreement={"iterations": args.iterations, "size": args.size},
        handshake_timeout_s=args.handshake_timeout, peer_timeout_s=args.peer_timeout,
        storage_timeout_s=args.storage_timeout,
    )
    return Trainer(exchange, home, args.iterations, args.checkpoint_every, args.size, trace)


def main(args, storage=Storage):
    toy = trainer(args, storage, trace=lambda *what: args.trace and print(*what, flush=True))

    def stop(*_):
        toy.stop = True

    signal.signal(signal.SIGTERM, stop)
    try:
        print(digest(toy.run()), flush=True)
    except Stopped:
        return 128 + signal.SIGTERM
    except tuple(kind for kind, _ in EXIT_CODES) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return next(code for kind, code in EXIT_CODES if isinstance(error, kind))
    return 0


if __name__ == "__main__":
    sys.exit(main(arguments()))
