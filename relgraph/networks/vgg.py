"""VGG for small images: five blocks of 3 x 3 convolutions with batch norm."""

from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from relgraph.errors import RelgraphError
from relgraph.networks.backbone import Backbone, start_from_fan_out

CHANNELS = (64, 128, 256, 512, 512)


class VGG(Backbone):
    """Five blocks of convolutions with max-pools between them, `(N, C, H, W) -> (N, 512)`.

    Simonyan and Zisserman, 2014, arXiv 1409.1556, with batch norm and one linear layer as classifier, as in the
    RepDistiller benchmark. There as here the map is halved before blocks 2, 3 and 4, and before block 5 as well if the
    image is large: the benchmark means exactly 64 pixels by that, this one 64 and more, so both give the same at 32
    and at 64. A block's map is taken before its pool; the last one is averaged over all positions.

    Args:
        convolutions: Of each block.
        in_channels: Of the images.
    """

    def __init__(self, convolutions: tuple[int, int, int, int, int], in_channels: int = 3) -> None:
        super().__init__()
        self.width = CHANNELS[-1]
        self.blocks = nn.ModuleList()
        inputs = in_channels
        for count, outputs in zip(convolutions, CHANNELS, strict=True):
            layers: list[nn.Module] = []
            for _ in range(count):
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
                inputs = outputs
            self.blocks.append(nn.Sequential(*layers))
        start_from_fan_out(self)

    def stages(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the maps of the five blocks, and the mean of the last.

        Raises:
            RelgraphError: for images of less than 8 x 8 pixels.
        """
        side = min(images.shape[-2:])
        if side < 8:  # which three pools by two leave one pixel of
            raise RelgraphError(f"VGG needs images of at least 8 x 8 pixels, got {tuple(images.shape)}")
        pooled = (1, 2, 3, 4) if side >= 64 else (1, 2, 3)
        maps: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            x = maps[-1] if maps else images
            maps.append(block(max_pool2d(x, 2) if index in pooled else x))
        return tuple(maps), maps[-1].mean(dim=(2, 3))
