"""Downloads from a server that breaks off, refuses, or sends something else."""

import hashlib
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from relgraph.data import downloads
from relgraph.data.downloads import checksum, fetch, part_of
from relgraph.errors import RelgraphError

CONTENT = bytes(range(256)) * 4000  # about a megabyte, more than one block
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "images.tar.gz"


@pytest.fixture(autouse=True)
def _content(web: Any) -> None:
    web.content = CONTENT


def fails(url: str, file: Path, message: str, md5: str = MD5) -> None:
    with pytest.raises(RelgraphError, match=message) as caught:
        fetch(url, file, md5)
    assert "\n" not in str(caught.value)
    assert not file.exists()


def test_a_whole_file_arrives(web: Any, file: Path) -> None:
    fetch(web.url, file, MD5)
    assert file.read_bytes() == CONTENT and checksum(file) == MD5
    assert web.asked == [None] and os.listdir(file.parent) == [file.name]


def test_a_download_goes_on_where_it_was_cut_off(web: Any, file: Path) -> None:
    web.cut = 600_000
    fails(web.url, file, r"images\.tar\.gz was cut off after 600,000 bytes .*the next try goes on from there")
    assert part_of(file).read_bytes() == CONTENT[:600_000]
    web.cut = 900_000
    fails(web.url, file, r"cut off after 900,000 bytes")
    web.cut = None
    fetch(web.url, file, MD5)
    assert web.asked == [None, "bytes=600000-", "bytes=900000-"]
    assert file.read_bytes() == CONTENT and not part_of(file).exists()


def test_without_ranges_a_download_begins_again(web: Any, file: Path) -> None:
    web.ranges, web.cut = False, 600_000
    fails(web.url, file, "cut off after 600,000 bytes")
    web.cut = 300_000
    fails(web.url, file, "cut off after 300,000 bytes")
    web.cut = None
    fetch(web.url, file, MD5)
    assert web.asked[1:] == ["bytes=600000-", "bytes=300000-"]
    assert file.read_bytes() == CONTENT


def test_what_was_cut_off_after_the_last_byte_is_whole(web: Any, file: Path) -> None:
    file.parent.mkdir()
    part_of(file).write_bytes(CONTENT)
    fetch(web.url, file, MD5)
    assert web.asked == [f"bytes={len(CONTENT)}-"] and file.read_bytes() == CONTENT


def test_an_empty_answer(web: Any, file: Path) -> None:
    web.content = b""
    fails(web.url, file, r"^images\.tar\.gz could not be downloaded \(the answer is empty\): fetch .* and put it in ")
    assert os.listdir(file.parent) == []


def test_a_wrong_checksum_deletes_what_came(web: Any, file: Path) -> None:
    fails(web.url, file, f"{web.url}: expected the checksum {'0' * 32}, found {MD5}; .* is deleted", md5="0" * 32)
    assert os.listdir(file.parent) == []


def test_a_part_of_another_file_is_found_by_the_checksum(web: Any, file: Path) -> None:
    file.parent.mkdir()
    part_of(file).write_bytes(b"something else")
    fails(web.url, file, "expected the checksum")
    fetch(web.url, file, MD5)
    assert file.read_bytes() == CONTENT


def test_an_error_page_is_no_file(web: Any, file: Path) -> None:
    web.status = 404
    fails(web.url, file, rf"images\.tar\.gz could not be downloaded \(HTTP 404 Not Found\): fetch {web.url} and put it")
    assert os.listdir(file.parent) == []


def test_a_part_survives_a_server_in_trouble(web: Any, file: Path) -> None:
    file.parent.mkdir()
    part_of(file).write_bytes(CONTENT[:1000])
    web.status = 503
    fails(web.url, file, r"cut off after 1,000 bytes \(HTTP 503 .*\): the next try goes on")
    web.status = 200
    fetch(web.url, file, MD5)
    assert file.read_bytes() == CONTENT


def test_a_refused_connection(file: Path) -> None:
    with socket.socket() as closed:  # bound, but nobody listens
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        fails(f"http://127.0.0.1:{port}/images.tar.gz", file, r"could not be downloaded \(Connection refused\)")
    assert os.listdir(file.parent) == []


def test_an_unknown_protocol(file: Path) -> None:
    fails("gopher://127.0.0.1/images.tar.gz", file, "could not be downloaded .*unknown url type: gopher")


def test_a_server_that_falls_silent(web: Any, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "PATIENCE", 0.2)
    web.cut, web.silent = 600_000, True
    fails(web.url, file, r"cut off after 600,000 bytes \(no answer for 0\.2 s\): the next try goes on")


def test_a_disk_that_takes_no_more(web: Any, file: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))  # what a full disk is to a program
    try:
        fails(web.url, file, r"cannot write .*images\.tar\.gz\.part: File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert 0 < part_of(file).stat().st_size <= 500_000
    fetch(web.url, file, MD5)
    assert file.read_bytes() == CONTENT


def test_a_folder_that_cannot_be_made(web: Any, tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(RelgraphError, match=r"cannot write .*data/images\.tar\.gz\.part: "):
        fetch(web.url, tmp_path / "data" / "images.tar.gz", MD5)


def test_a_second_process_is_told_to_wait(web: Any, file: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    file.parent.mkdir()
    with part_of(file).open("ab") as stream:
        stream.write(b"x")
        stream.flush()
        fcntl.flock(stream, fcntl.LOCK_EX)
        fails(web.url, file, "another process is downloading it")
    assert web.asked == [] and part_of(file).read_bytes() == b"x"
