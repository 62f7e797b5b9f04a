"""Exit codes: which error ends the program with which number."""

import sys

from dualnet.errors import DataError, Diverged, Stopped, UserError, WrongSettings

EXIT_CODES = """\
  0    done (a collapse is a warning, not a failure)
  1    a bug in dualnet: please report the traceback; or reproduce --verify found a disagreement
  2    a wrong flag, value or folder
  65   a data set or a message that is missing or damaged
  69   the role is taken by another process
  74   the disk: full, read-only, not writable
  75   the other role is lost, failed or did not start; or a role was killed, or told to stop
       by SIGUSR1: the same command resumes
  76   the training diverged
  78   the two sides disagree, or the folder or a checkpoint belongs to another run
  130  Ctrl-C; 143: SIGTERM"""


def explain(error: BaseException) -> tuple[int, str]:
    """The exit code and the sentence for `error`.  Re-raises what is a bug."""
    # Imported when something has gone wrong, since --help has no use for numpy.
    from shared_fs import errors

    # The first row that fits counts, so a class stands above its base.
    codes: tuple[tuple[type[BaseException], int], ...] = (
        (UserError, 2), (Diverged, 76), (errors.NonFinite, 76), (DataError, 65),
        (errors.InvalidMessage, 65), (errors.RoleTaken, 69), (errors.StorageError, 74),
        (errors.HandshakeMismatch, 78), (WrongSettings, 78), (errors.PeerLost, 75),
        (errors.PeerFailed, 75), (errors.WaitTimeout, 75))
    if isinstance(error, KeyboardInterrupt):
        return 130, "stopped by Ctrl-C"
    if isinstance(error, Stopped):
        return error.code, str(error)
    for kind, code in codes:
        if isinstance(error, kind):
            return code, str(error)
    raise error


def tell(error: BaseException) -> int:
    """Say the sentence for `error`; gives the exit code.  Re-raises what is a bug."""
    code, sentence = explain(error)
    # One write: under torchrun, which buffers nothing, the end of the line would come apart.
    sys.stderr.write(f"dualnet: {sentence}\n")
    sys.stderr.flush()
    return code
