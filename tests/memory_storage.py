"""A disk in memory behind the real interface of shared_fs, and a world in which nothing happens by
chance: each role is a thread that stops at every system call until it is told to go on.

What the disk does as real ones do: a process that dies loses nothing that was written; a machine
that dies loses what was not synced, file data and names separately; a client may go on seeing a
name as it was (present, absent or an older file) for STALE_S after it looked, until it lists the
folder.  Time is virtual.  Role locks are real, in the real folder `root`.
"""

import errno
import os
import random
import stat
import threading
from types import SimpleNamespace

from shared_fs import Storage

STALE_S = 2.0  # less than the 5 s for which an announced name may stay invisible
SLOW_S = 0.02  # each sleep takes that much longer, which spares the test idle polls


class Crash(BaseException):
    """The process of a role has died: none of its calls reaches the disk any more."""


class Node:
    """A file (bytes) or a folder (name -> node), as it is and as it was last synced."""

    numbers = iter(range(1, 10**9))

    def __init__(self, content):
        self.now, self.synced, self.number, self.links = content, type(content)(), next(
            Node.numbers), 1

    @property
    def is_folder(self):
        return isinstance(self.now, dict)

    def sync(self):
        self.synced = type(self.now)(self.now)

    def lose_power(self, chance):
        """What the machine finds when it is up again; the order of unsynced changes is lost."""
        if not self.is_folder:
            self.now = bytearray(chance.choice([self.synced, self.synced, self.now]))
        else:
            for name in sorted({*self.now, *self.synced}):
                old, new = self.synced.get(name), self.now.get(name)
                kept = chance.choice([old, new])
                if kept is None:
                    self.now.pop(name, None)
                else:
                    self.now[name] = kept
            for node in self.now.values():
                node.lose_power(chance)
        self.sync()


class World:
    """The disk, the virtual clock and the roles that run in it."""

    def __init__(self, seed=0):
        self.chance, self.clock, self.roots = random.Random(seed), 0.0, {}
        self.actors = {}

    def storage(self, actor):
        """A class of storages for one role: what `Exchange` and the trainer open folders with."""
        return lambda root: MemoryStorage(root, self, actor)

    def root(self, path):
        if path not in self.roots:
            self.roots[path] = Node({})
        return self.roots[path]

    def lose_power(self):
        """The machine dies with everything that runs on it."""
        for actor in self.actors.values():
            actor.crash()
        for root in self.roots.values():
            root.lose_power(self.chance)


class Actor:
    """A role in a thread, which takes a step, up to its next system call, when it is told to."""

    def __init__(self, world, name, function):
        self.world, self.name, self.dead, self.ended = world, name, False, False
        self.result, self.error = None, None
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        world.actors[name] = self
        self._thread = threading.Thread(target=self._run, args=(function,), daemon=True)
        self._thread.start()

    def step(self):
        if not self.ended:
            self._go.release()
            assert self._back.acquire(timeout=60), f"{self.name} makes no system call"

    def crash(self):
        self.dead = True
        while not self.ended:
            self.step()
        self._thread.join(60)

    def called(self):
        """At a system call: let others go first; a heartbeat, on a thread of its own, may not."""
        if threading.current_thread() is self._thread and not self.dead:
            self._back.release()
            self._go.acquire()
        if self.dead:
            raise Crash

    def _run(self, function):
        self._go.acquire()
        try:
            self.result = function()
        except BaseException as error:
            self.error = error
        self.ended = True
        self._back.release()


