"""Contextual similarity distillation (Wu, Wang, Zhou, Li, Tian, CVPR 2022)."""

from torch import Tensor

from relgraph.graph.criteria import Criterion
from relgraph.graph.kernels import cosine
from relgraph.graph.ranking import ranked
from relgraph.graph.relation import Relation
from relgraph.methods.against import Keyed
from relgraph.methods.base import option


class CSD(Keyed):
    """Match the teacher's distribution of each image over its nearest teacher vectors.

    With `T_ij = cos(t_i, t_j)` and `X_ij = cos(s_i, t_j)`, and over the `length` keys j that the teacher ranks first,
    the image itself among them,

        p_i = softmax(T_ij / teacher_tau)    q_i = softmax(X_ij / tau)    L = 1 / N * sum_i KL(p_i || q_i)

    The keys are those of the batch, or of a memory (`memory`) beside the batch. A perfect student has loss 0 where both
    temperatures are equal. Called with outputs or vectors of student and teacher, `(N, D_s)` and `(N, D_t)`, and for
    `memory="images"` a `Batch` with indices; returns a scalar >= 0.

    Paper, official code and this one: the authors published no code. The formula is that of a benchmark's code
    (AIR-Distiller), whose keys are the images of the batch; the paper takes them from the teacher's vectors of the
    whole training set, as `memory="images", batch_keys=False` does (its number of keys and temperatures could not be
    verified). A softmax over the nearest keys alone, which all lie on one side, says little of where the student's
    vector is: with 64 keys of the 1,299 images of the digits example (10 epochs, one seed) 5 % of the teacher's ten
    nearest images were found, with the batch beside them 63 %, hence the default. The benchmark's code has `tau=1`,
    `teacher_tau=0.01` and weight 10: since a cosine is at most 1, its student cannot be sharper than e^2 from key to
    key, and a perfect copy of the teacher has a loss far above 0. Both are 0.1 here, at weight 1, which scales the
    gradient for cosines as weight 10 does at `tau=1`: of five choices the one with the most first answers of the right
    class among validation classes of CIFAR-100, 40.7 % for 35.8 with the published pair, at equal mAP after `align`
    (ResNet-8, 6 epochs, one seed; experiments/README.md). That code refuses batches of fewer than `length` images, all
    of which are compared here. Sparse graphs and the queue are ours.

    Paper: Contextual Similarity Distillation for Asymmetric Image Retrieval (Wu, Wang, Zhou, Li, Tian, CVPR 2022)
    Differs: a benchmark's formula, since the authors have no code; its temperatures, 1 and 0.01 at weight 10, leave a
        perfect student a large loss, here both are 0.1 at weight 1; keys of the batch, a queue, or all images
    Topology: nearest; memory

    Args:
        student_width: See `Against`.
        teacher_width: See `Against`.
        length: See `Keyed`; the published k.
        tau: The student's temperature > 0; 1 in the benchmark's code.
        teacher_tau: The teacher's temperature > 0; 0.01 in the benchmark's code.
        batch_keys: Whether the keys of an anchor are also all images of the batch, beside its `length - 1` nearest ones
            of a memory; without, they are those and the image itself.
        memory: See `Keyed`.
        queue: See `Keyed`.
        images: See `Keyed`.
        gallery: See `Keyed`.
        graph: See `Relational`.
        k: See `Relational`.
        neighbours: See `Relational`.
        nodes: See `Against`.
        refinement: See `Relational`.
        form: See `Relational`.

    Raises:
        RelgraphError: as `Keyed`.

    >>> import torch
    >>> x = torch.randn(8, 4)
    >>> CSD()(3 * x, x).abs().item() < 1e-6 < CSD()(x.roll(1, 1), x).item()  # not blind to a rotation
    True
    """

    tau: float = option(default=0.1, above=0, kw_only=True)
    teacher_tau: float = option(default=0.1, above=0, kw_only=True)
    batch_keys: bool = option(default=True, kw_only=True)

    @property
    def with_batch(self) -> bool:
        """Whether the batch's images are keys beside those of a memory."""
        return self.batch_keys

    def make_relation(self) -> Relation:
        """Return the relation of distributions."""
        return Relation(cosine, criterion=Criterion(self._divergence, name="KL"), against="teacher")

    def _divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        every = self.batch_keys and not self.paired  # keys of a memory are `length` at most, and all are compared
        s, t = ranked(student, teacher, None if every else self.length)
        q, p = (s / self.tau).log_softmax(-1), (t / self.teacher_tau).log_softmax(-1)
        return (p.exp() * (p - q)).sum(-1)
