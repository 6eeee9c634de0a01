"""Pre-training: an epoch is a plain loop, and runs stop, go on, and become teachers; no label reaches the weights."""

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from relgraph.data.augment import make_augmentation
from relgraph.data.batches import epoch_batches
from relgraph.data.datasets import DataSet
from relgraph.data.images import ImageSet
from relgraph.methods import Batch
from relgraph.names import load_teacher
from relgraph.networks.files import load_ss_head, read_network
from relgraph.seeding import generator
from relgraph.training import epochs, pretraining, tasks
from relgraph.training.checkpoint import load_checkpoint
from relgraph.training.distillation import train
from relgraph.training.epochs import Meter, step, train_epoch
from relgraph.training.feed import Online, input_of
from relgraph.training.pretrain_recipe import PretrainRecipe, resolve_pretraining
from relgraph.training.pretraining import MoCo, SelfSupervisionHead, SimCLR, build_pretraining, pretrain
from relgraph.training.runs import RunDirectory
from tests.checks import assert_refused, assert_refused_like
from tests.methods.golden import views_to_images
from tests.training.conftest import RecipeMaker, Runs, call_before, equal, in_pieces, outcome, result_of, states
from tests.training.test_self_supervision import PlainMoCo, PlainSimCLR, close

Maker = Callable[..., PretrainRecipe]
STEPS = 3  # batches of an epoch: 12 of 36 images each
VARIANTS: dict[str, dict[str, Any]] = {
    "simclr": {},
    # 20 keys: every second batch goes over the end of the queue.
    "moco": {"objective": "moco", "queue": 20, "key_momentum": 0.9, "eval_every": 2, "schedule": "constant"},
    "sskd-head": {"objective": "sskd-head", "network": "resnet20", "lr": 0.05},
    "unlabelled": {"epochs": 1, "optimiser": "adamw", "select": "test"},
}


@pytest.fixture(scope="module")
def recipes(images: Path, unlabelled: Path) -> Maker:
    """Return a function from a variant and options to a recipe of a pre-training that ends in a moment."""

    def recipe(variant: str = "simclr", **options: Any) -> PretrainRecipe:
        quick: dict[str, Any] = {"epochs": 3, "batch_size": 12, "lr": 0.05, "device": "cpu", "precision": "32-true"}
        quick["dataset"] = f"folder:{unlabelled if variant == 'unlabelled' else images}"
        own = {"teacher": "embedded:digits"} if variant == "sskd-head" else {"dim": 8, "hidden": 10}
        return resolve_pretraining({**quick, "network": "resnet8", **own, **VARIANTS[variant], **options})

    return recipe


