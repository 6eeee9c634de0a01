"""A teacher that is known by its vectors: matched with its images by order or by name, trained from, and left out."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from relgraph.analysis.galleries import evaluate_gallery
from relgraph.analysis.run_loading import TrainedRun, evaluate_run, run_pair
from relgraph.data.images import ImageFiles
from relgraph.files import read_json
from relgraph.graph.memory import Bank
from relgraph.methods.against import Keyed
from relgraph.names import load_teacher
from relgraph.networks.vectors import VectorFile
from relgraph.outputs import Batch
from relgraph.training import vectors as module
from relgraph.training.distillation import Distillation, build, train
from relgraph.training.feed import Known
from relgraph.training.recipe import Recipe
from relgraph.training.stores import store_embeddings
from relgraph.training.vectors import names_of
from tests.checks import assert_refused_like, case
from tests.pictures import write_folder, write_image

QUICK: dict[str, Any] = {
    "student": "resnet8", "dim": 8, "epochs": 1, "batch_size": 8, "lr": 0.01, "device": "cpu", "precision": "32-true",
    "threads": 1, "workers": 0, "image_size": 8, "val_fraction": 0.2,
}  # fmt: skip
ROWS = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten training and two test images of each of two classes, and a pool of three without labels."""
    for number in range(3):
        write_image(tmp_path / f"pool/{number}.png", seed=100 + number)
    return write_folder(tmp_path / "data", {"train": 10, "test": 2})


def recipe(data: Path, file: Path, **options: Any) -> Recipe:
    return Recipe(**{"dataset": f"folder:{data}", "teacher": f"vectors:{file}", **QUICK, **options})


def saved(file: Path, rows: Any, names: list[str] | None = None) -> Path:
    np.save(file, rows)
    if names is not None:
        file.with_suffix(".names.txt").write_text("\n".join(names))
    return file


def given(job: Distillation) -> torch.Tensor:
    """Return the teacher's outputs for all training images as the job's feed gives them."""
    train = job.data.train
    assert isinstance(job.feed, Known)
    index = torch.arange(len(train)).flip(0)
    images = next(train.batches([index]))
    found = job.feed(images, Batch(index, train.labels[index]), torch.Generator()).teacher
    assert found is not None and found.embedding.dtype == torch.float32
    return found.embedding.flip(0)


def test_vectors_without_names_are_in_the_order_of_the_training_split(data: Path, tmp_path: Path) -> None:
    for dtype, pool, count in ((np.float32, None, 20), (np.float64, None, 20), (np.float16, tmp_path / "pool", 23)):
        rows = ROWS[:count].astype(dtype)
        job = build(recipe(data, saved(tmp_path / "v.npy", rows), unlabelled=pool and str(pool)))
        expected = torch.from_numpy(rows.astype(np.float32))[job.data.train.index]
        assert len(expected) == count - 4 and torch.equal(given(job), expected)
    shutil.copytree(data / "test", data / "val")
    for number, file in enumerate(sorted((data / "val").rglob("*.png"))):
        write_image(file, seed=200 + number)
    assert torch.equal(given(build(recipe(data, saved(tmp_path / "v.npy", ROWS[:20])))), torch.from_numpy(ROWS[:20]))


def test_vectors_with_names_are_found_whatever_their_order(data: Path, tmp_path: Path) -> None:
    files = [*sorted((data / "train").rglob("*.png")), *sorted((tmp_path / "pool").glob("*.png"))]
    order = np.random.default_rng(1).permutation(len(files))
    for images, base in (("memory", data / "train"), ("stream", data), ("memory", Path("/"))):
        with case(images, base):
            places = [base if data in file.parents else tmp_path / "pool" for file in files]
            names = [
                str(file if base == Path("/") else file.relative_to(place))
                for file, place in zip(files, places, strict=True)
            ]
            names = [*(names[number] for number in order), "test/cat/0.png", "no image"]
            file = saved(tmp_path / "v.npy", ROWS[: len(names)], names)
            job = build(recipe(data, file, unlabelled=str(tmp_path / "pool"), images=images, seed=3))
            assert isinstance(job.data.train.images, ImageFiles) == (images == "stream")
            expected = torch.from_numpy(ROWS)[np.argsort(order)][job.data.train.index]
            assert torch.equal(given(job), expected)


