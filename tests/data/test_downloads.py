"""Downloads from a server on this machine that breaks off, refuses, or sends something else; and what is unpacked."""

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import pytest

from relgraph.data import downloads
from relgraph.data.downloads import Archive, fetch, part_of
from tests.checks import assert_refused_like
from tests.web import Web, serving

CONTENT = bytes(range(256)) * 4000  # about a megabyte, more than one block
MD5 = hashlib.md5(CONTENT).hexdigest()
FILES = {"train": b"train" * 100, "deep/test": b"test" * 50, "meta": b"meta"}


@pytest.fixture
def web() -> Iterator[Web]:
    with serving(CONTENT) as server:
        yield server


def fails(url: str, file: Path, message: str, md5: str = MD5) -> None:
    assert_refused_like((lambda: fetch(url, file, md5), message))
    assert not file.exists()


def test_a_download_goes_on_where_it_was_cut_off_or_begins_again(web: Web, tmp_path: Path) -> None:
    file = tmp_path / "images.tar.gz"
    for web.ranges in (True, False):
        web.asked, web.cut = [], 600_000
        fails(web.url, file, r"images\.tar\.gz was cut off after 600,000 bytes .*the next try goes on from there")
        assert part_of(file).read_bytes() == CONTENT[:600_000]
        web.status = 503
        fails(web.url, file, r"cut off after 600,000 bytes \(HTTP Error 503.*\): the next try goes on")
        web.status, web.cut = 200, None
        fetch(web.url, file, MD5)
        assert web.asked == [None, "bytes=600000-", "bytes=600000-"]
        assert file.read_bytes() == CONTENT and os.listdir(tmp_path) == [file.name]
        file.unlink()


def test_what_has_all_bytes_is_kept_if_they_are_the_published_ones(web: Web, tmp_path: Path) -> None:
    part_of(tmp_path / "a").write_bytes(CONTENT)
    fetch(web.url, tmp_path / "a", MD5)
    assert web.asked == [f"bytes={len(CONTENT)}-"] and (tmp_path / "a").read_bytes() == CONTENT
    fails(web.url, tmp_path / "b", f"{web.url}: expected the checksum {'0' * 32}, found {MD5}; .* is deleted", "0" * 32)
    part_of(tmp_path / "b").write_bytes(b"something else")
    fails(web.url, tmp_path / "b", "expected the checksum")
    assert os.listdir(tmp_path) == ["a"]


def test_what_cannot_be_reached_leaves_nothing(web: Web, tmp_path: Path) -> None:
    file = tmp_path / "images.tar.gz"
    web.status = 404
    for url, reason in (
        (web.url, "HTTP Error 404: Not Found"),
        ("http://127.0.0.1:9/images.tar.gz", "Connection refused"),  # nobody listens there
        ("gopher://127.0.0.1/images.tar.gz", ".*unknown url type: gopher.*"),
    ):
        told = rf"^images\.tar\.gz could not be downloaded \({reason}\): fetch {url} and put it in {tmp_path}$"
        fails(url, file, told)
    assert os.listdir(tmp_path) == []


def test_a_server_that_falls_silent(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "PATIENCE", 0.2)
    web.cut, web.silent = 600_000, True
    fails(web.url, tmp_path / "a", r"cut off after \d+,\d+ bytes \(no answer for 0\.2 s\): the next try goes on")


def test_a_disk_that_takes_no_more(web: Web, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))  # what a full disk is to a program
    try:
        fails(web.url, tmp_path / "a", r"cut off after .* bytes \(File too large\)")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    fetch(web.url, tmp_path / "a", MD5)
    assert (tmp_path / "a").read_bytes() == CONTENT


