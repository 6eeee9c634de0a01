"""Knowledge distillation of logits (Hinton, Vinyals, Dean, 2015, arXiv 1503.02531)."""

from torch import Tensor
from torch.nn.functional import kl_div

from relgraph.graph.kernels import deviations, excess, nearly_unit, precision_of
from relgraph.methods.base import Batch, Method, Output, Terms, logits_of, option

LEAST = -1e300  # of float64, where sums of some of them are finite


class KD(Method):
    """Match the teacher's class distribution, `T^2 / N * sum_i KL(softmax(z_t_i / T) || softmax(z_s_i / T))`.

    Reads logits `(N, classes)` of both, or maps of them `(N, classes, H, W)`; sum over classes, mean over the batch,
    and over positions. Called with outputs that hold logits; returns a scalar >= 0, which is infinite where T times a
    difference of logits is beyond 3e38. The teacher receives no gradient.

    Paper, official code and this one: the paper weighs the two losses and multiplies this one by T^2, as the benchmark
    code (RepDistiller) does with T = 4, 0.9 of it and 0.1 of the cross-entropy; T = 4 is the default here as well, and
    the weight 1. A mean over all elements, found in some codes, is smaller by the number of classes. The teacher's
    logits are those of its linear head, as in the code of EGA, where RepDistiller has its own classifier. With
    `standardise` it is the logit standardisation of Sun et al. (CVPR 2024, arXiv 2403.01427), `z_k -> (z_k - mean z) /
    (1e-7 + std z)` of both networks with n - 1 in the variance, gradient through both, and T^2 kept; their command
    line has T = 2 and the weight 9 (`--method 9*kd --gamma 0.1 --temperature 2 --method-args standardise=true`).
    Equal logits, whose gradient the 1e-7 makes 1e7 times too large there, are constant here.

    Paper: Distilling the Knowledge in a Neural Network (Hinton, Vinyals, Dean, 2015, arXiv 1503.02531)
    Differs: the benchmark code weighs it 0.9 beside a cross-entropy of 0.1 (--method 0.9*kd --gamma 0.1); the
        teacher's logits are those of its linear head here and in EGA's code, of its own classifier in RepDistiller
    Criterion: KL T^2

    Args:
        temperature: T > 0.
        standardise: Whether the logits of each image are standardised first.

    Raises:
        RelgraphError: if the temperature is not positive, or logits are missing or differ in shape.

    >>> import torch
    >>> student, teacher = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 0.0]])
    >>> round(KD(temperature=1.0)(Output(logits=student), Output(logits=teacher)).item(), 4)
    0.1201
    """

    pointwise = True
    reads = ("logits",)

    temperature: float = option(default=4.0, above=0)
    standardise: bool = option(default=False, kw_only=True)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `kd`."""
        s, t = logits_of(student, teacher, "KD", maps=True)
        one, other = (standardised(s), standardised(t)) if self.standardise else (s, t)
        return {"kd": divergence(one, other, self.temperature).mean().to(precision_of(s, t))}


def standardised(logits: Tensor) -> Tensor:
    """Return `(z - mean) / (1e-7 + std)` of each row, std with n - 1, `(..., M) -> (..., M)` in float64.

    Equal numbers become 0, without gradient (Sun et al., 2024, arXiv 2403.01427).

    >>> import torch
    >>> standardised(torch.tensor([[0.0, 2.0, 4.0], [7.0, 7.0, 7.0]])).round(decimals=6)
    tensor([[-1.,  0.,  1.],
            [ 0.,  0.,  0.]], dtype=torch.float64)
    """
    length = max(1, logits.shape[-1] - 1) ** 0.5  # of a row whose standard deviation is 1
    z = logits.double()
    found: Tensor = length * nearly_unit(1e-7 * length)(deviations(z / excess(z)))
    return found


def divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return `T^2 KL(softmax(t / T) || softmax(s / T))` of each row, `(..., M) -> (...)`, in float32 or wider.

    It is computed in float64, in which any float32 can be divided by T, and of differences from each row's largest, of
    which none is infinite: infinity less infinity is not a number.
    """
    s, t = (cooled(scores, temperature).log_softmax(-1) for scores in (student, teacher))
    found = temperature**2 * kl_div(s, t, reduction="none", log_target=True).sum(-1)
    return found.to(precision_of(student, teacher))


def cooled(logits: Tensor, temperature: float) -> Tensor:
    """Return `(z - max z) / T` of each row, `(..., M) -> (..., M)` in float64, of which none is infinite.

    A softmax does not depend on what is subtracted; the largest is a constant for the gradient.
    """
    z = logits.double()
    return ((z - z.detach().amax(-1, keepdim=True)) / temperature).clamp_min(LEAST)
