"""Correlation congruence (Peng et al., ICCV 2019, arXiv 1904.01802)."""

from dataclasses import field, replace
from typing import Any, Literal, Self

from torch import Tensor, nn

from relgraph.errors import RelgraphError
from relgraph.graph.criteria import mean_square
from relgraph.graph.kernels import (
    at_least_float32,
    cosine,
    full_precision,
    gaussian,
    gaussian_taylor,
    linear,
    precision_of,
)
from relgraph.graph.pair import Pair, check_nodes
from relgraph.graph.refine import Refiner
from relgraph.graph.relation import Relation
from relgraph.graph.topology import Nearest
from relgraph.methods.base import Batch, Output, RunFacts, Space, Terms, option
from relgraph.methods.relational import Relational

Correlation = Literal["taylor", "gaussian", "bilinear", "consecutive"]


class CC(Relational):
    """Match the teacher's correlation matrix of the images of a batch.

    With `c_ij = k(x_i, x_j)` of the nodes of one network,

        L = 1 / N^2 * sum_ij (c^s_ij - c^t_ij)^2

    over all pairs, the diagonal included, or the mean over the edges of a sparse graph. The kernel k is the Gaussian
    `exp(-gamma |x - y|^2)` on unit vectors (`correlation="gaussian"`), its Taylor polynomial in their dot product,
    `sum_p exp(-2 gamma) (2 gamma)^p / p! (x.y)^p` over the orders p = 0..P ("taylor"), or `x.y` ("bilinear").
    Called with outputs or vectors of student and teacher, `(N, D_s)` and `(N, D_t)`; returns a scalar >= 0. With nodes
    that are not of unit length it is infinite from lengths of about 4e9 on ("bilinear"), the P-th root of that
    ("taylor") or 2e19 ("consecutive"); products are computed in float64, and beyond that the loss is not a number.

    `correlation="consecutive"` is the form that the authors contributed to a benchmark (RepDistiller), and a different
    loss: its products are of neighbours in the order of the batch, not of pairs of one network (see
    `consecutive_rows`). It has no graph, it changes with the order of the images, and both networks' nodes are compared
    with each other, so they need one width: with `student_width` and `teacher_width` each network's features pass
    through a linear layer to `key_dim`. This loss trains both layers, so it also decreases if the teacher's layer
    collapses. The command `--method cc --method-args correlation=consecutive` selects the benchmark's form, with its
    weight 0.02.

    Paper, official code and this one: the authors published only the code of that form, which contains no matrix of the
    paper. The default is a third party's implementation, the closest to the paper that we found (gamma 0.4, P = 2,
    weight 100). Another third party (torchdistill) takes the Frobenius norm, not squared, over N^2, of kernels of
    vectors that are not of unit length, where the polynomial is no longer that of the Gaussian: `Relation(k,
    criterion=frobenius)(s, t) / N**2`. The paper has a third kernel, the difference of two nodes' means, and samplers
    of batches that hold several images of a class or of similar ones: they are not here. Its total weighs the
    cross-entropy by alpha and KD by 1 - alpha beside this loss. Sparse graphs are ours.

    Paper: Correlation Congruence for Knowledge Distillation (Peng et al., ICCV 2019, arXiv 1904.01802)
    Differs: the authors' only code, correlation=consecutive at weight 0.02, multiplies consecutive rows of the
        batch and holds no matrix of the paper; the default and its weight are a third party's, closest to the paper
    Topology: all pairs

    Args:
        correlation: "taylor", "gaussian", "bilinear" or "consecutive".
        order: P >= 0 of "taylor".
        rbf_gamma: gamma > 0 of "taylor" and "gaussian", `1 / (2 delta^2)` of the paper.
        unit_length: Whether nodes are divided by their length before they are correlated; "consecutive" never does.
        student_width: Width of the student's feature, for "consecutive" with linear layers on `nodes="feature"`.
        teacher_width: Width of the teacher's.
        key_dim: Output width of those layers.
        graph: See `Relational`; "dense" for "consecutive".
        nodes: See `Relational`.
        refinement: See `Relational`.
        form: See `Relational`.

    Raises:
        RelgraphError: for unknown names, numbers out of range, a graph or nodes of two widths with "consecutive", one
            width without the other, or outputs without the nodes that it reads.

    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> CC("bilinear")(x, torch.tensor([[1.0, 0.0], [3.0, 0.0]])).item()  # two of four cosines differ by 1
    0.5
    """

    weight = 100.0

    correlation: Correlation = option(default="taylor")
    order: int = option(default=2, least=0)
    rbf_gamma: float = option(default=0.4, above=0)
    unit_length: bool = option(default=True)
    student_width: int | None = field(default=None)
    teacher_width: int | None = field(default=None)
    key_dim: int = option(default=128, above=0)

    def __post_init__(self) -> None:
        """Build the linear layers, if the correlation needs them."""
        super().__post_init__()
        self.embeds = nn.ModuleList()
        if self.relation is not None:
            return
        if not self.rule.dense:
            found = "knn" if isinstance(self.rule, Nearest) else type(self.rule).__name__
            raise RelgraphError(f"the correlation 'consecutive' has no graph: expected graph 'dense', got {found}")
        self.weight, self.paired = 0.02, False
        if self.nodes != "feature" or self.student_width is self.teacher_width is None:
            return  # embeddings have one width already, and these widths are not those of maps
        if self.student_width is None or self.teacher_width is None:
            expected = "the linear layers of the correlation 'consecutive' need student_width and teacher_width"
            raise RelgraphError(f"{expected}, got {self.student_width} and {self.teacher_width}")
        self.embeds.extend(nn.Linear(width, self.key_dim) for width in (self.student_width, self.teacher_width))

    @classmethod
    def for_run(cls, run: RunFacts, refine: str | Refiner | None = None, **options: Any) -> Self:
        """Return the method for the widths of the run's features."""
        return super().for_run(run, refine, student_width=run.student_width, teacher_width=run.teacher_width, **options)

    def space(self) -> Space:
        """Return the linear layers of the correlation "consecutive"."""
        return Space("feature", *self.embeds) if len(self.embeds) else super().space()

    def make_relation(self) -> Relation | None:
        """Return the relation of the correlation; "consecutive" has none."""
        if self.correlation == "consecutive":
            return None
        if self.correlation == "bilinear":
            kernel = cosine if self.unit_length else linear
        elif self.correlation == "gaussian":
            kernel = gaussian(self.rbf_gamma)
        else:
            kernel = gaussian_taylor(self.rbf_gamma, self.order)
        # In float64, where products of any float32 numbers fit: the difference of two infinite ones is not a number.
        return Relation(kernel if self.unit_length else replace(kernel, prepare=Tensor.double), criterion=mean_square)

    def compare_pair(self, pair: Pair | None, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `cc`."""
        if pair is not None:
            return super().compare_pair(pair, student, teacher, batch)
        s, t = (at_least_float32(x) for x in self.vectors(student, teacher))
        if self.embeds:
            expected, found = [layer.in_features for layer in self.embeds], [s.shape[-1], t.shape[-1]]
            if found != expected:
                raise RelgraphError(f"CC was built for widths {expected} of student and teacher, got {found}")
            with full_precision(s):
                s, t = self.embeds[0](s), self.embeds[1](t)
        return {"cc": consecutive_rows(s, t)}


def consecutive_rows(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over all rows i except the last of `sum_d |s - t|_i,d |s - t|_i+1,d`, `(N, D) -> scalar >= 0`.

    It is 0 for equal nodes and for a single image.

    Raises:
        RelgraphError: if the two are not (N, D) of the same N and D.

    >>> import torch
    >>> consecutive_rows(torch.tensor([[1.0], [-2.0], [3.0]]), torch.zeros(3, 1)).item()  # (1 * 2 + 2 * 3) / 2
    4.0
    """
    check_nodes(student, teacher, one_width=True)
    if student.ndim != 2:
        raise RelgraphError(f"consecutive rows are those of one batch (N, D), got {tuple(student.shape)}")
    delta = (student.double() - teacher.double()).abs()
    total = (delta[:-1] * delta[1:]).sum() / max(1, len(delta) - 1)
    return total.to(precision_of(student, teacher))