def tar(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"birds/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


@pytest.fixture
def archive(web: Web) -> Archive:
    """Publish an archive on the server."""
    web.content = tar(FILES)
    files = {name: hashlib.md5(inside).hexdigest() for name, inside in FILES.items()}
    return Archive("aves", "birds", web.url, hashlib.md5(web.content).hexdigest(), 169_001_437, files)


def refuses(archive: Archive, root: Path, message: str) -> None:
    assert_refused_like((lambda: archive.provide(root), message))


def test_an_archive_is_downloaded_once_also_by_several(web: Web, archive: Archive, tmp_path: Path) -> None:
    root = tmp_path / "data"
    assert archive.state(root) == ("missing", f"169 MB from {web.url}")
    with ThreadPoolExecutor(3) as pool:
        folders = list(pool.map(archive.provide, [root] * 3))
    assert folders == [root / "birds"] * 3 and web.asked == [None]
    assert {name: (root / "birds" / name).read_bytes() for name in FILES} == FILES
    assert archive.state(root) == ("ready", str(root / "birds"))
    archive.check(root)
    assert {name for name in os.listdir(root) if not name.endswith(".lock")} == {"birds", "images.tar.gz"}
    (root / "birds/train").write_bytes(b"Train" * 100)
    message = r"birds/train is not the published file \(its checksum differs\): move"
    assert_refused_like((lambda: archive.check(root), message))
    (root / "birds/train").unlink()
    assert archive.state(root).word == "incomplete"
    refuses(archive, root, r"aves is incomplete: .*birds lacks train: move it away to have it made anew")
    assert sorted(os.listdir(root / "birds")) == ["deep", "meta"]


def test_what_somebody_put_there_is_used_if_it_is_the_published_one(web: Web, archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "images.tar.gz").write_bytes(tar({"train": b"mine"}))
    refuses(archive, tmp_path, r"images\.tar\.gz is not the published archive .*: fetch http")
    assert (tmp_path / "images.tar.gz").exists() and not (tmp_path / "birds").exists()
    with ZipFile(tmp_path / "images.zip", "w") as packed:
        for name, content in FILES.items():
            packed.writestr(f"birds/{name}", content)
    md5 = hashlib.md5((tmp_path / "images.zip").read_bytes()).hexdigest()
    archive = replace(archive, url=web.url.replace("tar.gz", "zip"), md5=md5)
    assert archive.state(tmp_path) == ("packed", f"{tmp_path}/images.zip is unpacked at the first use")
    archive.check(archive.provide(tmp_path).parent)
    assert web.asked == []


def test_a_server_that_sends_too_much_is_not_listened_to(web: Web, tmp_path: Path) -> None:
    size = len(CONTENT) - 2 * downloads.BLOCK
    for kept in (0, 100, size + 1):
        part_of(tmp_path / "a").write_bytes(CONTENT[:kept])
        told = rf"{web.url}: expected {size:,} bytes, found more; what was downloaded is deleted"
        assert_refused_like((lambda: fetch(web.url, tmp_path / "a", MD5, size), told))
        assert os.listdir(tmp_path) == []
    fetch(web.url, tmp_path / "a", MD5, len(CONTENT))
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_what_would_unpack_to_a_multiple_of_its_size_is_refused(web: Web, archive: Archive, tmp_path: Path) -> None:
    """Also where its checksum is the right one, and whether it holds one large file or many empty ones."""
    with ZipFile(tmp_path / "bomb.zip", "w", ZIP_DEFLATED) as packed:
        packed.writestr("birds/train", bytes(10**6))
    zipped = (tmp_path / "bomb.zip").read_bytes()
    empty = {f"{i}": b"" for i in range(2000)}
    for name, content in (("a.zip", zipped), ("a.tar.gz", tar({"train": bytes(10**6)})), ("a.tar.gz", tar(empty))):
        root = tmp_path / "data"
        root.mkdir(exist_ok=True)
        (root / name).write_bytes(content)
        md5 = hashlib.md5(content).hexdigest()
        bomb = replace(archive, url=f"http://127.0.0.1:9/{name}", md5=md5, size=10**5)
        refuses(bomb, root, rf"{name} unpacks to more than 1 MB, which is no data set's size: delete it")
        assert sorted(file for file in os.listdir(root) if not file.endswith(".lock")) == [name]
        (root / name).unlink()
    for content in (b"no archive", tar(FILES)[:100]):
        (root / "a.tar.gz").write_bytes(content)
        broken = replace(archive, url="http://127.0.0.1:9/a.tar.gz", md5=hashlib.md5(content).hexdigest())
        refuses(broken, root, r"a\.tar\.gz is no archive that can be unpacked \(")


def test_what_is_broken_off_leaves_nothing_half(
    web: Web, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_off(archive: Path, folder: str) -> None:
        Path(folder, "birds").mkdir()
        raise OSError(28, "No space left on device")

    web.cut = 50
    refuses(archive, tmp_path, "cut off after 50 bytes")
    assert archive.state(tmp_path) == ("missing", f"169 MB from {web.url}, 0 MB of it are there")
    web.cut = None
    with monkeypatch.context() as patch:
        patch.setattr("torchvision.datasets.utils.extract_archive", broken_off)
        refuses(archive, tmp_path, "cannot write to .*: No space left on device")
    assert [name for name in os.listdir(tmp_path) if not name.endswith(".lock")] == ["images.tar.gz"]
    archive.check(archive.provide(tmp_path).parent)
    (tmp_path / "data").touch()
    refuses(archive, tmp_path / "data", r"cannot write to .*data: File exists")
