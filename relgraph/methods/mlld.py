"""Multi-level logit distillation (Jin, Wang, Lin, CVPR 2023)."""

import torch
from torch import Tensor

from relgraph.graph.criteria import anchor_square
from relgraph.graph.kernels import linear, precision_of
from relgraph.graph.relation import Relation
from relgraph.methods.base import Batch, Method, Output, Terms, logits_of, option
from relgraph.methods.kd import cooled, divergence, standardised

FURTHER = (3.0, 5.0, 2.0, 6.0)  # temperatures of the release, beside the one that is chosen
PRODUCTS = Relation(linear, criterion=anchor_square)


class MLLD(Method):
    """Match the teacher's class distributions image by image, and their products between images and between classes.

    With `P = softmax(z / T)`, `(N, C)`, of each network,

        L_instance = T^2 / N * sum_i KL(P^t_i || P^s_i)
        L_batch = 1 / N * sum_ij (P^t P^t' - P^s P^s')^2_ij        images as nodes
        L_class = 1 / C * sum_kl (P^t' P^t - P^s' P^s)^2_kl        classes as nodes

    each summed over the temperatures T: the chosen one, and 3, 5, 2 and 6 unless `several=False`. Called with outputs
    that hold logits `(N, C)`; returns a scalar >= 0. The teacher receives no gradient.

    Paper, official code and this one: the release has two views of each image, a weak and a strong one, and this one
    has the view that the networks are given. What it leaves out: the strong view, whose instance term is added at T, 3
    and 5 only (at 2 and 6 the release adds the weak view's once more), and whose batch and class terms are computed and
    never added; and the masks of confident images and classes, which multiply terms that are already reduced, and so
    are only factors, the share at or below the median: 1/2, the default weights here, by which the terms are the
    released ones of the weak view. The weight 0.9 beside a cross-entropy of 0.1 is the release's. The term of classes
    grows with the square of the images of a class in a batch: with few classes it wants a smaller weight. With
    `standardise` the divergences, and they alone, are of standardised logits, as in the code of logit standardisation
    (Sun et al., CVPR 2024, arXiv 2403.01427): with T = 2 and the weight 9.

    Paper: Multi-Level Logit Distillation (Jin, Wang, Lin, CVPR 2023)
    Differs: one view; the code adds a strong one, in part by mistake from the weak one, and multiplies by masks
        that are factors of 1/2
    Kernel: linear
    Topology: all pairs; classes as nodes
    Criterion: KL T^2; square by anchor

    Args:
        temperature: T > 0.
        instance_weight: Weight of the divergences.
        batch_weight: Weight of the term of images.
        class_weight: Weight of the term of classes.
        several: Whether the terms are summed over the temperatures 3, 5, 2 and 6 as well.
        standardise: Whether the divergences are of standardised logits; see `kd`.

    Raises:
        RelgraphError: for numbers out of range, or logits that are missing or differ in shape.

    >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1e4]])  # probabilities 1/2, 1/2 and 0, 1
    >>> terms = MLLD(temperature=1.0, several=False).terms(Output(logits=student), Output(logits=teacher))
    >>> {name: round(term.item(), 4) for name, term in terms.items()}
    {'instance': 0.3466, 'batch': 0.125, 'class': 0.1875}
    """

    gamma = 0.1
    weight = 0.9
    reads = ("logits",)

    temperature: float = option(default=4.0, above=0)
    instance_weight: float = option(default=0.5, least=0, term="instance")
    batch_weight: float = option(default=0.5, least=0, term="batch")
    class_weight: float = option(default=0.5, least=0, term="class")
    several: bool = option(default=True, kw_only=True)
    standardise: bool = option(default=False, kw_only=True)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `instance`, `batch` and `class`."""
        s, t = logits_of(student, teacher, "MLLD")
        temperatures = (self.temperature, *(FURTHER if self.several else ()))
        found = torch.stack([self.at(s, t, temperature) for temperature in temperatures]).sum(0)
        return dict(zip(("instance", "batch", "class"), found.to(precision_of(s, t)), strict=True))

    def at(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Return the three terms at one temperature, `(3,)`."""
        s, t = (cooled(logits, temperature).softmax(-1) for logits in (student, teacher))
        given = (standardised(student), standardised(teacher)) if self.standardise else (student, teacher)
        instance = divergence(*given, temperature).mean()
        return torch.stack([instance, PRODUCTS(s, t), PRODUCTS(s.mT, t.mT)])
