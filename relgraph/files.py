"""Files that are written whole or not at all, and that tell when they are read whether they are as they were written.

A file of a run carries its SHA-256 in itself, which a file beside it could not without a moment in which both differ:
JSON as the entry `sha256`, YAML in a last comment, a table in the name of a last, empty column. Files of weights carry
it in their header (`relgraph.networks.files`), checkpoints a CRC-32 of each part (`relgraph.training.checkpoint`).
"""

import csv
import errno
import hashlib
import io
import json
import os
import re
import shutil
import sysconfig
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from traceback import extract_tb
from typing import IO, Any

from relgraph.errors import RelgraphError

SEAL = "sha256"
LOCK = ".lock"
LEFTOVER = re.compile(r"\..+\.part")  # what a killed process can leave beside its files
LEFT_FOLDER = re.compile(r"\..+\.[a-z0-9_]{8}\.part")  # the letters that `tempfile` draws
NEW = "new"  # what is in such a folder, and nothing else
YAML_LIMIT = 2**18  # bytes; a recipe has some 3,000
AT_ONCE = 2**24  # bytes of a file that are read for its digest
TEXT_LIMIT = 4096  # characters of one value; a path has no more


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a new file beside `path`, which takes its place once the block ends well.

    An interrupt or a full disk leaves what `path` held before. The new file has a name that nobody can guess, is made
    where none is, and is on the disk before it is renamed, as the directory is after it. `path` keeps its permissions.

    Raises:
        RelgraphError: if it cannot be written.
    """
    part = None
    try:
        if path.is_dir():  # told before the block, whose work can be long
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        number, name = tempfile.mkstemp(".part", f".{path.name}.", path.parent)
        os.close(number)
        part = Path(name)
        yield part
        part.chmod(path.stat().st_mode & 0o7777 if path.exists() else 0o666 & ~_umask())
        _sync(part)
        part.replace(path)
        _sync(path.parent)
    except OSError as error:
        kept = ", what it held before is untouched" if path.exists() else ""
        raise RelgraphError(f"cannot write {path}: {_reason(error)}{kept}") from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


def check_empty(folder: Path) -> None:
    """Check that a folder is new or empty, and no link.

    Raises:
        RelgraphError: if anything is there.
    """
    if folder.is_symlink() or (folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))):
        raise RelgraphError(f"{folder} exists already: expected a new or an empty folder")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`, which takes its place once the block ends well, else nothing is left.

    Raises:
        RelgraphError: if something is at `path` already, except an empty folder, or it cannot be written.
    """
    check_empty(path)
    with writing(path), tempfile.TemporaryDirectory(".part", f".{path.name}.", path.parent) as outer:
        part = Path(outer) / NEW
        part.mkdir()  # with the permissions that folders get, which a temporary one has not
        yield part
        for each in (*part.rglob("*"), part):
            _sync(each)
        part.replace(path)
        _sync(path.parent)


def _reason(error: OSError) -> str:
    """Return what the system says; of a full disk numpy says only how many numbers were written."""
    short = error.errno is None and " requested and " in str(error)
    return os.strerror(errno.ENOSPC) if short else error.strerror or first_line(error)


def _umask() -> int:
    """Return the permissions that new files do not get."""
    found = os.umask(0o022)
    os.umask(found)
    return found


def _sync(path: Path) -> None:
    """Wait until a file or a directory is on the disk, where the system can tell."""
    if os.name != "posix" and path.is_dir():
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError:
        if not path.is_dir():  # of directories some file systems have no sync
            raise
    finally:
        os.close(number)


def check_new(*paths: Path) -> None:
    """Check that nothing is where new files shall be, but their folders.

    Raises:
        RelgraphError: naming what is there, or the folder that is not.
    """
    for path in paths:
        if os.path.lexists(path):
            raise RelgraphError(f"{path} is there already: remove it, or choose another name")
        if not path.parent.is_dir():  # told before the work
            raise RelgraphError(f"cannot write {path}: {os.strerror(errno.ENOENT)}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Tell in one sentence where a block cannot write what is at `path`.

    Raises:
        RelgraphError: if it cannot.
    """
    try:
        yield
    except OSError as error:
        raise RelgraphError(f"cannot write {path}: {_reason(error)}") from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Tell in one sentence where a block cannot read what is at `path`.

    Raises:
        RelgraphError: if it cannot.
    """
    try:
        yield
    except OSError as error:
        raise RelgraphError(f"cannot read {path}: {error.strerror or first_line(error)}") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write a whole file or none of it.

    Raises:
        RelgraphError: if it cannot be written; what `path` held before is untouched.
    """
    with replacing(path) as part:
        part.write_bytes(data)


def parquet_packages(path: str | Path, instead: str = "write a .csv file") -> tuple[Any, Any]:
    """Return pyarrow and its module for Parquet files.

    Raises:
        RelgraphError: if it is not installed; the message tells what to do `instead` with the path.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except Exception as error:  # a broken installation raises nearly anything
        told = "the package pyarrow, which is not installed or broken: pip install 'relgraph[parquet]'"
        raise RelgraphError(f"{path} needs {told}, or {instead}") from error
    return pyarrow, parquet


def torch_save(content: Any, stream: IO[bytes]) -> None:
    """Write an object by torch, which by itself does not tell that a disk is full.

    Raises:
        OSError: if it cannot be written.
    """
    import torch

    try:
        torch.save(content, stream)
    except RuntimeError as error:
        raise error.__context__ if isinstance(error.__context__, OSError) else OSError(first_line(error)) from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to a folder, and remove what a killed one left; a dead process holds none.

    Raises:
        RelgraphError: if another process writes to it, or nobody can.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK, timeout=0)
    with writing(folder):
        try:
            lock.acquire()
        except Timeout:  # an OSError
            told = f"{folder} is being written by another process: wait for its end, or stop it"
            raise RelgraphError(told) from None
    try:
        with writing(folder):
            tempfile.TemporaryFile(dir=folder).close()  # a lock can be had where nothing can be written
        _remove_leftovers(folder)
        yield
    finally:
        lock.release()


