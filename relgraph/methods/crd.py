"""Contrastive representation distillation (Tian, Krishnan, Isola, ICLR 2020, arXiv 1910.10699)."""

import math
from dataclasses import field
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from relgraph.errors import RelgraphError, unknown
from relgraph.graph.kernels import at_least_float32, excess, full_precision, unit
from relgraph.graph.memory import Bank, ClassSampler, NearestOthers, RandomOthers
from relgraph.graph.pair import check_nodes
from relgraph.graph.topology import Nearest, Rule
from relgraph.methods.base import (
    Batch,
    Method,
    Output,
    RunFacts,
    Space,
    Terms,
    as_output,
    chosen_nodes,
    nodes_of,
    option,
)
from relgraph.methods.contrastive import Vectors

# Dot products over tau of one direction: own (N,), negative (N, K), and the number of negatives (N,).
Scores = tuple[Tensor, Tensor, Tensor]


class CRD(Method):
    """Identify an image's own slot among those of other classes' images, in a memory of the other network's embeddings.

    The nodes of each network go through a linear layer to `key_dim` numbers and are divided by their length, g_s and
    g_t; M_s and M_t are memories with a slot for each training image, a running mean of its g. Student anchors are
    scored against the teacher's memory and the other way round, with n training images and m negatives,

        P^s_k = exp(<g_s, M_t[k]> / tau) / Z_s        P^t_k = exp(<g_t, M_s[k]> / tau) / Z_t
        L = -1 / N * sum_i [log(P_own / (P_own + m / n + e)) + sum_k log((m / n) / (P_k + m / n + e))]

    for each of the two directions; e = 1e-7. Each Z is the mean of exp(...) over the scores of the first batch, times
    n, and is constant after the first `remember`. Called with outputs or vectors `(N, D_s)` and `(N, D_t)` and a
    `Batch` with indices; returns a scalar >= 0. Both layers are trained by this loss (their parameters must be passed
    to the optimiser), and the teacher receives no gradient. The memories are updated, and new negatives drawn, only
    when `remember` is called: once a step, between `backward` and the optimiser's step.

    The graph selects the negatives. "sampled" uses `negatives` random images of other classes, drawn in each step.
    "dense" uses all images of other classes, which equals "sampled" with as many draws on average. "knn" uses the k of
    them with the largest scores in the same direction; if k is at least their number, it equals "dense", in value and
    gradient. Where labels are unknown (-1, or no `labels` at all) an image is a class of its own: it may be drawn as a
    negative of an image whose true class it shares.

    Paper, official code and this one: the paper's critic is exp / (exp + m / n), the code divides exp by Z first, as
    here. The code's negatives come from other classes, without replacement where there are enough, one set for both
    directions, drawn in the loader; here with replacement and on the device, one set for both directions too. The
    published results come from that code; the choice in the paper itself could not be verified. The code
    gathers `(N, m + 1, D)` from each memory; here the draws are selected from one product with the memory, in
    logarithms, with the same value. "dense", "knn", and training without labels are ours.

    Paper: Contrastive Representation Distillation (Tian, Krishnan, Isola, ICLR 2020, arXiv 1910.10699)
    Differs: scores are divided by a constant Z, as in the code, not in the paper; negatives of other classes are
        drawn with replacement, in the code without; all of them ('dense') and the nearest ('knn') are ours
    Kernel: exp(dot / tau)
    Topology: memory, drawn
    Criterion: NCE

    Args:
        student_width: Width of the student's nodes.
        teacher_width: Width of the teacher's nodes.
        images: Size of the training set, n.
        labels: Class of each of its images, `(images,)`, -1 where it is unknown.
        graph: "sampled", "dense" or "knn", or the rules `AllPairs()` for "dense" and `Nearest(k)` for "knn".
        k: Negatives of each image for "knn"; 8 if not given.
        negatives: Draws for each image for "sampled", m; the authors' 16,384 if not given. More draws than images only
            repeat images: "dense" then uses each once, in less time.
        tau: Temperature > 0.
        key_dim: Width of the embeddings that are compared and remembered.
        bank_momentum: Share in [0, 1) of the old value that a slot keeps when it is written.
        positives: The image's own slot ("exact"), or that of a random image of its class ("relaxed"), which needs
            labels; an image without label then uses its own slot.
        nodes: "feature" or "embedding".

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

    weight = 0.8

    log_z: Tensor = field(init=False)

    student_width: int
    teacher_width: int
    images: int
    labels: Tensor | None = None
    graph: str | Rule = option(default="sampled")
    k: int | None = option(default=None, least=1)
    negatives: int | None = option(default=None, above=0)
    tau: float = option(default=0.07, above=0)
    key_dim: int = option(default=128, above=0)
    bank_momentum: float = option(default=0.5, least=0, below=1)
    positives: Literal["exact", "relaxed"] = option(default="exact")
    nodes: Vectors = option(default="feature")

    def __post_init__(self) -> None:
        """Build the layers and the memories."""
        super().__post_init__()
        if self.labels is not None and not isinstance(self.labels, Tensor):
            raise RelgraphError(f"labels must be a tensor (images,) of integers, got {type(self.labels).__name__}")
        if self.positives == "relaxed" and self.labels is None:
            raise RelgraphError("relaxed positives are images of the same class: expected labels, got none")
        self.reads = (self.nodes, "indices")
        self.rule = _rule(self.graph, self.k, self.negatives)
        self.sampler = ClassSampler(self.images, self.labels)
        self.embed_student = nn.Linear(self.student_width, self.key_dim)
        self.embed_teacher = nn.Linear(self.teacher_width, self.key_dim)
        self.student_bank, self.teacher_bank = Bank(self.images, self.key_dim), Bank(self.images, self.key_dim)
        # For the student's and the teacher's anchors; undefined before the first step.
        self.register_buffer("log_z", torch.zeros(2))

    @classmethod
    def for_run(cls, run: RunFacts, **options: Any) -> Self:
        """Return the method for the widths of its nodes in a run, and the run's training images."""
        return cls(*run.widths(chosen_nodes(cls, options)), run.images, run.labels, **options)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `student_anchors` and `teacher_anchors`."""
        indices = _indices_of(batch)
        scores, noise = self._scores(*self._anchors(student, teacher), indices), 1 / self.sampler.images
        found = zip(("student_anchors", "teacher_anchors"), scores, self._log_z(scores), strict=True)
        return {name: nce(own - z, negative - z, count, noise) for name, (own, negative, count), z in found}

    @torch.no_grad()
    def remember(self, student: Output | Tensor, teacher: Output | Tensor, batch: Batch) -> None:
        """Write the embeddings into both memories, and Z at the first call, and advance the negatives' sampler."""
        s, t = self._anchors(as_output(student), as_output(teacher))
        indices = _indices_of(batch)
        if self.sampler.steps == 0:
            self.log_z.copy_(self._log_z(self._scores(s, t, indices)))
        self.student_bank.remember(indices, s, self.bank_momentum)
        self.teacher_bank.remember(indices, t, self.bank_momentum)
        self.sampler.advance()

    def space(self) -> Space:
        """Return the layers of both sides; the vectors are compared at unit length."""
        return Space(self.nodes, self.embed_student, self.embed_teacher, joint=True)

    def _anchors(self, student: Output, teacher: Output) -> tuple[Tensor, Tensor]:
        """Return g_s and g_t, `(N, key_dim)`."""
        s = nodes_of(student, self.nodes, "CRD", "student", self.student_width)
        t = nodes_of(teacher, self.nodes, "CRD", "teacher", self.teacher_width)
        check_nodes(s, t)
        dtype = self.embed_student.weight.dtype
        with full_precision(s):
            s, t = ((x / excess(x)).to(dtype) for x in (s, t))
            both = torch.stack([self.embed_student(s), self.embed_teacher(t)])
            s, t = unit(at_least_float32(both))
        return s, t

    def _scores(self, s: Tensor, t: Tensor, indices: Tensor) -> list[Scores]:
        """Return the scores of the student's anchors in the teacher's memory, and the other way round."""
        self.teacher_bank.check(indices, len(s))
        positive = self.sampler.same(indices) if self.positives == "relaxed" else indices
        count, weigh = self.rule(self.sampler, indices)
        found = []
        for anchors, bank in ((s, self.teacher_bank), (t, self.student_bank)):
            scaled = anchors / self.tau
            own = (scaled * bank.keys[positive]).sum(-1)
            found.append((own, weigh(scaled, bank.keys), count))
        return found

    def _log_z(self, scores: list[Scores]) -> Tensor:
        """Return the logarithms of Z, (2,), of the first batch; before the first step that is the current batch."""
        if self.sampler.steps > 0:
            return self.log_z
        return torch.stack([_log_mean(*score) for score in scores]).detach() + math.log(self.sampler.images)


