"""Networks of timm: teachers with weights from every place, and students, which are what timm's classifier reads."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import get_pretrained_cfg
from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.names import build_backbone, load_teacher, student
from relgraph.networks.backbone import choose_stages
from relgraph.networks.timm_source import list_timm
from tests.checks import assert_refused, assert_refused_like
from tests.networks.tiny import assert_reads, moved, write_weights

Hub = Callable[[str], Path]


def test_downloaded_before(hub: Hub) -> None:
    """Weights that the Hub's client keeps from an earlier download, on a machine without a network.

    All of it is the code of a download, `timm.create_model(pretrained=True)`; only the tensors in the file are random.
    The same file, passed with its path, gives the same teacher.
    """
    model: Any = moved(timm.create_model("test_resnet"))
    folder = hub("timm/test_resnet.r160_in1k")
    for file in ("pytorch_model.bin", "model.safetensors"):  # the last is preferred
        path = write_weights(model, folder / file)
        teacher, passed = load_teacher("timm:test_resnet"), load_teacher("timm:test_resnet", weights=path)
        assert_reads(model.get_classifier(), teacher, model, 160)
        assert teacher.fingerprint() == passed.fingerprint()


def test_downloaded_from_another_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The few weights that are not on the Hub, from where torch keeps downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    config = get_pretrained_cfg("legacy_seresnet18")
    assert config is not None and isinstance(config.url, str) and not config.hf_hub_id
    copy = tmp_path / "hub" / "checkpoints" / config.url.rsplit("/", 1)[1]
    monkeypatch.setattr("relgraph.networks.weights._answers", lambda address: False)
    with pytest.raises(RelgraphError) as caught:
        load_teacher("timm:legacy_seresnet18")
    told = f"{config.url} and pass it with --teacher-weights FILE (a student: --student-weights), or put it at {copy} "
    assert told in str(caught.value)
    model: Any = moved(timm.create_model("legacy_seresnet18"))
    copy.parent.mkdir(parents=True)
    torch.save(model.state_dict(), copy)
    teacher = load_teacher("timm:legacy_seresnet18", input_size=64)
    assert_reads(model.get_classifier(), teacher, model)


@pytest.mark.usefixtures("hub")
def test_no_network(tmp_path: Path) -> None:
    told = (
        "the weights of timm:test_resnet.r160_in1k could not be loaded: the Hugging Face Hub cannot be reached and its "
        "cache has no copy; download model.safetensors (or pytorch_model.bin) from "
        "https://huggingface.co/timm/test_resnet.r160_in1k and pass it with --teacher-weights FILE "
        "(a student: --student-weights), or copy the folder "
        f"models--timm--test_resnet.r160_in1k of another machine's Hub cache to {tmp_path / 'hub'}"
    )
    assert_refused((partial(load_teacher, "timm:test_resnet.r160_in1k"), told))


def test_a_file_of_the_authors(tmp_path: Path) -> None:
    """The authors of DINOv2 have a mask token and registers under other names; timm itself converts them."""
    model = timm.create_model("vit_small_patch14_reg4_dinov2", depth=1, num_classes=0)
    renamed = {key.replace("reg_token", "register_tokens"): value for key, value in model.state_dict().items()}
    original = {**renamed, "mask_token": torch.zeros(1, 384)}
    # Their positions have a place for the class token, which timm adds to the token itself.
    original["pos_embed"] = torch.cat([torch.zeros(1, 1, 384), renamed["pos_embed"]], 1)
    torch.save(original, tmp_path / "w.pth")
    teacher = load_teacher("timm:vit_small_patch14_reg4_dinov2", weights=tmp_path / "w.pth", arguments={"depth": 1})
    state = {key.removeprefix("model."): value for key, value in teacher.network.state_dict().items()}
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_a_file_whose_classifier_has_a_norm_of_its_own(tmp_path: Path) -> None:
    """Of LeViT's family; the norm belongs to the classifier and goes with it."""
    model: Any = moved(timm.create_model("efficientvit_m0", num_classes=7))
    teacher = load_teacher("timm:efficientvit_m0", weights=write_weights(model, tmp_path / "w.safetensors"))
    assert_reads(model.head, teacher, model, 224)
    first, *kept = model.state_dict().items()
    save_file(dict(kept), tmp_path / "cut.safetensors")
    damaged = partial(load_teacher, "timm:efficientvit_m0", weights=tmp_path / "cut.safetensors")
    assert_refused_like((damaged, f"another architecture: {first[0]} is .* in the network, missing in the file"))


