"""Answers of an index to image files: those of a full sort, told by files, and a page that holds names as text."""

import json
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import relgraph
from relgraph.data.embeddings import EmbeddingStore
from relgraph.deploy import index as index_module
from relgraph.deploy.querying import Queried, check_space
from relgraph.graph.alignment import DirectionRotation, VectorTransform
from relgraph.networks.plain import write_aligned
from tests.checks import assert_refused_like, case

STORE: dict[str, Any] = {"device": "cpu", "precision": "32-true", "workers": 0}


@pytest.fixture(scope="module")
def own(run: relgraph.Run, photos: Path) -> Path:
    """Return a store of the student's own vectors of the training images."""
    out = photos.parent / "own"
    teacher, arguments = f"checkpoint:{run.path}", ("output=embedding",)
    relgraph.embed(
        dataset=f"folder:{photos}", teacher=teacher, teacher_args=arguments, index_transform="none", out=out, **STORE
    )
    return out


@pytest.fixture(scope="module")
def teachers(photos: Path) -> Path:
    """Return a store of the teacher's vectors of the training images."""
    out = photos.parent / "teachers"
    relgraph.embed(dataset=f"folder:{photos}", teacher="embedded:digits", index_transform="pca:5", out=out, **STORE)
    return out


@pytest.fixture(scope="module")
def aligned(run: relgraph.Run, photos: Path) -> relgraph.Run:
    """Return a copy of the run with a rotation into the teacher's space in its student's file."""
    path = shutil.copytree(run.path, photos.parent / "aligned")
    fingerprint = relgraph.load_teacher("embedded:digits").fingerprint()
    torch.manual_seed(5)
    turn, told = DirectionRotation(6, 64), {"teacher": "embedded:digits", "fingerprint": fingerprint}
    write_aligned(path / "student.safetensors", turn, VectorTransform(torch.full((64,), 0.1)), told)
    return relgraph.Run(path)


def files(photos: Path) -> list[str]:
    return [str(path) for path in sorted(photos.glob("train/*/*"))]


@torch.no_grad()
def vectors(run: relgraph.Run, names: list[str]) -> Tensor:
    student = run.student()
    return torch.stack([student(student.preprocess(name)[None])[0][0] for name in names])


def check(found: Queried, queries: Tensor, gallery: Tensor, names: list[str]) -> None:
    """Compare with a full sort by cosine."""
    cosines = nn.functional.normalize(queries) @ nn.functional.normalize(gallery).T
    for row, expected in zip(found.rows, cosines, strict=True):
        assert [answer.name for answer in row.answers] == [names[answer.position] for answer in row.answers]
        best = expected.sort(descending=True).values[: len(row.answers)]
        torch.testing.assert_close(torch.tensor([answer.score for answer in row.answers]), best, rtol=1e-4, atol=1e-5)
        at = expected[[answer.position for answer in row.answers]]
        torch.testing.assert_close(at, best, rtol=1e-4, atol=1e-5)


def test_an_image_of_its_own_index_is_its_first_answer(run: relgraph.Run, own: Path, photos: Path) -> None:
    names = files(photos)
    found = run.query(names, index=own, k=4, device="cpu", workers=0)
    assert [row.file for row in found.rows] == names == [row.answers[0].name for row in found.rows]
    assert all(row.answers[0].score == pytest.approx(1, abs=1e-5) for row in found.rows)
    stored = EmbeddingStore(own).view(0)[:]
    check(found, vectors(run, names), stored, names)
    alone = relgraph.query(run.path / "student.safetensors", names[3], index=own, k=20, device="cpu")
    check(alone, vectors(run, names[3:4]), stored, names)
    assert json.loads(alone.json())[0]["answers"][0] == alone.rows[0].answers[0]._asdict()


