"""Digits, CIFAR, STL-10 and Tiny-ImageNet, read from tiny files of their own formats."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import datasets

from relgraph.data.catalogue import PUBLISHED, SOURCES
from relgraph.data.datasets import DataSet, load
from relgraph.data.decoding import ImageSize, fitted
from relgraph.data.images import ImageFiles, ImageSet
from relgraph.data.sources import OriginalSplits, resized
from tests.checks import Intruder, assert_refused_like

Patch = pytest.MonkeyPatch
ANNOTATIONS = "val/val_annotations.txt"


def read(name: str, root: Path, size: int | None = None, mode: str = "auto") -> OriginalSplits:
    return SOURCES[name].read(root, size, mode)


def fails(name: str, root: Path, message: str) -> None:
    assert_refused_like((lambda: read(name, root), message))


def write(folder: Path, contents: dict[str, bytes]) -> list[list[str]]:
    """Write files and return their names and sums, as torchvision lists them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [[name, hashlib.md5(content).hexdigest()] for name, content in contents.items()]


def random_images(count: int, size: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, size, size), np.uint8)


def same(images: ImageSet, pixels: NDArray[np.uint8], labels: list[int]) -> bool:
    assert images.pixels.is_contiguous() and images.labels.dtype == torch.int64
    return np.array_equal(images.pixels.numpy(), pixels) and images.labels.tolist() == labels


def test_the_sources_are_the_built_in_data_sets() -> None:
    built_in = "digits", "nuclei", "cifar10", "cifar100", "stl10", "stl10+unlabelled", "tiny-imagenet", "voc", "pets"
    assert tuple(SOURCES) == built_in == tuple(source.name for source in SOURCES.values())
    assert {name: str(PUBLISHED[name].folder(Path())) for name in PUBLISHED} == {
        "cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python", "stl10": "stl10_binary",
        "stl10+unlabelled": "stl10_binary", "tiny-imagenet": "tiny-imagenet-200", "voc": "VOCdevkit",
        "pets": "oxford-iiit-pet",
    }  # fmt: skip
    files = [set(PUBLISHED[name].archive.files.items()) for name in ("stl10", "stl10+unlabelled")]
    assert {name for name, _ in files[1] - files[0]} == {"unlabeled_X.bin"} and files[0] < files[1]


def test_digits_are_those_of_scikit_learn(tmp_path: Path) -> None:
    source = read("digits", tmp_path)
    images = torch.cat([source.train.pixels, source.test.pixels])[:, 0].numpy()
    ours = sorted(np.round(images * (16 / 255)).astype(int).reshape(-1, 64).tolist())
    assert ours == sorted(load_digits().data.astype(int).tolist())
    assert images.dtype == np.uint8 and images.max() == 255
    assert source.train.classes == tuple("0123456789")
    assert (source.crop_padding, source.flip) == (1, False)
    assert (len(source.train), len(source.test)) == (1442, 355)  # as `relgraph data` says


def write_cifar(patch: Patch, name: str, root: Path, batches: int) -> list[NDArray[np.uint8]]:
    """Write a small CIFAR and have torchvision take it for the published one."""
    labels, names = ("fine_labels", "fine_label_names") if name == "cifar100" else ("labels", "label_names")
    pixels = [random_images(8, 32, seed) for seed in range(batches + 1)]
    packed = {
        f"batch_{i}": pickle.dumps({"data": images.reshape(8, 3072), labels: [0, 1] * 4})
        for i, images in enumerate(pixels)
    }
    reader: Any = getattr(datasets, name.upper())
    *train, test, meta = write(root / reader.base_folder, {**packed, "meta": pickle.dumps({names: ["apple", "bear"]})})
    patch.setattr(reader, "train_list", train)
    patch.setattr(reader, "test_list", [test])
    patch.setattr(reader, "meta", {"filename": "meta", "key": names, "md5": meta[1]})
    return pixels


def test_cifar_is_read_in_its_own_format(tmp_path: Path, monkeypatch: Patch) -> None:
    for name, batches, mean in (("cifar10", 5, 0.4914), ("cifar100", 1, 0.5071)):
        *train, test = write_cifar(monkeypatch, name, tmp_path, batches)
        source = read(name, tmp_path)
        assert same(source.train, np.concatenate(train), [0, 1] * 4 * batches)
        assert same(source.test, test, [0, 1] * 4)
        assert source.test.classes == ("apple", "bear") and source.normalisation is not None
        assert source.normalisation[0][0] == mean and (source.crop_padding, source.flip) == (4, True)


