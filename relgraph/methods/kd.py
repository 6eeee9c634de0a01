"""Knowledge distillation of logits (Hinton, Vinyals, Dean, 2015, arXiv 1503.02531)."""

from torch import Tensor
from torch.nn.functional import kl_div

from relgraph.errors import RelgraphError
from relgraph.methods.base import Batch, Method, Output


class KD(Method):
    """Follow the teacher's class distribution, `T^2 / N * sum_i KL(softmax(z_t_i / T) || softmax(z_s_i / T))`.

    Reads logits `(N, classes)` of both; sum over classes, mean over the batch. The teacher receives no gradient. The
    default T = 4 is that of the official benchmark codes (RepDistiller); a mean over all elements, found in some
    codes, is smaller by the number of classes.

    Args:
        temperature: T > 0.

    Raises:
        RelgraphError: if the temperature is not positive, or logits are missing or differ in shape.
    """

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise RelgraphError(f"a temperature must be positive, got {temperature}")
        self.temperature = temperature

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> dict[str, Tensor]:
        """Return `kd`."""
        if student.logits is None or teacher.logits is None:
            raise RelgraphError(
                "KD reads logits: expected Output(embedding, logits) of student and teacher, got bare embeddings"
            )
        if student.logits.shape != teacher.logits.shape:
            shapes = f"{tuple(student.logits.shape)} and {tuple(teacher.logits.shape)}"
            raise RelgraphError(f"KD needs logits of one shape (N, classes) from student and teacher, got {shapes}")
        s, t = ((z / self.temperature).log_softmax(-1) for z in (student.logits, teacher.logits))
        return {"kd": self.temperature**2 * kl_div(s, t, reduction="batchmean", log_target=True)}
