"""Small networks with random weights, and what a run stores beside one."""

import json
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from relgraph.networks.sources import Pretrained
from relgraph.networks.teachers import Teacher

# Of a network of `relgraph` for grey images.
INFO: dict[str, Any] = {
    "backbone": "resnet8", "in_channels": 1, "image_size": 8, "mean": [0.3], "std": [0.4], "objective": "x",
}  # fmt: skip
# The two kinds of the original CLIP, each of a few thousand weights, and one that open_clip takes from timm.
CLIPS: dict[str, dict[str, Any]] = {
    "tiny-ViT": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
    "tiny-RN": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 4, "patch_size": None},
    "tiny-timm": {"image_size": 160, "timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "linear"},
}


def moved(model: nn.Module) -> nn.Module:
    """Move the statistics of the norms, so that training mode gives other values; return it in evaluation mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.uniform_(-0.5, 0.5)
    return model.eval()


def tiny_clip(folder: Path, name: str) -> nn.Module:
    """Teach open_clip a tiny architecture and return a model of it."""
    text = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": 12, "vision_cfg": CLIPS[name], "text_cfg": text}
    (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{name}.json")
    model: nn.Module = open_clip.create_model(name)
    return moved(model)


def random_network(folder: Path, source: str, name: str, **settings: Any) -> nn.Module:
    """Return a network of a library; open_clip learns the architecture from a file in `folder`."""
    if source == "open_clip":
        return tiny_clip(folder, name)
    return moved(timm.create_model(name, **settings) if source == "timm" else models.get_model(name, **settings))


def write_weights(model: nn.Module, path: Path) -> Path:
    """Write a model's tensors in the format of the file's ending."""
    safe = path.suffix == ".safetensors"
    save_file(model.state_dict(), path) if safe else torch.save(model.state_dict(), path)
    return path


def assert_reads(classifier: nn.Module, teacher: nn.Module, model: nn.Module, size: int = 64) -> None:
    """Check that a teacher gives what the classifier of the model reads."""
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(classifier(teacher(images)), model(images))


def small_teacher(network: nn.Module, size: int | None = 2, channels: int = 1) -> Teacher:
    """Return a teacher whose images are left as they are."""
    return Teacher(Pretrained(network, size, channels, [0] * channels, [1] * channels), "x")
