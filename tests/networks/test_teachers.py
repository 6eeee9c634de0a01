from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from relgraph.errors import RelgraphError
from relgraph.names import build_backbone, clip_spec, load_teacher, teacher, untrained_teacher
from relgraph.networks.files import save_network
from relgraph.networks.heads import Projector
from relgraph.networks.teachers import Teacher
from tests.networks.tiny import INFO, moved


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def saved_timm(path: Path, name: str, **settings: int) -> nn.Module:
    """Save a model with random weights (and moved statistics) and return it."""
    model = moved(timm.create_model(name, **settings))  # type: ignore[arg-type]
    save_file(model.state_dict(), path)
    return model


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_mambaout"])
def test_timm_file_with_a_classifier(tmp_path: Path, images: torch.Tensor, name: str) -> None:
    path = tmp_path / "w.safetensors"
    model: Any = saved_timm(path, name, num_classes=17)
    for arguments in ({"num_classes": 17}, None):
        teacher = load_teacher(f"timm:{name}", weights=path, input_size=64, arguments=arguments)
        with torch.no_grad():
            expected = model.forward_head(model.forward_features(images), pre_logits=True)
            torch.testing.assert_close(model.get_classifier()(teacher(images)), model(images))
        torch.testing.assert_close(teacher(images), expected)
        assert teacher.width == expected.shape[1]


def test_timm_half_precision_file(tmp_path: Path, images: torch.Tensor) -> None:
    model = timm.create_model("test_resnet", num_classes=0).half()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    teacher = load_teacher("timm:test_resnet", weights=tmp_path / "w.safetensors")
    embedding = teacher(images)
    assert embedding.dtype == torch.float32
    torch.testing.assert_close(embedding, model.float().eval()(images))


