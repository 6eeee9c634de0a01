"""Pre-training: each objective against a plain reading of its paper, and runs that stop, go on, and become teachers."""

import csv
import json
import math
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize
from torch.optim import SGD, AdamW

from relgraph.data import datasets
from relgraph.data.augment import make_augmentation
from relgraph.data.batches import epoch_batches
from relgraph.data.datasets import DataSet
from relgraph.data.images import ImageSet
from relgraph.errors import RelgraphError
from relgraph.methods import Batch
from relgraph.names import build_backbone, load_teacher
from relgraph.networks.files import load_ss_head, read_network
from relgraph.training import epochs, pretraining
from relgraph.training.checkpoint import load_checkpoint
from relgraph.training.inputs import teacher_input
from relgraph.training.loop import train
from relgraph.training.meter import Meter
from relgraph.training.pretrain_recipe import PretrainRecipe, resolve_pretraining
from relgraph.training.pretraining import Pretraining, build_pretraining, pretrain, pretraining_rate
from relgraph.training.recipe import Recipe
from relgraph.training.runs import Run
from relgraph.training.self_supervision import MoCo, SelfSupervisionHead, SimCLR

RecipeMaker = Callable[..., Recipe]
PretrainRecipeMaker = Callable[..., PretrainRecipe]
Runs = Callable[[str], Path]
STEPS = 3  # batches of an epoch: 12 of 36 images each
VARIANTS: dict[str, dict[str, Any]] = {
    "simclr": {},
    # 20 keys: every second batch goes over the end of the queue.
    "moco": {"objective": "moco", "queue": 20, "key_momentum": 0.9, "eval_every": 2, "schedule": "constant"},
    "sskd-head": {"objective": "sskd-head", "network": "resnet20", "lr": 0.05},
    "unlabelled": {"epochs": 1, "optimiser": "adamw", "select": "test"},
}


