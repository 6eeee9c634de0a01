"""Stage maps of teachers: of every source, in order, beside the very embedding that the teacher gives when called."""

from collections.abc import Callable
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from relgraph.data.decoding import pair
from relgraph.names import build_backbone, load_teacher
from relgraph.networks.backbone import Backbone
from relgraph.networks.files import save_network
from relgraph.networks.open_clip_source import ImageTower
from relgraph.networks.teachers import Teacher
from relgraph.networks.timm_source import BeforeClassifier
from tests.networks.tiny import INFO, moved, random_network, small_teacher, write_weights

Shapes = tuple[tuple[int, int, int], ...]
Load = Callable[..., Teacher]


@pytest.fixture
def load(tmp_path: Path, tiny_vit: None) -> Load:
    """Return the function from a spelling and a size to a teacher with random weights, read from a file."""

    def load(spec: str, size: int | None = None) -> Teacher:
        source, _, name = spec.partition(":")
        if source == "embedded":
            return load_teacher(spec, input_size=size)
        if source == "checkpoint":
            backbone = moved(build_backbone(name, 1, image_size=16))
            info = {**INFO, "backbone": name, "image_size": 16}
            save_network(tmp_path / "student.safetensors", nn.ModuleDict({"backbone": backbone}), info)
            return load_teacher(f"checkpoint:{tmp_path}", input_size=size)
        settings = {"num_classes": 0} if source == "timm" else {}
        weights = write_weights(random_network(tmp_path, source, name, **settings), tmp_path / "w.pth")
        return load_teacher(spec, weights=weights, input_size=size)

    return load


def images_for(teacher: Teacher, size: int | None = None) -> Tensor:
    return torch.randn(2, teacher.channels, *pair(size or teacher.input_size or 32))


RESNET8: Shapes = ((16, 16, 16), (16, 16, 16), (32, 8, 8), (64, 4, 4))
SHUFFLENET: Shapes = ((24, 32, 32), (24, 16, 16), (48, 8, 8), (96, 4, 4), (1024, 2, 2))
TIMM: Shapes = ((32, 80, 80), (32, 40, 40), (48, 20, 20), (192, 10, 10), (96, 5, 5))
CASES: list[tuple[str, int | None, Shapes]] = [
    ("timm:test_resnet", 64, ((32, 32, 32), (32, 16, 16), (48, 8, 8), (192, 4, 4), (96, 2, 2))),
    ("timm:test_vit", 64, ((64, 4, 4),) * 6),
    ("torchvision:shufflenet_v2_x0_5", 64, SHUFFLENET),
    ("torchvision:squeezenet1_1", 64, ((64, 31, 31), (128, 15, 15), (256, 7, 7), (512, 3, 3))),
    ("torchvision:vit_b_32", 64, ()),
    ("open_clip:tiny-RN", None, ((4, 16, 16), (16, 16, 16), (32, 8, 8), (64, 4, 4), (128, 2, 2))),
    ("open_clip:tiny-ViT", 48, ((16, 6, 6),) * 2),
    ("open_clip:tiny-timm", None, TIMM),
    ("checkpoint:resnet8", 32, tuple((c, 2 * h, 2 * w) for c, h, w in RESNET8)),
    ("checkpoint:timm:test_resnet", None, ((32, 8, 8), (32, 4, 4), (48, 2, 2), (192, 1, 1), (96, 1, 1))),
    ("embedded:digits", None, ((16, 8, 8), (16, 8, 8), (32, 4, 4), (64, 2, 2))),
]


