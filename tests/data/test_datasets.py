"""Splits are disjoint, stratified and repeatable; published data sets are read from tiny files of their own formats."""

import hashlib
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from relgraph.data.datasets import DataSet, channel_statistics, load
from relgraph.errors import RelgraphError


def read(
    dataset: str = "digits",
    root: Path = Path("unused"),
    size: int | None = None,
    fraction: float = 0.2,
    labels: int | None = None,
    seed: int = 0,
) -> DataSet:
    return load(dataset, root=root, image_size=size, val_fraction=fraction, labels_per_class=labels, seed=seed)


def write_folder(path: Path, counts: dict[str, int]) -> Path:
    """Write `counts[split]` images of 16 x 16 for each of two classes; each image has one colour, its number."""
    for split, count in counts.items():
        for name in ("cat", "dog"):
            (path / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (16, 16), (i, 2 * i, 3 * i)).save(path / split / name / f"{i}.png")
    return path


def test_digits_are_those_of_scikit_learn() -> None:
    data = read()
    images = torch.cat([data.train.images, data.val.images, data.test.images])[:, 0].numpy()
    ours = sorted(np.round(images * (16 / 255)).astype(int).reshape(-1, 64).tolist())
    assert ours == sorted(load_digits().data.astype(int).tolist())
    assert images.dtype == np.uint8 and images.max() == 255
    assert data.train.classes == tuple("0123456789")
    assert (data.crop_padding, data.flip, data.name) == (1, False, "digits")


def test_the_seed_moves_validation_but_not_the_test_images() -> None:
    first, again, other = read(seed=1), read(seed=1), read(seed=2)
    assert torch.equal(first.val.index, again.val.index) and torch.equal(first.train.images, again.train.images)
    assert not torch.equal(first.val.index, other.val.index)
    assert torch.equal(first.test.images, other.test.images)


def test_validation_is_a_disjoint_stratified_share_of_train() -> None:
    data = read(fraction=0.2)
    together = torch.cat([data.train.index, data.val.index])
    assert sorted(together.tolist()) == list(range(len(together)))
    held, kept = Counter(data.val.labels.tolist()), Counter(data.train.labels.tolist())
    assert all(held[label] == round(0.2 * (held[label] + kept[label])) for label in range(10))
    assert (data.train.split, data.val.split, data.test.split) == ("train", "val", "test")


def test_index_is_the_position_in_the_original_split(tmp_path: Path) -> None:
    data = read(f"folder:{write_folder(tmp_path, {'train': 10, 'test': 2})}")
    for part in (data.train, data.val):
        assert torch.equal(part.images[:, 0, 0, 0].long(), part.index % 10)
        assert torch.equal(part.labels, part.index // 10)


def test_a_folder_with_val_and_test_keeps_both(tmp_path: Path) -> None:
    data = read(f"folder:{write_folder(tmp_path, {'train': 5, 'val': 3, 'test': 2})}")
    assert (len(data.train), len(data.val), len(data.test)) == (10, 6, 4)
    assert (data.crop_padding, data.flip) == (2, True)


def test_at_least_one_image_per_class_is_held_out(tmp_path: Path) -> None:
    data = read(f"folder:{write_folder(tmp_path, {'train': 3, 'val': 1})}", fraction=0.01)
    assert data.val.labels.tolist() == [0, 1]


def test_a_class_must_keep_a_training_image(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"train": 1, "test": 1})
    with pytest.raises(RelgraphError, match="class 'cat' has 1 training images, and 1 for validation leave none"):
        read(f"folder:{folder}")


def test_labels_per_class_hides_training_labels_only() -> None:
    full, few, more = read(), read(labels=4), read(labels=9)
    known = few.train.labels >= 0
    assert Counter(few.train.labels[known].tolist()) == dict.fromkeys(range(10), 4)
    assert torch.equal(few.train.labels[known], full.train.labels[known])
    assert torch.equal(few.train.images, full.train.images)
    assert torch.equal(few.val.labels, full.val.labels) and torch.equal(few.test.labels, full.test.labels)
    assert (more.train.labels[known] >= 0).all()  # more labels contain the fewer


def test_labels_per_class_cannot_exceed_a_class(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {"train": 5, "test": 1})
    assert (read(f"folder:{folder}", labels=4).train.labels >= 0).all()
    with pytest.raises(RelgraphError, match="class 'cat' has 4 training images, fewer than the 5 labels per class"):
        read(f"folder:{folder}", labels=5)