def _remove_leftovers(folder: Path) -> None:
    with writing(folder):
        left = [entry for entry in folder.iterdir() if _is_leftover(entry)]
    for entry in left:
        with writing(entry), suppress(FileNotFoundError):  # who made it can be about to remove it
            if _is_folder(entry):
                shutil.rmtree(entry)
            else:
                entry.unlink()


def _is_leftover(entry: Path) -> bool:
    """Return whether a killed process left this: a file by its name, a folder by what is in it as well."""
    if not _is_folder(entry):
        return LEFTOVER.fullmatch(entry.name) is not None
    return LEFT_FOLDER.fullmatch(entry.name) is not None and all(each.name == NEW for each in entry.iterdir())


def _is_folder(entry: Path) -> bool:
    return entry.is_dir() and not entry.is_symlink()


def only_begun(folder: Path, first: Set[str] = frozenset()) -> bool:
    """Return whether a folder holds no more than a start that was killed leaves: a lock, parts, files named `first`."""
    return all(entry.name in first | {LOCK} or _is_leftover(entry) for entry in folder.iterdir())


def torch_load(path: Path) -> Any:
    """Return what torch wrote, on the CPU; nothing but tensors and plain values is unpickled.

    Raises:
        ValueError: if the file holds anything else or cannot be read, with the reason in a few words.
    """
    import torch

    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if sum(part.file_size for part in archive.infolist()) > path.stat().st_size:
                    raise ValueError("its parts are larger than the file, and torch compresses none")
        with warnings.catch_warnings(action="ignore"):  # torch warns of what it then refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes pickle, zipfile and torch raise nearly anything
        raise ValueError(unreadable(error)) from error


def unreadable(error: Exception) -> str:
    """Return why torch cannot read a file: its own sentences advise to load the file without a guard.

    >>> unreadable(RuntimeError("Re-running `torch.load` with `weights_only` set to `False` will likely succeed"))
    'it is damaged, truncated or of another kind'
    """
    told = str(error)
    if "TorchScript" in told:
        return "it is a TorchScript program"
    if "global" in told.lower():
        return "it holds Python objects beside the tensors, or is damaged"
    reason = "" if "weights_only" in told else f" ({first_line(error)[:200]})"
    return f"it is damaged, truncated or of another kind{reason}"


