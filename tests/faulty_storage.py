"""A storage that fails or dies at its N-th change of the disk, for sweeps over every N."""

import os
import signal

from shared_fs import Storage

CHANGES = ("write", "pwrite", "fsync", "ftruncate", "allocate", "replace", "link", "unlink",
           "mkdir", "rmdir")


class Killed(BaseException):
    """The process is dead as far as its folders can tell."""


class Fault:
    """Strikes once, at change number `at` of all storages that it is given to.

    kind   "error": raise OSError(errno) instead of the change; "late error": after it, as a server
           that answers wrongly; "kill": the threads that use the storage end, and nothing is
           changed any more; "SIGKILL": the process does
    """

    def __init__(self, at, kind, errno=None):
        self.at, self.kind, self.errno = at, kind, errno
        self.count, self.dead = 0, False

    @property
    def has_struck(self):
        return 0 < self.at <= self.count

    def storage(self):
        """The class of storages that count and suffer together."""
        return type("FaultyStorage", (_Faulty,), {"fault": self})

    def change(self, perform, arguments, options):
        if self.dead:
            raise Killed
        self.count += 1
        if self.count != self.at:
            return perform(*arguments, **options)
        if self.kind == "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "kill":
            self.dead = True
            raise Killed
        if self.kind == "late error":
            perform(*arguments, **options)
        raise OSError(self.errno, os.strerror(self.errno))


class _Faulty(Storage):
    fault: Fault

    def open(self, name, flags, mode=0o600):
        if flags & os.O_CREAT:
            return self.fault.change(super().open, (name, flags, mode), {})
        return super().open(name, flags, mode)


def _counted(method):
    def change(self, *arguments, **options):
        perform = getattr(super(_Faulty, self), method)
        return self.fault.change(perform, arguments, options)

    return change


for _method in CHANGES:
    setattr(_Faulty, _method, _counted(_method))
