"""Digits, CIFAR and STL-10, read from tiny files of their own formats."""

import hashlib
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from relgraph.data.catalogue import PUBLISHED, File
from relgraph.data.datasets import DataSet, load
from relgraph.data.images import ImageSet
from relgraph.data.published import check_published, read_published
from relgraph.errors import RelgraphError

Publish = pytest.MonkeyPatch


def publish(monkeypatch: Publish, name: str, root: Path, contents: dict[str, bytes]) -> None:
    """Write the files of a data set and have them taken for the published ones."""
    folder = root / PUBLISHED[name].folder
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in contents.items():
        (folder / file).write_bytes(content)
    files = tuple(
        File(file, len(content), hashlib.md5(content).hexdigest() if file != "class_names.txt" else "")
        for file, content in contents.items()
    )
    monkeypatch.setitem(PUBLISHED, name, replace(PUBLISHED[name], files=files))


def random_images(count: int, size: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, size, size), np.uint8)


def same(images: ImageSet, pixels: NDArray[np.uint8], labels: list[int]) -> bool:
    return np.array_equal(images.pixels.numpy(), pixels) and images.labels.tolist() == labels


def test_digits_are_those_of_scikit_learn(tmp_path: Path) -> None:
    source = read_published("digits", tmp_path)
    images = torch.cat([source.train.pixels, source.test.pixels])[:, 0].numpy()
    ours = sorted(np.round(images * (16 / 255)).astype(int).reshape(-1, 64).tolist())
    assert ours == sorted(load_digits().data.astype(int).tolist())
    assert images.dtype == np.uint8 and images.max() == 255
    assert source.train.classes == tuple("0123456789")
    assert (source.crop_padding, source.flip) == (1, False)
    assert (len(source.train), len(source.test)) == (1442, 355)  # as `relgraph data` says


def cifar(monkeypatch: Publish, name: str, root: Path, batches: int) -> list[NDArray[np.uint8]]:
    labels, names = ("fine_labels", "fine_label_names") if name == "cifar100" else ("labels", "label_names")
    pixels = [random_images(8, 32, seed) for seed in range(batches + 1)]
    contents = {
        f"batch_{i}": pickle.dumps({"data": images.reshape(8, 3072), labels: [0, 1] * 4})
        for i, images in enumerate(pixels)
    }
    publish(monkeypatch, name, root, {**contents, "meta": pickle.dumps({names: ["apple", "bear"]})})
    return pixels


@pytest.mark.parametrize(("name", "batches", "mean"), [("cifar10", 5, 0.4914), ("cifar100", 1, 0.5071)])
def test_cifar_is_read_in_its_own_format(
    name: str, batches: int, mean: float, tmp_path: Path, monkeypatch: Publish
) -> None:
    *train, test = cifar(monkeypatch, name, tmp_path, batches)
    source = read_published(name, tmp_path)
    assert same(source.train, np.concatenate(train), [0, 1] * 4 * batches)
    assert same(source.test, test, [0, 1] * 4)
    assert source.test.classes == ("apple", "bear") and source.normalisation is not None
    assert source.normalisation[0][0] == mean and (source.crop_padding, source.flip) == (4, True)


def test_no_pickle_but_the_published_one_is_opened(tmp_path: Path, monkeypatch: Publish) -> None:
    cifar(monkeypatch, "cifar100", tmp_path, 1)
    meta, touched = tmp_path / "cifar-100-python" / "meta", tmp_path / "touched"
    attack = b"cpathlib\nPosixPath.touch\n(cpathlib\nPosixPath\n(V%s\ntRtR." % str(touched).encode()
    meta.write_bytes(attack)
    with pytest.raises(RelgraphError, match=r"meta is not the published file"):
        read_published("cifar100", tmp_path)
    assert not touched.exists()
    with pytest.raises(RelgraphError, match=r"meta is not the published file"):
        check_published("cifar100", meta.parent)


