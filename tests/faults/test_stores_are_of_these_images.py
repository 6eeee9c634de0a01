"""Stores: each file damaged in each way, images exchanged under them, two writers and killed ones, colliding names."""

import multiprocessing
import os
import random
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from relgraph.data import fingerprint
from relgraph.data.embeddings import EmbeddingStore, read_record
from relgraph.errors import RelgraphError
from relgraph.files import locked
from relgraph.training import stores
from relgraph.training.building import open_data, open_teacher
from relgraph.training.distillation import train
from relgraph.training.recipe import Recipe
from relgraph.training.runs import RunDirectory
from relgraph.training.stores import Wanted, default_path, find_store, store_embeddings
from tests.checks import assert_refused_like, case
from tests.faults.conftest import Make
from tests.faults.test_a_file_holds_what_was_written import damaged, flip
from tests.faults.test_a_run_knows_what_it_was_made_of import as_bitmaps, exchange, stop_at, touch

FILES = ("manifest.json", "images.npy", "shard-00000.npy", "shard-00002.npy")


@pytest.fixture(scope="module", autouse=True)
def small_shards() -> Any:
    """Let a shard have ten images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stores, "images_per_shard", lambda images, size: 10)
        yield


def embed(recipe: Recipe, path: Path, views: int = 2) -> dict[str, bytes]:
    store_embeddings(recipe, path, views=views)
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture(scope="module")
def made(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of two views that no test changes."""
    path = tmp_path_factory.mktemp("stores") / "made"
    embed(make(), path)
    return path


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    """Return a copy of it."""
    return shutil.copytree(made, tmp_path / "store")


def trained(make: Make, store: Path) -> bytes:
    """Return the student of a run that reads a store; the run is removed."""
    run = store.parent / "run"
    shutil.rmtree(run, ignore_errors=True)
    train(make(epochs=1, teacher_mode="stored", embeddings=str(store)), run)
    return (run / "student.safetensors").read_bytes()


@pytest.mark.slow
def test_each_damage_of_each_file(make: Make, made: Path, store: Path) -> None:
    right = {"train": trained(make, store), "embed": {file.name: file.read_bytes() for file in made.iterdir()}}
    commands: dict[str, Callable[[], Any]] = {
        "train": lambda: trained(make, store),
        "embed": lambda: embed(make(), store),
    }
    for name in FILES:
        for fault, content in damaged((made / name).read_bytes()).items():
            for command, call in commands.items():
                if command == "train" and fault not in ("one bit", "missing"):
                    continue  # the reader is tested below
                shutil.rmtree(store)
                shutil.copytree(made, store)
                (store / name).unlink()
                if content is not None:
                    (store / name).write_bytes(content)
                with case(name, fault, command):
                    try:
                        found = call()
                    except RelgraphError as error:
                        assert name in str(error) and "\n" not in str(error), error
                        assert "relgraph embed" in str(error), "what to do is told"
                        assert command == "train" or name == "manifest.json", "a damaged file is written again"
                    else:
                        assert found == right[command]


