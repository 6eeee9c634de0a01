"""Projection and classifier: what both networks get on top of their pooled vector."""

from torch import Tensor, nn


class Head(nn.Module):
    """Two linear layers, `(N, width) -> embedding (N, dim) -> logits (N, classes)`, with nothing between them.

    The embedding is the node of the graph; the student is judged on these logits. As in the official code of EGA
    (Ma, Chen, Akata, 2022, arXiv 2211.13264), which creates a dropout layer as well and never uses it.
    """

    def __init__(self, width: int, dim: int, classes: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, dim)
        self.classify = nn.Linear(dim, classes)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Return embedding and logits."""
        embedding: Tensor = self.project(feature)
        return embedding, self.classify(embedding)
