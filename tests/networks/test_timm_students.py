"""Students of timm: what the classifier reads, timm's own maps, and sizes they cannot read."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.names import build_backbone


@pytest.mark.parametrize(
    ("name", "head"), [("test_resnet", "fc"), ("test_vit", "head"), ("mobilenetv3_small_050", "classifier")]
)
def test_the_vector_is_what_timms_classifier_reads(name: str, head: str) -> None:
    settings: dict[str, Any] = {"img_size": 32} if "vit" in name else {}
    whole = timm.create_model(name, num_classes=5, **settings).eval()
    read: list[Tensor] = []
    whole.get_submodule(head).register_forward_hook(lambda _module, inputs, _output: read.append(inputs[0]))
    backbone: Any = build_backbone(f"timm:{name}", image_size=32).eval()
    backbone.model.load_state_dict({k: v for k, v in whole.state_dict().items() if not k.startswith(f"{head}.")})
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        whole(images)
        maps, pooled = backbone.stages(images)
        torch.testing.assert_close(pooled, read[0])
        torch.testing.assert_close(backbone(images), read[0])
    assert pooled.shape == (2, backbone.width)
    assert all(stage.shape[0] == 2 and stage.ndim == 4 for stage in maps)


def test_stage_maps() -> None:
    with torch.no_grad():
        convolutional, _ = build_backbone("timm:resnet18").eval().stages(torch.rand(1, 3, 64, 64))
        tokens, _ = build_backbone("timm:test_vit", image_size=64).eval().stages(torch.rand(1, 3, 64, 64))
    assert [tuple(m.shape[1:]) for m in convolutional] == [
        (64, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2),
    ]  # fmt: skip
    assert [tuple(m.shape[1:]) for m in tokens] == [(64, 4, 4)] * 6


def test_grey_images_and_every_parameter() -> None:
    for name in ("test_resnet", "test_vit"):
        backbone = build_backbone(f"timm:{name}", 1, image_size=48)
        assert backbone.training
        backbone(torch.rand(4, 1, 48, 48)).square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())


def test_a_network_draws_what_timm_draws() -> None:
    torch.manual_seed(3)
    own = timm.create_model("test_resnet", num_classes=0).state_dict()
    after = torch.rand(1)
    torch.manual_seed(3)
    backbone: Any = build_backbone("timm:test_resnet")
    state = backbone.model.state_dict()
    assert torch.equal(torch.rand(1), after)
    assert all(torch.equal(state[key], value) for key, value in own.items())


def test_unknown_names() -> None:
    with pytest.raises(RelgraphError, match=r"^unknown student 'timm:resnet81': did you mean timm:resnet\d+ or "):
        build_backbone("timm:resnet81")
    with pytest.raises(RelgraphError, match=r"^unknown student 'timm:resnet18.a1_in1k': did you mean .*timm:resnet18"):
        build_backbone("timm:resnet18.a1_in1k")


def test_a_size_that_the_network_cannot_read() -> None:
    with pytest.raises(RelgraphError, match=r"^timm:test_vit cannot read images of 3 x 8 x 8: [^\n]+$"):
        build_backbone("timm:test_vit", image_size=8)