def digest(data: bytes) -> str:
    """Return the SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def file_digest(*paths: Path) -> str:
    """Return the SHA-256 of what files hold, one after the other.

    Raises:
        RelgraphError: if one cannot be read.
    """
    found = hashlib.sha256()
    for path in paths:
        with reading(path), path.open("rb") as stream:
            while part := stream.read(AT_ONCE):
                found.update(part)
    return found.hexdigest()


def _changed(path: Path) -> RelgraphError:
    told = "expected the SHA-256 that it carries, found another"
    return RelgraphError(f"{path} is damaged or was changed after it was written: {told}; put back a copy of it")


def _read(path: Path) -> bytes:
    with reading(path):
        return path.read_bytes()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping as JSON with its SHA-256, whole or not at all; numbers that are keys become texts."""
    content = json.loads(json.dumps(content))  # as it will be read: texts have another order than numbers
    sealed = {**content, SEAL: digest(_canonical(content))}
    write_atomically(path, (json.dumps(sealed, indent=2) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Return the mapping that `write_json` wrote, without its SHA-256.

    Raises:
        RelgraphError: if it cannot be read, is no mapping, or is not as it was written.
    """
    try:
        content = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise RelgraphError(f"cannot read {path} as JSON: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise RelgraphError(f"{path} must hold an object, got {type(content).__name__}")
    if content.pop(SEAL, None) != digest(_canonical(content)):
        raise _changed(path)
    return content


def _canonical(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True).encode()


def write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping as YAML, its SHA-256 in a comment at the end, whole or not at all."""
    import yaml

    text = yaml.safe_dump(dict(content), sort_keys=False).encode()
    write_atomically(path, text + f"# {SEAL}: {digest(text)}\n".encode())


def read_yaml(path: Path, *, sealed: bool = False) -> dict[str, Any]:
    """Return the mapping in a YAML file; dashes in its keys count as underscores.

    Args:
        path: The file.
        sealed: Whether it must end with its SHA-256, as `write_yaml` writes it.

    Raises:
        RelgraphError: if it cannot be read, is too large, is no mapping, or is not as it was written.
    """
    data = _read(path)
    if len(data) > YAML_LIMIT:
        raise RelgraphError(f"{path} has {len(data):,} bytes: expected options of at most {YAML_LIMIT:,}")
    if sealed:
        text, mark, found = data.rpartition(f"# {SEAL}: ".encode())
        if not mark or found.strip() != digest(text).encode():
            raise _changed(path)
    try:
        content = parse_yaml(data)
    except ValueError as error:
        raise RelgraphError(f"cannot read {path}: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise RelgraphError(f"{path} must hold options as 'name: value' lines, got {type(content).__name__}")
    for name, value in content.items():
        if not is_plain(value):
            told = f"{name[:60]} must be one value, or a list of values, of at most {TEXT_LIMIT:,} characters"
            raise RelgraphError(f"{path}: {told}, got another {type(value).__name__}")
    return {name.replace("-", "_"): tuple(v) if isinstance(v, list) else v for name, v in content.items()}


def parse_yaml(text: str | bytes) -> Any:
    """Return what a text in YAML says: plain values, lists and mappings, nothing else is made of it.

    Raises:
        ValueError: if it is not valid, is nested deeply, has aliases, or a mapping the same name twice, with the reason
            in a few words.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):  # some lines of them stand for any number of values
                raise yaml.YAMLError("it holds an alias such as *name: write out what that stands for")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            names = [key.value for key, _ in node.value]
            if twice := [str(name) for name in names if names.count(name) > 1]:  # the last would win, silently
                raise yaml.YAMLError(f"it says {twice[0][:60]} twice")
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except Exception as error:  # a tag such as !!bool or a date makes PyYAML raise nearly anything
        raise ValueError(" ".join(str(error).split())[:200]) from error


def is_plain(value: Any) -> bool:
    """Return whether a value is a text, a number, a truth value, none, or a list of these, none of them long."""
    if isinstance(value, list):
        return all(is_plain(part) and not isinstance(part, list) for part in value)
    if isinstance(value, (str, int)):
        return len(value) <= TEXT_LIMIT if isinstance(value, str) else abs(value) < 2**63
    return value is None or isinstance(value, float)


def write_table(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write rows as CSV, whole or not at all; what only some of them have is empty in the others.

    The name of a last column, empty in every row, is the SHA-256 of the table without that name.
    """
    names = [*dict.fromkeys(name for row in rows for name in row), ""]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    header, _, others = text.getvalue().partition("\n")
    sealed = f"{header}{SEAL}:{digest(text.getvalue().encode())}\n{others}"
    write_atomically(path, sealed.encode())


def read_table(path: Path) -> list[dict[str, float]]:
    """Return the rows that `write_table` wrote, without the empty cells.

    Raises:
        RelgraphError: if it cannot be read, holds what is no number, or is not as it was written.
    """
    try:
        text = _read(path).decode()
        header, _, others = text.partition("\n")
        names, _, found = header.rpartition(f"{SEAL}:")
        if found != digest(f"{names}\n{others}".encode()):
            raise _changed(path)
        rows = csv.DictReader(io.StringIO(f"{names}\n{others}"))
        return [{name: float(value) for name, value in row.items() if value} for row in rows]
    except (ValueError, TypeError, csv.Error) as error:
        if isinstance(error, RelgraphError):
            raise
        raise RelgraphError(f"cannot read {path}: {first_line(error)}") from error


def read_parquet(path: Path, instead: str = "a file of another kind") -> Any:
    """Return the table of a Parquet file, as pyarrow has it.

    Raises:
        RelgraphError: if it cannot be read, or pyarrow is not installed, where a file of another kind stands `instead`.
    """
    _, parquet = parquet_packages(path, f"give {instead}")
    with reading(path):
        path.open("rb").close()
    try:
        return parquet.read_table(path)
    except Exception as error:
        raise RelgraphError(f"{path}: expected a Parquet file ({first_line(error)[:200]})") from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its kind where it has none.

    >>> first_line(OSError("no such file"))
    'no such file'
    """
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


def told_of(error: BaseException) -> str:
    """Return kind and first line of an error, and the last line of code outside of any library that led to it.

    >>> told_of(KeyError("x"))
    "KeyError: 'x'"
    """
    libraries = str(Path(__file__).parent), sysconfig.get_path("stdlib"), "<"
    frames = [frame for frame in extract_tb(error.__traceback__) if not frame.filename.startswith(libraries)]
    own = [f" ({Path(f.filename).name}, line {f.lineno})" for f in frames if "-packages" not in f.filename]
    return f"{type(error).__name__}: {first_line(error)}{own[-1] if own else ''}"
