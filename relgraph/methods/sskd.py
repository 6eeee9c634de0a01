"""Knowledge distillation with self-supervision (Xu, Liu, Li, Loy, ECCV 2020, arXiv 2006.07114)."""

from copy import deepcopy
from itertools import chain
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from relgraph.errors import RelgraphError
from relgraph.graph.contrast import batch_contrast
from relgraph.graph.kernels import at_least_float32, cosine, excess, full_precision
from relgraph.graph.pair import check_nodes
from relgraph.methods.base import (
    Method,
    RunFacts,
    Space,
    Terms,
    Views,
    extra_of,
    labels_of,
    logits_of,
    nodes_of,
    option,
)
from relgraph.methods.kd import divergence
from relgraph.networks.heads import Projector
from relgraph.outputs import Batch, Output

Transformations = Literal["rotations", "all"]


class SSKD(Method):
    """Match the teacher's class distributions, and its similarities between transformed and original images.

    Of each of N images there are V transformed views. Heads h_s and h_t map the pooled features to vectors, and

        A_ij = cos(h(view i), h(image j))   of each network, `(V N, N)`
        kd   = T^2 * mean over images          KL(softmax(z_t / T) || softmax(z_s / T))
        tf   = T^2 * mean over trusted views   KL(softmax(z_t / T) || softmax(z_s / T))
        ss   = tau^2 * mean over trusted views KL(softmax(A_t_i / tau) || softmax(A_s_i / tau))
        L    = kd_weight * kd + tf_weight * tf + ss_weight * ss

    with logits z `(N, classes)` and `(V N, classes)`. A view is selected (trusted) if the teacher's logits rank the
    image's class first (tf), or its row of A ranks the view's own image first (ss); of the W others the
    `floor(W * ratio)` with the lowest rank are selected as well, equal ranks in the order of the batch. Called with
    outputs that hold features, logits and `extra` views (row `v * N + i` is view v of image i), and a `Batch`; returns
    a scalar >= 0. The student's head is trained by this loss (its parameters must be passed to the optimiser), and both
    the views and the images receive gradient. The teacher's head is copied, and is no parameter here; the teacher
    receives no gradient.

    Paper, official code and this one: the paper transforms by dropped colours, rotation, crop and resize, and
    distorted colours ("all"); the code rotates only, which the authors call nearly equal, and so does the default. The
    paper's relations of views and images are compared by a cross-entropy summed over the rows, in the code by a mean of
    the KL, as here: with the same gradient, up to the number of rows. The paper trains the teacher's head at a
    temperature tau, the code at 1, as `views_to_images` does. The code sorts ranks with an unstable sort, so that the
    choice among equal ranks at the boundary is arbitrary; here the first in the batch are selected. Its constants of
    normalisation, and its choice of the student's best epoch, are not taken over. The weights are the code's, beside a
    cross-entropy of 0.1. Images without label are ours: their class is the teacher's prediction for the image itself. A
    given label is used even if it is wrong.

    Paper: Knowledge Distillation Meets Self-Supervision (Xu, Liu, Li, Loy, ECCV 2020, arXiv 2006.07114)
    Differs: rotations only by default and a mean of KL, as in the code, where the paper has four transformations
        and a summed cross-entropy; equal ranks at the boundary are chosen in order; images without label are ours
    Kernel: cosine
    Topology: views to images
    Criterion: KL T^2

    Args:
        student_width: Width of the student's feature.
        teacher_width: Width of the teacher's feature.
        ss_head: The teacher's trained self-supervision head, `(N, teacher_width) -> (N, any)`; its output may differ
            in width from the student's.
        temperature: T > 0 of the logits.
        kd_weight: Weight of kd, at least 0.
        tf_weight: Weight of tf, at least 0.
        ss_weight: Weight of ss, at least 0.
        tau: Temperature > 0 of the similarities.
        tf_ratio: Share in [0, 1] of the wrong rows that are selected for tf.
        ss_ratio: Share in [0, 1] of the wrong rows that are selected for ss.
        transformations: "rotations" by 90, 180 and 270 degrees, or "all" four of the paper, one view each.
        head: The student's head: two layers as wide as its feature ("mlp"), or "none".

    Raises:
        RelgraphError: for unknown names, numbers out of range, without the teacher's head, for features of another
            width, without logits of one shape, or labels and V extra views for each image.

    >>> import torch
    >>> loss = SSKD(student_width=4, teacher_width=6, ss_head=torch.nn.Linear(6, 6))
    >>> def outputs(width, rows):
    ...     return Output(torch.randn(rows, 2), torch.randn(rows, 5), torch.randn(rows, width))
    >>> student, teacher = (outputs(width, 8)._replace(extra=outputs(width, 24)) for width in (4, 6))
    >>> terms = loss.terms(student, teacher, Batch(torch.arange(8), torch.arange(8) % 5))
    >>> sorted(terms)
    ['kd', 'self_supervision', 'transformed']
    """

    gamma = 0.1
    reads = ("feature", "logits", "labels")

    student_width: int
    teacher_width: int
    ss_head: nn.Module | None = None
    temperature: float = option(default=4.0, above=0)
    kd_weight: float = option(default=0.9, least=0, term="kd")
    tf_weight: float = option(default=2.7, least=0, term="transformed")
    ss_weight: float = option(default=10.0, least=0, term="self_supervision")
    tau: float = option(default=0.5, above=0)
    tf_ratio: float = option(default=1.0, least=0, most=1)
    ss_ratio: float = option(default=0.75, least=0, most=1)
    transformations: Transformations = option(default="rotations")
    head: Literal["mlp", "none"] = option(default="mlp")

    def __post_init__(self) -> None:
        """Build the student's head and copy the teacher's."""
        super().__post_init__()
        self.views = Views("rotations", 3) if self.transformations == "rotations" else Views("transformations", 4)
        width = self.student_width
        self.projector = Projector(width, width) if self.head == "mlp" else nn.Identity()
        if self.ss_head is None:
            hint = "`relgraph pretrain --objective sskd-head --teacher ...` trains one"
            raise RelgraphError(f"SSKD needs the teacher's self-supervision head, given by --ss-head RUN: {hint}")
        first = next((layer for layer in self.ss_head.modules() if isinstance(layer, nn.Linear)), None)
        if first is not None and first.in_features != self.teacher_width:
            expected = f"the self-supervision head must take the teacher's feature (N, {self.teacher_width})"
            raise RelgraphError(f"{expected}, got one for (N, {first.in_features})")
        self.ss_head = deepcopy(self.ss_head).eval()
        for layer in self.ss_head.modules():  # its weights become buffers: saved in checkpoints and never optimised
            for name, parameter in list(layer.named_parameters(recurse=False)):
                delattr(layer, name)
                layer.register_buffer(name, parameter.detach())

    @classmethod
    def for_run(cls, run: RunFacts, **options: Any) -> Self:
        """Return the method for the widths of a run's features, with its self-supervision head."""
        return cls(run.student_width, run.teacher_width, run.ss_head, **options)

    def space(self) -> Space:
        """Return the heads behind which views are compared with images."""
        return Space("feature", self.projector if self.head == "mlp" else None, self.ss_head)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the student's side; the teacher's head stays in evaluation mode."""
        super().train(mode)
        assert self.ss_head is not None
        self.ss_head.eval()
        return self

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `kd`, `transformed` and `self_supervision`."""
        s, t = logits_of(student, teacher, "SSKD")
        labels = _classes(labels_of(batch, "SSKD", len(s)), s.shape[1])
        student_views, teacher_views = (extra_of(output, self.views, len(s), "SSKD") for output in (student, teacher))
        kd = divergence(s, t, self.temperature).mean()

        classes = torch.where(labels < 0, t.argmax(-1), labels)
        views = logits_of(student_views, teacher_views, "SSKD")
        s, t = (z.reshape(-1, len(classes), z.shape[-1]) for z in views)
        mask = trusted(rank_of(t, classes.expand(t.shape[:2])), self.tf_ratio)
        transformed = mean_of_trusted(divergence(s, t, self.temperature), mask)

        check_nodes(nodes_of(student, "feature", "SSKD"), nodes_of(teacher, "feature", "SSKD"))
        s = _similarities(self.projector, student, student_views, self.student_width, "student")
        assert self.ss_head is not None
        t = _similarities(self.ss_head, teacher, teacher_views, self.teacher_width, "teacher")
        own = torch.arange(t.shape[-1], device=t.device).expand(t.shape[:2])
        similar = mean_of_trusted(divergence(s, t, self.tau), trusted(rank_of(t, own), self.ss_ratio))
        return {"kd": kd, "transformed": transformed, "self_supervision": similar}