def test_a_run_from_vectors_is_trained_resumed_and_judged_without_its_teacher(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, run = saved(tmp_path / "v.npy", ROWS[:20]), tmp_path / "run"
    asked = recipe(data, file, method="rkd", teacher_head="sequential", head_epochs=1)
    train(asked, run)
    assert "a vector of width 5 an image, fresh views for the student" in capsys.readouterr().out
    assert read_json(run / "inputs.json")["teacher"] == {
        "name": f"vectors:{file}",
        "fingerprint": VectorFile.read(file).sha256,
    }
    train(asked, run, resume=True)
    found = evaluate_run(run)
    assert "student" in found and "teacher" not in found
    assert "has no network, and no vectors of the test images: the teacher is left out" in capsys.readouterr().err
    assert_refused_like((lambda: run_pair(run, k=2), "has no teacher's network: export its student's graph"))
    assert len(run_pair(run, side="student", k=2)["student"].x) == 4
    known = run_pair(run, split="train", side="teacher", k=2)
    assert torch.equal(known["teacher"].x, torch.from_numpy(ROWS[:20])[known["teacher"].image_id])
    saved(file, ROWS[:20] + 1)
    assert_refused_like(
        (lambda: train(asked, run, resume=True), "teacher vectors:.*: expected those with which .* others$")
    )


def test_vectors_of_every_split_are_found_by_names_that_are_listed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path, {"data": 6}, ("ant", "bee", "cat", "dog")) / "data"
    names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*.png"))
    order = np.random.default_rng(2).permutation(24)
    file = saved(tmp_path / "v.npy", ROWS[:24], [names[number] for number in order])
    asked = recipe(
        folder, file, dataset=f"classes:{folder}", method="rkd", val_fraction=0.1, holdout_classes="val=bee+test=cat"
    )
    train(asked, tmp_path / "run")
    run, listed = TrainedRun(tmp_path / "run"), list[str]()

    def counted(*args: Any) -> Any:
        listed.append(args[-1].split)
        return names_of(*args)

    monkeypatch.setattr(module, "names_of", counted)
    images = run.images("all")
    assert images.index.tolist() != list(range(24)), "splits are one behind the other"
    expected = torch.from_numpy(ROWS[:24][np.argsort(order)])[images.index]
    for which in (torch.arange(24), torch.randperm(24)[:9], torch.tensor([23, 0])):
        assert torch.equal(cast(torch.Tensor, run.vectors(images.select(which))[1]), expected[which])
    assert listed == ["train", "val", "test"]


def test_a_file_that_names_the_test_images_knows_the_teacher_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "images", {"train": 22, "test": 10})
    names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*.png"))
    own: dict[str, Any] = {"method": "csd", "target_space": "teacher", "dim": None}
    train(recipe(folder, saved(tmp_path / "v.npy", ROWS, names), **own), tmp_path / "run")
    run = TrainedRun(tmp_path / "run")
    images = run.images("test")
    place = [names.index(name) for name in run.data.file_names(images) or ()]
    assert len(place) == 20 and torch.equal(cast(torch.Tensor, run.vectors(images)[1]), torch.from_numpy(ROWS)[place])
    assert evaluate_run(run)["teacher"].keys() >= {"top1", "knn", "linear"}
    assert "the teacher is left out" not in capsys.readouterr().err
    assert evaluate_gallery(run, "teacher", "test")["teacher_teacher"]["overlap@10"] == 100
    del names[place[2]]
    train(recipe(folder, saved(tmp_path / "w.npy", ROWS[1:], names), **own), tmp_path / "other")
    other = TrainedRun(tmp_path / "other")
    assert other.vectors(other.images("test"))[1] is None
    assert_refused_like((lambda: evaluate_gallery(other, "teacher", "test"), "no vectors of the test images: .* too$"))


