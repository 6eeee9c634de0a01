"""Each objective without labels against a plain reading of its paper."""

from collections import deque
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.optim import SGD

from relgraph.names import build_backbone
from relgraph.outputs import Batch, StepInputs, bare
from relgraph.training.objective import Losses, Objective
from relgraph.training.pretraining import MoCo, SelfSupervisionHead, SimCLR
from tests.methods.golden import infonce, ntxent, views_to_images


def inputs(first: Tensor, second: Tensor) -> StepInputs:
    """Return two views of the same images."""
    return StepInputs(first, Batch(torch.arange(len(first)), torch.full((len(first),), -1)), extra=second)


def two_views(count: int) -> tuple[Tensor, Tensor]:
    return (torch.randn(count, 3, 8, 8, dtype=torch.float64), torch.randn(count, 3, 8, 8, dtype=torch.float64))


def close(found: nn.Module, expected: nn.Module, rtol: float, atol: float) -> None:
    """Compare all parameters and buffers."""
    torch.testing.assert_close(dict(found.state_dict()), dict(expected.state_dict()), rtol=rtol, atol=atol)


class PlainSimCLR:
    """SimCLR by hand: one network, both views in one batch; an optimiser with the settings of the objective's."""

    def __init__(self, objective: SimCLR | MoCo, optimiser: SGD) -> None:
        self.query = nn.Sequential(deepcopy(objective.backbone), deepcopy(objective.projector))
        group, self.tau = optimiser.param_groups[0], objective.temperature
        self.optimiser = SGD(
            self.query.parameters(), group["lr"], group["momentum"], weight_decay=group["weight_decay"]
        )

    def step(self, first: Tensor, second: Tensor, order: Tensor, sizes: list[int]) -> Tensor:
        loss = self.loss(first, second, order.split(sizes))  # type: ignore[no-untyped-call]
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        self.optimiser.step()
        return loss.detach()

    def loss(self, first: Tensor, second: Tensor, parts: tuple[Tensor, ...]) -> Tensor:
        one, other = self.query(torch.cat([first, second])).chunk(2)
        return ntxent(one, other, self.tau)


class PlainMoCo(PlainSimCLR):
    """MoCo by hand: a second copy, which moves before it makes the keys part by part, a deque, loops."""

    def __init__(self, objective: MoCo, optimiser: SGD) -> None:
        super().__init__(objective, optimiser)
        self.key, self.momentum = deepcopy(self.query), objective.momentum
        self.queue = deque(objective.queue.keys.clone(), maxlen=len(objective.queue.keys))

    def loss(self, first: Tensor, second: Tensor, parts: tuple[Tensor, ...]) -> Tensor:
        own = torch.empty(len(first), self.queue[0].shape[0], dtype=first.dtype)
        with torch.no_grad():
            for slow, fast in zip(self.key.parameters(), self.query.parameters(), strict=True):
                slow.copy_(self.momentum * slow + (1 - self.momentum) * fast)
            for some in parts:
                own[some] = self.key(second[some])
        loss = infonce(self.query(first), own, self.queue, self.tau)
        self.queue.extend(normalize(own))
        return loss


def optimiser_of(objective: Objective) -> SGD:
    return SGD([p for p in objective.parameters() if p.requires_grad], 0.5, 0.9, weight_decay=1e-3)


def step_of(objective: Objective, optimiser: SGD, first: Tensor, second: Tensor) -> Tensor:
    given = inputs(first, second)
    losses: Losses = objective(given)
    optimiser.zero_grad()
    losses.total.backward()  # type: ignore[no-untyped-call]
    objective.remember(losses, given.batch)
    optimiser.step()
    assert losses.student.embedding.grad_fn is None and losses.degenerate == 0 and losses.teacher_terms == {}
    return losses.total.detach()


def test_simclr_is_nt_xent_of_both_views_through_one_network() -> None:
    objective = SimCLR(build_backbone("resnet8", 3, image_size=8), 6, 9, 0.3).double()
    optimiser = optimiser_of(objective)
    plain = PlainSimCLR(objective, optimiser)
    assert [type(layer) for layer in objective.projector] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    for _ in range(3):
        first, second = two_views(5)
        loss = step_of(objective, optimiser, first, second)
        torch.testing.assert_close(loss, plain.step(first, second, torch.arange(5), [5]), rtol=1e-10, atol=1e-12)
    close(nn.Sequential(objective.backbone, objective.projector), plain.query, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("count", "sizes"), [(10, [3, 3, 2, 2]), (7, [3, 2, 2]), (3, [3])])
def test_moco_is_a_slow_copy_and_a_deque(count: int, sizes: list[int]) -> None:
    objective = MoCo(build_backbone("resnet8", 3, image_size=8), 6, 9, 0.2, queue=13, momentum=0.7).double()
    optimiser = optimiser_of(objective)
    plain = PlainMoCo(objective, optimiser)
    for number in range(4):
        first, second = two_views(count)
        torch.manual_seed(number)
        order = torch.randperm(count)
        torch.manual_seed(number)
        loss = step_of(objective, optimiser, first, second)
        torch.testing.assert_close(loss, plain.step(first, second, order, sizes), rtol=1e-9, atol=1e-11)
    close(nn.Sequential(objective.backbone, objective.projector), plain.query, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close([*objective.keys.parameters()], [*plain.key.parameters()], rtol=1e-7, atol=1e-9)
    assert all(int(count) == 0 for name, count in objective.keys.named_buffers() if "tracked" in name)
    ring = objective.queue.keys.roll(-int(objective.queue.next), 0)
    torch.testing.assert_close(ring, torch.stack([*plain.queue]), rtol=1e-7, atol=1e-9)


def test_moco_has_gradient_for_the_query_alone_and_writes_only_when_told() -> None:
    objective = MoCo(build_backbone("resnet8", 3, image_size=8), 6, None, 0.2, queue=13, momentum=0.7)
    assert [type(layer) for layer in objective.projector] == [nn.Linear, nn.ReLU, nn.Linear]
    assert objective.projector[0].weight.shape == (64, 64), "as wide as the network in the middle"
    assert not {id(p) for p in objective.keys.parameters()} & {id(p) for p in objective.backbone.parameters()}
    before, given = objective.queue.keys.clone(), inputs(*(x.float() for x in two_views(8)))
    losses = objective(given)
    losses.total.backward()
    assert torch.equal(objective.queue.keys, before) and int(objective.queue.next) == 0
    assert all(p.grad is None and not p.requires_grad for p in objective.keys.parameters())
    for part in (objective.backbone, objective.projector):
        assert all(p.grad is not None and bool(p.grad.any()) for p in part.parameters())
    objective.remember(losses, given.batch)
    assert int(objective.queue.next) == 8 and torch.equal(objective.queue.keys[8:], before[8:])
    torch.testing.assert_close(objective.queue.keys.norm(dim=1), torch.ones(13))


def test_the_head_finds_the_image_of_each_transformed_one() -> None:
    objective, batch = SelfSupervisionHead(6, 1.0).double(), Batch(torch.arange(5), torch.full((5,), -1))
    for views in (3, 4):
        images, extra = torch.randn(5, 6, dtype=torch.float64), torch.randn(5 * views, 6, dtype=torch.float64)
        losses = objective(StepInputs(torch.zeros(5), batch, bare(images)._replace(extra=bare(extra))))
        assert list(losses.terms) == ["views_to_images"]
        expected = views_to_images(objective.projector(extra), objective.projector(images))
        assert losses.total.item() == pytest.approx(expected, rel=1e-10)
    assert objective.projector[0].weight.shape == objective.projector[-1].weight.shape == (6, 6)
