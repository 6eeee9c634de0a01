"""A whole training step as one function of tensors that stay where they are, which a CUDA graph replays.

Views, student, stored teacher, losses, backward, both optimisers and running sums: what the trainer launches in some
hundreds of calls, a GPU then finds as one. What is random is drawn on the CPU as the trainer draws it.
"""

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from relgraph.data.views import View
from relgraph.errors import RelgraphError
from relgraph.methods import Method
from relgraph.outputs import Batch, StepInputs, bare
from relgraph.training.epochs import Job, Meter
from relgraph.training.feed import Feed, Stored

WARM_UP = 3  # steps in which libraries choose their algorithms and take their memory


class WholeStep:
    """The trainer's step of a job whose images and stored embeddings lie on its device: `step(index, generator)`.

    It has the same draws, losses and weights as `relgraph.training.epochs.step`, without diagnostics, memories, extra
    views, clipping and epochs of the method alone. `capture` has a GPU replay it, and `rate` then sets the learning
    rate.

    Args:
        job: A job of `relgraph.training.distillation.build`, or of the benchmark.

    Raises:
        RelgraphError: if a step of the job needs more than that.
    """

    def __init__(self, job: Job) -> None:
        feed, device, size = job.feed, job.fabric.device, job.recipe.batch_size
        method = getattr(job.objective, "method", None)
        parts = [] if method is None else [part.method for part in method.summands()]
        more = [part for part in parts if part.views or type(part).remember is not Method.remember]
        near = type(feed) is Feed or (isinstance(feed, Stored) and (feed.store.resident or device.type == "cpu"))
        plain = job.graph is None and job.ema is None and job.clip_norm is None and job.stage(0) == "both"
        if more or not near or not plain or not all(isinstance(each, SGD) for each in job.optimisers.values()):
            needed = (
                "SGD, a teacher that is stored on the device or none, and no memory, extra views, average, clipping or "
                "init_epochs"
            )
            raise RelgraphError(f"a captured step needs {needed}")
        assert size is not None
        self.job, self.meter = job, Meter(job.processes, job.task.at, job.task.accuracy)
        # Of each image its position, shift of the crop (x, y), whether it is mirrored, and its stored view.
        self.given = torch.zeros(5, size, dtype=torch.long, device=device)
        self.sums: tuple[Tensor, Tensor] | None = None
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, index: Tensor, generator: torch.Generator) -> None:
        """Train on the images at `index` `(B,)`, on the CPU."""
        drawn = self.draw(index, generator)
        self.given.copy_(drawn.pin_memory() if self.given.is_cuda else drawn, non_blocking=True)
        if self.graph is None:
            self.body()
        else:
            self.graph.replay()
            self.meter.steps += 1

    def draw(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Return the positions and what is random of them, `(5, B)`, drawn in the order of the trainer."""
        feed, images = self.job.feed, self.job.data.train.pixels[: len(index)]
        rows = [index, *torch.zeros(4, len(index), dtype=torch.long)]
        if not (isinstance(feed, Stored) and feed.shared):
            view = feed.plan.draw(images, generator)
            if not isinstance(view, View):
                raise RelgraphError("a captured step has views by crop and flip, expected augment: crop")
            rows[1:4] = view.dx, view.dy, view.flip.long()
        if isinstance(feed, Stored):
            rows[4] = torch.randint(feed.store.contents.views, (len(index),), generator=generator)
        return torch.stack(rows)

    def inputs(self) -> StepInputs:
        """Return the inputs of the step for what is `given`."""
        index, dx, dy, flip, stored = self.given
        feed, train = self.job.feed, self.job.data.train
        images, batch, view = train.pixels.index_select(0, index), Batch(index, train.labels[index]), None
        teacher = None
        if isinstance(feed, Stored):
            position = feed.position[index]
            view = feed.views.take(stored, position) if feed.shared else None
            teacher = bare(feed.store.rows(stored, position))
        view = View(dx, dy, flip.bool()) if view is None else view
        return StepInputs(feed.student_input(view.apply(images)), batch, teacher)

    def body(self) -> None:
        """Train on what is `given`, without a draw on the CPU."""
        job, inputs = self.job, self.inputs()
        for optimiser in job.optimisers.values():
            optimiser.zero_grad()
        losses = job.module(inputs)
        job.fabric.backward(losses.total)
        for optimiser in job.optimisers.values():
            optimiser.step()
        self.meter.add(losses, inputs.batch.labels, inputs.teacher)
        if self.sums is None:
            self.sums = self.meter.sums, self.meter.culprit
        else:  # replayed, a sum reads where it was written
            self.sums = self.sums[0].copy_(self.meter.sums), self.sums[1].copy_(self.meter.culprit)
        self.meter.sums, self.meter.culprit = self.sums

    def capture(self) -> None:
        """Have the GPU keep the step; weights, momentum and sums stay as they are before the first one.

        Raises:
            RelgraphError: without a GPU.
        """
        if not self.given.is_cuda:
            raise RelgraphError("a step is captured on a GPU alone")
        weights = {name: tensor.clone() for name, tensor in self.job.objective.state_dict().items()}
        for optimiser in self.job.optimisers.values():
            rates_on_device(optimiser)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self.body()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        for optimiser in self.job.optimisers.values():
            optimiser.zero_grad()
        with torch.cuda.graph(self.graph):
            self.body()
        self.job.objective.load_state_dict(weights)
        for optimiser in self.job.optimisers.values():
            for state in optimiser.state.values():  # momentum * 0 + gradient is what a first step has
                for buffer in state.values():
                    buffer.zero_()
        self.restart()

    def restart(self) -> None:
        """Begin the running sums anew."""
        self.meter.steps = 0
        for tensor in self.sums or ():
            tensor.zero_()

    def rate(self, value: float) -> None:
        """Set the learning rate of the first optimiser."""
        for group in next(iter(self.job.optimisers.values())).param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(value)
            else:
                group["lr"] = value


def rates_on_device(optimiser: Optimizer) -> None:
    """Have an SGD read its learning rate from the device, as its fused form does, so that a replay may have another."""
    for group in optimiser.param_groups:
        device = group["params"][0].device
        group["lr"], group["fused"] = torch.tensor(group["lr"], device=device), True