def test_the_self_supervised_ones_are_listed() -> None:
    listed = {teacher.spec: teacher for teacher in list_timm()}
    assert listed["timm:vit_small_patch14_dinov2.lvd142m"].input_size == 518
    for name in ("vit_small_patch16_224.dino", "vit_base_patch16_224.mae"):
        assert listed[f"timm:{name}"].address == f"https://huggingface.co/timm/{name}"
        assert listed[f"timm:{name}"].input_size == 224
    assert all(teacher.address for teacher in listed.values())


def test_the_vector_is_what_timms_classifier_reads_and_maps_are_of_stages() -> None:
    convolutional = [(32, 16, 16), (32, 8, 8), (48, 4, 4), (192, 2, 2), (96, 1, 1)]
    for name, head, shapes in (
        ("test_resnet", "fc", convolutional), ("test_vit", "head", [(64, 2, 2)] * 6),
        ("mobilenetv3_small_050", "classifier", [(16, 16, 16), (8, 8, 8), (16, 4, 4), (24, 2, 2), (288, 1, 1)]),
    ):  # fmt: skip
        settings: dict[str, Any] = {"img_size": 32} if "vit" in name else {}
        whole = timm.create_model(name, num_classes=5, **settings).eval()
        read: list[Tensor] = []
        whole.get_submodule(head).register_forward_hook(lambda _m, inputs, _o, read=read: read.append(inputs[0]))
        backbone: Any = build_backbone(f"timm:{name}", image_size=32).eval()
        backbone.model.load_state_dict({k: v for k, v in whole.state_dict().items() if not k.startswith(f"{head}.")})
        images = torch.rand(2, 3, 32, 32)
        with torch.no_grad():
            whole(images)
            maps, pooled = backbone.stages(images)
            torch.testing.assert_close(pooled, read[0])
            torch.testing.assert_close(backbone(images), read[0])
        assert pooled.shape == (2, backbone.width)
        assert [tuple(stage.shape[1:]) for stage in maps] == shapes


def test_students_draw_what_timm_draws_and_learn_of_grey_images() -> None:
    torch.manual_seed(3)
    own = timm.create_model("test_resnet", num_classes=0).state_dict()
    after = torch.rand(1)
    torch.manual_seed(3)
    backbone: Any = build_backbone("timm:test_resnet")
    assert torch.equal(torch.rand(1), after)
    assert all(torch.equal(backbone.model.state_dict()[key], value) for key, value in own.items())
    for name in ("test_resnet", "test_vit"):
        backbone = build_backbone(f"timm:{name}", 1, image_size=48)
        assert backbone.training
        backbone(torch.rand(4, 1, 48, 48)).square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())


def test_students_that_cannot_be_built() -> None:
    for name, size, message in (
        ("resnet81", None, r"^unknown student 'timm:resnet81': did you mean timm:resnet\d+ or "),
        ("resnet18.a9_in1k", None, r"^unknown timm weights 'resnet18\.a9_in1k': did you mean .*resnet18\.a1_in1k"),
        ("resnet81.a1_in1k", None, r"^unknown timm model 'resnet81\.a1_in1k': did you mean "),
        ("test_vit", 8, r"^timm:test_vit cannot read images of 3 x 8 x 8: "),
    ):
        assert_refused_like((partial(build_backbone, f"timm:{name}", image_size=size), message))


def test_a_student_with_a_tag_starts_from_its_weights_and_is_built_again_without_them(hub: Hub) -> None:
    model: Any = moved(timm.create_model("test_resnet"))
    file = write_weights(model, hub("timm/test_resnet.r160_in1k") / "model.safetensors")
    started: Any = build_backbone("timm:test_resnet.r160_in1k", image_size=32)
    images = torch.rand(2, 3, 32, 32)
    assert started.training and started.width == 96
    with torch.no_grad():
        torch.testing.assert_close(model.get_classifier()(started.eval()(images)), model(images))
    file.unlink()  # from here on nothing can be had
    source = student("timm:test_resnet.r160_in1k")
    assert source.published and not student("timm:test_resnet").published
    assert source.preparation() == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    again = source.build(3, 32)
    assert list(again.state_dict()) == list(started.state_dict())
    told = r"download model\.safetensors .* \(a student: --student-weights\)"
    assert_refused_like((partial(source.start, None), told))