class MemoryStorage(Storage):
    """A folder of the world's disk, seen by one role."""

    def __init__(self, root, world, actor):
        super().__init__(root)
        self._world, self._actor, self._node = world, actor, world.root(str(root))
        self._files, self._next, self._seen = {}, 1000, {}

    def open(self, name, flags, mode=0o600):
        self._actor().called()
        if flags & os.O_CREAT:
            folder, base = self._parent(name)
            if flags & os.O_EXCL and base in folder.now:
                raise OSError(errno.EEXIST, "File exists")
            node = folder.now.setdefault(base, Node(bytearray()))
            self._seen.pop(name, None)
        else:
            node = self._look_up(name)
        self._next += 1
        self._files[self._next] = [node, 0]
        return self._next

    def close(self, fd):
        self._files.pop(fd)

    def write(self, fd, data):
        self._actor().called()
        node, offset = self._files[fd]
        node.now[offset : offset + len(data)] = data
        self._files[fd][1] += len(data)
        return len(data)

    def read_into(self, fd, buffer):
        self._actor().called()
        node, offset = self._files[fd]
        data = node.now[offset : offset + len(buffer)]
        buffer[: len(data)] = data
        self._files[fd][1] += len(data)
        return len(data)

    def pwrite(self, fd, data, offset):
        self._actor().called()
        self._files[fd][0].now[offset : offset + len(data)] = data
        return len(data)

    def pread_into(self, fd, buffer, offset):
        self._actor().called()
        data = self._files[fd][0].now[offset : offset + len(buffer)]
        buffer[: len(data)] = bytes(data)
        return len(data)

    def fsync(self, fd):
        self._actor().called()
        self._files[fd][0].sync()

    def ftruncate(self, fd, size):
        self._actor().called()
        del self._files[fd][0].now[size:]

    def fstat(self, fd):
        node = self._files[fd][0]
        kind = stat.S_IFDIR if node.is_folder else stat.S_IFREG
        return SimpleNamespace(st_mode=kind | 0o600, st_size=len(node.now), st_dev=1,
                               st_ino=node.number, st_nlink=node.links, st_uid=os.geteuid())

    def replace(self, source, target):
        self._actor().called()
        here, old = self._parent(source)
        there, new = self._parent(target)
        there.now[new] = self._entry(here, old)
        del here.now[old]
        self._forget(source, target)

    def link(self, source, target):
        self._actor().called()
        here, old = self._parent(source)
        there, new = self._parent(target)
        if new in there.now:
            raise OSError(errno.EEXIST, "File exists")
        there.now[new] = self._entry(here, old)
        there.now[new].links += 1
        self._forget(source, target)

    def unlink(self, name):
        self._actor().called()
        folder, base = self._parent(name)
        self._entry(folder, base).links -= 1
        del folder.now[base]
        self._forget(name)

    def mkdir(self, name):
        self._actor().called()
        if name == "roles":
            os.makedirs(self.path(name), exist_ok=True)  # for the locks, which are real
        folder, base = self._parent(name)
        if base in folder.now:
            raise FileExistsError(errno.EEXIST, "File exists")
        folder.now[base] = Node({})
        self._forget(name)

    def rmdir(self, name):
        self._actor().called()
        folder, base = self._parent(name)
        if self._entry(folder, base).now:
            raise OSError(errno.ENOTEMPTY, "Directory not empty")
        del folder.now[base]
        self._forget(name)

    def listdir(self, name):
        self._actor().called()
        folder = self._find(name)
        self._seen = {path: seen for path, seen in self._seen.items()
                      if os.path.dirname(path) != name.strip(".")}
        return sorted(folder.now)

    def monotonic(self):
        return self._world.clock

    def sleep(self, seconds):
        self._world.clock += seconds + SLOW_S
        self._actor().called()

    def _look_up(self, name):
        """A name as this client sees it, which may be how it was a while ago."""
        seen, until = self._seen.get(name, (None, -1.0))
        if until < self._world.clock:
            try:
                seen = self._find(name)
            except OSError:
                seen = None
            self._seen[name] = seen, self._world.clock + STALE_S
        if seen is None:
            raise OSError(errno.ENOENT, "No such file or directory")
        return seen

    def _find(self, name):
        node = self._node
        for part in name.split("/"):
            if part not in ("", "."):
                node = self._entry(node, part)
        return node

    def _parent(self, name):
        folder, _, base = name.rpartition("/")
        return self._find(folder), base

    def _forget(self, *names):
        for name in names:
            self._seen.pop(name, None)

    @staticmethod
    def _entry(folder, base):
        if not folder.is_folder or base not in folder.now:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        return folder.now[base]