def test_mean_and_std_are_those_of_the_training_images() -> None:
    data = read()
    pixels = data.train.images.double().numpy() / 255
    np.testing.assert_allclose([*data.mean, *data.std], [pixels.mean(), pixels.std()], rtol=1e-12)


def test_a_channel_without_contrast_has_no_zero_std() -> None:
    mean, std = channel_statistics(torch.full((2, 3, 4, 4), 51, dtype=torch.uint8))
    assert mean == pytest.approx((0.2, 0.2, 0.2)) and std == (1 / 255,) * 3


def test_image_size_resizes_a_built_in_data_set_and_its_padding() -> None:
    data = read(size=16)
    assert data.train.images.shape[1:] == data.test.images.shape[1:] == (1, 16, 16)
    assert data.train.images.dtype == torch.uint8 and data.crop_padding == 2


def test_select_takes_positions_or_a_mask() -> None:
    train = read().train
    chosen, masked = train.select(torch.tensor([7, 3])), train.select(train.labels == 5)
    assert len(chosen) == 2 and torch.equal(chosen.images[1], train.images[3])
    assert (masked.labels == 5).all() and masked.classes == train.classes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "cifar1000"}, "unknown data set 'cifar1000': did you mean 'cifar100'"),
        ({"dataset": "folder:nowhere"}, "nowhere: no such folder"),
        ({"fraction": -0.1}, "at least 0 and below 1, got -0.1"),
        ({"fraction": 1.0}, "at least 0 and below 1, got 1.0"),
        ({"labels": 0}, "labels per class must be at least 1, got 0"),
        ({"size": 0}, "image size must be at least 1 pixel, got 0"),
        ({"size": 5000}, "choose a smaller --image-size"),
    ],
)
def test_misuse_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RelgraphError, match=message):
        read(**arguments)


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100", "STL10"])
def test_a_failed_download_is_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    address = "http://127.0.0.1:9/images.tar.gz"  # nobody listens there
    monkeypatch.setattr(getattr(torchvision.datasets, name), "url", address)
    with pytest.raises(RelgraphError, match=f"{name.lower()} could not be downloaded .*: fetch {address}") as caught:
        read(name.lower(), root=tmp_path / "data")
    assert str(tmp_path / "data") in str(caught.value) and "\n" not in str(caught.value)


def write_checked(file: Path, content: bytes) -> list[str]:
    """Write a file and return [name, md5], as torchvision lists its files."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return [file.name, hashlib.md5(content).hexdigest()]


def test_cifar100_is_read_in_its_own_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR100

    folder, pixels = tmp_path / CIFAR100.base_folder, np.random.default_rng(0).integers(0, 256, (8, 3072), np.uint8)
    for split in ("train", "test"):
        content = pickle.dumps({"data": pixels, "fine_labels": [0, 1] * 4})
        monkeypatch.setattr(CIFAR100, f"{split}_list", [write_checked(folder / split, content)])
    _, md5 = write_checked(folder / "meta", pickle.dumps({"fine_label_names": ["apple", "bear"]}))
    monkeypatch.setattr(CIFAR100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": md5})
    data = read("cifar100", root=tmp_path)
    assert np.array_equal(data.test.images.numpy(), pixels.reshape(8, 3, 32, 32))
    assert data.test.labels.tolist() == [0, 1] * 4 and data.test.classes == ("apple", "bear")
    assert (len(data.train), len(data.val)) == (6, 2)
    assert data.mean == (0.5071, 0.4867, 0.4408) and (data.crop_padding, data.flip) == (4, True)


def test_stl10_is_read_in_its_own_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import STL10

    folder = tmp_path / STL10.base_folder
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 96, 96), np.uint8)
    for split in ("train", "test"):
        files = [
            write_checked(folder / f"{split}_X.bin", images.swapaxes(2, 3).tobytes()),  # stored column by column
            write_checked(folder / f"{split}_y.bin", bytes([1, 2, 1, 2])),
        ]
        monkeypatch.setattr(STL10, f"{split}_list", files)
    (folder / "class_names.txt").write_text("airplane\nbird\n")
    data = read("stl10", root=tmp_path)
    assert np.array_equal(data.test.images.numpy(), images)
    assert data.test.labels.tolist() == [0, 1, 0, 1] and data.test.classes == ("airplane", "bird")
    np.testing.assert_allclose(data.mean, data.train.images.double().mean((0, 2, 3)) / 255, rtol=1e-12)
