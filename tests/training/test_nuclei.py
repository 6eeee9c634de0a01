"""The packaged micrographs on two threads: students alone and with a teacher learn, and what comes out of the runs."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix

import relgraph
from relgraph.analysis.segmentation import figures
from relgraph.data.pixel_sources import Nuclei


@pytest.mark.slow
@pytest.mark.skipif("RELGRAPH_TWO_THREADS" not in os.environ, reason="needs two idle cores: RELGRAPH_TWO_THREADS=1")
def test_students_of_few_labels_learn_and_their_masks_are_what_was_judged(tmp_path: Path) -> None:
    usual: dict[str, Any] = {
        "dataset": "nuclei", "student": "resnet8", "crop_size": 32, "epochs": 2, "threads": 2, "device": "cpu",
        "select": "last", "logger": ("none",),
    }  # fmt: skip
    guide = relgraph.train(**usual, method="none", out=tmp_path / "guide")
    few = {**usual, "labelled_images": 12}
    alone = relgraph.train(**few, method="none", out=tmp_path / "alone")
    taught = relgraph.train(**few, method="pixelwise", teacher=f"checkpoint:{guide.path}", out=tmp_path / "taught")

    images = Nuclei().read(Path(), None, "memory").test
    assert images.maps is not None
    labels = images.maps.rows(torch.arange(len(images))).numpy()
    one_class = figures(torch.from_numpy(confusion_matrix(labels.ravel(), np.zeros(labels.size))), images.classes)
    for run in (guide, alone, taught):
        assert run.result["test"]["last"]["miou"] > one_class["miou"] + 15, run

    (tmp_path / "cells").mkdir()
    for number, pixels in enumerate(images.pixels.numpy()):
        Image.fromarray(pixels[0]).save(tmp_path / f"cells/{number:03}.png")
    found = taught.predict(tmp_path / "cells", masks=tmp_path / "masks", device="cpu")
    assert [Path(row.file).stem for row in found.rows] == [f"{number:03}" for number in range(len(images))]
    masks = np.stack([np.asarray(Image.open(str(row.mask))) for row in found.rows])
    counted = torch.from_numpy(confusion_matrix(labels.ravel(), masks.ravel(), labels=[0, 1, 2]))
    assert figures(counted, images.classes) == pytest.approx(taught.evaluate()["student"], abs=0.01)
    legend = json.loads((tmp_path / "masks/classes.json").read_text())["classes"]
    assert tuple(one["name"] for one in legend) == images.classes

    taught.export(tmp_path / "student.onnx")
    (told, *_) = taught.export(tmp_path / "small.onnx", int8=True).notes[1:]
    student = taught.student()
    given = torch.stack([student.preprocess(Image.fromarray(pixels[0])) for pixels in images.pixels.numpy()]).numpy()
    whole, small = (
        onnxruntime.InferenceSession(tmp_path / f"{name}.onnx").run(["logits"], {"images": given})[0].argmax(1)
        for name in ("student", "small")
    )
    assert (whole == masks).mean() > 0.999
    kept = float(re.findall(r"([\d.]+) % of the pixels have their class", told)[0])
    assert kept == pytest.approx(100 * (whole == small).mean(), abs=0.1) and kept > 90
    page = relgraph.report([alone, taught], tmp_path / "report.html").read_text()
    assert "gained by taught" in page and f">{taught.result['test']['last']['miou']:.1f}</span>" in page
