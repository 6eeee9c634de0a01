"""Twenty steps of each preset against the authors' loop, written here from its description with plain torch.

Crops, flips and the teacher's outputs are fed from ours to both; what is compared is all that follows: losses, their
weights, optimisers, schedule, memories and the order of the steps, in float64.
"""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, normalize, smooth_l1_loss, softplus
from torch.optim import SGD

from relgraph.methods import Output
from relgraph.names import load_teacher
from relgraph.networks.files import save_ss_head
from relgraph.networks.heads import Projector
from relgraph.outputs import Batch, StepInputs
from relgraph.training.distillation import Distillation, assemble, build
from relgraph.training.epochs import train_epoch
from relgraph.training.feed import Feed
from relgraph.training.head import train_head
from relgraph.training.objective import Distiller
from relgraph.training.presets import FAMILY
from relgraph.training.recipe import Recipe, resolve
from relgraph.training.runs import RunDirectory
from tests.networks.published import state_of, write
from tests.training.conftest import part, states

IMAGES, BATCH = 36, 16
DOUBLE: dict[str, Any] = {"rtol": 1e-7, "atol": 1e-7}


@dataclass(frozen=True, eq=False)
class Recorded(Feed):
    """A feed in float64, whose inputs are kept for the other loop."""

    inner: Feed
    given: list[StepInputs] = field(default_factory=list)

    def __call__(self, images: Tensor, batch: Batch, generator: torch.Generator) -> StepInputs:
        found = self.inner(images, batch, generator)
        teacher = None if found.teacher is None else found.teacher.each(Tensor.double)
        extra = None if found.extra is None else found.extra.double()
        self.given.append(StepInputs(found.images.double(), batch, teacher, extra))
        return self.given[-1]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the options of a published teacher of three classes."""
    path = tmp_path_factory.mktemp("published") / "ckpt_epoch_240.pth"
    return {"teacher": "repdistiller:resnet14", "teacher_weights": str(write(path, state_of("resnet14", 3)))}


Opened = Callable[..., tuple[Distillation, Recorded]]


@pytest.fixture
def opened(images: Path, teacher: dict[str, Any], tmp_path: Path) -> Opened:
    """Return a function from a preset to its job in float64, on 36 small images, with the feed that it reads."""

    def job(preset: str, **options: Any) -> tuple[Distillation, Recorded]:
        small = {"dataset": f"folder:{images}", "student": "resnet8", "batch_size": BATCH, "device": "cpu",
                 "precision": "32-true", "diagnose_every": 0}  # fmt: skip
        recipe = resolve({**small, **teacher, **options}, preset)
        inner = build(recipe)
        feed = Recorded(inner.feed.plan, inner.feed.student_input, inner.feed)
        fabric = Fabric(accelerator="cpu", devices=1, precision="64-true")
        return assemble(recipe, fabric, inner.task, feed, deepcopy(inner.objective).double()), feed

    return job


# What a loss reads of a network: its maps, the stem's first, the pooled vector and the logits.
Network = tuple[tuple[Tensor, ...], Tensor, Tensor]


class Authors:
    """A loop of the authors': the student's own copy, its layers, and the file's classifier of the teacher."""

    def __init__(self, start: Distiller, recipe: Recipe, classifier: tuple[Tensor, Tensor]) -> None:
        self.own, self.recipe, self.classifier = start, recipe, classifier
        self.backbone, self.fc = start.student.backbone, start.student.head.classify
        self.losses: list[float] = []
        self.step = 0
        self.memories: list[Tensor] = []
        self.constants = [0.0, 0.0]

    @property
    def layers(self) -> Any:
        """The layers of the method."""
        return part(self.own, str(self.recipe.method))

    def student(self, images: Tensor) -> Network:
        maps, feature = self.backbone.stages(images)
        return maps, feature, self.fc(feature)

    def teacher(self, given: Output) -> Network:
        weight, bias = self.classifier
        assert given.feature is not None
        return given.maps, given.feature, given.feature @ weight.T + bias


Loss = Callable[[Authors, Network, Network, StepInputs], Tensor]


