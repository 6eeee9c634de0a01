import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import nn

from relgraph.errors import RelgraphError
from relgraph.names import CLIP_NAMES, clip_spec, load_teacher
from relgraph.networks.open_clip_source import list_open_clip

# The two kinds of the original CLIP, each of a few thousand weights.
TINY: dict[str, dict[str, Any]] = {
    "tiny-ViT": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "tiny-RN": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 4, "patch_size": None},
}


def tiny_clip(folder: Path, name: str) -> nn.Module:
    """Teach open_clip a tiny architecture and return a model of it with random weights."""
    text = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": 12, "vision_cfg": TINY[name], "text_cfg": text}
    (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{name}.json")
    model: nn.Module = open_clip.create_model(name).eval()
    return model


@pytest.mark.parametrize("name", TINY)
def test_file(tmp_path: Path, name: str) -> None:
    model = tiny_clip(tmp_path, name)
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    teacher = load_teacher(f"open_clip:{name}", weights=tmp_path / "clip.pt")
    images = torch.randn(2, 3, TINY[name]["image_size"], TINY[name]["image_size"])
    with torch.no_grad():
        torch.testing.assert_close(teacher(images), model.encode_image(images))  # type: ignore[operator]
    assert teacher.width == 12


def test_file_at_another_size(tmp_path: Path) -> None:
    model = tiny_clip(tmp_path, "tiny-ViT")
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    teacher = load_teacher("open_clip:tiny-ViT", weights=tmp_path / "clip.pt", input_size=48)
    assert teacher(torch.randn(2, 3, 48, 48)).shape == (2, 12)
    larger = open_clip.create_model("tiny-ViT", pretrained=str(tmp_path / "clip.pt"), force_image_size=48).eval()
    images = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(teacher(images), larger.encode_image(images))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a repository in the Hub's cache, of a machine without a network, as the Hub lays it out."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    return repository / "snapshots" / ("0" * 40)


@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_downloaded_before(tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    """Weights that open_clip published and the Hub's client keeps, on a machine without a network.

    All of it is the code of a download, from open_clip's entry for the weights to the tensors; the entry and the file
    that was "downloaded" are the test's. A file that was passed gives the same teacher.
    """
    model = tiny_clip(tmp_path, "tiny-ViT")
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-ViT", {"random": {"hf_hub": "someone/tiny/"}})
    state = model.state_dict()
    save_file(state, hub / file) if file.endswith("safetensors") else torch.save(state, hub / file)
    save_file(state, tmp_path / "passed.safetensors")
    teacher = load_teacher("open_clip:tiny-ViT/random")
    passed = load_teacher("open_clip:tiny-ViT", weights=tmp_path / "passed.safetensors")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(teacher(images), model.encode_image(images))  # type: ignore[operator]
    assert teacher.fingerprint() == passed.fingerprint()


def test_damaged_download(tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_clip(tmp_path, "tiny-ViT")
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-ViT", {"random": {"hf_hub": "someone/tiny/"}})
    (hub / "open_clip_model.safetensors").write_bytes(b"cut off")
    with pytest.raises(RelgraphError, match=r"open_clip_model\.safetensors cannot be read as weights: it is damaged"):
        load_teacher("open_clip:tiny-ViT/random")


@pytest.mark.usefixtures("hub")
def test_no_network(tmp_path: Path) -> None:
    with pytest.raises(RelgraphError) as caught:
        load_teacher("open_clip:RN50/openai")
    assert str(caught.value) == (
        "the weights of open_clip:RN50/openai could not be loaded: the Hugging Face Hub cannot be reached and its "
        "cache has no copy; download open_clip_model.safetensors (or open_clip_pytorch_model.bin) from "
        "https://huggingface.co/timm/resnet50_clip.openai and pass it with --teacher-weights FILE, or copy the folder "
        f"models--timm--resnet50_clip.openai of another machine's Hub cache to {tmp_path / 'hub'}"
    )


def test_a_file_of_another_name_is_told() -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RelgraphError) as caught:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        load_teacher("open_clip:ViTamin-S/datacomp1b")
    assert "download pytorch_model.bin from https://huggingface.co/jienengchen/ViTamin-S and" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "width"), [("RN50", 1024), ("RN101", 512), ("ViT-B-32", 512), ("ViT-B-16", 512), ("ViT-L-14", 768)]
)
def test_widths_of_the_original_clip(name: str, width: int) -> None:
    assert open_clip.get_model_config(name)["embed_dim"] == width


def test_every_listed_architecture_is_known() -> None:
    listed = {teacher.spec: teacher for teacher in list_open_clip()}
    assert {spec.split(":")[1].split("/")[0] for spec in listed} <= set(open_clip.list_models())
    assert {clip_spec(name) for name in CLIP_NAMES} <= listed.keys()
    assert listed["open_clip:ViT-L-14-336/openai"].input_size == 336
    assert listed["open_clip:RN50/openai"].address == "https://huggingface.co/timm/resnet50_clip.openai"
