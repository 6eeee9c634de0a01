"""n processes equal one: losses, averaged gradients and trained parameters of every method, on processes of gloo."""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

from relgraph.graph.criteria import mean_square
from relgraph.graph.kernels import cosine, linear
from relgraph.graph.relation import Relation
from relgraph.graph.topology import Nearest
from relgraph.methods import METHODS, Batch, RunFacts
from relgraph.names import build_method
from relgraph.networks.backbone import Backbone
from relgraph.networks.batch_norm import synchronised
from relgraph.networks.heads import Head, Projector, Student
from relgraph.outputs import BatchEdges, Output, StepInputs, bare
from relgraph.processes import SINGLE_PROCESS, ProcessGroup
from relgraph.training.building import ddp_options
from relgraph.training.objective import Distiller
from relgraph.training.spread import labelled_cross_entropy
from tests.processes import run_on
from tests.training.conftest import states
from tests.training.outside import Echo

N, IMAGES, DIM, CLASSES, VIEWS, STEPS = 12, 24, 5, 4, 3, 5
# Equal in both networks, which FSP needs, and the last channels a multiple of those before, which IRG needs.
MAPS = ((3, 8, 8), (3, 8, 8), (4, 4, 4), (8, 2, 2))
WIDTH, TEACHER_WIDTH = 8, 7
# Of seven seeds: all that one of two processes has, and one of the other's.
SEEDS = torch.arange(7).repeat_interleave(3)
NEIGHBOURHOODS = BatchEdges(torch.stack([(SEEDS + torch.tensor([1, 4, 6]).repeat(7)) % N, SEEDS]), 7, 3)
MESSAGES = BatchEdges(torch.stack([torch.arange(N).roll(2), torch.arange(N)]), N)
OWN = Relation(cosine, Nearest(3), criterion=lambda s, t: (s - t).abs().mean(-1))
# Every method on all pairs; some on neighbours too, and what is made of several parts.
CASES: dict[str, dict[str, Any]] = {
    **{name: {"method": name} for name in METHODS if name != "holistic"},
    "score maps": {"method": "skd+0.1*holistic", "arguments": ["width=8", "conditional=true"], "segments": True},
    **{f"{name} knn": {"method": name, "graph": "knn", "k": 4} for name in ("ega", "rkd", "crd")},
    "keys of a queue": {"method": "csd", "arguments": ["memory=queue", "queue=30", "length=7"]},
    "keys of all images": {"method": "d3still", "arguments": ["memory=images", "length=6"]},
    "none": {"method": "none"},
    "sum": {"method": "0.5*ega+2*sp+kd+seed"},
    "sum in parts": {"method": "0.5*ega+2*sp+kd+seed", "parts": 2},
    "memories in parts": {"method": "crd", "parts": 2},
    "neighbourhoods": {"method": "ega+0.5*csd+2*kd+nce", "graph": "knn", "k": 3, "edges": NEIGHBOURHOODS},
    "refined": {"method": "ega", "refine": "conv"},
    "refined neighbourhoods": {
        "method": "ega+0.5*csd+pkt",
        "graph": "knn",
        "k": 3,
        "refine": "conv",
        "edges": NEIGHBOURHOODS._replace(messages=MESSAGES),
    },
    "refined features": {"method": "rkd", "refine": "conv"},
    "an anchor with batch norm": {"method": "anchor", "arguments": ["head=mlp"]},
    "unbiased": {"method": "cka", "arguments": ["unbiased=true"]},
    "centred factors": {"method": "cka", "form": "factored"},
    "patches": {"method": "seed", "arguments": ["patches=3"]},
    "other parts": {"method": "ega", "kernel": "cosine", "scale": "by_mean", "criterion": "huber"},
    "of a user's own": {"method": [Echo, (0.5, OWN), Relation(linear, criterion=mean_square), "kd"]},
    "of a user's own in parts": {"method": [Echo, (0.5, OWN)], "parts": 2},
}
# A process between two others: of memories, views, parts, edges.
ON_THREE = ("crd", "sskd", "sum in parts", "refined", "of a user's own")


