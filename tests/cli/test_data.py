import hashlib
import io
import os
import shutil
import tarfile
from pathlib import Path

import pytest
from torchvision.datasets import CIFAR100

from relgraph.data.catalogue import SOURCES
from tests.cli.conftest import Failing, Program


def rows(text: str) -> dict[str, list[str]]:
    """Return the cells of the table, by name."""
    lines = text.split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
    return {name: row for name, *row in cells}


def test_every_data_set_is_listed_with_what_it_lacks(program: Program) -> None:
    text = program("data").stdout
    table = rows(text)
    assert tuple(table) == tuple(SOURCES)
    assert table["digits"] == ["1,442", "355", "10", "8 x 8, grey", "scikit-learn", "ready"]
    assert table["cifar100"] == ["50,000", "10,000", "100", "32 x 32", "data/cifar-100-python", "missing"]
    assert table["stl10+unlabelled"][0] == "5,000 + 100,000"
    assert "cifar100: missing: 169 MB from https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz\n" in text
    for spelling in ("folder:PATH", "classes:PATH", "csv:FILE", "huggingface:NAME[/CONFIG]", "--unlabelled PATH"):
        assert f"\n{spelling} " in text
    assert os.listdir() == []  # looking changes nothing


def test_what_is_there_in_part_is_told(program: Program) -> None:
    folder = Path("elsewhere/tiny-imagenet-200")
    (folder / "train").mkdir(parents=True)
    (folder / "wnids.txt").write_text("n01\n")
    text = program("data", "--root", "elsewhere").stdout
    assert rows(text)["tiny-imagenet"][-1] == "incomplete"
    assert f"tiny-imagenet: incomplete: {folder} lacks words.txt, val/images, val/val_annotations.txt: move" in text


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Publish a CIFAR-100 of three files, at an address where nobody listens."""
    folder, stream = Path("cifar-100-python"), io.BytesIO()
    folder.mkdir()
    sums = {name: hashlib.md5(name.encode()).hexdigest() for name in ("train", "test", "meta")}
    for name in sums:
        (folder / name).write_text(name)
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.add(folder)
    shutil.rmtree(folder)
    monkeypatch.setattr(CIFAR100, "url", "http://127.0.0.1:9/cifar.tar.gz")
    monkeypatch.setattr(CIFAR100, "tgz_md5", hashlib.md5(stream.getvalue()).hexdigest())
    monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {"filename": "meta", "md5": sums["meta"]})
    return stream.getvalue()


def test_an_archive_is_unpacked_and_checked(program: Program, failure: Failing, packed: bytes) -> None:
    Path("data").mkdir()
    Path("data/cifar.tar.gz").write_bytes(packed)
    assert rows(program("data").stdout)["cifar100"][-1] == "packed"
    fetched = program("data", "--fetch", "cifar100", "--fetch", "digits").stdout.splitlines()
    assert fetched == [
        "cifar100: ready in data/cifar-100-python, its checksums are those published",
        "digits: ready, it comes with scikit-learn",
    ]
    assert rows(program("data").stdout)["cifar100"][-1] == "ready"
    Path("data/cifar-100-python/train").write_bytes(b"Train")
    assert "train is not the published file" in failure("data", "--fetch", "cifar100")


def test_a_download_without_a_network_is_one_line(failure: Failing, packed: bytes) -> None:
    message = failure("data", "--fetch", "cifar100")
    assert message.startswith("cifar.tar.gz could not be downloaded (Connection refused): fetch http://127.0.0.1:9/")
    assert message.endswith("and put it in data")
    assert failure("data", "--fetch", "cifar").startswith("unknown data set 'cifar': did you mean 'cifar10'? (known: ")
