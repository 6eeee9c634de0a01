"""The layers on top of a pooled vector, projection and classifier or a projector, and the student that has them."""

from collections.abc import Mapping
from typing import Self

from torch import Tensor, nn
from torch.nn.functional import batch_norm

from relgraph.networks.backbone import Backbone
from relgraph.outputs import Output

LAYERS = "project.weight", "classify.weight"  # of a head's state


class Head(nn.Module):
    """Two linear layers, `(N, width) -> embedding (N, dim) -> logits (N, classes)`, with nothing between them.

    The embedding is the node of the graph; the student is judged on these logits. As in the official code of EGA
    (Ma, Chen, Akata, 2022, arXiv 2211.13264), which creates a dropout layer as well and never uses it. Without `dim`
    there is no projection: the classifier, one linear layer as published students of other methods have it, reads the
    feature, which is the embedding then. Without classes, as for images that have no labels, there is one logit, which
    no loss trains.

    Attributes:
        width: Width of the feature that it reads.
        dim: Width of the embedding.

    >>> [sum(p.numel() for p in Head(256, dim, 100).parameters()) for dim in (256, None)]
    [91492, 25700]
    """

    def __init__(self, width: int, dim: int | None, classes: int) -> None:
        super().__init__()
        self.width, self.dim = width, width if dim is None else dim
        self.project = nn.Identity() if dim is None else nn.Linear(width, dim)
        self.classify = nn.Linear(self.dim, max(1, classes))

    @classmethod
    def like(cls, state: Mapping[str, Tensor], width: int | None = None, classes: int | None = None) -> Self:
        """Return a new head for the tensors of a stored one: of their sizes, where no others are expected."""
        shapes = (x.shape if x is not None and x.ndim == 2 else (1, 1) for x in map(state.get, LAYERS))
        (dim, reads), (found, middle) = shapes
        if LAYERS[0] not in state:
            return cls(width or middle, None, classes or found)
        return cls(width or reads, dim, classes or found)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Return embedding and logits."""
        embedding: Tensor = self.project(feature)
        return embedding, self.classify(embedding)


class Student(nn.Module):
    """A backbone with its head, `(N, C, H, W) -> Output` of embedding (N, dim), logits, feature (N, width) and maps.

    Without `dim` the embedding is the feature (see `Head`). For a data set without classes the logits are one number an
    image, which is not trained.
    """

    def __init__(self, backbone: Backbone, dim: int | None, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = Head(backbone.width, dim, classes)

    def forward(self, images: Tensor) -> Output:
        """Return the student's outputs for a batch."""
        maps, feature = self.backbone.stages(images)
        embedding, logits = self.head(feature)
        return Output(embedding, logits, feature, maps)


class Projector(nn.Sequential):
    """Two linear layers with a ReLU between them, `(N, width) -> (N, dim)`: the head of contrastive objectives.

    SEED, MoCo v2 and SSKD have it like this; SimCLR's has a batch norm before the ReLU.

    Args:
        width: Width of the input.
        dim: Width of the output.
        hidden: Width in between; the input's if not given.
        norm: Whether a batch norm comes before the ReLU.
    """

    def __init__(self, width: int, dim: int, hidden: int | None = None, norm: bool = False) -> None:
        hidden = width if hidden is None else hidden
        middle = [nn.BatchNorm1d(hidden)] if norm else []
        super().__init__(nn.Linear(width, hidden), *middle, nn.ReLU(), nn.Linear(hidden, dim))


class Regressor(nn.Sequential):
    """SimReg's four linear layers, `(N, width) -> (N, dim)`, of widths 2w, w, 2w and dim.

    Batch norm and ReLU follow the first and the third (Navaneet et al., 2021, arXiv 2201.05131). One row alone, of
    which torch's batch norm takes no variance, is normalised by the running statistics.

    Args:
        width: Width w of the input.
        dim: Width of the output.
    """

    def __init__(self, width: int, dim: int) -> None:
        def block(inputs: int, outputs: int) -> list[nn.Module]:
            wide = 2 * width
            return [nn.Linear(inputs, wide), nn.BatchNorm1d(wide), nn.ReLU(), nn.Linear(wide, outputs)]

        super().__init__(*block(width, width), *block(width, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return the output."""
        for layer in self:
            if self.training and len(x) == 1 and type(layer) is nn.BatchNorm1d:
                x = batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps)
            else:
                x = layer(x)
        return x


def layers_like(state: Mapping[str, Tensor]) -> nn.Module | None:
    """Return new layers of the shapes that a stored projector's state has; `None` for the state of none.

    >>> layers_like(nn.Linear(4, 6).state_dict())
    Linear(in_features=4, out_features=6, bias=True)
    """
    norm = "3.weight" in state
    shapes = {n: x.shape if x.ndim == 2 else (1, 1) for n, x in state.items()}  # loading refuses what does not fit
    if not state:
        return None
    if "weight" in state:
        return nn.Linear(shapes["weight"][1], shapes["weight"][0], bias="bias" in state)
    if "7.weight" in state:
        return Regressor(shapes["3.weight"][0], shapes["7.weight"][0])
    (hidden, width), (dim, _) = shapes.get("0.weight", (1, 1)), shapes.get(f"{2 + norm}.weight", (1, 1))
    return Projector(width, dim, hidden, norm)
