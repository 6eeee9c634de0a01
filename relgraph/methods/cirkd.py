"""Cross-image relational knowledge distillation (Yang, Zhou, An, Jiang, Xu, Zhang, CVPR 2022, arXiv 2204.06986)."""

from torch import Tensor

from relgraph.graph.blocks import rows_at_once, sum_of_blocks
from relgraph.graph.criteria import log_kl
from relgraph.graph.kernels import cosine
from relgraph.graph.positions import on_grid, pooled, positions_of
from relgraph.methods.base import Batch, Method, Output, Terms, option
from relgraph.methods.stages import last_maps


class CIRKD(Method):
    """Match the teacher's similarities of each position of an image to all positions of every image of the batch.

    With x_bi the vector at position i of image b of the last stage map, and of each ordered pair of images (a, b), a
    with itself included, the softmax of its P candidates

        p_ab(i, j) = exp(cos(x_ai, x_bj) / tau) / sum_k exp(cos(x_ai, x_bk) / tau)
        L = 1 / (B^2 P) * sum_ab sum_i KL(p^t_ab(i, .) || p^s_ab(i, .))

    Called with outputs that hold maps `(B, C_s, H, W)` and `(B, C_t, h, w)`; a teacher's map of another grid is resized
    to the student's (bilinear). Returns a scalar >= 0. The teacher receives no gradient. The (B P)^2 similarities are
    computed a block of rows at a time.

    Paper, official code and this one: this is the mini-batch term, tau = 0.1 and no tau^2. The two memories of pixels
    and of regions, of weight 0.1 each, are not here: the code's memory of pixels holds other pixels than those of the
    class, by a defect. Its batch is that of one device, here the whole. Its later version averages maps of 256 x 256
    positions and more over windows of 4 x 4; `pool` is by the largest number.

    Paper: Cross-Image Relational Knowledge Distillation for Semantic Segmentation (Yang et al., CVPR 2022, arXiv
        2204.06986)
    Differs: the mini-batch term alone, without the memories of pixels and regions; over the whole batch, not that of
        a device
    Kernel: cosine
    Topology: positions of all images
    Criterion: KL of softmax

    Args:
        tau: Temperature > 0 of the similarities.
        pool: Share of the height and width of both maps that is pooled to one position by the largest number; none if
            not given.

    Raises:
        RelgraphError: for numbers out of range, or outputs without maps.

    >>> import torch
    >>> x, y = torch.randn(2, 4, 3, 3), torch.randn(2, 6, 3, 3)
    >>> bool(CIRKD()(Output(x, maps=(x,)), Output(y, maps=(y,))) > 0)
    True
    """

    reads = ("map",)

    tau: float = option(default=0.1, above=0)
    pool: float | None = option(default=None, above=0, most=1, kw_only=True)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `cirkd`."""
        s, t = last_maps(student, teacher, "CIRKD")
        if self.pool is not None:
            s, t = pooled(s, self.pool), pooled(t, self.pool)
        images = [positions_of(s), positions_of(on_grid(t, s.shape[-2:]))]
        count, width = images[0].shape[:2]
        nodes = [cosine.nodes(x.flatten(0, 1)) for x in images]

        def rows(anchors: slice, x: Tensor) -> Tensor:
            """Return each anchor's distribution over the positions of each image, `(A, B, P)`."""
            return (cosine.matrix(x[anchors], x) / self.tau).view(-1, count, width).log_softmax(-1)

        def term(anchors: slice, s: Tensor, t: Tensor) -> Tensor:
            return log_kl.of_block(rows(anchors, s), rows(anchors, t))

        block = rows_at_once(count * width, max(x.numel() for x in nodes))
        return {"cirkd": (sum_of_blocks(term, nodes, count * width, block) / (count**2 * width)).to(s.dtype)}