def test_timm_preparation_and_its_overrides(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    saved_timm(path, "test_resnet")
    teacher = load_teacher("timm:test_resnet", weights=path)
    config = timm.create_model("test_resnet").pretrained_cfg
    assert (teacher.input_size, teacher.channels) == (160, 3)
    assert (teacher.mean, teacher.std) == (config["mean"], config["std"])  # type: ignore[index]
    teacher = load_teacher("timm:test_resnet", weights=path, input_size=96, mean=[0, 0, 0], std=[1, 1, 1])
    assert (teacher.input_size, teacher.mean, teacher.std) == (96, (0, 0, 0), (1, 1, 1))


def test_timm_transformer_at_another_size(tmp_path: Path, images: torch.Tensor) -> None:
    path = tmp_path / "w.safetensors"
    model = saved_timm(path, "test_vit", num_classes=0)
    model.set_input_size(img_size=64)  # type: ignore[operator]
    teacher = load_teacher("timm:test_vit", weights=path, input_size=64)
    with torch.no_grad():
        torch.testing.assert_close(teacher(images), model(images))
    with pytest.raises(RelgraphError, match="does not take images of 3 x 65 x 65"):
        load_teacher("timm:test_vit", weights=path, input_size=65)


def test_timm_grey(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    saved_timm(path, "test_resnet", in_chans=1)
    teacher = load_teacher("timm:test_resnet", weights=path, mean=[0.5], std=[0.5], arguments={"in_chans": 1})
    assert teacher(torch.zeros(2, 1, 64, 64)).shape == (2, teacher.width)
    with pytest.raises(RelgraphError, match="mean of teacher timm:test_resnet must have 1 values, got 3"):
        load_teacher("timm:test_resnet", weights=path, arguments={"in_chans": 1})


def test_frozen(tmp_path: Path, images: torch.Tensor) -> None:
    path = tmp_path / "w.safetensors"
    saved_timm(path, "test_resnet")
    teacher = load_teacher("timm:test_resnet", weights=path, input_size=64)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    embedding = teacher(images.clone().requires_grad_())
    assert not embedding.requires_grad
    # Unlike a tensor of inference mode, the embedding can enter a graph that is differentiated later.
    weight = torch.ones(teacher.width, requires_grad=True)
    (embedding * weight).sum().backward()
    torch.testing.assert_close(weight.grad, embedding.sum(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert teacher(images).dtype == torch.float32


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("tim:test_resnet", "unknown teacher source 'tim': did you mean 'timm'"),
        ("timm:", "SOURCE:NAME"),
        ("timm:resnet5O", "unknown timm model 'resnet5O': did you mean .*resnet50"),
        ("timm:resnet10t.c3_in2k", r"unknown timm weights .*did you mean resnet10t\.c3_in1k"),
        ("open_clip:ViT-B-33/openai", "unknown open_clip model 'ViT-B-33': did you mean .*ViT-B-32"),
        ("open_clip:ViT-B-32/opanai", "unknown weights of open_clip:ViT-B-32/WEIGHTS 'opanai': did you mean openai"),
        ("open_clip:ViT-B-32", r"unknown weights of open_clip:ViT-B-32/WEIGHTS '' \(known: openai, "),
        ("open_clip:ViT-S-32-alt/some", "none are published, pass a file with --teacher-weights FILE"),
        ("timm:vit_huge_patch14_xp_224", "nobody publishes weights .* pass a file with --teacher-weights FILE"),
        ("embedded:letters", "unknown embedded teacher 'letters'"),
        ("checkpoint:nowhere.safetensors", "nowhere.safetensors"),
    ],
)
def test_unknown_names(spec: str, words: str) -> None:
    with pytest.raises(RelgraphError, match=words) as caught:
        load_teacher(spec)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_files_and_arguments_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    saved_timm(path, "test_resnet", num_classes=17)
    with pytest.raises(RelgraphError, match=r"\(5,\) in the network, \(17,\) in the file"):
        load_teacher("timm:test_resnet", weights=path, arguments={"num_classes": 5})
    with pytest.raises(RelgraphError, match=r"does not take \{'nonsense': 1\}"):
        load_teacher("timm:test_resnet", weights=path, arguments={"nonsense": 1})
    with pytest.raises(RelgraphError, match=r"another architecture: .* is "):
        load_teacher("timm:test_vit", weights=path)
    with pytest.raises(RelgraphError, match="is not of an open_clip model"):
        load_teacher("open_clip:ViT-S-32-alt", weights=path)
    with pytest.raises(RelgraphError, match=r"arguments are for timm and checkpoint teachers, got \{'x': 1\} for"):
        load_teacher("open_clip:ViT-B-32/openai", arguments={"x": 1})
    with pytest.raises(RelgraphError, match="brings its own weights"):
        load_teacher("embedded:digits", weights=path)


def test_unknown_names_of_untrained_teachers() -> None:
    for spec in ("open_clip:ViT-B-32/openai", "timm:resnet", "embedded:digits"):
        with pytest.raises(RelgraphError, match="unknown"):
            untrained_teacher(spec)


def test_original_clip_names() -> None:
    assert clip_spec("ViT-L/14@336px") == "open_clip:ViT-L-14-336/openai"
    with pytest.raises(RelgraphError, match="did you mean 'ViT-B/32'"):
        clip_spec("ViT-B-32")


def test_fingerprint(tmp_path: Path) -> None:
    saved_timm(tmp_path / "a.safetensors", "test_resnet")
    first, again = (load_teacher("timm:test_resnet", weights=tmp_path / "a.safetensors") for _ in range(2))
    print_ = first.fingerprint()
    assert len(bytes.fromhex(print_)) == 32
    assert again.fingerprint() == print_
    # Whatever order the values have in memory.
    assert Teacher.fingerprint(again.to(memory_format=torch.contiguous_format)) == print_
    changed = {print_}
    for values in (next(again.network.parameters()), next(b for b in again.network.buffers() if b.ndim)):
        values.data.view(-1)[-1].add_(1e-3)
        changed.add(again.fingerprint())
    assert len(changed) == 3


def test_fingerprint_tells_names_and_shapes() -> None:
    def fingerprint(network: nn.Module) -> str:
        for parameter in network.parameters():
            nn.init.zeros_(parameter)
        return Teacher(network, name="x", input_size=2, channels=1, mean=[0], std=[1]).fingerprint()

    wide = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False))
    tall = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False), nn.Linear(2, 2, bias=False))
    moved = nn.Sequential(nn.Flatten(), nn.Identity(), nn.Linear(4, 3, bias=False))
    assert len({fingerprint(network) for network in (wide, tall, moved)}) == 3


