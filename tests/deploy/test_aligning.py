"""`relgraph align`: the rotation is scipy's, can be undone to the byte, and is in whatever is made of the student."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg  # type: ignore[import-untyped]
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import relgraph
from relgraph.analysis.run_loading import TrainedRun
from relgraph.data.images import ImageSet
from relgraph.deploy import aligning
from relgraph.deploy.aligning import Alignment
from relgraph.deploy.exported_program import write_exported
from relgraph.deploy.hub import Made, write_hub
from relgraph.deploy.onnx_file import Session, write_onnx
from relgraph.deploy.weights_file import LAYERS, write_weights
from relgraph.graph.alignment import DirectionRotation, VectorTransform
from relgraph.networks.checkpoint_source import embedding_network
from relgraph.networks.files import save_tensors
from relgraph.networks.plain import PlainStudent, write_aligned
from tests.checks import assert_refused_like, case
from tests.deploy.conftest import QUICK
from tests.deploy.students import images_of, student_of


@pytest.fixture
def run(digits_run: Path, tmp_path: Path) -> relgraph.Run:
    return relgraph.Run(shutil.copytree(digits_run, tmp_path / "run"))


def vectors(run: relgraph.Run, split: str) -> tuple[Tensor, Tensor, ImageSet]:
    opened = TrainedRun(run.path)
    images = opened.split(split)
    student, teacher = opened.vectors(images)
    assert teacher is not None
    return student, teacher, images


def aligned(run: relgraph.Run, **options: object) -> Alignment:
    found = run.align(**options)
    assert found is not None
    return found


def test_the_rotation_is_scipys_and_undone_to_the_byte(run: relgraph.Run) -> None:
    file, before = run.path / "student.safetensors", (run.path / "student.safetensors").read_bytes()
    s, t, _ = vectors(run, "train")
    queries = vectors(run, "val")[0]
    told = aligned(run, dry_run=True)
    assert not told.written and file.read_bytes() == before
    done = aligned(run)
    assert done == told._replace(written=True) and (done.images, done.widths) == (len(s), (s.shape[1], t.shape[1]))
    s, t, queries = (nn.functional.normalize(vectors.double()) for vectors in (s, t, queries))
    centred, target = s - s.mean(0), t - t.mean(0)
    wide = np.hstack([target.numpy(), np.zeros((len(s), s.shape[1] - t.shape[1]))])  # scipy's widths are equal
    turn, scale = scipy.linalg.orthogonal_procrustes(centred.numpy(), wide)
    turn = torch.from_numpy(turn[:, : t.shape[1]])
    torch.testing.assert_close(
        run.student().align.weight.double(), turn.T * (scale / centred.square().sum()), rtol=1e-3, atol=1e-3
    )
    found, expected = vectors(run, "val")[0].double(), nn.functional.normalize((queries - s.mean(0)) @ turn)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(len(found)).double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(nn.functional.normalize(found - t.mean(0)), expected, rtol=1e-3, atol=1e-3)
    told_of = run.student().info["align"]
    assert told_of["teacher"] == "embedded:digits" and told_of["width"] == t.shape[1]
    assert_refused_like((run.align, "is aligned with the vectors of embedded:digits already: undo that first"))
    assert run.align(undo=True) is None and file.read_bytes() == before
    assert_refused_like(
        (lambda: run.align(undo=True), "student.safetensors is not aligned: there is nothing to undo$"),
        (lambda: run.align(undo=True, dry_run=True), "expected neither index nor dry_run with it$"),
    )


def test_figures_are_of_images_that_it_was_not_fitted_to(run: relgraph.Run) -> None:
    found = aligned(run)
    q, t, images = vectors(run, "val")
    mean = nn.functional.normalize(vectors(run, "train")[1]).mean(0)
    one, other = (nn.functional.normalize(x - mean) for x in (q, nn.functional.normalize(t)))
    cosines, labels = (one @ other.T).fill_diagonal_(-2), images.true_labels
    best, right = cosines.topk(10).indices, (other @ other.T).fill_diagonal_(-2).topk(10).indices
    shared = np.mean([len({*a} & {*b}) for a, b in zip(best.tolist(), right.tolist(), strict=True)]) * 10
    after = found.figures["teacher's index, after"]
    assert found.judged == (len(q), "val") and found.transform == "centre" and found.notes == []
    assert after["recall@1"] == pytest.approx(100 * (labels[best[:, 0]] == labels).double().mean().item())
    assert after["overlap@10"] == pytest.approx(shared) and after["cosine"] == pytest.approx(
        float((one * other).sum(1).mean())
    )
    assert found.figures["teacher itself"]["overlap@10"] == 100
    assert list(found.figures) == ["teacher's index, after", "own index, before", "own index, after", "teacher itself"]
    assert after["mAP"] > 30, "the neighbours are the teacher's, more than chance has them: a tenth"


class Knowing(aligning._Source):
    """A teacher that knows the vectors of the training images, and those of others or not."""

    def __init__(self, others: bool) -> None:
        self.others = others

    def knows(self, images: ImageSet) -> bool:
        return self.others


def test_of_many_images_as_many_of_each_class_are_judged(run: relgraph.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = TrainedRun(run.path)
    splits = {name: opened.split(name) for name in ("train", "val")}
    # Folders have their images class by class: the first ones are of the first classes.
    by_class = {name: images.select(images.true_labels.argsort(stable=True)) for name, images in splits.items()}
    monkeypatch.setattr(opened, "split", by_class.__getitem__)
    monkeypatch.setattr(aligning, "JUDGED", 40)
    for split, others in (("val", True), ("train", False)):
        with case(split):
            _, judged = aligning._splits(opened, Knowing(others))
            assert judged.split == split and judged.true_labels.bincount().tolist() == [4] * 10


def test_a_store_gives_the_vectors_and_the_transform(run: relgraph.Run, tmp_path: Path) -> None:
    by_network = aligned(run)
    turned = run.student().align.state_dict()
    run.align(undo=True)
    relgraph.embed(out=tmp_path / "store", index_transform="pca:12", device="cpu", precision="32-true")
    found = aligned(run, index=tmp_path / "store")
    assert found.transform == "pca:12" and found.images == by_network.images
    student = run.student()
    torch.testing.assert_close(student.align.state_dict(), turned, rtol=1e-2, atol=1e-3)  # of other precision
    assert student.index is not None and student.index.dimensions == 12
    run.align(undo=True)
    relgraph.embed(teacher=f"checkpoint:{run.path}", out=tmp_path / "other", device="cpu")
    assert_refused_like(
        (
            lambda: run.align(index=tmp_path / "other"),
            "is an index of checkpoint:.*: expected the teacher of .*, embedded",
        ),
        (lambda: run.align(index=tmp_path), r"^expected a store of relgraph embed, a folder with manifest"),
        (lambda: relgraph.Run(run.path).align(teacher="x"), "it is not given again"),
    )


def test_a_gallery_tells_what_the_alignment_told(run: relgraph.Run, tmp_path: Path) -> None:
    found = aligned(run)
    report = run.evaluate(gallery="teacher", split="val")["retrieval"]
    for ours, theirs in (
        ("teacher's index, after", "student_teacher"),
        ("own index, after", "student_student"),
        ("teacher itself", "teacher_teacher"),
    ):
        with case(ours):
            told = {name: value for name, value in found.figures[ours].items() if name != "cosine"}
            assert told == pytest.approx({name: report[theirs][name] for name in told}, abs=1e-6)
    relgraph.embed(out=tmp_path / "store", index_transform="none", device="cpu", precision="32-true")
    other = run.evaluate(gallery=tmp_path / "store", split="val")["retrieval"]["student_teacher"]["mAP"]
    relgraph.embed(out=tmp_path / "store", index_transform="centre", device="cpu", precision="32-true")
    centred = run.evaluate(gallery=tmp_path / "store", split="val")["retrieval"]["student_teacher"]["mAP"]
    assert centred > other, "the transform of the store is that of its queries"


def test_other_images_are_refused(run: relgraph.Run, photos: Path, tmp_path: Path) -> None:
    relgraph.embed(dataset=f"folder:{photos}", teacher="embedded:digits", out=tmp_path / "photos", device="cpu")
    told = "does not know the training images of .*: image 20 of the training split is not there"
    assert_refused_like((lambda: run.align(index=tmp_path / "photos"), told))


def test_an_alignment_with_another_teacher_is_refused(run: relgraph.Run) -> None:
    told = {"teacher": "timm:other", "fingerprint": "0"}
    write_aligned(run.path / "student.safetensors", DirectionRotation(256, 64), VectorTransform(torch.zeros(64)), told)
    expected = "was aligned with another teacher than the run's, timm:other: undo that by relgraph align .* --undo$"
    assert_refused_like((run.align, expected), (lambda: run.evaluate(gallery="teacher"), expected))


@pytest.mark.slow
def test_a_training_ends_aligned(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {**QUICK, "dataset": f"folder:{photos}", "val_fraction": 0.3, "method": "sp", "nodes": "embedding"}
    run = relgraph.train(**options, align=True, out=tmp_path / "run")
    assert "aligned with the vectors of embedded:digits; mAP in the teacher's index" in capsys.readouterr().out
    size = run.student().preprocess.size
    assert run.student()(torch.zeros(1, 3, size, size))[0].shape == (1, 64)
    assert relgraph.train(resume=run.path).student().info["align"] == run.student().info["align"]
    assert_refused_like(
        (lambda: relgraph.train(method="none", align=True), "align belongs to a training by a teacher, got method"),
        (lambda: relgraph.train(**options | {"val_fraction": 0.1}, align=True, out=tmp_path / "few"),
         "expected 3 validation images or 30 training images$"),
    )  # fmt: skip


def test_vectors_without_a_network_are_enough(run: relgraph.Run, tmp_path: Path) -> None:
    relgraph.embed(out=tmp_path / "t.npy", split="train", device="cpu", precision="32-true")
    by_file = relgraph.train(
        teacher=f"vectors:{tmp_path / 't.npy'}", views="independent", epochs=1, student="resnet8", device="cpu",
        out=tmp_path / "by_file", select="last", val_fraction=0.0,
    )  # fmt: skip
    found = aligned(by_file)  # a tenth of the training images is left out, where there are none for validation
    assert found.judged == (-(-1442 // 10), "train") and found.images == 1442 - found.judged[0]
    assert by_file.student().info["align"]["width"] == 64


def test_a_narrow_backbone_is_told() -> None:
    student = student_of("resnet8")
    assert aligning._notes(student, VectorTransform(torch.zeros(64))) == []
    (told,) = aligning._notes(student, VectorTransform(torch.zeros(65)))
    assert told.startswith("the student's backbone has 64 features, the index 65 dimensions")
    assert aligning._notes(student, VectorTransform(torch.zeros(65), torch.eye(65)[:64])) == []


@pytest.fixture(scope="module")
def turned() -> PlainStudent:
    """Return a student with all layers that vectors pass through, the last of them an alignment."""
    student = student_of("resnet8", projected=True)
    info = {
        **student.info,
        "align": {"teacher": "t", "fingerprint": "f", "width": 11},
        "index": {"normalise": True, "of": "directions"},
    }
    turn, index = DirectionRotation(6, 11), VectorTransform(torch.randn(11))
    torch.nn.init.normal_(turn.mean, std=0.1)
    parts = student.backbone, student.head, student.projector, student.part, info
    return PlainStudent(*parts, turn, index).eval()


@torch.no_grad()
def test_a_folder_for_the_hub_and_a_teacher_contain_the_alignment(turned: PlainStudent, tmp_path: Path) -> None:
    result = {"images": {"train": 1, "labelled": 1, "test": 1}, "test": {"best": {}}, "seed": 0, "note": "n"}
    write_hub(turned, tmp_path / "hub", Made("resnet8", "sp", "t", "digits", result, None), images=images_of(turned))
    hub, images = relgraph.load_student(tmp_path / "hub"), torch.randn(2, 3, 32, 32)
    for found in (hub(images)[0], embedding_network(turned)(images)):
        assert found.shape == (2, 11)
        torch.testing.assert_close(found, turned(images)[0])
    assert hub.index is not None and turned.index is not None and torch.equal(hub.index.mean, turned.index.mean)
    assert json.loads((tmp_path / "hub" / "config.json").read_text())["aligned"] == turned.info["align"]


def test_an_alignment_of_before_is_refused(turned: PlainStudent, tmp_path: Path) -> None:
    file, tensors = tmp_path / "student.safetensors", turned.tensors()
    for name, told in (("align.mean", turned.info), ("", {**turned.info, "index": {"normalise": True}})):
        save_tensors(file, {key: x for key, x in tensors.items() if key != name}, told)
        expected = (
            "aligned by an earlier version, whose vectors were no directions: relgraph align RUN --undo, and align"
        )
        assert_refused_like((lambda: relgraph.load_student(file), expected))


@pytest.mark.slow
@torch.no_grad()
def test_programs_contain_the_alignment(turned: PlainStudent, tmp_path: Path) -> None:
    pixels, images = images_of(turned), torch.randn(2, 3, 32, 32)
    write_onnx(turned, tmp_path / "s.onnx", images=pixels)
    write_exported(turned, tmp_path / "s.pt2", images=pixels)
    program = torch.export.load(tmp_path / "s.pt2").module()
    for name, found in (("onnx", Session(tmp_path / "s.onnx")(images)[0]), ("pt2", program(images)[0])):
        with case(name):
            assert found is not None and found.shape == (2, 11)
            torch.testing.assert_close(found, turned(images)[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_weights_have_the_layers_beside_them(turned: PlainStudent, tmp_path: Path) -> None:
    assert write_weights(turned, tmp_path / "s.safetensors", images=images_of(turned)) < 1e-4
    told, tensors = json.loads((tmp_path / "config.json").read_text()), load_file(tmp_path / LAYERS)
    assert told["embedding"] == {"file": LAYERS, "reads": "feature", "layers": ["project", "projector", "align"]}
    images = torch.randn(2, 3, 32, 32)
    x = turned.backbone(images)
    for name in ("project", "projector.0", "projector.2", "align"):  # a ReLU is between those of a projector
        read = {"projector.2": x.relu(), "align": nn.functional.normalize(x)}.get(name, x)
        x = nn.functional.linear(read, *(tensors[f"{name}.{part}"] for part in ("weight", "bias")))
    away = x - (mean := tensors["align.mean"])
    a, b, c = away.square().sum(1), away @ mean, mean.square().sum() - 1  # |mean + s away| = 1, as docs/align.md has it
    x = mean + ((b.square() - a * c).sqrt() - b).div(a)[:, None] * away
    torch.testing.assert_close(x, turned(images)[0])
    write_weights(turned, tmp_path / "again.safetensors", images=images_of(turned))  # the same layers
    named = "is for the layers of an aligned student: expected another name"
    assert_refused_like((lambda: write_weights(turned, tmp_path / LAYERS, images=images_of(turned)), named))
    for values in turned.align.parameters():
        values.neg_()
    told = f"{LAYERS} is there already, expected what b.safetensors would have, found another"
    assert_refused_like((lambda: write_weights(turned, tmp_path / "b.safetensors", images=images_of(turned)), told))
    unaligned = PlainStudent(turned.backbone, turned.head, turned.projector, turned.part, turned.info).eval()
    other = "config.json is there already"
    assert_refused_like((lambda: write_weights(unaligned, tmp_path / "c.safetensors", images=images_of(turned)), other))
    kept = load_file(tmp_path / LAYERS)
    assert all(torch.equal(kept[name], tensors[name]) for name in tensors)
    (tmp_path / "config.json").unlink()
    told = f"{LAYERS} is there already"
    assert_refused_like((lambda: write_weights(turned, tmp_path / "s.safetensors", images=images_of(turned)), told))
