"""Students of torchvision: what the classifier reads, the last map of each resolution, and sizes they cannot read."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision import models

from relgraph.errors import RelgraphError
from relgraph.names import build_backbone

Shapes = list[tuple[int, int, int]]


@pytest.mark.parametrize(
    ("name", "classifier", "shapes"),
    [
        ("resnet18", "fc", [(64, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]),
        ("mobilenet_v3_small", "classifier.3", [(16, 32, 32), (16, 16, 16), (24, 8, 8), (48, 4, 4), (576, 2, 2)]),
        ("shufflenet_v2_x0_5", "fc", [(24, 32, 32), (24, 16, 16), (48, 8, 8), (96, 4, 4), (1024, 2, 2)]),
        ("squeezenet1_1", "classifier.1", [(64, 31, 31), (128, 15, 15), (256, 7, 7), (512, 3, 3)]),
    ],
)
def test_vector_and_maps(name: str, classifier: str, shapes: Shapes) -> None:
    torch.manual_seed(5)
    whole = models.get_model(name, weights=None).eval()
    read: list[Tensor] = []
    whole.get_submodule(classifier).register_forward_hook(lambda _module, inputs, _output: read.append(inputs[0]))
    torch.manual_seed(5)
    backbone = build_backbone(f"torchvision:{name}", image_size=64).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        whole(images)
        maps, pooled = backbone.stages(images)
        assert torch.equal(backbone(images), pooled)
    expected = read[0].relu().mean(dim=(2, 3)) if name.startswith("squeeze") else read[0]
    torch.testing.assert_close(pooled, expected)
    assert pooled.shape == (2, backbone.width)
    assert [tuple(stage.shape[1:]) for stage in maps] == shapes


def test_no_map_comes_after_the_classifiers_dropout() -> None:
    """SqueezeNet's classifier drops values of the last map before it pools them; it has no other source of chance."""
    backbone = build_backbone("torchvision:squeezenet1_1", image_size=32)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        (first, pooled), (second, again) = backbone.stages(images), backbone.stages(images)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(pooled, again)


def test_vgg_on_32_pixels() -> None:
    with torch.device("meta"):
        backbone = build_backbone("torchvision:vgg11_bn", image_size=32).eval()
        maps, pooled = backbone.stages(torch.rand(1, 3, 32, 32))
    assert pooled.shape == (1, 4096) and backbone.width == 4096
    assert [stage.shape[1] for stage in maps] == [64, 128, 256, 512, 512, 512]


@pytest.mark.parametrize("name", ["vit_b_32", "swin_t"])
def test_transformers_have_no_maps(name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(f"torchvision:{name}", image_size=64).eval()
        maps, pooled = backbone.stages(torch.rand(2, 3, 64, 64))
    assert maps == () and pooled.shape == (2, 768)


def test_grey_images_and_every_parameter() -> None:
    backbone = build_backbone("torchvision:shufflenet_v2_x0_5", 1, image_size=64)
    assert backbone.training
    maps, pooled = backbone.stages(torch.rand(4, 1, 64, 64))
    torch.autograd.backward([pooled.square().sum(), *(stage.square().mean() for stage in maps)])
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in backbone.parameters())


def test_no_hook_is_left_behind() -> None:
    backbone: Any = build_backbone("torchvision:shufflenet_v2_x0_5", image_size=64).eval()
    backbone.stages(torch.rand(1, 3, 64, 64))
    assert not any(module._forward_hooks for module in backbone.modules())


def test_auxiliary_classifiers_are_left_out() -> None:
    backbone = build_backbone("torchvision:googlenet", image_size=64)
    pooled = backbone(torch.rand(2, 3, 64, 64))
    assert pooled.shape == (2, 1024)
    assert not any("aux" in key for key, _ in backbone.named_parameters())


def test_an_unknown_name() -> None:
    with pytest.raises(
        RelgraphError, match=r"^unknown student 'torchvision:resnet19': did you mean torchvision:resnet"
    ):
        build_backbone("torchvision:resnet19")


def test_a_size_that_the_network_cannot_read() -> None:
    message = r"^torchvision:alexnet cannot read images of 3 x 8 x 8: [^\n]+$"
    with torch.device("meta"), pytest.raises(RelgraphError, match=message):
        build_backbone("torchvision:alexnet", image_size=8)
