"""Published archives: downloaded once, with a restart where the last try was cut off, compared and unpacked."""

import zlib
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from tarfile import TarError, TarFile
from tempfile import TemporaryDirectory
from typing import IO, Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen
from zipfile import BadZipFile, ZipFile, ZipInfo, is_zipfile

from relgraph.errors import RelgraphError
from relgraph.files import first_line
from relgraph.printing import no_bar

PATIENCE = 30  # seconds without a byte from the server
BLOCK = 2**16  # bytes that are copied at once, and lost where a download is cut off
UNPACKED = 8  # an archive's contents by its own size, at most; those published have 1.1 to 2
HEADER = 512  # bytes of a tar's member without its contents, so that many empty ones count as well


class State(NamedTuple):
    """What there is of a data set: ready, packed, missing or incomplete, and a sentence about it."""

    word: str
    detail: str


@dataclass(frozen=True)
class Archive:
    """The archive in which a data set was published.

    Attributes:
        name: Name of the data set.
        folder: Name of the one directory in it.
        url: Its address.
        md5: Its checksum.
        size: Its size in bytes.
        files: What the directory must hold, each with its MD5, which is empty where none is published.
    """

    name: str
    folder: str
    url: str
    md5: str
    size: int
    files: dict[str, str]

    def packed(self, root: Path) -> Path:
        """Return where the archive itself lies in `root`."""
        return root / self.url.rpartition("/")[2]

    def state(self, root: Path) -> State:
        """Return what there is in `root`, by the names of files alone."""
        folder, archive = root / self.folder, self.packed(root)
        lacking = [name for name in self.files if not (folder / name).exists()]
        if not lacking:
            return State("ready", str(folder))
        if folder.exists():
            return State("incomplete", f"{folder} lacks {', '.join(lacking)}: move it away to have it made anew")
        if archive.is_file():
            return State("packed", f"{archive} is unpacked at the first use")
        part = part_of(archive)
        begun = f", {megabytes(part.stat().st_size)} of it are there" if part.is_file() else ""
        return State("missing", f"{megabytes(self.size)} from {self.url}{begun}")

    def provide(self, root: Path) -> Path:
        """Return the directory in `root`, downloaded and unpacked if it is not there.

        An archive that somebody put there is used. Of several processes one downloads, and the others wait.

        Raises:
            RelgraphError: if that fails, the archive is not the published one, or the directory is there in part.
        """
        from filelock import FileLock

        # Not by `state`: what it would measure of a download may just be put in place by another process.
        if not all((root / self.folder / name).exists() for name in self.files):
            try:
                root.mkdir(parents=True, exist_ok=True)
                with FileLock(str(root / f".{self.folder}.lock")):
                    self._make(root)
            except OSError as error:
                raise RelgraphError(f"cannot write to {root}: {error.strerror or first_line(error)}") from error
        return root / self.folder

    def _make(self, root: Path) -> None:
        from torchvision.datasets.utils import check_md5, extract_archive

        (word, detail), archive = self.state(root), self.packed(root)
        if word == "ready":  # another process was faster
            return
        if word == "incomplete":
            raise RelgraphError(f"{self.name} is incomplete: {detail}")
        if word == "missing":
            fetch(self.url, archive, self.md5, self.size)
        elif not check_md5(archive, self.md5):
            raise RelgraphError(f"{archive} is not the published archive (its checksum differs): fetch {self.url}")
        check_unpacked(archive, UNPACKED * self.size)
        # The extraction trusts the paths in the archive, which is the published one: its checksum was compared.
        with TemporaryDirectory(prefix=f".{self.folder}.", dir=root) as temporary:
            extract_archive(archive, temporary)
            Path(temporary, self.folder).rename(root / self.folder)

    def check(self, root: Path) -> None:
        """Compare the files in `root` with their published checksums.

        Raises:
            RelgraphError: if one differs.
        """
        from torchvision.datasets.utils import check_md5

        folder = root / self.folder
        for name, md5 in self.files.items():
            if md5 and not check_md5(folder / name, md5):
                told = f"{folder / name} is not the published file (its checksum differs)"
                raise RelgraphError(f"{told}: move {folder} away to have it made anew")


