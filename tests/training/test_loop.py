"""The loop: the same numbers again, also after a stop at any point, and nothing lost when something breaks."""

import csv
import json
import math
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from relgraph.errors import RelgraphError
from relgraph.methods import CRD, EGA, METHODS, SEED, Batch, Output, Sum
from relgraph.methods.base import as_output
from relgraph.names import load_student
from relgraph.training import epochs, loop
from relgraph.training.checkpoint import load_checkpoint
from relgraph.training.evaluation import accuracy, embed, knn_accuracy, linear_probe
from relgraph.training.loop import train
from relgraph.training.meter import Meter
from relgraph.training.recipe import Recipe
from relgraph.training.runs import Run
from relgraph.training.setup import Setup, build
from relgraph.training.teacher_features import Online

RecipeMaker = Callable[..., Recipe]
Runs = Callable[[str], Path]
STEPS = 5  # batches of an epoch in the tests' recipe
VARIANTS: dict[str, dict[str, Any]] = {
    "dense": {},
    "knn-conv": {"graph": "knn", "k": 3, "refine": "conv", "alpha": 0.5, "views": "independent"},
    "none": {"method": "none"},
    "kd": {"method": "kd", "schedule": "cosine"},
    "memory-maps": {"method": "crd+0.5*sp+0.9*kd", "method_args": ("negatives=8",)},
    "early": {"method": "sp", "init_epochs": 1},
    "seed": {"method": "seed", "method_args": ("queue=40", "teacher_tau=0.05"), "batch_size": 7},
    "sskd": {"method": "sskd"},
}


def outcome(path: Path) -> dict[str, Any]:
    """Return everything that a run of the same recipe must give again, bit for bit."""
    result = json.loads((path / "result.json").read_text())
    del result["images_per_s"]
    with (path / "metrics.csv").open(newline="") as stream:
        rows = [{name: text for name, text in row.items() if name != "images_per_s"} for row in csv.DictReader(stream)]
    state = {
        name: tensor.numpy().tobytes() for name, tensor in load_checkpoint(path / "last.ckpt")["distiller"].items()
    }
    student = (path / "student.safetensors").read_bytes()
    return {"student": student, "metrics": rows, "result": result, "state": state}


def call_before(monkeypatch: pytest.MonkeyPatch, name: str, number: int, act: Callable[..., None]) -> None:
    """Let `act` see the arguments of the loop's function of that name, in its call of that number, before it runs."""
    original, calls = getattr(loop, name), 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            act(*args, **kwargs)
        return original(*args, **kwargs)

    monkeypatch.setattr(loop, name, wrapped)


def part(setup: Setup, name: str) -> Any:
    """Return the method of that name, of those that a run compares."""
    assert isinstance(setup.objective.method, Sum)
    return setup.objective.method.parts[name]


def batch(setup: Setup, index: Tensor) -> Batch:
    return Batch(index, setup.data.train.labels[index])


