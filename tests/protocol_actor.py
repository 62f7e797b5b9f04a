"""One role of the protocol model: what it may do next."""

from protocol_state import (
    SEED,
    Hello,
    Start,
    Status,
    Wrong,
    draw,
    identities,
    newest_common,
    put,
    turns,
)


class Actor:
    """One process about to take a step: builds the states that can follow."""

    def __init__(self, case, state, role, slot):
        self.case, self.state, self.role, self.slot = case, state, role, slot
        self.process = state.running[role][slot]
        self.disk = state.disks[role]
        self.peers = [peer for peer in range(case.roles) if peer != role]

    def to(self, process, disk=None, **changes):
        """The state in which this process is `process` (None: gone) and my disk is `disk`."""
        state, role = self.state, self.role
        mine = list(state.running[role])
        mine[self.slot : self.slot + 1] = [] if process is None else [process]
        changes["running"] = put(state.running, role, tuple(mine))
        if disk is not None:
            changes["disks"] = put(state.disks, role, disk)
            if newest_common([identities(d) for d in changes["disks"]]) < newest_common(
                [identities(d) for d in state.disks]
            ):
                raise Wrong("the newest checkpoint that all hold was removed")
        return state._replace(**changes)

    def next(self, at, disk=None, **changes):
        return self.to(self.process._replace(at=at, fenced=False, **changes), disk)

    def successors(self):
        """Each state this process can step to; a write is fenced first, where that matters."""
        process = self.process
        must_look = self.case.doubles and process.said
        if must_look and not process.fenced and process.at not in READS:
            mine = self.disk.hello.incarnation == process.said
            yield self.to(process._replace(fenced=True) if mine else None)
            return
        for state in STEPS[process.at](self):
            yield self.run_on(state)

    def run_on(self, state):
        """Where the search is coarse, take the steps that need not be interrupted, too."""
        while self.case.coarse:
            mine = state.running[self.role]
            if len(mine) <= self.slot or mine[self.slot].at not in WHOLE:
                break
            (state,) = STEPS[mine[self.slot].at](Actor(self.case, state, self.role, self.slot))
        return state

    # The handshake.

    def blank(self, incarnation, state="running"):
        none = (-1,) * self.case.roles
        status = Status(incarnation, 0, none, none, state, frozenset())
        return self.disk._replace(status=status)

    def arrive(self):
        yield self.next("ask", self.blank(0))

    def ask(self):
        yield self.next("leave" if self.is_over() else "renew")

    def is_over(self):
        """Whether a role of the newest generation has left: then all of them were done."""
        newest = self.state.records[-1:]
        for peer in self.peers if newest else ():
            status = self.state.disks[peer].status
            if status.state == "over" and status.incarnation == newest[0].incarnations[peer]:
                return True
        return False

    def renew(self):
        yield self.next("greet", self.blank(self.process.incarnation))

    def greet(self):
        nobody = (0,) * self.case.roles
        hello = Hello(self.process.incarnation, nobody, identities(self.disk))
        blank = (None,) * self.case.roles
        yield self.next("meet", self.disk._replace(hello=hello), mine=hello, views=blank,
                        said=hello.incarnation)

    def meet(self):
        process = self.process
        for some in [self.peers] if self.case.coarse else [[peer] for peer in self.peers]:
            views = list(process.views)
            for peer in some:
                views[peer] = self.state.disks[peer].hello
            if tuple(views) != process.views:
                known = self.answers(views) == process.mine.answers
                yield self.next("meet" if known else "answer", views=tuple(views))
        if self.role == 0 and self.may_commit():
            newest = max((record.generation for record in self.state.records), default=0)
            yield self.next("commit", number=1 + newest)
        leader = process.views[0]
        if self.role > 0 and leader and leader.committed:
            record = self.state.records[leader.committed - 1]
            mine = record.incarnations[self.role] == process.incarnation
            if mine and record.incarnations[0] == leader.incarnation:
                yield self.next("begin", start=record)
        if self.is_over():
            yield self.next("leave")

    def answers(self, views):
        return tuple(hello.incarnation if hello else 0 for hello in views)

    def answer(self):
        hello = self.process.mine._replace(answers=self.answers(self.process.views))
        yield self.next("meet", self.disk._replace(hello=hello), mine=hello)

    def may_commit(self):
        hellos = put(self.process.views, 0, self.process.mine)
        if self.role > 0 or None in hellos:
            return False
        return not self.case.rules.answers or all(
            a.answers[role] == b.incarnation
            for a in hellos for role, b in enumerate(hellos) if a is not b
        )

    def commit(self):
        process, state = self.process, self.state
        if len(state.records) >= process.number:  # somebody was faster
            yield self.next("meet")
            return
        hellos = put(process.views, 0, process.mine)
        best = newest_common([hello.held for hello in hellos])
        if not self.case.doubles and best != newest_common([identities(d) for d in state.disks]):
            raise Wrong("the start is not the newest checkpoint that all hold")
        record = Start(process.number, best, tuple(hello.incarnation for hello in hellos))
        after = process._replace(at="tell", fenced=False, start=record)
        yield self.to(after, records=(*state.records, record))

    def tell(self):
        hello = self.process.mine._replace(committed=self.process.start.generation)
        yield self.next("begin", self.disk._replace(hello=hello))

    def begin(self):
        process, start = self.process, self.process.start
        histories = dict(self.disk.checkpoints)
        if start.checkpoint not in histories:
            raise Wrong("the agreed checkpoint is gone")
        history = histories[start.checkpoint]
        before = (len(history) - 1,) * self.case.roles
        held = identities(self.disk)
        status = Status(process.incarnation, start.generation, before, before, "running", held)
        kept = self.disk.messages
        if self.case.rules.folders:
            kept = frozenset(m for m in kept if m[0] >= start.generation)
        known = (frozenset({SEED}),) * self.case.roles
        yield self.next(self.first(history), self.disk._replace(status=status, messages=kept),
                        turn=0, history=history, heard=self.silence(), known=known, views=(),
                        mine=None, seen_done=frozenset())

    # One iteration.

    def silence(self):
        return (0,) * self.case.roles

    def first(self, history):
        """Where an iteration begins; after the last one there is nothing left to train."""
        if len(history) < self.case.iterations:
            return "publish" if self.role == 0 else "await"
        return "others" if self.role == self.case.roles - 1 else "done"

    def peer(self):
        return turns(self.role, self.case.roles)[self.process.turn][1]

    def folder(self):
        return self.process.start.generation if self.case.rules.folders else 0

    def status_of(self, peer):
        """A peer's status, None if it is not of the incarnation I exchange with."""
        status = self.state.disks[peer].status
        named = self.process.start.incarnations[peer]
        return status if status and status.incarnation == named else None

    def publish(self):
        process, k, peer = self.process, len(self.process.history), self.peer()
        status = self.status_of(peer)
        if status and k - status.consumed[self.role] <= 1:
            name = (self.folder(), peer, k)
            kept = {m for m in self.disk.messages if m[:3] != name and
                    (m[:2] != name[:2] or m[2] >= status.consumed[self.role])}
            message = (*name, process.start.generation)
            disk = self.disk._replace(messages=frozenset({*kept, message}))
            yield self.next("announce", disk, heard=put(process.heard, self.role, message[3]))
        yield from self.rejoin([peer])

    def announce(self):
        yield self.rewrite("published", self.peer())

    def wait(self):
        k, peer = len(self.process.history), self.peer()
        status = self.status_of(peer)
        if self.case.rules.folders:
            announced = status and status.published[self.role] >= k
        else:
            announced = any(m[1:3] == (self.role, k) for m in self.state.disks[peer].messages)
        if announced:
            known = put(self.process.known, peer, status.held) if status else self.process.known
            yield self.next("open", known=known)
        elif status and status.state != "running":  # it will not come: an error, and started again
            yield self.to(None)
        yield from self.rejoin([peer])

    def open(self):
        k, peer = len(self.process.history), self.peer()
        name = (self.folder(), self.role, k)
        found = [m for m in self.state.disks[peer].messages if m[:3] == name]
        if found:
            yield self.next("ack", heard=put(self.process.heard, peer, found[0][3]))
        elif self.case.doubles:  # a double of the sender cleaned up: an error, and started again
            yield self.to(None)
        else:
            raise Wrong("an announced message is not there")

    def ack(self):
        yield self.rewrite("consumed", self.peer())

    def rewrite(self, field, peer):
        """Count one message in my status block and go on to the next turn, or iteration."""
        process, k = self.process, len(self.process.history)
        status = self.my_status()
        counts = put(getattr(status, field), peer, k)
        disk = self.disk._replace(status=status._replace(**{field: counts}))
        plan = turns(self.role, self.case.roles)
        if process.turn + 1 < len(plan):
            verb = plan[process.turn + 1][0]
            return self.next("publish" if verb == "send" else "await", disk, turn=process.turn + 1)
        history = (*process.history, process.heard)  # the step of the optimiser
        last = len(history) == self.case.iterations
        save = last or len(history) % self.case.every == 0
        return self.next("save" if save else self.first(history), disk, turn=0, history=history,
                         heard=self.silence())

    def my_status(self):
        """What I last wrote: a double of me may have written over it."""
        status = self.disk.status
        if status.incarnation == self.process.incarnation:
            return status
        process, k = self.process, len(self.process.history)
        plan, counts = turns(self.role, self.case.roles), {"send": [], "recv": []}
        for kind in counts:
            counts[kind] = [k - 1] * self.case.roles
        for verb, peer in plan[: process.turn]:
            counts[verb][peer] = k
        return Status(process.incarnation, process.start.generation, tuple(counts["send"]),
                      tuple(counts["recv"]), "done" if process.at == "barrier" else "running",
                      identities(self.disk))

    # Checkpoints.

    def saved(self):
        history = self.process.history
        generation = self.process.start.generation if self.case.rules.identity else 0
        identity = (generation, len(history))
        kept = {c for c in self.disk.checkpoints if c[0] != identity}
        return self.disk._replace(checkpoints=frozenset({*kept, (identity, history)}))

    def save(self):
        yield self.next("declare", self.saved())

    def declare(self):
        status = self.my_status()._replace(held=identities(self.disk))
        yield self.next("trim", self.disk._replace(status=status))

    def trim(self):
        held = identities(self.disk)
        if self.case.rules.keep_common:
            limit = newest_common([held, *(self.process.known[p] for p in self.peers)])
        else:
            limit = max(held)
        kept = frozenset(c for c in self.disk.checkpoints if c[0] >= limit or c[0] == SEED)
        yield self.next(self.first(self.process.history), self.disk._replace(checkpoints=kept))

    # The end, and what may come between.

    def stop(self):
        """Asked to end: a checkpoint of the last whole iteration, whatever its step."""
        yield self.to(None, self.saved())

    def when_others_are_done(self, then):
        """Polls one after the other; who has seen all of them done may be gone already."""
        process, seen = self.process, self.process.seen_done
        for peer in self.peers:
            status = self.status_of(peer)
            if status and status.state != "running" and peer not in seen:
                all_done = status.state == "over"
                yield self.next(process.at, seen_done=frozenset(
                    self.peers if all_done else (*seen, peer)))
        if len(seen) == len(self.peers):
            yield self.next(then)
        else:
            yield from self.rejoin([peer for peer in self.peers if peer not in seen])

    def done(self):
        status = self.my_status()._replace(state="done")
        yield self.next("barrier", self.disk._replace(status=status))

    def barrier(self):
        yield from self.when_others_are_done("leave")

    def others(self):
        yield from self.when_others_are_done("done")

    def leave(self):
        """The last words, in the name of my part in the newest generation; then exit."""
        newest = self.state.records[-1]
        after = self.blank(newest.incarnations[self.role], "over")._replace(messages=frozenset())
        yield self.to(None, after, finished=put(self.state.finished, self.role, True))

    def rejoin(self, awaited):
        """Another incarnation in the hello of a peer: it began anew, and so do I."""
        for peer in self.peers if self.case.rules.watch_all else awaited:
            if self.state.disks[peer].hello.incarnation != self.process.start.incarnations[peer]:
                drawn, again = draw(self.state, self.role)
                again = again._replace(at="ask", said=self.process.said)
                yield self.to(again, drawn=drawn)
                return

    def beat(self):
        """The heartbeat writes my status again if a double of me has written over it."""
        if self.process.at in WAITS and self.disk.status.incarnation != self.process.incarnation:
            yield self.to(self.process, self.disk._replace(status=self.my_status()))


WAITS = ("publish", "await", "others", "barrier")
# Steps that only this role's own next step depends on; with three roles, whose handshake alone has
# 20,000 states, they follow the one before without a gap, and all hellos are read at once.
WHOLE = ("renew", "greet", "answer", "open", "ack", "tell", "begin", "declare", "trim")
READS = ("ask", "meet", "await", "open", "others", "barrier")
STEPS = {name: getattr(Actor, name.replace("await", "wait")) for name in (
    "arrive", "ask", "renew", "greet", "meet", "answer", "commit", "tell", "begin", "publish",
    "announce", "await", "open", "ack", "save", "declare", "trim", "stop", "done", "others",
    "barrier", "leave")}