def check_unpacked(archive: Path, most: int) -> None:
    """Raise RelgraphError if a tar or zip holds more than so many bytes, or cannot be read; nothing is written."""
    total = 0
    try:
        with ZipFile(archive) if is_zipfile(archive) else TarFile.open(archive) as opened:
            members = opened.infolist() if isinstance(opened, ZipFile) else opened  # a tar's are found by reading it
            for member in members:
                total += HEADER + (member.file_size if isinstance(member, ZipInfo) else member.size)
                if total > most:
                    told = f"{archive} unpacks to more than {megabytes(most)}, which is no data set's size"
                    raise RelgraphError(f"{told}: delete it")
    except (TarError, BadZipFile, EOFError, zlib.error) as error:
        raise RelgraphError(f"{archive} is no archive that can be unpacked ({first_line(error)})") from error


def fetch(url: str, file: Path, md5: str, size: int | None = None) -> None:
    """Download `url` to `file`, which appears there once it is complete and has the checksum `md5`.

    No more than `size` bytes, if given, and another block are written.

    Until then it is `file` with `.part` behind its name: a download that was cut off goes on from its end, or starts
    again where the server cannot do that. (torchvision's own download has no restart, and waits for ever for a server
    that falls silent.)

    Raises:
        RelgraphError: if it cannot be downloaded or written, is cut off, or has another checksum.
    """
    from torchvision.datasets.utils import calculate_md5

    part = part_of(file)
    try:
        _append(url, part, size)
    except (OSError, HTTPException, ValueError) as error:  # the last for an address that is none
        cause = error.reason if isinstance(error, URLError) and isinstance(error.reason, Exception) else error
        reason = getattr(cause, "strerror", None) or first_line(cause)
        if isinstance(cause, TimeoutError):
            reason = f"no answer for {PATIENCE} s"
        told = f"could not be downloaded ({reason}): fetch {url} and put it in {file.parent}"
        if part.is_file():
            told = f"was cut off after {part.stat().st_size:,} bytes ({reason}): the next try goes on from there"
        raise RelgraphError(f"{file.name} {told}") from error
    if size is not None and part.stat().st_size > size:
        part.unlink()
        raise RelgraphError(f"{url}: expected {size:,} bytes, found more; what was downloaded is deleted")
    found = calculate_md5(part)
    if found != md5:
        part.unlink()
        raise RelgraphError(f"{url}: expected the checksum {md5}, found {found}; what was downloaded is deleted")
    part.replace(file)


def _append(url: str, part: Path, size: int | None) -> None:
    """Add what follows in `url` to a file, or write it anew where the server begins at the beginning.

    It ends soon after `size` bytes.
    """
    from tqdm import tqdm

    kept = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": "relgraph", **({"Range": f"bytes={kept}-"} if kept else {})}
    try:
        answer = urlopen(Request(url, headers=headers), timeout=PATIENCE)
    except HTTPError as error:
        error.close()  # it is also the server's answer
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and kept:
            return  # the last try was cut off after the last byte: the checksum is compared next
        raise
    with answer as response:
        kept = kept if response.status == HTTPStatus.PARTIAL_CONTENT else 0
        total = None if response.length is None else kept + response.length
        hidden = no_bar()
        with (
            part.open("ab" if kept else "wb") as stream,
            tqdm.wrapattr(stream, "write", total, desc=part.stem, initial=kept, leave=False, disable=hidden) as output,
        ):
            enough = _copy(response, output, None if size is None else size - kept)
        if response.length and not enough:
            raise ConnectionError(f"expected {total:,}")


def _copy(source: IO[bytes], target: Any, most: int | None) -> bool:
    """Copy a stream to its end, or to the block that exceeds so many bytes, and return whether there is one."""
    copied = 0
    while block := source.read(BLOCK):
        target.write(block)
        copied += len(block)
        if most is not None and copied > most:
            return True
    return False


def part_of(file: Path) -> Path:
    """Return where a download of `file` lies until it is complete."""
    return file.with_name(file.name + ".part")


def megabytes(size: int) -> str:
    """Return a number of bytes as people read it.

    >>> megabytes(169_001_437), megabytes(2_640_397_119)
    ('169 MB', '2.6 GB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