def test_the_graph_of_validation_images_is_known_from_vectors(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images", {"train": 22, "test": 10})
    names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*.png"))
    file, options = saved(tmp_path / "v.npy", ROWS, names), {"method": "rkd", "val_fraction": 0.4}
    for split in ("val", "test"):
        job = build(recipe(folder, file, select=split, **options))
        sample = job.sample
        assert sample is not None and sample.images.split == split
        own = [names.index(name) for name in job.data.file_names(sample.images) or ()]
        assert len(own) >= 17 and torch.equal(sample.teacher, torch.from_numpy(ROWS)[own])
        assert "overlap@8" in job.evaluate(0)
    file = saved(tmp_path / "w.npy", ROWS[:44])  # in the order of the training split
    assert build(recipe(folder, file, **options)).sample is not None
    assert build(recipe(folder, file, select="test", **options)).sample is None


def test_seed_learns_from_vectors_alone(data: Path, tmp_path: Path) -> None:
    file = saved(tmp_path / "v.npy", ROWS[:23])
    asked = recipe(data / "train", file, method="seed", method_args=("queue=16",), unlabelled=str(tmp_path / "pool"))
    assert train(asked, tmp_path / "run")["images"]["train"] == 23


def slots(job: Distillation) -> torch.Tensor:
    assert job.objective.method is not None
    (method,) = (part.method for part in job.objective.method.summands() if isinstance(part.method, Keyed))
    assert isinstance(method.remembered, Bank)
    return method.remembered.keys


def test_a_memory_with_a_slot_for_each_image_holds_all_vectors_before_the_training(data: Path, tmp_path: Path) -> None:
    file = saved(tmp_path / "v.npy", ROWS[:20])
    for nodes, method, name in (("feature", "csd+rkd", "csd"), ("embedding", "rop", "rop")):
        asked = recipe(data, file, method=method, nodes=nodes, method_args=(f"{name}.memory=images",), gamma=0.0)
        job = build(asked)
        expected = torch.from_numpy(ROWS)[job.data.train.index]
        if nodes == "embedding":
            assert job.objective.teacher_head is not None
            expected = job.objective.teacher_head.project(expected).detach()
        expected = torch.nn.functional.normalize(expected)
        torch.testing.assert_close(slots(job), expected)
        assert not torch.allclose(slots(build(asked, restored=True)), expected), "those of a checkpoint are read later"


def test_vectors_that_are_not_those_of_the_images_are_refused(data: Path, tmp_path: Path) -> None:
    files = [str(file.relative_to(data)) for file in sorted((data / "train").rglob("*.png"))]
    (tmp_path / "text.npy").write_text("text")
    (tmp_path / "v.txt").touch()
    wrong = ROWS[:20].copy()
    wrong[7, 2] = np.nan
    cases: tuple[tuple[Path, str], ...] = (
        (saved(tmp_path / "few.npy", ROWS[:19]), "expected a vector for each of 20 training images of .*, found 19$"),
        (saved(tmp_path / "nan.npy", wrong), "expected finite numbers, found others in row 7$"),
        (saved(tmp_path / "flat.npy", ROWS[0]), r"expected vectors \(N, D\) of float16.*, found \(5,\) of float32$"),
        (saved(tmp_path / "big.npy", ROWS[:20].astype(">f4")), r"or float64, found \(20, 5\) of >f4$"),
        (saved(tmp_path / "long.npy", ROWS[:20].astype("longdouble")), r"or float64, found \(20, 5\) of float"),
        (saved(tmp_path / "int.npy", ROWS[:20].astype(int)), r"or float64, found \(20, 5\) of int64$"),
        (saved(tmp_path / "named.npy", ROWS[:20], files[:19]), "expected a name for each of 20 vectors, found 19$"),
        (saved(tmp_path / "gone.npy", ROWS[:19], files[:19]), r"1 of 16 have none, the first is .*train/dog/9\.png$"),
        (saved(tmp_path / "twice.npy", ROWS[:21], [*files, files[3]]), "rows 3 and 20 are both of .*cat/3.png$"),
        (
            saved(tmp_path / "splits.npy", ROWS[:21], [*map(str, range(20)), "3"]),
            "rows 3 and 20 are both of 3, a position in one split: relgraph embed --split train .*",
        ),
        (tmp_path / "none.npy", "^cannot read .*none.npy: No such file"),
        (tmp_path / "text.npy", "expected an array of NumPy"),
        (tmp_path / "v.txt", "expected vectors:FILE.npy or FILE.parquet, got .*v.txt$"),
    )
    assert_refused_like(*((partial(build, recipe(data, file, seed=1)), told) for file, told in cases))
    named = saved(tmp_path / "digits.npy", ROWS[:3], files[:3])
    told = r"digits.npy: expected positions .* by their names \(digits has no names of files\), found '.*\.png'$"
    assert_refused_like((lambda: build(recipe(data, named, dataset="digits")), told))


def test_what_needs_the_network_is_refused(data: Path, tmp_path: Path) -> None:
    file = saved(tmp_path / "v.npy", ROWS[:20])
    for options, told in (
        ({"normalise": "teacher"}, "has no network: expected normalise 'dataset', got 'teacher'$"),
        ({"teacher_mode": "online"}, "has no network: expected teacher_mode 'auto', got 'online'$"),
        ({"teacher_size": 32}, "has no network: expected teacher_size None, got 32$"),
        ({"teacher_head": "own"}, "teacher_head 'own' needs a teacher checkpoint:RUN"),
        ({"method": "at"}, "map"),
        ({"method": "seed", "method_args": ("patches=2",)}, "will not do, since seed reads .* of 2 extra views"),
    ):  # fmt: skip
        with case(options):
            assert_refused_like((partial(lambda given: build(recipe(data, file, **given)), options), told))
    told = "holds a teacher's vectors of the training images, where its network is needed: give another teacher$"
    assert_refused_like(
        (lambda: load_teacher(f"vectors:{file}"), told),
        (lambda: store_embeddings(recipe(data, file), tmp_path / "store", views=1), told),
        (lambda: build(recipe(data, file)).feed.teacher(torch.zeros(1, 3, 8, 8)), told),  # type: ignore[attr-defined]
    )


def test_parquet_has_a_column_of_names_and_one_of_vectors(data: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    files = [str(file.relative_to(data)) for file in sorted((data / "train").rglob("*.png"))]
    file, width = tmp_path / "v.parquet", pyarrow.list_(pyarrow.float32(), 5)
    for rows in (pyarrow.array(ROWS[:20].tolist()), pyarrow.array(list(ROWS[:20]), type=width)):
        parquet.write_table(pyarrow.table({"v": rows, "file": files, "label": [0] * 20}), file)
        job = build(recipe(data, file))
        assert torch.equal(given(job), torch.from_numpy(ROWS)[job.data.train.index])
    for columns, told in (
        ({"v": [[1.0], [2.0, 3.0]], "file": files[:2]}, "expected vectors of one length, found 2 lengths$"),
        (
            {"v": [1.0], "file": ["a"]},
            r"expected one column of names and one of lists .*, found v \(double\), file \(string\)$",
        ),
        ({"v": [[1.0], None], "file": ["a", "b"]}, "without nulls, found"),
        ({"v": [[1.0], [None]], "file": ["a", "b"]}, "expected finite numbers, found others in row 1$"),
    ):
        parquet.write_table(pyarrow.table(columns), file)
        assert_refused_like((lambda: VectorFile.read(file), told))
    file.write_bytes(b"text")
    assert_refused_like((lambda: VectorFile.read(file), "expected a Parquet file"))
    assert_refused_like((lambda: VectorFile.read(tmp_path / "no.parquet"), "^cannot read .*no.parquet"))


def test_parquet_needs_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    told = r"needs the package pyarrow, .*: pip install 'relgraph\[parquet\]', or give an \.npy file$"
    assert_refused_like((lambda: VectorFile.read(tmp_path / "v.parquet"), told))
