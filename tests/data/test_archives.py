"""Archives are unpacked whole or not at all, and nothing is written outside."""

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import pytest

from relgraph.data.archives import unpack
from relgraph.errors import RelgraphError

FILES = {"birds/a.txt": b"a" * 5000, "birds/deep/b.txt": os.urandom(300_000)}
Writer = Callable[[Path, dict[str, bytes]], Path]


def write_tar(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "birds.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_zip(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "birds.zip"
    with ZipFile(path, "w") as archive:
        archive.writestr("birds/", b"")
        for name, content in files.items():
            archive.writestr(name, content)
    return path


both = pytest.mark.parametrize("write", [write_tar, write_zip])


def fails(archive: Path, message: str) -> None:
    with pytest.raises(RelgraphError, match=message) as caught:
        unpack(archive, archive.parent / "birds")
    assert "\n" not in str(caught.value)
    assert os.listdir(archive.parent) == [archive.name]


@both
def test_what_was_packed_is_unpacked(write: Writer, tmp_path: Path) -> None:
    archive = write(tmp_path, FILES)
    unpack(archive, tmp_path / "birds")
    unpacked = {
        file.relative_to(tmp_path).as_posix(): file.read_bytes()
        for file in (tmp_path / "birds").rglob("*")
        if file.is_file()
    }
    assert unpacked == FILES
    assert sorted(os.listdir(tmp_path)) == ["birds", archive.name]


@both
def test_a_truncated_archive_leaves_nothing(write: Writer, tmp_path: Path) -> None:
    archive = write(tmp_path, FILES)
    archive.write_bytes(archive.read_bytes()[:200_000])
    fails(archive, r"birds\.\S+ is damaged .*: delete it, and it is downloaded again")


def test_a_zip_with_a_flipped_bit_leaves_nothing(tmp_path: Path) -> None:
    archive = write_zip(tmp_path, FILES)
    content = bytearray(archive.read_bytes())
    content[100_000] ^= 1
    archive.write_bytes(content)
    fails(archive, r"birds\.zip is damaged \(Bad CRC")


@both
@pytest.mark.parametrize("name", ["../outside", "birds/../../outside", "/outside", "birds\\..\\outside", "C:/outside"])
def test_paths_that_lead_out_are_refused(write: Writer, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    fails(write(folder, {**FILES, name: b"outside"}), r"expected paths within the archive, found '")
    assert not list(tmp_path.rglob("*outside"))


def test_links_are_not_made(tmp_path: Path) -> None:
    archive = tmp_path / "birds.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        link = tarfile.TarInfo("birds")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        packed.addfile(link)
        member = tarfile.TarInfo("birds/passwd")
        packed.addfile(member, io.BytesIO())
    unpack(archive, tmp_path / "birds")
    assert not (tmp_path / "birds").is_symlink() and os.listdir(tmp_path / "birds") == ["passwd"]


@both
def test_an_archive_of_something_else(write: Writer, tmp_path: Path) -> None:
    fails(write(tmp_path, {"fishes/a.txt": b""}), "expected a directory birds in it, found none")


def test_no_archive_at_all(tmp_path: Path) -> None:
    archive = tmp_path / "birds.zip"
    archive.write_bytes(b"<html>")
    fails(archive, "is damaged")


def test_what_another_process_unpacked_stays(tmp_path: Path) -> None:
    archive = write_tar(tmp_path, FILES)
    (tmp_path / "birds").mkdir()
    (tmp_path / "birds/mine").touch()
    unpack(archive, tmp_path / "birds")
    assert os.listdir(tmp_path / "birds") == ["mine"]
