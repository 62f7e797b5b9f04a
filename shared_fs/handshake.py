"""How K roles find each other in a folder, agree on what to run, and on where to start.

    1. each role publishes hello/<role>.json, with the checkpoints it holds
    2. who sees a new hello rewrites its own, so that `answers` names that incarnation
    3. a hello is judged only if it answers my incarnation: one left by a dead process never is
    4. when every hello answers every other, the leader (first role) commits the next
       gen/<number>.json by put-if-absent, and says so in its hello: nobody looks up a name that may
       not exist, because a client that caches the absence would not see the file for a while
    5. the generation starts from the newest checkpoint that all hellos offer

A role that begins anew, or goes back because another one did, is a new incarnation and comes here
again; what an older generation left is never read.
"""

import logging
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from . import records
from .agreement import comparable
from .errors import HandshakeMismatch, RunOver
from .lineage import newest_common
from .peer_text import printable
from .profile import Profile
from .records import Generation, Hello
from .status import read_status
from .storage import Storage
from .waiting import wait_for

log = logging.getLogger("shared_fs")


@dataclass(frozen=True)
class Agreed:
    """What a handshake ends with: the committed generation, and the hello of every other role."""

    generation: Generation
    hellos: dict[str, Hello]


def check_folder(storage: Storage, me: Hello) -> None:
    """Raise HandshakeMismatch if this folder was begun by another run, or with other settings.

    Other versions of the libraries than those it was begun with are only warned of.
    """
    run = records.read_run(storage)
    if run.get("protocol", me.protocol) != me.protocol:
        raise HandshakeMismatch(
            f"{storage.root}: the run here was begun with protocol {run['protocol']}, this program "
            f"has protocol {me.protocol}; go on with the version that began it, or give a fresh "
            "folder"
        )
    newest = records.newest_generation(storage)
    if newest is None:
        return
    if not me.home or newest.homes.get(me.role) != me.home:
        raise HandshakeMismatch(
            f"{storage.root}: expected an unused exchange folder or one of this run, found "
            f"{records.generation_name(newest.generation)} of another run; give a fresh folder, or "
            "clean this one if that run is over"
        )
    if newest.agreements.get(me.role) != me.agreement_sha256:
        differing = differences(*comparable(me.agreement, run.get("agreement", {})))
        listed = _listed(differing, "this command", "the run here") or "those of this role alone"
        raise HandshakeMismatch(
            f"{storage.root}: the run here was begun with other settings: {listed}; "
            "use its settings to go on, or another folder"
        )
    versions = run.get("versions", me.versions)
    warn_of_versions(str(storage.root), me, versions, "the run here")


def warn_of_versions(where: str, me: Hello, theirs: Any, whose: str) -> None:
    """Log which libraries differ; the protocol alone decides who can work together."""
    if differing := differences(me.versions, theirs):
        log.warning("%s: other versions: %s", where, _listed(differing, me.role, whose))


def check_over(storage: Storage, others: Iterable[str]) -> None:
    """Raise RunOver if one of the others has left, which it does only when every role was done."""
    newest = records.newest_generation(storage)
    if newest is None:
        return
    for role in others:
        status = read_status(storage, role)
        took_part = newest.incarnations.get(role)
        if status and status.state == "over" and status.incarnation == took_part:
            raise RunOver(f"{storage.root}: this run is over; {role} has left it")


def check_same(where: str, me: Hello, peer: Hello) -> None:
    """Raise HandshakeMismatch if two roles have other protocols or settings.

    where  they met, for the message
    """
    differing = differences(*comparable(
        {"protocol": me.protocol, **me.agreement},
        {"protocol": peer.protocol, **peer.agreement},
    ))
    if differing:
        raise HandshakeMismatch(
            f"{where}: {me.role} and {peer.role} do not agree: "
            f"{_listed(differing, me.role, peer.role)}; start both with the same settings"
        )


def next_generation(
    hellos: Sequence[Hello], newest: Generation | None = None, committed: Iterable[int] = ()
) -> Generation:
    """What the leader commits: a start from the newest checkpoint that all roles offer.

    hellos     of all roles
    newest     the generation before, whose run is gone on with; None if no record of it is kept
    committed  numbers that are taken
    """
    start = newest_common((h.checkpoints for h in hellos), newest.run if newest else None)
    seen = [0, *committed]
    seen += [c.generation for hello in hellos for c in hello.checkpoints]
    return Generation(
        generation=max(seen) + 1,
        base=start.generation if start else 0,
        start_step=start.step if start else 0,
        run=newest.run if newest else start.run if start else uuid.uuid4().hex,
        incarnations={hello.role: hello.incarnation for hello in hellos},
        homes={hello.role: hello.home for hello in hellos},
        agreements={hello.role: hello.agreement_sha256 for hello in hellos},
    )


