from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from relgraph.errors import RelgraphError
from relgraph.names import CLIP_NAMES, clip_spec, load_teacher
from relgraph.networks.open_clip_source import list_open_clip
from tests.networks.tiny import CLIPS, tiny_clip

Hub = Callable[[str], Path]


@pytest.mark.parametrize("name", ["tiny-ViT", "tiny-RN"])
def test_file(tmp_path: Path, name: str) -> None:
    model: Any = tiny_clip(tmp_path, name)
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    teacher = load_teacher(f"open_clip:{name}", weights=tmp_path / "clip.pt")
    images = torch.randn(2, 3, CLIPS[name]["image_size"], CLIPS[name]["image_size"])
    with torch.no_grad():
        torch.testing.assert_close(teacher(images), model.encode_image(images, normalize=False))
    assert (teacher.width, teacher.input_size, teacher.channels) == (12, CLIPS[name]["image_size"], 3)
    assert teacher.mean == (0.48145466, 0.4578275, 0.40821073)
    assert teacher.std == (0.26862954, 0.26130258, 0.27577711)


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
def published(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a repository in the Hub's cache, where open_clip's entry for the weights `random` points."""
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-ViT", {"random": {"hf_hub": "someone/tiny/"}})
    return hub("someone/tiny")


@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_downloaded_before(tmp_path: Path, published: Path, file: str) -> None:
    """Weights that open_clip published and the Hub's client keeps, on a machine without a network.

    All of it is the code of a download, from open_clip's entry for the weights to the tensors; the entry and the file
    that was "downloaded" are the test's. A file that was passed gives the same teacher.
    """
    model: Any = tiny_clip(tmp_path, "tiny-ViT")
    state = model.state_dict()
    save_file(state, published / file) if file.endswith("safetensors") else torch.save(state, published / file)
    save_file(state, tmp_path / "passed.safetensors")
    teacher = load_teacher("open_clip:tiny-ViT/random")
    passed = load_teacher("open_clip:tiny-ViT", weights=tmp_path / "passed.safetensors")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(teacher(images), model.encode_image(images))
    assert teacher.fingerprint() == passed.fingerprint()


def test_damaged_download(tmp_path: Path, published: Path) -> None:
    tiny_clip(tmp_path, "tiny-ViT")
    (published / "open_clip_model.safetensors").write_bytes(b"cut off")
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
    with pytest.raises(RelgraphError, match=r"download pytorch_model\.bin from https://.*/jienengchen/ViTamin-S and"):
        load_teacher("open_clip:ViTamin-S/datacomp1b")


def test_every_listed_architecture_is_known() -> None:
    listed = {teacher.spec: teacher for teacher in list_open_clip()}
    assert {spec.split(":")[1].split("/")[0] for spec in listed} <= set(open_clip.list_models())
    assert {clip_spec(name) for name in CLIP_NAMES} <= listed.keys()
    widths = {"RN50": 1024, "RN101": 512, "ViT-B-32": 512, "ViT-B-16": 512, "ViT-L-14": 768}
    assert {name: open_clip.get_model_config(name)["embed_dim"] for name in widths} == widths
    assert listed["open_clip:ViT-L-14-336/openai"].input_size == 336
    assert listed["open_clip:RN50/openai"].address == "https://huggingface.co/timm/resnet50_clip.openai"
