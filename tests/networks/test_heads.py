"""Heads against the parameter counts of the official code, and against the two products written out."""

import pytest
import torch

from relgraph.networks.heads import Head
from relgraph.networks.students import build_backbone


def parameters(head: torch.nn.Module) -> int:
    return sum(p.numel() for p in head.parameters())


@pytest.mark.parametrize(
    ("width", "count"),
    [
        (256, 91_492),  # student: resnet8x4
        (512, 157_028),  # teacher: CLIP RN101, ViT-B/32, ViT-B/16; student: vgg13
        (1024, 288_100),  # teacher: CLIP RN50
        (960, 271_716),  # student: ShuffleNetV1
    ],
)
def test_parameter_counts_for_256_dimensions_and_100_classes(width: int, count: int) -> None:
    assert parameters(Head(width, 256, 100)) == count


def test_resnet8x4_with_its_head() -> None:
    assert parameters(build_backbone("resnet8x4")) + parameters(Head(256, 256, 100)) == 1_299_332


def test_two_linear_maps_with_nothing_between() -> None:
    head = Head(7, 5, 3).double()
    feature = torch.randn(4, 7).double()
    embedding, logits = head(feature)
    assert embedding.shape == (4, 5) and logits.shape == (4, 3)
    torch.testing.assert_close(embedding, feature @ head.project.weight.T + head.project.bias)
    torch.testing.assert_close(logits, embedding @ head.classify.weight.T + head.classify.bias)
    assert (embedding < 0).any()
