"""Knowledge distillation of logits (Hinton, Vinyals, Dean, 2015, arXiv 1503.02531)."""

from torch import Tensor
from torch.nn.functional import kl_div

from relgraph.graph.kernels import precision_of
from relgraph.methods.base import Batch, Method, Output, Terms, logits_of, option

LEAST = -1e300  # of float64, where sums of some of them are finite


class KD(Method):
    """Match the teacher's class distribution, `T^2 / N * sum_i KL(softmax(z_t_i / T) || softmax(z_s_i / T))`.

    Reads logits `(N, classes)` of both; sum over classes, mean over the batch. Called with outputs that hold logits;
    returns a scalar >= 0, which is infinite where T times a difference of logits is beyond 3e38. The teacher receives
    no gradient.

    Paper, official code and this one: the paper weighs the two losses and multiplies this one by T^2, as the benchmark
    code (RepDistiller) does with T = 4, 0.9 of it and 0.1 of the cross-entropy; T = 4 is the default here as well, and
    the weight 1. A mean over all elements, found in some codes, is smaller by the number of classes. The teacher's
    logits are those of its linear head, as in the code of EGA, where RepDistiller has its own classifier.

    Paper: Distilling the Knowledge in a Neural Network (Hinton, Vinyals, Dean, 2015, arXiv 1503.02531)
    Differs: the benchmark code weighs it 0.9 beside a cross-entropy of 0.1 (--method 0.9*kd --gamma 0.1); the
        teacher's logits are those of its linear head here and in EGA's code, of its own classifier in RepDistiller
    Criterion: KL T^2

    Args:
        temperature: T > 0.

    Raises:
        RelgraphError: if the temperature is not positive, or logits are missing or differ in shape.

    >>> import torch
    >>> student, teacher = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 0.0]])
    >>> round(KD(temperature=1.0)(Output(student, student), Output(teacher, teacher)).item(), 4)
    0.1201
    """

    pointwise = True
    reads = ("logits",)

    temperature: float = option(default=4.0, above=0)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `kd`."""
        return {"kd": divergence(*logits_of(student, teacher, "KD"), self.temperature).mean()}


def divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return `T^2 KL(softmax(t / T) || softmax(s / T))` of each row, `(..., M) -> (...)`, in float32 or wider.

    It is computed in float64, in which any float32 can be divided by T, and of differences from each row's largest, of
    which none is infinite: infinity less infinity is not a number.
    """
    rows = (scores.double() for scores in (student, teacher))
    apart = ((x - x.detach().amax(-1, keepdim=True)) / temperature for x in rows)
    s, t = (difference.clamp_min(LEAST).log_softmax(-1) for difference in apart)
    found = temperature**2 * kl_div(s, t, reduction="none", log_target=True).sum(-1)
    return found.to(precision_of(student, teacher))