def views_to_images(views: Tensor, images: Tensor, temperature: float = 1.0) -> Tensor:
    """Identify the image of each transformed view, by cosines: the objective of the teacher's self-supervision head.

    `-1 / (V N) * sum_vi log softmax_j(cos(view vi, image j) / T)_i`: the second stage of SSKD (Xu et al., 2020, arXiv
    2006.07114), where the teacher itself is not trained.

    Paper, official code and this one: the paper has the temperature tau, the code none, which is T = 1, as here.

    Args:
        views: The head's vectors of V views of each image, `(V * N, D)`; row `v * N + i` is view v of image i.
        images: The head's vectors of the N images themselves, `(N, D)`.
        temperature: T > 0.

    Raises:
        RelgraphError: if the images are not (N, D), or there is not the same number of views of this width for each.

    >>> views_to_images(torch.eye(2).repeat(3, 1), torch.eye(2))  # log(1 + 1 / e)
    tensor(0.3133)
    """
    found = [batch_contrast(part, images, temperature) for part in torch.split(views, len(images))]
    return torch.stack(found).mean()


def _classes(labels: Tensor, count: int) -> Tensor:
    """Return labels `(N,)` unless one names none of the classes; values are read on the CPU alone."""
    if labels.device.type == "cpu":  # elsewhere reading values would synchronise the device
        outside = labels[labels >= count].tolist()
        if outside:
            raise RelgraphError(f"SSKD reads labels 0 to {count - 1}, or -1 where unknown, got {outside[0]}")
    return labels


