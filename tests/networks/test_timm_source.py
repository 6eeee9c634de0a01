from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from timm.models import get_pretrained_cfg

from relgraph.errors import RelgraphError
from relgraph.names import load_teacher
from relgraph.networks.timm_source import list_timm


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the Hub's cache of a machine without a network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def snapshot(hub: Path, repository: str) -> Path:
    """Lay out a repository in the Hub's cache as its client does; return the folder of its files."""
    root = hub / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("0" * 40)
    (root / "snapshots" / ("0" * 40)).mkdir(parents=True)
    return root / "snapshots" / ("0" * 40)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_downloaded_before(hub: Path, file: str) -> None:
    """Weights that the Hub's client keeps from an earlier download, on a machine without a network.

    All of it is the code of a download, `timm.create_model(pretrained=True)`; only the tensors in the file are random.
    The same file, passed with its path, gives the same teacher.
    """
    model = timm.create_model("test_resnet").eval()
    path = snapshot(hub, "timm/test_resnet.r160_in1k") / file
    save_file(model.state_dict(), path) if file.endswith("safetensors") else torch.save(model.state_dict(), path)
    teacher, passed = load_teacher("timm:test_resnet"), load_teacher("timm:test_resnet", weights=path)
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(model.get_classifier()(teacher(images)), model(images))  # type: ignore[operator]
    assert teacher.fingerprint() == passed.fingerprint()


def test_downloaded_from_another_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The few weights that are not on the Hub, from where torch keeps downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    config = get_pretrained_cfg("legacy_seresnet18")
    assert config is not None
    assert isinstance(config.url, str)
    assert not config.hf_hub_id
    copy = tmp_path / "hub" / "checkpoints" / config.url.rsplit("/", 1)[1]
    monkeypatch.setattr("relgraph.networks.weights._answers", lambda address: False)
    with pytest.raises(RelgraphError) as caught:
        load_teacher("timm:legacy_seresnet18")
    assert f"download {config.url} and pass it with --teacher-weights FILE, or put it at {copy} " in str(caught.value)
    model = timm.create_model("legacy_seresnet18").eval()
    copy.parent.mkdir(parents=True)
    torch.save(model.state_dict(), copy)
    teacher = load_teacher("timm:legacy_seresnet18", input_size=64)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.get_classifier()(teacher(images)), model(images))  # type: ignore[operator]


def test_no_network(hub: Path) -> None:
    with pytest.raises(RelgraphError) as caught:
        load_teacher("timm:test_resnet.r160_in1k")
    assert str(caught.value) == (
        "the weights of timm:test_resnet.r160_in1k could not be loaded: the Hugging Face Hub cannot be reached and its "
        "cache has no copy; download model.safetensors (or pytorch_model.bin) from "
        "https://huggingface.co/timm/test_resnet.r160_in1k and pass it with --teacher-weights FILE, or copy the folder "
        f"models--timm--test_resnet.r160_in1k of another machine's Hub cache to {hub}"
    )


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
    model = timm.create_model("efficientvit_m0", num_classes=7).eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    teacher = load_teacher("timm:efficientvit_m0", weights=tmp_path / "w.safetensors")
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(model.head(teacher(images)), model(images))  # type: ignore[operator]
    first, *kept = model.state_dict().items()
    save_file(dict(kept), tmp_path / "cut.safetensors")
    with pytest.raises(RelgraphError, match=f"another architecture: {first[0]} is missing"):
        load_teacher("timm:efficientvit_m0", weights=tmp_path / "cut.safetensors")


def test_the_self_supervised_ones_are_listed() -> None:
    listed = {teacher.spec: teacher for teacher in list_timm()}
    assert listed["timm:vit_small_patch14_dinov2.lvd142m"].input_size == 518
    for name in ("vit_small_patch16_224.dino", "vit_base_patch16_224.mae"):
        assert listed[f"timm:{name}"].address == f"https://huggingface.co/timm/{name}"
        assert listed[f"timm:{name}"].input_size == 224
    assert all(teacher.address for teacher in listed.values())
