"""Every family of students through every kind of file, which new processes open."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from relgraph.deploy.comparing import normalised
from relgraph.deploy.exported_program import write_exported
from relgraph.deploy.onnx_file import write_onnx
from relgraph.deploy.weights_file import write_weights
from relgraph.networks.students import STUDENTS
from tests.checks import case
from tests.deploy.students import images_of, student_of

# One of each kind of layer in CI, where minutes count; RELGRAPH_STUDENTS=all tries every one.
FAMILIES = ("resnet8", "vgg8", "mobilenetv2", "shufflenetv1", "shufflenetv2")
NAMES = tuple(STUDENTS) if os.environ.get("RELGRAPH_STUDENTS") == "all" else FAMILIES
LIBRARIES = ("timm:test_vit", "torchvision:mobilenet_v3_small", "torchvision:resnet18")
OWN = """
from torch import nn


class Own(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5), nn.Hardswish())
"""
WRITERS = {"onnx": write_onnx, "pt2": write_exported, "safetensors": write_weights}

ONNX_ALONE = """
import json, sys
import numpy as np, onnxruntime

for name in sys.argv[1:]:
    session = onnxruntime.InferenceSession(f"{name}/student.onnx", providers=["CPUExecutionProvider"])
    told = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
    images = np.load(f"{name}/given.npz")["pixels"].astype(np.float32) * np.float32(told["preprocessing"]["scale"])
    mean, std = (np.array(told["preprocessing"][key], np.float32)[:, None, None] for key in ("mean", "std"))
    found = zip(told["outputs"], session.run(None, {"images": (images - mean) / std}), strict=True)
    np.savez(f"{name}/onnx.npz", **dict(found))
assert not {"torch", "relgraph"} & sys.modules.keys()
"""

TORCH_ALONE = """
import json, sys
import numpy as np, timm, torch
from pathlib import Path
from safetensors.torch import load_file
from torchvision import models

torch.set_grad_enabled(False)

def model_of(told):
    if told["library"] == "timm":
        return timm.create_model(told["architecture"], **told["arguments"])
    if told["library"] == "torchvision":
        model = models.get_model(told["architecture"], weights=None, **told["arguments"])
        if "identity" in told:
            model.set_submodule(told["identity"], torch.nn.Identity())
        return model
    if told["architecture"] == "own.py:Own":
        sys.path.insert(0, ".")
        from own import Own
        return Own()
    from relgraph.names import build_backbone
    return build_backbone(told["architecture"])

for name in sys.argv[1:]:
    images = torch.from_numpy(np.load(f"{name}/given.npz")["images"])
    vectors, logits = torch.export.load(f"{name}/student.pt2").module()(images)
    np.savez(f"{name}/pt2.npz", embedding=vectors, logits=logits)
    told = json.loads(Path(name, "config.json").read_text())
    model = model_of(told)
    model.load_state_dict(load_file(f"{name}/student.safetensors"), strict=True)
    output = model.eval()(images)
    np.savez(f"{name}/safetensors.npz", **{told["outputs"][0]: output.mean((2, 3)) if output.ndim == 4 else output})
    assert ("relgraph" in sys.modules) == (told["library"] == "torch" and told["architecture"] != "own.py:Own"), name
"""


def write_all(folder: Path, backbone: Any) -> None:
    """Write a student in each kind of file, with images, and what it gives for them."""
    student = student_of(backbone)
    images = images_of(student, 64)
    folder.mkdir(parents=True)
    for ending, write in WRITERS.items():
        assert write(student, folder / f"student.{ending}", images=images) < 1e-4
    batch = normalised(student, images)
    with torch.no_grad():
        (vectors, logits), feature = student(batch), student.backbone(batch)
    np.savez(folder / "given.npz", pixels=images, images=batch)
    np.savez(folder / "expected.npz", embedding=vectors, logits=logits, feature=feature)


@pytest.mark.slow
def test_new_processes_read_what_the_student_gives(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    scope: dict[str, Any] = {}
    exec(OWN, scope)
    students = {"own": scope["Own"](), **{name: name for name in (*LIBRARIES, *NAMES)}}
    names = {name.replace(":", "_"): backbone for name, backbone in students.items()}
    for name, backbone in names.items():
        with case(name):
            write_all(tmp_path / name, backbone)
    for code in (ONNX_ALONE, TORCH_ALONE):
        subprocess.run([sys.executable, "-c", code, *names], cwd=tmp_path, check=True)
    for name in names:
        expected = np.load(tmp_path / name / "expected.npz")
        for ending, outputs in (("onnx", 2), ("pt2", 2), ("safetensors", 1)):
            found = np.load(tmp_path / name / f"{ending}.npz")
            assert len(found.files) == outputs
            for output in found.files:
                with case(name, ending, output):
                    assert found[output].shape == expected[output].shape
                    error = np.abs(found[output] - expected[output]).max() / np.abs(expected[output]).max()
                    assert error < 1e-4