@pytest.fixture
def stl(tmp_path: Path, monkeypatch: Publish) -> Path:
    """Five images of each of two classes to train on, two to test, and seven without a label."""
    contents = {}
    for seed, (split, count) in enumerate({"train": 10, "test": 4}.items()):
        # Each channel is stored column by column, and labels begin with 1.
        contents[f"{split}_X.bin"] = random_images(count, 96, seed).swapaxes(2, 3).tobytes()
        contents[f"{split}_y.bin"] = bytes([1, 2] * (count // 2))
    contents["class_names.txt"] = b"airplane\nbird\n"
    publish(monkeypatch, "stl10", tmp_path, contents)
    unlabelled = random_images(7, 96, 2).swapaxes(2, 3).tobytes()
    publish(monkeypatch, "stl10+unlabelled", tmp_path, {**contents, "unlabeled_X.bin": unlabelled})
    return tmp_path


def test_stl10_is_read_in_its_own_format(stl: Path) -> None:
    source = read_published("stl10", stl)
    assert same(source.train, random_images(10, 96, 0), [0, 1] * 5)
    assert same(source.test, random_images(4, 96, 1), [0, 1] * 2)
    assert source.test.classes == ("airplane", "bird") and source.unlabelled is None


def test_the_unlabelled_images_stay_in_their_file(stl: Path) -> None:
    source = read_published("stl10+unlabelled", stl)
    assert source.unlabelled is not None
    assert np.array_equal(source.unlabelled.numpy(), random_images(7, 96, 2))
    assert len(source.train) == 10


def test_stl10_needs_no_unlabelled_images(stl: Path) -> None:
    file = stl / "stl10_binary" / "unlabeled_X.bin"
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(content)
    with pytest.raises(RelgraphError, match=r"unlabeled_X\.bin is not the published file"):
        read_published("stl10+unlabelled", stl)
    file.unlink()
    read_published("stl10", stl)
    with pytest.raises(RelgraphError, match=r"stl10_binary lacks unlabeled_X\.bin"):
        read_published("stl10+unlabelled", stl)


def load_stl(root: Path, name: str = "stl10+unlabelled", size: int | None = None, labels: int | None = None) -> DataSet:
    return load(name, root=root, image_size=size, val_fraction=0.2, labels_per_class=labels, seed=0, label_noise=0.25)


def test_unlabelled_images_are_training_images_without_a_label(stl: Path) -> None:
    with_them, without = load_stl(stl), load_stl(stl, "stl10")
    train = with_them.train
    assert np.array_equal(train.pixels[8:].numpy(), random_images(7, 96, 2))
    assert train.index.tolist() == [*without.train.index.tolist(), *range(10, 17)]
    assert train.labels.tolist() == [*without.train.labels.tolist(), *[-1] * 7]
    assert train.true_labels.tolist() == [*without.train.true_labels.tolist(), *[-1] * 7]
    assert (train.labels != train.true_labels).sum() == 2  # a quarter of the 8 labelled ones
    assert torch.equal(train.pixels[:8], without.train.pixels)
    # They are nowhere but there, and move no number that a run without them has.
    assert torch.equal(with_them.val.index, without.val.index) and len(with_them.test) == 4
    assert (with_them.mean, with_them.std) == (without.mean, without.std)


def test_few_labels_beside_unlabelled_images(stl: Path) -> None:
    train = load_stl(stl, labels=1).train
    assert (train.labels >= 0).sum() == 2 and len(train) == 15
    assert train.true_labels[:8].min() == 0


def test_unlabelled_images_are_resized_as_the_others(stl: Path, monkeypatch: Publish) -> None:
    monkeypatch.setattr("relgraph.data.datasets.RESIZED_AT_ONCE", 3)
    train = load_stl(stl, size=24).train
    pixels = torch.from_numpy(random_images(7, 96, 2))
    expected = torch.nn.functional.interpolate(pixels, size=(24, 24), mode="bicubic", antialias=True)
    assert train.pixels.shape == (15, 3, 24, 24) and torch.equal(train.pixels[8:], expected)
