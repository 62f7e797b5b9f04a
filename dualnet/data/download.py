"""One file over HTTP, resumed where the connection broke."""

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dualnet import __version__
from dualnet.data.official import OfficialFile, md5_of
from dualnet.errors import DataError

MAX_TRIES = 4  # in a row without a new byte
_FIRST_PAUSE_S = 0.5  # doubled after each of them
_BLOCK = 2**16  # bytes
_TRY_AGAIN = {408, 425, 429}  # and every 5xx: the server may think better of it
_RANGE_NOT_SATISFIABLE = 416


@dataclass(frozen=True)
class Address:
    """Where a file comes from and where it goes.

    mirror   base address, None for the official one
    final    the path that it gets once it is checked
    """

    file: OfficialFile
    mirror: str | None
    final: Path

    @property
    def url(self) -> str:
        """The address of the file."""
        return self.file.url if self.mirror is None else (
            f"{self.mirror.rstrip('/')}/{self.file.name}")


class _Broken(Exception):
    """The connection failed in a way that another try may mend."""


def download(address: Address, part: Path, timeout_s: float) -> Iterator[tuple[int, int | None]]:
    """Bring the file to `part`, going on from what is there; yields (bytes done, bytes in all).

    Tries again after a broken connection, until there was no new byte for `timeout_s` or for
    MAX_TRIES tries.  What came is kept for the next call.

    Raises DataError if it gives up, if the server has no such file or sends far too many bytes;
    OSError if `part` cannot be written.
    """
    most, failures = _size(part), 0
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            for done, total in _receive(address, part, deadline - time.monotonic()):
                # A server that starts over makes headway only when it passes what was there.
                if done > most:
                    most, failures, deadline = done, 0, time.monotonic() + timeout_s
                yield done, total
            return
        except _Broken as error:
            failures += 1
            pause_s = _FIRST_PAUSE_S * 2 ** (failures - 1)
            if failures == MAX_TRIES or time.monotonic() + pause_s >= deadline:
                raise _gave_up(address, part, str(error)) from error
            time.sleep(pause_s)


def _receive(address: Address, part: Path, timeout_s: float) -> Iterator[tuple[int, int | None]]:
    """One try.  Raises _Broken if it should be repeated."""
    offset = _size(part)
    response = _open(address, offset, timeout_s)
    if response is None:
        _accept_or_restart(address, part)
        return
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            offset = 0  # the server knows no ranges and sends the whole file
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            part.unlink(missing_ok=True)
            raise _Broken("the server sent another range than was asked for")
        yield from _store(response, part, offset, address)


def _open(address: Address, offset: int, timeout_s: float) -> http.client.HTTPResponse | None:
    """Ask for the file from `offset` on; None if the server has no byte there."""
    request = urllib.request.Request(
        address.url, headers={"User-Agent": f"dualnet/{__version__}"})
    if offset:
        request.add_header("Range", f"bytes={offset}-")
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(
            request, timeout=max(timeout_s, 0.1))
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == _RANGE_NOT_SATISFIABLE and offset:
            return None
        found = f"the server answers {error.code} {error.reason}"
        if error.code in _TRY_AGAIN or error.code >= 500:
            raise _Broken(found) from error
        raise DataError(f"{address.url}: {found}; {_by_hand(address)}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _broken(error) from error
    return response


def _store(response: http.client.HTTPResponse, part: Path, offset: int,
           address: Address) -> Iterator[tuple[int, int | None]]:
    """Append the body to the first `offset` bytes of `part`."""
    file, done = address.file, offset
    length = response.headers.get("Content-Length", "")
    total = offset + int(length) if length.isdecimal() else None if file.gzipped else file.size
    with open(part, "ab" if offset else "wb", buffering=0) as out:
        yield done, total
        while block := _read(response):
            out.write(block)
            done += len(block)
            if done > 2 * file.size:
                part.unlink()
                raise DataError(f"{address.url}: sends more than twice the {file.size} bytes of "
                                f"the official {file.name}; name another source with --mirror")
            yield done, total
    if total is not None and done < total:
        raise _Broken(f"the connection ended after {done} of {total} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    """What has come, which may be little; empty at the end."""
    try:
        return response.read1(_BLOCK)
    except (OSError, http.client.HTTPException) as error:
        raise _broken(error) from error


def _broken(error: Exception) -> _Broken:
    reason = getattr(error, "reason", error)
    return _Broken(str(getattr(reason, "strerror", None) or reason) or type(error).__name__)


def _accept_or_restart(address: Address, part: Path) -> None:
    """There is nothing behind what has come: either it is the whole file or it is none of it."""
    if md5_of(part, gzipped=address.file.gzipped) != address.file.md5:
        part.unlink()
        raise _Broken("what was there is longer than the file")


def _gave_up(address: Address, part: Path, reason: str) -> DataError:
    done = _size(part)
    if done == 0:
        return DataError(f"{address.url}: cannot be fetched ({reason}); {_by_hand(address)}")
    return DataError(f"{address.url}: broke off at {done} of {address.file.size} bytes ({reason}); "
                     "run the same command again to go on from there")


def _by_hand(address: Address) -> str:
    return (f"name another source with --mirror, or put {address.file.name} from elsewhere at "
            f"{address.final} and run this again")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
