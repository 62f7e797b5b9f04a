"""The protocol of shared_fs as an explicit-state model, and a search through all its states.

What is modelled: K roles in a chain train N iterations.  In each, a message runs down the chain
and another one back.  Every read and every write of the folder is one step, all interleavings are
tried, and a role may be killed between any two steps (or be stopped on request, or be started
twice).  Somebody starts a role again when it is gone.

    arrive, ask       status block anew; is the run over?  Then leave.
    renew, greet      status, then hello: a new incarnation, checkpoints held, answers to nobody
    meet, answer      look at a hello; rewrite mine so that `answers` names that incarnation
    commit, tell      leader: when all hellos answer each other, put generation 1 + newest, if
                      absent; start at the newest checkpoint that all hold; then say so in the hello
    begin             load that checkpoint, status names the generation, drop older message folders
    publish, announce, await, open, ack     one message, in the folder of this generation
    save, declare, trim     checkpoint at a common step; list it in the status; remove what is
                      older than the newest checkpoint that all are known to hold
    done, barrier     say so, and wait until all others did; the last role waits before it says so
    leave             say that the run is over, and exit: nobody will need this role again

A role that waits for a peer and finds another incarnation in its hello rejoins: a new incarnation
and a handshake from the checkpoints on its own disk.

A message carries, as its content, the generation that computed it: a message that is computed again
is a different one, as on a GPU.  A role's history is what its weights depend on: per iteration, the
messages it sent and heard.  Two histories fit if both roles tell the same of every message between
them.  `search` returns what was found to be wrong; for the protocol as it is, nothing.

Left out: clocks and time limits, damaged files, more than one unread message per channel.  A role
that gives up waiting for a dead peer and exits is as one that is stopped or killed.
"""

from array import array
from collections import deque
from typing import NamedTuple

from protocol_actor import WAITS, Actor
from protocol_state import (
    Wrong,
    draw,
    identities,
    initial,
    newest_common,
    put,
)


def actors(case, state):
    for role, processes in enumerate(state.running):
        for slot in range(len(processes)):
            yield Actor(case, state, role, slot)


def steps(case, state):
    """The states that follow if nothing goes wrong; somebody starts what is gone and not over."""
    for actor in actors(case, state):
        yield from actor.successors()
        if case.doubles:
            yield from actor.beat()
    for role, processes in enumerate(state.running):
        if not processes and not state.finished[role]:
            yield started(state, role)


def started(state, role, **changes):
    drawn, process = draw(state, role)
    running = put(state.running, role, (*state.running[role], process))
    return state._replace(running=running, drawn=drawn, **changes)


def faults(case, state):
    """The states that follow if something does."""
    for actor in actors(case, state):
        if state.kills and actor.process.at != "arrive":
            yield actor.to(None, kills=state.kills - 1)
        if state.stops and actor.process.at in WAITS:
            yield actor.to(actor.process._replace(at="stop"), stops=state.stops - 1)
        if state.doubles and len(state.running[actor.role]) == 1:
            yield started(state, actor.role, doubles=state.doubles - 1)


def check(case, state):
    """Raise Wrong unless whoever shares a start, a checkpoint or the end tells the same story."""
    lives = [{("at", p.start.generation): p.history for p in processes if p.start}
             for processes in state.running]
    stories = [{**dict(disk.checkpoints), **life}
               for disk, life in zip(state.disks, lives, strict=True)]
    for role in range(case.roles - 1):
        mine, peers = stories[role], stories[role + 1]
        for point in mine.keys() & peers.keys():
            for a, b in zip(mine[point], peers[point], strict=False):
                if a[role : role + 2] != b[role : role + 2]:
                    raise Wrong("a role applied a message that the other did not send")
    if len(state.records) > 1 + case.kills + case.stops + 2 * case.doubles:
        raise Wrong("more generations than anything that went wrong can explain")
    if all(state.finished):
        last = newest_common([identities(disk) for disk in state.disks])
        if any(len(dict(disk.checkpoints)[last]) != case.iterations for disk in state.disks):
            raise Wrong("an iteration was not applied exactly once")


class Found(NamedTuple):
    states: int
    ends: int  # states in which all roles have finished
    wrong: dict  # what is wrong -> in how many states
    stuck: int  # states from which the end cannot be reached without another fault


def search(case):
    """Visit every state; what is wrong is counted and not followed further."""
    begin = initial(case)
    index, queue, wrong = {begin: 0}, deque([begin]), {}
    source, target, ends = array("I"), array("I"), []
    while queue:
        state = queue.popleft()
        number = index[state]
        try:
            check(case, state)
            if all(state.finished):
                ends.append(number)
            after = list(steps(case, state))
            harm = list(faults(case, state))
        except Wrong as error:
            wrong[str(error)] = wrong.get(str(error), 0) + 1
            ends.append(number)
            continue
        for position, following in enumerate((*after, *harm)):
            if following not in index:
                index[following] = len(index)
                queue.append(following)
            if position < len(after):
                source.append(number)
                target.append(index[following])
    return Found(len(index), len(ends) - sum(wrong.values()), wrong,
                 len(index) - reaching(ends, source, target, len(index)))


def reaching(ends, source, target, count):
    """How many states can reach one of `ends` along the edges source -> target."""
    before = [[] for _ in range(count)]
    for a, b in zip(source, target, strict=True):
        before[b].append(a)
    seen = bytearray(count)
    stack = list(ends)
    for end in ends:
        seen[end] = 1
    while stack:
        for state in before[stack.pop()]:
            if not seen[state]:
                seen[state] = 1
                stack.append(state)
    return sum(seen)
