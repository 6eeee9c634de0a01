"""Knowledge distillation that meets self-supervision (Xu, Liu, Li, Loy, ECCV 2020, arXiv 2006.07114)."""

from copy import deepcopy
from typing import Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

from relgraph.errors import RelgraphError, unknown
from relgraph.graph.contrast import batch_contrast
from relgraph.graph.kernels import at_least_float32, cosine
from relgraph.graph.matching import softmax
from relgraph.graph.relation import check_nodes
from relgraph.graph.trust import rank_of, trusted, trusted_mean
from relgraph.methods.base import (
    Batch,
    Method,
    Output,
    Views,
    check_positive,
    check_weights,
    labels_of,
    logits_of,
    nodes_of,
)
from relgraph.networks.heads import Projector

Transformations = Literal["rotations", "all"]
StudentHead = Literal["mlp", "none"]


class SSKD(Method):
    """Follow the teacher's classes, and its relations between transformed images and the images themselves.

    Of each of N images there are V transformed views. Heads h_s and h_t map the pooled features to vectors, and

        A_ij = cos(h(view i), h(image j))   of each network, `(V N, N)`
        kd   = T^2 * mean over images          KL(softmax(z_t / T) || softmax(z_s / T))
        tf   = T^2 * mean over trusted views   KL(softmax(z_t / T) || softmax(z_s / T))
        ss   = tau^2 * mean over trusted views KL(softmax(A_t_i / tau) || softmax(A_s_i / tau))
        L    = kd_weight * kd + tf_weight * tf + ss_weight * ss

    with logits z `(N, classes)` and `(V N, classes)`. A view is trusted where the teacher's logits put the image's
    class first (tf), or its row of A the view's own image (ss); of the W others the `floor(W * ratio)` where it stands
    highest are trusted as well, equal ranks in the order of the batch. Called with outputs that hold features, logits
    and `extra` views (row `v * N + i` is view v of image i), and a `Batch`; returns a scalar >= 0. The student's
    head is trained by this loss (its parameters belong into the optimiser), and the gradient reaches the views and the
    images alike. The teacher's head is copied, and is no parameter here; the teacher receives no gradient.

    Paper, official code and this one: the paper transforms by dropped colours, rotation, crop and resize, and
    distorted colours ("all"); the code rotates only, which the authors call nearly equal, and so does the default. The
    paper's relations of views and images are a cross-entropy that is summed over the rows, in the code it is a mean of
    the KL, as here: of the same gradient, up to the number of rows. The paper trains the teacher's head at a
    temperature tau, the code at 1, as `views_to_images` does. The code sorts ranks with an unstable sort, so that
    equal ranks at the boundary are chosen by chance; here the first in the batch are. Its constants of normalisation,
    and its choice of the student's best epoch, are not taken over. The weights are the code's, beside a cross-entropy
    of 0.1. Images without label are ours: there the class is the one that the teacher gives the image itself. The
    given label counts as it is, also where it is wrong.

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
        tf_ratio: Share in [0, 1] of the wrong rows that tf trusts.
        ss_ratio: Share in [0, 1] of the wrong rows that ss trusts.
        transformations: "rotations" by 90, 180 and 270 degrees, or "all" four of the paper, one view each.
        head: The student's head: two layers as wide as its feature ("mlp"), or "none".

    Raises:
        RelgraphError: for unknown names, numbers out of range, without the teacher's head, for features of another
            width, without logits of one shape, or labels and V extra views for each image.

    >>> import torch
    >>> loss = SSKD(student_width=4, teacher_width=6, ss_head=torch.nn.Linear(6, 6))
    >>> def seen(width, rows):
    ...     return Output(torch.randn(rows, 2), torch.randn(rows, 5), torch.randn(rows, width))
    >>> student, teacher = (seen(width, 8)._replace(extra=seen(width, 24)) for width in (4, 6))
    >>> terms = loss.terms(student, teacher, Batch(torch.arange(8), torch.arange(8) % 5))
    >>> sorted(terms)
    ['kd', 'self_supervision', 'transformed']
    """

    paper = "Knowledge Distillation Meets Self-Supervision (Xu, Liu, Li, Loy, ECCV 2020, arXiv 2006.07114)"
    gamma = 0.1
    kernel = "cosine"
    topology = "views to images"
    criterion = "KL T^2"
    differs = (
        "rotations only by default and a mean of KL, as in the code, where the paper has four transformations and a "
        "summed cross-entropy; equal ranks at the boundary are chosen in order; images without label are ours"
    )
    reads = ("feature", "logits", "labels")

    views: Views

    def __init__(
        self,
        student_width: int,
        teacher_width: int,
        ss_head: nn.Module | None = None,
        temperature: float = 4.0,
        kd_weight: float = 0.9,
        tf_weight: float = 2.7,
        ss_weight: float = 10.0,
        tau: float = 0.5,
        tf_ratio: float = 1.0,
        ss_ratio: float = 0.75,
        transformations: Transformations = "rotations",
        head: StudentHead = "mlp",
    ) -> None:
        super().__init__()
        check_positive(temperature=temperature, tau=tau)
        check_weights(kd_weight=kd_weight, tf_weight=tf_weight, ss_weight=ss_weight)
        _check_ratios(tf_ratio=tf_ratio, ss_ratio=ss_ratio)
        _check_names(transformations, head)
        self.temperature, self.tau, self.tf_ratio, self.ss_ratio = temperature, tau, tf_ratio, ss_ratio
        self.kd_weight, self.tf_weight, self.ss_weight = kd_weight, tf_weight, ss_weight
        self.student_width, self.teacher_width = student_width, teacher_width
        self.views = Views("rotations", 3) if transformations == "rotations" else Views("transformations", 4)
        self.head = Projector(student_width, student_width) if head == "mlp" else nn.Identity()
        self.ss_head = _frozen(ss_head, teacher_width)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the student's side; the teacher's head stays in that of evaluation."""
        super().train(mode)
        self.ss_head.eval()
        return self

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> dict[str, Tensor]:
        """Return `kd`, `transformed` and `self_supervision`."""
        s, t = logits_of(student, teacher, "SSKD")
        labels = labels_of(batch, "SSKD")
        if labels.shape != s.shape[:1]:
            raise RelgraphError(f"labels must be one for each of the {len(s)} images, got {tuple(labels.shape)}")
        student_views, teacher_views = (self._views_of(output, len(s)) for output in (student, teacher))
        classes = torch.where(labels < 0, t.argmax(-1), labels)
        return {
            "kd": self.kd_weight * _divergence(s, t, self.temperature).mean(),
            "transformed": self.tf_weight * self._transformed(student_views, teacher_views, classes),
            "self_supervision": self.ss_weight * self._self_supervision(student, teacher, student_views, teacher_views),
        }

    def _transformed(self, student: Output, teacher: Output, classes: Tensor) -> Tensor:
        """Compare the logits of the transformed views, where the teacher's have the class of the image."""
        s, t = (z.reshape(self.views.each, len(classes), -1) for z in logits_of(student, teacher, "SSKD"))
        mask = trusted(rank_of(t, classes.expand(t.shape[:2])), self.tf_ratio)
        return trusted_mean(_divergence(s, t, self.temperature), mask)

    def _self_supervision(
        self, student: Output, teacher: Output, student_views: Output, teacher_views: Output
    ) -> Tensor:
        """Compare the similarities of views to images, where the teacher's have the view's own image."""
        check_nodes(nodes_of(student, "feature", "SSKD"), nodes_of(teacher, "feature", "SSKD"))
        s = _similarities(self.head, student, student_views, self.student_width, "student")
        t = _similarities(self.ss_head, teacher, teacher_views, self.teacher_width, "teacher")
        own = torch.arange(t.shape[-1], device=t.device).expand(t.shape[:2])
        return trusted_mean(_divergence(s, t, self.tau), trusted(rank_of(t, own), self.ss_ratio))

    def _views_of(self, output: Output, count: int) -> Output:
        """Return what a network says of the V extra views of each of these images."""
        each, found = self.views.each, output.extra
        parts = [] if found is None else [found.embedding, found.logits, found.feature]
        rows = {len(part) for part in parts if part is not None}
        if found is None or rows != {each * count}:
            raise RelgraphError(
                f"SSKD reads extra views of each image (`Output.extra`, as its `views` say): expected {each} * "
                f"{count} rows, got {' and '.join(map(str, sorted(rows))) or 'none'}"
            )
        return found


