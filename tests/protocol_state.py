"""The states of the protocol model: what is on the disk, and what each process knows."""

from typing import NamedTuple

SEED = (0, 0)  # (generation, step) of the initial weights: every role can always start there


class Rules(NamedTuple):
    """Parts of the protocol that a test can take away."""

    answers: bool = True  # a hello counts only if it answers my incarnation
    folders: bool = True  # each generation has its own message folder, announced by number
    keep_common: bool = True  # keep checkpoints until all are known to hold a newer one
    identity: bool = True  # a checkpoint is (generation, step), not its step alone
    watch_all: bool = True  # a role that waits for one peer looks for new incarnations of all


class Case(NamedTuple):
    """What is searched: sizes, how much may go wrong, and by which rules."""

    roles: int = 2
    iterations: int = 3
    every: int = 2  # iterations between checkpoints
    kills: int = 1
    stops: int = 0  # graceful: checkpoint at the step it is at, then exit
    doubles: int = 0  # a role started although it runs: its lock was broken
    coarse: bool = False  # steps that hardly meddle with others are taken at once: see WHOLE
    rules: Rules = Rules()


class Hello(NamedTuple):
    incarnation: int
    answers: tuple  # per role: the incarnation of it that I have seen, 0 for none
    held: frozenset  # checkpoints I can start from
    committed: int = 0


class Status(NamedTuple):
    incarnation: int
    generation: int
    published: tuple  # per receiver: newest iteration that may be looked up
    consumed: tuple  # per sender: newest iteration that was read
    state: str  # "running", "done" or "over"
    held: frozenset


class Disk(NamedTuple):
    """What one role has written; a kill leaves it as it is."""

    hello: Hello | None = None
    status: Status | None = None
    messages: frozenset = frozenset()  # (folder, receiver, iteration, content)
    checkpoints: frozenset = frozenset({(SEED, ())})  # (identity, history)


class Start(NamedTuple):
    """A committed generation record."""

    generation: int
    checkpoint: tuple
    incarnations: tuple


class Process(NamedTuple):
    """What a process knows; a kill loses it."""

    incarnation: int
    at: str = "arrive"  # the step it does next
    turn: int = 0  # which message of the iteration comes next
    said: int = 0  # the incarnation in the hello it wrote last
    fenced: bool = False  # has just seen that this hello is still there
    views: tuple = ()  # per role: the hello last read
    mine: Hello | None = None
    number: int = 0  # generation the leader is about to commit
    start: Start | None = None
    history: tuple = ()  # per iteration and role: the message it sent or that I heard
    heard: tuple = ()
    known: tuple = ()  # per role: the checkpoints it was last seen to hold
    seen_done: frozenset = frozenset()


class State(NamedTuple):
    disks: tuple
    running: tuple  # per role: its processes; two of them only if it was started twice
    finished: tuple
    records: tuple = ()
    drawn: tuple = ()  # per role: incarnations drawn so far
    kills: int = 0
    stops: int = 0
    doubles: int = 0


class Wrong(Exception):
    """An invariant does not hold."""


def initial(case):
    k = case.roles
    begin = State((Disk(),) * k, ((Process(1),),) * k, (False,) * k, drawn=(1,) * k)
    return begin._replace(kills=case.kills, stops=case.stops, doubles=case.doubles)


def draw(state, role):
    """A new incarnation of a role."""
    number = state.drawn[role] + 1
    return put(state.drawn, role, number), Process(number)


def put(items, index, item):
    return (*items[:index], item, *items[index + 1 :])


def turns(role, roles):
    """The messages of one iteration: down the chain, and back up."""
    down, up = role + 1 < roles, role > 0
    order = [("recv", role - 1, up), ("send", role + 1, down)]
    order += [("recv", role + 1, down), ("send", role - 1, up)]
    return [(verb, peer) for verb, peer, there in order if there]


def identities(disk):
    return frozenset(identity for identity, _ in disk.checkpoints)


def newest_common(helds):
    return max({SEED}.union(frozenset.intersection(*helds)))
