from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from relgraph.names import build_backbone, clip_spec, load_teacher, teacher
from relgraph.networks.files import save_network
from relgraph.networks.heads import Projector
from relgraph.networks.sources import Pretrained
from relgraph.networks.teachers import Teacher
from tests.checks import assert_refused_like, refusal
from tests.networks.tiny import INFO, assert_reads, moved, small_teacher, write_weights


def saved_timm(path: Path, name: str, **settings: Any) -> Any:
    """Save a model with random weights (and moved statistics) and return it."""
    model = moved(timm.create_model(name, **settings))
    write_weights(model, path)
    return model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a test writes weights."""
    return tmp_path / "w.safetensors"


def test_timm_file_with_a_classifier(path: Path) -> None:
    images = torch.randn(3, 3, 64, 64)
    for name in ("test_resnet", "test_efficientnet", "test_mambaout"):
        model = saved_timm(path, name, num_classes=17)
        for arguments in ({"num_classes": 17}, None):
            teacher = load_teacher(f"timm:{name}", weights=path, input_size=64, arguments=arguments)
            with torch.no_grad():
                expected = model.forward_head(model.forward_features(images), pre_logits=True)
            torch.testing.assert_close(teacher(images), expected)
            assert_reads(model.get_classifier(), teacher, model)
            assert teacher.width == expected.shape[1]


def test_timm_preparation_and_its_overrides_and_a_file_in_half_precision(path: Path) -> None:
    model: Any = timm.create_model("test_resnet", num_classes=0).half()
    teacher = load_teacher("timm:test_resnet", weights=write_weights(model, path))
    assert teacher(torch.randn(2, 3, 64, 64)).dtype == torch.float32
    assert_reads(nn.Identity(), teacher, model.float().eval())
    config = model.pretrained_cfg
    assert (teacher.input_size, teacher.channels) == (160, 3)
    assert (teacher.mean, teacher.std) == (config["mean"], config["std"])
    teacher = load_teacher("timm:test_resnet", weights=path, input_size=96, mean=[0, 0, 0], std=[1, 1, 1])
    assert (teacher.input_size, teacher.mean, teacher.std) == (96, (0, 0, 0), (1, 1, 1))


def test_timm_transformer_at_another_size_and_grey_images(path: Path) -> None:
    model = saved_timm(path, "test_vit", num_classes=0)
    model.set_input_size(img_size=64)
    load = partial(load_teacher, "timm:test_vit", weights=path)
    assert_reads(nn.Identity(), load(input_size=64), model)
    assert_refused_like((partial(load, input_size=65), "does not take images of 3 x 65 x 65"))
    saved_timm(path, "test_resnet", in_chans=1)
    load = partial(load_teacher, "timm:test_resnet", weights=path, arguments={"in_chans": 1})
    teacher = load(mean=[0.5], std=[0.5])
    assert teacher(torch.zeros(2, 1, 64, 64)).shape == (2, teacher.width)
    assert_refused_like(
        (load, "^mean and std of teacher timm:test_resnet must have 1 values each, got 3 and 3$"),
        (partial(load, mean=[0.5, 0.5], std=[0.5]), "must have 1 values each, got 2 and 1$"),
    )


def test_frozen(path: Path) -> None:
    images = torch.randn(3, 3, 64, 64)
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


UNKNOWN = (
    ("tim:test_resnet", "unknown source or module 'tim': did you mean 'timm'"),
    ("timm:", "SOURCE:NAME"),
    ("timm:resnet5O", "unknown timm model 'resnet5O': did you mean .*resnet50"),
    ("timm:resnet10t.c3_in2k", r"unknown timm weights .*did you mean resnet10t\.c3_in1k"),
    ("open_clip:ViT-B-33/openai", "unknown open_clip model 'ViT-B-33': did you mean .*ViT-B-32"),
    ("open_clip:ViT-B-32/opanai", "unknown weights of open_clip:ViT-B-32/WEIGHTS 'opanai': did you mean openai"),
    ("open_clip:ViT-B-32", r"unknown weights of open_clip:ViT-B-32/WEIGHTS '' \(known: openai, "),
    ("open_clip:ViT-S-32-alt/some", "none are published, pass a file with --teacher-weights FILE"),
    ("timm:vit_huge_patch14_xp_224", "unknown timm weights .*: none are published, pass a file with"),
    ("embedded:letters", "unknown embedded teacher 'letters'"),
    ("checkpoint:nowhere.safetensors", "nowhere.safetensors"),
)


def test_unknown_names() -> None:
    for spec, words in UNKNOWN:
        load = partial(load_teacher, spec)
        assert_refused_like((load, words))
        assert len(refusal(load)) < 250
    assert clip_spec("ViT-L/14@336px") == "open_clip:ViT-L-14-336/openai"
    assert_refused_like((partial(clip_spec, "ViT-B-32"), "did you mean 'ViT-B/32'"))


def test_files_and_arguments_that_do_not_fit(path: Path) -> None:
    saved_timm(path, "test_resnet", num_classes=17)
    of_file = partial(load_teacher, weights=path)
    resnet, takes = partial(of_file, "timm:test_resnet"), "arguments are for timm, checkpoint and own teachers, got"
    assert_refused_like(
        (partial(resnet, arguments={"num_classes": 5}), r"\(5,\) in the network, \(17,\) in the file"),
        (partial(resnet, arguments={"nonsense": 1}), "does not take nonsense=1"),
        (partial(of_file, "timm:test_vit"), r"another architecture: .* is "),
        (partial(of_file, "open_clip:ViT-S-32-alt"), "is not of an open_clip model"),
        (partial(load_teacher, "open_clip:ViT-B-32/openai", arguments={"x": 1}), rf"{takes} \{{'x': 1\}} for"),
        (partial(load_teacher, "embedded:digits", arguments={"output": "projection"}), "holds no projector"),
        (partial(of_file, "embedded:digits"), "brings its own weights"),
        (lambda: small_teacher(nn.Identity(), 4), r"must give \(N, width\), got \(1, 1, 4, 4\)"),
        (partial(Teacher, Pretrained(nn.Flatten(), 4, 1, [0], [0]), "x"), "std of teacher x must be positive"),
    )


def test_fingerprint(path: Path) -> None:
    saved_timm(path, "test_resnet")
    first, again = (load_teacher("timm:test_resnet", weights=path) for _ in range(2))
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


def test_fingerprint_tells_names_shapes_and_layers_without_weights() -> None:
    def fingerprint(*layers: nn.Module) -> str:
        network = nn.Sequential(nn.Flatten(), *layers)
        for parameter in network.parameters():
            nn.init.zeros_(parameter)
        return small_teacher(network).fingerprint()

    linear = partial(nn.Linear, bias=False)
    networks = ([linear(4, 3)], [linear(4, 2), linear(2, 2)], [nn.Identity(), linear(4, 3)], [nn.GELU()], [nn.ReLU()])
    assert len({fingerprint(*layers) for layers in networks}) == 5
    assert fingerprint(nn.GELU()) == fingerprint(nn.GELU())


def test_checkpoint(tmp_path: Path) -> None:
    backbone, file = build_backbone("resnet8", 1).eval(), tmp_path / "student.safetensors"
    save_network(file, nn.ModuleDict({"backbone": backbone}), INFO)
    images = torch.randn(2, 1, 8, 8)
    for path in (tmp_path, file):
        found = load_teacher(f"checkpoint:{path}")
        torch.testing.assert_close(found(images), backbone(images))
        facts = (found.input_size, found.channels, found.mean, found.std, found.width)
        assert facts == (8, 1, (0.3,), (0.4,), backbone.width) and teacher(f"checkpoint:{path}").path == path
    projection = partial(load_teacher, f"checkpoint:{tmp_path}", arguments={"output": "projection"})
    nowhere = partial(load_teacher, f"checkpoint:{tmp_path.parent}")
    assert_refused_like(
        (projection, r"student\.safetensors holds no projector: expected"),
        (nowhere, r"expected network\.safetensors .* or student\.safetensors"),
    )
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
        ({"output": 3}, r"unknown output of a checkpoint '3' \(known: embedding, feature, projection\)"),
        ({"output": "embedding"}, "holds no student: expected student.safetensors of a training run"),
        ({"width": 3}, r"takes the argument output=feature or output=projection or output=embedding, got {'width': 3}"),
    ):
        assert_refused_like((partial(load_teacher, spec, arguments=arguments), words))


def test_attention_is_fed_in_another_layout_with_the_same_values() -> None:
    """What the library's own forward computes: bit for bit in float32, to bf16's rounding under autocast."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    plain = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.Flatten(2), Transposed(), layer, Mean()).eval()
    images, teacher = torch.rand(5, 3, 16, 16), small_teacher(plain, 16, 3)
    for autocast in (False, True):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            expected = plain(images).float()
            torch.testing.assert_close(teacher(images), expected, rtol=0, atol=0.03 if autocast else 0)


class Transposed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def test_images_pass_a_processor_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings are those of all at once, whatever the number of images; what the network sees is small."""
    network, images, seen = build_backbone("resnet8").eval(), torch.randn(7, 3, 32, 32), list[int]()
    teacher = small_teacher(network, None, 3)
    whole = teacher(images)
    next(module for module in network.modules() if isinstance(module, nn.Conv2d)).register_forward_pre_hook(
        lambda module, inputs: seen.append(len(inputs[0]))
    )
    for pixels, expected in ((3 * 32 * 32 + 1, [3, 3, 1]), (1, [1] * 7)):
        monkeypatch.setattr("relgraph.networks.pieces.PIXELS", pixels)
        torch.testing.assert_close(teacher(images), whole)
        assert seen == expected
        seen.clear()
    assert teacher(images[:0]).shape == (0, teacher.width)