@pytest.fixture(scope="session")
def photos(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the training images alone, without classes, some in a folder of theirs."""
    root = tmp_path_factory.mktemp("photos")
    (root / "more").mkdir()
    for number, file in enumerate(sorted((images / "train").rglob("*.png"))):
        shutil.copy(file, root / ("more" if number % 2 else ".") / f"{number:02}.png")
    return root


@pytest.fixture(scope="session")
def make_pretraining(images: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> PretrainRecipeMaker:
    """Return a function from a variant and options to a recipe that trains in a moment."""

    def recipe(variant: str = "simclr", **options: Any) -> PretrainRecipe:
        quick: dict[str, Any] = {
            "dataset": f"folder:{photos if variant == 'unlabelled' else images}",
            "network": "resnet8",
            "dim": 8,
            "hidden": 10,
            "epochs": 3,
            "batch_size": 12,
            "lr": 0.05,
            "device": "cpu",
            "precision": "32-true",
        }
        if variant == "sskd-head":
            quick = {name: value for name, value in quick.items() if name not in ("dim", "hidden")}
            quick["teacher"] = "embedded:digits"
        return resolve_pretraining({**quick, **VARIANTS[variant], **options})

    return recipe


@pytest.fixture(scope="session")
def pretrained(make_pretraining: PretrainRecipeMaker, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Return a function from a variant's name to its finished run, trained once; read it, do not change it."""
    root = tmp_path_factory.mktemp("pretrained")

    def run(variant: str) -> Path:
        path = root / variant
        if not path.exists():
            pretrain(make_pretraining(variant), path)
        return path

    return run


def weights_file(path: Path) -> Path:
    return path / ("network.safetensors" if (path / "network.safetensors").exists() else "ss_head.safetensors")


def rows_of(path: Path) -> list[dict[str, str]]:
    with (path / "metrics.csv").open(newline="") as stream:
        return [{name: text for name, text in row.items() if name != "images_per_s"} for row in csv.DictReader(stream)]


def outcome(path: Path) -> dict[str, Any]:
    """Return everything that a run of the same recipe must give again, bit for bit."""
    result = json.loads((path / "result.json").read_text())
    del result["images_per_s"]
    state = load_checkpoint(path / "last.ckpt", "objective")
    tensors = {name: tensor.numpy().tobytes() for name, tensor in state["objective"].items()}
    return {"weights": weights_file(path).read_bytes(), "metrics": rows_of(path), "result": result, "state": tensors}


def stop_in_step(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[Pretraining], None]) -> None:
    """Let `act` see the job before its step of that number."""
    original, calls = Pretraining.step, 0

    def wrapped(self: Pretraining, *args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == number:
            act(self)
        original(self, *args)

    monkeypatch.setattr(Pretraining, "step", wrapped)


def interrupt(*args: Any) -> None:
    raise KeyboardInterrupt


# The objectives


def two_views(steps: int, count: int) -> list[tuple[Tensor, Tensor]]:
    return [
        (torch.randn(count, 3, 8, 8, dtype=torch.float64), torch.randn(count, 3, 8, 8, dtype=torch.float64))
        for _ in range(steps)
    ]


def nt_xent(first: Tensor, second: Tensor, tau: float) -> Tensor:
    """SimCLR, equation 1 and algorithm 1, image by image."""
    count, z = len(first), torch.cat([first, second])
    losses = []
    for i in range(2 * count):
        partner = i + count if i < count else i - count
        found = {j: cosine_similarity(z[i], z[j], dim=0) / tau for j in range(2 * count) if j != i}
        losses.append(-(found[partner].exp() / torch.stack([*found.values()]).exp().sum()).log())
    return torch.stack(losses).mean()


def info_nce(query: Tensor, own: Tensor, queue: Iterator[Tensor] | list[Tensor], tau: float) -> Tensor:
    """MoCo, equation 1, image by image."""
    q, k, keys = normalize(query), normalize(own), torch.stack([*queue])
    losses = []
    for i in range(len(q)):
        weights = torch.cat([(q[i] @ k[i])[None], keys @ q[i]]) / tau
        losses.append(weights.exp().sum().log() - weights[0])
    return torch.stack(losses).mean()


def close(found: nn.Module, expected: nn.Module, rtol: float, atol: float) -> None:
    """Compare all parameters and buffers."""
    torch.testing.assert_close(dict(found.state_dict()), dict(expected.state_dict()), rtol=rtol, atol=atol)


def test_simclr_is_nt_xent_of_both_views_through_one_network() -> None:
    objective = SimCLR(build_backbone("resnet8", 3, image_size=8), 6, 9, 0.3).double()
    backbone, projector = deepcopy(objective.backbone), deepcopy(objective.projector)
    fast, slow = (
        SGD([*n.parameters()], 0.5, 0.9, weight_decay=1e-3) for n in (objective, nn.Sequential(backbone, projector))
    )
    assert [type(layer) for layer in projector] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    for first, second in two_views(3, 5):
        loss = objective(first, second).total
        z = projector(backbone(torch.cat([first, second])))
        expected = nt_xent(z[:5], z[5:], 0.3)
        torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
        for optimiser, value in ((fast, loss), (slow, expected)):
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
        objective.remember()
    close(objective.backbone, backbone, rtol=1e-8, atol=1e-10)
    close(objective.projector, projector, rtol=1e-8, atol=1e-10)


class PlainMoCo:
    """MoCo by hand: a second copy, a deque, loops. With `late` it moves the copy behind the keys, as it should not."""

    def __init__(self, objective: MoCo, *, late: bool = False) -> None:
        self.query = nn.Sequential(deepcopy(objective.backbone), deepcopy(objective.projector))
        self.key = deepcopy(self.query)
        self.queue = deque(objective.queue.keys.clone(), maxlen=len(objective.queue.keys))
        self.optimiser = SGD(self.query.parameters(), 0.5, 0.9, weight_decay=1e-3)
        self.tau, self.momentum, self.late = objective.temperature, objective.momentum, late

    def step(self, first: Tensor, second: Tensor, order: Tensor, sizes: list[int]) -> Tensor:
        if not self.late:
            self.follow()
        own = torch.empty(len(first), self.queue[0].shape[0], dtype=first.dtype)
        start = 0
        with torch.no_grad():
            for size in sizes:
                some = order[start : start + size]
                own[some] = self.key(second[some])
                start += size
        if self.late:
            self.follow()
        loss = info_nce(self.query(first), own, list(self.queue), self.tau)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.queue.extend(normalize(own))
        return loss.detach()

    @torch.no_grad()
    def follow(self) -> None:
        for slow, fast in zip(self.key.parameters(), self.query.parameters(), strict=True):
            slow.copy_(self.momentum * slow + (1 - self.momentum) * fast)


def step_of(objective: MoCo, optimiser: SGD, first: Tensor, second: Tensor) -> Tensor:
    loss: Tensor = objective(first, second).total
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    objective.remember()
    optimiser.step()
    return loss.detach()


@pytest.mark.parametrize(("count", "sizes"), [(10, [3, 3, 2, 2]), (8, [2, 2, 2, 2]), (7, [3, 2, 2]), (3, [3])])
def test_moco_is_a_slow_copy_and_a_deque(count: int, sizes: list[int]) -> None:
    objective = MoCo(build_backbone("resnet8", 3, image_size=8), 6, 9, 0.2, queue=13, momentum=0.7).double()
    plain, wrong = PlainMoCo(objective), PlainMoCo(objective, late=True)
    optimiser = SGD([p for p in objective.parameters() if p.requires_grad], 0.5, 0.9, weight_decay=1e-3)
    apart = 0.0
    for number, (first, second) in enumerate(two_views(4, count)):
        torch.manual_seed(number)
        order = torch.randperm(count)
        torch.manual_seed(number)
        loss = step_of(objective, optimiser, first, second)
        torch.testing.assert_close(loss, plain.step(first, second, order, sizes), rtol=1e-9, atol=1e-11)
        apart = max(apart, float((loss - wrong.step(first, second, order, sizes)).abs()))
    close(nn.Sequential(objective.backbone, objective.projector), plain.query, rtol=1e-7, atol=1e-9)
    close(objective.keys, plain.key, rtol=1e-7, atol=1e-9)
    ring = objective.queue.keys.roll(-int(objective.queue.next), 0)
    torch.testing.assert_close(ring, torch.stack([*plain.queue]), rtol=1e-7, atol=1e-9)
    assert apart > 1e-3, "else the order of the copy's move and the keys would not show"


def test_moco_has_gradient_for_the_query_alone_and_writes_only_when_told() -> None:
    objective = MoCo(build_backbone("resnet8", 3, image_size=8), 6, None, 0.2, queue=13, momentum=0.7)
    assert [type(layer) for layer in objective.projector] == [nn.Linear, nn.ReLU, nn.Linear]
    assert objective.projector[0].weight.shape == (64, 64), "as wide as the network in the middle"
    assert not {id(p) for p in objective.keys.parameters()} & {id(p) for p in objective.backbone.parameters()}
    before = objective.queue.keys.clone()
    first, second = torch.randn(2, 8, 3, 8, 8, requires_grad=True).unbind()
    objective.remember()
    objective(first, second).total.backward()
    assert torch.equal(objective.queue.keys, before) and int(objective.queue.next) == 0
    assert all(p.grad is None and not p.requires_grad for p in objective.keys.parameters())
    for part in (objective.backbone, objective.projector):
        assert all(p.grad is not None and bool(p.grad.any()) for p in part.parameters())
    objective.remember()
    assert int(objective.queue.next) == 8 and torch.equal(objective.queue.keys[8:], before[8:])
    torch.testing.assert_close(objective.queue.keys.norm(dim=1), torch.ones(13))
    assert "_latest" not in "".join(objective.state_dict())


def plain_inputs(job: Pretraining, epoch: int, name: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield two random views of each batch of an epoch, normalised, one after the other from one generator."""
    augmentation = make_augmentation(name, padding=4, flip=True, channels=3)
    draws = torch.Generator().manual_seed(job.recipe.seed * 1_000_003 + epoch)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (job.data.mean, job.data.std))
    for index in epoch_batches(torch.zeros(36), batch_size=12, labelled_share=1.0, seed=job.recipe.seed, epoch=epoch):
        pair = [augmentation.draw(12, 8, 8, draws).apply(job.data.train.pixels[index]) for _ in range(2)]
        yield (pair[0] - mean) / std, (pair[1] - mean) / std


@pytest.mark.parametrize("variant", ["simclr", "moco"])
def test_an_epoch_is_a_plain_loop_over_two_views(variant: str, make_pretraining: PretrainRecipeMaker) -> None:
    recipe = make_pretraining(variant, schedule="cosine", warmup_epochs=1)
    job = build_pretraining(recipe)
    module = job.module
    assert not isinstance(module, SelfSupervisionHead) and recipe.weight_decay is not None
    query = nn.Sequential(deepcopy(module.backbone), deepcopy(module.projector))
    plain = PlainMoCo(module) if isinstance(module, MoCo) else None
    optimiser = SGD(query.parameters(), 1, 0.9, weight_decay=recipe.weight_decay)
    if plain is not None:
        query, plain.optimiser.param_groups[0]["weight_decay"] = plain.query, recipe.weight_decay
        optimiser = plain.optimiser
    torch.manual_seed(5)
    orders = [torch.randperm(12) for _ in range(STEPS)]
    torch.manual_seed(5)
    row = job.train_epoch(1)
    total = rate = 0.0
    for number, (first, second) in enumerate(plain_inputs(job, 1, "moco" if plain else "simclr-small")):
        rate = 0.05 * 0.5 * (1 + math.cos(math.pi * number / STEPS / 2))  # of the two epochs behind the warm-up
        optimiser.param_groups[0]["lr"] = rate
        if plain is not None:
            total += float(plain.step(first, second, orders[number], [3, 3, 3, 3]))
            continue
        z = query(torch.cat([first, second]))
        loss = nt_xent(z[:12], z[12:], 0.5)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        total += float(loss.detach())
    close(nn.Sequential(module.backbone, module.projector), query, rtol=1e-3, atol=1e-4)
    assert row["loss"] == pytest.approx(total / STEPS, rel=1e-4) and row["lr"] == pytest.approx(rate)
    assert row["epoch"] == 2 and "train_top1" not in row


def test_keys_are_remembered_behind_the_gradient_and_before_the_step(
    make_pretraining: PretrainRecipeMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, order = build_pretraining(make_pretraining("moco")), []
    before = {name: tensor.clone() for name, tensor in job.module.named_parameters()}
    remember = job.module.remember

    def spy() -> None:
        learned = {name for name, p in job.module.named_parameters() if p.grad is not None}
        order.append(learned == {name for name in before if not name.startswith("keys.")})
        order.append(all(torch.equal(p, before[name]) for name, p in job.module.named_parameters() if name in learned))
        remember()

    monkeypatch.setattr(job.module, "remember", spy)
    job.step(job.data.train.pixels[:12], torch.arange(12), torch.Generator(), Meter())
    assert order == [True, True]
    held = {id(p) for group in job.optimiser.param_groups for p in group["params"]}
    assert isinstance(job.module, MoCo)
    assert held == {id(p) for part in (job.module.backbone, job.module.projector) for p in part.parameters()}
    assert not torch.equal(dict(job.module.named_parameters())["projector.0.weight"], before["projector.0.weight"])


@pytest.mark.parametrize(("transformations", "views"), [("rotations", 3), ("all", 4)])
def test_the_head_finds_the_image_of_each_transformed_one(
    transformations: str, views: int, make_pretraining: PretrainRecipeMaker
) -> None:
    job = build_pretraining(make_pretraining("sskd-head", transformations=transformations))
    assert job.feed is not None and isinstance(job.module, SelfSupervisionHead)
    teacher, head = job.feed.teacher, deepcopy(job.module.projector)
    images, index, meter = job.data.train.pixels[:5], torch.arange(5), Meter()
    given = job.feed(images, Batch(index, job.data.train.labels[index]), torch.Generator().manual_seed(3))
    assert given.extra is not None and len(given.extra) == views * 5
    if transformations == "rotations":
        shares = [(given.extra[5 * v : 5 * v + 5].float().sum((1, 2, 3)) / 1e4).std() for v in range(3)]
        assert all(share > 0 for share in shares), "each image is another one"
    own, turned = (head(teacher(teacher_input(teacher, seen))) for seen in (given.images, given.extra))
    losses = []
    for row, vector in enumerate(turned):
        weights = torch.stack([cosine_similarity(vector, other, dim=0) for other in own])  # at the temperature 1
        losses.append(weights.exp().sum().log() - weights[row % 5])
    job.step(images, index, torch.Generator().manual_seed(3), meter)
    assert meter.read(0)["views_to_images"] == pytest.approx(float(torch.stack(losses).detach().mean()), rel=1e-5)


def test_only_the_head_learns(make_pretraining: PretrainRecipeMaker) -> None:
    job = build_pretraining(make_pretraining("sskd-head", lr=0.5, schedule="constant"))
    assert job.feed is not None
    teacher, head = job.feed.teacher, job.module
    before = [{name: tensor.clone() for name, tensor in part.state_dict().items()} for part in (teacher, head)]
    first = job.train_epoch(0)["loss"]
    assert all(torch.equal(before[0][name], tensor) for name, tensor in teacher.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    assert not any(torch.equal(before[1][name], tensor) for name, tensor in head.state_dict().items())
    held = {id(p) for group in job.optimiser.param_groups for p in group["params"]}
    assert held == {id(p) for p in head.parameters()}
    assert len(job.optimiser.param_groups) == 1 and job.evaluate(0) == {}
    assert [job.train_epoch(1)["loss"] for _ in range(10)][-1] < first - 0.01


# The learning rate


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"warmup_epochs": 2}, {0: 0, 0.5: 0.25, 1.5: 0.75, 2: 1, 6: 0.5, 4: 0.5 * (1 + math.sqrt(0.5)), 10: 0}),
        ({"warmup_epochs": 0}, {0: 1, 2.5: 0.5 * (1 + math.sqrt(0.5)), 5: 0.5, 10: 0}),
        ({"schedule": "step", "warmup_epochs": 0}, {0: 1, 4.99: 1, 5: 0.1, 7.49: 0.1, 7.5: 0.01, 9.99: 0.01}),
        ({"schedule": "constant", "warmup_epochs": 4}, {0: 0, 1: 0.25, 3.9: 0.975, 4: 1, 9.99: 1}),
    ],
)
def test_the_rate_of_each_step(options: dict[str, Any], expected: dict[float, float]) -> None:
    recipe = resolve_pretraining({"epochs": 10, "lr": 3, **options})
    for epoch, share in expected.items():
        assert pretraining_rate(recipe, epoch) == pytest.approx(3 * share, abs=1e-12), epoch


def test_sskd_s_head_has_the_steps_of_its_official_code() -> None:
    recipe = resolve_pretraining({"objective": "sskd-head", "teacher": "embedded:digits"})
    rates = [pretraining_rate(recipe, epoch) for epoch in range(60)]
    assert rates == pytest.approx([0.05] * 30 + [0.005] * 15 + [0.0005] * 15)


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_the_rate_reaches_the_optimiser_in_every_step(
    optimiser: str, make_pretraining: PretrainRecipeMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    momentum = {"momentum": 0.5} if optimiser == "sgd" else {}
    job = build_pretraining(make_pretraining(optimiser=optimiser, warmup_epochs=1, weight_decay=0.1, **momentum))
    rates: list[float] = []
    step = Pretraining.step

    def spy(self: Pretraining, *args: Any) -> None:
        rates.append(self.optimiser.param_groups[0]["lr"])
        step(self, *args)

    monkeypatch.setattr(Pretraining, "step", spy)
    assert job.train_epoch(0)["lr"] == rates[-1]
    assert rates == pytest.approx([0, 0.05 / 3, 0.1 / 3])
    group = job.optimiser.param_groups[0]
    assert group["weight_decay"] == 0.1 and group.get("momentum", 0.5) == 0.5
    assert isinstance(getattr(job.optimiser, "optimizer", job.optimiser), AdamW if optimiser == "adamw" else SGD)


# Runs


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_directory_is_complete(variant: str, pretrained: Runs, make_pretraining: PretrainRecipeMaker) -> None:
    path, head = pretrained(variant), variant == "sskd-head"
    assert {file.name for file in path.iterdir()} == {
        "recipe.yaml", "environment.json", "metrics.csv", "tensorboard", "last.ckpt", "result.json",
        "ss_head.safetensors" if head else "network.safetensors",
    }  # fmt: skip
    recipe = make_pretraining(variant)
    assert Run.open(path).stored() == recipe
    result, rows = json.loads((path / "result.json").read_text()), Run(path).read_metrics()
    assert len(rows) == recipe.epochs == result["epochs"] and result["loss"] == rows[-1]["loss"]
    term = {"moco": "info_nce", "sskd-head": "views_to_images"}.get(variant, "nt_xent")
    assert all(row[term] == row["loss"] > 0 and "train_top1" not in row for row in rows)
    assert (
        set(result["test"])
        == set(result["test_untrained"])
        == (set() if head or variant == "unlabelled" else {"knn", "linear"})
    )
    assert (result["objective"], result["seed"], result["device"]) == (recipe.objective, 0, "cpu")
    val, test = (0, 0) if variant == "unlabelled" else (15, 18)
    assert result["images"] == {"train": 36, "val": val, "test": test}


def test_the_figures_are_those_of_the_network(pretrained: Runs, make_pretraining: PretrainRecipeMaker) -> None:
    result = json.loads((pretrained("simclr") / "result.json").read_text())
    job = build_pretraining(make_pretraining("simclr"))
    untrained = job.judge(job.data.test, probe=True)
    assert result["test_untrained"] == untrained != result["test"]
    job.module.load_state_dict(load_checkpoint(pretrained("simclr") / "last.ckpt", "objective")["objective"])
    assert result["test"] == job.judge(job.data.test, probe=True)
    assert Run(pretrained("simclr")).read_metrics()[-1]["val_knn"] == job.judge(job.data.val)["knn"]


@pytest.mark.parametrize("variant", ["simclr", "moco", "unlabelled"])
def test_the_network_is_that_of_the_last_epoch_and_teaches(variant: str, pretrained: Runs) -> None:
    path = pretrained(variant)
    state = load_checkpoint(path / "last.ckpt", "objective")
    tensors, info = read_network(path / "network.safetensors")
    assert len(state["progress"]["rows"]) == Run(path).stored().epochs
    own = {name: tensor for name, tensor in state["objective"].items() if name.startswith(("backbone.", "projector."))}
    assert own.keys() == tensors.keys() and all(torch.equal(own[name], tensors[name]) for name in own)
    job = build_pretraining(Run(path).stored())  # type: ignore[arg-type]
    job.module.load_state_dict(state["objective"])
    module = job.module.eval()
    assert not isinstance(module, SelfSupervisionHead)
    images = job.data.train.pixels[:7]
    for arguments, layers in ({}, [module.backbone]), ({"output": "projection"}, [module.backbone, module.projector]):
        teacher = load_teacher(f"checkpoint:{path}", arguments=arguments)
        with torch.no_grad():
            expected = nn.Sequential(*layers)(job._prepared(images))
        torch.testing.assert_close(teacher(teacher_input(teacher, images)), expected, rtol=1e-5, atol=1e-6)
        assert teacher.width == expected.shape[1] == (8 if arguments else 64)
    assert info["projector"] == {"dim": 8, "hidden": 10, "norm": variant != "moco"}
    assert info["mean"] == list(job.data.mean) and info["image_size"] == 8


def test_no_epoch_is_picked_by_its_neighbours(
    make_pretraining: PretrainRecipeMaker, pretrained: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([{"knn": 90.0}, {"knn": 50.0}, {"knn": 10.0}, {}, {}])
    monkeypatch.setattr(pretraining, "judge_features", lambda *args, **options: next(found))
    pretrain(make_pretraining(), tmp_path / "run")
    assert [row["val_knn"] for row in rows_of(tmp_path / "run")] == ["90.0", "50.0", "10.0"]
    assert weights_file(tmp_path / "run").read_bytes() == weights_file(pretrained("simclr")).read_bytes()


def test_neighbours_in_some_epochs_and_in_the_last(pretrained: Runs) -> None:
    assert [bool(row["val_knn"]) for row in rows_of(pretrained("moco"))] == [False, True, True]
    assert ["val_knn" in row for row in Run(pretrained("moco")).read_metrics()] == [False, True, True]
    assert all(row["val_knn"] for row in rows_of(pretrained("simclr")))
    for variant in ("unlabelled", "sskd-head"):
        assert not any(name.endswith("_knn") for name in rows_of(pretrained(variant))[0])


@pytest.mark.parametrize(("select", "expected"), [("val", ["val", "val", "test", "test"]), ("test", ["test"] * 4)])
def test_the_test_split_is_read_at_the_end_only(
    select: str,
    expected: list[str],
    make_pretraining: PretrainRecipeMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    splits: list[str] = []

    def record(backbone: Any, prepare: Any, device: Any, train: Any, images: ImageSet, *args: Any, probe: bool) -> Any:
        splits.append(images.split)
        return {}

    monkeypatch.setattr(pretraining, "judge_features", record)
    pretrain(make_pretraining(epochs=2, select=select), tmp_path / "run")
    assert splits == expected


@pytest.mark.parametrize("variant", ["simclr", "moco", "sskd-head"])
def test_no_label_and_no_image_of_another_split_reaches_the_weights(
    variant: str,
    make_pretraining: PretrainRecipeMaker,
    pretrained: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = datasets.load

    def spoilt(*args: Any, **options: Any) -> DataSet:
        data = original(*args, **options)
        others = {}
        for name in ("val", "test"):
            part = getattr(data, name)
            others[name] = replace(part, images=255 - part.images, labels=part.labels.flip(0))
        return replace(data, train=replace(data.train, labels=(data.train.labels * 2 + 1) % 3), **others)

    monkeypatch.setattr(pretraining, "load", spoilt)
    pretrain(make_pretraining(variant), tmp_path / "run")
    found, expected = outcome(tmp_path / "run"), outcome(pretrained(variant))
    assert found["weights"] == expected["weights"] and found["state"] == expected["state"]
    assert (found["result"]["test"] == expected["result"]["test"]) == (variant == "sskd-head"), "they judge"


@pytest.mark.parametrize("variant", ["simclr", "moco", "sskd-head"])
def test_a_stopped_run_ends_as_if_it_had_not_stopped(
    variant: str,
    make_pretraining: PretrainRecipeMaker,
    pretrained: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, recipe = tmp_path / "stopped", make_pretraining(variant)
    for step, done in ((2, 0), (2 * STEPS + 2, 2)):  # in the first epoch, and then in the last
        with monkeypatch.context() as patch:
            stop_in_step(patch, step, interrupt)
            with pytest.raises(KeyboardInterrupt):
                pretrain(recipe, path, resume=done > 0)
        assert (path / "last.ckpt").exists() == (done > 0)
        torch.manual_seed(12345)
    if variant == "moco":
        state = load_checkpoint(path / "last.ckpt", "objective")["objective"]
        assert int(state["queue.next"]) == 72 % 20 and int(state["queue.next"]) % 12 == 0
    stored = Run.open(path).stored()
    assert isinstance(stored, PretrainRecipe)
    pretrain(stored, path, resume=True)
    assert outcome(path) == outcome(pretrained(variant))
    before = outcome(path)
    pretrain(stored, path, resume=True)
    assert outcome(path) == before, "a finished run stays as it is"


def test_streamed_images_give_the_same_run(
    make_pretraining: PretrainRecipeMaker, pretrained: Runs, tmp_path: Path
) -> None:
    pretrain(make_pretraining("moco", images="stream", workers=2), tmp_path / "run")
    assert outcome(tmp_path / "run") == outcome(pretrained("moco"))


@pytest.mark.parametrize("variant", ["simclr", "moco", "sskd-head"])
def test_half_precision_is_for_the_networks_alone(variant: str, make_pretraining: PretrainRecipeMaker) -> None:
    losses = []
    for precision in ("32-true", "bf16-mixed"):
        job = build_pretraining(make_pretraining(variant, precision=precision))
        losses.append(job.train_epoch(0)["loss"])
        assert {t.dtype for t in job.module.state_dict().values()} <= {torch.float32, torch.int64}
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.05)


def test_another_seed_gives_another_run(
    make_pretraining: PretrainRecipeMaker, pretrained: Runs, tmp_path: Path
) -> None:
    found = pretrain(make_pretraining("unlabelled", seed=1), tmp_path / "run")
    assert found["seed"] == 1
    assert outcome(tmp_path / "run")["weights"] != outcome(pretrained("unlabelled"))["weights"]


def test_a_recipe_with_gaps_is_filled_in(tmp_path: Path, make_pretraining: PretrainRecipeMaker) -> None:
    whole = make_pretraining(epochs=1)
    bare = replace(whole, temperature=None, weight_decay=None, warmup_epochs=None)
    result = pretrain(bare, tmp_path / "run")
    assert Run.open(tmp_path / "run").stored() == whole
    again = pretrain(bare, tmp_path / "run", resume=True)
    assert again == result


# Before and after each write of the last epoch, which has no later one to write it.
WRITES = [("save_network", True), ("write_metrics", True), ("save_checkpoint", True), ("write_json", True),
          ("save_network", False)]  # fmt: skip


@pytest.mark.parametrize(("name", "after"), WRITES)
def test_a_stop_between_any_two_writes(
    name: str,
    after: bool,
    make_pretraining: PretrainRecipeMaker,
    pretrained: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner: Any = {"write_metrics": Run, "save_network": pretraining}.get(name, epochs)
    original = getattr(owner, name)

    def stop(*args: Any) -> None:
        if after:
            original(*args)
        raise KeyboardInterrupt

    recipe, path = make_pretraining("unlabelled"), tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stop)
        with pytest.raises(KeyboardInterrupt):
            pretrain(recipe, path)
    pretrain(recipe, path, resume=True)
    assert outcome(path) == outcome(pretrained("unlabelled"))


@pytest.fixture
def copied(pretrained: Runs, tmp_path: Path) -> Runs:
    """Return a function from a variant's name to a copy of its finished run that a test may spoil."""
    return lambda variant: Path(shutil.copytree(pretrained(variant), tmp_path / variant))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"lr": 0.5}, r"lr was 0\.05, is now 0\.5$"),
        ({"objective": "moco"}, r"objective was simclr, is now moco$"),
        ({"augment": "crop"}, r"augment was auto, is now crop$"),
        ({"warmup_epochs": 2}, r"warmup_epochs was 0, is now 2$"),
    ],
)
def test_a_run_goes_on_with_its_own_recipe_only(
    options: dict[str, Any], told: str, make_pretraining: PretrainRecipeMaker, pretrained: Runs
) -> None:
    before = outcome(pretrained("simclr"))
    with pytest.raises(RelgraphError, match=rf"simclr was started with another recipe: {told}"):
        pretrain(make_pretraining("simclr", **options), pretrained("simclr"), resume=True)
    assert outcome(pretrained("simclr")) == before


