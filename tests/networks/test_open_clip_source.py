from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import pytest
from torch import nn

from relgraph.names import CLIP_NAMES, clip_spec, load_teacher
from relgraph.networks.open_clip_source import list_open_clip
from tests.checks import assert_refused, assert_refused_like
from tests.networks.tiny import CLIPS, assert_reads, tiny_clip, write_weights

Hub = Callable[[str], Path]


def test_file_and_another_size(tmp_path: Path) -> None:
    for name in ("tiny-ViT", "tiny-RN"):
        model: Any = tiny_clip(tmp_path, name)
        path, size = write_weights(model, tmp_path / f"{name}.pt"), CLIPS[name]["image_size"]
        teacher = load_teacher(f"open_clip:{name}", weights=path)
        assert_reads(nn.Identity(), teacher, model.visual, size)
        assert (teacher.width, teacher.input_size, teacher.channels) == (12, size, 3)
        assert teacher.mean == (0.48145466, 0.4578275, 0.40821073)
        assert teacher.std == (0.26862954, 0.26130258, 0.27577711)
    path = tmp_path / "tiny-ViT.pt"
    larger: Any = open_clip.create_model("tiny-ViT", pretrained=str(path), force_image_size=48).eval()
    assert_reads(nn.Identity(), load_teacher("open_clip:tiny-ViT", weights=path, input_size=48), larger.visual, 48)


@pytest.fixture
def published(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a repository in the Hub's cache, where open_clip's entry for the weights `random` points."""
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-ViT", {"random": {"hf_hub": "someone/tiny/"}})
    return hub("someone/tiny")


def test_downloaded_before(tmp_path: Path, published: Path) -> None:
    """Weights that open_clip published and the Hub's client keeps, on a machine without a network.

    All of it is the code of a download, from open_clip's entry for the weights to the tensors; the entry and the file
    that was "downloaded" are the test's. A file that was passed gives the same teacher.
    """
    model: Any = tiny_clip(tmp_path, "tiny-ViT")
    passed = load_teacher("open_clip:tiny-ViT", weights=write_weights(model, tmp_path / "passed.safetensors"))
    load = partial(load_teacher, "open_clip:tiny-ViT/random")
    for file in ("open_clip_pytorch_model.bin", "open_clip_model.safetensors"):  # the last is preferred
        write_weights(model, published / file)
        teacher = load()
        assert_reads(nn.Identity(), teacher, model.visual, 32)
        assert teacher.fingerprint() == passed.fingerprint()
    (published / file).write_bytes(b"cut off")
    assert_refused_like((load, r"open_clip_model\.safetensors cannot be read as weights: it is damaged"))


@pytest.mark.usefixtures("hub")
def test_no_network(tmp_path: Path) -> None:
    told = (
        "the weights of open_clip:RN50/openai could not be loaded: the Hugging Face Hub cannot be reached and its "
        "cache has no copy; download open_clip_model.safetensors (or open_clip_pytorch_model.bin) from "
        "https://huggingface.co/timm/resnet50_clip.openai and pass it with --teacher-weights FILE "
        "(a student: --student-weights), or copy the folder "
        f"models--timm--resnet50_clip.openai of another machine's Hub cache to {tmp_path / 'hub'}"
    )
    assert_refused((partial(load_teacher, "open_clip:RN50/openai"), told))
    told = r"download pytorch_model\.bin from https://.*/jienengchen/ViTamin-S and"
    assert_refused_like((partial(load_teacher, "open_clip:ViTamin-S/datacomp1b"), told))


def test_every_listed_architecture_is_known() -> None:
    listed = {teacher.spec: teacher for teacher in list_open_clip()}
    assert {spec.split(":")[1].split("/")[0] for spec in listed} <= set(open_clip.list_models())
    assert {clip_spec(name) for name in CLIP_NAMES} <= listed.keys()
    widths = {"RN50": 1024, "RN101": 512, "ViT-B-32": 512, "ViT-B-16": 512, "ViT-L-14": 768}
    assert {name: open_clip.get_model_config(name)["embed_dim"] for name in widths} == widths
    assert listed["open_clip:ViT-L-14-336/openai"].input_size == 336
    assert listed["open_clip:RN50/openai"].address == "https://huggingface.co/timm/resnet50_clip.openai"