def _log_mean(own: Tensor, negative: Tensor, count: Tensor) -> Tensor:
    """Return the logarithm of the mean of exp(...) over all scores of one direction, a scalar."""
    total = torch.logaddexp(own.logsumexp(0), negative.flatten().logsumexp(0))
    return total - (count.sum() + len(own)).to(total.dtype).log()


def _indices_of(batch: Batch | None) -> Tensor:
    if batch is None:
        raise RelgraphError("CRD reads indices: expected a Batch(indices, labels) as the third argument, got none")
    return batch.indices


def _rule(graph: str | Rule, k: int | None, negatives: int | None) -> RandomOthers | NearestOthers:
    """Return the rule of the negatives."""
    if negatives is not None and graph != "sampled":
        raise RelgraphError(f"negatives are those of the graph 'sampled', got {negatives} and another graph")
    if k is not None and graph != "knn":
        raise RelgraphError(f"k belongs to the graph 'knn', got k = {k} and another graph")
    if graph == "sampled":
        return RandomOthers(16384 if negatives is None else negatives)  # the authors' number
    if graph == "knn":
        return NearestOthers(8 if k is None else k)
    if isinstance(graph, Nearest) and graph.by == "teacher":
        return NearestOthers(graph.k)
    if graph == "dense" or (isinstance(graph, Rule) and graph.dense):
        return NearestOthers()
    if isinstance(graph, str):
        raise unknown("graph", graph, ("sampled", "dense", "knn"))
    known = "'sampled', 'dense' or 'knn', which its own scores and labels choose in its memory"
    other = f"edges among the images of a batch are none of them, got {type(graph).__name__}"
    raise RelgraphError(f"CRD takes the graph {known}: {other}")


