"""The moving average of a student against timm's and torch's."""

from typing import Any

import pytest
import torch
from timm.utils import ModelEmaV3  # type: ignore[attr-defined]
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from relgraph.training.moving_average import MovingAverage
from tests.training.conftest import equal, states


class Small(nn.Module):
    """Weights, statistics, a count, and a table of positions that is in no state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4)
        self.register_buffer("table", torch.arange(100), persistent=False)


def drifting(network: nn.Module, steps: int) -> Any:
    """Change a network by random numbers, step by step, and its count by one."""
    random = torch.Generator().manual_seed(0)
    for _ in range(steps):
        for tensor in network.state_dict().values():
            tensor += torch.randn(tensor.shape, generator=random) if tensor.is_floating_point() else 1
        yield


def averaged(network: nn.Module, decay: float) -> Any:
    """Return torch's average."""
    average: Any = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)


LATE = 10**6  # a step at which the decay alone counts


def test_it_is_that_of_timm_and_of_torch() -> None:
    network: Any = Small().train()
    network.layer.bias.requires_grad_(False)
    average, of_timm = MovingAverage(network, 0.9), ModelEmaV3(network, decay=0.9)
    of_torch = averaged(network, 0.9)
    of_torch.update_parameters(network)  # its first update copies
    before = states(network)
    assert equal(states(average.student), before)
    for step, _ in enumerate(drifting(network, 5), LATE):
        average.update(step)
        of_timm.update(network)
        of_torch.update_parameters(network)
    found = states(average.student)
    assert found["norm.num_batches_tracked"] == 5 and not equal(found, states(network))
    assert equal(found, states(of_timm.module))
    assert all(torch.equal(found[name], x) for name, x in states(of_torch.module).items() if x.is_floating_point())
    assert not average.student.training and network.training
    assert not any(p.requires_grad for p in average.student.parameters()) and network.layer.weight.requires_grad


def test_in_the_beginning_it_spans_the_last_steps() -> None:
    """Each step has the weight of its own share and of what later steps leave; the first weights soon have none."""
    network: Any = Small()
    average, seen = MovingAverage(network, 0.7), [network.layer.weight.detach().clone()]
    for step, _ in enumerate(drifting(network, 40)):
        average.update(step)
        seen.append(network.layer.weight.detach().clone())
    decays = torch.tensor([1.0, *(min(0.7, (1 + step) / (10 + step)) for step in range(40))])
    shares = torch.tensor([1.0, *(1 - decays[1:])])
    weights = torch.stack([share * decays[number + 1 :].prod() for number, share in enumerate(shares)])
    assert (
        float(weights.sum()) == pytest.approx(1)
        and float(weights[0]) < 1e-7
        and float(weights[-1]) == pytest.approx(0.3)
    )
    expected = (weights[:, None, None] * torch.stack(seen)).sum(0)
    torch.testing.assert_close(average.student.layer.weight.detach(), expected, rtol=1e-5, atol=1e-5)  # type: ignore[union-attr,operator]


def test_tables_of_integers_stay_as_they_are() -> None:
    """Torch's average rounds entries down: 0.9999 and 0.0001 of a number do not always add up to it in float32."""
    network: Any = Small()
    average = MovingAverage(network, 0.9999)
    of_torch = averaged(network, 0.9999)
    for step in range(LATE, LATE + 2):
        average.update(step)
        of_torch.update_parameters(network)
    assert torch.equal(average.student.table, network.table)  # type: ignore[arg-type]
    assert not torch.equal(of_torch.module.table, network.table)
