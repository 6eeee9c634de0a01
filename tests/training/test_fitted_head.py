"""The fitted head: principal directions and a logistic regression, as scikit-learn has them, then fixed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from relgraph.networks.heads import Head
from relgraph.training import trainer
from relgraph.training.checkpoint import load_checkpoint
from relgraph.training.distillation import build, train
from relgraph.training.fitted_head import ABSENT, STRENGTH, fit_head
from tests.checks import assert_refused_like
from tests.training.conftest import RecipeMaker, call_before, interrupt, outcome, states

FITTED: dict[str, Any] = {"teacher_head": "fitted", "epochs": 2}


def drawn(classes: int = 4, width: int = 6, count: int = 200) -> tuple[Tensor, Tensor]:
    """Return vectors about a centre for each class, far from 0 and large, and labels, a quarter of them unknown."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    centres = 3 * torch.randn(classes, width, generator=generator)
    vectors = 20 * (centres[labels] + torch.randn(count, width, generator=generator)) + 100
    return vectors, torch.where(torch.rand(count, generator=generator) < 0.25, -1, labels)


@pytest.mark.parametrize("dim", [3, 6, 9])
def test_it_is_scikit_learns(dim: int) -> None:
    vectors, labels = drawn()
    head = Head(6, dim, 4)
    right = fit_head(head, vectors, labels)
    pca = PCA(min(dim, 6)).fit(vectors.double().numpy())
    scale = float((vectors.double() - vectors.double().mean(0)).square().sum(1).mean().sqrt())
    rows = pca.transform(vectors.double().numpy()) / scale
    model = LogisticRegression(C=STRENGTH, max_iter=2000, tol=1e-9).fit(rows[labels >= 0], labels[labels >= 0].numpy())
    embedding, logits = head(vectors)
    np.testing.assert_allclose(logits.detach().numpy(), model.decision_function(rows), atol=5e-3)
    torch.testing.assert_close(embedding[:, :6].abs(), torch.from_numpy(rows).float().abs(), atol=1e-4, rtol=0)
    assert not embedding[:, 6:].any()
    known = labels >= 0
    assert right == 100 * (logits[known].argmax(1) == labels[known]).double().mean().item() > 90


def test_the_projection_keeps_relations_and_a_head_without_one_has_the_same_scores() -> None:
    vectors, labels = drawn()
    wide, bare = Head(6, 8, 4), Head(6, None, 4)
    for head in (wide, bare):
        fit_head(head, vectors, labels)
    embedding, logits = wide(vectors)
    centred = vectors - vectors.mean(0)
    ratio = centred.square().sum(1).mean()
    torch.testing.assert_close(embedding @ embedding.T, centred @ centred.T / ratio, atol=1e-4, rtol=0)
    torch.testing.assert_close(bare(vectors)[1], logits, atol=5e-3, rtol=0)
    torch.testing.assert_close(bare(vectors)[0], vectors)


def test_labels_alone_make_the_classifier_and_none_the_projection() -> None:
    vectors, labels = drawn()
    head, other = Head(6, 3, 4), Head(6, 3, 4)
    fit_head(head, vectors, labels)
    fit_head(other, vectors, torch.where(labels >= 0, 3 - labels, -1))
    torch.testing.assert_close(other.project.state_dict(), head.project.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(other.classify.weight, head.classify.weight.flip(0), atol=1e-2, rtol=0)
    again = Head(6, 3, 4)
    fit_head(again, vectors, labels)
    torch.testing.assert_close(states(again), states(head), rtol=0, atol=0)


@pytest.mark.parametrize("present", [2, 3])
def test_a_class_without_a_label_is_far_below_the_others(present: int) -> None:
    vectors, labels = drawn(present)
    head, small = Head(6, None, present + 2), Head(6, None, present)
    fit_head(head, vectors, labels)
    fit_head(small, vectors, labels)
    logits, fewer = head(vectors)[1], small(vectors)[1]
    torch.testing.assert_close(logits[:, :present], fewer)
    below = fewer.mean(1, keepdim=True) - ABSENT
    torch.testing.assert_close(logits[:, present:], below.expand(-1, 2), atol=1e-3, rtol=0)
    known = labels >= 0
    assert (fewer[known].argmax(1) == labels[known]).double().mean() > 0.9


def test_what_is_refused(make: RecipeMaker) -> None:
    vectors, labels = drawn()
    head = Head(6, 3, 4)
    space: dict[str, Any] = {"target_space": "teacher", "dim": None, "gamma": 0.0}
    assert_refused_like(
        (lambda: fit_head(head, vectors, torch.where(labels == 1, 1, -1)),
         r"^teacher_head 'fitted' needs labels of two classes or more, got 1$"),
        (lambda: fit_head(head, vectors[:1].repeat(8, 1), labels[:8]),
         r"^teacher_head 'fitted' needs vectors that differ, got one for all images$"),
        (lambda: fit_head(head, vectors / 0, labels), r"^expected vectors of finite numbers, got NaN or infinity$"),
        (lambda: make(**FITTED, head_epochs=2),
         r"^head_epochs belongs to teacher_head 'sequential', got 'fitted' and 2$"),
        (lambda: make(**FITTED, **space), r"^teacher_head 'fitted' trains a classifier that nothing reads with"),
        (lambda: build(make(**{**FITTED, "dataset": "unlabelled", "method": "infonce"})),
         r" has no labels, from which a fitted teacher_head learns: use 'joint'$"),
    )  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"method": "kd", "head": "linear", "dim": None}, {"teacher_mode": "online"}])
def test_a_run_with_a_head(
    make: RecipeMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, Any]
) -> None:
    recipe, path = make(**FITTED, **options), tmp_path / "run"
    train(recipe, path)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("teacher's head: ")]
    assert len(told) == 1 and told[0].startswith("teacher's head: fitted to 6 labelled images, train ")
    job = build(recipe)
    head = job.objective.teacher_head
    assert head is not None
    vectors = job.feed.vectors(job.data.train, 0)
    fit_head(head, vectors[:], job.data.train.labels)
    for file in ("best.ckpt", "last.ckpt"):
        kept = load_checkpoint(path / file)["objective"]
        assert all(torch.equal(kept[f"teacher_head.{name}"], tensor) for name, tensor in head.state_dict().items())


def test_a_stopped_run_goes_on_with_the_head_that_it_had(
    make: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, whole, stopped = make(**FITTED), tmp_path / "whole", tmp_path / "stopped"
    train(recipe, whole)
    with monkeypatch.context() as patch:
        call_before(patch, trainer, "train_epoch", 2)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, stopped)
    with monkeypatch.context() as patch:
        patch.setattr("relgraph.training.distillation.fit_head", interrupt)  # it is not fitted again
        train(recipe, stopped, resume=True)
    assert outcome(stopped) == outcome(whole)
