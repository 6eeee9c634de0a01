"""Data sets that are Python objects: every kind of image and label, splits, classes, and what is refused."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from relgraph.data import folders
from relgraph.data.datasets import DataSet, load
from relgraph.data.decoding import ORIENTATION, ImageSize, read_image
from relgraph.data.file_sources import ClassFolders
from relgraph.data.images import ImageSet
from relgraph.data.own import HuggingFace, OwnData
from relgraph.data.sources import Digits, OriginalSplits
from tests.checks import assert_refused_like
from tests.pictures import write_image

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 6, 7, 3), dtype=np.uint8)  # (N, H, W, C)
LABELS = [number % 3 for number in range(12)]
EXPECTED = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)


class Images(Dataset[Any]):
    """The images as `kind` makes them of an array, with their labels if they have any."""

    def __init__(self, kind: Callable[[Any], Any], labels: list[Any] | None = LABELS, **attributes: Any) -> None:
        self.kind, self.labels = kind, labels
        vars(self).update(attributes)

    def __len__(self) -> int:
        return len(PIXELS) if self.labels is None else len(self.labels)

    def __getitem__(self, number: int) -> Any:
        image = self.kind(PIXELS[number])
        return image if self.labels is None else (image, self.labels[number])


class Stream(IterableDataset[Any]):
    """The same, without numbers and length."""

    def __iter__(self) -> Iterator[Any]:
        return iter([(pixels, label) for pixels, label in zip(PIXELS, LABELS, strict=True)])


def tensor(pixels: Any) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


def floats(pixels: Any) -> torch.Tensor:
    return tensor(pixels) / 255


def read(target: Any, size: ImageSize | None = None, mode: str = "auto") -> OriginalSplits:
    return OwnData(target, "mine").read(Path("unused"), size, mode)


def loaded(target: Any, seed: int = 0, **options: Any) -> DataSet:
    usual: dict[str, Any] = {"image_size": None, "val_fraction": 0.0, "labels_per_class": None}
    return load(OwnData(target, "mine"), root=Path("unused"), seed=seed, **{**usual, **options})


def same(split: ImageSet, pixels: torch.Tensor, labels: list[int]) -> bool:
    assert split.pixels.dtype == torch.uint8 and split.labels.dtype == torch.int64
    return torch.equal(split.pixels, pixels) and split.labels.tolist() == labels


def test_images_of_every_kind_are_the_same_bytes() -> None:
    for kind in (Image.fromarray, tensor, floats, lambda x: floats(x).double(), lambda x: x):
        found = read(Images(kind))
        assert same(found.train, EXPECTED, LABELS) and len(found.test) == 0 and found.val is None
        assert found.train.classes == ("0", "1", "2") and (found.crop_padding, found.flip) == (0, True)
    tensors = TensorDataset(EXPECTED, torch.tensor(LABELS))
    for target in (Stream(), tensors, [{"image": pixels, "label": label} for pixels, label in zip(PIXELS, LABELS)]):  # noqa: B905
        assert same(read(target).train, EXPECTED, LABELS)
    grey = read(Images(lambda pixels: pixels[..., 0]))
    assert same(grey.train, EXPECTED[:, :1], LABELS)
    assert same(read(Images(lambda pixels: tensor(pixels)[:1])).train, EXPECTED[:, :1], LABELS)


def test_pil_images_are_what_files_are(tmp_path: Path) -> None:
    exif, pixels = Image.Exif(), np.random.default_rng(1).integers(0, 256, (9, 14, 4), dtype=np.uint8)
    exif[ORIENTATION] = 6
    Image.fromarray(pixels).save(tmp_path / "clear.png")
    Image.fromarray(pixels[..., :3]).save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    Image.fromarray(pixels[..., :3]).quantize(16).save(tmp_path / "palette.gif")
    for file in tmp_path.iterdir():
        for size in (None, 5, (4, 7)):
            expected = torch.from_numpy(np.asarray(read_image(file, size)).copy()).permute(2, 0, 1)
            with Image.open(file) as opened:
                assert torch.equal(read([opened] * 2, size).train.pixels, expected.expand(2, -1, -1, -1)), file


def test_an_image_size_resizes_the_shorter_side_and_crops_the_centre() -> None:
    ramp = torch.arange(0, 256, 8, dtype=torch.uint8).expand(1, 16, 32)  # 32 columns, each of one grey
    found = read([ramp, ramp.mT.contiguous()], size=8).train.pixels
    assert found.shape == (2, 1, 8, 8) and torch.equal(found[0], found[1].mT)
    # Halved, columns 8 to 24 remain: their means, two by two, inside where the border plays no part.
    middle = ramp[0, 0, 8:24].double().view(8, 2).mean(1)
    assert (found[0, 0, 4].double() - middle).abs().max() <= 1
    assert torch.equal(read([ramp[:, :, :16]] * 2, size=16).train.pixels[0], ramp[:, :, :16]), "what fits is untouched"


def test_labels_may_be_missing() -> None:
    partly: list[Any] = [None if number % 4 == 0 else label for number, label in enumerate(LABELS)]
    numbers = [-1 if label is None else label for label in partly]
    assert same(read(Images(tensor, partly)).train, EXPECTED, numbers)
    assert same(read(Images(tensor, [np.int64(x) for x in numbers])).train, EXPECTED, numbers)
    for labels in (None, [None] * 12, [-1] * 12):
        data = loaded(Images(tensor, labels), val_fraction=0.5)
        assert same(data.train, EXPECTED, [-1] * 12) and data.train.classes == ()
        assert len(data.test) == len(data.val) == 0


def test_a_share_of_every_class_is_for_testing_whatever_the_seed() -> None:
    partly = [*LABELS[:9], None, None, None]
    whole, again, other = (
        loaded(Images(tensor, partly), seed, split_seed=split) for seed, split in ((0, 0), (9, 0), (0, 1))
    )
    assert torch.equal(whole.test.pixels, again.test.pixels) and not torch.equal(whole.test.pixels, other.test.pixels)
    assert sorted(whole.test.labels.tolist()) == [0, 1, 2], "a fifth of three, at least one"
    assert whole.test.split == "test" and whole.train.index.tolist() == list(range(9)), "images for stores are numbered"
    together = torch.cat([whole.train.pixels, whole.test.pixels]).flatten(1)
    assert sorted(together.tolist()) == sorted(EXPECTED.flatten(1).tolist())
    assert (whole.train.labels == -1).sum() == 3
    assert len(loaded(Images(tensor), test_fraction=0.5).test) == 6
    held = loaded(Images(tensor), val_fraction=0.3)
    assert len(held.val) == 3 and len(held.test) == 3 and len(held.train) == 6


def test_splits_are_a_mapping_or_a_pair() -> None:
    train, test, val = (Images(tensor, labels) for labels in (LABELS, LABELS[:6], LABELS[:3]))
    for target in (
        (train, test),
        {"train": train, "test": test},
        {"test": test, "train": train},
        {"train": train, "val": test},
    ):
        found = read(target)
        assert same(found.train, EXPECTED, LABELS) and same(found.test, EXPECTED[:6], LABELS[:6]) and found.val is None
    for name in ("val", "validation"):
        found = read({"train": train, name: val, "test": test})
        assert found.val is not None and same(found.val, EXPECTED[:3], LABELS[:3]) and len(found.test) == 6
        assert [split.split for split in (found.train, found.val, found.test)] == ["train", "val", "test"]


def test_what_returns_a_data_set_is_called() -> None:
    class Named(Images):
        def __init__(self) -> None:
            super().__init__(tensor, classes=["a", "b", "c"])

    for target in (Named, lambda: Named(), Named()):
        assert read(target).train.classes == ("a", "b", "c")
    assert len(read(Digits).train) == len(read(lambda: Digits()).train) == 1442


def test_a_part_of_a_data_set_has_its_classes() -> None:
    part = Subset(Images(tensor, classes=("a", "b", "c")), [0, 1, 4])
    assert read(Subset(part, [0, 1])).train.classes == ("a", "b", "c")


def test_a_pool_joins_own_data(tmp_path: Path) -> None:
    pool = np.stack([write_image(tmp_path / f"{number}.png", (7, 6), seed=number) for number in range(3)])
    data = loaded(Images(tensor), unlabelled=tmp_path)
    assert data.train.labels.tolist()[-4:][1:] == [-1] * 3 and len(data.test) == 3 and len(data.train) == 9 + 3
    assert torch.equal(data.train.pixels[-3:], torch.from_numpy(pool).permute(0, 3, 1, 2))


def label(value: Any) -> Images:
    return Images(tensor, [0, value, 1])


def broken() -> Any:
    raise OSError("no disk")


REFUSED: tuple[tuple[Any, str], ...] = (
    (
        Images(lambda x: floats(x) - 0.5),
        r"^mine: image 0 of train: expected floats in \[0, 1\], found -0\.\d+ to 0\.\d+: leave out",
    ),
    (Images(lambda x: floats(x) * torch.nan), r"expected floats in \[0, 1\], found nan"),
    (Images(lambda x: tensor(x).int()), r"expected a PIL image, .* got a tensor \(3, 6, 7\) of torch.int32$"),
    (Images(lambda x: x / 255), r"got an array \(6, 7, 3\) of float64$"),
    (Images(lambda x: "a.png"), "got str$"),
    (Images(lambda x: tensor(x).permute(1, 2, 0)), r"expected 1 or 3 channels in \(C, H, W\), got \(6, 7, 3\)$"),
    (
        Images(lambda x: Image.fromarray(x[..., 0]).convert("I")),
        "not a readable image: Unfit: expected 8 bits per channel",
    ),
    (
        [PIXELS[0], PIXELS[1][:5]],
        "image 1 of train: expected 3 x 6 x 7 like the first image, found 3 x 5 x 7: give --image-size",
    ),
    ([PIXELS[0], PIXELS[1][..., 0]], "expected 3 x 6 x 7 like the first image, found 1 x 6 x 7$"),
    (label(np.zeros((8, 8), int)), "1 of train: expected the label of an image, got a map of them: .* folder:PATH"),
    (label(0.5), r"image 1 of train: expected a label of 0 and more, or -1 or None for none, got '0\.5'$"),
    (label(-2), "got '-2'$"),
    (label("cat"), "got 'cat'$"),
    (Images(tensor, [0, 0]), r"expected labels of at least 2 classes, below 1, found 0$"),
    (Images(tensor, classes=("a", "b")), "expected labels of at least 2 classes, below 2, found 2$"),
    ((Images(tensor), Images(tensor, [0, None, 1])), "image 1 of test: expected a label, found none$"),
    (
        (Images(tensor, classes="abc"), Images(tensor, classes="abd")),
        "expected the same classes in train and test, found others",
    ),
    ((Images(tensor),) * 3, "expected a mapping of train, val and test, or .train, test., got 3 parts$"),
    ({"test": Images(tensor)}, "expected splits train, test and val, found test$"),
    ({"train": Images(tensor), "tset": []}, "expected splits train, test and val, found train, tset$"),
    ([], "expected images in train, found none$"),
    (7, "train: expected a data set with a length and items by number, got int$"),
    ([(PIXELS[0], 1, 2)], "expected an image, or an image and its label, got 3 values$"),
    ([{"img": PIXELS[0]}], "expected the columns image and label, found img$"),
    (
        Images(lambda x: 1 / 0),
        r"image 0 of train could not be read: ZeroDivisionError: division by zero \(test_own.py, line \d+\)$",
    ),
    (broken, r"^mine could not be made: OSError: no disk \(test_own.py, line \d+\)$"),
)


def test_what_is_no_data_set_is_refused() -> None:
    assert_refused_like(*((partial(read, target), told) for target, told in REFUSED))
    told = "^mine is read into memory: expected --images auto or memory, got stream$"
    assert_refused_like((lambda: read(Images(tensor), mode="stream"), told))
    for options in ({"test_fraction": 0.3}, {"split_seed": 1}):
        pair = Images(tensor), Images(tensor)
        assert_refused_like(
            (partial(loaded, pair, **options), "^mine has a test split of its own: expected neither test_fraction nor"),
            (partial(loaded, Images(tensor, None), **options), "^mine has no labels: expected neither"),
        )
    few = Images(tensor, [0, 1, 1])
    assert_refused_like((lambda: loaded(few), "class '0' has 1 training image, and 1 for testing leave none"))


def test_random_transforms_are_refused() -> None:
    generator = np.random.default_rng(3)
    flipped = Images(lambda pixels: pixels[:, ::-1] if generator.random() < 0.5 else pixels)
    assert_refused_like((lambda: read(flipped), r"expected the same image each time, got another: leave out random"))


def test_more_than_memory_takes_is_refused_at_the_first_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "MEMORY_LIMIT", 24 * 3 * 6 * 7 - 1)
    asked: list[int] = []
    counted = Images(lambda pixels: asked.append(0) or pixels)  # type: ignore[func-returns-value]
    assert len(read(counted).train) == 12
    asked.clear()
    assert_refused_like((lambda: read({"train": counted, "test": counted}), "24 images of 3 x 6 x 7 need"))
    assert len(asked) == 12 + 8 + 1


def hub(monkeypatch: pytest.MonkeyPatch, found: Any, version: str = "4.1.0") -> list[tuple[Any, ...]]:
    """Put a package `datasets` in place whose `load_dataset` gives this; return what it is called with."""
    calls: list[tuple[Any, ...]] = []

    def load_dataset(*args: Any) -> Any:
        calls.append(args)
        if isinstance(found, Exception):
            raise found
        return found

    module = ModuleType("datasets")
    vars(module).update(load_dataset=load_dataset, __version__=version)
    monkeypatch.setitem(sys.modules, "datasets", module)
    return calls


class Rows(list[Any]):
    """A split of Hugging Face's: rows by number, with the features of its columns."""

    features: ClassVar = {"image": None, "label": SimpleNamespace(names=["ape", "bee", "cat"])}


