import pytest
import torch

from relgraph.errors import RelgraphError
from relgraph.names import untrained_teacher


def test_timm() -> None:
    teacher = untrained_teacher("timm:test_vit")
    assert teacher.input_size == 160
    embedding = teacher(torch.randn(2, 3, 160, 160))
    assert embedding.shape == (2, teacher.width) and not embedding.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_open_clip() -> None:
    teacher = untrained_teacher("open_clip:ViT-S-32-alt")
    assert (teacher.input_size, teacher.channels) == (224, 3)
    assert teacher.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))  # CLIP's
    assert teacher.width == 256


@pytest.mark.parametrize("spec", ["open_clip:ViT-B-32/openai", "timm:resnet", "embedded:digits"])
def test_unknown(spec: str) -> None:
    with pytest.raises(RelgraphError, match="unknown"):
        untrained_teacher(spec)
