"""One role's place in a group of torch.distributed: what `shared_fs.Exchange` is in a folder.

The handshake is that of the folder, through the store at which the roles meet: each says hello with
its settings and checkpoints, all must agree, and the first role commits the generation.  A role
that ends takes the others with it; all are started again, and go on from the newest common
checkpoint.
"""

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist

from dualnet.errors import Stopped
from dualnet.group_channel import GroupChannel, Wire
from dualnet.parallel import first_sentence, is_of_connection
from dualnet.rendezvous import LONGEST_SLEEP_S, Meeting, open_store
from shared_fs import Checkpoint, InvalidMessage, PeerLost, RoleTaken, Start
from shared_fs.agreement import full_agreement
from shared_fs.handshake import check_same, next_generation, warn_of_versions
from shared_fs.lineage import newest_common
from shared_fs.peer_text import parse_object
from shared_fs.process import this_process
from shared_fs.records import (
    Generation,
    Hello,
    canonical,
    generation_text,
    hello_text,
    parse_generation,
    parse_hello,
)
from shared_fs.status import MOST_HELD
from shared_fs.waiting import wait_for

log = logging.getLogger("dualnet")


class Group:
    """One role of a group; a context manager.

    backend    "gloo" or "nccl"
    device     of this role
    channels   name -> (sender, receiver)
    roles      all roles in the order of their ranks, the leader first
    agreement  settings that must be equal on all sides; see `Exchange`
    window     messages per channel that may be on their way
    held       the checkpoints this role can start from
    took_part  the newest generation that this role has been in, 0 before the first
    join_timeout_s  seconds to wait for the other roles to join
    peer_timeout_s  seconds that a message, or another sign of a role, may take

    After entering: start, generation, channel.
    Raises UserError, RoleTaken, HandshakeMismatch, WaitTimeout, PeerLost, InvalidMessage.
    """

    def __init__(self, meeting: Meeting, role: str, *, backend: str, device: torch.device,
                 channels: Mapping[str, tuple[str, str]], roles: tuple[str, ...],
                 agreement: Mapping[str, Any], window: int, nonfinite: str, home: str,
                 held: Callable[[], Sequence[Checkpoint]], took_part: int,
                 join_timeout_s: float, peer_timeout_s: float) -> None:
        self.role, self.roles = role, roles
        self._meeting, self._backend, self._device = meeting, backend, device
        self._channels, self._window, self._nonfinite = dict(channels), window, nonfinite
        self._agreement = full_agreement(roles, self._channels, {"window": window}, agreement)
        self._home, self._held, self._took_part = home, held, took_part
        self._join_timeout_s, self._peer_timeout_s = join_timeout_s, peer_timeout_s
        self._others = [each for each in roles if each != role]
        self._info: dict[str, Any] = {}
        self._is_lost = False   # then the other roles may be as silent at the store: none is asked
        self.stop_waiting: Callable[[], bool] = lambda: False   # nobody returns to a group

    def __enter__(self) -> Self:
        try:
            with self._explained("the other roles"):
                self._join()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if isinstance(error, Stopped):      # so that the others can end their iteration, too
            with suppress(PeerLost):
                self.channel.drain()
        self._leave()

    # -- handshake -----------------------------------------------------------------------------

    def _join(self) -> None:
        self._store = open_store(self._meeting, self.roles[0], leads=self._leads,
                                 join_timeout_s=self._join_timeout_s,
                                 timeout_s=self._peer_timeout_s)
        me = Hello.of(self.role, uuid.uuid4().hex, this_process(), self._agreement,
                      home=self._home, checkpoints=tuple(self._held()), committed=self._took_part)
        generation = self._agree(me, self._meet(me))
        self.start = Start(generation.run, generation.generation, generation.base,
                           generation.start_step)
        self.announce_held(self._held())
        limit = timedelta(seconds=self._peer_timeout_s)
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
        store = dist.PrefixStore("group", self._store.store)  # type: ignore[attr-defined]
        dist.init_process_group(self._backend, store=store, rank=self.roles.index(self.role),
                                world_size=len(self.roles), timeout=limit)
        self.channel = self._make_channel(limit)

    def _meet(self, me: Hello) -> dict[str, Hello]:
        """The hello of every other role."""
        if self._store.add(f"taken/{self.role}", 1) > 1:
            raise RoleTaken(f"{self._meeting}: another process is {self.role}; end one of them, or "
                            "start all roles again")
        self._store.set(f"hello/{self.role}", hello_text(me).decode("ascii"))
        self._await("hello", "join", self._join_timeout_s)
        hellos = {}
        for role in self._others:
            hello = parse_hello(self._store.get(f"hello/{role}"), role)
            if hello is None:
                raise InvalidMessage(f"{self._meeting}: the hello of {role} is damaged; start all "
                                     "roles of one version")
            hellos[role] = hello
        self._store.set(f"met/{self.role}", "")
        if self._leads:     # the store may go with me, so first all must have read
            self._await("met", "read the hellos", self._peer_timeout_s)
        for role, hello in hellos.items():
            check_same(str(self._meeting), me, hello)
            warn_of_versions(str(self._meeting), me, hello.versions, role)
        return hellos

    def _agree(self, me: Hello, hellos: Mapping[str, Hello]) -> Generation:
        """The generation that the leader commits."""
        everyone = [me, *hellos.values()]
        if self._leads:
            generation = next_generation(everyone,
                                         committed=[hello.committed for hello in everyone])
            self._store.set("generation", generation_text(generation).decode("ascii"))
            self._warn_of_loss(generation, everyone)
            return generation
        self._await_keys(["generation"], lambda: f"{self.roles[0]} to commit the generation",
                         self._peer_timeout_s)
        found = parse_generation(self._store.get("generation"))
        if found is None or found.incarnations.get(self.role) != me.incarnation:
            raise InvalidMessage(f"{self._meeting}: the generation is not of these roles; start "
                                 "all of them again")
        return found

    def _warn_of_loss(self, generation: Generation, hellos: Sequence[Hello]) -> None:
        for hello in hellos:
            newest = max((each.step for each in hello.checkpoints), default=0)
            if newest and not generation.base:
                log.warning("%s holds a checkpoint of iteration %d, but there is none that all "
                            "roles hold: all begin anew", hello.role, newest)

    def _make_channel(self, limit: timedelta) -> GroupChannel:
        """A group for each direction: NCCL keeps the order of all that goes through one."""
        pairs = sorted(set(self._channels.values()))
        ranks = {role: rank for rank, role in enumerate(self.roles)}
        groups = {pair: dist.new_group([ranks[role] for role in pair], timeout=limit)
                  for pair in pairs}
        outgoing, incoming = {}, {}
        for tag, (name, pair) in enumerate(sorted(self._channels.items())):
            sender, receiver = pair
            if self.role == sender:
                outgoing[name] = Wire(ranks[receiver], groups[pair], tag)
            if self.role == receiver:
                incoming[name] = Wire(ranks[sender], groups[pair], tag)
        memory = self._device if self._backend == "nccl" else torch.device("cpu")
        return GroupChannel(self.start, outgoing, incoming, window=self._window,
                            nonfinite=self._nonfinite, device=self._device, memory=memory,
                            explained=self._explained, report=self.report)

    # -- while the run goes on, and at its end -------------------------------------------------

    def report(self, **info: Any) -> None:
        """What the other roles read of this one at the end of the run: `peer_info`."""
        self._info |= info

    def peer_info(self, role: str) -> dict[str, Any]:
        """What `role` has reported; after `wait_for_others_done`."""
        return self._read(f"done/{role}")

    def announce_held(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Tell the other roles which checkpoints I hold now; the newest 8 count."""
        if self._is_lost:
            return
        pairs = sorted([each.generation, each.step] for each in checkpoints
                       if each.run == self.start.run)
        self._write(f"held/{self.role}", {"held": pairs[-MOST_HELD:]})

    def common(self, mine: Sequence[Checkpoint]) -> Checkpoint | None:
        """The newest of my checkpoints that every role says it holds, None if there is none, or if
        the others are gone."""
        if self._is_lost:
            return None
        held = [list(mine)]
        for role in self._others:
            with self._explained(f"the checkpoints of {role}"):
                is_told = self._store.check([f"held/{role}"])
            pairs = self._read(f"held/{role}")["held"] if is_told else []
            held.append([Checkpoint(self.start.run, *pair) for pair in pairs])
        return newest_common(held, self.start.run)

    def wait_for_others_done(self) -> None:
        """Wait until every other role is done; then what they reported last is final."""
        self._await("done", "finish", self._peer_timeout_s)

    def finish(self) -> None:
        """Say that I am done and wait for the others; who keeps the store leaves last."""
        self._write(f"done/{self.role}", self._info)
        self.wait_for_others_done()
        self._write(f"over/{self.role}", {})
        if self._leads:
            self._await("over", "leave", self._peer_timeout_s)

    # -- the store -----------------------------------------------------------------------------

    @property
    def _leads(self) -> bool:
        return self.role == self.roles[0]

    def _await(self, key: str, verb: str, timeout_s: float) -> None:
        """Wait until `key` of every other role is there."""
        def what() -> str:
            missing = [role for role in self._others if not self._store.check([f"{key}/{role}"])]
            hint = ": start it with the same MASTER_ADDR and MASTER_PORT" if verb == "join" else ""
            return f"{' and '.join(missing)} to {verb} at {self._meeting}{hint}"

        self._await_keys([f"{key}/{role}" for role in self._others], what, timeout_s)

    def _await_keys(self, keys: list[str], what: Callable[[], str], timeout_s: float) -> None:
        with self._explained(keys[0]):
            wait_for(lambda: self._store.check(keys) or None, what, timeout_s=timeout_s,
                     longest_sleep_s=LONGEST_SLEEP_S, clock=time)

    def _write(self, key: str, value: Mapping[str, Any]) -> None:
        with self._explained(key):
            self._store.set(key, canonical(value).decode("ascii"))

    def _read(self, key: str) -> dict[str, Any]:
        with self._explained(key):
            text = self._store.get(key)
        try:
            return parse_object(text)
        except ValueError as error:
            raise InvalidMessage(f"{self._meeting}: {key} is damaged ({error})") from None

    @contextmanager
    def _explained(self, awaited: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if not is_of_connection(error):
                raise
            self._is_lost = True
            raise PeerLost(f"another role has ended, or is silent for {self._peer_timeout_s:g} s: "
                           f"{self.role} waited for {awaited} and got '{first_sentence(error)}'; "
                           "run the same command again to resume") from None

    def _leave(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()