def divergence(s: Tensor, t: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL of each row."""
    p, log = (t / temperature).softmax(-1), (s / temperature).log_softmax(-1)
    return temperature**2 * (p * (p.log() - log)).sum(-1)


def pooled(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    side = min(s.shape[-1], t.shape[-1])
    return adaptive_avg_pool2d(s, side), adaptive_avg_pool2d(t, side)


def kd(a: Authors, s: Network, t: Network, inputs: StepInputs) -> Tensor:
    return 0.1 * cross_entropy(s[2], inputs.batch.labels) + 0.9 * divergence(s[2], t[2], 4.0).mean()


def hint(a: Authors, s: Network, t: Network, inputs: StepInputs) -> Tensor:
    regressed: Tensor = a.layers.regressor(s[0][2])
    return 100 * (regressed - t[0][2]).square().mean()


def attention(a: Authors, s: Network, t: Network, inputs: StepInputs) -> Tensor:
    def of(x: Tensor) -> Tensor:
        return normalize(x.square().mean(1).flatten(1))

    return 1000 * torch.stack([(of(x) - of(y)).square().mean() for x, y in zip(s[0][1:], t[0][1:], strict=True)]).sum()


def similarity(a: Authors, s: Network, t: Network, inputs: StepInputs) -> Tensor:
    of_s, of_t = (normalize(x[0][-1].flatten(1) @ x[0][-1].flatten(1).T) for x in (s, t))
    return 3000 * (of_t - of_s).square().sum() / len(of_s) ** 2


def correlation(a: Authors, s: Network, t: Network, inputs: StepInputs) -> Tensor:
    embed_s, embed_t = a.layers.embeds
    delta: Tensor = (embed_s(s[1]) - embed_t(t[1])).abs()
    return 0.02 * (delta[:-1] * delta[1:]).sum(1).mean()


def vid(a: Authors, s: Network, t: Network, inputs: StepInputs) -> Tensor:
    losses = []
    for x, y, layers, raw in zip(s[0][1:], t[0][1:], a.layers.regressors, a.layers.raw_variances, strict=True):
        variance = (softplus(raw) + 1e-5).view(1, -1, 1, 1)
        losses.append((0.5 * ((layers(x) - y) ** 2 / variance + variance.log())).mean())
    return torch.stack(losses).sum()


def rkd(a: Authors, s: Network, t: Network, inputs: StepInputs) -> Tensor:
    distances, angles = [], []
    for x in (s[1], t[1]):
        squares = x.square().sum(1)
        product = (squares[:, None] + squares[None] - 2 * x @ x.T).clamp(min=1e-12).sqrt()
        d = product * (1 - torch.eye(len(x)))
        distances.append(d / d[d > 0].mean())
        e = normalize(x[None] - x[:, None], dim=2)
        angles.append((e @ e.transpose(1, 2)).flatten())
    (d_s, d_t), (a_s, a_t) = distances, angles
    return 25 * smooth_l1_loss(d_s, d_t) + 50 * smooth_l1_loss(a_s, a_t)


def pkt(a: Authors, s: Network, t: Network, inputs: StepInputs) -> Tensor:
    probabilities = []
    for x in (s[1], t[1]):
        unit = x / (x.square().sum(1, keepdim=True).sqrt() + 1e-7)
        similar = (unit @ unit.T + 1) / 2
        probabilities.append(similar / similar.sum(1, keepdim=True))
    p_s, p_t = probabilities
    return 30000 * (p_t * ((p_t + 1e-7) / (p_s + 1e-7)).log()).mean()


def nst(a: Authors, s: Network, t: Network, inputs: StepInputs) -> Tensor:
    losses = []
    for x, y in zip(s[0][1:], t[0][1:], strict=True):
        x, y = (normalize(maps.flatten(2), dim=2) for maps in pooled(x, y))

        def k(one: Tensor, other: Tensor) -> Tensor:
            return torch.einsum("ncp,ndp->ncd", one, other).square().mean()

        losses.append(k(y, y) + k(x, x) - 2 * k(x, y))
    return 50 * torch.stack(losses).sum()


def boundaries(a: Authors, s: Network, t: Network, inputs: StepInputs) -> Tensor:
    losses = []
    count = len(s[0]) - 1
    for i, (x, y, connector) in enumerate(zip(s[0][1:], t[0][1:], a.layers.connectors, strict=True)):
        x = connector(x)
        off, on = (x + 1) ** 2 * ((y <= 0) & (x > -1)), (x - 1) ** 2 * ((y > 0) & (x <= 1))
        losses.append((off + on).sum() / len(x) * 2.0 ** (i - count + 1))
    return 3 / 1000 * torch.stack(losses).sum()


def flow(a: Authors, s: Network, t: Network, inputs: StepInputs) -> Tensor:
    grams = []
    for maps in (s[0], t[0]):
        pairs = [pooled(x, y) for x, y in pairwise(maps)]
        grams.append([torch.einsum("nchw,ndhw->ncd", x, y) / x.shape[-1] ** 2 for x, y in pairs])
    return torch.stack([(x - y).square().mean() for x, y in zip(*grams, strict=True)]).sum()


def factors(a: Authors, s: Network, t: Network, inputs: StepInputs) -> Tensor:
    def of(x: Tensor) -> Tensor:
        return normalize(x.square().mean(1).flatten(1))

    return 200 * (of(a.layers.translator(s[0][-1])) - of(a.layers.encoder(t[0][-1]).detach())).abs().mean()


def contrast(a: Authors, s: Network, t: Network, inputs: StepInputs) -> Tensor:
    """Return CRD's loss of both directions, and write its memories: the negatives are those that ours draws."""
    own, index = a.layers, inputs.batch.indices
    if a.step == 0:
        a.memories = [own.student_bank.keys.clone(), own.teacher_bank.keys.clone()]
    chosen = torch.cat([index[:, None], own.sampler.others(index, 64)], dim=1)
    own.sampler.advance()
    g = [normalize(layer(x[1])) for layer, x in ((own.embed_student, s), (own.embed_teacher, t))]
    total, noise = torch.zeros(()), 64 / IMAGES
    for side in (0, 1):
        scores = torch.einsum("nd,nkd->nk", g[side], a.memories[1 - side][chosen]).div(0.07).exp()
        if a.step == 0:
            a.constants[side] = scores.mean().item() * IMAGES
        p = scores / a.constants[side]
        right = (p[:, 0] / (p[:, 0] + noise + 1e-7)).log().sum()
        wrong = (noise / (p[:, 1:] + noise + 1e-7)).log().sum()
        total = total - (right + wrong) / len(index)
    for side in (0, 1):
        a.memories[side][index] = normalize(0.5 * a.memories[side][index] + 0.5 * g[side].detach())
    return 0.8 * total


# Each method's loss beside the cross-entropy; that of kd has both, those of two have a stage alone.
LOSSES: dict[str, Loss] = {
    "kd": kd, "fitnet": hint, "at": attention, "sp": similarity, "cc": correlation, "vid": vid, "rkd": rkd, "pkt": pkt,
    "ab": boundaries, "ft": factors, "fsp": flow, "nst": nst, "crd": contrast,
}  # fmt: skip


def trained(job: Distillation, epochs: int) -> list[float]:
    """Train some epochs, and return the mean loss of each."""
    return [train_epoch(job, epoch)[0]["loss"] for epoch in range(epochs)]


def split(job: Distillation) -> tuple[Distiller, Recipe, tuple[Tensor, Tensor]]:
    """Return copies of what a job trains and of its teacher's classifier, before the training."""
    own = deepcopy(job.objective)
    assert own.teacher_head is not None
    layer = own.teacher_head.classify
    return own, job.recipe, (layer.weight.detach(), layer.bias.detach())


def means(losses: list[float], steps: int) -> list[float]:
    return [sum(losses[at : at + steps]) / steps for at in range(0, len(losses), steps)]


def check(job: Distillation, losses: list[float], a: Authors, steps: int) -> None:
    """Check that both loops had the same losses, and end with the same weights and statistics."""
    assert losses == pytest.approx(means(a.losses, steps), rel=1e-7)
    torch.testing.assert_close(states(job.objective, "student."), states(a.own, "student."), **DOUBLE)
    found, expected = (
        dict(part(module, str(job.recipe.method)).named_parameters()) for module in (job.objective, a.own)
    )
    torch.testing.assert_close(found, expected, **DOUBLE)


@pytest.mark.slow
@pytest.mark.parametrize("method", FAMILY)
def test_a_method_of_the_benchmark(method: str, opened: Opened) -> None:
    """Batches keep the last 4 of 36 images, the rate falls after 5 of 8 epochs, and two methods train alone first."""
    options = {"method_args": ("negatives=64",)} if method == "crd" else {}
    alone = method in ("ab", "fsp")
    job, feed = opened(method, epochs=9 if alone else 8, **options)
    a = Authors(*split(job))
    layers = [p for name, p in a.layers.named_parameters() if name.split(".")[0] not in ("encoder", "decoder")]
    optimiser = SGD([*a.own.student.parameters(), *layers], lr=0.05, momentum=0.9, weight_decay=5e-4)
    beside = [*a.layers.encoder.parameters(), *a.layers.decoder.parameters()] if method == "ft" else []
    paraphraser = SGD(beside, lr=0.01, momentum=0.9, weight_decay=5e-4) if beside else None
    losses = trained(job, 7)
    assert [len(inputs.images) for inputs in feed.given] == [16, 16, 4] * 7
    for number, inputs in enumerate(feed.given):
        a.step, epoch = number, number // 3
        first = alone and epoch < 1
        optimiser.param_groups[0]["lr"] = 0.05 * 0.1 ** sum(epoch + 1 > at + alone for at in (5, 6, 7))
        s, t = a.student(inputs.images), a.teacher(inputs.teacher or Output(inputs.images))
        labels = cross_entropy(s[2], inputs.batch.labels)
        if method == "kd":
            loss = kd(a, s, t, inputs)
        elif alone:
            loss = LOSSES[method](a, s, t, inputs) if first else labels
        else:
            loss = labels + LOSSES[method](a, s, t, inputs)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        if paraphraser is not None:
            paraphraser.zero_grad()
            copied = t[0][-1]
            torch.autograd.backward((a.layers.decoder(a.layers.encoder(copied)) - copied).square().mean())
            paraphraser.step()
        optimiser.step()
        a.losses.append(loss.item())
    check(job, losses, a, steps=3)


def alignment(student: Tensor, teacher: Tensor, node: float, edge: float) -> Tensor:
    """Return EGA's loss: one matrix of correlations of both batches, cut in four."""
    n = len(student)
    matrix = torch.corrcoef(torch.cat([teacher, student]))
    edges, nodes = matrix[:n, :n] - matrix[n:, n:], matrix[:n, n:] - torch.eye(n)
    return node * nodes.square().sum().sqrt() + edge * edges.square().sum().sqrt()


def fallen(rate: float, epoch: int) -> float:
    """Return a rate after the steps that follow the epochs 5, 6 and 7 of 8, which are 150, 180 and 210 of 240."""
    return rate * 0.1 ** sum(epoch + 1 > at for at in (5, 6, 7))


def test_ega(opened: Opened) -> None:
    """The teacher's head has an optimiser and a constant rate of its own, and no gradient of the distillation."""
    job, feed = opened("ega", epochs=8)
    a = Authors(*split(job))
    head = a.own.teacher_head
    assert head is not None
    student = SGD(a.own.student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    teacher = SGD(head.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    losses = trained(job, 7)
    for number, inputs in enumerate(feed.given):
        assert inputs.teacher is not None
        student.param_groups[0]["lr"] = fallen(0.05, number // 3)
        x_s = a.own.student.head.project(a.backbone(inputs.images))
        x_t = head.project(inputs.teacher.embedding)
        labels = inputs.batch.labels
        loss = cross_entropy(a.fc(x_s), labels) + alignment(x_s, x_t, 0.8, 0.24)
        student.zero_grad()
        torch.autograd.backward(loss, retain_graph=True)
        teacher.zero_grad()
        torch.autograd.backward(cross_entropy(head.classify(x_t), labels))
        student.step()
        teacher.step()
        a.losses.append(loss.item())
    check(job, losses, a, steps=3)
    torch.testing.assert_close(states(job.objective, "teacher_head."), states(a.own, "teacher_head."), **DOUBLE)


def test_ega_sequential(opened: Opened, tmp_path: Path) -> None:
    """The teacher's head has the student's epochs and steps, at a rate of 0.01, and is fixed afterwards."""
    job, feed = opened("ega-sequential", epochs=8)
    a = Authors(*split(job))
    head = a.own.teacher_head
    assert head is not None and job.objective.teacher_head is not None
    head.requires_grad_(True)
    optimiser = SGD(head.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    train_head(job, job.objective.teacher_head, job.recipe, RunDirectory.create(tmp_path / "run", job.recipe))
    assert [len(inputs.images) for inputs in feed.given] == [16, 16, 4] * 8
    for number, inputs in enumerate(feed.given):
        assert inputs.teacher is not None
        optimiser.param_groups[0]["lr"] = fallen(0.01, number // 3)
        optimiser.zero_grad()
        logits = head.classify(head.project(inputs.teacher.embedding))
        torch.autograd.backward(cross_entropy(logits, inputs.batch.labels))
        optimiser.step()
    torch.testing.assert_close(states(job.objective, "teacher_head."), states(a.own, "teacher_head."), **DOUBLE)
    feed.given.clear()
    losses = trained(job, 7)
    student = SGD(a.own.student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for number, inputs in enumerate(feed.given):
        assert inputs.teacher is not None
        student.param_groups[0]["lr"] = fallen(0.05, number // 3)
        x_s, x_t = a.own.student.head.project(a.backbone(inputs.images)), head.project(inputs.teacher.embedding)
        loss = cross_entropy(a.fc(x_s), inputs.batch.labels) + alignment(x_s, x_t.detach(), 0.8, 0.3)
        student.zero_grad()
        torch.autograd.backward(loss)
        student.step()
        a.losses.append(loss.item())
    check(job, losses, a, steps=3)


def kept(ranks: Tensor, ratio: float) -> Tensor:
    """Return the selected rows: all of rank 0, and of the others the share of lowest rank."""
    wrong = int((ranks > 0).sum())
    return ranks.argsort(stable=True)[: len(ranks) - wrong + int(wrong * ratio)]


def test_sskd(opened: Opened, teacher: dict[str, Any], tmp_path: Path) -> None:
    """Four rows an image pass through the student together; two of its losses read selected rows alone."""
    torch.manual_seed(0)
    ss_head = Projector(64, 64)
    fingerprint = load_teacher(teacher["teacher"], weights=teacher["teacher_weights"]).fingerprint()
    save_ss_head(tmp_path / "ss_head.safetensors", ss_head, teacher="resnet14", fingerprint=fingerprint)
    job, feed = opened("sskd", epochs=8, ss_head=str(tmp_path))
    a, h_t = Authors(*split(job)), ss_head.double()
    optimiser = SGD([*a.own.student.parameters(), *a.layers.parameters()], lr=0.05, momentum=0.9, weight_decay=5e-4)
    losses = trained(job, 7)
    for number, inputs in enumerate(feed.given):
        optimiser.param_groups[0]["lr"] = fallen(0.05, number // 3)
        assert inputs.extra is not None and inputs.teacher is not None and inputs.teacher.extra is not None
        n, labels = len(inputs.images), inputs.batch.labels
        _, f_s, z_s = a.student(torch.cat([inputs.images, inputs.extra]))
        (_, f_t, z_t), (_, g_t, y_t) = a.teacher(inputs.teacher), a.teacher(inputs.teacher.extra)
        order = torch.arange(3 * n).view(3, n).T.flatten()  # the views of an image after each other
        y_s, y_t = z_s[n:][order], y_t[order]
        own = torch.arange(n).repeat_interleave(3)

        def similar(h: nn.Module, images: Tensor, views: Tensor) -> Tensor:
            return normalize(h(views[order])) @ normalize(h(images)).T  # noqa: B023 (called at once)

        a_s, a_t = similar(a.layers.projector, f_s[:n], f_s[n:]), similar(h_t, f_t, g_t).detach()
        rank_tf = (y_t > y_t.gather(1, labels[own][:, None])).sum(1)
        rank_ss = (a_t > a_t.gather(1, own[:, None])).sum(1)
        tf, ss = kept(rank_tf, 1.0), kept(rank_ss, 0.75)
        loss = (
            0.1 * cross_entropy(z_s[:n], labels)
            + 0.9 * divergence(z_s[:n], z_t, 4.0).mean()
            + 2.7 * divergence(y_s[tf], y_t[tf], 4.0).mean()
            + 10.0 * divergence(a_s[ss], a_t[ss], 0.5).mean()
        )
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        a.losses.append(loss.item())
    check(job, losses, a, steps=3)


@pytest.mark.parametrize("preset", ["seed", "moco"])
def test_contrast_with_a_queue(preset: str, opened: Opened) -> None:
    """The rate follows a cosine by epochs from 0.03, and vectors enter the queue after the loss."""
    job, feed = opened(preset, epochs=12, method_args=("queue=48",))
    a = Authors(*split(job))
    keys, at = a.layers.memory.keys.clone(), 0
    optimiser = SGD([*a.backbone.parameters(), *a.layers.parameters()], lr=0.03, momentum=0.9, weight_decay=1e-4)
    losses = trained(job, 10)
    assert [len(inputs.images) for inputs in feed.given] == [16] * 20
    for number, inputs in enumerate(feed.given):
        assert inputs.teacher is not None
        optimiser.param_groups[0]["lr"] = 0.03 * 0.5 * (1 + math.cos(math.pi * (number // 2) / 12))
        s, t = normalize(a.layers.projector(a.backbone(inputs.images))), normalize(inputs.teacher.embedding)
        own, others = ((x * t).sum(1, keepdim=True) for x in (s, t))
        student, teacher = torch.cat([own, s @ keys.T], 1) / 0.2, torch.cat([others, t @ keys.T], 1)
        if preset == "moco":
            loss = cross_entropy(student, torch.zeros(len(s), dtype=torch.long))
        else:
            loss = -((teacher / 1e-4).softmax(1) * student.log_softmax(1)).sum(1).mean()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        keys[at : at + len(t)], at = t, (at + len(t)) % 48
        optimiser.step()
        a.losses.append(loss.item())
    check(job, losses, a, steps=2)
