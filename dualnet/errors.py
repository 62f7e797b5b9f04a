"""Errors that a user can put right: one sentence each; cli/exit_codes.py has their numbers."""


class UserError(Exception):
    """A wrong flag, value or folder: what was expected, what was found, what to do."""


class DataError(Exception):
    """A data set that is missing, damaged or too small."""


class Diverged(Exception):
    """A loss or a message stopped being finite."""


class WrongSettings(Exception):
    """A checkpoint of other settings or of other data."""


class Stopped(BaseException):
    """The training was asked to stop, and what it has done is saved: no error, as Ctrl-C is none.

    code  the exit code that goes with the request
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
