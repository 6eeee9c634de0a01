"""CSV files that list images: what they may hold, and every fault with its line."""

import os
import unicodedata
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from relgraph.data.datasets import DataSet, load
from relgraph.data.images import ImageFiles
from relgraph.data.listing import LeftOut
from relgraph.data.table import list_table
from relgraph.names import dataset
from tests.checks import assert_refused_like
from tests.pictures import write_image

HEADER = "path,label,split\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight images, 0.png to 7.png, in a folder beside the one of the table."""
    for number in range(8):
        write_image(tmp_path / f"images/{number}.png", seed=number)
    (tmp_path / "tables").mkdir()
    return tmp_path / "tables"


def table(folder: Path, *rows: str, header: str = HEADER) -> Path:
    file = folder / "table.csv"
    file.write_text(header + "".join(f"../images/{row}\n" for row in rows))
    return file


def read(file: Path, **options: Any) -> DataSet:
    usual: dict[str, Any] = {"image_size": None, "val_fraction": 0.0, "labels_per_class": None, "seed": 0}
    return load(dataset(f"csv:{file}"), root=Path("unused"), **{**usual, **options})


def test_images_are_in_the_order_of_the_rows_and_classes_of_their_names(folder: Path) -> None:
    rows = ("3.png,dog,train", "0.png,cat,test", "1.png,,train", "2.png,cat,train", "4.png,dog,val", "5.png,cat,val")
    file = table(folder, *rows)
    for mode in ("memory", "stream"):
        data = read(file, mode=mode)
        assert data.train.classes == ("cat", "dog")
        for split, names, labels in (
            (data.train, "312", [1, -1, 0]), (data.val, "45", [1, 0]), (data.test, "0", [0])
        ):  # fmt: skip
            found = split.images.load("all") if isinstance(split.images, ImageFiles) else split.images
            expected = [write_image(folder / "again.png", seed=int(name)) for name in names]
            assert all(
                (image.permute(1, 2, 0).numpy() == pixels).all() for image, pixels in zip(found, expected, strict=True)
            )
            assert split.labels.tolist() == labels
    assert data.name == f"csv:{file}" and dataset(data.name).short_name == "table.csv"


def test_a_table_may_leave_splits_and_labels_out(folder: Path) -> None:
    rows = [f"{number}.png,{'cat' if number < 4 else 'dog'}" for number in range(8)]
    data = read(table(folder, *rows, header="path,label\n"))
    assert len(data.train) == 6 and data.test.labels.tolist() == [0, 1]
    assert len(read(table(folder, *(f"{row},train" for row in rows)), test_fraction=0.5).test) == 4
    data = read(table(folder, *(f"{number}.png," for number in range(8)), header="path,label\n"))
    assert data.train.classes == () and data.train.labels.tolist() == [-1] * 8 and len(data.test) == 0
    splits = ["train"] * 2 + ["val"] * 2 + ["train"] * 2 + ["val"] * 2
    data = read(table(folder, *(f"{row},{split}" for row, split in zip(rows, splits, strict=True))))
    assert [len(data.train), len(data.val), len(data.test)] == [4, 0, 4], "val alone is the test split"


def test_columns_have_any_order_and_cells_quotes_spaces_and_a_mark(folder: Path) -> None:
    write_image(folder / 'a, "b".png', seed=9)
    file = folder / "table.csv"
    lines = [
        "label, split ,path",
        '"big, cat",train,"a, ""b"".png"',
        f"dog ,train, {folder}/../images/1.png",
        "",
        "dog,test,../images/2.png",
    ]
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    classes, listings = list_table(file, LeftOut())
    assert classes == ("big, cat", "dog") and listings["train"].labels.tolist() == [0, 1]
    images = read(file, mode="stream").train.images
    assert isinstance(images, ImageFiles) and images.load("all").shape == (2, 3, 8, 8)
    assert os.fsdecode(images.names[1]) == str(folder.parent / "images/1.png")


