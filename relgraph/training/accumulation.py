"""One step's losses and gradients, for a batch that passes through the student in parts."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from relgraph.outputs import Output, StepInputs, of_views
from relgraph.processes import ProcessGroup
from relgraph.training.checkpoint import random_state, set_random_state
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

    The student's outputs for all parts are computed without gradient; the losses are those of the whole batch, and
    their gradient with respect to the outputs is stored; then each part passes through the student once more, and its
    gradient is propagated to the parameters (GradCache; Gao et al., 2021, arXiv 2101.06983). Loss and gradient are
    those of the batch in one part, except for batch norm, whose statistics are those of a part. Random operations in
    the student draw the same numbers both times. Memory: the student's activations of one part; its outputs, and the
    loss, of all.
    """
    pieces = [_part(inputs, number, parts) for number in range(parts)]
    states = []
    with torch.no_grad(), _buffers_kept(objective.student):
        found = []
        for images, extra in pieces:
            states.append(random_state())
            with autocast():
                found.append(_read(objective, of_views(objective.student, images, extra)))
    whole = _joined(found).each(Tensor.requires_grad_)
    del found
    with autocast():
        losses = objective.losses(whole, inputs, stage, diagnostics)
    losses.total.backward()  # type: ignore[no-untyped-call]
    after = random_state()
    for number, ((images, extra), state) in enumerate(zip(pieces, states, strict=True)):
        set_random_state(state)
        with autocast():
            output = _read(objective, of_views(objective.student, images, extra))
        _carry_on(output, whole, number, parts)
    set_random_state(after)
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


def _read(objective: Distiller, output: Output) -> Output:
    """Return the parts of an output that the method reads: the maps of all parts are held only if it reads them."""
    method = objective.method
    maps = method is not None and any("map" in part for part in method.reads or ("maps",))
    return output if maps else output._replace(maps=())


def _part(inputs: StepInputs, number: int, parts: int) -> tuple[Tensor, Tensor | None]:
    """Return the images of a part, and their extra views."""
    extra = None if inputs.extra is None else _rows(inputs.extra, len(inputs.images), number, parts)
    return _rows(inputs.images, len(inputs.images), number, parts), extra


def _rows(x: Tensor, count: int, number: int, parts: int) -> Tensor:
    """Return those rows that belong to a part of `count` images, of one or several views of each, view by view."""
    by_view = x.reshape(len(x) // count, count, *x.shape[1:])
    return by_view[:, number * count // parts : (number + 1) * count // parts].flatten(0, 1)


def _joined(parts: list[Output]) -> Output:
    """Return the outputs for the parts as those for one batch."""
    count = len(parts[0].embedding)

    def join(pieces: tuple[Tensor, ...]) -> Tensor:
        return torch.cat([x.reshape(len(x) // count, count, *x.shape[1:]) for x in pieces], dim=1).flatten(0, 1)

    return parts[0].filled(map(join, zip(*(output.tensors() for output in parts), strict=True)))


def _carry_on(output: Output, whole: Output, number: int, parts: int) -> None:
    """Propagate the gradient of a part's rows through the student's outputs for that part."""
    count = len(whole.embedding)
    pairs = [
        (x, _rows(y.grad, count, number, parts))
        for x, y in zip(output.tensors(), whole.tensors(), strict=True)
        if x.requires_grad and y.grad is not None
    ]
    if pairs:
        torch.autograd.backward([x for x, _ in pairs], [gradient for _, gradient in pairs])


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """Put a module's buffers, as the running statistics of batch norm, back to their values before the block."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, kept in before:
            buffer.copy_(kept)
