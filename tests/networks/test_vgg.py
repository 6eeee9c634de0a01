"""VGG: how often the map is halved, at which size."""

import pytest
import torch
from torch import nn

from relgraph.errors import RelgraphError
from relgraph.networks.vgg import VGG

SIDES = {8: [8, 4, 2, 1, 1], 32: [32, 16, 8, 4, 4], 63: [63, 31, 15, 7, 7], 64: [64, 32, 16, 8, 4],
         96: [96, 48, 24, 12, 6], 224: [224, 112, 56, 28, 14]}  # fmt: skip


def test_sides_of_the_maps() -> None:
    for size, sides in SIDES.items():
        with torch.device("meta"):
            maps, pooled = VGG((1, 1, 1, 1, 1)).eval().stages(torch.empty(2, 3, size, size))
        assert [stage.shape[-1] for stage in maps] == sides
        assert pooled.shape == (2, 512)


def test_at_64_pixels_it_is_the_plain_chain_with_four_pools() -> None:
    network = VGG((1, 1, 2, 2, 2)).eval()
    first, *others = network.blocks
    pools = [layer for block in others for layer in (nn.MaxPool2d(2), block)]
    chain = nn.Sequential(first, *pools, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(images), chain(images))


def test_an_image_that_cannot_be_halved_thrice() -> None:
    with pytest.raises(RelgraphError, match=r"^VGG needs images of at least 8 x 8 pixels, got \(2, 3, 7, 9\)$"):
        VGG((1, 1, 1, 1, 1))(torch.rand(2, 3, 7, 9))
