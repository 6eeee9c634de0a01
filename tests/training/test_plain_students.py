"""The student that leaves a run: its vectors are those that the method compared; its file holds what makes them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

import relgraph
from relgraph.methods.crd import CRD
from relgraph.names import open_student
from relgraph.networks.files import load_head, load_projector, read_network
from relgraph.training.checkpoint import load_checkpoint
from relgraph.training.distillation import build
from relgraph.training.runs import RunDirectory
from tests.checks import assert_refused_like
from tests.deploy.students import student_of

QUICK: dict[str, Any] = {
    "student": "resnet8", "epochs": 1, "batch_size": 12, "device": "cpu", "precision": "32-true", "logger": ("none",),
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "ega": {"method": "ega", "dim": 12},
    "rkd": {"method": "rkd", "head": "linear"},
    "seed": {"method": "seed", "method_args": ("queue=24",)},
    "crd": {"method": "crd", "method_args": ("negatives=8",)},
    "sum": {"method": "sp+cc", "method_args": ("cc.correlation=consecutive",)},
    "anchor": {"method": "rkd+anchor", "method_args": ("head=mlp",), "gamma": 0.0},
    "none": {"method": "none"},
}


@pytest.fixture(scope="module")
def runs(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, relgraph.Run]:
    """Return a run by each case."""
    given, root = {**QUICK, "dataset": f"folder:{images}", "teacher": "embedded:digits"}, tmp_path_factory.mktemp("all")
    return {name: relgraph.train(**given, **options, out=root / name) for name, options in CASES.items()}


@pytest.mark.parametrize("name", CASES)
def test_vectors_are_those_that_the_method_compared(name: str, runs: dict[str, relgraph.Run]) -> None:
    trained = runs[name]
    job = build(trained.recipe)  # type: ignore[arg-type]
    job.load(load_checkpoint(RunDirectory(trained.path).best))
    images = torch.rand(5, 3, 8, 8)
    plain, student = trained.student(), job.student.eval()
    vectors, logits = plain(images)
    with torch.no_grad():
        output = student(images)
    method: Any = job.objective.method
    parts = {} if method is None else method.parts
    feature, embedding = output.feature, output.embedding
    assert feature is not None
    expected: dict[str, Callable[[], Tensor]] = {
        "ega": lambda: embedding,
        "none": lambda: embedding,
        "rkd": lambda: feature,
        "seed": lambda: parts["seed"].vectors(output, output._replace(feature=torch.rand(5, 64)))[0],
        "crd": lambda: parts["crd"].embed_student(feature),
        "anchor": lambda: parts["anchor"].eval().vectors(output, output._replace(feature=torch.rand(5, 64)))[0],
        "sum": lambda: parts["cc"].embeds[0](feature),
    }
    torch.testing.assert_close(vectors, expected[name](), rtol=1e-4, atol=1e-4)  # memory formats round otherwise
    if name == "crd":
        anchors = parts["crd"]
        assert isinstance(anchors, CRD)
        found, _ = anchors._anchors(output, output._replace(feature=torch.rand(5, 64)))
        torch.testing.assert_close(normalize(vectors), found)
    if name in ("seed", "anchor"):
        assert logits is None and plain.classes == (), "no loss trained the classifier"
    else:
        assert logits is not None and output.logits is not None
        torch.testing.assert_close(logits, output.logits)
        assert plain.classes == ("ant", "bee", "cat")
    teacher = relgraph.load_teacher(f"checkpoint:{trained.path}", arguments={"output": "embedding"})
    torch.testing.assert_close(teacher(images), vectors.detach(), rtol=1e-4, atol=1e-4)
    assert len(teacher.features(images).maps) == 4, "a student teaches by the same vectors"


@pytest.mark.parametrize("name", CASES)
def test_the_file_holds_the_teacher_s_side_as_well(name: str, runs: dict[str, relgraph.Run]) -> None:
    trained = runs[name]
    file = RunDirectory(trained.path).student_file
    student, _ = open_student(file)
    assert student.head.dim == {"rkd": 64, "ega": 12}.get(name, 256), "and opens as it was trained"
    state = load_checkpoint(RunDirectory(trained.path).best)["objective"]
    if name in ("seed", "crd", "sum", "anchor"):
        assert load_projector(file)(torch.rand(2, 64)).shape[1] > 0
    else:
        assert_refused_like((lambda: load_projector(file), ".* holds no projector: .*"))
    if name == "ega":
        weight = state["teacher_head.project.weight"]
        tensors, _ = read_network(file)
        assert torch.equal(tensors["teacher.head.project.weight"], weight)
    if name == "crd":
        assert load_projector(file, "teacher.projector.")(torch.rand(2, 64)).shape == (2, 128)
    if name != "seed":
        assert load_head(file)[1] == ("ant", "bee", "cat")


def test_an_image_is_prepared_as_the_run_s_were(tmp_path: Path) -> None:
    student, gradient = student_of("resnet8", size=8, channels=1), torch.arange(20 * 12 * 3).reshape(12, 20, 3) % 256
    picture = Image.fromarray(gradient.to(torch.uint8).numpy())
    picture.save(tmp_path / "a.png")
    prepared = student.preprocess(tmp_path / "a.png")
    assert prepared.shape == (1, 8, 8) and student.preprocess.size == 8
    for image in (picture, gradient.to(torch.uint8).permute(2, 0, 1), gradient.permute(2, 0, 1).float() / 255):
        torch.testing.assert_close(student.preprocess(image), prepared)
    pixels = student.preprocess.pixels(picture)
    assert pixels.dtype == torch.uint8 and pixels.shape == (3, 8, 8)
    grey = (pixels.float() / 255 * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)
    torch.testing.assert_close(prepared[0], (grey - student.preprocess.mean[0]) / student.preprocess.std[0])
    exported = torch.export.export(student, (prepared[None],)).module()
    torch.testing.assert_close(exported(prepared[None])[0], student(prepared[None])[0])
    (tmp_path / "text.png").write_text("no image")
    assert_refused_like(  # without advice on images of a data set
        (lambda: student.preprocess(tmp_path / "none.png"), r".*none\.png: .*No such file.*'"),
        (lambda: student.preprocess(tmp_path / "text.png"), r".*text\.png: not a readable image \([^)]*\)"),
        (lambda: student.preprocess(Image.new("I;16", (8, 8))), "expected 8 bits per channel, found PIL's mode I;16.*"),
    )