def test_a_training_is_no_pre_training(
    make: RecipeMaker, finished: Runs, make_pretraining: PretrainRecipeMaker, pretrained: Runs
) -> None:
    with pytest.raises(RelgraphError, match=r"none is a training: expected a pre-training$"):
        pretrain(make_pretraining(), finished("none"), resume=True)
    with pytest.raises(RelgraphError, match=r"simclr is a pre-training: expected a training$"):
        train(make(), pretrained("simclr"), resume=True)
    with pytest.raises(RelgraphError, match=r"simclr is a pre-training \(simclr\): expected a run of relgraph train; "):
        Run.open(pretrained("simclr")).recipe()


def test_a_checkpoint_that_is_not_its_own(copied: Runs, pretrained: Runs, finished: Runs) -> None:
    path = copied("simclr")
    recipe = Run.open(path).stored()
    assert isinstance(recipe, PretrainRecipe)
    shutil.copy(pretrained("moco") / "last.ckpt", path / "last.ckpt")
    with pytest.raises(RelgraphError, match=r"last\.ckpt does not belong to this run's recipe: [^\n]*$"):
        pretrain(recipe, path, resume=True)
    shutil.copy(finished("none") / "last.ckpt", path / "last.ckpt")
    with pytest.raises(RelgraphError, match=r"last\.ckpt is not the checkpoint of a training run$"):
        pretrain(recipe, path, resume=True)
    (path / "last.ckpt").write_bytes((pretrained("simclr") / "last.ckpt").read_bytes()[:5000])
    with pytest.raises(RelgraphError, match=r"^cannot read the checkpoint .*last\.ckpt, is it truncated\?"):
        pretrain(recipe, path, resume=True)
    shutil.copy(pretrained("simclr") / "last.ckpt", path / "last.ckpt")
    pretrain(recipe, path, resume=True)
    assert outcome(path) == outcome(pretrained("simclr"))


def test_a_loss_that_is_not_a_number_is_named_and_finished_epochs_are_kept(
    make_pretraining: PretrainRecipeMaker, pretrained: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(job: Pretraining) -> None:
        next(job.module.parameters()).data.fill_(math.nan)

    path = tmp_path / "spoilt"
    with monkeypatch.context() as patch:
        stop_in_step(patch, STEPS + 2, spoil)
        with pytest.raises(RelgraphError, match=r"^the loss is not a number in epoch 2: nt_xent first; [^\n]*$"):
            pretrain(make_pretraining(), path)
    assert len(rows_of(path)) == 1
    pretrain(make_pretraining(), path, resume=True)
    assert outcome(path) == outcome(pretrained("simclr"))


@pytest.mark.parametrize(
    ("variant", "options", "told"),
    [
        ("simclr", {"network": "resnet9"}, "unknown student 'resnet9': did you mean 'resnet8'?"),
        ("simclr", {"dataset": "folder:nowhere"}, "nowhere: no such folder"),
        ("simclr", {"val_fraction": 1.0}, "the share of validation images must be at least 0 and below 1, got 1.0"),
        ("sskd-head", {"teacher": "embeded:digits"}, "unknown teacher source 'embeded': did you mean 'embedded'?"),
        ("sskd-head", {"teacher": "checkpoint:nowhere"}, "cannot read the network file nowhere"),
        ("sskd-head", {"teacher_args": ("wide",)}, "teacher arguments must be name=value, got 'wide'"),
    ],
)
def test_what_cannot_be_built_leaves_no_directory(
    variant: str, options: dict[str, Any], told: str, make_pretraining: PretrainRecipeMaker, tmp_path: Path
) -> None:
    with pytest.raises(RelgraphError) as error:
        pretrain(make_pretraining(variant, **options), tmp_path / "run")
    assert str(error.value).startswith(told) and not (tmp_path / "run").exists()


def test_one_image_is_told_before_there_is_a_run(
    photos: Path, make_pretraining: PretrainRecipeMaker, tmp_path: Path
) -> None:
    (tmp_path / "one").mkdir()
    shutil.copy(next(photos.glob("*.png")), tmp_path / "one")
    with pytest.raises(RelgraphError, match=r"^a contrast needs two images: .* at least 2, got 1$"):
        pretrain(make_pretraining("unlabelled", dataset=f"folder:{tmp_path / 'one'}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("variant", ["unlabelled", "moco"])
def test_a_batch_of_two_images_and_one_of_all(
    variant: str, photos: Path, make_pretraining: PretrainRecipeMaker, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    for file in sorted(photos.glob("*.png"))[:3]:
        shutil.copy(file, small)
    for size in (2, 100):
        options = {"dataset": f"folder:{small}", "epochs": 2, "batch_size": size, "lr": 0.001}
        pretrain(make_pretraining(variant, **options), tmp_path / f"run{size}")
        assert len(rows_of(tmp_path / f"run{size}")) == 2


# The head is read by SSKD


def test_the_head_s_file_is_that_of_the_last_epoch(pretrained: Runs) -> None:
    path = pretrained("sskd-head")
    head, info = load_ss_head(path, 64)
    state = load_checkpoint(path / "last.ckpt", "objective")["objective"]
    assert all(torch.equal(state[f"projector.{name}"], tensor) for name, tensor in head.state_dict().items())
    assert not any(p.requires_grad for p in head.parameters()) and not head.training
    assert info["teacher"] == "embedded:digits"
    assert info["fingerprint"] == load_teacher("embedded:digits").fingerprint()
    with pytest.raises(RelgraphError, match=r"was trained for a teacher of width 64, this one has 128$"):
        load_ss_head(path, 128)


def test_sskd_trains_by_the_head_and_by_no_other_teacher_s(pretrained: Runs, make: RecipeMaker, tmp_path: Path) -> None:
    head = str(pretrained("sskd-head"))
    recipe = make(method="sskd", teacher="embedded:digits", ss_head=head, epochs=1, labels_per_class=0)
    train(recipe, tmp_path / "run")
    (row,) = Run(tmp_path / "run").read_metrics()
    assert min(row["kd"], row["transformed"], row["self_supervision"]) > 0
    other = make(method="sskd", teacher=f"checkpoint:{pretrained('simclr')}", ss_head=head, epochs=1)
    with pytest.raises(
        RelgraphError, match=r"was trained for another teacher: embedded:digits, or other weights of it"
    ):
        train(other, tmp_path / "other")


def test_a_pre_trained_network_teaches_a_student(pretrained: Runs, make: RecipeMaker, tmp_path: Path) -> None:
    options = {"teacher": f"checkpoint:{pretrained('moco')}", "teacher_args": ("output=projection",), "epochs": 1}
    result = train(make(**options), tmp_path / "run")
    assert math.isfinite(result["test"]["last"]["top1"])