def test_a_student_of_a_file_or_of_other_channels_starts_as_timm_adapts_it(hub: Hub, tmp_path: Path) -> None:
    """Also from a file, where timm itself reads the weights that it publishes alone."""
    model: Any = moved(timm.create_model("test_resnet", num_classes=7))
    write_weights(moved(timm.create_model("test_resnet")), hub("timm/test_resnet.r160_in1k") / "model.safetensors")
    file = write_weights(model, tmp_path / "w.pth")
    for name, path, channels in (
        ("test_resnet", file, 3), ("test_resnet", file, 1), ("test_resnet", file, 5),
        ("test_resnet.r160_in1k", None, 1), ("test_resnet.r160_in1k", file, 1),
    ):  # fmt: skip
        found: Any = student(f"timm:{name}").start(path, channels, 32)
        if path is None:
            expected = timm.create_model(name, pretrained=True, in_chans=channels, num_classes=0)
        else:
            overlay = {"file": str(path), "num_classes": 7}
            expected = timm.create_model(
                "test_resnet", pretrained=True, pretrained_cfg_overlay=overlay, in_chans=channels, num_classes=0
            )
        state = found.model.state_dict()
        assert all(torch.equal(state[key], value) for key, value in expected.state_dict().items())
    other = write_weights(moved(timm.create_model("test_vit")), tmp_path / "other.pth")
    assert_refused_like((partial(student("timm:test_resnet").start, other, 3, 32), "of another architecture"))


def test_a_model_without_a_description_of_its_own_tells_no_preparation(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that a user registers with timm."""
    monkeypatch.setattr("timm.models.get_pretrained_cfg", lambda name: None)
    source = student("timm:test_resnet")
    assert_refused_like(
        (source.preparation, "^unknown timm weights 'test_resnet': none are published, pass a file with")
    )


def test_positions_of_a_transformer_are_interpolated_for_the_students_images(tmp_path: Path) -> None:
    model: Any = timm.create_model("test_vit", num_classes=0)
    model.pos_embed.data.normal_()
    found: Any = student("timm:test_vit.r160_in1k").start(write_weights(model, tmp_path / "w.pth"), 3, 48)
    model.set_input_size(img_size=48)
    torch.testing.assert_close(found.model.pos_embed, model.pos_embed)
    torch.testing.assert_close(found.eval()(torch.ones(1, 3, 48, 48)), model.eval()(torch.ones(1, 3, 48, 48)))


def test_a_student_computes_the_activation_of_its_weights() -> None:
    """OpenAI's are of QuickGELU, whatever timm builds by that name."""
    with torch.device("meta"):
        for tag, kind in ((".openai", "QuickGELU"), (".laion2b", "GELU")):
            network: Any = student(f"timm:vit_base_patch32_clip_224{tag}").build(3, 224)
            assert type(network.model.blocks[0].mlp.act).__name__ == kind


def test_stages_of_a_student_and_of_a_teacher_are_named_as_by_timms_users(tmp_path: Path) -> None:
    model: Any = moved(timm.create_model("test_resnet", num_classes=0))
    file, names = write_weights(model, tmp_path / "w.pth"), ("layer1", "layer3")
    teacher = load_teacher("timm:test_resnet", weights=file, input_size=64, stages=names)
    backbone: Any = student("timm:test_resnet").start(file, 3, 64)
    choose_stages(backbone, names, 3, 64, "student")
    features = timm.create_model("test_resnet", features_only=True, out_indices=(1, 3))
    features.load_state_dict(model.state_dict(), strict=False)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = features.eval()(images)
        torch.testing.assert_close(list(teacher.features(images).maps), expected)
        torch.testing.assert_close(list(backbone.eval().stages(images)[0]), expected)
    assert_refused_like(
        (
            partial(load_teacher, "timm:test_resnet", weights=file, stages=("layer9",)),
            "unknown stage 'layer9': did you",
        ),
    )
