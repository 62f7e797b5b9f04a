"""Faults at chosen moments, in processes that run the toy trainer: the end is as if undisturbed."""

import json
import time
from argparse import Namespace

from test_shared_fs_processes import Role
from toy_trainer import digest, trainer, undisturbed

from shared_fs import Storage

TOY = Namespace(
    roles="net1,net2", iterations=6, checkpoint_every=2, size=4, window=2, peer_timeout=60.0,
    handshake_timeout=60.0, storage_timeout=5.0, fsync="auto", transport="rename",
)


def toy(say, folder, role, storage=Storage, **options):
    """One role of the toy in a process; says what it does and returns its digest."""
    args = Namespace(**{**vars(TOY), **options})
    args.role, args.folder, args.home = role, folder / "exchange", folder / role
    return digest(trainer(args, storage, lambda *what: say(what)).run())


def result(role):
    """What `toy` returned, whatever it said before."""
    while not isinstance(said := role.hear(60), str):
        pass
    return said


def hear(role, *what):
    while role.hear(60)[: len(what)] != what:
        pass


class SlowToSee(Storage):
    """A client that sees the leader's next hello only when yet another one has replaced it."""

    def open(self, name, flags, mode=0o600):
        if name == "hello/net1.json":
            path, deadline = self.path(name), time.monotonic() + 60
            while json.loads(path.read_text())["committed"] and self._is_first(path):
                assert time.monotonic() < deadline, "net1 was not started again"
                time.sleep(0.01)
        return super().open(name, flags, mode)

    def _is_first(self, path):
        generation = json.loads(self.path("gen/00000001.json").read_text())
        now = json.loads(path.read_text())["incarnation"]
        return generation["incarnations"]["net1"] == now


def chain(say, folder, role, storage):
    return toy(say, folder, role, storage, roles="net1,net2,net3")


def test_a_role_that_waits_for_one_that_never_joined_notices_that_a_third_began_anew(tmp_path):
    """net3 is in generation 1 and waits for net2, which is still in the handshake and stays the
    same incarnation; only net1, for which net3 does not wait, is a new one."""
    with (
        Role(chain, tmp_path, "net1", Storage) as leader,
        Role(chain, tmp_path, "net2", SlowToSee) as slow,
        Role(chain, tmp_path, "net3", Storage) as waiting,
    ):
        hear(waiting, "start", 1)
        leader.kill()
        leader.process.join(30)
        with Role(chain, tmp_path, "net1", Storage) as again:
            ends = [result(role) for role in (again, slow, waiting)]
    assert ends == undisturbed(("net1", "net2", "net3"), TOY.iterations, TOY.size)