def views_to_images(views: Tensor, images: Tensor, temperature: float = 1.0) -> Tensor:
    """Tell of which image each transformed view is, by cosines: the objective of the teacher's self-supervision head.

    `-1 / (V N) * sum_vi log softmax_j(cos(view vi, image j) / T)_i`: the second stage of SSKD (Xu et al., 2020, arXiv
    2006.07114), where the teacher itself does not learn.

    Paper, official code and this one: the paper has the temperature tau, the code none, which is T = 1, as here.

    Args:
        views: The head's vectors of V views of each image, `(V * N, D)`; row `v * N + i` is view v of image i.
        images: The head's vectors of the N images themselves, `(N, D)`.
        temperature: T > 0.

    Raises:
        RelgraphError: if the temperature is not positive, or the shapes do not fit.

    >>> views_to_images(torch.eye(2).repeat(3, 1), torch.eye(2))  # log(1 + 1 / e)
    tensor(0.3133)
    """
    if images.ndim != 2 or views.ndim != 2 or views.shape[1] != images.shape[1]:
        shapes = f"{tuple(views.shape)} and {tuple(images.shape)}"
        raise RelgraphError(f"views must be (V * N, D) and images (N, D), got {shapes}")
    if len(images) == 0 or len(views) == 0 or len(views) % len(images):
        raise RelgraphError(f"views must be as many for each of the {len(images)} images, got {len(views)} rows")
    found = [batch_contrast(part, images, temperature) for part in torch.split(views, len(images))]
    return torch.stack(found).mean()