class Net(Backbone):
    """Four stages, the first with batch norm: each costs the processes two messages a step."""

    def __init__(self, batch_norm: bool) -> None:
        super().__init__()
        self.width = WIDTH
        channels = [1, *(shape[0] for shape in MAPS)]
        strides = [1, *(a[1] // b[1] for a, b in pairwise(MAPS))]
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 3, stride, 1), nn.BatchNorm2d(b) if a == 1 and batch_norm else nn.Identity(), nn.Tanh()
            )
            for a, b, stride in zip(channels, channels[1:], strides, strict=False)
        )

    def stages(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the maps and their last one, pooled."""
        maps = []
        for layer in self.layers:
            images = layer(images)
            maps.append(images)
        return tuple(maps), images.mean((2, 3))


class Segmenter(Student):
    """A student with logits at each position of its second stage map."""

    def __init__(self, batch_norm: bool) -> None:
        super().__init__(Net(batch_norm), DIM, CLASSES)
        self.score = nn.Conv2d(MAPS[1][0], CLASSES, 1)

    def forward(self, images: Tensor) -> Output:
        """Return the outputs."""
        found = super().forward(images)
        return found._replace(logits=self.score(found.maps[1]))


def mean_cross_entropy(logits: Tensor, labels: Tensor, processes: ProcessGroup) -> Tensor:
    return labelled_cross_entropy(logits.mean((2, 3)), labels, processes)


class Trained(NamedTuple):
    """What a training came to."""

    losses: list[float]
    terms: dict[str, float]
    gradients: dict[str, Tensor]
    state: dict[str, Tensor]


def distiller(options: dict[str, Any], processes: ProcessGroup = SINGLE_PROCESS) -> Distiller:
    torch.manual_seed(1)
    run = RunFacts(
        DIM, WIDTH, TEACHER_WIDTH, MAPS, MAPS, IMAGES, labels(), ss_head=Projector(TEACHER_WIDTH, TEACHER_WIDTH),
        scores=(CLASSES, 8, 8), image=(1, 8, 8),
    )  # fmt: skip
    shared = {"temperature": 4.0, "node_weight": 0.8, "edge_weight": 0.24, **options}
    single = isinstance(options["method"], str) and options["method"] in METHODS
    queued = "seed" in options["method"] or options["method"] in ("moco", "rrd", "lightly")
    arguments = [*options.get("arguments", ()), *([("" if single else "seed.") + "queue=30"] if queued else [])]
    # Published weights are in the thousands, for losses of very small numbers.
    method = build_method(options["method"], run, shared, arguments, 1.0 if single else None)
    head = Head(TEACHER_WIDTH, DIM, CLASSES)
    if "segments" in options:
        own: dict[str, Any] = {"head_read": False, "own_logits": True, "label_loss": mean_cross_entropy}
        return Distiller(Segmenter(True), head, method, processes=processes, **own).double()
    student = Student(Net("parts" not in options), DIM, CLASSES)
    parts = options.get("parts", 1) if processes.count > 1 else 1  # one process has the batch in one part
    return Distiller(student, head, method, gamma=1.0, alpha=0.3, processes=processes, parts=parts).double()


def labels() -> Tensor:
    known = torch.arange(IMAGES) % CLASSES
    return torch.where(torch.arange(IMAGES) % 5 == 2, -1, known)


def batches() -> Iterator[StepInputs]:
    random = torch.Generator().manual_seed(2)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    for _ in range(STEPS):
        maps = tuple(draw(N, *shape) for shape in MAPS)
        index = torch.randperm(IMAGES, generator=random)[:N]
        teacher, of_extra = bare(draw(N, TEACHER_WIDTH)), bare(draw(VIEWS * N, TEACHER_WIDTH))
        images, extra = draw(N, 1, 8, 8), draw(VIEWS * N, 1, 8, 8)
        given = Batch(index, labels()[index])
        teacher = teacher._replace(logits=maps[1][:, [0, 1, 2, 0]], maps=maps, extra=of_extra)  # at positions
        yield StepInputs(images, given, teacher, extra)


def part_of(inputs: StepInputs, rows: slice) -> StepInputs:
    """Return those images of a batch, with all their extra views."""

    def views(x: Tensor) -> Tensor:
        return x.view(VIEWS, N, *x.shape[1:])[:, rows].flatten(0, 1)

    teacher, extra = inputs.teacher, inputs.extra
    assert teacher is not None and teacher.extra is not None and extra is not None
    own: Output = teacher._replace(extra=None).each(lambda x: x[rows])._replace(extra=teacher.extra.each(views))
    batch = Batch(inputs.batch.indices[rows], inputs.batch.labels[rows], inputs.batch.edges)
    return StepInputs(inputs.images[rows], batch, own, views(extra))


def train(processes: ProcessGroup, options: dict[str, Any]) -> Trained:
    """Train a small student on the rows that a process has of each batch."""
    module = distiller(options, processes)
    synchronised(module, processes)
    module.train()
    wrapped: nn.Module = module
    if processes.count > 1:
        wrapped = DistributedDataParallel(module, **ddp_options())
    own = {"params": list(module.teacher_parameters()), "momentum": 0.0}
    groups: list[dict[str, Any]] = [{"params": module.student_parameters()}, own]
    optimiser = SGD(groups, lr=1e-2, momentum=0.9)
    torch.manual_seed(3)
    values, rows = list[Tensor](), processes.rows(N)
    named, gradients = dict[str, Tensor](), dict[str, Tensor]()
    for inputs in batches():
        brought = inputs.batch._replace(edges=options.get("edges"))
        given = part_of(inputs._replace(batch=brought), rows)
        optimiser.zero_grad()
        found = wrapped(given)
        found.total.backward()
        module.remember(found, given.batch)
        named = {**found.terms, **found.teacher_terms}
        values.append(torch.stack([term.detach() for term in named.values()]))
        if not gradients:
            gradients = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
        optimiser.step()
    means = processes.mean_(torch.stack(values))
    return Trained(means.sum(1).tolist(), dict(zip(named, means[0].tolist(), strict=True)), gradients, states(module))


def train_all(processes: ProcessGroup, names: list[str]) -> dict[str, Trained]:
    return {name: train(processes, CASES[name]) for name in names}


@pytest.fixture(scope="module")
def alone() -> dict[str, Trained]:
    return train_all(SINGLE_PROCESS, list(CASES))


@pytest.mark.parametrize(("count", "names"), [(2, CASES), pytest.param(3, ON_THREE, marks=pytest.mark.slow)])
def test_n_processes_equal_one(count: int, names: Iterable[str], alone: dict[str, Trained], tmp_path: Path) -> None:
    """All in one start of the processes; a gradient that one of them lacks is 0 there."""
    found = run_on(count, train_all, tmp_path, list(names), seconds=240)
    failed = {}
    for name in names:
        try:
            check(alone[name], [trained[name] for trained in found])
        except AssertionError as error:  # all that differ are told
            failed[name] = str(error)
    assert not failed, "\n".join(f"{name}: {told}" for name, told in failed.items())


def check(expected: Trained, processes: list[Trained]) -> None:
    for found in processes:
        assert found.terms == pytest.approx(expected.terms, rel=1e-10, abs=1e-12)
        assert found.gradients.keys() == expected.gradients.keys()
        for parameter, gradient in expected.gradients.items():
            scale = float(gradient.abs().max())
            torch.testing.assert_close(found.gradients[parameter], gradient, rtol=1e-9, atol=1e-10 * max(1.0, scale))
        assert found.losses == pytest.approx(expected.losses, rel=1e-8)
        for key, value in expected.state.items():
            assert torch.allclose(found.state[key], value, rtol=1e-7, atol=1e-8), key


def test_training_changes_what_is_compared(alone: dict[str, Trained]) -> None:
    """Or the tests above would compare what nothing moves."""
    for name, found in alone.items():
        assert max(found.losses) - min(found.losses) > 1e-3, name
        assert any(float(g.abs().max()) > 1e-6 for g in found.gradients.values()), name
