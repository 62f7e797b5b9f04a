"""Fail or die at change number N of the disk, for every N of a whole run, until it is untouched.

Each run is the toy trainer with two roles.  Whoever failed or died is started again, as a person or
a launcher would; then both must end in the undisturbed state, and nothing may be left behind.
"""

import errno
import itertools
import threading
from argparse import Namespace

import pytest
from faulty_storage import Fault, Killed
from test_shared_fs_processes import Role
from toy_trainer import digest, trainer, undisturbed

from shared_fs import ExchangeError, Storage

ROLES = ("net1", "net2")
TOY = Namespace(
    roles="net1,net2", iterations=3, checkpoint_every=1, size=2, window=2, peer_timeout=60.0,
    handshake_timeout=60.0, storage_timeout=5.0, fsync="auto", transport="rename",
)
EXPECTED = undisturbed(ROLES, TOY.iterations, TOY.size)
MOST_STARTS = 4


def toy(folder, role, storage=Storage):
    args = Namespace(**vars(TOY), role=role, folder=folder / "exchange", home=folder / role)
    return digest(trainer(args, storage).run())


class Pair:
    """Both roles as threads of this process; `victim` suffers `fault` in its first start."""

    def __init__(self, folder, victim, fault):
        self.folder, self.ends, self.errors = folder, {}, []
        storages = {role: fault.storage() if role == victim else Storage for role in ROLES}
        threads = [threading.Thread(target=self._run, args=(role, storages[role]), daemon=True)
                   for role in ROLES]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive(), f"{self.ends} {self.errors}"

    def _run(self, role, storage):
        for _ in range(MOST_STARTS):
            try:
                self.ends[role] = toy(self.folder, role, storage)
                return
            except (ExchangeError, Killed) as error:
                self.errors.append(f"{role}: {type(error).__name__}: {error}")
                storage = Storage
            except BaseException as error:
                self.errors.append(f"{role}: not an ExchangeError: {error!r}")
                return

    def check(self):
        assert [self.ends.get(role) for role in ROLES] == EXPECTED, self.errors
        left = [str(path.relative_to(self.folder)) for path in self.folder.rglob("*")
                if path.name.endswith(".part") or path.name.startswith("g0")]
        assert left == [], self.errors


def sweep(folder, victim, kind, number=None, *, first=1, stride=1):
    """Strike at first, first + stride, ... until a run is through before the fault strikes."""
    for at in itertools.count(first, stride):
        fault = Fault(at, kind, number)
        pair = Pair(folder / str(at), victim, fault)
        try:
            pair.check()
        except AssertionError as error:
            raise AssertionError(f"{victim}, {kind} {number} at change {at}: {error}") from error
        if not fault.has_struck:
            return at
    raise AssertionError


KINDS = [("kill", None), ("error", errno.EIO), ("error", errno.ENOSPC), ("error", errno.EACCES),
         ("late error", errno.EIO)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("victim", ROLES)
@pytest.mark.parametrize(("kind", "number"), KINDS)
def test_a_fault_at_some_changes_of_the_disk(tmp_path, victim, kind, number):
    sweep(tmp_path, victim, kind, number, first=len(kind) + len(victim), stride=17)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("victim", ROLES)
@pytest.mark.parametrize(("kind", "number"), KINDS)
def test_a_fault_at_every_change_of_the_disk(tmp_path, victim, kind, number):
    assert sweep(tmp_path, victim, kind, number) > 60


def start(say, folder, role, at):
    say("started")
    return toy(folder, role, Fault(at, "SIGKILL").storage() if at else Storage)


def killed_and_started_again(folder, victim, at):
    """Whether the victim was killed; both must end as if undisturbed."""
    running = {role: Role(start, folder, role, at if role == victim else 0) for role in ROLES}
    for role in running.values():
        assert role.hear(60) == "started"
    try:
        end, killed = running[victim].hear(60), False
    except EOFError:
        killed = True
        running[victim].process.join(30)
        running[victim] = Role(start, folder, victim, 0)
        assert running[victim].hear(60) == "started"
        end = running[victim].hear(60)
    survivor = next(role for role in ROLES if role != victim)
    ends = {victim: end, survivor: running[survivor].hear(60)}
    assert [ends[role] for role in ROLES] == EXPECTED, f"{victim} killed at change {at}"
    return killed


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("victim", ROLES)
def test_sigkill_at_every_change_of_the_disk(tmp_path, victim):
    for at in itertools.count(1):
        if not killed_and_started_again(tmp_path / str(at), victim, at):
            break
    assert at > 60


@pytest.mark.parametrize(("victim", "at"), [("net1", 23), ("net2", 41)])
def test_sigkill_at_one_change_of_the_disk(tmp_path, victim, at):
    assert killed_and_started_again(tmp_path, victim, at)
