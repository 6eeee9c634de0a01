"""Students of timm: any of its image models, untrained and without the classifier."""

from typing import Any

from torch import Tensor, nn

from relgraph.networks.backbone import Backbone
from relgraph.networks.library import built_for, measured_width, unknown_model


class BeforeClassifier(nn.Module):
    """A model of timm up to its classifier, `(N, C, H, W) -> (N, width)`: timm's `forward_head(pre_logits=True)`.

    That is the classifier's input, but for a few families: the mean of class and distillation token of a distilled
    transformer, the vector before the classifier's own norm (LeViT, EfficientViT-M, RepViT).
    The stage maps are those of timm's `forward_intermediates`: the map of each stage of a convolutional network; the
    tokens of each block of a vision transformer, laid out as an image and without class token. A model for which an
    older timm has no `forward_intermediates` returns none.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def stages(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the stage maps and the pooled vector."""
        if not hasattr(self.model, "forward_intermediates"):
            return (), self(images)
        features, maps = self.model.forward_intermediates(images)
        return tuple(maps), self.model.forward_head(features, pre_logits=True)

    def forward(self, images: Tensor) -> Tensor:
        """Return one pooled vector an image."""
        pooled: Tensor = self.model.forward_head(self.model.forward_features(images), pre_logits=True)
        return pooled


class TimmBackbone(BeforeClassifier, Backbone):
    """A student of timm: a model up to its classifier, whose width has been measured."""

    def __init__(self, model: Any, in_channels: int, image_size: int) -> None:
        super().__init__(model)
        self.width = measured_width(self, in_channels, image_size)


def timm_names() -> list[str]:
    """Return the names of timm's models."""
    import timm

    return timm.list_models()


def timm_backbone(name: str, in_channels: int, image_size: int | None) -> TimmBackbone:
    """Return an untrained model of timm for square images of a size, its own size if none is given.

    Raises:
        RelgraphError: for an unknown name, or a size or number of channels that the model cannot read.
    """
    import timm
    from timm.models import get_pretrained_cfg

    if name not in timm.list_models():
        raise unknown_model("timm", name, timm.list_models())
    config = get_pretrained_cfg(name)
    # A network with learned positions is made for one size; the others do not take the argument.
    fixed = image_size is not None and config is not None and config.fixed_input_size
    settings: dict[str, Any] = {"img_size": image_size} if fixed else {}
    size = image_size or (config.input_size[-1] if config is not None else 224)
    with built_for(f"timm:{name}", in_channels, size):
        model = timm.create_model(name, pretrained=False, num_classes=0, in_chans=in_channels, **settings)
        return TimmBackbone(model, in_channels, size)
