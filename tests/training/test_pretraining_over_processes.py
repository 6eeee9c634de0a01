"""n processes pre-train what one trains: losses, gradients, weights, statistics and queues, and whole runs."""

from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

from relgraph.data.datasets import DataSet
from relgraph.data.images import ImageSet
from relgraph.names import build_backbone
from relgraph.networks.batch_norm import synchronised
from relgraph.outputs import Batch, StepInputs, bare
from relgraph.processes import SINGLE_PROCESS, ProcessGroup
from relgraph.training.building import ddp_options
from relgraph.training.objective import Objective
from relgraph.training.pretrain_recipe import PretrainRecipe, resolve_pretraining
from relgraph.training.pretraining import MoCo, SelfSupervisionHead, SimCLR, pretrain
from relgraph.training.runs import RunDirectory
from relgraph.training.tasks import Neighbours
from tests.checks import case, refusal
from tests.processes import run_on
from tests.training.conftest import states
from tests.training.test_runs_over_processes import launched

STEPS, WIDTH, VIEWS = 3, 6, 3
# Images of a batch: of MoCo's four groups one of three processes has two, and of three images' one group two have none.
ON_TWO, ON_THREE = {"simclr": 12, "moco": 12, "sskd-head": 12}, {"simclr": 12, "moco": 12, "moco of three": 3}


class Trained(NamedTuple):
    """What a training came to: each step's loss, the first gradient, and the state at the end."""

    losses: Tensor
    gradients: dict[str, Tensor]
    state: dict[str, Tensor]


def objective(name: str, processes: ProcessGroup) -> Objective:
    torch.manual_seed(1)
    if name == "sskd-head":
        return SelfSupervisionHead(WIDTH, 1.0, processes).double()
    backbone = build_backbone("resnet8", 3, image_size=8)
    network: SimCLR | MoCo
    if name == "simclr":
        network = SimCLR(backbone, 5, 9, 0.3, processes)
    else:  # every second batch goes over the end of the queue
        network = MoCo(backbone, 5, 9, 0.2, queue=20, momentum=0.7, processes=processes)
    synchronised(nn.ModuleList([network.backbone, network.projector]), processes)
    return network.double()


def inputs(count: int, rows: slice) -> StepInputs:
    """Return those rows of a batch: two views of images, and a teacher's features of them and of more views."""
    first, second = torch.randn(2, count, 3, 8, 8, dtype=torch.float64)[:, rows]
    features = torch.randn(VIEWS + 1, count, WIDTH, dtype=torch.float64)[:, rows]
    outputs = bare(features[0])._replace(extra=bare(features[1:].flatten(0, 1)))
    batch = Batch(torch.arange(count)[rows], torch.full((count,), -1)[rows])
    return StepInputs(first, batch, outputs, second)