def test_hugging_face_data_sets_are_read_by_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows(
        {"image": Image.fromarray(pixels), "label": label} for pixels, label in zip(PIXELS, LABELS, strict=True)
    )
    calls = hub(monkeypatch, {"train": rows, "validation": Rows(rows[:3]), "test": Rows(rows[:6]), "extra": Rows()})
    for place in ("mnist", "owner/birds", "owner/birds/small"):
        found = HuggingFace(place).read(Path("unused"), None, "auto")
        assert same(found.train, EXPECTED, LABELS) and len(found.test) == 6 and found.val is not None
        assert found.train.classes == ("ape", "bee", "cat")
        assert found.left_out.lines("d") == ["d: left out the splits extra"]
    assert calls == [("mnist", None), ("owner/birds", None), ("owner/birds", "small")]
    hub(monkeypatch, {"train": [{"image": pixels, "fine": 1} for pixels in PIXELS]})
    lines = HuggingFace("a/b").read(Path("unused"), None, "auto").left_out.lines("d")
    assert lines == ["d: read without labels, which the column label has, found image, fine"]


def test_what_hugging_face_cannot_read_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def attempt() -> object:
        return HuggingFace("a/b").read(Path("unused"), None, "auto")

    hub(monkeypatch, ConnectionError("offline\nand more"))
    assert_refused_like((attempt, r"^huggingface:a/b could not be read: ConnectionError: offline"))
    hub(monkeypatch, {"test": []})
    assert_refused_like((attempt, "^huggingface:a/b: expected splits train, test and val, found test$"))
    calls = hub(monkeypatch, {"train": []}, version="3.6.0")
    assert_refused_like((attempt, "version 4 or later, which runs no code of a data set's own, found 3.6.0$"))
    assert calls == []
    monkeypatch.setitem(sys.modules, "datasets", None)
    told = r"^huggingface:a/b needs the package datasets, .*: pip install 'relgraph\[huggingface\]'$"
    assert_refused_like((attempt, told))


def test_own_data_and_files_hold_the_same_images(tmp_path: Path) -> None:
    for number, name in enumerate(("cat/0", "cat/1", "dog/0", "dog/1", "dog/2")):
        write_image(tmp_path / f"{name}.png", (9, 7 + number), seed=number)
    files = sorted(tmp_path.rglob("*.png"))
    target = [(Image.open(file), int(file.parent.name == "dog")) for file in files]
    for size in (4, 8):
        ours, theirs = read(target, size), ClassFolders(tmp_path).read(tmp_path, size, "memory")
        assert torch.equal(ours.train.pixels, theirs.train.pixels)
        assert torch.equal(ours.train.labels, theirs.train.labels)
        assert (ours.crop_padding, ours.flip) == (theirs.crop_padding, theirs.flip)
