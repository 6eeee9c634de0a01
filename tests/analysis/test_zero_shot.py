"""Zero-shot classes: a small CLIP with random weights, and a loop over classes, prompts and images."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from relgraph import api, load_student
from relgraph.analysis.run_loading import TrainedRun
from relgraph.analysis.zero_shot import evaluate_zero_shot, read_classes
from relgraph.training.distillation import train
from relgraph.training.recipe import Recipe
from tests.analysis.conftest import Runs
from tests.checks import assert_refused, assert_refused_like
from tests.networks.tiny import moved, write_weights
from tests.pictures import write_folder

NAMES = ("ant", "bee", "sea_lion")
CONFIG: dict[str, Any] = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """Return a CLIP of one layer a side, and the file of its weights."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / "small-ViT.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder / "small-ViT.json")
    torch.manual_seed(0)
    model: nn.Module = open_clip.create_model("small-ViT")
    return moved(model), write_weights(model, folder / "weights.safetensors")


@pytest.fixture(scope="module")
def run(clip: tuple[nn.Module, Path], tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    root = tmp_path_factory.mktemp("run")
    folder = write_folder(root / "photos", {"train": 6, "test": 4}, NAMES)
    train(recipe(folder, clip[1]), root / "run")
    return TrainedRun(root / "run")


def recipe(folder: Path, weights: Path, **options: Any) -> Recipe:
    quick: dict[str, Any] = {
        "dataset": f"folder:{folder}", "image_size": 16, "student": "resnet8", "batch_size": 6, "epochs": 1,
        "device": "cpu", "precision": "32-true", "threads": 1, "workers": 0, "gamma": 0.0, "target_space": "teacher",
        "teacher": "open_clip:small-ViT", "teacher_weights": str(weights), "method": "ega", "val_fraction": 0.2,
    }  # fmt: skip
    return Recipe(**{**quick, **options})


def by_loop(model: Any, words: list[str]) -> Tensor:
    """Return the vector of each class, one prompt after the other."""
    tokenizer: Callable[..., Tensor] = open_clip.get_tokenizer("small-ViT")
    found = []
    with torch.no_grad():
        for word in words:
            total = torch.zeros(12)
            for prompt in open_clip.OPENAI_IMAGENET_TEMPLATES:
                text = model.encode_text(tokenizer([prompt(word)]))[0]
                total += text / text.norm()
            found.append(total / total.norm())
    return torch.stack(found)


@pytest.mark.slow
def test_accuracies_are_those_of_a_loop(run: TrainedRun, clip: tuple[nn.Module, Path], tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_text("wolf\nbee: honey bee\n\nsea_lion\nant\nfox\ngnu\n")
    words = ["wolf", "honey bee", "sea lion", "ant", "fox", "gnu"]
    classes, images = by_loop(clip[0], words), run.images("test")
    student, teacher = load_student(run.run.path), clip[0]
    with torch.no_grad():
        prepared = torch.stack([student.preprocess(image) for image in images.pixels])
        assert run.teacher is not None
        vectors = {"student": student(prepared)[0], "teacher": run.vectors(images)[1]}
    assert vectors["teacher"] is not None
    report = evaluate_zero_shot(run, file)
    order = {"ant": 3, "bee": 1, "sea_lion": 2}
    for name, rows in vectors.items():
        assert rows is not None
        ranked = [sorted(range(6), key=lambda c: -float(normalize(row, dim=0) @ classes[c])) for row in rows]
        truth = [order[images.classes[label]] for label in images.labels]
        for k in (1, 5):
            hits = sum(label in row[:k] for label, row in zip(truth, ranked, strict=True))
            assert report[name][f"top{k}"] == pytest.approx(100 * hits / len(truth)), (name, k)
    assert (report["classes"], report["images"], report["split"]) == (6, 12, "test")
    assert api.evaluate(run.run.path, zero_shot=file)["zero_shot"] == report
    assert isinstance(teacher, nn.Module)


def test_the_text_side_is_that_of_the_weights(clip: tuple[nn.Module, Path], tmp_path: Path) -> None:
    from relgraph.names import teacher
    from relgraph.networks.open_clip_source import OpenClipSource

    source = teacher("open_clip:small-ViT")
    assert isinstance(source, OpenClipSource)
    torch.testing.assert_close(source.class_vectors(clip[1], ["a", "b c"]), by_loop(clip[0], ["a", "b c"]))
    vision = {name: tensor for name, tensor in clip[0].state_dict().items() if name.startswith("visual.")}
    torch.save(vision, tmp_path / "vision.pt")
    told = r"vision\.pt has no text side of open_clip:small-ViT: expected the weights of both sides of the CLIP, \S+ is"
    assert_refused_like((partial(source.class_vectors, tmp_path / "vision.pt", ["a"]), told))


def test_what_does_not_fit_is_refused_in_one_line(run: TrainedRun, runs: Runs, clip: Any, tmp_path: Path) -> None:
    def written(text: str) -> Path:
        (tmp_path / "classes.txt").write_text(text)
        return tmp_path / "classes.txt"

    file = written("ant\nbee\nsea_lion")
    folder = Path(str(run.recipe.dataset).removeprefix("folder:"))
    train(recipe(folder, clip[1], target_space="projection", dim=12), tmp_path / "projected")
    projected = TrainedRun(tmp_path / "projected")
    space = "zero-shot classes stand in the teacher's own space: expected a run with --target-space teacher, got 'proj…"
    text = "zero-shot classes need a text side: expected an open_clip teacher, got "
    assert_refused(
        (lambda: evaluate_zero_shot(projected, file), space),
        (lambda: evaluate_zero_shot(TrainedRun(runs("few")), file), f"{text}embedded:digits"),
        (lambda: evaluate_zero_shot(TrainedRun(runs("none")), file), f"{text}none"),
        (lambda: read_classes(written("ant\nant: b")), f"{file}: expected each class once, found 'ant' twice"),
        (lambda: read_classes(written(" \n")), f"{file}: expected a class a line, found none"),
    )
    assert_refused_like(
        (lambda: evaluate_zero_shot(run, written("ant\nbea\nsea_lion")), r"must list, 'bee': did you mean 'bea'"),
        (lambda: read_classes(tmp_path / "none.txt"), r"none\.txt"),
    )
