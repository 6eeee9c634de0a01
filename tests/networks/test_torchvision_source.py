"""Networks of torchvision: teachers with weights from a file or a server, and students; what the last layer reads."""

import gc
import hashlib
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from relgraph.names import build_backbone, load_teacher, student
from relgraph.networks.backbone import choose_stages
from relgraph.networks.torchvision_source import list_torchvision
from tests.checks import assert_refused, assert_refused_like
from tests.networks.tiny import assert_reads, moved, write_weights
from tests.web import serving

SMALL = "shufflenet_v2_x0_5"
PUBLISHED = models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1


def torchvision_model(name: str, **settings: Any) -> Any:
    return moved(models.get_model(name, **settings))


def last_linear(model: nn.Module) -> nn.Module:
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


@pytest.mark.slow
def test_embedding_is_what_the_last_layer_reads(tmp_path: Path) -> None:
    of_googlenet = {"init_weights": False, "aux_logits": True, "transform_input": True}
    settings: dict[str, Any]
    for name, width, suffix, settings in (
        (SMALL, 1024, "pth", {}),
        (SMALL, 1024, "safetensors", {"num_classes": 7}),
        ("mnasnet0_5", 1280, "pth", {}),
        ("mobilenet_v3_small", 1024, "pth", {}),
        ("googlenet", 1024, "pth", of_googlenet),
    ):
        model = torchvision_model(name, **settings)
        path = write_weights(model, tmp_path / f"w.{suffix}")
        teacher = load_teacher(f"torchvision:{name}", weights=path, input_size=64)
        assert_reads(last_linear(model), teacher, model)
        assert teacher.width == width
    model = torchvision_model("squeezenet1_1")
    path = write_weights(model, tmp_path / "w.pth")
    teacher = load_teacher("torchvision:squeezenet1_1", weights=path, input_size=64)
    assert_reads(nn.Identity(), teacher, nn.Sequential(model.features, nn.AdaptiveAvgPool2d(1), nn.Flatten()))


def test_older_densenet_files(tmp_path: Path) -> None:
    """The published files have dots in the names of layers, and no count of batches."""
    model = torchvision_model("densenet121")
    older = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): value
        for key, value in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    torch.save(older, tmp_path / "w.pth")
    teacher = load_teacher("torchvision:densenet121", weights=tmp_path / "w.pth", input_size=32)
    assert_reads(last_linear(model), teacher, model, 32)


@pytest.mark.usefixtures("tiny_vit")
def test_vision_transformer_at_another_size(tmp_path: Path) -> None:
    model = models.vit_b_32().eval()
    model.encoder.pos_embedding.data.normal_()
    # As the published file names them.
    names = {".mlp.0.": ".mlp.linear_1.", ".mlp.3.": ".mlp.linear_2."}
    older = {re.sub(r"\.mlp\.[03]\.", lambda m: names[m[0]], k): v for k, v in model.state_dict().items()}
    torch.save(older, tmp_path / "w.pth")
    same = load_teacher("torchvision:vit_b_32", weights=tmp_path / "w.pth")
    assert_reads(model.heads, same, model, 224)
    other = load_teacher("torchvision:vit_b_32", weights=tmp_path / "w.pth", input_size=96)
    assert (other.input_size, other.width) == (96, 32)
    # Corners of the grid of positions stay where they were, and the class token's own as well.
    old, new = (teacher.network.get_parameter("model.encoder.pos_embedding") for teacher in (same, other))
    assert new.shape == (1, 1 + 3 * 3, 32)
    torch.testing.assert_close(new[0, [0, 1, 3, 7, 9]], old[0, [0, 1, 7, 43, 49]])
    odd = partial(load_teacher, "torchvision:vit_b_32", weights=tmp_path / "w.pth", input_size=97)
    assert_refused_like((odd, "^torchvision:vit_b_32 cannot read images of 3 x 97 x 97: "))


