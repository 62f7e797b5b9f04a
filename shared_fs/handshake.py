"""How K roles find each other in a folder and agree on what to run before anything is exchanged.

    1. each role publishes hello/<role>.json
    2. who sees a new hello rewrites its own, so that `answers` names that incarnation
    3. a hello is judged only if it answers my incarnation: one left by a dead process never is
    4. when every hello answers every other, the leader (first role) commits gen/00000001.json by
       put-if-absent, and says so in its hello: nobody looks up a name that may not exist, because
       a client that caches the absence would not see the file for a while
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from . import records
from .errors import HandshakeMismatch
from .process import Process, this_process
from .profile import Profile
from .records import Generation, Hello
from .status import printable
from .storage import Storage
from .waiting import wait_for

FIRST_GENERATION = 1


@dataclass(frozen=True)
class Agreed:
    """What a handshake ends with: the committed generation, and the hello of every other role."""

    generation: Generation
    hellos: dict[str, Hello]


def refuse_used_folder(storage: Storage) -> None:
    """Raise HandshakeMismatch if a run, finished or dead, has already begun in this folder."""
    names = storage.listing("gen")
    if names:
        raise _used(storage, f"gen/{min(names)}")


def _used(storage: Storage, name: str) -> HandshakeMismatch:
    return HandshakeMismatch(
        f"{storage.root}: expected an unused exchange folder, found {name} of another run; "
        "give a fresh folder, or remove this one if that run is over"
    )


class Handshake:
    """One role's part of the handshake.

    roles      all roles in the agreed order; the first is the leader
    agreement  JSON-able settings that must be equal on all sides
    """

    def __init__(
        self,
        storage: Storage,
        profile: Profile,
        role: str,
        roles: tuple[str, ...],
        agreement: Mapping[str, Any],
        incarnation: str,
    ) -> None:
        self._storage, self._profile = storage, profile
        self._roles, self._others = roles, tuple(r for r in roles if r != role)
        self._me = Hello.of(role, incarnation, this_process(), agreement)
        self._hellos: dict[str, Hello] = {}

    @property
    def process(self) -> Process:
        """The calling process, as the hello names it."""
        return self._me.process

    def shake(self, timeout_s: float) -> Agreed:
        """Wait until all roles agree and a generation is committed.

        Raises HandshakeMismatch if they do not agree, WaitTimeout naming the missing role, and
        StorageError.
        """
        records.write_hello(self._storage, self._me)
        generation = wait_for(
            self._step,
            self._awaited,
            timeout_s=timeout_s,
            longest_sleep_s=self._profile.longest_sleep_s,
            clock=self._storage,
        )
        return Agreed(generation, dict(self._hellos))

    def _step(self) -> Generation | None:
        self._hellos = records.read_hellos(self._storage, self._others)
        answers = {role: hello.incarnation for role, hello in self._hellos.items()}
        if answers != self._me.answers:
            # Before judging: a peer must be able to judge me too, so that both sides raise.
            self._me = replace(self._me, answers=answers)
            records.write_hello(self._storage, self._me)
        for hello in self._hellos.values():
            if hello.answers.get(self._me.role) == self._me.incarnation:
                self._judge(hello)
        if self._me.role == self._roles[0]:
            return self._commit() if self._all_answered() else None
        return self._adopt()

    def _judge(self, hello: Hello) -> None:
        differing = differences(
            {"protocol": self._me.protocol, **self._me.agreement},
            {"protocol": hello.protocol, **hello.agreement},
        )
        if differing:
            mine, peer = self._me.role, hello.role
            listed = "; ".join(
                printable(f"{key}: {mine} has {a}, {peer} has {b}") for key, a, b in differing
            )
            raise HandshakeMismatch(
                f"{self._storage.root}: {mine} and {peer} do not agree: {listed}; "
                "start both with the same settings"
            )

    def _all_answered(self) -> bool:
        everyone = {**self._hellos, self._me.role: self._me}
        return all(
            everyone[a].answers.get(b) == everyone[b].incarnation if b in everyone else False
            for a in everyone
            for b in self._roles
            if a != b
        )

    def _commit(self) -> Generation:
        """Leader: make the generation a fact, then write RUN.json for people, then tell."""
        incarnations = {role: hello.incarnation for role, hello in self._hellos.items()}
        generation = Generation(
            generation=FIRST_GENERATION,
            base=0,
            start_step=0,
            run=uuid.uuid4().hex,
            incarnations={**incarnations, self._me.role: self._me.incarnation},
            agreement_sha256=self._me.agreement_sha256,
        )
        name = records.generation_name(generation.generation)
        if not records.commit(self._storage, generation):
            raise _used(self._storage, name)
        records.write_run(self._storage, generation, self._me)
        self._me = replace(self._me, committed=generation.generation)
        records.write_hello(self._storage, self._me)
        return generation

    def _adopt(self) -> Generation | None:
        """Follower: the committed generation, once the leader's hello says that there is one."""
        leader = self._hellos.get(self._roles[0])
        if leader is None or not leader.committed:
            return None
        generation = self._read_committed(leader.committed)
        if generation.incarnations.get(self._me.role) != self._me.incarnation:
            raise _used(self._storage, records.generation_name(leader.committed))
        return generation

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