def train(processes: ProcessGroup, name: str, count: int) -> Trained:
    module = objective(name, processes).train()
    wrapped = DistributedDataParallel(module, **ddp_options()) if processes.count > 1 else module
    optimiser = SGD([p for p in module.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    losses, gradients = list[Tensor](), dict[str, Tensor]()
    torch.manual_seed(3)  # also the order in which MoCo shuffles
    for _ in range(STEPS):
        given = inputs(count, processes.rows(count))
        optimiser.zero_grad()
        found = wrapped(given)
        found.total.backward()
        module.remember(found, given.batch)
        gradients = gradients or {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
        optimiser.step()
        losses.append(processes.mean_(found.total.detach().clone()))
    return Trained(torch.stack(losses), gradients, states(module))


def train_all(processes: ProcessGroup, sizes: dict[str, int]) -> dict[str, Trained]:
    return {name: train(processes, name, count) for name, count in sizes.items()}


@pytest.mark.parametrize(("count", "sizes"), [(2, ON_TWO), pytest.param(3, ON_THREE, marks=pytest.mark.slow)])
def test_n_processes_equal_one(count: int, sizes: dict[str, int], tmp_path: Path) -> None:
    found = run_on(count, train_all, tmp_path, sizes)
    for name, expected in train_all(SINGLE_PROCESS, sizes).items():
        assert len(set(expected.losses.tolist())) == STEPS and all(bool(g.any()) for g in expected.gradients.values())
        for number, trained in enumerate(found):
            with case(name, number):
                torch.testing.assert_close(trained[name].losses, expected.losses, rtol=1e-9, atol=1e-11)
                torch.testing.assert_close(trained[name].gradients, expected.gradients, rtol=1e-8, atol=1e-10)
                torch.testing.assert_close(trained[name].state, expected.state, rtol=1e-6, atol=1e-8)


def keys_and_features(processes: ProcessGroup, images: Tensor) -> tuple[bool, Tensor]:
    """Return whether each image has its own key, and what a task embeds of two images."""
    module = objective("moco", processes)
    assert isinstance(module, MoCo)
    module.keys = nn.Sequential(nn.AvgPool2d(8), nn.Flatten())
    module._follow = lambda: None  # type: ignore[method-assign]
    torch.manual_seed(processes.rank)  # dropout moves the generators of processes apart
    own = images[processes.rows(len(images))]
    right = torch.allclose(module._key(own), own.mean((2, 3)))
    few = ImageSet(torch.arange(6, dtype=torch.uint8).view(2, 3, 1, 1), torch.zeros(2), (), "val", torch.arange(2))
    task = Neighbours(cast(DataSet, None), Tensor.float, torch.device("cpu"), 0, processes)
    return right, task.embed(nn.Flatten(), few)


def test_keys_are_of_their_images_and_a_process_may_have_none(tmp_path: Path) -> None:
    for right, features in run_on(3, keys_and_features, tmp_path, torch.rand(12, 5, 8, 8, dtype=torch.float64)):
        assert right and features.tolist() == [[0, 1, 2], [3, 4, 5]]


# Whole runs


def work(processes: ProcessGroup, recipes: dict[str, PretrainRecipe], odd: PretrainRecipe, folder: Path) -> str:
    launched(processes)
    for name, recipe in recipes.items():
        pretrain(recipe, folder / name / str(processes.rank))
    return refusal(partial(pretrain, odd, folder / "odd"))


@pytest.mark.slow
def test_runs_of_two_processes_have_the_figures_of_one(images: Path, tmp_path: Path) -> None:
    def recipe(objective: str, **options: object) -> PretrainRecipe:
        quick = {"dataset": f"folder:{images}", "epochs": 2, "batch_size": 12, "lr": 0.01, "batch_norm": "sync"}
        own = {"teacher": "embedded:digits"} if objective == "sskd-head" else {"network": "resnet8", "dim": 8}
        plain = {"device": "cpu", "precision": "32-true", "threads": 1, **options}
        return resolve_pretraining({"objective": objective, **quick, **own, **plain})

    streamed = recipe("simclr", images="stream", workers=0)
    recipes = {"simclr": streamed, "moco": recipe("moco", queue=20), "sskd-head": recipe("sskd-head")}
    told = run_on(2, work, tmp_path, recipes, recipe("simclr", batch_size=7), tmp_path, seconds=240)
    assert set(told) == {
        "every batch is split evenly over 2 processes: choose another batch_size or number of processes, got 7 images"
    }
    for name, wanted in recipes.items():
        expected = pretrain(wanted, tmp_path / name / "alone")
        run, alone = RunDirectory.open(tmp_path / name / "0"), RunDirectory.open(tmp_path / name / "alone")
        assert not (tmp_path / name / "1").exists() and run.result()["processes"] == 2
        assert {file.name for file in run.path.iterdir()} == {file.name for file in alone.path.iterdir()}
        assert run.result().keys() == expected.keys() and run.inputs() == alone.inputs()
        for row, other in zip(run.read_metrics(), alone.read_metrics(), strict=True):
            assert row.keys() == other.keys() and row["degenerate"] == other["degenerate"]
            assert row["loss"] == pytest.approx(other["loss"], rel=1e-3), name