@pytest.mark.usefixtures("tiny_vit")
def test_preparation_is_that_of_the_weights(tmp_path: Path) -> None:
    for size, tag in ((224, ""), (384, "/IMAGENET1K_SWAG_E2E_V1"), (224, "/IMAGENET1K_SWAG_LINEAR_V1")):
        torch.save(models.vit_b_16(image_size=size).state_dict(), tmp_path / "w.pth")
        teacher = load_teacher(f"torchvision:vit_b_16{tag}", weights=tmp_path / "w.pth")
        assert teacher.input_size == size
        assert (teacher.mean, teacher.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    other = write_weights(torchvision_model("shufflenet_v2_x1_0"), tmp_path / "w.pth")
    teacher = partial(load_teacher, weights=other)
    assert_refused_like(
        *(
            (partial(load_teacher, f"torchvision:{name}"), words)
            for name, words in (
                ("resnet5O", "unknown torchvision model 'resnet5O': did you mean resnet50"),
                ("resnet50/IMAGENET1K_V3", "did you mean IMAGENET1K_V2 or IMAGENET1K_V1"),
                ("vgg16/IMAGENET1K_FEATURES", "did you mean IMAGENET1K_V1"),
                ("quantized_resnet18", "unknown torchvision model"),
            )
        ),
        (partial(teacher, f"torchvision:{SMALL}"), r"another architecture: .* in the network, .* in the file$"),
        (partial(teacher, "torchvision:squeezenet1_1"), r"another architecture: conv1\.0\.weight is missing in the"),
        (partial(build_backbone, "torchvision:resnet19"), r"^unknown student .* did you mean torchvision:resnet"),
        (partial(build_backbone, "torchvision:alexnet", image_size=8), r"alexnet cannot read images of 3 x 8 x 8: "),
    )


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def test_download(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a real download, from a server on this machine: fetched, its checksum compared, kept, read.

    Only the address in torchvision's own entry for the weights is another. Afterwards the server is gone, and the kept
    copy is enough; a file that was passed gives the same teacher.
    """
    model = torchvision_model(SMALL)
    path = write_weights(model, tmp_path / "w.pth")
    content = path.read_bytes()
    name = f"tiny-{hashlib.sha256(content).hexdigest()[:8]}.pth"  # which ends with the start of its checksum
    with serving(content) as web:
        monkeypatch.setattr(PUBLISHED.value, "url", f"http://127.0.0.1:{web.server_port}/{name}")
        first = load_teacher(f"torchvision:{SMALL}", input_size=64)
    assert (cache / name).read_bytes() == content
    again = load_teacher(f"torchvision:{SMALL}/IMAGENET1K_V1", input_size=64)
    passed = load_teacher(f"torchvision:{SMALL}", weights=path, input_size=64)
    assert first.fingerprint() == again.fingerprint() == passed.fingerprint()
    assert_reads(last_linear(model), first, model)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # torch.hub does not close what it stops to read
def test_download_that_fails(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(b"something else") as web:
        for web.status, reason in ((200, "invalid hash value"), (404, "HTTP Error 404")):
            monkeypatch.setattr(PUBLISHED.value, "url", f"http://127.0.0.1:{web.server_port}/tiny-00000000.pth")
            assert_refused_like((partial(load_teacher, f"torchvision:{SMALL}"), f"could not be loaded: {reason}"))
            assert not (cache / "tiny-00000000.pth").exists()
    gc.collect()  # the warning comes now, or in a test that has nothing to do with it


def test_no_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PUBLISHED.value, "url", "http://127.0.0.1:9/tiny-12345678.pth")
    load = partial(load_teacher, f"torchvision:{SMALL}")
    told = (
        f"the weights of torchvision:{SMALL} could not be loaded: 127.0.0.1:9 cannot be reached and torch's cache has "
        "no copy; download http://127.0.0.1:9/tiny-12345678.pth and pass it with --teacher-weights FILE (a "
        "student: --student-weights), or put it at "
        f"{cache / 'tiny-12345678.pth'} (torch.hub.get_dir()/checkpoints)"
    )
    assert_refused((load, told))
    cache.mkdir(parents=True)
    (cache / "tiny-12345678.pth").write_bytes(bytes(100))
    assert_refused_like((load, r"tiny-12345678\.pth cannot be read as weights: it is damaged"))


def test_every_listed_network_is_for_classification() -> None:
    listed = {teacher.spec: teacher for teacher in list_torchvision()}
    assert listed["torchvision:resnet50/IMAGENET1K_V2"].megabytes == pytest.approx(97.8, abs=0.1)
    assert listed["torchvision:vit_b_16/IMAGENET1K_SWAG_E2E_V1"].input_size == 384
    assert not [spec for spec in listed if "rcnn" in spec or "FEATURES" in spec or "quantized" in spec]


def test_vector_and_maps_of_students() -> None:
    for name, classifier, shapes in (
        ("mobilenet_v3_small", "classifier.3", [(16, 32, 32), (16, 16, 16), (24, 8, 8), (48, 4, 4), (576, 2, 2)]),
        (SMALL, "fc", [(24, 32, 32), (24, 16, 16), (48, 8, 8), (96, 4, 4), (1024, 2, 2)]),
        ("squeezenet1_1", "classifier.1", [(64, 31, 31), (128, 15, 15), (256, 7, 7), (512, 3, 3)]),
    ):
        torch.manual_seed(5)
        whole = models.get_model(name, weights=None).eval()
        read: list[Tensor] = []
        whole.get_submodule(classifier).register_forward_hook(lambda _m, inputs, _o, read=read: read.append(inputs[0]))
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
    assert all(map(torch.equal, first, second)) and not torch.equal(pooled, again)


def test_networks_whose_maps_are_no_chain_of_halves() -> None:
    for name, size, width, channels in (
        ("vgg11_bn", 32, 4096, [64, 128, 256, 512, 512, 512]), ("vit_b_32", 64, 768, []), ("swin_t", 64, 768, []),
    ):  # fmt: skip
        with torch.device("meta"):
            backbone = build_backbone(f"torchvision:{name}", image_size=size).eval()
            maps, pooled = backbone.stages(torch.rand(2, 3, size, size))
        assert pooled.shape == (2, width) and backbone.width == width
        assert [stage.shape[1] for stage in maps] == channels


def test_grey_images_and_every_parameter_without_auxiliary_classifiers() -> None:
    for name, channels in ((SMALL, 1), ("googlenet", 3)):
        backbone = build_backbone(f"torchvision:{name}", channels, image_size=64)
        assert backbone.training
        maps, pooled = backbone.stages(torch.rand(4, channels, 64, 64))
        assert pooled.shape == (4, 1024)
        torch.autograd.backward([pooled.square().sum(), *(stage.square().mean() for stage in maps)])
        assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in backbone.parameters())
        assert not any(module._forward_hooks for module in backbone.modules()), "none is left behind"
        assert not any("aux" in key for key, _ in backbone.named_parameters())


def test_a_student_with_weights_starts_from_them_and_is_built_again_without_them(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = torchvision_model(SMALL)
    monkeypatch.setattr(PUBLISHED.value, "url", "http://127.0.0.1:9/tiny-12345678.pth")
    cache.mkdir(parents=True)
    file = write_weights(model, cache / "tiny-12345678.pth")
    started, images = build_backbone(f"torchvision:{SMALL}/IMAGENET1K_V1", image_size=64), torch.rand(2, 3, 64, 64)
    assert started.training
    with torch.no_grad():
        torch.testing.assert_close(last_linear(model)(started.eval()(images)), model(images))
    source, bare = student(f"torchvision:{SMALL}/DEFAULT"), student(f"torchvision:{SMALL}")
    of_file = bare.start(file, 3, 64)
    assert all(map(torch.equal, of_file.state_dict().values(), started.state_dict().values()))
    file.unlink()  # from here on nothing can be had
    assert source.published and not bare.published
    assert source.preparation() == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert list(source.build(3, 64).state_dict()) == list(started.state_dict())
    grey = r"/DEFAULT starts from weights for images of 3 channels, got 1: timm's adapt their first convolution"
    assert_refused_like(
        (
            partial(source.start, None, 3, 64),
            r"^the weights of torchvision:.*/DEFAULT could not be loaded: 127\.0\.0\.1",
        ),
        (partial(source.start, None, 1, 64), grey),
        (student(f"torchvision:{SMALL}/V9").preparation, "did you mean|known: IMAGENET1K_V1"),
    )
    torch.save(torchvision_model(SMALL).state_dict(), tmp_path / "w.pth")
    assert_refused_like(
        (partial(bare.start, tmp_path / "w.pth", 1, 64), r"conv1\.0\.weight is \(24, 1, 3, 3\) in the net")
    )


def test_googlenets_weights_bring_their_own_scale_of_images() -> None:
    """torchvision's builder sets it for published weights alone, whose images Caffe had in -1..1."""
    with torch.device("meta"):
        for tag, expected in (("/IMAGENET1K_V1", True), ("", False)):
            network: Any = student(f"torchvision:googlenet{tag}").build(3, 64)
            assert network.model.transform_input is expected


def test_stages_are_parts_of_torchvisions_model(tmp_path: Path) -> None:
    model = torchvision_model("resnet18")
    file, names = write_weights(model, tmp_path / "w.pth"), ("layer2", "layer4.1.conv2")
    teacher = load_teacher("torchvision:resnet18", weights=file, input_size=64, stages=names)
    backbone = student("torchvision:resnet18").start(file, 3, 64).eval()
    choose_stages(backbone, names, 3, 64, "student")
    images, expected = torch.rand(2, 3, 64, 64), {}
    for name in names:
        model.get_submodule(name).register_forward_hook(
            lambda _m, _i, output, name=name: expected.update({name: output})
        )
    with torch.no_grad():
        model(images)
        for maps in (teacher.features(images).maps, backbone.stages(images)[0]):
            torch.testing.assert_close(list(maps), [expected[name] for name in names])
