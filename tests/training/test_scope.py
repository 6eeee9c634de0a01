"""Training on the graph of the data set: which graph it is, who is learned, what is kept, told and refused."""

import csv
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch.nn.functional import cross_entropy, kl_div

from relgraph.data.edge_files import read_edges, write_edges
from relgraph.data.neighbour_batches import ImageGraph
from relgraph.files import read_json, read_table
from relgraph.methods import EGA
from relgraph.outputs import Batch
from relgraph.training.distillation import Distillation, build, train
from relgraph.training.epochs import Progress, steps
from relgraph.training.recipe import Recipe
from relgraph.training.stores import store_embeddings
from tests.checks import assert_refused_like, case
from tests.pictures import write_folder
from tests.training.conftest import after_each_step, call_before, outcome, part

QUICK: dict[str, Any] = {
    "student": "resnet8", "dim": 8, "epochs": 1, "batch_size": 8, "lr": 0.01, "device": "cpu", "precision": "32-true",
    "threads": 1, "workers": 0, "image_size": 8, "val_fraction": 0.2, "scope": "dataset", "logger": "none",
}  # fmt: skip
ROWS = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve training and two test images of each of two classes, and a teacher's vectors of the former."""
    root = write_folder(tmp_path_factory.mktemp("scope") / "data", {"train": 12, "test": 2})
    np.save(root.parent / "teacher.npy", ROWS)
    return root


@pytest.fixture(scope="module")
def recipe(data: Path) -> partial[Recipe]:
    options: dict[str, Any] = {"dataset": f"folder:{data}", "teacher": f"vectors:{data.parent / 'teacher.npy'}"}
    return partial(Recipe, **QUICK | options)


def graph(job: Distillation) -> ImageGraph:
    assert job.graph is not None
    return job.graph


def edges(job: Distillation) -> set[tuple[int, int]]:
    """Return the edges of a job's graph, neighbour and anchor, between positions in the original training split."""
    index = job.data.train.index.tolist()
    return {(index[j], index[i]) for j, i in graph(job).edge_index.T.tolist()}


def test_the_graph_is_the_exact_one_of_the_teachers_own_vectors(recipe: partial[Recipe], tmp_path: Path) -> None:
    job = build(recipe(k=3))
    index = job.data.train.index.numpy()
    centred = ROWS[index] - ROWS[index].mean(1, keepdims=True)
    near = NearestNeighbors(n_neighbors=3, metric="cosine").fit(centred).kneighbors(return_distance=False)
    assert edges(job) == {(int(index[j]), int(index[i])) for i, row in enumerate(near) for j in row}
    # The same by a network, run once, and by a store of it: without labels, views or projections.
    online = recipe(teacher="embedded:digits", k=2)
    store_embeddings(online, tmp_path / "store", views=1)
    stored = recipe(teacher="embedded:digits", k=2, embeddings=str(tmp_path / "store"), views="independent")
    found, other = build(online), build(stored)
    assert "online" in found.note and "stored" in other.note and edges(found) == edges(other)
    assert graph(found).degree == 2


def test_seeds_alone_are_learned_by_labels_and_by_the_method(recipe: partial[Recipe]) -> None:
    job = build(recipe(k=3, method="ega+2*kd", alpha=0.5, refine="conv"))  # which begins as the node itself
    index, images, views, _, brought = next(steps(job, 0))
    assert brought is not None and 1 < brought.anchors < len(index) == 8
    labels, own = job.data.train.labels[index], slice(brought.anchors)
    losses = job.objective(job.feed(images, Batch(index, labels, brought), views))
    terms = {**losses.terms, **losses.teacher_terms}
    logits = losses.student.logits[own], losses.teacher.logits[own]
    for name, found in zip(("cross_entropy", "teacher_head", "teacher_ega_refined"), [*logits, logits[1]], strict=True):
        torch.testing.assert_close(terms[name], cross_entropy(found, labels[own]))
    s, t = ((x / 4).log_softmax(-1) for x in logits)
    kd = 16 * kl_div(s, t, log_target=True, reduction="batchmean")
    torch.testing.assert_close([terms["kd"], terms["kd_of_logits"]], [2 * kd, 0.5 * kd])
    for arguments, cross in (((), "own"), (("cross=edges",), "edges")):
        method = part(build(recipe(k=3, method_args=arguments)).objective, "ega")
        assert isinstance(method, EGA) and method.cross == cross
    plain = part(build(recipe(scope="batch")).objective, "ega")
    assert isinstance(plain, EGA) and plain.cross == "edges"


