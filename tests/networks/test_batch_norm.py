"""Synchronised batch norm on two and three processes against torch's batch norm on one with the whole batch."""

import copy
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from relgraph.networks.batch_norm import Synchronised, average_statistics, synchronised
from relgraph.processes import SINGLE_PROCESS, ProcessGroup
from tests.checks import assert_refused_like
from tests.processes import run_on

N, STEPS = 12, 3
# Name of the layer, how it is made, and the shape of its input.
LAYERS: dict[str, tuple[type[nn.Module], dict[str, Any], tuple[int, ...]]] = {
    "2d": (nn.BatchNorm2d, {}, (N, 5, 3, 4)),
    "1d": (nn.BatchNorm1d, {}, (N, 5)),
    "1d of sequences": (nn.BatchNorm1d, {}, (N, 5, 7)),
    "one number": (nn.BatchNorm1d, {}, (3, 5)),
    "no affine": (nn.BatchNorm2d, {"affine": False}, (N, 5, 3, 4)),
    "no momentum": (nn.BatchNorm2d, {"momentum": None}, (N, 5, 3, 4)),
    "other momentum and eps": (nn.BatchNorm1d, {"momentum": 0.3, "eps": 0.1}, (N, 5)),
    "no statistics": (nn.BatchNorm2d, {"track_running_stats": False}, (N, 5, 3, 4)),
}


