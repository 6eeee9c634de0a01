"""Pixel-wise distillation of class scores (Liu, Chen, Liu, Qin, Luo, Wang, CVPR 2019, arXiv 1903.04197)."""

from torch import Tensor

from relgraph.graph.kernels import precision_of
from relgraph.methods.base import Batch, Method, Output, Terms, logits_of, option
from relgraph.methods.kd import cooled, divergence


class Pixelwise(Method):
    """Match the teacher's class distribution at each position, the pixel-wise term of structured distillation.

    With the logits z `(B, classes, H, W)` of both networks and p their softmax over the classes at temperature T,

        L = T^2 / (B H W) * sum_b sum_hw KL(p^t || p^s)

    Called with outputs that hold such logits, or `(N, classes)` of whole images; a teacher's map of another grid is
    resized to the student's (bilinear). Returns a scalar >= 0. The teacher receives no gradient.

    Paper, official code and this one: the paper's is the mean over positions of the divergence, T = 1, as here. The
    code sums a cross-entropy over the images of a batch, and divides by the positions of one: its gradient is B times
    as large and its value has the teacher's entropy in it (`official=True`, without T^2, with the code's weight of 10).
    It outweighs all other terms (its users report so); the weight is 1 here.

    Paper: Structured Knowledge Distillation for Semantic Segmentation (Liu et al., CVPR 2019, arXiv 1903.04197)
    Differs: the code sums over the images of a batch, with the weight 10 (--method-args official=true)
    Criterion: KL T^2

    Args:
        temperature: T > 0.
        official: Whether it is the code's cross-entropy, summed over the images.

    Raises:
        RelgraphError: if the temperature is not positive, or logits are missing or differ in their classes.

    >>> import torch
    >>> student, teacher = torch.zeros(1, 2, 2, 2), torch.tensor([0.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    >>> round(Pixelwise()(Output(student, student), Output(teacher, teacher)).item(), 4)
    0.1109
    """

    pointwise = True
    reads = ("logits",)

    temperature: float = option(default=1.0, above=0)
    official: bool = option(default=False, kw_only=True)

    def __post_init__(self) -> None:
        """Take the code's weight for the code's form."""
        super().__post_init__()
        if self.official:
            self.weight, self.pointwise = 10.0, False

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `pixelwise`."""
        s, t = logits_of(student, teacher, "Pixelwise", maps=True)
        if not self.official:
            return {"pixelwise": divergence(s, t, self.temperature).mean().to(precision_of(s, t))}
        assert student.logits is not None
        found = _cross_entropy(s, t, self.temperature).sum() * len(student.logits) / len(s)
        return {"pixelwise": found.to(precision_of(s, t))}


def _cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return `-sum p^t log p^s` of each row, in float64."""
    s, t = (cooled(x, temperature).log_softmax(-1) for x in (student, teacher))
    return -(t.exp() * s).sum(-1)
