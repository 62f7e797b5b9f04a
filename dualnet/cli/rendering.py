"""Bring a folder of results up to date, and say what was written."""

from pathlib import Path


def render(results: Path) -> None:
    """Draw and render what the ledgers changed.  Raises StorageError."""
    from dualnet.page import files
    from shared_fs import StorageError

    try:
        for path in files.write(results):
            print(f"written: {path}")
    except OSError as error:
        raise StorageError(f"cannot write {error.filename} ({error.strerror}); choose another "
                           "folder with --results") from None
