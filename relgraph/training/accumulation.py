"""One step's losses and gradients, for a batch that passes through the student in parts."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from relgraph.outputs import Output, StepInputs, of_views
from relgraph.processes import ProcessGroup
from relgraph.training.diagnostics import Diagnostics
from relgraph.training.objective import Distiller, Losses, Stage

Autocast = Callable[[], AbstractContextManager[None]]


def backward_in_parts(
    objective: Distiller,
    inputs: StepInputs,
    parts: int,
    autocast: Autocast,
    stage: Stage = "both",
    diagnostics: Diagnostics | None = None,
) -> Losses:
    """Return the losses of a batch, with the graph of the whole batch, that passes through the student part by part.

    The student's outputs for all parts are computed without their activations; the losses are those of the whole batch,
    and where their gradient reaches the outputs of a part, that part passes through the student once more (gradient
    checkpoints of torch; as GradCache, Gao et al., 2021, arXiv 2101.06983). Loss and gradient are those of the batch in
    one part, except for batch norm, whose statistics are those of a part. Random operations in the student draw the
    same numbers both times. Memory: the student's activations of one part; its outputs, and the loss, of all.
    """
    student, method, count = objective.student, objective.method, len(inputs.images)
    maps = method is not None and any("map" in part for part in method.reads or ("maps",))

    def read(images: Tensor, extra: Tensor | None) -> Output:
        """Return the outputs that the method reads: the maps of all parts are held only if it reads them."""
        output = of_views(student, images, extra)
        return output if maps else output._replace(maps=())

    pieces: list[tuple[Tensor | None, ...]] = [inputs.images.tensor_split(parts), (None,) * parts]
    if inputs.extra is not None:
        by_view = inputs.extra.reshape(-1, count, *inputs.extra.shape[1:])
        pieces[1] = tuple(views.flatten(0, 1) for views in by_view.tensor_split(parts, dim=1))
    with autocast():
        found: list[Output] = [
            checkpoint(read, *part, use_reentrant=False, context_fn=lambda: (nullcontext(), _buffers_kept(student)))
            for part in zip(*pieces, strict=True)
        ]
        losses = objective.losses(_joined(found), inputs, stage, diagnostics)
    losses.total.backward()  # type: ignore[no-untyped-call]
    return losses


def average_gradients(module: nn.Module, processes: ProcessGroup) -> None:
    """Replace the gradient of each parameter by its mean over the processes, those of one type in one message.

    A parameter that has one on some processes alone, counts as 0 on the others.
    """
    if processes.count == 1:
        return
    learning = [p for p in module.parameters() if p.requires_grad]
    has = torch.tensor([p.grad is not None for p in learning], device=learning[0].device, dtype=torch.int32)
    anywhere = processes.maximum(has).tolist()
    chosen = [p for p, found in zip(learning, anywhere, strict=True) if found]
    for dtype in dict.fromkeys(p.dtype for p in chosen):
        some = [p for p in chosen if p.dtype == dtype]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in some])
        means = torch.split(processes.mean_(flat), [p.numel() for p in some])
        for p, mean in zip(some, means, strict=True):
            p.grad = mean.view_as(p).clone(memory_format=torch.preserve_format)


def _joined(parts: list[Output]) -> Output:
    """Return the outputs for the parts as those for one batch, extra views again view by view."""

    def join(pieces: tuple[Tensor, ...]) -> Tensor:
        views = [x.reshape(-1, len(part.embedding), *x.shape[1:]) for x, part in zip(pieces, parts, strict=True)]
        return torch.cat(views, dim=1).flatten(0, 1)

    return parts[0].filled(map(join, zip(*(output.tensors() for output in parts), strict=True)))


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """Put a module's buffers, as the running statistics of batch norm, back to their values before the block."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, kept in before:
                buffer.copy_(kept)
