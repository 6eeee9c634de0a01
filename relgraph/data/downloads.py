"""Large files from the web: with progress, a checksum, and a restart where the last try was cut off."""

import hashlib
import sys
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from relgraph.errors import RelgraphError
from relgraph.files import first_line

PATIENCE = 30  # seconds without a byte from the server
BLOCK = 2**18  # bytes read at once
PARTIAL = 206  # HTTP's status where the requested part follows
BEYOND_THE_END = 416  # HTTP's status where nothing follows


class _BrokenOff(Exception):
    """The server or the network ended the transfer."""


def fetch(url: str, file: Path, md5: str) -> None:
    """Download `url` to `file`, which appears there once it is complete and has the checksum `md5`.

    Until then it is `file` with `.part` behind its name: a download that was cut off goes on from its end, or starts
    again where the server cannot do that.

    Raises:
        RelgraphError: if it cannot be downloaded or written, is cut off, or has another checksum.
    """
    part = part_of(file)
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as stream:
            _lock(stream, part)
            _download(url, file, stream)
    except OSError as error:
        raise RelgraphError(f"cannot write {part}: {error.strerror or first_line(error)}") from error
    finally:
        if part.is_file() and part.stat().st_size == 0:
            part.unlink()
    found = checksum(part)
    if found != md5:
        part.unlink()
        raise RelgraphError(f"{url}: expected the checksum {md5}, found {found}; what was downloaded is deleted")
    part.replace(file)


def part_of(file: Path) -> Path:
    """Return where a download of `file` lies until it is complete."""
    return file.with_name(file.name + ".part")


def checksum(file: Path) -> str:
    """Return the MD5 of a file, the sum with which these data sets were published."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def megabytes(size: int) -> str:
    """Return a number of bytes as people read it.

    >>> megabytes(169_001_437), megabytes(2_640_397_119)
    ('169 MB', '2.6 GB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _lock(stream: BinaryIO, part: Path) -> None:
    """Keep a second process, as of a job array, from writing to the same file."""
    if sys.platform == "win32":
        return  # no flock there
    import fcntl

    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RelgraphError(f"{part}: another process is downloading it, wait until it is done") from error
    except OSError:
        pass  # a file system without locks; the checksum still finds what two writers spoil


def _download(url: str, file: Path, stream: BinaryIO) -> None:
    try:
        response = _open(url, stream.tell())
        if response is not None:
            with response:
                _append(response, stream, file.name)
    except _BrokenOff as error:
        kept = stream.tell()
        if kept:
            ending = f"was cut off after {kept:,} bytes ({error}): the next try goes on from there"
        else:
            ending = f"could not be downloaded ({error}): fetch {url} and put it in {file.parent}"
        raise RelgraphError(f"{file.name} {ending}") from error


def _append(response: HTTPResponse, stream: BinaryIO, name: str) -> None:
    from tqdm import tqdm

    start = stream.tell()
    if start and response.status != PARTIAL:  # all of it comes, from the beginning
        start = stream.seek(0)
        stream.truncate()
    total = None if response.length is None else start + response.length
    bar = tqdm(desc=name, initial=start, total=total, unit="B", unit_scale=True, leave=False, disable=None)
    with bar:
        for block in _receive(response, total, start):
            stream.write(block)
            bar.update(len(block))


def _open(url: str, start: int) -> HTTPResponse | None:
    """Return the server's answer to a request for what follows the byte `start`, or None if nothing does."""
    headers = {"User-Agent": "relgraph", **({"Range": f"bytes={start}-"} if start else {})}
    try:
        response: HTTPResponse = urlopen(Request(url, headers=headers), timeout=PATIENCE)
    except HTTPError as error:
        error.close()  # it is also the server's answer
        if error.code == BEYOND_THE_END and start:
            return None  # the last try was cut off after the last byte: the checksum is compared next
        raise _BrokenOff(f"HTTP {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        raise _BrokenOff(_reason(error)) from error
    return response


def _receive(response: HTTPResponse, total: int | None, start: int) -> Iterator[bytes]:
    """Yield the blocks that the server sends up to the byte `total`."""
    received = start
    while total is None or received < total:
        try:
            block = response.read1(BLOCK)
        except (OSError, HTTPException) as error:
            raise _BrokenOff(_reason(error)) from error
        if not block:
            break
        received += len(block)
        yield block
    if total is not None and received < total:
        raise _BrokenOff(f"expected {total:,}")
    if received == 0:
        raise _BrokenOff("the answer is empty")


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, URLError) and isinstance(error.reason, Exception) else error
    if isinstance(cause, TimeoutError):
        return f"no answer for {PATIENCE} s"
    return (cause.strerror if isinstance(cause, OSError) else None) or first_line(cause)