@pytest.mark.slow
@pytest.mark.parametrize(("spec", "size", "shapes"), CASES)
def test_the_embedding_and_the_shapes_in_order(load: Load, spec: str, size: int | None, shapes: Shapes) -> None:
    """The teacher is frozen all the while, and a copy has maps of its own."""
    teacher = load(spec, size)
    print_, state = teacher.fingerprint(), deepcopy(teacher.state_dict())
    images = images_for(teacher).requires_grad_()
    assert nn.Sequential(teacher).train().training
    drawn = torch.get_rng_state()
    output = teacher.features(images)
    assert torch.equal(output.embedding, teacher(images)) and output.feature is output.embedding
    assert output.embedding.dtype == torch.float32 and output.embedding.shape == (2, teacher.width)
    assert tuple(tuple(stage.shape) for stage in output.maps) == tuple((2, *shape) for shape in shapes)
    assert teacher.map_shapes() == shapes
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not any(tensor.requires_grad for tensor in (output.embedding, *output.maps))
    assert not any(module.training or module._forward_hooks for module in teacher.modules())
    copy = deepcopy(teacher)
    for parameter in copy.parameters():
        parameter.zero_()
    torch.testing.assert_close(copy.features(images).embedding, copy(images))
    assert not any(stage.any() for stage in copy.features(images).maps)
    assert all(torch.equal(a, b) for a, b in zip(teacher.features(images).maps, output.maps, strict=True))
    assert all(torch.equal(tensor, state[name]) for name, tensor in teacher.state_dict().items())
    assert teacher.fingerprint() == print_
    if not any(isinstance(module, nn.MultiheadAttention) for module in copy.modules()):  # which asks for autocast
        assert copy.to("meta").map_shapes() == shapes


HELD = ("timm:test_resnet", "timm:test_vit", "torchvision:shufflenet_v2_x0_5", "torchvision:vit_b_32",
        "open_clip:tiny-ViT", "open_clip:tiny-RN")  # fmt: skip


@pytest.mark.parametrize("spec", HELD)
def test_a_teacher_held_in_half_precision_computes_as_under_autocast(load: Load, spec: str) -> None:
    """Bit for bit, or as near to float32 where torch's attention has another kernel, called under autocast or not."""
    teacher = load(spec, None if spec.startswith("open") else 64)
    held, images = deepcopy(teacher).hold("bf16-mixed"), images_for(teacher)
    with torch.autocast("cpu", torch.bfloat16):
        expected, output = teacher.features(images), held.features(images)
    assert {stage.dtype for stage in output.maps} == {stage.dtype for stage in expected.maps}
    for again in (held.features(images), deepcopy(held).to("cpu").features(images)):
        assert torch.equal(again.embedding, output.embedding) and all(map(torch.equal, again.maps, output.maps))
    assert torch.equal(held(images), output.embedding) and output.embedding.dtype == torch.float32
    exact = teacher(images)
    error, autocasts = ((x.embedding - exact).norm() / exact.norm() for x in (output, expected))
    assert 0 < error <= 1.5 * autocasts
    if not any(isinstance(module, nn.MultiheadAttention) for module in teacher.modules()):
        assert torch.equal(output.embedding, expected.embedding) and all(map(torch.equal, output.maps, expected.maps))


def test_what_is_held_are_the_weights_of_products(load: Load) -> None:
    for spec in ("timm:test_vit", "open_clip:tiny-ViT"):
        teacher = load(spec)
        held = deepcopy(teacher).hold("bf16-mixed")
        before, after = teacher.state_dict(), held.state_dict()
        halved = {name for name in after if after[name].dtype == torch.bfloat16}
        assert halved and not any("norm" in name or "ln_" in name for name in halved)
        assert sum(after[name].numel() for name in halved) > 0.8 * sum(tensor.numel() for tensor in after.values())
        assert all(torch.equal(after[name], before[name].to(after[name].dtype)) for name in after)
        assert held.hold("bf16-mixed").fingerprint() == teacher.fingerprint() == deepcopy(held).fingerprint()
        assert held.map_shapes() == teacher.map_shapes()