def test_no_pickle_but_the_published_one_is_opened(tmp_path: Path, monkeypatch: Patch) -> None:
    touched = tmp_path / "touched"
    for place in ("meta", "batch_0", "batch_1"):
        write_cifar(monkeypatch, "cifar100", tmp_path, 1)
        (tmp_path / "cifar-100-python" / place).write_bytes(pickle.dumps(Intruder(touched)))
        fails("cifar100", tmp_path, f"{place} is not the published file")
        with pytest.raises(RuntimeError, match="not found or corrupted"):  # torchvision's check, before it opens any
            datasets.CIFAR100(tmp_path)
    assert not touched.exists()
    pickle.loads(pickle.dumps(Intruder(touched)))
    assert touched.exists(), "else the attack is none"


@pytest.fixture
def stl(tmp_path: Path, monkeypatch: Patch) -> Path:
    """Five images of each of two classes to train on, two to test, and seven without a label."""
    contents = {}
    for seed, (split, count) in enumerate({"train": 10, "test": 4}.items()):
        # Each channel is stored column by column, and labels begin with 1.
        contents[f"{split}_X.bin"] = random_images(count, 96, seed).swapaxes(2, 3).tobytes()
        contents[f"{split}_y.bin"] = bytes([1, 2] * (count // 2))
    contents["unlabeled_X.bin"] = random_images(7, 96, 2).swapaxes(2, 3).tobytes()
    files = write(tmp_path / "stl10_binary", {**contents, "class_names.txt": b"airplane\nbird\n"})
    monkeypatch.setattr(datasets.STL10, "train_list", [files[0], files[1], files[4]])
    monkeypatch.setattr(datasets.STL10, "test_list", files[2:4])
    return tmp_path


def test_stl10_is_read_in_its_own_format_and_needs_no_unlabelled_images(stl: Path) -> None:
    for name in ("stl10", "stl10+unlabelled"):
        source = read(name, stl)
        assert same(source.train, random_images(10, 96, 0), [0, 1] * 5)
        assert same(source.test, random_images(4, 96, 1), [0, 1] * 2)
        assert source.test.classes == ("airplane", "bird")
        assert len(source.unlabelled) == (name != "stl10")
    (unlabelled,) = source.unlabelled
    assert isinstance(unlabelled, torch.Tensor) and np.array_equal(unlabelled.numpy(), random_images(7, 96, 2))
    file = stl / "stl10_binary" / "unlabeled_X.bin"
    file.write_bytes(file.read_bytes()[::-1])
    fails("stl10+unlabelled", stl, r"unlabeled_X\.bin is not the published file")
    file.unlink()
    read("stl10", stl)
    fails("stl10+unlabelled", stl, r"stl10_binary lacks unlabeled_X\.bin")


def load_stl(root: Path, name: str = "stl10+unlabelled", size: int | None = None, labels: int | None = None) -> DataSet:
    given: dict[str, Any] = {"image_size": size, "labels_per_class": labels, "label_noise": 0.25}
    return load(SOURCES[name], root=root, val_fraction=0.2, seed=0, **given)


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
    few = load_stl(stl, labels=1).train
    assert (few.labels >= 0).sum() == 2 and len(few) == 15 and few.true_labels[:8].min() == 0


def test_unlabelled_images_are_resized_as_the_others(stl: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr("relgraph.data.sources.RESIZED_AT_ONCE", 3)
    train = load_stl(stl, size=24).train
    pixels = torch.from_numpy(random_images(7, 96, 2))
    expected = torch.nn.functional.interpolate(pixels, size=(24, 24), mode="bicubic", antialias=True)
    assert train.pixels.shape == (15, 3, 24, 24) and torch.equal(train.pixels[8:], expected)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Three training images of two classes, of which the second of each is grey, and one of each to test."""
    root = tmp_path / "tiny-imagenet-200"
    names = [*(f"train/n0{c}/images/{i}.JPEG" for c in (1, 2) for i in range(3)), "val/images/8.JPEG",
             "val/images/9.JPEG"]  # fmt: skip
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = random_images(1, 64, seed)[0].transpose(1, 2, 0)
        Image.fromarray(pixels).convert("L" if name.endswith("1.JPEG") else "RGB").save(root / name)
    (root / ANNOTATIONS).write_text("8.JPEG\tn02\t0\t32\t44\t62\n9.JPEG\tn01\t0\t0\t1\t1\n")
    (root / "wnids.txt").write_text("n02\nn01\n")
    (root / "words.txt").write_text("n00\tentity\nn01\tcrane, wading bird\nn02\tcat, true cat\n")
    return tmp_path


def test_tiny_imagenet_is_read_in_its_own_layout(tiny: Path) -> None:
    folder, source = tiny / "tiny-imagenet-200", read("tiny-imagenet", tiny)
    streamed = read("tiny-imagenet", tiny, 32, "stream")
    for split, names, labels in (
        (source.train, [f"train/n0{c}/images/{i}.JPEG" for c in (1, 2) for i in range(3)], [0, 0, 0, 1, 1, 1]),
        (source.test, ["val/images/9.JPEG", "val/images/8.JPEG"], [0, 1]),  # what was published for validation
    ):
        pixels = np.stack([np.asarray(Image.open(folder / name).convert("RGB")) for name in names])
        assert same(split, pixels.transpose(0, 3, 1, 2), labels) and split.classes == ("crane", "cat")
    assert (source.crop_padding, source.flip, source.val, streamed.crop_padding) == (8, True, None, 4)
    assert isinstance(streamed.train.images, ImageFiles) and streamed.train.images.shape == (6, 3, 32, 32)


WNIDS, LINES = "a folder for each class of wnids.txt, found", r"a line for each file of .*images, found"
SPOILT = (
    ("wnids.txt", None, r"wnids\.txt: expected a list of Tiny-ImageNet \(No such file"),
    ("words.txt", b"n01\t\xff\xfe", r"words\.txt: expected a list of Tiny-ImageNet \(not text\)"),
    ("words.txt", b"n01\tcrane", r"words\.txt: expected a name for n02, found none"),
    ("wnids.txt", b"", f"{WNIDS} n01 0 times in the list and 1 there"),
    ("wnids.txt", b"n01\nn02\nn01\n", f"{WNIDS} n01 2 times in the list and 1 there"),
    ("wnids.txt", b"n01\nn02\nn03\n", f"{WNIDS} n03 1 times in the list and 0 there"),
    ("train/n02/images/1.JPEG", None, "as many images in every class, found 3 in n01 and 2 in n02"),
    ("val/images/8.JPEG", None, rf"{LINES} 8\.JPEG 1 times in the list and 0 there"),
    ("val/images/7.JPEG", b"", rf"{LINES} 7\.JPEG 0 times in the list and 1 there"),
    (ANNOTATIONS, None, r"val_annotations\.txt: expected a list of Tiny-ImageNet"),
    (ANNOTATIONS, b"8.JPEG\tn02\n" * 2 + b"9.JPEG\tn01\n", rf"{LINES} 8\.JPEG 2 times in the list and 1 there"),
    (ANNOTATIONS, b"8.JPEG\tn0", r"line 1: expected an image and a class, found '8\.JPEG"),
    (ANNOTATIONS, b"\n8.JPEG", r"line 1: expected an image and a class, found '8\.JPEG'"),
)


def test_lists_and_files_of_tiny_imagenet_must_agree(tiny: Path) -> None:
    folder, source = tiny / "tiny-imagenet-200", PUBLISHED["tiny-imagenet"]
    for name, content, message in SPOILT:
        before = (folder / name).read_bytes() if (folder / name).exists() else None
        _write(folder / name, content)
        assert_refused_like((lambda: source.check(tiny), message))
        _write(folder / name, before)
    assert source.check(tiny) == "its lists agree with its files"
    (folder / "train").rename(folder / "away")
    told = "train: expected one folder for each of at least 2 classes, found none"
    assert_refused_like((lambda: source.check(tiny), told))


def test_unreadable_images_of_tiny_imagenet_can_be_skipped(tiny: Path) -> None:
    """That is after its lists were compared with its files."""
    file = tiny / "tiny-imagenet-200/train/n02/images/1.JPEG"
    file.write_bytes(b"")
    fails("tiny-imagenet", tiny, r"1\.JPEG: not a readable image")
    assert SOURCES["digits"].skipping() is SOURCES["digits"]
    for mode in ("memory", "stream"):
        found = PUBLISHED["tiny-imagenet"].skipping().read(tiny, None, mode)
        assert found.train.labels.tolist() == [0, 0, 0, 1, 1] and found.train.index.tolist() == [0, 1, 2, 3, 4]
        assert list(found.left_out.skipped) == [str(file)]


def _write(file: Path, content: bytes | None) -> None:
    """Write a file, or remove it."""
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)


@pytest.mark.parametrize("own", [(64, 64), (37, 50), (8, 15), (15, 8), (5, 90), (31, 9)])
@pytest.mark.parametrize("size", [8, 32, (16, 32), (33, 12), (4, 8)])
def test_arrays_are_resized_and_cropped_as_files_are(own: tuple[int, int], size: ImageSize) -> None:
    generator = torch.Generator().manual_seed(0)
    # Of little contrast: what goes beyond 0 and 255 between the two passes is cut, which come in another order in PIL.
    images = torch.randint(64, 192, (2, 3, *own), dtype=torch.uint8, generator=generator)
    found = resized(images, size)
    for image, mine in zip(images, found, strict=True):
        picture = fitted(Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()), size)
        expected = torch.from_numpy(np.asarray(picture).transpose(2, 0, 1).astype(np.int32))
        assert (mine.int() - expected).abs().max() <= 1  # both round to 8 bits
