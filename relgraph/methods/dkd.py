"""Decoupled knowledge distillation (Zhao, Cui, Song, Qiu, Liang, CVPR 2022, arXiv 2203.08679)."""

import torch
from torch import Tensor

from relgraph.graph.kernels import precision_of
from relgraph.methods.base import Batch, Method, Output, Terms, labels_of, logits_of, option
from relgraph.methods.kd import LEAST, cooled, divergence, standardised


class DKD(Method):
    """Match whether the class is the target, and separately the distribution over the other classes.

    With y the label of an image, `p = softmax(z / T)`, `b = (p_y, 1 - p_y)` and q the softmax over the classes but y,

        L_target = T^2 / N * sum_i KL(b^t_i || b^s_i)        L_others = T^2 / N * sum_i KL(q^t_i || q^s_i)
        L = target_weight * L_target + others_weight * L_others

    KD is the target's term plus (1 - p^t_y) of the others' for each image. An image without label has no target: all
    classes are its others, so that its loss is KD's. Called with outputs that hold logits `(N, C)` and a `Batch` with
    labels; returns a scalar >= 0, which is infinite where T times a difference of logits is beyond 3e38. The teacher
    receives no gradient.

    Paper, official code and this one: the code lowers the label's logit by 1000 after the division by T, here it is
    left out, which differs where logits are that far apart. alpha and beta are its names of the weights: 1 and 8 here,
    its beta is 2 for ResNet-56 and -110, 6 for VGG-13 and WRN teachers. It multiplies the loss by min(epoch / 20, 1),
    which is not here. With `standardise` logits are standardised first, see `kd`: with T = 2 and both weights times 9.

    Paper: Decoupled Knowledge Distillation (Zhao, Cui, Song, Qiu, Liang, CVPR 2022, arXiv 2203.08679)
    Differs: the code warms up over 20 epochs, and its beta depends on the teacher; images without label have KD's loss
    Criterion: KL T^2

    Args:
        temperature: T > 0.
        target_weight: Weight of the target's term, the paper's alpha.
        others_weight: Weight of the other classes' term, the paper's beta.
        standardise: Whether the logits of each image are standardised first.

    Raises:
        RelgraphError: for numbers out of range, logits that are missing or differ in shape, without a batch, or labels
            of another N.

    >>> student, teacher = torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[9.0, 0.0, 0.0]])
    >>> batch = Batch(torch.tensor([0]), torch.tensor([0]))
    >>> terms = DKD(temperature=1.0).terms(Output(logits=student), Output(logits=teacher), batch)
    >>> {name: round(term.item(), 4) for name, term in terms.items()}  # the others are equal in both
    {'target': 1.0962, 'others': 0.0}
    """

    reads = ("logits", "labels")

    temperature: float = option(default=4.0, above=0)
    target_weight: float = option(default=1.0, least=0, term="target")
    others_weight: float = option(default=8.0, least=0, term="others")
    standardise: bool = option(default=False, kw_only=True)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `target` and `others`."""
        logits = logits_of(student, teacher, "DKD")
        labels = labels_of(batch, "DKD", len(logits[0]))
        target = labels.unsqueeze(-1) == torch.arange(logits[0].shape[-1], device=labels.device)
        given = tuple(map(standardised, logits)) if self.standardise else logits
        s, t = (cooled(z, self.temperature) for z in given)
        # The logarithms of the target's and of the others' share, but for a constant.
        target_or_not = (torch.stack([_without(z, ~target), _without(z, target)], -1) for z in (s, t))
        others = (z.masked_fill(target, LEAST) for z in (s, t))
        found = (divergence(one, other) for one, other in (target_or_not, others))
        terms = (self.temperature**2 * term.mean() for term in found)
        return {name: term.to(precision_of(*logits)) for name, term in zip(("target", "others"), terms, strict=True)}


def _without(logits: Tensor, left_out: Tensor) -> Tensor:
    return logits.masked_fill(left_out, LEAST).logsumexp(-1)