def test_checkpoint(tmp_path: Path) -> None:
    backbone, file = build_backbone("resnet8", 1).eval(), tmp_path / "student.safetensors"
    save_network(file, nn.ModuleDict({"backbone": backbone}), INFO)
    images = torch.randn(2, 1, 8, 8)
    for path in (tmp_path, file):
        found = load_teacher(f"checkpoint:{path}")
        torch.testing.assert_close(found(images), backbone(images))
        facts = (found.input_size, found.channels, found.mean, found.std, found.width)
        assert facts == (8, 1, (0.3,), (0.4,), backbone.width) and teacher(f"checkpoint:{path}").path == path
    with pytest.raises(RelgraphError, match=r"student\.safetensors holds no projector: expected"):
        load_teacher(f"checkpoint:{tmp_path}", arguments={"output": "projection"})
    with pytest.raises(RelgraphError, match=r"expected network\.safetensors .* or student\.safetensors"):
        load_teacher(f"checkpoint:{tmp_path.parent}")
    with pytest.raises(RelgraphError, match="arguments are for timm and checkpoint teachers"):
        load_teacher("embedded:digits", arguments={"output": "projection"})
    assert load_teacher("embedded:digits")(torch.rand(2, 1, 8, 8)).shape == (2, 64) and not teacher("timm:x").path


@pytest.fixture
def pretrained(tmp_path: Path) -> nn.ModuleDict:
    """Save what a pre-training leaves in its run directory, and return the network."""
    backbone, projector = build_backbone("resnet8", 1), Projector(64, 5, hidden=12, norm=True)
    projector(torch.randn(9, 64))  # so that running statistics are unlike a new network's
    network = nn.ModuleDict({"backbone": backbone, "projector": projector}).eval()
    sizes = {"dim": 5, "hidden": 12, "norm": True}
    save_network(tmp_path / "network.safetensors", network, {**INFO, "projector": sizes})
    return network


def test_a_pre_training_gives_features_or_projections(tmp_path: Path, pretrained: nn.ModuleDict) -> None:
    spec, images = f"checkpoint:{tmp_path}", torch.randn(4, 1, 8, 8)
    plain = load_teacher(spec)
    feature, projection = (load_teacher(spec, arguments={"output": x}) for x in ("feature", "projection"))
    expected = pretrained["backbone"](images)
    torch.testing.assert_close(feature(images), expected)
    torch.testing.assert_close(projection(images), pretrained["projector"](expected))
    assert (plain.width, feature.width, projection.width) == (64, 64, 5)
    assert plain.fingerprint() == feature.fingerprint() != projection.fingerprint()
    assert not any(p.requires_grad for p in projection.parameters()) and not projection.network.training
    output, maps = projection.features(images), feature.features(images).maps
    assert torch.equal(output.embedding, projection(images))
    assert len(maps) == 4 and all(map(torch.equal, output.maps, maps))
    assert projection.map_shapes() == feature.map_shapes()
    for arguments, words in (
        ({"output": "projektion"}, "unknown output of a checkpoint 'projektion': did you mean 'projection'"),
        ({"output": 3}, r"unknown output of a checkpoint '3' \(known: feature, projection\)"),
        ({"width": 3}, "a checkpoint takes the argument output=feature or output=projection, got {'width': 3} for"),
    ):
        with pytest.raises(RelgraphError, match=words):
            load_teacher(spec, arguments=arguments)


def test_refuses_embeddings_that_are_not_vectors() -> None:
    with pytest.raises(RelgraphError, match=r"must give \(N, width\), got \(1, 3, 4, 4\)"):
        Teacher(nn.Identity(), name="x", input_size=4, channels=3, mean=[0, 0, 0], std=[1, 1, 1])
    with pytest.raises(RelgraphError, match="std of teacher x must be positive"):
        Teacher(nn.Flatten(), name="x", input_size=4, channels=1, mean=[0], std=[0])


def test_the_fingerprint_tells_layers_without_weights_apart() -> None:
    def fingerprint(activation: nn.Module) -> str:
        network = nn.Sequential(nn.Conv2d(3, 4, 4), activation, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        network[0].load_state_dict({"weight": torch.ones(4, 3, 4, 4), "bias": torch.zeros(4)})
        return Teacher(network, name="a", input_size=8, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3).fingerprint()

    assert fingerprint(nn.GELU()) == fingerprint(nn.GELU()) != fingerprint(nn.ReLU())


@pytest.mark.parametrize("autocast", [False, True])
def test_attention_is_fed_in_another_layout_with_the_same_values(autocast: bool) -> None:
    """What the library's own forward computes: bit for bit in float32, to bf16's rounding under autocast."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    plain = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.Flatten(2), Transposed(), layer, Mean()).eval()
    images = torch.rand(5, 3, 16, 16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        expected = plain(images).float()
        teacher = Teacher(plain, name="small", input_size=16, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
        torch.testing.assert_close(teacher(images), expected, rtol=0, atol=0.03 if autocast else 0)


class Transposed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)