def test_one_flipped_bit_is_noticed_wherever_it_is(made: Path, store: Path) -> None:
    def read(limit: int) -> list[torch.Tensor]:
        opened = EmbeddingStore(store, limit=limit)
        every = torch.arange(27 * 2)
        record = read_record(store, opened.contents)
        return [opened.rows(every % 2, every // 2), record.checksums, record.modified, record.content]

    right = read(0)
    for name in FILES:
        data = (made / name).read_bytes()
        for place in random.Random(name).sample(range(len(data)), 40):
            (store / name).write_bytes(flip(data, place))
            for limit in (0, 2**30):
                with case(name, place, limit):
                    try:
                        found = read(limit)
                    except RelgraphError as error:
                        assert name in str(error) and "\n" not in str(error)
                    else:
                        torch.testing.assert_close(found, right, rtol=0, atol=0)
        (store / name).write_bytes(data)


def test_a_row_that_is_damaged_amid_a_run_ends_it(
    make: Make, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stores, "_check_values", lambda wanted, store: None)
    file = store / "shard-00001.npy"
    file.write_bytes(flip(file.read_bytes(), file.stat().st_size - 100))
    told = r"shard-00001\.npy is damaged: the CRC-32 of its row 19 is another one .*: the same relgraph embed command"
    assert_refused_like((lambda: trained(make, store), told))
    capsys.readouterr()
    embed(make(), store)
    assert re.search(told, capsys.readouterr().out), "that it was damaged is said"
    trained(make, store)


def test_a_run_whose_store_was_made_anew_does_not_resume(make: Make, store: Path) -> None:
    recipe = make(teacher_mode="stored", embeddings=str(store))
    run = store.parent / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("relgraph.training.trainer._check_weights", lambda job, epoch: stop_at(epoch))
        train(recipe, run)
    kept = store.rename(store.parent / "kept")
    store_embeddings(make(), store, views=2, seed=5)
    told = "the stored embeddings .*: expected those with which .*run was begun, found others"
    assert_refused_like((lambda: train(RunDirectory.open(run).recipe(), run, resume=True), told))
    shutil.rmtree(store)
    kept.rename(store)
    train(RunDirectory.open(run).recipe(), run, resume=True)


def reasons(recipe: Recipe) -> list[str]:
    store, found = find_store(Wanted(recipe, open_data(recipe), open_teacher(recipe), torch.device("cpu")))
    assert (store is None) == bool(found)
    return found


def test_streamed_images_that_are_exchanged_and_those_that_are_touched_moved_or_copied(
    images: Path, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, store = shutil.copytree(images, tmp_path / "images"), tmp_path / "store"
    as_bitmaps(data)
    read: list[str] = []
    crc = fingerprint._crc

    def counted(path: str) -> int:
        read.append(path)
        return crc(path)

    monkeypatch.setattr(fingerprint, "_crc", counted)
    recipe = make(dataset=f"folder:{data}", images="stream", embeddings=str(store))
    before = embed(recipe, store)
    assert len(read) == 27
    read.clear()
    assert reasons(recipe) == [] and read == [], "without a change no content is read"

    exchange(data / "train")
    (told,) = reasons(recipe)
    assert re.search(r"image 18 \(.*cat/00\.bmp\) of the training split is another one there; .*embed again", told)
    assert sorted(map(os.path.basename, read)) == ["00.bmp", "01.bmp"], "those are read whose times differ"
    assert_refused_like((lambda: embed(recipe, store), "other images: the first that differs is image 18; choose"))
    exchange(data / "train")
    assert reasons(recipe) == []

    touch(data)
    assert reasons(recipe) == []
    data.rename(tmp_path / "elsewhere")
    shutil.copytree(tmp_path / "elsewhere", data, copy_function=shutil.copyfile)
    assert reasons(recipe) == []
    assert store_embeddings(recipe, store, views=2).images == 0
    read.clear()
    assert reasons(recipe) == [] and read == [], "the store now has their new times"
    after = {file.name: file.read_bytes() for file in store.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"images.npy"}
    (data / "train" / "cat" / "00.bmp").write_bytes((data / "train" / "cat" / "00.bmp").read_bytes()[:-1] + b"\1")
    assert "cat/00.bmp" in reasons(recipe)[0]


def test_a_second_writer_is_refused_and_a_dead_one_holds_nothing(make: Make, store: Path) -> None:
    with locked(store):
        assert_refused_like((lambda: embed(make(), store), "store is being written by another process"))
    embed(make(), store)


def killed(recipe: Recipe, path: Path, number: int, after: bool) -> None:
    """Embed in this process, which is gone at the given move of a new file to its place, before it or after it."""
    original, count = Path.replace, 0

    def replace(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == number and not after:
            os._exit(9)
        moved = original(self, target)
        if count == number:
            os._exit(9)
        return moved

    Path.replace = replace  # type: ignore[method-assign,assignment]
    torch.set_num_threads(1)
    embed(recipe, path)


@pytest.mark.slow
def test_an_embed_that_is_killed_at_any_file_is_continued(make: Make, made: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for number in range(1, 6):
        for after in (False, True):
            path = tmp_path / f"{number}{after}"
            process = context.Process(target=killed, args=(make(), path, number, after))
            process.start()
            process.join()
            assert process.exitcode == 9 and (after or len(list(path.glob(".*.part"))) == 1)
            with case(number, after):
                assert embed(make(), path) == {file.name: file.read_bytes() for file in made.iterdir()}


def test_what_a_killed_start_leaves_is_continued_and_what_others_have_is_not(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "store"
    path.mkdir()
    for name in (".lock", ".manifest.json.x1y2.part"):
        (path / name).touch()
    embed(make(), path)
    assert EmbeddingStore(path).contents.views == 2 and not list(path.glob(".*.part"))
    other = tmp_path / "other"
    other.mkdir()
    for name, content, told in (
        (".song.mp3.part", "", "other exists already and is not a store of embeddings"),
        ("manifest.json", "{}", "its format is not 'relgraph embeddings'"),
    ):
        (other / "letter.txt").touch()
        (other / name).write_text(content)
        before = sorted(other.iterdir())
        assert_refused_like((lambda: embed(make(), other), told))
        assert sorted(other.iterdir()) == before, "what is another's is left alone"


def test_default_names_differ_wherever_the_stores_do(tmp_path: Path) -> None:
    usual: dict[str, Any] = {"teacher": "timm:vit_tiny_patch16_224", "dataset": "cifar100", "device": "cpu"}
    changes: tuple[dict[str, Any], ...] = (
        {}, {"teacher_args": ("img_size=64",)}, {"teacher_args": ("img_size=96",)}, {"teacher_weights": "a.pt"},
        {"teacher_weights": "b.pt"}, {"teacher_size": 64}, {"teacher_mean": (0.5,)}, {"teacher_std": (0.5,)},
        {"precision": "bf16-mixed"}, {"image_size": 8}, {"images": "stream"}, {"dataset": "folder:/x/cifar100"},
        {"dataset": "folder:/y/cifar100"}, {"dataset": "folder:/data/-rf $HOME;é"}, {"teacher": "checkpoint:a/b"},
        {"teacher": "checkpoint:a-b"}, {"teacher": "checkpoint:" + "long/" * 99},
    )  # fmt: skip
    names = [default_path(Recipe(**{"precision": "32-true", **usual, **change}), 2).name for change in changes]
    recipe = Recipe(precision="32-true", **usual)
    names += [default_path(recipe, *given).name for given in ((1,), (2, "float16"), (2, "float32", 3))]
    assert len(set(names)) == len(names)
    for name in names:
        assert shlex.quote(name) == name and name[0] not in "-." and len(name) < 200
    assert names[0].startswith("cifar100-timm-vit_tiny_patch16_224-2views-")
    again = Recipe(precision="32-true", **usual, batch_size=8, student="vgg8", seed=4, val_fraction=0.3)
    assert default_path(again, 2).name == names[0], "a run's other options make no other store"
    first, second = (Recipe(**usual, teacher_args=args) for args in (("a=1", "b=2"), ("b=2", "a=1")))
    assert default_path(first, 2) == default_path(second, 2)