def _divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return `T^2 KL(softmax(t / T) || softmax(s / T))` of each row, `(..., M) -> (...)`."""
    s, t = (softmax(temperature)(at_least_float32(scores)) for scores in (student, teacher))
    return temperature**2 * kl_div(s, t, reduction="none", log_target=True).sum(-1)


def _similarities(head: nn.Module, output: Output, views: Output, width: int, side: str) -> Tensor:
    """Return the cosines of each view with each image, `(V, N, N)`."""
    parts = [nodes_of(each, "feature", "SSKD") for each in (output, views)]
    for part in parts:
        if part.ndim != 2 or part.shape[1] != width:
            raise RelgraphError(f"SSKD was built for {side} features (N, {width}), got {tuple(part.shape)}")
    count = len(parts[0])
    with torch.autocast(parts[0].device.type, enabled=False):
        nodes = cosine.nodes(head(at_least_float32(torch.cat(parts))))
    return cosine.matrix(nodes[count:], nodes[:count]).view(-1, count, count)


def _frozen(head: nn.Module | None, width: int) -> nn.Module:
    """Return a copy without parameters: its weights are buffers, which no optimiser finds and every checkpoint has."""
    if head is None:
        raise RelgraphError(
            "SSKD needs the teacher's self-supervision head, given by --ss-head RUN: "
            "`relgraph pretrain --objective sskd-head --teacher ...` trains one"
        )
    first = next((layer for layer in head.modules() if isinstance(layer, nn.Linear)), None)
    if first is not None and first.in_features != width:
        raise RelgraphError(
            f"the self-supervision head must take the teacher's feature (N, {width}), got one for (N, "
            f"{first.in_features})"
        )
    head = deepcopy(head)
    for layer in head.modules():
        for name, parameter in list(layer.named_parameters(recurse=False)):
            delattr(layer, name)
            layer.register_buffer(name, parameter.detach())
    return head.eval()


def _check_ratios(**ratios: float) -> None:
    for name, ratio in ratios.items():
        if not 0 <= ratio <= 1:
            raise RelgraphError(f"{name} must be between 0 and 1, got {ratio}")


def _check_names(transformations: str, head: str) -> None:
    if transformations not in get_args(Transformations):
        raise unknown("choice of transformations", transformations, get_args(Transformations))
    if head not in get_args(StudentHead):
        raise unknown("head of the student", head, get_args(StudentHead))
