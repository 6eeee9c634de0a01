"""Archives, unpacked completely or not at all, and nowhere but where they belong."""

import shutil
import tarfile
import zlib
from collections.abc import Iterator
from gzip import BadGzipFile
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import IO, cast
from zipfile import BadZipFile, ZipFile

from relgraph.errors import RelgraphError
from relgraph.files import first_line


def unpack(archive: Path, folder: Path) -> None:
    """Unpack the directory `folder.name` of a `.zip` or a `.tar.gz` to `folder`, which appears once it is complete.

    Only files are written: no links, no owners, no permissions, and nothing outside.

    Raises:
        RelgraphError: if the archive is damaged, holds something else or a path that leads out of it, or there is no
            space.
    """
    try:
        with TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
            _write(archive, Path(temporary))
            unpacked = Path(temporary, folder.name)
            if not unpacked.is_dir():
                raise RelgraphError(f"{archive}: expected a directory {folder.name} in it, found none")
            if not folder.exists():  # another process may have been faster
                unpacked.rename(folder)
    except (tarfile.TarError, BadZipFile, BadGzipFile, EOFError, zlib.error) as error:
        raise RelgraphError(
            f"{archive} is damaged ({first_line(error)}): delete it, and it is downloaded again"
        ) from error
    except OSError as error:
        raise RelgraphError(f"cannot unpack {archive} to {folder}: {error.strerror or first_line(error)}") from error


def _write(archive: Path, folder: Path) -> None:
    from tqdm import tqdm
    from tqdm.utils import CallbackIOWrapper

    size = archive.stat().st_size
    with (
        archive.open("rb") as stream,
        tqdm(desc=f"unpack {archive.name}", total=size, unit="B", unit_scale=True, leave=False, disable=None) as bar,
    ):
        read = cast(IO[bytes], CallbackIOWrapper(bar.update, stream, "read"))
        members = _zip_members(read) if archive.suffix == ".zip" else _tar_members(read)
        for name, content in members:
            target = folder / _inside(archive, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with content, target.open("wb") as output:
                shutil.copyfileobj(content, output, 2**20)


def _inside(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise RelgraphError(f"{archive}: expected paths within the archive, found {name!r}")
    return path


def _zip_members(stream: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    with ZipFile(stream) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                yield member.filename, archive.open(member)


def _tar_members(stream: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(fileobj=stream, mode="r:*") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isreg() else None
            if content is not None:
                yield member.name, content