def test_names_in_another_form_of_unicode_are_found(folder: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    for name in (f"{apart}.png", f"{composed}2.png"):
        write_image(folder / name)
    lines = (f"{composed}.png,{composed},train", f"{apart}2.png,{apart},train", "../images/0.png,b,train")
    (folder / "table.csv").write_text("\n".join([HEADER.strip(), *lines]), encoding="utf-8")
    classes, listings = list_table(folder / "table.csv", LeftOut())
    assert classes == ("b", composed) and listings["train"].labels.tolist() == [1, 1, 0]
    assert [os.fsdecode(name) for name in listings["train"].names[:2]] == [f"{apart}.png", f"{composed}2.png"]


L, LS, HERE = b"path,label\n", b"path,label,split\n", b"../images/0.png,a"
FAULTS = (
    (
        b"path;label\n",
        r"line 1: expected the columns path,label or path,label,split ..*, found 'path;label'$",
    ),
    (b"", "line 1: expected the columns path,label or path,label,split .or mask for label., found ''$"),
    (b"path,label,label\n", "line 1: expected the columns"),
    (L + b"../images/0.png\n", "line 2: expected 2 cells as in the header, found 1$"),
    (L + HERE + b"\n\n ,b\n", "line 4: expected the path of an image, found ''$"),
    (L + b"a\0b,b\n", "line 2: expected the path of an image"),
    (LS + HERE + b",dev\n", "line 2: expected a split of train, val, test, found 'dev'$"),
    (L + HERE + b"\n9.png,b\n", r"line 3: expected an image, found no file .*tables/9\.png$"),
    (L + b"../images,a\n", "line 2: expected an image, found no file"),
    (L + HERE + b"\n.././images/0.png,b\n", r"line 3: expected each image once, \.\./images/0\.png is .* of line 2$"),
    (L + HERE + b"\nlink.png,b\n", r"line 3: expected each image once, link\.png is the file of line 2$"),
    (L + HERE + b"\n../images/1.png,a\n", "at least 2 classes, or no labels at all, found 'a' alone$"),
    (LS + HERE + b",train\n../images/1.png,b,test", "line 3: a test image: the class 'b' has no training image$"),
    (LS + HERE + b",train\n../images/1.png,,val", "line 3: a val image: expected a label, found none$"),
    (LS + HERE + b",test\n", "expected a training image, found none$"),
    (L + HERE + b"\n../images/1.png,\xff\n", "line 3: expected text in UTF-8, found other bytes$"),
    (L + b'"../images/0.png"x,a\n', "line 2: expected cells with commas between them"),
    (L + b"../runs/x/curve.png,a\n", "line 2: .* is in a directory that relgraph wrote, whose images are no data$"),
)


def test_every_fault_is_told_with_its_line(folder: Path) -> None:
    (folder / "link.png").symlink_to("../images/0.png")
    write_image(folder.parent / "runs/x/curve.png")
    for name in ("recipe.yaml", "inputs.json"):
        (folder.parent / "runs/x" / name).touch()
    for number, (content, told) in enumerate(FAULTS):
        file = folder / f"{number}.csv"
        file.write_bytes(content)
        assert_refused_like((partial(list_table, file, LeftOut()), rf"^.*{number}\.csv.*{told}"))
    assert_refused_like((partial(list_table, folder / "none.csv", LeftOut()), "^cannot read .*none.csv: No such file"))


def test_images_that_are_gone_or_unreadable_can_be_skipped(folder: Path) -> None:
    (folder.parent / "images/1.png").write_bytes(b"")
    rows = [f"{number}.png,{'cat' if number % 2 else 'dog'},train" for number in (0, 9, 1, 2, 3, 4, 5)]
    for mode in ("memory", "stream"):
        data = read(table(folder, *rows), skip_bad=True, mode=mode)
        assert len(data.train) + len(data.test) == 5 and sorted(data.test.labels.tolist()) == [0, 1]
        reasons = {Path(file).name: reason for file, reason in data.left_out.skipped.items()}
        assert set(reasons) == {"9.png", "1.png"} and reasons["9.png"] == "no such file"