class Handshake:
    """One role's part of the handshake.

    me      my hello, of an incarnation that was never announced
    roles   all roles in the agreed order; the first is the leader
    guard   raises if this role cannot go on
    """

    def __init__(
        self,
        storage: Storage,
        profile: Profile,
        roles: tuple[str, ...],
        me: Hello,
        guard: Callable[[], None] = lambda: None,
    ) -> None:
        self._storage, self._profile, self._me, self._guard = storage, profile, me, guard
        self._roles, self._others = roles, tuple(r for r in roles if r != me.role)
        self._hellos: dict[str, Hello] = {}

    def announce(self) -> None:
        """Publish my hello: from now on an older incarnation of mine may no longer write."""
        records.write_hello(self._storage, self._me)

    def shake(self, timeout_s: float) -> Agreed:
        """Wait until all roles agree and a generation is committed.

        Raises HandshakeMismatch if they do not agree, RunOver if the others have finished and
        left, WaitTimeout naming the missing role, and StorageError.
        """
        generation = wait_for(
            self._step,
            self._awaited,
            timeout_s=timeout_s,
            longest_sleep_s=self._profile.longest_sleep_s,
            clock=self._storage,
        )
        for role, hello in self._hellos.items():
            warn_of_versions(str(self._storage.root), self._me, hello.versions, role)
        return Agreed(generation, dict(self._hellos))

    def _step(self) -> Generation | None:
        self._guard()
        self._hellos = records.read_hellos(self._storage, self._others)
        answers = {role: hello.incarnation for role, hello in self._hellos.items()}
        if answers != self._me.answers:
            # Before judging: a peer must be able to judge me too, so that both sides raise.
            self._me = replace(self._me, answers=answers)
            records.write_hello(self._storage, self._me)
        check_over(self._storage, self._others)
        for hello in self._hellos.values():
            if hello.answers.get(self._me.role) == self._me.incarnation:
                check_same(str(self._storage.root), self._me, hello)
        if self._me.role == self._roles[0]:
            return self._commit() if self._all_answered() else None
        return self._adopt()

    def _all_answered(self) -> bool:
        everyone = {**self._hellos, self._me.role: self._me}
        return all(
            everyone[a].answers.get(b) == everyone[b].incarnation if b in everyone else False
            for a in everyone
            for b in self._roles
            if a != b
        )

    def _commit(self) -> Generation | None:
        """Leader: make the generation a fact, then write RUN.json for people, then tell."""
        generation = next_generation(
            [*self._hellos.values(), self._me],
            records.newest_generation(self._storage),
            records.committed_numbers(self._storage),
        )
        if not records.commit(self._storage, generation):
            return None  # another leader, whose lock or mine was broken: try the next number
        records.write_run(self._storage, generation, self._me)
        self._me = replace(self._me, committed=generation.generation)
        records.write_hello(self._storage, self._me)
        return generation

    def _adopt(self) -> Generation | None:
        """Follower: the generation that the leader says it committed, if I am in it."""
        leader = self._hellos.get(self._roles[0])
        if leader is None or not leader.committed:
            return None
        generation = self._read_committed(leader.committed)
        mine = generation.incarnations.get(self._me.role) == self._me.incarnation
        theirs = generation.incarnations.get(leader.role) == leader.incarnation
        return generation if mine and theirs else None

    def _read_committed(self, number: int) -> Generation:
        return wait_for(
            lambda: records.read_generation(self._storage, number),
            lambda: f"{self._storage.path(records.generation_name(number))}, which is committed",
            timeout_s=self._profile.latency_wait_s,
            longest_sleep_s=self._profile.longest_sleep_s,
            clock=self._storage,
        )

    def _awaited(self) -> str:
        for role in self._others:
            hello = self._hellos.get(role)
            if hello is None:
                return f"{role} to join {self._storage.root}: start it with this exchange folder"
            if hello.answers.get(self._me.role) != self._me.incarnation:
                return (
                    f"{role} to answer in {self._storage.root}: its hello is of pid "
                    f"{hello.process.pid} on {printable(hello.process.host)}; is that one running?"
                )
        return f"{self._roles[0]} to commit the generation in {self._storage.root}"


def differences(mine: Any, peer: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """The leaves in which two JSON values differ: (dotted key, my value, the peer's value)."""
    if not (isinstance(mine, dict) and isinstance(peer, dict)):
        return [] if mine == peer else [(key, mine, peer)]
    found = []
    for name in sorted(mine.keys() | peer.keys()):
        below = f"{key}.{name}" if key else name
        found += differences(mine.get(name, "nothing"), peer.get(name, "nothing"), below)
    return found


def _listed(differing: list[tuple[str, Any, Any]], mine: str, other: str) -> str:
    return "; ".join(
        printable(f"{key}: {mine} has {a}, {other} has {b}") for key, a, b in differing
    )