def test_a_layer_with_a_forward_of_its_own_is_not_held() -> None:
    """A standardised convolution computes its mean and variance from the weight in float32."""
    from timm.layers.std_conv import StdConv2d

    network = nn.Sequential(StdConv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    teacher = small_teacher(network, 8, 3)
    assert teacher.hold("32-true").fingerprint() == deepcopy(teacher).hold("16-mixed").fingerprint()
    teacher.hold("bf16-mixed")
    assert [p.dtype for p in teacher.parameters()] == [torch.float32, torch.bfloat16, torch.bfloat16]


def outputs_of(network: nn.Module, names: list[str], images: Tensor) -> list[Tensor]:
    """Return what parts of a network give, each of a run of its own."""
    outputs: list[Tensor] = []
    for name in names:
        hook = network.get_submodule(name).register_forward_hook(lambda _m, _i, output: outputs.append(output.clone()))
        network(images)
        hook.remove()
    return outputs


def test_maps_are_those_of_the_network_s_parts(load: Load) -> None:
    of_shufflenet = [f"model.{x}" for x in ("conv1", "maxpool", "stage2", "stage3", "conv5")]
    for spec, size, names in (
        ("timm:test_resnet", 64, ["model.act1", *(f"model.layer{i}" for i in (1, 2, 3, 4))]),
        ("torchvision:shufflenet_v2_x0_5", 64, of_shufflenet),
        ("open_clip:tiny-RN", None, ["visual.avgpool", *(f"visual.layer{i}" for i in (1, 2, 3, 4))]),
    ):
        teacher = load(spec, size)
        images = images_for(teacher)
        with torch.no_grad():
            expected = outputs_of(teacher.network, names, images)
        torch.testing.assert_close(list(teacher.features(images).maps), expected)


def test_tokens_are_laid_out_as_an_image(load: Load) -> None:
    """A token's place in the map is that of its patch: row by row, behind the class token (one in both networks)."""
    for spec, blocks in (("timm:test_vit", "model.blocks"), ("open_clip:tiny-ViT", "visual.transformer.resblocks")):
        teacher = load(spec, 32)
        images = images_for(teacher)
        maps = teacher.features(images).maps
        with torch.no_grad():
            tokens = outputs_of(teacher.network, [f"{blocks}.{i}" for i in range(len(maps))], images)
        for stage, token in zip(maps, tokens, strict=True):
            for patch, (row, column) in enumerate(product(range(stage.shape[2]), repeat=2)):
                torch.testing.assert_close(stage[:, :, row, column], token[:, 1 + patch])


def test_images_of_another_size_than_the_teacher_s(load: Load) -> None:
    teacher = load("torchvision:shufflenet_v2_x0_5", 64)
    for size, sides in ((32, [16, 8, 4, 2, 1]), (128, [64, 32, 16, 8, 4])):
        assert [stage.shape[2] for stage in teacher.features(images_for(teacher, size)).maps] == sides
    assert teacher.map_shapes() == SHUFFLENET


def test_an_embedding_alone_asks_for_no_maps(load: Load) -> None:
    """Where the maps of a network of torchvision are is searched for at the first use of one."""
    for spec in ("torchvision:shufflenet_v2_x0_5", "timm:test_resnet", "open_clip:tiny-RN"):
        teacher = load(spec, 64)
        assert isinstance(teacher.network, Backbone) and "map_names" not in vars(teacher.network)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(teacher.network), "stages", lambda *_: pytest.fail("asked for maps"))
            teacher(images_for(teacher))


class OfOldTimm(nn.Module):
    """A model as an older timm has them: features and head, and no maps."""

    def forward_features(self, images: Tensor) -> Tensor:
        return images * 2

    def forward_head(self, features: Tensor, pre_logits: bool) -> Tensor:
        return features.mean((2, 3))


class OfNewOpenClip(nn.Module):
    """An image side that asks the model of an older timm."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = OfOldTimm()

    def forward_intermediates(self, images: Tensor) -> dict[str, Any]:
        return self.trunk.forward_intermediates(images)  # type: ignore[operator, no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        return self.trunk.forward_head(self.trunk.forward_features(images), pre_logits=True)


def test_networks_without_stage_maps_and_a_teacher_without_a_size() -> None:
    older = (BeforeClassifier(OfOldTimm()), ImageTower(OfNewOpenClip()), ImageTower(nn.Flatten()))
    for network in (nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), *older):
        teacher = small_teacher(network)
        images = images_for(teacher)
        output = teacher.features(images)
        assert torch.equal(output.embedding, teacher(images))
        assert output.maps == teacher.map_shapes() == ()
    teacher = small_teacher(build_backbone("resnet8", 1), None)
    assert teacher.map_shapes() == ((16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8))
    assert teacher.map_shapes(8) == ((16, 8, 8), (16, 8, 8), (32, 4, 4), (64, 2, 2)), "the side of the run's images"