def make(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Return a batch norm with parameters of its own."""
    kind, options, _ = LAYERS[name]
    layer = kind(5, **options).to(dtype)
    with torch.no_grad():
        for seed, parameter in enumerate(layer.parameters()):
            parameter.copy_(torch.randn(5, generator=torch.Generator().manual_seed(seed)))
    return layer


def inputs(name: str, step: int = 0) -> tuple[Tensor, Tensor]:
    """Return a batch with a channel of a large mean and a constant one, and the gradient of its output."""
    generator = torch.Generator().manual_seed(100 + step)
    x, of_seen = torch.randn(2, *LAYERS[name][2], generator=generator, dtype=torch.float64).unbind()
    x[:, 1] += 1e3
    x[:, 2] = 0.5
    return x, of_seen


def run(processes: ProcessGroup, name: str, layer: nn.Module) -> dict[str, Tensor]:
    """Return outputs, gradients and buffers of a few steps, this process's rows of each batch seen."""
    result = {}
    for step in range(STEPS):
        x, of_seen = inputs(name, step)
        rows = processes.rows(len(x))
        x = x[rows].requires_grad_()
        seen = layer(x)
        # Gradients of what all processes share are their own times W, and parameters are averaged afterwards.
        seen.backward(of_seen[rows] * processes.count)
        assert x.grad is not None
        result[f"seen {step}"], result[f"x {step}"] = seen.detach(), x.grad / processes.count
    for key, parameter in layer.named_parameters():
        assert parameter.grad is not None
        result[key] = processes.mean_(parameter.grad)
    return {**result, **dict(layer.named_buffers())}


def run_all(processes: ProcessGroup) -> dict[str, dict[str, Tensor]]:
    fitting = [name for name, (_, _, shape) in LAYERS.items() if shape[0] % processes.count == 0]
    return {name: run(processes, name, synchronised(make(name), processes)) for name in fitting}


def test_processes_are_one_with_the_whole_batch(tmp_path: Path) -> None:
    for count in (2, 3):
        by_rank = run_on(count, run_all, tmp_path)
        for name in by_rank[0]:
            for key, expected in run(SINGLE_PROCESS, name, make(name)).items():
                parts = [results[name][key] for results in by_rank]
                for part in [torch.cat(parts)] if key.startswith(("seen", "x")) else parts:
                    assert part.dtype == expected.dtype
                    torch.testing.assert_close(part, expected, rtol=1e-10, atol=1e-10, msg=f"{name}, {key}")
        assert len(by_rank[0]) == len(LAYERS) - (count == 2)


def coarse(processes: ProcessGroup, dtype: torch.dtype, autocast: bool) -> dict[str, Tensor]:
    """Return output, gradients and statistics of images in half precision, stored channels last."""
    x, of_seen = inputs("2d")
    rows = processes.rows(N)
    x = x[rows].to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    layer = synchronised(make("2d", torch.float32), processes)
    with torch.autocast("cpu", dtype=dtype) if autocast else nullcontext():
        seen = layer(x)
    seen.backward(of_seen[rows].to(dtype) * processes.count)
    assert x.grad is not None and isinstance(layer.weight, Tensor) and layer.weight.grad is not None
    assert seen.is_contiguous(memory_format=torch.channels_last) and seen.dtype == x.grad.dtype == dtype
    found = {"seen": seen.detach(), "x": x.grad / processes.count, "weight": processes.mean_(layer.weight.grad)}
    return {**found, **dict(layer.named_buffers())}


HALVES = ((torch.bfloat16, False), (torch.bfloat16, True), (torch.float16, False))


def all_coarse(processes: ProcessGroup) -> list[dict[str, Tensor]]:
    return [coarse(processes, *half) for half in HALVES]


def test_half_precision_has_statistics_in_float32(tmp_path: Path) -> None:
    results = zip(HALVES, *run_on(2, all_coarse, tmp_path), all_coarse(SINGLE_PROCESS), strict=True)
    for (dtype, _), first, second, expected in results:
        for key in ("seen", "x"):
            # The input's gradient is rounded twice where torch's is rounded once.
            both, eps = torch.cat((first[key], second[key])), torch.finfo(dtype).eps
            atol = 4 * eps * float(expected[key].abs().max())
            torch.testing.assert_close(both, expected[key], rtol=2 * eps, atol=atol)
        for key in ("running_mean", "running_var"):
            assert first[key].dtype == torch.float32
            torch.testing.assert_close(first[key], expected[key], rtol=1e-6, atol=1e-6)
        # A mean of 1,000 has an error of 3e-5 in float32, which the gradients of the channel multiply by their sum.
        torch.testing.assert_close(first["weight"], expected["weight"], rtol=1e-5, atol=2e-3)


def network() -> nn.Sequential:
    """Return layers with batch norms, one of them twice and one of them timm's with an activation."""
    from timm.layers.norm_act import BatchNormAct2d

    torch.manual_seed(5)
    shared = nn.BatchNorm2d(4)
    with_act = BatchNormAct2d(4, act_layer=nn.SiLU)
    return nn.Sequential(nn.Conv2d(3, 4, 3), shared, with_act, nn.Sequential(nn.Conv2d(4, 4, 1), shared), nn.Flatten())


def train(processes: ProcessGroup) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Return loss, state after three steps, and the evaluation of a network, as DDP trains it on several processes."""
    layers = synchronised(network().double(), processes)
    student = layers if processes.count == 1 else DistributedDataParallel(layers)
    optimizer = torch.optim.SGD(layers.parameters(), lr=0.1)
    x = torch.randn(8, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        nodes = processes.gather(student(x[processes.rows(8)]))
        loss = (nodes @ nodes.T).softmax(1).square().mean()  # of all pairs of the whole batch
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return loss.detach(), layers.state_dict(), layers.eval()(x).detach()


def test_a_network_trains_as_on_one_process(tmp_path: Path) -> None:
    loss, state, evaluated = train(SINGLE_PROCESS)
    for result in run_on(2, train, tmp_path):
        assert list(result[1]) == list(state)
        torch.testing.assert_close(result, (loss, state, evaluated), rtol=1e-10, atol=1e-10)


def test_layers_stay_what_they_are() -> None:
    layers = network()
    before, modules = dict(layers.named_parameters()), list(layers.modules())
    layers[2].eval()
    assert synchronised(layers, ProcessGroup(0, 2)) is layers
    assert list(layers.modules()) == modules and layers[1] is layers.get_submodule("3.1")
    assert [isinstance(layer, Synchronised) for layer in layers[:3]] == [False, True, True]
    assert all(parameter is before[name] for name, parameter in layers.named_parameters())
    assert list(layers.state_dict()) == list(network().state_dict())
    assert layers[1].training and not layers[2].training
    kinds = [type(layer) for layer in layers.modules()]
    assert [type(layer) for layer in synchronised(copy.deepcopy(layers), ProcessGroup(0, 2)).modules()] == kinds


def test_evaluation_is_plain_batch_norm() -> None:
    plain = network()
    x = torch.randn(4, 3, 5, 5)
    plain(x)
    layers = synchronised(copy.deepcopy(plain), ProcessGroup(1, 3)).eval()  # no group: nothing may be sent
    assert torch.equal(layers(x), plain.eval()(x))
    alone = synchronised(network(), SINGLE_PROCESS)
    assert not any(isinstance(layer, Synchronised) for layer in alone.modules())


class Other(nn.BatchNorm2d):
    """A batch norm that does something else besides."""


def test_a_batch_norm_of_another_kind_is_refused() -> None:
    mixed, plain = (
        partial(synchronised, layers, ProcessGroup(0, 2))
        for layers in (nn.Sequential(nn.ReLU(), nn.Sequential(Other(3))), nn.BatchNorm1d(5))
    )
    assert_refused_like(
        (mixed, r"supports BatchNorm1d.* and timm's BatchNormAct2d, got Other in '1.0'"),
        (lambda: plain()(torch.zeros(5)), r"a batch norm needs a tensor \(N, C, ...\), got \(5,\)"),
    )


def averaged(processes: ProcessGroup) -> dict[str, Tensor]:
    layers = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False), nn.BatchNorm1d(2))
    for name, buffer in layers.named_buffers():
        buffer += 7 if name.endswith("tracked") else processes.rank
    average_statistics(layers, processes)
    return dict(layers.named_buffers())


def test_statistics_are_averaged_and_counts_stay(tmp_path: Path) -> None:
    for buffers in run_on(3, averaged, tmp_path):
        assert len(buffers) == 6
        for key, expected in (("running_mean", 1.0), ("running_var", 2.0), ("num_batches_tracked", 7)):
            assert all(buffers[f"{layer}.{key}"].eq(expected).all() for layer in (0, 2))
    assert torch.equal(averaged(SINGLE_PROCESS)["0.running_var"], torch.ones(2))
