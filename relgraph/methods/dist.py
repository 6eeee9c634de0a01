"""Distillation from a stronger teacher (Huang, You, Wang, Qian, Xu, NeurIPS 2022, arXiv 2205.10536)."""

from torch import Tensor

from relgraph.graph.kernels import damped_pearson, precision_of
from relgraph.methods.base import Batch, Method, Output, Terms, logits_of, option
from relgraph.methods.kd import cooled


class DIST(Method):
    """Match the teacher's class probabilities up to scale and shift: of each image, and of each class over the batch.

    With p the softmax of logits over tau, `(N, C)`, and the correlation r(a, b) of two vectors less their means,
    `<a, b> / (|a| |b| + epsilon)`,

        L_inter = 1 - 1 / N * sum_i r(p^s_i, p^t_i)        over images, the rows of p
        L_intra = 1 - 1 / C * sum_k r(p^s_.k, p^t_.k)      over classes, the columns of p
        L = tau^2 * (inter_weight * L_inter + intra_weight * L_intra)

    Only own edges are read, each image with itself and each class with itself in the other network. Called with outputs
    that hold logits `(N, C)`; returns a scalar in [0, 4 tau^2] at the default weights. Of maps `(N, C, H, W)`
    the positions of all images are the rows. The teacher receives no gradient.

    Paper, official code and this one: paper and code call the weights beta and gamma. The code adds epsilon to the
    product of the lengths, as here. Vectors without variance, for which its gradient is multiplied by up to 1e8, have
    correlation 0 and no gradient here: one image alone has no intra term that could be trained. The authors' weight is
    2 beside a cross-entropy of 1, tau is 1 on ImageNet and 4 on CIFAR-100, their copy for segmentation has no tau.

    Paper: Knowledge Distillation from A Stronger Teacher (Huang, You, Wang, Qian, Xu, NeurIPS 2022, arXiv 2205.10536)
    Differs: tau is 1 on ImageNet (the default) and 4 on CIFAR-100 (--method-args tau=4); vectors without variance
        get no gradient here, a huge one in the code
    Kernel: pearson (damped)
    Topology: own edges; classes as nodes
    Criterion: 1 - mean

    Args:
        tau: Temperature > 0.
        inter_weight: Weight of the term of images, the paper's beta.
        intra_weight: Weight of the term of classes, the paper's gamma.
        epsilon: What is added to the product of two lengths, at least 0.

    Raises:
        RelgraphError: for numbers out of range, or logits that are missing or differ in shape.

    >>> import torch
    >>> student, teacher = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[0.0, 3.0], [0.0, 3.0]])
    >>> terms = DIST().terms(Output(logits=student), Output(logits=teacher))
    >>> {name: round(term.item(), 4) for name, term in terms.items()}  # right and wrong; a class that does not vary
    {'inter': 1.0, 'intra': 1.0}
    """

    weight = 2.0
    reads = ("logits",)

    tau: float = option(default=1.0, above=0)
    inter_weight: float = option(default=1.0, least=0, term="inter")
    intra_weight: float = option(default=1.0, least=0, term="intra")
    epsilon: float = option(default=1e-8, least=0)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `inter` and `intra`."""
        logits = logits_of(student, teacher, "DIST", maps=True)
        s, t = (cooled(x, self.tau).softmax(-1) for x in logits)
        precision = precision_of(*logits)
        return {"inter": self.apart(s, t).to(precision), "intra": self.apart(s.mT, t.mT).to(precision)}

    def apart(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return tau^2 times how far rows are from being correlated, a scalar."""
        kernel = damped_pearson(self.epsilon)
        return self.tau**2 * (1 - kernel.paired(kernel.nodes(student), kernel.nodes(teacher)).mean())