def _similarities(head: nn.Module, output: Output, views: Output, width: int, side: str) -> Tensor:
    """Return the cosines of each view with each image, `(V, N, N)`."""
    parts = [nodes_of(each, "feature", "SSKD", side, width) for each in (output, views)]
    count = len(parts[0])
    with full_precision(parts[0]):
        rows = torch.cat(parts)
        rows = at_least_float32(rows / excess(rows))
        weights = (x.dtype for x in chain(head.parameters(), head.buffers()) if x.is_floating_point())
        nodes = cosine.nodes(head(rows.to(next(weights, rows.dtype))))
    return cosine.matrix(nodes[count:], nodes[:count]).view(-1, count, count)


def rank_of(scores: Tensor, true: Tensor) -> Tensor:
    """Return the rank of the true candidate among an anchor's scores, 0 for the first, `(..., M) -> (...)`.

    Equal scores are ranked in the order of their columns, as by a stable sort.

    Args:
        scores: The anchors' scores of M candidates, `(..., M)`.
        true: The true candidate of each anchor, `(...)`, in 0..M-1.

    >>> rank_of(torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.3, 0.5]]), torch.tensor([2, 2]))
    tensor([1, 1])
    """
    place = true.unsqueeze(-1)
    own = scores.gather(-1, place)
    earlier = torch.arange(scores.shape[-1], device=scores.device) < place
    return ((scores > own) | ((scores == own) & earlier)).sum(-1)


def trusted(rank: Tensor, ratio: float) -> Tensor:
    """Return which rows are trusted: those of rank 0, and of the W others the `floor(W * ratio)` of lowest rank.

    The selective transfer of SSKD (Xu et al., 2020, arXiv 2006.07114). Equal ranks at the boundary are ordered by
    image, and within an image by view. Nothing is read back from the device.

    Args:
        rank: Rank of the true candidate for V views of N images, `(V, N)`.
        ratio: Share of the others, in [0, 1].

    >>> trusted(torch.tensor([[0, 2, 1], [3, 0, 5]]), ratio=0.5)
    tensor([[ True,  True,  True],
            [False,  True, False]])
    """
    position = rank.mT.flatten().argsort(stable=True).argsort()
    wrong = (rank > 0).sum()
    kept = rank.numel() - wrong + (wrong.double() * ratio).long()  # as int() of Python does it
    return (position < kept).view(rank.mT.shape).mT


def mean_of_trusted(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the values where the mask is true, a scalar; 0 if the mask is nowhere true.

    >>> mean_of_trusted(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([True, False, True]))
    tensor(3.5000)
    """
    return torch.where(mask, values, 0).sum() / mask.sum().clamp_min(1)
