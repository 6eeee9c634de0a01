"""Batch normalisation over a batch that is spread over processes.

torch's SyncBatchNorm runs on GPUs only, and waits for the GPU in every layer; this one computes the same on any device
and waits for none. It supports both kinds of batch norm of the networks here: torch's, and timm's with an activation.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from relgraph.errors import RelgraphError
from relgraph.gradients import once_differentiable
from relgraph.processes import ProcessGroup

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def synchronised(module: nn.Module, processes: ProcessGroup) -> nn.Module:
    """Make every batch norm of a module normalise over the rows of all processes, and return the module.

    The layers stay the objects that they are, with their parameters, buffers and names in the state dict. In training
    mode each takes mean and variance over the whole batch, `(x - mean) / sqrt(variance + eps) * weight + bias`, and its
    running statistics are those of the whole batch; in evaluation mode, and of one process, nothing changes. Every
    process must hold equally many rows (`ProcessGroup.rows`), and each layer sends 2 C numbers per process forward and
    2 C backward. The gradient is that of the sum of the processes' losses, as torch's SyncBatchNorm has it; those of
    weight and bias are to be averaged over the processes (`relgraph.processes`).

    Raises:
        RelgraphError: if a layer is a batch norm of another kind, whose own forward pass would be lost.

    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    >>> type(synchronised(network, ProcessGroup(0, 2))[1]).__name__
    'Synchronised'
    """
    if processes.count > 1:
        for name, layer in module.named_modules():
            if isinstance(layer, _BatchNorm):
                # timm's by name, since timm takes seconds to import.
                if type(layer) not in (*PLAIN, Synchronised) and type(layer).__name__ != "BatchNormAct2d":
                    raise RelgraphError(
                        f"synchronised batch norm supports {', '.join(kind.__name__ for kind in PLAIN)} and timm's "
                        f"BatchNormAct2d, got {type(layer).__name__} in {name or 'the network'!r}"
                    )
                layer.__class__ = Synchronised
                layer.__dict__["processes"] = processes
    return module


def without_statistics(module: nn.Module) -> nn.Module:
    """Let the batch norms of a module that is never evaluated leave their running statistics alone, and return it."""
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            layer.track_running_stats = False
    return module


def average_statistics(module: nn.Module, processes: ProcessGroup) -> None:
    """Replace the running means and variances of all batch norms by their means over the processes.

    For networks whose batch norms each used the rows of their own process, before they are evaluated or stored.
    """
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            for statistic in (layer.running_mean, layer.running_var):
                if statistic is not None:
                    processes.mean_(statistic)


class Synchronised(_BatchNorm):
    """A batch norm over the rows of all processes; `synchronised` makes it of a batch norm.

    It is followed by dropout and activation where it had them within, as timm's `BatchNormAct2d` has.
    """

    processes: ProcessGroup
    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised `(N / W, C, ...)`, in the type and memory format of the input."""
        normalised: Tensor
        if self.training:
            self._check_input_dim(input)
            normalised, mean, variance = _Normalise.apply(input, self.weight, self.bias, self.eps, self.processes)
            self._track(mean, variance, input.numel() // input.shape[1] * self.processes.count)
        else:
            normalised = super().forward(input)
        return self.act(self.drop(normalised)) if "act" in self._modules else normalised

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise RelgraphError(f"a batch norm needs a tensor (N, C, ...), got {tuple(input.shape)}")

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Update the running statistics by those of `count` numbers per channel."""
        if not self.track_running_stats:
            return
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        unbiased = variance * (count / (count - 1))
        for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            # Without momentum the mean over all batches so far, as a tensor: nothing is read back from a device.
            share = self.num_batches_tracked.to(running.dtype).reciprocal() if self.momentum is None else self.momentum
            running.lerp_(new.to(running.dtype), share)


class _Normalise(torch.autograd.Function):
    """Batch norm by the statistics of all processes' rows; also returns their mean and biased variance."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, processes: ProcessGroup
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, variance = _statistics(x, processes)
        ctx.mark_non_differentiable(mean, variance)
        weight = torch.ones_like(mean) if weight is None else weight.to(mean.dtype)
        bias = torch.zeros_like(mean) if bias is None else bias.to(mean.dtype)
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps, ctx.processes = eps, processes
        return functional.batch_norm(x, mean, variance, weight, bias, eps=eps), mean, variance

    @staticmethod
    @once_differentiable("normalise in one process")
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        # With statistics that are given: per channel, the sums of gradient * (x - mean) / deviation and of gradient.
        of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        if ctx.needs_input_grad[0]:
            # The part of the statistics is subtracted: weight / (deviation n) times both sums over the processes, the
            # first of them for each (x - mean) / deviation. That is itself an affine batch norm of x.
            count = x.numel() // x.shape[1] * ctx.processes.count
            slope, shift = ctx.processes.sum(torch.stack((of_weight, of_bias))) * (
                weight * (variance + ctx.eps).rsqrt() / -count
            )
            of_x += functional.batch_norm(x, mean, variance, slope, shift, eps=ctx.eps)
        gradients = zip((of_x, of_weight, of_bias), ctx.needs_input_grad[:3], strict=True)
        return *(each if needed else None for each, needed in gradients), None, None


def _statistics(x: Tensor, processes: ProcessGroup) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each channel over all processes' rows, in float32 or wider.

    With equally many rows the mean is the mean of the processes' means, and the variance the mean of their variances
    plus the variance of their means (Chan, Golub, LeVeque 1979): no square of a large mean is ever taken.
    """
    at_least_float32 = x.to(torch.promote_types(x.dtype, torch.float32))
    # What torch's batch norm computes on a CPU; var_mean over all axes but one takes several times as long.
    own = torch.batch_norm_update_stats(at_least_float32, None, None, 0.0)
    means, variances = processes.gather(torch.stack(own)[None]).unbind(1)
    between, mean = torch.var_mean(means, 0, correction=0)
    return mean, variances.mean(0) + between
