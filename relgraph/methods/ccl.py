"""Compositional contrastive learning (Chen et al., CVPR 2021, arXiv 2104.10955), as in the code of EGA."""

from relgraph.graph.pair import Pair, anchors_of
from relgraph.methods.base import Batch, Output, Terms, logits_of
from relgraph.methods.kd import divergence
from relgraph.methods.nce import NCE


class CCL(NCE):
    """Contrast student and teacher nodes by labels, and match the teacher's class distribution by both KL divergences.

        L = NCE + 1/2 * (KL(p_t || p_s) + KL(p_s || p_t))

    with the loss of `NCE`, and p the softmax of the logits `(N, classes)`, each KL summed over classes and averaged
    over the batch. Called with outputs that hold nodes of one width and logits, and a `Batch`; returns a scalar >= 0.

    Paper, official code and this one: this is what EGA's table calls CCL. The network of the original that composes
    embeddings of several modalities is dropped there, and here. The second term, called Jensen-Shannon divergence, is
    half the Jeffreys divergence. The teacher's logits are those of its head, which is trained together with the
    student.

    Paper: Compositional Contrastive Learning (Chen et al., CVPR 2021, arXiv 2104.10955; as in EGA's code)
    Differs: without the original's compositional network, as in EGA's code; its 'JSD' is half the Jeffreys
        divergence
    Criterion: NCE; Jeffreys

    Args:
        tau: Temperature > 0 of the contrast; that of the logits is 1.
        graph: See `Relational`.
        k: See `Relational`.
        neighbours: See `Relational`.
        nodes: See `Relational`.
        refinement: See `Relational`.
        form: See `Relational`.

    Raises:
        RelgraphError: as `NCE`, and without logits of one shape.

    >>> import torch
    >>> one = Output(torch.eye(3), torch.zeros(3, 3))
    >>> sorted(CCL().terms(one, one, Batch(torch.arange(3), torch.arange(3))))
    ['jeffreys', 'nce']
    """

    beside_nodes = ("logits", "labels")

    def compare_pair(self, pair: Pair, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `nce` and `jeffreys`."""
        s, t = (logits[: anchors_of(pair)] for logits in logits_of(student, teacher, "CCL"))
        jeffreys = (divergence(s, t) + divergence(t, s)).mean() / 2
        return {**super().compare_pair(pair, student, teacher, batch), "jeffreys": jeffreys}