def test_the_teachers_index_answers_an_aligned_student(
    aligned: relgraph.Run, teachers: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names, store = files(photos), EmbeddingStore(teachers)
    found = aligned.query(photos / "test", index=teachers, k=7, device="cpu", workers=0)
    transform = VectorTransform.fit(store.view(0)[:], pca=5)
    queries = vectors(aligned, [row.file for row in found.rows])
    assert len(found.rows) == 6 and capsys.readouterr().err == ""
    check(found, transform(queries), transform(store.view(0)[:]), names)


def test_a_table_of_an_aligned_students_own_vectors_answers_it(
    aligned: relgraph.Run, photos: Path, tmp_path: Path
) -> None:
    names, table = files(photos), tmp_path / "own.npy"
    own: dict[str, Any] = {"teacher": f"checkpoint:{aligned.path}", "teacher_args": ("output=embedding",)}
    own |= {"image_size": 8, "split": "train", "device": "cpu", "precision": "32-true"}
    relgraph.embed(dataset=f"folder:{photos}", out=table, **own)
    found = aligned.query(names, index=table, k=1, device="cpu", workers=0, images_in=photos)
    assert [photos / row.answers[0].name for row in found.rows] == [Path(name) for name in names]
    assert all(row.answers[0].score == pytest.approx(1, abs=1e-5) for row in found.rows)


def test_faiss_finds_the_same(
    aligned: relgraph.Run, teachers: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class IndexFlatIP:
        def __init__(self, width: int) -> None:
            self.rows = np.zeros((0, width), np.float32)

        def add(self, rows: Any) -> None:
            self.rows = np.concatenate([self.rows, rows])

        def search(self, queries: Any, k: int) -> tuple[Any, Any]:
            products = queries @ self.rows.T
            order = np.argsort(-products, axis=1, kind="stable")[:, :k]
            return np.take_along_axis(products, order, 1), order

    query: dict[str, Any] = dict(index=teachers, k=6, device="cpu", workers=0)
    expected = aligned.query(photos / "test", **query)
    monkeypatch.setitem(sys.modules, "faiss", SimpleNamespace(IndexFlatIP=IndexFlatIP))
    monkeypatch.setattr(index_module, "has_faiss", lambda: True)
    found = aligned.query(photos / "test", **query)
    for one, other in zip(found.rows, expected.rows, strict=True):
        assert [answer.score for answer in one.answers] == pytest.approx(
            [answer.score for answer in other.answers], abs=1e-5
        )


def test_a_table_of_vectors_is_an_index(run: relgraph.Run, photos: Path, tmp_path: Path) -> None:
    names = files(photos)
    table, asked = vectors(run, names).numpy(), photos / "test"
    np.save(tmp_path / "v.npy", table)
    numbers = [str(number) for number in range(len(names))]
    check(run.query(asked, index=tmp_path / "v.npy", k=3), vectors(run, sorted(map(str, asked.glob("*/*")))),
          torch.from_numpy(table), numbers)  # fmt: skip
    inside = [str(Path(name).relative_to(photos)) for name in names]
    (tmp_path / "v.names.txt").write_text("\n".join(inside))
    page = tmp_path / "page.html"
    found = run.query(asked, index=tmp_path / "v.npy", k=3, html=page)
    assert found.rows[0].answers[0].name in inside
    assert page.read_text().count("<img ") == 6 * 4, "found within the folder of the run's images"


def test_what_does_not_fit_is_refused_and_doubts_are_told(
    run: relgraph.Run, aligned: relgraph.Run, own: Path, teachers: Path, photos: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    asked = files(photos)[0]
    other = tmp_path / "other"
    relgraph.embed(dataset=f"folder:{photos}", teacher=f"checkpoint:{run.path}", out=other, **STORE)
    np.save(tmp_path / "wide.npy", np.ones((40, 9), np.float32))
    (tmp_path / "page.html").touch()
    assert_refused_like(
        (lambda: aligned.query(asked, index=own), "own is an index of checkpoint:.* of other weights of it: expected "
         "the teacher with which the student was aligned, embedded:digits$"),
        (lambda: run.query(asked, index=other), "expected the student's teacher, embedded:digits$"),
        (lambda: run.query(asked, index=tmp_path / "wide.npy"), "student have width 6, those of .*wide.npy 9: relg"),
        (lambda: run.query(asked, index=own, k=21), "between 1 and the number of images in .*own, 20, got 21$"),
        (lambda: run.query(asked, index=own, k=0), "k must be a whole number of at least 1, got 0$"),
        (lambda: run.query(asked, index=photos), "expected an index, a store of relgraph embed or a table"),
        (lambda: run.query(photos / "none.png", index=own), "expected images that can be read, found none$"),
        (lambda: run.query(asked, index=own, html=tmp_path / "page.html"), "page.html is there already"),
        (lambda: relgraph.query(tmp_path, asked, index=own), "student.safetensors"),
    )  # fmt: skip
    capsys.readouterr()
    assert_refused_like(
        (lambda: run.query(asked, index=teachers), "have width 6, those of .*teachers 64: relgraph align")
    )
    assert capsys.readouterr().err == ""  # the refusal alone
    inputs = json.loads((run.path / "inputs.json").read_text())
    of_teacher = SimpleNamespace(network=("embedded:digits", inputs["teacher"]["fingerprint"]), path=teachers)
    told = f"the student is not aligned with {teachers}, its answers mean little: relgraph align"
    assert check_space(run.student(), cast("Any", of_teacher), inputs) == [told]
    monkeypatch.setattr("relgraph.deploy.querying.check_space", lambda *_: [told])
    run.query(asked, index=own, k=1)
    assert capsys.readouterr().err == f"{told}\n"


def test_images_that_are_gone_are_told_by_position(
    run: relgraph.Run, own: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = files(photos)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "load_data", lambda recipe: SimpleNamespace(train=range(3), unseen=False))
        found = run.query(asked, index=own, k=2, html=tmp_path / "page.html")
    assert found.rows[0].answers[0].name == "0" and "told by their positions in folder:" in capsys.readouterr().err
    assert (tmp_path / "page.html").read_text().count("no picture") == 2
    target, kept = Path(files(photos)[5]), Path(files(photos)[5]).read_bytes()
    try:
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(target)
        found = run.query(asked, index=own, k=20)
    finally:
        target.write_bytes(kept)
    assert found.rows[0].answers[0].name == "0"
    assert "is no longer the one that was embedded" in capsys.readouterr().err


def test_the_page_holds_names_as_text_and_asks_for_nothing(
    run: relgraph.Run, own: Path, photos: Path, tmp_path: Path
) -> None:
    hostile = tmp_path / "<script>alert(1)<b>&.png"
    shutil.copy(files(photos)[0], hostile)
    page = tmp_path / "page.html"
    found = run.query([hostile, tmp_path / "none.png"], index=own, k=5, html=page)
    text, elements = page.read_text(), list[tuple[str, dict[str, str | None]]]()

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            elements.append((tag, dict(attrs)))

    Parser().feed(text)
    pictures = [attributes for tag, attributes in elements if tag == "img"]
    assert [picture["alt"] for picture in pictures] == [str(hostile), *(each.name for each in found.rows[0].answers)]
    for tag, attributes in elements:
        with case(tag, attributes):
            assert tag not in ("script", "b") and not any(name.startswith("on") for name in attributes)
            for name in ("src", "href"):
                assert (attributes.get(name) or "data:").startswith("data:")
    assert "default-src 'none'" in text and "none.png: no such file" in text
