"""Heads for class scores at positions: the light one, those of libraries, and modules that give the scores."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from relgraph.errors import RelgraphError
from relgraph.names import load_teacher, student
from relgraph.networks.segmenter import LightHead, Segmenter, scored
from relgraph.networks.smp_source import SmpSource


def test_scores_are_on_the_grid_of_a_finer_map_for_every_kind_of_network() -> None:
    class Own(nn.Module):
        """Three scores at half the height and width."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(2, 3, 3, 2, 1)

        def forward(self, images: Tensor) -> Tensor:
            found: Tensor = self.layer(images)
            return found

    grids = {
        "resnet8": (32, 48), "timm:resnet10t": (4, 6),
        "torchvision:lraspp_mobilenet_v3_large": (4, 6), "torchvision:deeplabv3_mobilenet_v3_large": (2, 3),
        Own: (16, 24),
    }  # fmt: skip
    for name, grid in grids.items():
        network = Segmenter(scored(student(name).build(2, 32), 3, 2, 32), None)
        output = network(torch.randn(2, 2, 32, 48))
        assert output.logits is not None and output.logits.shape == (2, 3, *grid), name
        assert output.feature is output.embedding and output.embedding.shape == (2, network.backbone.width)
        output.logits.sum().backward()
    assert isinstance(network.backbone.bare, type(student(Own).build(2, 32)))
    own = network.eval()(images := torch.randn(1, 2, 32, 32)).logits
    torch.testing.assert_close(own, network.backbone.bare.model(images))  # type: ignore[operator]
    with pytest.raises(RelgraphError, match="need stage maps"):
        scored(student(nn.Sequential(nn.Flatten(), nn.Linear(8, 3))).build(2, 2), 3, 2, 2)


def test_the_finer_map_is_the_last_of_four_times_the_height() -> None:
    assert LightHead.of([(8, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4)], 3).low == 1
    assert LightHead.of([(8, 4, 4), (16, 4, 4)], 3).low == 0


@torch.no_grad()
def test_the_light_head_reads_both_maps_and_the_finer_one_where_it_stands() -> None:
    head = LightHead.of([(5, 16, 24), (7, 4, 6)], 3).eval()
    low, high = torch.randn(1, 5, 16, 24), torch.randn(1, 7, 4, 6)
    scores = head([low, high])
    assert scores.shape == (1, 3, 16, 24) and not torch.equal(scores, head([low, high + 1]))
    moved = low.clone()
    moved[..., 9, 4] += 5
    rows, columns = (scores != head([moved, high])).any(1)[0].nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 10, 3, 5)


def test_networks_of_segmentation_models_pytorch(tmp_path: Path) -> None:
    if find_spec("segmentation_models_pytorch") is None:
        with pytest.raises(RelgraphError, match="smp:Unet/resnet18 needs the package segmentation-models-pytorch"):
            student("smp:Unet/resnet18").build(3, 32)
        return
    source = SmpSource("Unet/resnet18")
    whole, images = source.whole(3, 3).eval(), torch.randn(2, 3, 32, 64)
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    numbers = (0.5,) * 3
    teacher = load_teacher("smp:Unet/resnet18", weights=tmp_path / "w.pth", mean=numbers, std=numbers)
    torch.testing.assert_close(teacher.features(images).logits, whole(images), check_stride=False)
    network = Segmenter(scored(source.build(2, 32), 3, 2, 32), None)
    assert network(images[:, :2]).logits.shape == (2, 3, 32, 64)


def test_torchvisions_weights_are_read_with_the_head_as_far_as_it_fits(tmp_path: Path) -> None:
    from torchvision import models

    name = "lraspp_mobilenet_v3_large"
    whole = models.get_model(name, weights=None, weights_backbone=None, num_classes=3).eval()
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    teacher, images = load_teacher(f"torchvision:{name}", weights=tmp_path / "w.pth"), torch.randn(2, 3, 32, 48)
    logits = teacher.features(images).logits
    assert logits is not None and teacher.scores("abc", (32, 48)) and not teacher.scores("abcd", (32, 48))
    with torch.no_grad():
        expected = whole(images)["out"]
    torch.testing.assert_close(interpolate(logits, size=(32, 48), mode="bilinear"), expected)
    backbone = student(f"torchvision:{name}").start(tmp_path / "w.pth", 3, 32)
    for classes in (3, 4):
        own, published = backbone.own_scores(classes), whole.classifier
        assert isinstance(own, LightHead) and own.low == 0
        equal = [torch.equal(x, y) for x, y in zip(own.layers.parameters(), published.parameters(), strict=True)
                 if x.shape == y.shape]  # fmt: skip
        assert all(equal) and len(equal) == len(list(published.parameters())) - 4 * (classes == 4)
    with pytest.raises(RelgraphError, match="images of 3 channels, got 1"):
        student(f"torchvision:{name}").start(tmp_path / "w.pth", 1, 32)
