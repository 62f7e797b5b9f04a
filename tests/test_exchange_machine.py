"""The real code on a disk in memory: any order of steps, crashes and power losses ends as if
undisturbed.  Where the model (protocol_model.py) proves the protocol, this tries its code."""

import tempfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from memory_storage import Actor, Crash, World
from toy_trainer import Trainer, digest, trainer, undisturbed

from shared_fs import ExchangeError

TOY = Namespace(
    iterations=12, checkpoint_every=2, size=2, window=2, peer_timeout=1e6, handshake_timeout=1e6,
    storage_timeout=5.0, fsync="auto", transport="rename",
)
MOST_STEPS = 20_000  # of one role, to end a run that nothing disturbs any more


class Machine(RuleBasedStateMachine):
    """Roles that run for a while, die, or die with the machine they share."""

    roles = ("net1", "net2")

    @initialize(seed=st.integers(0, 2**16))
    def begin(self, seed):
        self.folder = tempfile.TemporaryDirectory()
        self.world, self.digests = World(seed), {}
        for role in self.roles:
            self.start(role)

    def start(self, role):
        folder = Path(self.folder.name)
        args = Namespace(**vars(TOY), roles=",".join(self.roles), role=role,
                         folder=folder / "exchange", home=folder / role)
        storage = self.world.storage(lambda: self.world.actors[role])
        Actor(self.world, role, lambda: self.end(args, storage))

    def end(self, args, storage):
        return digest(trainer(args, storage).run())

    # Shaking hands takes a role some 150 system calls, an iteration some 40.
    @rule(rounds=st.sampled_from([40, 100, 200, 300]), most=st.sampled_from([1, 2, 4]))
    def run_all(self, rounds, most):
        for _ in range(rounds):
            for role in self.roles:
                self.go(role, self.world.chance.randint(1, most))

    @rule(rounds=st.sampled_from([40, 100, 200, 300]), role=st.integers(0, 2),
          steps=st.integers(0, 60))
    def run_all_until_one_dies(self, rounds, role, steps):
        """One gets ahead of the others before it dies, the next one takes some steps after it."""
        self.run_all(rounds, 2)
        role = self.roles[role % len(self.roles)]
        self.go(role, steps)
        self.world.actors[role].crash()
        self.go(self.roles[steps % len(self.roles)], steps)

    @rule(rounds=st.sampled_from([40, 100, 200, 300]))
    def run_all_until_the_power_fails(self, rounds):
        self.run_all(rounds, 2)
        self.world.lose_power()

    def go(self, role, steps):
        """Let a role take some steps; one that has died is started again."""
        actor = self.world.actors[role]
        if actor.ended and role not in self.digests:
            if actor.error is None:
                self.digests[role] = actor.result
            else:
                assert isinstance(actor.error, Crash | ExchangeError), repr(actor.error)
                self.start(role)
                actor = self.world.actors[role]
        for _ in range(steps):
            actor.step()

    def teardown(self):
        if not hasattr(self, "world"):
            return
        for _ in range(MOST_STEPS // 40):
            for role in self.roles:
                self.go(role, 40)
            if len(self.digests) == len(self.roles):
                break
        errors = {role: repr(actor.error) for role, actor in self.world.actors.items()}
        assert len(self.digests) == len(self.roles), errors
        self.check()
        self.folder.cleanup()

    def check(self):
        expected = undisturbed(self.roles, TOY.iterations, TOY.size)
        assert [self.digests[role] for role in self.roles] == expected


class ThreeRoles(Machine):
    roles = ("net1", "net2", "net3")


class Noisy(Trainer):
    """A message that is computed again, in another generation, is another one, as on a GPU.

    The state [2, iterations] is what was sent and what was received in each iteration.
    """

    def _iteration(self, state, step):
        me, other = ("down1", "up1") if self.place == 0 else ("up1", "down1")
        number = 1000 * self.exchange.generation + 10 * step + self.place
        sent, received = np.array([number], np.uint64), np.empty(1, np.uint64)
        state = state.reshape(2, -1).copy()
        self.exchange.send(me, step, sent)
        state[:, step] = sent[0], self.exchange.recv(other, step, received)[0]
        return state


class Nondeterministic(Machine):
    """Then each must have applied exactly what the other sent in the history that survived."""

    def end(self, args, storage):
        toy = trainer(args, storage)
        toy.__class__, toy.size = Noisy, 2 * TOY.iterations
        return toy.run().reshape(2, -1).tolist()

    def check(self):
        (sent1, received1), (sent2, received2) = (self.digests[role] for role in self.roles)
        assert (received1, received2) == (sent2, sent1)


@pytest.mark.parametrize("machine", [Machine, ThreeRoles, Nondeterministic])
@pytest.mark.parametrize("examples", [
    10, pytest.param(300, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_any_order_of_steps_and_crashes_ends_as_if_undisturbed(machine, examples):
    run_state_machine_as_test(machine, settings=settings(
        max_examples=examples, stateful_step_count=10, deadline=None,
        suppress_health_check=list(HealthCheck), derandomize=examples < 100))
