"""Contrastive representation distillation (Tian, Krishnan, Isola, ICLR 2020, arXiv 1910.10699)."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from relgraph.errors import RelgraphError, unknown
from relgraph.graph.kernels import at_least_float32, unit
from relgraph.graph.matching import nce
from relgraph.graph.memory import Bank
from relgraph.graph.relation import check_nodes
from relgraph.graph.sampling import ClassSampler, Drawn, NearestOthers, gathered
from relgraph.graph.topology import AllPairs, Nearest
from relgraph.methods.base import PARTS, Batch, Method, Output, Part, as_output, check_positive, nodes_of

Positives = Literal["exact", "relaxed"]
POSITIVES: tuple[Positives, ...] = ("exact", "relaxed")
GRAPHS = ("sampled", "dense", "knn")
DRAWS = 16384  # the authors' number of negatives


class CRD(Method):
    """Tell, in a memory of one network's embeddings, an image's own slot from those of other classes' images.

    The nodes of each network go through a linear layer to `key_dim` numbers and are divided by their length, g_s and
    g_t; M_s and M_t are memories with a slot for each training image, a running mean of its g. Student anchors are
    scored against the teacher's memory and the other way round, with n training images and m negatives,

        P^s_k = exp(<g_s, M_t[k]> / tau) / Z_s        P^t_k = exp(<g_t, M_s[k]> / tau) / Z_t
        L = -1 / N * sum_i [log(P_own / (P_own + m / n + e)) + sum_k log((m / n) / (P_k + m / n + e))]

    for each of the two directions; e = 1e-7. Each Z is the mean of exp(...) over what the first batch scores, times n,
    and constant from the first `remember` on. Called with outputs or vectors `(N, D_s)` and `(N, D_t)` and a `Batch`
    with indices; returns a scalar >= 0. Both layers are trained by this loss (their parameters belong into the
    optimiser), and the teacher receives no gradient. The memories move, and other negatives are drawn, only when
    `remember` is called: once a step, between `backward` and the optimiser's step.

    The graph says which images are negatives. "sampled" are `negatives` random images of other classes, anew in each
    step. "dense" are all images of other classes: what "sampled" with as many draws is on average. "knn" are the k of
    them that the direction's own scores put nearest; with k no less than there are, it is "dense", in value and
    gradient. Where labels are unknown (-1, or no `labels` at all) an image is a class of its own: it may be drawn as a
    negative of an image that in truth is of its class.

    Paper, official code and this one: the paper's critic is exp / (exp + m / n), the code divides exp by Z first, as
    here. The code's negatives come from other classes, without replacement where there are enough, one set for both
    directions, drawn in the loader; here with replacement and on the device, one set for both directions too. The
    published results come from that code; what the paper itself says of the choice could not be verified. The code
    gathers `(N, m + 1, D)` from each memory; here the draws are picked from one product with the memory, in the
    logarithm, which is the same number. "dense", "knn", and training without labels are ours.

    Args:
        student_width: Width of the student's nodes.
        teacher_width: Width of the teacher's nodes.
        images: Size of the training set, n.
        labels: Class of each of its images, `(images,)`, -1 where it is unknown.
        graph: "sampled", "dense" or "knn", or the rules `AllPairs()` for "dense" and `Nearest(k)` for "knn".
        k: Negatives of each image for "knn"; 8 if not given.
        negatives: Draws for each image for "sampled", m; the authors' 16,384 if not given. More than there are images
            only repeat them: "dense" then has each once, in less time.
        tau: Temperature > 0.
        key_dim: Width of the embeddings that are compared and remembered.
        bank_momentum: Share in [0, 1) that a slot keeps of itself when it is written.
        positives: The image's own slot ("exact"), or that of a random image of its class ("relaxed"), which needs
            labels; an image without label is its own then.
        nodes: "feature" or "embedding".
        dim: Width of the embeddings of both networks, in place of the other two, where these are the nodes.

    Raises:
        RelgraphError: for unknown names, numbers out of range, labels that are not one for each image or all of one
            class, nodes of another width, indices outside the training set (on the CPU), or without a batch.

    >>> import torch
    >>> loss = CRD(student_width=6, teacher_width=8, images=100, labels=torch.arange(100) % 10, negatives=32)
    >>> student, teacher = torch.randn(3, 6), torch.randn(3, 8)
    >>> batch = Batch(indices=torch.tensor([3, 14, 15]), labels=torch.tensor([3, 4, 5]))
    >>> loss(student, teacher, batch).backward()
    >>> loss.remember(student, teacher, batch)  # then the optimiser's step
    >>> sorted(loss.terms(student, teacher, batch))
    ['student_anchors', 'teacher_anchors']
    """

    paper = "Contrastive Representation Distillation (Tian, Krishnan, Isola, ICLR 2020, arXiv 1910.10699)"
    weight = 0.8
    kernel = "exp(dot / tau)"
    topology = "memory, drawn"
    criterion = "NCE"
    differs = (
        "scores are divided by a constant Z, as in the code, not in the paper; negatives of other classes are drawn "
        "with replacement, in the code without; all of them ('dense') and the nearest ('knn') are ours"
    )

    log_z: Tensor

    def __init__(
        self,
        student_width: int,
        teacher_width: int,
        images: int,
        labels: Tensor | None = None,
        graph: str | AllPairs | Nearest = "sampled",
        k: int | None = None,
        negatives: int | None = None,
        tau: float = 0.07,
        key_dim: int = 128,
        bank_momentum: float = 0.5,
        positives: Positives = "exact",
        nodes: Part = "feature",
        dim: int | None = None,
    ) -> None:
        super().__init__()
        check_positive(tau=tau, negatives=DRAWS if negatives is None else negatives, key_dim=key_dim)
        if not 0 <= bank_momentum < 1:
            raise RelgraphError(f"bank_momentum must be at least 0 and below 1, got {bank_momentum}")
        _check_names(nodes, positives, labels)
        if nodes == "embedding" and dim is not None:
            student_width = teacher_width = dim
        self.tau, self.bank_momentum, self.nodes, self.positives = tau, bank_momentum, nodes, positives
        self.reads = (nodes, "indices")
        self.rule = _rule(graph, k, negatives)
        self.sampler = ClassSampler(images, labels)
        self.embed_student = nn.Linear(student_width, key_dim)
        self.embed_teacher = nn.Linear(teacher_width, key_dim)
        self.student_bank, self.teacher_bank = Bank(images, key_dim), Bank(images, key_dim)
        # Of the student's and the teacher's anchors; without meaning before the first step.
        self.register_buffer("log_z", torch.zeros(2))

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> dict[str, Tensor]:
        """Return `student_anchors` and `teacher_anchors`."""
        indices = _indices_of(batch)
        scores = self._scores(*self._anchors(student, teacher), indices)
        losses = [
            nce(score.own - z, score.negative - z, score.count, 1 / self.sampler.images)
            for score, z in zip(scores, self._log_z(scores), strict=True)
        ]
        return dict(zip(("student_anchors", "teacher_anchors"), losses, strict=True))

    @torch.no_grad()
    def remember(self, student: Output | Tensor, teacher: Output | Tensor, batch: Batch) -> None:
        """Write the embeddings into both memories, at the first call Z, and let the next negatives be others."""
        one, other, whole = self.whole(as_output(student), as_output(teacher), batch)
        s, t = self._anchors(one, other)
        indices = _indices_of(whole)
        if self.sampler.steps == 0:
            self.log_z.copy_(self._log_z(self._scores(s, t, indices)))
        self.student_bank.remember(indices, s, self.bank_momentum)
        self.teacher_bank.remember(indices, t, self.bank_momentum)
        self.sampler.advance()

    def _anchors(self, student: Output, teacher: Output) -> tuple[Tensor, Tensor]:
        """Return g_s and g_t, `(N, key_dim)`."""
        s, t = (nodes_of(output, self.nodes, "CRD") for output in (student, teacher))
        check_nodes(s, t)
        return _embed(self.embed_student, s, "student"), _embed(self.embed_teacher, t, "teacher")

    def _scores(self, s: Tensor, t: Tensor, indices: Tensor) -> list["_Scores"]:
        """Return the scores of the student's anchors in the teacher's memory, and the other way round."""
        self.teacher_bank.check(indices, len(s))
        positive = self.sampler.same(indices) if self.positives == "relaxed" else indices
        negatives = self.rule(self.sampler, indices)
        found = []
        for anchors, bank in ((s, self.teacher_bank), (t, self.student_bank)):
            scaled = anchors / self.tau
            own = gathered(scaled, bank.keys, positive.unsqueeze(-1)).squeeze(-1)
            found.append(_Scores(own, negatives.weigh(scaled, bank.keys), negatives.count))
        return found

    def _log_z(self, scores: list["_Scores"]) -> Tensor:
        """Return the logarithms of Z, (2,): those of the first batch, which this one is before the first step."""
        if self.sampler.steps > 0:
            return self.log_z
        return torch.stack([score.log_mean() for score in scores]).detach() + math.log(self.sampler.images)


@dataclass(frozen=True)
class _Scores:
    """Dot products over tau of one direction: own (N,), negative (N, K), and the number of negatives (N,)."""

    own: Tensor
    negative: Tensor
    count: Tensor

    def log_mean(self) -> Tensor:
        """Return the logarithm of the mean of exp(...) over all of them, a scalar."""
        total = torch.logaddexp(self.own.logsumexp(0), self.negative.flatten().logsumexp(0))
        return total - (self.count.sum() + len(self.own)).to(total.dtype).log()


def _embed(layer: nn.Linear, nodes: Tensor, side: str) -> Tensor:
    if nodes.ndim != 2 or nodes.shape[1] != layer.in_features:
        raise RelgraphError(f"CRD was built for {side} nodes (N, {layer.in_features}), got {tuple(nodes.shape)}")
    with torch.autocast(nodes.device.type, enabled=False):
        return unit(at_least_float32(layer(nodes.to(layer.weight.dtype))))


def _indices_of(batch: Batch | None) -> Tensor:
    if batch is None:
        raise RelgraphError("CRD reads indices: expected a Batch(indices, labels) as the third argument, got none")
    return batch.indices


def _rule(graph: str | AllPairs | Nearest, k: int | None, negatives: int | None) -> Drawn | NearestOthers:
    """Return the rule of the negatives."""
    if negatives is not None and graph != "sampled":
        raise RelgraphError(f"negatives are those of the graph 'sampled', got {negatives} and another graph")
    if k is not None and not isinstance(graph, str):
        raise RelgraphError(f"k belongs to the graph 'knn', got k = {k} beside a rule")
    if isinstance(graph, AllPairs):
        return NearestOthers()
    if isinstance(graph, Nearest) and graph.by == "teacher":
        return NearestOthers(graph.k)
    if not isinstance(graph, str):
        raise RelgraphError(
            "CRD takes the graph 'sampled', 'dense' or 'knn', which its own scores and labels choose in its memory: "
            f"edges among the images of a batch are none of them, got {type(graph).__name__}"
        )
    if graph not in GRAPHS:
        raise unknown("graph", graph, GRAPHS)
    if k is not None and graph != "knn":
        raise RelgraphError(f"k belongs to the graph 'knn', got k = {k} and graph = {graph!r}")
    if k is not None and k < 1:
        raise RelgraphError(f"k must be at least 1, got {k}")
    if graph == "knn":
        return NearestOthers(8 if k is None else k)
    return Drawn(DRAWS if negatives is None else negatives) if graph == "sampled" else NearestOthers()


def _check_names(nodes: str, positives: str, labels: Tensor | None) -> None:
    if labels is not None and not isinstance(labels, Tensor):
        raise RelgraphError(f"labels must be a tensor (images,) of integers, got {type(labels).__name__}")
    if nodes not in PARTS:
        raise unknown("kind of nodes", nodes, PARTS)
    if nodes == "map":
        raise RelgraphError("CRD embeds one vector per image: nodes must be 'embedding' or 'feature', got 'map'")
    if positives not in POSITIVES:
        raise unknown("choice of positives", positives, POSITIVES)
    if positives == "relaxed" and labels is None:
        raise RelgraphError("relaxed positives are images of the same class: expected labels, got none")
