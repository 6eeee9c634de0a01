"""Every family of students through every kind of file, each compared when it is written."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from relgraph.deploy.comparing import normalised
from relgraph.deploy.exported_program import write_exported
from relgraph.deploy.onnx_file import write_onnx
from relgraph.deploy.weights_file import write_weights
from relgraph.networks.students import STUDENTS
from tests.deploy.students import images_of, student_of

# One of each family in CI, where minutes count; RELGRAPH_STUDENTS=all tries every one.
FAMILIES = ("resnet20", "resnet8x4", "resnet50", "wrn_16_2", "vgg8", "mobilenetv2", "shufflenetv1", "shufflenetv2")
NAMES = tuple(STUDENTS) if os.environ.get("RELGRAPH_STUDENTS") == "all" else FAMILIES
LIBRARIES = ("timm:resnet18", "timm:vit_tiny_patch16_224", "torchvision:mobilenet_v3_small", "torchvision:resnet18")
WRITERS = {"onnx": write_onnx, "pt2": write_exported, "safetensors": write_weights}


def check(name: str, folder: Path) -> None:
    student = student_of(name)
    for ending, write in WRITERS.items():
        assert write(student, folder / f"student.{ending}", images=images_of(student, 64)) < 1e-4


def test_a_small_student(tmp_path: Path) -> None:
    check("wrn_16_1", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", (*NAMES, *LIBRARIES))
def test_every_student(name: str, tmp_path: Path) -> None:
    check(name, tmp_path)


ALONE = """
import json, sys
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession("student.onnx", providers=["CPUExecutionProvider"])
told = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
pixels = np.load("pixels.npy")
images = pixels.astype(np.float32) * np.float32(told["preprocessing"]["scale"])
mean, std = (np.array(told["preprocessing"][name], np.float32)[:, None, None] for name in ("mean", "std"))
found = dict(zip(told["outputs"], session.run(None, {"images": (images - mean) / std}), strict=True))
np.savez("found.npz", **found, prepared=onnxruntime.InferenceSession("prepared.onnx").run(None, {"images": pixels})[0])
assert not {"torch", "relgraph"} & sys.modules.keys()
"""


@pytest.mark.slow
@torch.no_grad()
def test_onnxruntime_and_numpy_alone_read_all_they_need(tmp_path: Path) -> None:
    student = student_of("resnet20")
    images = images_of(student, 64)
    write_onnx(student, tmp_path / "student.onnx", images=images)
    write_onnx(student, tmp_path / "prepared.onnx", with_preprocessing=True, images=images)
    np.save(tmp_path / "pixels.npy", images.numpy())
    subprocess.run([sys.executable, "-c", ALONE], cwd=tmp_path, check=True)
    found, (vectors, logits) = np.load(tmp_path / "found.npz"), student(normalised(student, images))
    for name, expected in (("embedding", vectors), ("logits", logits), ("prepared", vectors)):
        worst = np.abs(found[name] - expected.numpy()).max() / np.abs(expected.numpy()).max()
        assert worst < 1e-4, name
