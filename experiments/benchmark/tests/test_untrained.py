"""Teachers with random weights: what they give, and names that there are not."""

import pytest
import torch

from benchmark.untrained import untrained_teacher
from relgraph.errors import RelgraphError


def test_untrained() -> None:
    for spec, size, width, shapes in (
        ("timm:test_vit", 160, 64, ((64, 10, 10),) * 6), ("open_clip:ViT-S-32-alt", 224, 256, ((384, 7, 7),) * 12),
    ):  # fmt: skip
        teacher = untrained_teacher(spec)
        embedding = teacher(torch.randn(2, 3, size, size))
        assert embedding.shape == (2, width)
        assert (teacher.input_size, teacher.channels, teacher.width) == (size, 3, width)
        assert not embedding.requires_grad and not any(parameter.requires_grad for parameter in teacher.parameters())
        assert teacher.map_shapes() == shapes
    assert teacher.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))  # CLIP's


def test_unknown_names() -> None:
    for spec in ("open_clip:ViT-B-32/openai", "timm:resnet", "embedded:digits"):
        with pytest.raises(RelgraphError, match=r"^unknown"):
            untrained_teacher(spec)
