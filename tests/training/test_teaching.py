from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from relgraph.data.embeddings import EmbeddingStore
from relgraph.data.views import draw_view
from relgraph.errors import RelgraphError
from relgraph.networks.teachers import Features
from relgraph.training.embedding import store_embeddings
from relgraph.training.inputs import teacher_input
from relgraph.training.recipe import Recipe
from relgraph.training.setup import open_data, open_fabric, open_teacher
from relgraph.training.teaching import Feed, Online, Stored, WithoutTeacher, make_plan, open_feed, settled

RecipeMaker = Callable[..., Recipe]
INDEX = torch.tensor([30, 2, 2, 17, 35, 9])


@pytest.fixture(scope="session")
def folder(make: RecipeMaker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store of digits, whose training images are not numbered from 0 on; do not change it."""
    root = tmp_path_factory.mktemp("embeddings")
    store_embeddings(digits(make), root / "three", views=3)
    return root


def digits(make: RecipeMaker, **options: Any) -> Recipe:
    return make(dataset="digits", **options)


def opened(recipe: Recipe, maps: bool = False) -> tuple[Feed, str]:
    teacher = open_teacher(recipe) if recipe.uses_teacher else None
    return open_feed(recipe, open_data(recipe), teacher, open_fabric(recipe), maps=maps)


def fed(feed: Feed, recipe: Recipe, seed: int = 1, index: Tensor = INDEX) -> tuple[Tensor, Features]:
    found = feed(open_data(recipe).train.pixels[index], index, torch.Generator().manual_seed(seed))
    assert found.seen is not None and found.further is None and found.further_seen is None
    return found.images, found.seen


@torch.no_grad()
def taught(recipe: Recipe, images: Tensor) -> Tensor:
    """Return what the teacher itself says of images."""
    teacher = open_teacher(recipe)
    embedding: Tensor = teacher(teacher_input(teacher, images))
    return embedding


def test_without_a_teacher(make: RecipeMaker) -> None:
    recipe = digits(make, method="none")
    feed, line = opened(recipe)
    found = feed(open_data(recipe).train.pixels[INDEX], INDEX, torch.Generator().manual_seed(1))
    student = found.images
    assert isinstance(feed, WithoutTeacher)
    assert (line, found.seen) == ("teacher: none", None)
    drawn = draw_view(6, 1, False, torch.Generator().manual_seed(1))
    assert torch.equal(student, drawn.apply(open_data(recipe).train.pixels[INDEX]))
    assert settled(recipe, feed) == recipe


@pytest.mark.parametrize("views", ["shared", "independent"])
def test_online_draws_what_recorded_runs_drew(make: RecipeMaker, views: str) -> None:
    recipe = make(views=views, teacher_mode="online")
    feed, line = opened(recipe)
    student, seen = fed(feed, recipe)
    images, generator = open_data(recipe).train.pixels[INDEX], torch.Generator().manual_seed(1)
    first, second = (draw_view(6, 1, True, generator).apply(images) for _ in range(2))
    assert torch.equal(student, first)
    assert torch.equal(seen.pooled, taught(recipe, first if views == "shared" else second))
    assert seen.maps == (), "maps are handed on where a method reads them"
    assert line == "teacher: online"


@pytest.mark.parametrize("views", ["shared", "independent"])
def test_online_hands_on_the_stage_maps_of_the_same_views(make: RecipeMaker, views: str) -> None:
    recipe = make(views=views, method="sp")
    (plain, _), (feed, line) = opened(recipe), opened(recipe, maps=True)
    (student, pooled), (same, seen) = fed(plain, recipe), fed(feed, recipe)
    assert torch.equal(student, same)
    torch.testing.assert_close(seen.pooled, pooled.pooled)
    assert tuple(stage.shape[1:] for stage in seen.maps) == open_teacher(recipe).map_shapes()
    torch.testing.assert_close(seen.maps[-1].mean((2, 3)), seen.pooled)  # of this teacher, a CIFAR ResNet
    assert not any(part.requires_grad for part in (seen.pooled, *seen.maps))
    assert line == "teacher: online, in every step (sp reads the teacher's stage maps)"


def test_online_computes_in_the_run_s_precision(make: RecipeMaker) -> None:
    features = []
    for precision in ("32-true", "bf16-mixed"):
        recipe = make(teacher_mode="online", precision=precision)
        for maps in (False, True):
            _, seen = fed(opened(recipe, maps)[0], recipe)
            assert seen.pooled.dtype == torch.float32
            features.append(seen.pooled)
    assert torch.equal(features[0], features[1]) and torch.equal(features[2], features[3])
    assert not torch.equal(features[0], features[2])
    torch.testing.assert_close(features[0], features[2], rtol=0.05, atol=0.05)


def test_the_line_about_a_store(make: RecipeMaker, folder: Path) -> None:
    feed, line = opened(digits(make, embeddings=str(folder)))
    assert isinstance(feed, Stored)
    assert line == (
        f"teacher: stored embeddings {folder}/three, 3 views an image, one of them drawn for both networks, "
        "computed in 32-true"
    )


@pytest.mark.parametrize("limit", [0, 2**32])
def test_the_student_sees_the_view_whose_embedding_is_given(make: RecipeMaker, folder: Path, limit: int) -> None:
    recipe = digits(make, seed=2)
    store = EmbeddingStore(folder / "three", limit=limit)
    data = open_data(recipe)
    feed = Stored(make_plan("crop", data, None), data, store, "cpu", shared=True)
    assert store.resident == (limit > 0)
    index = torch.arange(60)
    images, (student, seen) = open_data(recipe).train.pixels[index], fed(feed, recipe, index=index)
    assert student.dtype == torch.uint8 and seen.pooled.shape == (60, 64) and seen.maps == ()
    torch.testing.assert_close(seen.pooled, taught(recipe, student))
    plain = (student == images).flatten(1).all(1)
    assert 0 < plain.sum() < 40, "about a third are the image itself"


def test_independent_views_are_fresh_for_the_student(make: RecipeMaker, folder: Path) -> None:
    recipe = digits(make, embeddings=str(folder), views="independent")
    feed, line = opened(recipe)
    assert "3 views an image, fresh ones for the student" in line
    student, seen = fed(feed, recipe)
    drawn = draw_view(6, 1, False, torch.Generator().manual_seed(1))
    assert torch.equal(student, drawn.apply(open_data(recipe).train.pixels[INDEX]))
    assert isinstance(feed, Stored)
    stored_as = open_data(recipe).train.index[INDEX]
    rows = torch.stack([feed.store.rows(torch.full((6,), view), stored_as) for view in range(3)])
    assert (seen.pooled == rows).all(2).any(0).all(), "every feature is that of some view of its image"


def test_one_view_is_the_image_itself(make: RecipeMaker, tmp_path: Path) -> None:
    recipe = make(views="independent", embeddings=str(tmp_path))
    store_embeddings(recipe, tmp_path / "one", views=1)
    feed, line = opened(recipe)
    assert "1 view an image, fresh ones for the student" in line
    _, seen = fed(feed, recipe)
    torch.testing.assert_close(seen.pooled, taught(recipe, open_data(recipe).train.pixels[INDEX]))


@pytest.mark.parametrize("views", ["shared", "independent"])
def test_the_generator_decides(make: RecipeMaker, folder: Path, views: str) -> None:
    recipe = digits(make, embeddings=str(folder), views=views)
    feed, _ = opened(recipe)
    (first, seen), (again, same), (other, _) = (fed(feed, recipe, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and torch.equal(seen.pooled, same.pooled)
    assert not torch.equal(first, other)


def test_views_are_drawn_uniformly_for_each_image(make: RecipeMaker, folder: Path) -> None:
    recipe = digits(make, embeddings=str(folder))
    feed, _ = opened(recipe)
    index = torch.full((300,), 5)
    student, _ = fed(feed, recipe, index=index)
    _, counts = torch.unique(student.flatten(1), dim=0, return_counts=True)
    assert len(counts) == 3
    assert ((counts - 100).abs() < 40).all(), counts  # 5 standard deviations


def test_auto_says_why_a_store_was_passed_over(make: RecipeMaker, folder: Path, tmp_path: Path) -> None:
    recipe = digits(make, embeddings=str(folder))
    feed, line = opened(replace(recipe, teacher_std=(0.5,)))
    assert isinstance(feed, Online)
    assert line == (
        f"teacher: online, no stored embeddings fit: {folder}/three does not fit: the teacher's std: (0.376,) in the "
        "store, (0.5,) in this run"
    )
    _, line = opened(replace(recipe, embeddings=str(tmp_path)))
    assert line == "teacher: online, in every step (relgraph embed would store what it says, once)"


def test_stored_is_an_error_where_nothing_fits(make: RecipeMaker, folder: Path, tmp_path: Path) -> None:
    recipe = digits(make, embeddings=str(folder), teacher_mode="stored")
    assert isinstance(opened(recipe)[0], Stored)
    with pytest.raises(RelgraphError, match=r"no stored embeddings fit: .*three does not fit: the teacher's std"):
        opened(replace(recipe, teacher_std=(0.5,)))
    with pytest.raises(RelgraphError, match=r"no stored embeddings fit: .* holds none of digits by embedded:digits"):
        opened(replace(recipe, embeddings=str(tmp_path)))
    assert isinstance(opened(replace(recipe, teacher_mode="online"))[0], Online)


def test_maps_are_in_no_store(make: RecipeMaker, folder: Path) -> None:
    recipe = digits(make, embeddings=str(folder), method="sp")
    assert isinstance(opened(recipe)[0], Stored), "a store fits"
    feed, line = opened(recipe, maps=True)
    assert isinstance(feed, Online) and len(fed(feed, recipe)[1].maps) == 4
    assert line == "teacher: online, in every step (sp reads the teacher's stage maps)"
    assert settled(recipe, feed) == replace(recipe, teacher_mode="online")
    asked = replace(recipe, teacher_mode="stored")
    with pytest.raises(
        RelgraphError,
        match=r"^stored embeddings will not do, since sp reads the teacher's stage maps: use --teacher-mode online$",
    ):
        opened(asked, maps=True)


def test_a_settled_recipe_finds_the_same_again(make: RecipeMaker, folder: Path, tmp_path: Path) -> None:
    recipe = digits(make, embeddings=str(folder))
    feed, line = opened(recipe)
    fixed = settled(recipe, feed)
    assert (fixed.teacher_mode, fixed.embeddings) == ("stored", str(folder / "three"))
    assert opened(fixed)[1] == line
    online = replace(recipe, embeddings=str(tmp_path))
    assert settled(online, opened(online)[0]) == replace(online, teacher_mode="online")
