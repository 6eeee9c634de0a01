"""What is there of a data set, and how it comes there, by tiny archives of the published names."""

import hashlib
import io
import os
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relgraph.data import BUILT_IN
from relgraph.data.catalogue import PUBLISHED, File, provide, read_checked, state
from relgraph.errors import RelgraphError

FILES = {"train": b"train" * 100, "test": b"test" * 50, "meta": b"meta"}


def pack(files: dict[str, bytes]) -> bytes:
    """Return a .tar.gz of files of the folder that CIFAR-100 lies in."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


@pytest.fixture
def archive(web: Any, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Publish a small CIFAR-100 on the server of the tests."""
    web.content = pack(FILES)
    small = replace(
        PUBLISHED["cifar100"],
        url=web.url,
        md5=hashlib.md5(web.content).hexdigest(),
        files=tuple(File(name, len(content), hashlib.md5(content).hexdigest()) for name, content in FILES.items()),
    )
    monkeypatch.setitem(PUBLISHED, "cifar100", small)
    return bytes(web.content)


def fails(root: Path, message: str) -> None:
    with pytest.raises(RelgraphError, match=message) as caught:
        provide("cifar100", root)
    assert "\n" not in str(caught.value)


def test_what_is_published_is_what_torchvision_knows() -> None:
    from torchvision.datasets import CIFAR10, CIFAR100, STL10

    for name, theirs in (("cifar10", CIFAR10), ("cifar100", CIFAR100), ("stl10+unlabelled", STL10)):
        ours = PUBLISHED[name]
        assert (ours.folder, ours.url, ours.md5) == (theirs.base_folder, theirs.url, theirs.tgz_md5)
        files = {file.name: file.md5 for file in ours.files if file.md5}
        expected = dict((*theirs.train_list, *theirs.test_list))
        if name != "stl10+unlabelled":
            expected[theirs.meta["filename"]] = theirs.meta["md5"]
        assert files == expected
    assert set(PUBLISHED["stl10"].files) < set(PUBLISHED["stl10+unlabelled"].files)
    assert {"digits", *PUBLISHED} == set(BUILT_IN)


def test_a_data_set_is_downloaded_once(web: Any, archive: bytes, tmp_path: Path) -> None:
    assert state("cifar100", tmp_path) == ("missing", f"169 MB from {web.url}")
    for _ in range(2):
        folder = provide("cifar100", tmp_path)
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == FILES
    assert state("cifar100", tmp_path) == ("ready", str(tmp_path / "cifar-100-python"))
    assert len(web.asked) == 1


def test_a_download_that_was_cut_off_goes_on(web: Any, archive: bytes, tmp_path: Path) -> None:
    web.cut = 50
    fails(tmp_path, "cut off after 50 bytes")
    assert state("cifar100", tmp_path) == ("missing", f"169 MB from {web.url}, 0 MB of it are there")
    web.cut = None
    provide("cifar100", tmp_path)
    assert web.asked == [None, "bytes=50-"]


def test_an_archive_that_somebody_put_there_is_used(web: Any, archive: bytes, tmp_path: Path) -> None:
    (tmp_path / "images.tar.gz").write_bytes(archive)
    assert state("cifar100", tmp_path).word == "packed"
    provide("cifar100", tmp_path)
    assert web.asked == [] and state("cifar100", tmp_path).word == "ready"


def test_another_archive_of_that_name_is_refused_and_kept(web: Any, archive: bytes, tmp_path: Path) -> None:
    (tmp_path / "images.tar.gz").write_bytes(b"mine")
    fails(tmp_path, r"images\.tar\.gz is not the published archive .*: fetch http")
    assert os.listdir(tmp_path) == ["images.tar.gz"] and web.asked == []


@pytest.mark.parametrize("content", [None, b"train"])
def test_a_data_set_in_part_says_what_it_lacks(content: bytes | None, web: Any, archive: bytes, tmp_path: Path) -> None:
    folder = provide("cifar100", tmp_path)
    (folder / "train").unlink()
    if content is not None:  # a copy that broke off
        (folder / "train").write_bytes(content)
    assert state("cifar100", tmp_path).word == "incomplete"
    fails(tmp_path, r"cifar100 is incomplete: .*cifar-100-python lacks train: move it away to have it made anew")
    assert sorted(os.listdir(folder)) == ["meta", "test"] if content is None else ["meta", "test", "train"]


def test_an_archive_without_the_files(
    web: Any, monkeypatch: pytest.MonkeyPatch, archive: bytes, tmp_path: Path
) -> None:
    files = (*PUBLISHED["cifar100"].files, File("more"))
    monkeypatch.setitem(PUBLISHED, "cifar100", replace(PUBLISHED["cifar100"], files=files))
    fails(tmp_path, r"images\.tar\.gz: expected more in it, found none")


def test_a_changed_file_is_not_read(archive: bytes, tmp_path: Path) -> None:
    folder, file = provide("cifar100", tmp_path), PUBLISHED["cifar100"].files[0]
    assert read_checked(folder, file) == FILES["train"]
    (folder / "train").write_bytes(b"Train" * 100)
    assert state("cifar100", tmp_path).word == "ready"  # by size alone
    with pytest.raises(RelgraphError, match=r"train is not the published file \(its checksum differs\): move"):
        read_checked(folder, file)