def nce(positive: Tensor, negative: Tensor, count: Tensor, noise: float) -> Tensor:
    """Return the noise-contrastive estimation loss of identifying each anchor's positive among its m negatives.

    With probabilities p of the positive and p_k of the negatives, q of the noise, and e = 1e-7 as in the official code,

        1 / N * sum_i [-log(p_i / (p_i + m_i q + e)) - sum_k log(m_i q / (p_ik + m_i q + e))]

    The criterion of CRD (Tian et al., 2019, arXiv 1910.10699). It reads logarithms of p, like `cross_entropy`, which
    neither overflow at a low temperature nor lose digits where p is far below m q.

    Args:
        positive: Log-probabilities `(N,)`; they need not be normalised.
        negative: Log-probabilities `(N, K)`; -inf stands for no negative.
        count: m, the number of negatives of each anchor, `(N,)`.
        noise: q, the probability that the noise gives to any one image.

    >>> nce(torch.zeros(1), torch.zeros(1, 2), torch.tensor([2]), noise=0.5)  # 3 log 2: all probabilities are 1/2
    tensor(2.0794)
    """
    expected = count.to(positive.dtype) * noise
    bar = (expected + 1e-7).log()
    # The threshold is 40, since beyond torch's default of 20 softplus equals its argument only to 2e-9.
    own = softplus(bar - positive, threshold=40)
    others = softplus(negative - bar.unsqueeze(-1), threshold=40).sum(-1)
    return (own + others + count * torch.log1p(1e-7 / expected)).sum() / len(positive)
