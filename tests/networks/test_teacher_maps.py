"""Stage maps of teachers: of every source, in order, beside the very embedding that the teacher gives when called."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import vision_transformer

from relgraph.names import build_backbone, load_teacher, untrained_teacher
from relgraph.networks.files import save_network
from relgraph.networks.open_clip_source import ImageTower
from relgraph.networks.teachers import Teacher
from relgraph.networks.timm_source import BeforeClassifier

Shapes = tuple[tuple[int, int, int], ...]
Load = Callable[..., Teacher]

CLIPS: dict[str, dict[str, Any]] = {
    "tiny-ViT": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
    "tiny-RN": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 4, "patch_size": None},
    "tiny-timm": {"image_size": 160, "timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "linear"},
}


def moved(model: nn.Module) -> nn.Module:
    """Move the statistics of the norms, so that a network in training mode gives other values."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.uniform_(-0.5, 0.5)
    return model


def random_network(folder: Path, source: str, name: str) -> nn.Module:
    if source == "timm":
        return timm.create_model(name, num_classes=0)
    if source == "torchvision":
        network: nn.Module = models.get_model(name)
        return network
    text = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": 12, "vision_cfg": CLIPS[name], "text_cfg": text}
    (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{name}.json")
    model: nn.Module = open_clip.create_model(name)
    return model


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Return the function from a spelling and a size to a teacher with random weights, read from a file."""
    build = vision_transformer._vision_transformer
    tiny = {"num_layers": 1, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 32}  # the real ones take seconds
    monkeypatch.setattr(vision_transformer, "_vision_transformer", lambda **settings: build(**{**settings, **tiny}))

    def load(spec: str, size: int | None = None) -> Teacher:
        source, _, name = spec.partition(":")
        if source == "embedded":
            return load_teacher(spec, input_size=size)
        if source == "checkpoint":
            backbone = moved(build_backbone(name, 1, image_size=16))
            info = {"backbone": name, "in_channels": 1, "image_size": 16, "mean": [0.3], "std": [0.4], "objective": "x"}
            save_network(tmp_path / "student.safetensors", nn.ModuleDict({"backbone": backbone}), info)
            return load_teacher(f"checkpoint:{tmp_path}", input_size=size)
        torch.save(moved(random_network(tmp_path, source, name)).state_dict(), tmp_path / "w.pth")
        return load_teacher(spec, weights=tmp_path / "w.pth", input_size=size)

    return load


def images_for(teacher: Teacher, size: int | None = None) -> Tensor:
    side = size or teacher.input_size or 32
    return torch.randn(2, teacher.channels, side, side)


RESNET8: Shapes = ((16, 16, 16), (16, 16, 16), (32, 8, 8), (64, 4, 4))
SHUFFLENET: Shapes = ((24, 32, 32), (24, 16, 16), (48, 8, 8), (96, 4, 4), (1024, 2, 2))
CASES: list[tuple[str, int | None, Shapes]] = [
    ("timm:test_resnet", None, ((32, 80, 80), (32, 40, 40), (48, 20, 20), (192, 10, 10), (96, 5, 5))),
    ("timm:test_resnet", 64, ((32, 32, 32), (32, 16, 16), (48, 8, 8), (192, 4, 4), (96, 2, 2))),
    ("timm:test_vit", 64, ((64, 4, 4),) * 6),
    ("timm:test_vit", 96, ((64, 6, 6),) * 6),
    ("torchvision:shufflenet_v2_x0_5", 64, SHUFFLENET),
    ("torchvision:shufflenet_v2_x0_5", 96, tuple((c, 3 * h // 2, 3 * w // 2) for c, h, w in SHUFFLENET)),
    ("torchvision:squeezenet1_1", 64, ((64, 31, 31), (128, 15, 15), (256, 7, 7), (512, 3, 3))),
    ("torchvision:vit_b_32", None, ()),
    ("torchvision:vit_b_32", 64, ()),
    ("open_clip:tiny-RN", None, ((4, 16, 16), (16, 16, 16), (32, 8, 8), (64, 4, 4), (128, 2, 2))),
    ("open_clip:tiny-ViT", None, ((16, 4, 4),) * 2),
    ("open_clip:tiny-ViT", 48, ((16, 6, 6),) * 2),
    ("open_clip:tiny-timm", None, ((32, 80, 80), (32, 40, 40), (48, 20, 20), (192, 10, 10), (96, 5, 5))),
    ("checkpoint:resnet8", None, RESNET8),
    ("checkpoint:resnet8", 32, tuple((c, 2 * h, 2 * w) for c, h, w in RESNET8)),
    ("checkpoint:timm:test_resnet", None, ((32, 8, 8), (32, 4, 4), (48, 2, 2), (192, 1, 1), (96, 1, 1))),
    ("embedded:digits", None, ((16, 8, 8), (16, 8, 8), (32, 4, 4), (64, 2, 2))),
    ("embedded:digits", 16, RESNET8),
]


@pytest.mark.parametrize(("spec", "size", "shapes"), CASES)
def test_the_embedding_and_the_shapes_in_order(load: Load, spec: str, size: int | None, shapes: Shapes) -> None:
    teacher = load(spec, size)
    images = images_for(teacher)
    output = teacher.features(images)
    pooled, maps = output.embedding, output.maps
    torch.testing.assert_close(pooled, teacher(images), rtol=0, atol=0)
    assert pooled.dtype == torch.float32 and pooled.shape == (2, teacher.width)
    assert tuple(tuple(stage.shape) for stage in maps) == tuple((2, *shape) for shape in shapes)
    assert teacher.map_shapes() == shapes


FIRST = [next(case for case in CASES if case[0].startswith(source)) for source in ("timm", "torch", "open", "check")]


@pytest.mark.parametrize(("spec", "size"), [case[:2] for case in FIRST])
def test_frozen(load: Load, spec: str, size: int | None) -> None:
    teacher = load(spec, size)
    print_, state = teacher.fingerprint(), deepcopy(teacher.state_dict())
    images = images_for(teacher).requires_grad_()
    embedding = teacher(images)
    assert nn.Sequential(teacher).train().training
    drawn = torch.get_rng_state()
    teacher.map_shapes()
    output = teacher.features(images)
    pooled, maps = output.embedding, output.maps
    assert torch.equal(torch.get_rng_state(), drawn)
    assert torch.equal(pooled, embedding)
    assert maps and not any(tensor.requires_grad for tensor in (pooled, *maps))
    assert not any(module.training or module._forward_hooks for module in teacher.modules())
    assert all(torch.equal(tensor, state[name]) for name, tensor in teacher.state_dict().items())
    assert teacher.fingerprint() == print_


@pytest.mark.parametrize(("spec", "size"), [case[:2] for case in FIRST])
def test_a_copy_has_maps_of_its_own(load: Load, spec: str, size: int | None) -> None:
    teacher = load(spec, size)
    copy, images = deepcopy(teacher), images_for(teacher)
    before = teacher.features(images).maps
    for parameter in copy.parameters():
        parameter.zero_()
    torch.testing.assert_close(copy.features(images).embedding, copy(images))
    assert not any(stage.any() for stage in copy.features(images).maps)
    assert all(torch.equal(a, b) for a, b in zip(teacher.features(images).maps, before, strict=True))
    assert copy.to("meta").map_shapes() == teacher.map_shapes()


def outputs_of(network: nn.Module, names: list[str], images: Tensor) -> list[Tensor]:
    """Return what parts of a network give, each of a run of its own."""
    outputs: list[Tensor] = []
    for name in names:
        hook = network.get_submodule(name).register_forward_hook(lambda _m, _i, output: outputs.append(output.clone()))
        network(images)
        hook.remove()
    return outputs


@pytest.mark.parametrize(
    ("spec", "size", "names"),
    [
        ("timm:test_resnet", 64, ["model.act1", *(f"model.layer{i}" for i in (1, 2, 3, 4))]),
        ("torchvision:shufflenet_v2_x0_5", 64, ["conv1", "maxpool", "stage2", "stage3", "conv5"]),
        ("torchvision:resnet18", 32, ["relu", *(f"layer{i}" for i in (1, 2, 3, 4))]),
        ("open_clip:tiny-RN", None, ["visual.avgpool", *(f"visual.layer{i}" for i in (1, 2, 3, 4))]),
    ],
)
def test_maps_are_those_of_the_network_s_parts(load: Load, spec: str, size: int | None, names: list[str]) -> None:
    teacher = load(spec, size)
    images = images_for(teacher)
    with torch.no_grad():
        expected = outputs_of(teacher.network, names, images)
    for stage, part in zip(teacher.features(images).maps, expected, strict=True):
        torch.testing.assert_close(stage, part)


@pytest.mark.parametrize(
    ("spec", "blocks"), [("timm:test_vit", "model.blocks"), ("open_clip:tiny-ViT", "visual.transformer.resblocks")]
)
def test_tokens_are_laid_out_as_an_image(load: Load, spec: str, blocks: str) -> None:
    """A token's place in the map is that of its patch: row by row, behind the class token (one in both networks)."""
    teacher = load(spec, 32)
    images = images_for(teacher)
    maps = teacher.features(images).maps
    with torch.no_grad():
        tokens = outputs_of(teacher.network, [f"{blocks}.{i}" for i in range(len(maps))], images)
    for stage, token in zip(maps, tokens, strict=True):
        side = stage.shape[2]
        for row in range(side):
            for column in range(side):
                torch.testing.assert_close(stage[:, :, row, column], token[:, 1 + row * side + column])


def test_images_of_another_size_than_the_teacher_s(load: Load) -> None:
    teacher = load("torchvision:shufflenet_v2_x0_5", 64)
    small, large = teacher.features(images_for(teacher, 32)).maps, teacher.features(images_for(teacher, 128)).maps
    assert [stage.shape[2] for stage in small] == [16, 8, 4, 2, 1]
    assert [stage.shape[2] for stage in large] == [64, 32, 16, 8, 4]
    assert teacher.map_shapes() == SHUFFLENET


def test_maps_stay_in_autocast_s_type(load: Load) -> None:
    teacher = load("timm:test_resnet", 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = teacher.features(images_for(teacher))
    pooled, maps = output.embedding, output.maps
    assert pooled.dtype == torch.float32
    assert {stage.dtype for stage in maps} == {torch.bfloat16}


def small_teacher(network: nn.Module, **settings: Any) -> Teacher:
    return Teacher(network, name="x", channels=1, mean=[0], std=[1], **{"input_size": 2, **settings})


def test_a_network_without_stage_maps() -> None:
    teacher = small_teacher(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
    images = images_for(teacher)
    assert torch.equal(teacher.features(images).embedding, teacher(images))
    assert teacher.features(images).maps == teacher.map_shapes() == ()


def test_an_embedding_alone_asks_for_no_maps() -> None:
    def stages(images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        raise AssertionError("asked for maps")

    teacher = small_teacher(nn.Flatten(), stages=stages)
    assert teacher(images_for(teacher)).shape == (2, 4)
    with pytest.raises(AssertionError, match="asked for maps"):
        teacher.features(images_for(teacher))


def test_shapes_without_an_input_size() -> None:
    backbone = build_backbone("resnet8", 1)
    teacher = small_teacher(backbone, input_size=None, stages=backbone.stages)
    assert teacher.map_shapes() == ((16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8))


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


@pytest.mark.parametrize(
    "network", [BeforeClassifier(OfOldTimm()), ImageTower(OfNewOpenClip()), ImageTower(nn.Flatten())]
)
def test_older_libraries_hand_on_no_maps(network: BeforeClassifier | ImageTower) -> None:
    teacher = small_teacher(network, stages=network.stages)
    images = images_for(teacher)
    output = teacher.features(images)
    pooled, maps = output.embedding, output.maps
    assert torch.equal(pooled, teacher(images))
    assert maps == teacher.map_shapes() == ()


@pytest.mark.parametrize(
    ("spec", "shapes"), [("timm:test_vit", ((64, 10, 10),) * 6), ("open_clip:ViT-S-32-alt", ((384, 7, 7),) * 12)]
)
def test_untrained(spec: str, shapes: Shapes) -> None:
    teacher = untrained_teacher(spec)
    images = images_for(teacher)
    assert torch.equal(teacher.features(images).embedding, teacher(images))
    assert teacher.map_shapes() == shapes
