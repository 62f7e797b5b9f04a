"""What can go wrong between processes that share a folder, one class per remedy."""


class ExchangeError(Exception):
    """Base of all errors of this package; the text is one sentence that names the next action."""


class PeerLost(ExchangeError):
    """The other role ended, fell silent or stopped making progress."""


class PeerStopped(PeerLost):
    """The other role was told to stop, did so in good order, and has not come back."""


class PeerRestarted(ExchangeError):
    """Another role began anew: go back to the newest common checkpoint, with `rejoin`."""


class RunOver(ExchangeError):
    """The other roles have seen every role done and have left: nothing remains to be exchanged."""


class PeerFailed(ExchangeError):
    """The other role reported an error of its own; its text is in the message."""


class HandshakeMismatch(ExchangeError):
    """The roles do not agree on what to run, or the folder belongs to another run."""


class InvalidMessage(ExchangeError):
    """A file of the other role is not what it must be; nothing of it was used."""


class NonFinite(InvalidMessage):
    """A message is intact but holds NaN or infinity."""


class RoleTaken(ExchangeError):
    """Another live process holds this role in this folder."""


class WaitTimeout(ExchangeError):
    """Something awaited did not happen before its deadline."""


class StorageError(ExchangeError):
    """The file system refused an operation; `errno` tells which refusal, None if it gave none."""

    def __init__(self, message: str, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno
