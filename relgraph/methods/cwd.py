"""Channel-wise knowledge distillation for dense prediction (Shu, Liu, Gao, Yan, Shen, ICCV 2021, arXiv 2011.13256)."""

from typing import Any, Literal, Self

from torch import Tensor, nn

from relgraph.errors import RelgraphError
from relgraph.graph.kernels import full_precision, precision_of
from relgraph.graph.positions import on_grid
from relgraph.methods.base import Batch, Method, Output, RunFacts, Terms, option, score_maps
from relgraph.methods.kd import divergence
from relgraph.methods.stages import last_maps, through

WEIGHTS = {"logits": 3.0, "map": 50.0}


class CWD(Method):
    """Match where each channel of the teacher's map is active: its distribution over the positions of an image.

    With a map f `(B, C, H, W)` of both networks, and p the softmax over the H W positions of each channel of f / T,

        L = T^2 / (B C) * sum_b sum_c KL(p^t_bc || p^s_bc)

    Called with outputs that hold maps of logits `(B, classes, H, W)`, or stage maps; a teacher's map of another grid is
    resized to the student's (bilinear). Stage maps of other channels pass on the student's side through a 1 x 1
    convolution, which is trained with it. Returns a scalar >= 0. The teacher receives no gradient.

    Paper, official code and this one: the code's default normalisation compares the first image of a batch alone; with
    it on, it is this one. Its option "spatial" is `over="channels"`, a softmax over the channels at each position, the
    mean over positions, which is the pixel-wise divergence. The defaults, T = 4 and the weights 3 for logits and 50 for
    stage maps, are those of the code of CIRKD, which compares with it; the code's own command line has 1 and T = 1.

    Paper: Channel-wise Knowledge Distillation for Dense Prediction (Shu et al., ICCV 2021, arXiv 2011.13256)
    Differs: the code's default compares the first image of a batch alone, here all of them
    Topology: positions of one image
    Criterion: KL T^2

    Args:
        student_channels: Channels of the student's last stage map; without it there is no convolution.
        teacher_channels: Channels of the teacher's.
        temperature: T > 0.
        nodes: The last stage "map", or the "logits" of a network that has some at each position.
        over: Whether probabilities are over the "positions" of each channel, or over the "channels" of each position.

    Raises:
        RelgraphError: for unknown names, a temperature that is not positive, or maps that are missing or differ in
            their channels.

    >>> import torch
    >>> x = torch.randn(2, 4, 3, 3)
    >>> loss = CWD(nodes="logits")
    >>> loss(Output(x, x), Output(x, x)).item() < 1e-9 < loss(Output(x, x), Output(x, x.flip(-1))).item()
    True
    """

    weight = WEIGHTS["map"]
    pointwise = True

    student_channels: int | None = None
    teacher_channels: int | None = None
    temperature: float = option(default=4.0, above=0)
    nodes: Literal["map", "logits"] = option(default="map", kw_only=True)
    over: Literal["positions", "channels"] = option(default="positions", kw_only=True)

    def __post_init__(self) -> None:
        """Build the convolution, if the channels differ, and take the weight of the nodes."""
        super().__post_init__()
        self.weight, self.reads = WEIGHTS[self.nodes], (self.nodes,)
        one, other = self.student_channels, self.teacher_channels
        between = self.nodes == "map" and one is not None and other is not None and one != other
        self.project = nn.Conv2d(one or 1, other or 1, 1) if between else None

    @classmethod
    def for_run(cls, run: RunFacts, **options: Any) -> Self:
        """Return the method for the channels of the run's last stage maps."""
        one, other = (maps[-1][0] if maps else None for maps in (run.student_maps, run.teacher_maps))
        return cls(one, other, **options)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `cwd`."""
        s, t = self._maps(student, teacher)
        if self.project is not None:
            with full_precision(s):
                projected, factor = through(self.project, s)
                s = projected * factor
        if s.shape[1] != t.shape[1]:
            expected = "expected student_channels and teacher_channels, or maps of as many channels"
            raise RelgraphError(f"CWD compares channels: {expected}, got {s.shape[1]} and {t.shape[1]}")
        t = on_grid(t, s.shape[-2:])
        one, other = (x.flatten(2) if self.over == "positions" else x.flatten(2).mT for x in (s, t))
        return {"cwd": divergence(one, other, self.temperature).mean().to(precision_of(s, t))}

    def _maps(self, student: Output, teacher: Output) -> tuple[Tensor, Tensor]:
        if self.nodes == "map":
            return last_maps(student, teacher, "CWD")
        return score_maps(student, teacher, "CWD")
