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
from relgraph.training.runs import Run
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

    @property
    def layers(self) -> Any:
        """The layers of the method."""
        return part(self.own, self.recipe.method)

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
    return 100 * (a.layers.regressor(s[0][2]) - t[0][2]).square().mean()


def attention(a: Authors, s: Network, t: Network, inputs: StepInputs) -> Tensor:
    def of(x: Tensor) -> Tensor:
        return normalize(x.square().mean(1).flatten(1))

    return 1000 * torch.stack([(of(x) - of(y)).square().mean() for x, y in zip(s[0][1:], t[0][1:], strict=True)]).sum()


def similarity(a: Authors, s: Network, t: Network, inputs: StepInputs) -> Tensor:
    of_s, of_t = (normalize(x[0][-1].flatten(1) @ x[0][-1].flatten(1).T) for x in (s, t))
    return 3000 * (of_t - of_s).square().sum() / len(of_s) ** 2


def correlation(a: Authors, s: Network, t: Network, inputs: StepInputs) -> Tensor:
    embed_s, embed_t = a.layers.embeds
    delta = (embed_s(s[1]) - embed_t(t[1])).abs()
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
    return 25 * smooth_l1_loss(*distances) + 50 * smooth_l1_loss(*angles)


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
        a.banks, a.constants = [own.student_bank.keys.clone(), own.teacher_bank.keys.clone()], [0.0, 0.0]  # type: ignore[attr-defined]
    chosen = torch.cat([index[:, None], own.sampler.others(index, 64)], dim=1)
    own.sampler.advance()
    g = [normalize(layer(x[1])) for layer, x in ((own.embed_student, s), (own.embed_teacher, t))]
    total, noise = 0.0, 64 / IMAGES
    for side in (0, 1):
        scores = torch.einsum("nd,nkd->nk", g[side], a.banks[1 - side][chosen]).div(0.07).exp()  # type: ignore[attr-defined]
        if a.step == 0:
            a.constants[side] = scores.mean().item() * IMAGES  # type: ignore[attr-defined]
        p = scores / a.constants[side]  # type: ignore[attr-defined]
        right = (p[:, 0] / (p[:, 0] + noise + 1e-7)).log().sum()
        wrong = (noise / (p[:, 1:] + noise + 1e-7)).log().sum()
        total = total - (right + wrong) / len(index)
    for side in (0, 1):
        a.banks[side][index] = normalize(0.5 * a.banks[side][index] + 0.5 * g[side].detach())  # type: ignore[attr-defined]
    return 0.8 * torch.as_tensor(total)


# Each method's loss beside the cross-entropy; that of kd has both, those of two have a stage alone.
LOSSES: dict[str, Loss] = {
    "kd": kd, "fitnet": hint, "at": attention, "sp": similarity, "cc": correlation, "vid": vid, "rkd": rkd, "pkt": pkt,
    "ab": boundaries, "ft": factors, "fsp": flow, "nst": nst, "crd": contrast,
}  # fmt: skip


def trained(job: Distillation, epochs: int) -> list[float]:
    """Train some epochs, and return the mean loss of each."""
    return [train_epoch(job, epoch)[0]["loss"] for epoch in range(epochs)]


def copies(job: Distillation) -> tuple[Distiller, tuple[Tensor, Tensor]]:
    """Return copies of what a job trains and of its teacher's classifier, before the training."""
    own = deepcopy(job.objective)
    head = own.teacher_head
    assert head is not None
    return own, (head.classify.weight.detach(), head.classify.bias.detach())


def means(losses: list[float], steps: int) -> list[float]:
    return [sum(losses[at : at + steps]) / steps for at in range(0, len(losses), steps)]


def same(job: Distillation, own: Distiller, *names: str) -> None:
    """Check that both loops end with the same weights and statistics."""
    found, expected = states(job.objective, *names), states(own, *names)
    torch.testing.assert_close(found, expected, **DOUBLE)


@pytest.mark.parametrize("method", FAMILY)
def test_a_method_of_the_benchmark(method: str, opened: Opened) -> None:
    """Batches keep the last 4 of 36 images, the rate falls after 5 of 8 epochs, and two methods train alone first."""
    options = {"method_args": ("negatives=64",)} if method == "crd" else {}
    alone = method in ("ab", "fsp")
    job, feed = opened(method, epochs=9 if alone else 8, **options)
    own, classifier = copies(job)
    a = Authors(own, job.recipe, classifier)
    layers = [p for name, p in a.layers.named_parameters() if name.split(".")[0] not in ("encoder", "decoder")]
    optimiser = SGD([*own.student.parameters(), *layers], lr=0.05, momentum=0.9, weight_decay=5e-4)
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
        loss.backward()
        if paraphraser is not None:
            paraphraser.zero_grad()
            copied = t[0][-1]
            (a.layers.decoder(a.layers.encoder(copied)) - copied).square().mean().backward()
            paraphraser.step()
        optimiser.step()
        a.losses.append(loss.item())
    assert losses == pytest.approx(means(a.losses, 3), rel=1e-7)
    same(job, own, "student.")
    torch.testing.assert_close(dict(part(job.objective, method).named_parameters()), dict(a.layers.named_parameters()), **DOUBLE)