def interrupt(*args: Any, **kwargs: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_seed_gives_the_same_run(variant: str, make: RecipeMaker, finished: Runs, tmp_path: Path) -> None:
    train(make(**VARIANTS[variant]), tmp_path / "again")
    assert outcome(tmp_path / "again") == outcome(finished(variant))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_stopped_run_ends_as_if_it_had_not_stopped(
    variant: str, make: RecipeMaker, finished: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, recipe = tmp_path / "stopped", make(**VARIANTS[variant])
    with monkeypatch.context() as patch:
        call_before(patch, "step", STEPS + 3, interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, path)
    assert len(Run(path).read_metrics()) == 1 and not (path / "result.json").exists()
    torch.manual_seed(12345)
    train(Run.open(path).recipe(), path, resume=True)
    assert outcome(path) == outcome(finished(variant))


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_images_give_the_same_run_as_those_in_memory(
    workers: int, make: RecipeMaker, one_epoch: dict[str, Any], tmp_path: Path
) -> None:
    train(make(epochs=1, images="stream", workers=workers), tmp_path / "run")
    assert outcome(tmp_path / "run") == one_epoch


def test_another_seed_gives_another_run(make: RecipeMaker, finished: Runs, tmp_path: Path) -> None:
    train(make(seed=1, epochs=1), tmp_path / "other")
    assert outcome(tmp_path / "other")["student"] != outcome(finished("dense"))["student"]


# Which of the loop's writes, and which call of it, is the one that is stopped: the best checkpoint, then the last one.
WRITES = [("save_checkpoint", 1), ("save_network", 1), ("write_metrics", 1), ("save_checkpoint", 2), ("write_json", 1)]


@pytest.mark.parametrize(("name", "number"), WRITES)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_stop_between_any_two_writes(
    name: str,
    number: int,
    after: bool,
    make: RecipeMaker,
    one_epoch: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the last epoch, which is also the best: what was not written yet has no later epoch to write it."""
    owner: Any = {"write_metrics": Run, "save_network": loop}.get(name, epochs)
    original, calls = getattr(owner, name), 0

    def stop(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if after or calls < number:
            original(*args)
        if calls == number:
            raise KeyboardInterrupt

    recipe, path = make(epochs=1), tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stop)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, path)
    train(recipe, path, resume=True)
    assert outcome(path) == one_epoch


@pytest.fixture(scope="module")
def one_epoch(make: RecipeMaker, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("one") / "run"
    train(make(epochs=1), path)
    return outcome(path)


def test_a_run_that_stopped_before_its_first_epoch(
    make: RecipeMaker, one_epoch: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        call_before(patch, "step", 2, interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(make(epochs=1), path)
    train(make(epochs=1), path, resume=True)
    assert outcome(path) == one_epoch


def test_a_finished_run_that_is_resumed_stays_as_it_is(copied: Runs) -> None:
    path = copied("dense")
    before = outcome(path)
    train(Run.open(path).recipe(), path, resume=True)
    assert outcome(path) == before


def test_a_run_goes_on_with_its_own_recipe_only(make: RecipeMaker, copied: Runs) -> None:
    path = copied("dense")
    before = outcome(path)
    with pytest.raises(RelgraphError, match=r"dense was started with another recipe: lr was 0\.01, is now 0\.5$"):
        train(make(lr=0.5), path, resume=True)
    assert outcome(path) == before


def test_what_is_no_run_is_not_resumed(make: RecipeMaker, tmp_path: Path) -> None:
    with pytest.raises(RelgraphError, match=r"is not a run: expected a directory with recipe\.yaml"):
        train(make(), tmp_path / "nowhere", resume=True)


def test_a_directory_with_something_in_it_is_left_alone(make: RecipeMaker, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("three years")
    with pytest.raises(RelgraphError, match=r"exists already: continue it with --resume .*, or choose another --out$"):
        train(make(), tmp_path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("thesis.txt", "three years")]


def test_the_term_that_is_not_a_number_is_named_and_finished_epochs_are_kept(
    make: RecipeMaker, finished: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(setup: Setup, *args: Any) -> None:
        part(setup, "ega").node_weight = math.nan

    path = tmp_path / "spoilt"
    with monkeypatch.context() as patch:
        call_before(patch, "step", STEPS + 2, spoil)
        with pytest.raises(RelgraphError, match=r"^the loss is not a number in epoch 2: node first; [^\n]*$"):
            train(make(), path)
    assert len(load_checkpoint(path / "last.ckpt")["progress"]["rows"]) == 1
    train(make(), path, resume=True)
    assert outcome(path) == outcome(finished("dense"))


@pytest.mark.parametrize("part", ["student", "teacher_head"])
def test_weights_that_the_last_step_of_an_epoch_spoilt_are_not_kept(
    part: str, make: RecipeMaker, finished: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finite loss can have a gradient that is not: no loss shows it before the epoch ends."""
    original, calls = loop.step, 0

    def spoil(setup: Setup, *args: Any) -> None:
        nonlocal calls
        original(setup, *args)
        calls += 1
        if calls == 2 * STEPS:
            with torch.no_grad():
                next(getattr(setup.distiller, part).parameters())[0] = math.nan

    path = tmp_path / "spoilt"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "step", spoil)
        with pytest.raises(RelgraphError, match=rf"not a number after epoch 2: {part}\."):
            train(make(), path)
    train(make(), path, resume=True)
    assert outcome(path) == outcome(finished("dense"))


def test_a_full_disk_keeps_the_previous_checkpoint(
    make: RecipeMaker, finished: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = torch.save, 0

    def fill(state: dict[str, Any], path: Path) -> None:
        nonlocal calls
        original(state, path)
        calls += path.name.startswith("last")
        if calls == 2 and path.name.startswith("last"):
            path.write_bytes(path.read_bytes()[:1000])
            raise OSError(28, "No space left on device")

    path = tmp_path / "full"
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fill)
        with pytest.raises(
            RelgraphError, match=r"^cannot write .*\.ckpt: .*No space.*, what it held before is untouched"
        ):
            train(make(), path)
    assert len(load_checkpoint(path / "last.ckpt")["progress"]["rows"]) == 1
    assert not list(path.glob("*.part"))
    train(make(), path, resume=True)
    assert outcome(path) == outcome(finished("dense"))


def test_a_truncated_checkpoint_is_not_resumed(copied: Runs) -> None:
    path = copied("dense")
    (path / "last.ckpt").write_bytes((path / "last.ckpt").read_bytes()[:5000])
    with pytest.raises(RelgraphError, match=r"^cannot read the checkpoint .*last\.ckpt, is it truncated\?"):
        train(Run.open(path).recipe(), path, resume=True)


@pytest.mark.parametrize("other", ["knn-conv", "none"])
def test_a_checkpoint_of_another_run_is_not_resumed(other: str, copied: Runs, finished: Runs) -> None:
    path = copied("dense")
    shutil.copy(finished(other) / "last.ckpt", path / "last.ckpt")
    with pytest.raises(RelgraphError, match=r"last\.ckpt does not belong to this run's recipe: [^\n]*$"):
        train(Run.open(path).recipe(), path, resume=True)


def splits_read(recipe: Recipe, path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    original, splits = loop.evaluate, []

    def record(setup: Setup, images: Any, **options: Any) -> dict[str, float]:
        splits.append(images.split)
        return original(setup, images, **options)

    monkeypatch.setattr(loop, "evaluate", record)
    train(recipe, path)
    return splits


def test_the_test_split_is_read_at_the_end_only(
    make: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert splits_read(make(epochs=2), tmp_path / "run", monkeypatch) == ["val", "val", "test", "test"]


def test_the_validation_split_is_not_read_where_the_test_split_selects(
    make: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(splits_read(make(epochs=2, select="test"), tmp_path / "run", monkeypatch)) == {"test"}


def test_the_result_says_on_what_the_best_epoch_was_picked(finished: Runs) -> None:
    val, test = (
        json.loads((finished(name) / "result.json").read_text(encoding="utf-8")) for name in ("dense", "select-test")
    )
    assert val["selected_on"] == "val" and "validation split held out" in val["note"]
    assert test["selected_on"] == "test" and "picked on the test split itself" in test["note"]
    assert test["test_top1_of_best"] == test["test"]["best"]["top1"]
    assert "val_top1_of_best" not in test


@pytest.mark.parametrize(
    ("variant", "method", "weights", "graph"),
    [
        ("dense", "ega", {"ega": 1.0}, "dense"),
        ("knn-conv", "ega", {"ega": 1.0}, "knn"),
        ("none", "none", {}, None),
        ("kd", "kd", {"kd": 1.0}, None),
        ("memory-maps", "crd+0.5*sp+0.9*kd", {"crd": 0.8, "sp": 0.5, "kd": 0.9}, "dense"),
        ("early", "sp", {"sp": 3000.0}, "dense"),
        ("seed", "seed", {"seed": 1.0}, None),
        ("sskd", "sskd", {"sskd": 1.0}, None),
    ],
)
def test_the_result_names_the_method(
    variant: str, method: str, weights: dict[str, float], graph: str | None, finished: Runs
) -> None:
    result = json.loads((finished(variant) / "result.json").read_text(encoding="utf-8"))
    assert (result["method"], result["weights"], result["graph"]) == (method, weights, graph)


@pytest.mark.parametrize("variant", [*VARIANTS, "select-test"])
def test_the_best_epoch_is_the_first_of_the_best_accuracy(variant: str, finished: Runs) -> None:
    path = finished(variant)
    result = json.loads((path / "result.json").read_text(encoding="utf-8"))
    score = f"{result['selected_on']}_{'knn' if variant == 'seed' else 'top1'}"
    values = [row[score] for row in Run(path).read_metrics()]
    assert result[f"{score}_of_best"] == max(values)
    assert result["best_epoch"] == 1 + values.index(max(values))


def test_the_results_are_those_of_the_stored_students(make: RecipeMaker, tmp_path: Path) -> None:
    path, recipe = tmp_path / "run", make(method="none", lr=0.1, epochs=4, seed=6)
    result = train(recipe, path)
    assert json.loads((path / "result.json").read_text(encoding="utf-8")) == result
    assert result["test"]["best"] != result["test"]["last"], "else this test could not tell them apart"
    setup = build(recipe)
    student, info = load_student(path)
    mean, std = (torch.tensor(info[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    for which in ("best", "last"):
        weights = load_checkpoint(path / f"{which}.ckpt")["distiller"]
        own = {k.removeprefix("student."): v for k, v in weights.items() if k.startswith("student.")}
        student.load_state_dict(own)
        for name, split in (("test", setup.data.test), ("val", setup.data.val)):
            with torch.no_grad():
                pixels = next(setup.batches([torch.arange(len(split))], split))
                found = accuracy(student((pixels / 255 - mean) / std).logits, split.labels)
            if name == "test":
                assert result["test"][which] == pytest.approx(found)
            elif which == "best":
                assert result["val_top1_of_best"] == pytest.approx(found["top1"])
    assert result["images"] == {"train": 36, "labelled": 6, "val": 15, "test": 18}
    assert result["epochs"] == 4 and result["seed"] == 6


def test_each_epoch_draws_other_views(make: RecipeMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Tensor] = []
    call_before(monkeypatch, "step", 1, lambda setup, images, index, views, *_: drawn.append(views.get_state()))
    setup = build(make())
    loop.train_epoch(setup, 0)
    call_before(monkeypatch, "step", 1, lambda setup, images, index, views, *_: drawn.append(views.get_state()))
    loop.train_epoch(setup, 1)
    assert len(drawn) == 2 and not torch.equal(*drawn)


def test_a_method_remembers_before_the_step(make: RecipeMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the gradient is known, and with the weights that the loss read; it is given no gradient."""
    remembered: list[tuple[Output, Output, Batch]] = []
    weights: list[Tensor] = []

    class Spy(EGA):
        def remember(self, student: Output | Tensor, teacher: Output | Tensor, batch: Batch) -> None:
            remembered.append((as_output(student), as_output(teacher), batch))
            assert all(parameter.grad is not None for parameter in setup.objective.parameters())
            weights.extend(parameter.detach().clone() for parameter in setup.objective.parameters())

    monkeypatch.setitem(METHODS, "ega", Spy)
    setup = build(make())
    before = [parameter.detach().clone() for parameter in setup.objective.parameters()]
    index = torch.tensor([5, 1, 30, 20])
    loop.step(setup, next(setup.batches([index])), index, torch.Generator(), Meter())
    ((student, teacher, batch),) = remembered
    assert all(map(torch.equal, weights, before))
    assert not any(map(torch.equal, weights, setup.objective.parameters()))
    for output in (student, teacher):
        assert not any(isinstance(part, Tensor) and part.requires_grad for part in output)
        assert output.embedding.shape == (4, 16) and output.maps == ()
    assert torch.equal(batch.indices, index) and torch.equal(batch.labels, setup.data.train.labels[index])


def test_a_memory_holds_what_the_loss_was_computed_with(make: RecipeMaker) -> None:
    """Of the batch's images alone, as the method's own layer saw them before it learned."""
    setup = build(make(method="crd", method_args=("negatives=8", "bank_momentum=0")))
    crd = part(setup, "crd")
    assert isinstance(crd, CRD)
    index, before = torch.tensor([5, 1, 30, 20]), crd.teacher_bank.keys.clone()
    layer = deepcopy(crd.embed_teacher)
    images = next(setup.batches([index]))
    loop.step(setup, images, index, torch.Generator().manual_seed(0), Meter())
    features = setup.feed(images, batch(setup, index), torch.Generator().manual_seed(0)).teacher
    assert features is not None
    torch.testing.assert_close(crd.teacher_bank.keys[index], normalize(layer(features.pooled)))
    others = torch.ones(36, dtype=torch.bool).index_fill(0, index, value=False)
    assert torch.equal(crd.teacher_bank.keys[others], before[others])


def test_a_method_that_comes_first_trains_alone_and_then_no_more(
    make: RecipeMaker, finished: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *later = Run(finished("early")).read_metrics()
    assert first["cross_entropy"] == 0 < first["sp"] == first["loss"]
    assert len(later) == 2 and all("sp" not in row and 0 < row["cross_entropy"] == row["loss"] for row in later)
    assert [row["lr"] for row in later] == pytest.approx([first["lr"], first["lr"] / 10]), "the steps come after it"
    original, stages = loop.step, []

    def record(*args: Any) -> None:
        stages.append(args[5])
        original(*args)

    monkeypatch.setattr(loop, "step", record)
    setup = build(make(method="sp", init_epochs=1))
    before = {name: tensor.clone() for name, tensor in setup.student.state_dict().items()}
    loop.train_epoch(setup, 0)
    after = setup.student.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in after if name.startswith("head."))
    assert not torch.equal(before["backbone.stem.0.weight"], after["backbone.stem.0.weight"])
    assert stages == STEPS * ["method"]
    loop.train_epoch(setup, 1)
    assert stages == STEPS * ["method"] + STEPS * ["labels"]
    assert not torch.equal(before["head.classify.weight"], setup.student.head.classify.weight)


def test_the_columns_of_a_method_that_had_its_stage_stay_and_their_cells_are_empty(finished: Runs) -> None:
    with Run(finished("early")).metrics_file.open(newline="") as stream:
        first, *later = csv.DictReader(stream)
    assert float(first["sp"]) > 0 and [row["sp"] for row in later] == ["", ""]
    assert all(set(row) == set(first) for row in later)


def test_the_teacher_does_not_change(make: RecipeMaker) -> None:
    setup = build(make())
    assert isinstance(setup.feed, Online)
    teacher = setup.feed.teacher
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    loop.train_epoch(setup, 0)
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())


def test_evaluation_leaves_the_student_as_it_was_and_splits_do_not_matter(make: RecipeMaker) -> None:
    setup = build(make())
    loop.train_epoch(setup, 0)
    before = {name: tensor.clone() for name, tensor in setup.student.state_dict().items()}
    whole = loop.evaluate(setup, setup.data.test)
    assert loop.evaluate(setup, setup.data.test, batch_size=5) == whole
    assert all(torch.equal(before[name], tensor) for name, tensor in setup.student.state_dict().items())


def test_the_rate_reaches_the_student_and_not_the_teachers_head(make: RecipeMaker) -> None:
    setup = build(make(epochs=4, schedule="cosine", lr=0.2, teacher_lr=0.01))
    row = loop.train_epoch(setup, 2)
    assert row["lr"] == setup.student_optimiser.param_groups[0]["lr"] == pytest.approx(0.1)
    assert setup.teacher_optimiser.param_groups[0]["lr"] == 0.01
    assert row["epoch"] == 3


def test_labels_play_no_part_in_what_needs_none(make: RecipeMaker) -> None:
    """The student is the same to the last bit without labels; the teacher's head learns from them for itself."""
    options: dict[str, Any] = {"method": "seed", "method_args": ("queue=40",), "batch_size": 7}
    some, others = (build(make(**options, **given)) for given in ({}, {"labels_per_class": 0, "label_noise": 1.0}))
    before = {name: tensor.clone() for name, tensor in some.student.state_dict().items()}
    rows = [loop.train_epoch(setup, 0) for setup in (some, others)]
    states = [
        {name: x for name, x in setup.objective.state_dict().items() if not name.startswith("teacher_head.")}
        for setup in (some, others)
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    heads = [setup.objective.teacher_head for setup in (some, others)]
    assert heads[0] is not None and heads[1] is not None
    assert not torch.equal(heads[0].classify.weight, heads[1].classify.weight), "else the labels were the same"
    after = some.student.state_dict()
    assert not torch.equal(before["backbone.stem.0.weight"], after["backbone.stem.0.weight"])
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("head."))
    for row in rows:
        assert row["cross_entropy"] == 0 < row["seed"] == row["loss"] and "train_top1" not in row
    assert rows[0]["seed"] == rows[1]["seed"] and rows[0]["teacher_head"] != rows[1]["teacher_head"]


def test_a_student_without_labels_is_judged_by_its_neighbours(make: RecipeMaker, finished: Runs) -> None:
    """Also by a linear probe in the end; both learn from all training images and their true labels."""
    path = finished("seed")
    result = json.loads((path / "result.json").read_text(encoding="utf-8"))
    for row in Run(path).read_metrics():
        assert 0 <= row["val_knn"] <= 100 and not {"val_top1", "train_top1", "val_linear"} & row.keys()
    setup = build(make(**VARIANTS["seed"]))
    data, student = setup.data, setup.student.eval()
    for which in ("best", "last"):
        weights = load_checkpoint(path / f"{which}.ckpt")["distiller"]
        student.load_state_dict({k.removeprefix("student."): v for k, v in weights.items() if k.startswith("student.")})
        of_train, of_test, of_val = (
            embed(student.backbone, split, setup.student_input, 64, torch.device("cpu"))
            for split in (data.train, data.test, data.val)
        )
        every = data.train.true_labels
        assert (data.train.labels < 0).any() and not (every < 0).any()
        assert result["test"][which] == {
            "knn": knn_accuracy(of_train, every, of_test, data.test.labels, k=20),
            "linear": pytest.approx(linear_probe(of_train, every, of_test, data.test.labels), abs=100 / 18 + 1e-9),
        }
        if which == "best":
            assert result["val_knn_of_best"] == knn_accuracy(of_train, every, of_val, data.val.labels, k=20)


def test_the_result_says_how_the_best_epoch_was_picked_without_labels(
    make: RecipeMaker, finished: Runs, tmp_path: Path
) -> None:
    by_knn, none = (
        json.loads((finished(name) / "result.json").read_text(encoding="utf-8")) for name in ("seed", "unlabelled")
    )
    assert by_knn["note"].startswith(
        "best epoch picked by the k-NN accuracy of the features on a validation split held"
    )
    assert none["note"] == "there are no labelled images to pick the best epoch by: it is the last"
    on_test = train(make(method="moco", method_args=("queue=40",), select="test", epochs=1), tmp_path / "run")
    assert on_test["note"].startswith(
        "best epoch picked by the k-NN accuracy of the features on the test split itself:"
    )
    assert on_test["test_knn_of_best"] == on_test["test"]["best"]["knn"]


def test_images_without_labels(finished: Runs) -> None:
    """The last epoch is the best, and nothing is said that nobody could know."""
    path = finished("unlabelled")
    result = json.loads((path / "result.json").read_text(encoding="utf-8"))
    assert result["test"] == {"last": {}, "best": {}} and result["best_epoch"] == result["epochs"] == 2
    assert not any(name.endswith("_of_best") for name in result)
    assert result["images"] == {"train": 36, "labelled": 0, "val": 0, "test": 0}
    rows = Run(path).read_metrics()
    assert [row["teacher_head"] for row in rows] == [0, 0] and all(row["infonce"] > 0 for row in rows)
    assert not any(name.startswith(("val_", "test_")) or name == "train_top1" for row in rows for name in row)
    student, info = load_student(path)
    last = load_checkpoint(path / "last.ckpt")["distiller"]
    assert all(torch.equal(last[f"student.{name}"], tensor) for name, tensor in student.state_dict().items())
    assert info["classes"] == [] and info["objective"] == "infonce"


@pytest.mark.parametrize("variant", ["unlabelled", "seed"])
def test_what_was_learned_without_labels_is_fine_tuned(variant: str, make: RecipeMaker, finished: Runs) -> None:
    setup = build(make(method="none", init_from=str(finished(variant))))
    start = load_student(finished(variant))[0].backbone.state_dict()
    assert all(torch.equal(start[name], x) for name, x in setup.student.backbone.state_dict().items())
    row = loop.train_epoch(setup, 0)
    assert row["cross_entropy"] == row["loss"] > 0 and "train_top1" in row
    assert not torch.equal(start["stem.0.weight"], setup.student.backbone.state_dict()["stem.0.weight"])


def test_patches_go_through_both_networks_and_stay_in_memory(make: RecipeMaker) -> None:
    setup = build(make(method="seed", augment="moco", method_args=("queue=40", "patches=2"), batch_size=7))
    seed = part(setup, "seed")
    assert isinstance(seed, SEED) and seed.patch_memory is not None
    index, first = torch.tensor([5, 1, 30, 20]), seed.patch_memory.keys[:5].clone()
    images = next(setup.batches([index]))
    inputs = setup.feed(images, batch(setup, index), torch.Generator().manual_seed(0))
    assert inputs.extra is not None and inputs.extra.shape == (8, 3, 3, 3) and inputs.extra_teacher is not None
    meter = Meter()
    loop.step(setup, images, index, torch.Generator().manual_seed(0), meter)
    row = meter.read(0)
    assert row["loss"] == pytest.approx(row["seed"] + row["seed_patches"]) and row["seed_patches"] > 0
    keys = seed.patch_memory.keys
    torch.testing.assert_close(keys[:4], normalize(inputs.extra_teacher.pooled[:4]))
    assert torch.equal(keys[4], first[4]) and int(seed.patch_memory.next) == 4


def test_a_refused_run_leaves_nothing(make: RecipeMaker, tmp_path: Path) -> None:
    with pytest.raises(RelgraphError, match=r"has no labels, and method ega learns from labels here: "):
        train(make(dataset="unlabelled"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