def test_a_run_is_resumed_told_and_read_by_others(
    recipe: partial[Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the teacher's own space, with few labels, refined over two hops."""
    asked = recipe(k=2, target_space="teacher", dim=None, labels_per_class=3, epochs=2, refine="SAGEConv", hops=2)
    train(asked, tmp_path / "run")
    said = capsys.readouterr().out
    assert "2 nearest neighbours by the teacher's vectors, 40 edges over 20 training images\n" in said
    record = read_json(tmp_path / "run" / "inputs.json")["graph of the data set"]
    assert f"a step: 8 images of {record['classes_per_step']:.1f} classes" in said
    assert "which alone have a loss, with all images within 2 hops of them\n" in said
    more = record["steps"] * 8 / (record["scope batch"]["steps"] * record["scope batch"]["images_per_step"])
    assert f"an epoch: {record['steps']} steps, {more:.1f} times the student images" in said
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        call_before(patch, Progress, "add", 2)
        train(asked, tmp_path / "parts")
    train(asked, tmp_path / "parts", resume=True)
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "run")
    kept = tmp_path / "run" / "data_set_graph.pt"
    assert edges(build(recipe(edges=str(kept)))) == edges(build(asked))
    write_edges(kept, torch.tensor(sorted(edges(build(asked)))[1:]).T)
    assert_refused_like((lambda: train(asked, tmp_path / "run", resume=True), "graph of the data set .* found others$"))


# Each step is measured; the seeds of an epoch are cut into batches as its order lets them.
UNEVEN: dict[str, Any] = {"k": 2, "epochs": 4, "batch_size": 7, "diagnose_every": 1, "ema": 0.9}


def test_steps_are_numbered_through_a_run_whose_epochs_have_not_as_many(
    recipe: partial[Recipe], tmp_path: Path
) -> None:
    train(recipe(**UNEVEN), tmp_path / "run")
    rows = read_table(tmp_path / "run" / "diagnostics.csv")
    assert len({*Counter(row["epoch"] for row in rows).values()}) > 1, "epochs have not as many steps"
    assert [row["step"] for row in rows] == [*range(len(rows))]


@pytest.mark.slow
def test_such_a_run_stopped_after_each_step_ends_as_one_that_was_not(recipe: partial[Recipe], tmp_path: Path) -> None:
    asked, path = recipe(**UNEVEN, checkpoint_minutes=1e-9), tmp_path / "parts"
    train(asked, tmp_path / "run")
    assert after_each_step(lambda resume: train(asked, path, resume=resume), path) > 8
    assert outcome(path) == outcome(tmp_path / "run")


def test_edges_of_ones_own_are_found_by_position_or_name(recipe: partial[Recipe], data: Path, tmp_path: Path) -> None:
    files = sorted((data / "train").rglob("*.png"))
    index = build(recipe(k=1)).data.train.index.tolist()
    pairs = [(index[at], index[at - 1]) for at in range(7)]
    every = [*pairs, (next(number for number in range(24) if number not in index), index[0])]
    write_edges(tmp_path / "own.pt", torch.tensor(every).T, torch.arange(8.0))
    with (tmp_path / "own.csv").open("w", newline="") as stream:
        named = [[str(files[end].relative_to(data / "train")) for end in pair] for pair in every]
        csv.writer(stream).writerows([("source", "target"), *named, ("test/cat/0.png", named[0][0])])
    for name, left_out in (("own.pt", 1), ("own.csv", 2)):
        for images in ("memory", "stream"):
            with case(name, images):
                job = build(recipe(edges=str(tmp_path / name), images=images))
                assert edges(job) == set(pairs) and f"{left_out} edges of held-out images left out" in job.note
    weighted = graph(build(recipe(edges=str(tmp_path / "own.pt"))))
    assert weighted.weights is not None and weighted.degree is None
    found = dict(zip(map(tuple, weighted.edge_index.T.tolist()), weighted.weights.tolist(), strict=True))
    assert found == {(index.index(j), index.index(i)): float(at) for at, (j, i) in enumerate(pairs)}
    # Fabric makes copies of its inputs.
    options = {"method": "sp", "nodes": "feature", "refine": "conv", "precision": "bf16-mixed"}
    result = train(recipe(edges=str(tmp_path / "own.pt"), **options), tmp_path / "run")
    assert result["graph"] == "edges" and read_edges(tmp_path / "run" / "data_set_graph.pt").weights is not None


def test_wrong_edges_are_refused(recipe: partial[Recipe], tmp_path: Path) -> None:
    index = build(recipe(k=1)).data.train.index.tolist()
    held_out = [number for number in range(24) if number not in index]
    wrong = {
        "positions from 0 to 23 in the training split, found 24$": [[24, 0]],
        "found -1$": [[0, -1]],
        "between two images, edge 1 joins 3 with itself$": [[0, 1], [3, 3]],
        "each edge once, found 1 again$": [[0, 1], [1, 0], [0, 1]],
        "edges between training images, found none$": [held_out[:2]],
        "at most 7 neighbours, got 8 of image": [[end, index[0]] for end in index[1:9]],
    }
    for told, pairs in wrong.items():
        write_edges(tmp_path / "own.pt", torch.tensor(pairs).T)
        assert_refused_like((partial(build, recipe(edges=str(tmp_path / "own.pt"))), told))
    (tmp_path / "own.csv").write_text("source,target\ncat/0.png,none.png\n")
    named = recipe(edges=str(tmp_path / "own.csv"))
    assert_refused_like((partial(build, named), "names of training images, 'none.png' is none"))
    digits = recipe(edges=str(tmp_path / "own.csv"), dataset="digits", teacher="embedded:digits")
    assert_refused_like(
        (partial(build, digits), "own.csv: .* cannot be listed by their names .*digits.*, found 'cat/0.png'$")
    )


def test_what_has_no_anchors_is_refused(recipe: partial[Recipe]) -> None:
    built: dict[str, tuple[dict[str, Any], str]] = {
        **{name: ({"method": name, "gamma": 1.0}, f"{name} compares a batch as a whole$")
           for name in ("rkd", "irg", "cka", "crd", "seed", "dist")},
        "a sum": ({"method": "ega+moco"}, "moco compares a batch as a whole$"),
        "a scale": ({"method": "sp", "nodes": "feature", "scale": "by_max"}, "sp compares a batch as a whole$"),
        "no edges": ({"method": "kd"}, "kd reads no edges$"),
        "all pairs": ({"method_args": ("graph=dense",)}, "expected graph 'knn' of ega, got all pairs$"),
    }  # fmt: skip
    options: dict[str, tuple[dict[str, Any], str]] = {
        "dense": ({"graph": "dense"}, "expected graph 'knn', got 'dense'$"),
        "student": ({"neighbours": "student"}, "expected neighbours 'teacher', got 'student'$"),
        "hops": ({"hops": 2}, "hops belongs to scope 'dataset' with a refinement, got 'dataset' and None$"),
        "hops of a batch": ({"scope": "batch", "refine": "conv", "hops": 2}, "got 'batch' and conv$"),
        "local": ({"relation": "local"}, "expected relation 'global', got 'local'$"),
        "none": ({"method": "none"}, "scope belongs to a method that reads edges, got none$"),
        "k": ({"edges": "own.pt", "k": 2}, "in place of which stand edges, got 2$"),
        "large k": ({"k": 8}, "k must be between 1 and batch_size - 1 = 7, got 8$"),
        "edges": ({"scope": "batch", "edges": "own.pt"}, "edges belongs to scope 'dataset'"),
    }
    for name, (given, told) in options.items():
        with case(name):
            assert_refused_like((partial(recipe, **given), told))
    for name, (given, told) in built.items():
        with case(name):
            assert_refused_like((partial(build, recipe(batch_size=12, **given)), told))
