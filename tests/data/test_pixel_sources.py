"""Published data sets whose pixels have classes, from tiny trees in their own layouts."""

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision import datasets

from relgraph.data.catalogue import PUBLISHED
from relgraph.data.datasets import DataSet, load
from relgraph.data.images import ImageSet
from relgraph.names import dataset
from tests.checks import assert_refused_like
from tests.pictures import write_image


def read(name: str, root: Path, **options: tuple[int, ...]) -> DataSet:
    return load(dataset(name), root=root, image_size=None, val_fraction=0, labels_per_class=None, seed=0, **options)  # type: ignore[arg-type]


def write_label(file: Path, *numbers: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array([numbers], dtype=np.uint8)).save(file)


def maps(images: ImageSet) -> list[list[int]]:
    assert images.maps is not None
    return [images.maps.own(number).flatten().tolist() for number in range(len(images))]


def test_voc_has_its_validation_images_to_test_on(tmp_path: Path) -> None:
    folder = tmp_path / "VOCdevkit/VOC2012"
    for split, name, numbers in (("train", "b", (0, 1, 255)), ("val", "a", (20, 255, 0))):
        write_image(folder / f"JPEGImages/{name}.jpg", (3, 1))
        write_label(folder / f"SegmentationClass/{name}.png", *numbers)
        (folder / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
        (folder / f"ImageSets/Segmentation/{split}.txt").write_text(f"{name}\n")
    data = read("voc", tmp_path)
    assert maps(data.train) == [[0, 1, 255]] and maps(data.test) == [[20, 255, 0]] and data.test.split == "test"
    assert maps(data.test) == np.asarray(datasets.VOCSegmentation(tmp_path, "2012", "val")[0][1]).tolist()
    assert len(data.train.classes) == 21 and [data.train.classes[i] for i in (0, 1, 20)] == [
        "background", "aeroplane", "tvmonitor",
    ]  # fmt: skip
    source = PUBLISHED["voc"]
    options = source.skipping().beside(Path("more")).ignoring((3,))
    assert (options.skip, options.pool, options.ignore) == (True, Path("more"), (3,))  # type: ignore[attr-defined]
    assert source.state(tmp_path).word == "ready" and source.check(tmp_path) == "its lists agree with its files"
    assert source.archive.files.keys() == {f"VOC2012/{name}" for name in (
        "ImageSets/Segmentation/train.txt", "ImageSets/Segmentation/val.txt", "JPEGImages", "SegmentationClass",
    )}  # fmt: skip
    (folder / "SegmentationClass/a.png").unlink()
    assert_refused_like(
        (partial(source.check, tmp_path), "SegmentationClass/a.png: expected a file of voc, found none$"),
        (partial(read, "voc", tmp_path), "SegmentationClass/a.png: not a readable image .*No such file"),
    )


def test_of_a_pet_neither_its_outline_nor_more_is_a_class(tmp_path: Path) -> None:
    folder = tmp_path / "oxford-iiit-pet"
    for split, name in (("trainval", "Abyssinian_1"), ("test", "pug_2")):
        write_image(folder / f"images/{name}.jpg", (4, 1))
        write_label(folder / f"annotations/trimaps/{name}.png", 1, 2, 3, 2)
        (folder / f"annotations/{split}.txt").write_text(f"{name} 1 1 1\n")
    assert PUBLISHED["pets"].state(tmp_path).word == "ready"
    data = read("pets", tmp_path)
    assert maps(data.train) == maps(data.test) == [[1, 0, 255, 0]] and data.test.classes == ("background", "pet")
    assert PUBLISHED["pets"].check(tmp_path) == "its lists agree with its files"
    (folder / "annotations/test.txt").unlink()
    assert PUBLISHED["pets"].state(tmp_path).word == "incomplete"
    assert_refused_like((partial(read, "pets", tmp_path), "pets is incomplete: .*annotations lacks test.txt"))


def test_cityscapes_has_its_nineteen_classes_of_evaluation(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_image(tmp_path / f"leftImg8bit/{split}/ulm/ulm_0_0_leftImg8bit.png", (34, 1))
        write_label(tmp_path / f"gtFine/{split}/ulm/ulm_0_0_gtFine_labelIds.png", *range(34))
    name = f"cityscapes:{tmp_path}"
    (label,) = np.asarray(datasets.Cityscapes(tmp_path, "val", target_type="semantic")[0][1]).tolist()
    known = {one.id: one.train_id for one in datasets.Cityscapes.classes}
    expected = [known[number] if known[number] >= 0 else 255 for number in label]
    assert maps(read(name, Path("unused")).test) == [expected] and sorted({*expected}) == [*range(19), 255]
    data = read(name, Path("unused"), ignore=(*range(11, 32),))
    assert maps(data.train) == maps(data.test) == [[255 if number in range(11, 32) else train
                                                    for number, train in enumerate(expected)]]  # fmt: skip
    assert len(data.train.classes) == 19 and (data.train.classes[0], data.train.classes[18]) == ("road", "bicycle")
    assert data.left_out.notes[0].startswith("no training image has the 15 classes: building, wall, fence,")
    told = "expected leftImg8bit/ and gtFine/ of Cityscapes, .* www.cityscapes-dataset.com gives .*, found no such {}$"
    elsewhere = partial(read, f"cityscapes:{tmp_path / 'gtFine'}", Path("unused"))
    (tmp_path / "leftImg8bit/val/ulm/ulm_0_0_leftImg8bit.png").unlink()
    here = partial(read, name, Path("unused"))
    assert_refused_like((elsewhere, told.format("folders")), (here, told.format("images")))