@pytest.fixture(scope="module")
def pretrained(recipes: Maker, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Return a function from a variant's name to its finished run, trained once; read it, do not change it."""
    root = tmp_path_factory.mktemp("pretrained")

    def run(variant: str) -> Path:
        path = root / variant
        if not path.exists():
            pretrain(recipes(variant), path)
        return path

    return run


# Epochs


def plain_inputs(job: Any, epoch: int, name: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield two random views of each batch of an epoch, normalised, one after the other from one generator."""
    augmentation = make_augmentation(name, padding=4, flip=True, channels=3)
    draws = generator("views", job.recipe.seed, epoch)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (job.data.mean, job.data.std))
    for index in epoch_batches(torch.zeros(36), batch_size=12, labelled_share=1.0, seed=job.recipe.seed, epoch=epoch):
        first, second = (augmentation.draw(12, 8, 8, draws).apply(job.data.train.pixels[index]) for _ in range(2))
        yield (first - mean) / std, (second - mean) / std


def test_an_epoch_is_a_plain_loop_over_two_views(recipes: Maker) -> None:
    """With a rate of each step's own."""
    for variant, augmentation in (("simclr", "simclr-small"), ("moco", "moco")):
        job = build_pretraining(recipes(variant, schedule="cosine", warmup_epochs=1))
        objective, settings = job.objective, job.optimisers["optimiser"]
        assert isinstance(objective, SimCLR | MoCo) and isinstance(settings, SGD)
        held = {id(p) for group in settings.param_groups for p in group["params"]}
        assert held == {id(p) for part in (objective.backbone, objective.projector) for p in part.parameters()}
        plain = PlainMoCo(objective, settings) if isinstance(objective, MoCo) else PlainSimCLR(objective, settings)
        torch.manual_seed(5)
        orders = [torch.randperm(12) for _ in range(STEPS)]
        torch.manual_seed(5)
        row, _ = train_epoch(job, 1)
        total = rate = 0.0
        for number, (first, second) in enumerate(plain_inputs(job, 1, augmentation)):
            rate = 0.05 * 0.5 * (1 + math.cos(math.pi * number / STEPS / 2))  # of the two epochs behind the warm-up
            plain.optimiser.param_groups[0]["lr"] = rate
            total += float(plain.step(first, second, orders[number], [3, 3, 3, 3]))
        close(nn.Sequential(objective.backbone, objective.projector), plain.query, rtol=1e-3, atol=1e-4)
        assert row["loss"] == pytest.approx(total / STEPS, rel=1e-4) and row["lr"] == pytest.approx(rate)
        assert row["epoch"] == 2 and "train_top1" not in row


def test_the_head_alone_learns_to_find_the_image_of_each_transformed_one(recipes: Maker) -> None:
    for transformations, views in (("rotations", 3), ("all", 4)):
        options = {"transformations": transformations, "lr": 0.5, "schedule": "constant"}
        job = build_pretraining(recipes("sskd-head", **options))
        assert isinstance(job.feed, Online) and isinstance(job.objective, SelfSupervisionHead)
        teacher, head, index = job.feed.teacher, job.objective.projector, torch.arange(5)
        before = [states(module) for module in (teacher, head)]
        images, batch, meter = job.data.train.pixels[:5], Batch(index, job.data.train.labels[index]), Meter()
        given = job.feed(images, batch, torch.Generator().manual_seed(3))
        assert given.extra is not None and len(given.extra) == views * 5 and given.teacher is not None
        assert given.teacher.extra is not None
        expected = views_to_images(head(given.teacher.extra.embedding), head(given.teacher.embedding))
        step(job, images, index, torch.Generator().manual_seed(3), meter)
        assert meter.read(0)["views_to_images"] == pytest.approx(expected, rel=1e-5)
        assert equal(states(teacher), before[0])
        assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
        assert not any(torch.equal(before[1][name], tensor) for name, tensor in head.state_dict().items())
        (group,) = job.optimisers["optimiser"].param_groups
        assert {id(p) for p in group["params"]} == {id(p) for p in job.objective.parameters()}
    first = train_epoch(job, 0)[0]["loss"]
    assert [train_epoch(job, 1)[0]["loss"] for _ in range(10)][-1] < first - 0.01 and job.evaluate(0) == {}


def test_half_precision_is_for_the_networks_alone(recipes: Maker) -> None:
    for variant in ("moco", "sskd-head"):
        losses = []
        for precision in ("32-true", "bf16-mixed"):
            job = build_pretraining(recipes(variant, precision=precision))
            losses.append(train_epoch(job, 0)[0]["loss"])
            assert {t.dtype for t in job.objective.state_dict().values()} <= {torch.float32, torch.int64}
        assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.05)


def test_slow_layers_of_a_small_network_are_in_float32(recipes: Maker) -> None:
    job = build_pretraining(recipes("moco", network="mobilenetv2", precision="bf16-mixed"))
    networks = job.objective.get_submodule("backbone"), job.objective.get_submodule("keys.0")
    own, keys = ([type(layer).__name__ for layer in network.modules()] for network in networks)
    assert "Float32Conv2d" in own
    assert own == keys
    assert train_epoch(job, 0)[0]["loss"] > 0


# Runs


def test_a_run_directory_is_complete(pretrained: Runs, recipes: Maker) -> None:
    """With the figures of some epochs and of the last, where there are labels, and of no classifier."""
    files = ".lock inputs.json recipe.yaml environment.json metrics.csv tensorboard last.ckpt result.json"
    for variant, knn, term in (
        ("simclr", [1, 1, 1], "nt_xent"),
        ("moco", [0, 1, 1], "info_nce"),
        ("sskd-head", [0, 0, 0], "views_to_images"),
        ("unlabelled", [0], "nt_xent"),
    ):
        path, recipe = pretrained(variant), recipes(variant)
        own = "ss_head.safetensors" if variant == "sskd-head" else "network.safetensors"
        assert {file.name for file in path.iterdir()} == {*files.split(), own}
        assert RunDirectory.open(path).stored() == recipe
        result, rows = result_of(path), RunDirectory(path).read_metrics()
        assert len(rows) == recipe.epochs == result["epochs"] and result["loss"] == rows[-1]["loss"]
        assert all(row[term] == row["loss"] > 0 and "train_top1" not in row for row in rows)
        assert ["val_knn" in row for row in rows] == [bool(found) for found in knn]
        judged = {"knn", "linear"} if any(knn) else set()
        assert set(result["test"]) == set(result["test_untrained"]) == judged
        assert (result["objective"], result["seed"], result["device"]) == (recipe.objective, 0, "cpu")
        val, test = (0, 0) if variant == "unlabelled" else (18, 18)
        assert result["images"] == {"train": 36, "val": val, "test": test}


def test_the_network_is_that_of_the_last_epoch_and_teaches(pretrained: Runs) -> None:
    for variant in ("simclr", "moco", "unlabelled"):
        path = pretrained(variant)
        recipe, state = RunDirectory.open(path).stored(), load_checkpoint(path / "last.ckpt")
        tensors, info = read_network(path / "network.safetensors")
        assert isinstance(recipe, PretrainRecipe) and len(state["progress"]["rows"]) == recipe.epochs
        weights = state["objective"]
        assert tensors.keys() == {name for name in weights if name.startswith(("backbone.", "projector."))}
        assert all(torch.equal(weights[name], tensor) for name, tensor in tensors.items())
        job, result = build_pretraining(recipe), result_of(path)
        network, images = job.objective, job.data.train.pixels[:7]
        assert isinstance(network, SimCLR | MoCo)
        if variant == "simclr":
            assert result["test_untrained"] == job.task.evaluate(network, job.data.test, probe=True) != result["test"]
        network.load_state_dict(weights)
        assert result["test"] == job.task.evaluate(network.eval(), job.data.test, probe=True)
        if variant == "simclr":
            assert RunDirectory(path).read_metrics()[-1]["val_knn"] == job.task.evaluate(network, job.data.val)["knn"]
        whole = nn.Sequential(network.backbone, network.projector)
        for arguments, layers in (({}, network.backbone), ({"output": "projection"}, whole)):
            teacher = load_teacher(f"checkpoint:{path}", arguments=arguments)
            with torch.no_grad():
                expected = layers(job.task.student_input(images))
            torch.testing.assert_close(teacher(input_of(teacher)(images)), expected, rtol=1e-5, atol=1e-6)
            assert teacher.width == expected.shape[1] == (8 if arguments else 64)
        assert info["projector"] == {"dim": 8, "hidden": 10, "norm": variant != "moco"}
        assert info["mean"] == list(job.data.mean) and info["image_size"] == 8


def test_no_epoch_is_picked_by_its_neighbours_and_the_test_split_is_read_at_the_end(
    recipes: Maker, pretrained: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits: list[str] = []

    def record(task: Any, network: Any, images: ImageSet, **options: Any) -> dict[str, float]:
        splits.append(images.split)
        return {"knn": 100.0 - 40 * len(splits)} if len(splits) <= 3 else {}

    weights = (pretrained("simclr") / "network.safetensors").read_bytes()
    monkeypatch.setattr(tasks.Neighbours, "evaluate", record)
    for select in ("val", "test"):
        splits.clear()
        pretrain(recipes(select=select), tmp_path / select)
        assert splits == [select] * 3 + ["test"] * 2
        assert [row[f"{select}_knn"] for row in RunDirectory(tmp_path / select).read_metrics()] == [60, 20, -20]
        assert (tmp_path / select / "network.safetensors").read_bytes() == weights


@pytest.mark.slow
def test_no_label_and_no_image_of_another_split_reaches_the_weights(
    recipes: Maker, pretrained: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = pretraining.open_images

    def spoilt(recipe: PretrainRecipe) -> DataSet:
        data = original(recipe)
        val, test = (
            replace(part, images=255 - part.pixels, labels=part.labels.flip(0)) for part in (data.val, data.test)
        )
        train = replace(data.train, labels=(data.train.labels * 2 + 1) % 3)
        return replace(data, train=train, val=val, test=test)

    whole = {variant: outcome(pretrained(variant)) for variant in ("moco", "sskd-head")}
    monkeypatch.setattr(pretraining, "open_images", spoilt)
    judged = list[str]()
    for variant, expected in whole.items():
        pretrain(recipes(variant), tmp_path / variant)
        found = outcome(tmp_path / variant)
        assert found["last.ckpt"] == expected["last.ckpt"]
        assert [found[name] == expected[name] for name in found if name.endswith(".safetensors")] == [True]
        judged += [variant] if found["result"]["test"] != expected["result"]["test"] else []
    assert judged and "sskd-head" not in judged, "they judge; one figure may be the same by chance"


@pytest.mark.slow
def test_a_stopped_run_ends_as_if_it_had_not_stopped(recipes: Maker, pretrained: Runs, tmp_path: Path) -> None:
    for variant in ("moco", "sskd-head"):
        path, recipe = tmp_path / variant, recipes(variant)
        for number, done in ((2, 0), (2 * STEPS + 2, 2)):  # in the first epoch, and then in the last
            with pytest.MonkeyPatch.context() as patch:
                call_before(patch, epochs, "step", number)
                with pytest.raises(KeyboardInterrupt):
                    pretrain(recipe, path, resume=done > 0)
            assert len(load_checkpoint(path / "last.ckpt")["progress"]["rows"]) == done
            torch.manual_seed(12345)
        if variant == "moco":
            state = load_checkpoint(path / "last.ckpt")["objective"]
            assert int(state["queue.next"]) == 72 % 20 and int(state["queue.next"]) % 12 == 0
        stored = RunDirectory.open(path).stored()
        assert isinstance(stored, PretrainRecipe)
        for _ in range(2):  # a finished run stays as it is
            pretrain(stored, path, resume=True)
            assert outcome(path) == outcome(pretrained(variant))


@pytest.mark.slow
def test_a_run_in_pieces_and_a_streamed_one(recipes: Maker, pretrained: Runs, tmp_path: Path) -> None:
    recipe, path = recipes("unlabelled"), tmp_path / "pieces"
    assert in_pieces(lambda resume: pretrain(recipe, path, resume=resume), path) == 5
    assert outcome(path) == outcome(pretrained("unlabelled"))
    pretrain(recipes("moco", images="stream", workers=2), tmp_path / "streamed")
    assert outcome(tmp_path / "streamed") == outcome(pretrained("moco"))
    found = pretrain(recipes("unlabelled", seed=1), tmp_path / "other")
    assert found["seed"] == 1
    name = "network.safetensors"
    assert (tmp_path / "other" / name).read_bytes() != (pretrained("unlabelled") / name).read_bytes()


def test_a_recipe_with_gaps_is_filled_in(tmp_path: Path, recipes: Maker) -> None:
    whole = recipes(epochs=1)
    gaps = replace(whole, temperature=None, weight_decay=None, warmup_epochs=None)
    result = pretrain(gaps, tmp_path / "run")
    assert RunDirectory.open(tmp_path / "run").stored() == whole
    assert pretrain(gaps, tmp_path / "run", resume=True) == result


def test_what_cannot_be_built_leaves_no_directory(recipes: Maker, unlabelled: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    shutil.copy(next(unlabelled.glob("*.png")), tmp_path / "one")
    for variant, options, told in (
        ("simclr", {"network": "resnet9"}, "unknown student 'resnet9': did you mean 'resnet8'?…"),
        ("sskd-head", {"teacher": "embeded:digits"}, "unknown source or module 'embeded': did you mean 'embedded'?…"),
        ("sskd-head", {"teacher_args": ("wide",)}, "teacher arguments must be name=value, got 'wide'"),
        ("unlabelled", {"dataset": f"folder:{tmp_path / 'one'}"}, "a contrast needs two images: the training set must "
         "hold at least 2, got 1…"),
    ):  # fmt: skip
        assert_refused((partial(pretrain, recipes(variant, **options), tmp_path / "run"), told))
    assert not (tmp_path / "run").exists()


def test_a_batch_of_two_images_and_one_of_all(unlabelled: Path, recipes: Maker, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    for file in sorted(unlabelled.glob("*.png"))[:3]:
        shutil.copy(file, small)
    for variant, size in (("unlabelled", 2), ("unlabelled", 100), ("moco", 2), ("moco", 100)):
        options = {"dataset": f"folder:{small}", "epochs": 2, "batch_size": size, "lr": 0.001}
        pretrain(recipes(variant, **options), tmp_path / f"{variant}{size}")
        assert len(RunDirectory(tmp_path / f"{variant}{size}").read_metrics()) == 2


# What was trained teaches


def test_the_head_of_the_last_epoch_teaches_by_sskd_and_so_does_a_network(
    pretrained: Runs, make: RecipeMaker, tmp_path: Path
) -> None:
    path, simclr = pretrained("sskd-head"), f"checkpoint:{pretrained('simclr')}"
    head, info = load_ss_head(path, 64)
    state = load_checkpoint(path / "last.ckpt")["objective"]
    assert all(torch.equal(state[f"projector.{name}"], tensor) for name, tensor in head.state_dict().items())
    assert not any(p.requires_grad for p in head.parameters()) and not head.training
    assert info["teacher"] == "embedded:digits"
    assert info["fingerprint"] == load_teacher("embedded:digits").fingerprint()
    sskd: dict[str, Any] = {"method": "sskd", "ss_head": str(path), "epochs": 1}
    train(make(**sskd, teacher="embedded:digits", labels_per_class=0), tmp_path / "run")
    (row,) = RunDirectory(tmp_path / "run").read_metrics()
    assert min(row["kd"], row["transformed"], row["self_supervision"]) > 0
    told = r"was trained for another teacher: embedded:digits, or other weights of it"
    assert_refused_like((lambda: train(make(**sskd, teacher=simclr), tmp_path / "other"), told))
    options = {"teacher": simclr, "teacher_args": ("output=projection",), "epochs": 1}
    result = train(make(**options), tmp_path / "taught")
    assert math.isfinite(result["test"]["last"]["top1"])
