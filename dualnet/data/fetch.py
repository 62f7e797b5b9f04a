"""Downloads data sets: resumed where they broke off, checked before they get their names.

    folder/.mnist.lock                   held by the one process that fetches
           MNIST/raw/NAME.gz.part        what has come so far
           MNIST/raw/NAME.gz             only ever the official file
           .cifar-10-batches-py.new      an archive while it is unpacked

MD5 tells damage and the wrong file, not malice; so that a mirror need not be trusted, archives
are unpacked and files read without executing anything they say.
"""

import os
import shutil
import tarfile
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import filelock

from dualnet.data import module_of
from dualnet.data.download import Address, download
from dualnet.data.official import OfficialFile, md5_of
from dualnet.errors import DataError, UserError

MAX_MEMBER_BYTES = 256 * 2**20  # the largest official file has 155 MB
_POLL_S = 0.5
# Checking and unpacking show no bytes, so another process gets at least this long for them.
_MIN_PATIENCE_S = 60.0


class Progress(NamedTuple):
    """How far the fetching is: `done` of `total` bytes of `file`; `total` may be unknown.

    doing   "fetching", "waiting" for another process, "checking" or "unpacking"
    """

    file: str
    doing: str
    done: int
    total: int | None


def fetch(name: str, folder: Path, *, timeout_s: float,
          mirror: str | None = None) -> Iterator[Progress]:
    """Bring the official files of the data set `name` into `folder`; yields how far it is.

    Yields nothing if they are there.  Of several processes one downloads and the others wait.

    timeout_s   seconds without a new byte after which it gives up
    mirror      base address to take instead of the official one; file names stay

    Raises UserError for an unknown data set or mirror, DataError if the files cannot be had or
    others are in their place.
    """
    module = module_of(name)
    if mirror is not None and urlsplit(mirror).scheme not in ("http", "https"):
        raise UserError(f"--mirror takes an address that begins with http:// or https://, found "
                        f"'{mirror}'")
    if all(module.verify(folder).values()):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / f".{name}.lock")
        yield from _acquire(lock, module.FILES, folder, timeout_s)
        try:
            if not all(module.verify(folder).values()):
                for file in module.FILES:
                    yield from _fetch_file(file, folder, mirror, timeout_s)
        finally:
            lock.release()
    except OSError as error:
        raise DataError(f"{error.filename or folder}: cannot be written ({error.strerror}); make "
                        "room, or name another folder with --data-dir") from error
    wrong = [file for file, official in module.verify(folder).items() if not official]
    if wrong:
        raise DataError(f"{folder}: {', '.join(wrong)} should be official now, but another file "
                        f"of that name stands before the one fetched; remove it")


def _acquire(lock: filelock.BaseFileLock, files: Sequence[OfficialFile], folder: Path,
             timeout_s: float) -> Iterator[Progress]:
    """Wait for the lock for as long as the process that holds it makes headway."""
    patience_s = max(2 * timeout_s, _MIN_PATIENCE_S)
    deadline, seen = time.monotonic() + patience_s, -1
    while True:
        try:
            lock.acquire(timeout=_POLL_S)
            return
        except filelock.Timeout:
            pass
        done = sum(_size(folder / f"{file.path}{end}") for file in files for end in ("", ".part"))
        if done != seen:
            deadline, seen = time.monotonic() + patience_s, done
        elif time.monotonic() > deadline:
            raise DataError(f"{lock.lock_file}: another process has been fetching for "
                            f"{patience_s:g} s without headway; end it and run this again")
        yield Progress(files[0].name, "waiting", done, sum(file.size for file in files))


def _fetch_file(file: OfficialFile, folder: Path, mirror: str | None,
                timeout_s: float) -> Iterator[Progress]:
    """Bring one file, and what it holds, under the final names."""
    final, unpacked = folder / file.path, _unpacked(file, folder)
    if unpacked is not None and unpacked.exists():
        raise _in_the_way(unpacked)
    if final.exists():
        if md5_of(final, gzipped=file.gzipped) != file.md5:
            raise _in_the_way(final)
    else:
        final.parent.mkdir(parents=True, exist_ok=True)
        part = final.with_name(f"{final.name}.part")
        address = Address(file, mirror, final)
        for done, total in download(address, part, timeout_s):
            yield Progress(file.name, "fetching", done, total)
        yield Progress(file.name, "checking", _size(part), _size(part))
        _publish(address, part, final)
    if unpacked is not None:
        yield Progress(file.name, "unpacking", _size(final), _size(final))
        _unpack(file, final, unpacked)


def _publish(address: Address, part: Path, final: Path) -> None:
    """Give the file its name if it is the official one, and remove it if it is not."""
    file = address.file
    found = md5_of(part, gzipped=file.gzipped)
    if found != file.md5:
        part.unlink()
        raise DataError(f"{address.url}: not the official {file.name}: expected MD5 {file.md5}, "
                        f"found {found or 'no whole gzip file'}; what came was removed, so run "
                        "this again, or name another source with --mirror")
    with open(part, "rb") as whole:
        os.fsync(whole.fileno())
    part.replace(final)


def _unpack(file: OfficialFile, archive: Path, unpacked: Path) -> None:
    """Unpack the expected members of the archive, and nothing else, into the folder `unpacked`."""
    new = unpacked.with_name(f".{unpacked.name}.new")
    shutil.rmtree(new, ignore_errors=True)  # of a process that was killed
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if member.name in file.members:
                    if not member.isfile() or member.size > MAX_MEMBER_BYTES:
                        raise DataError(f"{archive}: {member.name} should be a file of at most "
                                        f"{MAX_MEMBER_BYTES} bytes; remove the archive")
                    _copy(tar, member, new / member.name)
        missing = [name for name in file.members if not (new / name).is_file()]
        if missing:
            raise DataError(f"{archive}: has no {', '.join(missing)}; remove the archive")
        (new / unpacked.name).rename(unpacked)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{archive}: cannot be unpacked ({error}); remove it and run this "
                        "again") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _copy(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """Write the content of a file alone, no owner and no mode, as the filter "data" of tarfile
    would, which Python 3.11.2 lacks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = tar.extractfile(member)
    assert packed   # it is a file
    with packed, open(path, "wb") as whole:
        shutil.copyfileobj(packed, whole)


def _unpacked(file: OfficialFile, folder: Path) -> Path | None:
    """The folder that the archive unpacks to; None if the file is no archive."""
    return folder / file.members[0].partition("/")[0] if file.members else None


def _in_the_way(path: Path) -> DataError:
    return DataError(f"{path}: is there, but is not the official one; move it away and run this "
                     "again")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
