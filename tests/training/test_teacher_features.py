from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from relgraph.data.augment import make_augmentation
from relgraph.data.embeddings import EmbeddingStore
from relgraph.data.extra_views import make_extra_views
from relgraph.data.views import PadCropFlip
from relgraph.errors import RelgraphError
from relgraph.methods import Batch, Views
from relgraph.networks.teachers import Features, Teacher
from relgraph.training.building import open_data, open_fabric, open_teacher
from relgraph.training.embedding import store_embeddings
from relgraph.training.inputs import StepInputs, teacher_input
from relgraph.training.recipe import Recipe
from relgraph.training.teacher_features import Feed, Online, Stored, WithoutTeacher, make_plan, open_feed, resolved

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


def batch(index: Tensor) -> Batch:
    """Return a batch of images at these positions; what a feed gives does not depend on their labels."""
    return Batch(index, torch.full((len(index),), -1))


def fed(feed: Feed, recipe: Recipe, seed: int = 1, index: Tensor = INDEX) -> tuple[Tensor, Features]:
    found = feed(open_data(recipe).train.pixels[index], batch(index), torch.Generator().manual_seed(seed))
    assert found.teacher is not None and found.extra is None and found.extra_teacher is None
    return found.images, found.teacher


@torch.no_grad()
def taught(recipe: Recipe, images: Tensor) -> Tensor:
    """Return what the teacher itself says of images."""
    teacher = open_teacher(recipe)
    embedding: Tensor = teacher(teacher_input(teacher, images))
    return embedding


def test_without_a_teacher(make: RecipeMaker) -> None:
    recipe = digits(make, method="none")
    feed, line = opened(recipe)
    found = feed(open_data(recipe).train.pixels[INDEX], batch(INDEX), torch.Generator().manual_seed(1))
    student = found.images
    assert isinstance(feed, WithoutTeacher)
    assert (line, found.teacher) == ("teacher: none", None)
    drawn = PadCropFlip(1, False).draw(6, 8, 8, torch.Generator().manual_seed(1))
    assert torch.equal(student, drawn.apply(open_data(recipe).train.pixels[INDEX]))
    assert resolved(recipe, feed) == recipe


@pytest.mark.parametrize("views", ["shared", "independent"])
def test_online_draws_what_recorded_runs_drew(make: RecipeMaker, views: str) -> None:
    recipe = make(views=views, teacher_mode="online")
    feed, line = opened(recipe)
    student, seen = fed(feed, recipe)
    images, generator = open_data(recipe).train.pixels[INDEX], torch.Generator().manual_seed(1)
    first, second = (PadCropFlip(1, True).draw(6, 8, 8, generator).apply(images) for _ in range(2))
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
    drawn = PadCropFlip(1, False).draw(6, 8, 8, torch.Generator().manual_seed(1))
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
        f"teacher: online, no stored embeddings fit: {folder}/three does not fit: the teacher's std: "
        f"{open_teacher(recipe).std} in the store, (0.5,) in this run"
    )
    _, line = opened(replace(recipe, embeddings=str(tmp_path)))
    assert line == "teacher: online, in every step (relgraph embed would store its outputs, once)"


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
    assert resolved(recipe, feed) == replace(recipe, teacher_mode="online")
    asked = replace(recipe, teacher_mode="stored")
    with pytest.raises(
        RelgraphError,
        match=r"^stored embeddings will not do, since sp reads the teacher's stage maps: use --teacher-mode online$",
    ):
        opened(asked, maps=True)


def test_a_settled_recipe_finds_the_same_again(make: RecipeMaker, folder: Path, tmp_path: Path) -> None:
    recipe = digits(make, embeddings=str(folder))
    feed, line = opened(recipe)
    fixed = resolved(recipe, feed)
    assert (fixed.teacher_mode, fixed.embeddings) == ("stored", str(folder / "three"))
    assert opened(fixed)[1] == line
    online = replace(recipe, embeddings=str(tmp_path))
    assert resolved(online, opened(online)[0]) == replace(online, teacher_mode="online")


def asked(recipe: Recipe, views: Views | None, maps: bool = False) -> StepInputs:
    """Return what a feed gives that is asked for extra views."""
    data, teacher, fabric = open_data(recipe), open_teacher(recipe), open_fabric(recipe)
    feed, line = open_feed(recipe, data, teacher, fabric, maps=maps, views=views)
    assert isinstance(feed, Online) and line.startswith("teacher: online")
    return feed(data.train.pixels[INDEX], batch(INDEX), torch.Generator().manual_seed(1))


EXTRA = {
    "rotations": (Views("rotations", 3), "crop"),
    "transformations": (Views("transformations", 4), "crop"),
    "patches": (Views("patches", 2), "moco"),
}


@pytest.mark.parametrize("maps", [False, True])
@pytest.mark.parametrize("views", ["shared", "independent"])
@pytest.mark.parametrize("kind", EXTRA)
def test_both_networks_see_the_same_extra_views(make: RecipeMaker, kind: str, views: str, maps: bool) -> None:
    """Those that are drawn after the first ones, with the flip of the student's: also where the teacher has its own."""
    wanted, name = EXTRA[kind]
    recipe = make(views=views, augment=name)
    found = asked(recipe, wanted, maps)
    data, generator = open_data(recipe), torch.Generator().manual_seed(1)
    images = data.train.pixels[INDEX]
    assert (data.crop_padding, data.flip) == (1, True)
    augmentation = make_augmentation(name, padding=1, flip=True, channels=3)
    drawn = augmentation.draw(6, 8, 8, generator)
    other = drawn if views == "shared" else augmentation.draw(6, 8, 8, generator)
    more = make_extra_views(*wanted, padding=1, flip=True, augmentation=augmentation, side=8)
    extra = more.draw(6, 8, 8, drawn.flip, generator).apply(images)
    assert len(extra) == wanted.each * 6 and found.extra is not None
    assert torch.equal(found.images, drawn.apply(images)) and torch.equal(found.extra, extra)
    assert found.teacher is not None and found.extra_teacher is not None
    torch.testing.assert_close(found.teacher.pooled, taught(recipe, other.apply(images)))
    torch.testing.assert_close(found.extra_teacher.pooled, taught(recipe, extra))
    for seen in (found.teacher, found.extra_teacher):
        assert len(seen.maps) == (4 if maps else 0)
        assert not maps or all(len(stage) == len(seen.pooled) for stage in seen.maps)
        assert not maps or torch.equal(seen.maps[-1].mean((2, 3)), seen.pooled)


@pytest.mark.parametrize("views", ["shared", "independent"])
def test_extra_views_lie_view_by_view(make: RecipeMaker, views: str) -> None:
    """Row v * B + i is view v of image i: here every image is of one colour of its own."""
    recipe = make(views=views)
    data, teacher = open_data(recipe), open_teacher(recipe)
    feed, _ = open_feed(recipe, data, teacher, open_fabric(recipe), views=Views("rotations", 3))
    colours = torch.arange(1, 19, dtype=torch.uint8).view(6, 3, 1, 1)
    found = feed(colours.expand(6, 3, 8, 8), batch(torch.arange(6)), torch.Generator().manual_seed(1))
    assert found.extra is not None and found.images.dtype == found.extra.dtype == torch.uint8
    shown = found.extra.view(3, 6, 3, 64).amax(-1)
    assert torch.equal(shown, colours.view(1, 6, 3).expand(3, 6, 3))


def test_a_teacher_of_any_size_sees_patches_as_they_are(make: RecipeMaker) -> None:
    """In a pass of their own, since they are smaller."""
    seen: list[tuple[int, ...]] = []

    class Mean(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(tuple(images.shape))
            return images.mean((2, 3))

    recipe = make(augment="moco")
    teacher = Teacher(Mean(), name="mean", input_size=None, channels=3, mean=(0, 0, 0), std=(1, 1, 1))
    plan = make_plan("moco", open_data(recipe), Views("patches", 2))
    seen.clear()
    pixels = open_data(recipe).train.pixels[INDEX]
    found = Online(plan, teacher, open_fabric(recipe), shared=True)(
        pixels, batch(INDEX), torch.Generator().manual_seed(1)
    )
    assert found.extra is not None and found.teacher is not None and found.extra_teacher is not None
    assert found.extra.shape == (12, 3, 3, 3) and seen == [(6, 3, 8, 8), (12, 3, 3, 3)]
    torch.testing.assert_close(found.teacher.pooled, found.images.mean((2, 3)))
    torch.testing.assert_close(found.extra_teacher.pooled, found.extra.mean((2, 3)))


@pytest.mark.parametrize("views", ["shared", "independent"])
@pytest.mark.parametrize("name", ["crop", "moco", "simclr", "simclr-small", "digits"])
def test_every_augmentation_feeds_both_networks(make: RecipeMaker, name: str, views: str) -> None:
    recipe = make(views=views, teacher_mode="online", augment=name)
    student, seen = fed(opened(recipe)[0], recipe)
    data, generator = open_data(recipe), torch.Generator().manual_seed(1)
    augmentation = make_augmentation(name, padding=data.crop_padding, flip=data.flip, channels=3)
    first, second = (augmentation.draw(6, 8, 8, generator).apply(data.train.pixels[INDEX]) for _ in range(2))
    assert student.shape == (6, 3, 8, 8) and student.dtype == (torch.uint8 if name == "crop" else torch.float32)
    assert torch.equal(student, first)
    torch.testing.assert_close(seen.pooled, taught(recipe, first if views == "shared" else second))


@pytest.mark.parametrize("name", ["crop", "moco"])
def test_a_student_alone_has_its_augmentation(make: RecipeMaker, name: str) -> None:
    recipe = make(method="none", augment=name)
    data = open_data(recipe)
    pixels = data.train.pixels[INDEX]
    found = opened(recipe)[0](pixels, batch(INDEX), torch.Generator().manual_seed(1))
    augmentation = make_augmentation(name, padding=1, flip=True, channels=3)
    drawn = augmentation.draw(6, 8, 8, torch.Generator().manual_seed(1))
    assert torch.equal(found.images, drawn.apply(pixels)) and found.extra is None


def test_what_no_store_holds(make: RecipeMaker, folder: Path) -> None:
    """Extra views, and a contrastive view that both networks see; of its own the student may have any."""
    recipe = digits(make, embeddings=str(folder), method="sskd")
    data, teacher, fabric = open_data(recipe), open_teacher(recipe), open_fabric(recipe)
    rotations = Views("rotations", 3)
    feed, line = open_feed(recipe, data, teacher, fabric, views=rotations)
    assert isinstance(feed, Online)
    assert line == ("teacher: online, in every step (sskd reads the teacher's outputs of 3 extra views of an image)")
    for views in ("shared", "independent"):
        with pytest.raises(
            RelgraphError,
            match=r"^stored embeddings will not do, since sskd reads the teacher's outputs of 3 extra views of an "
            r"image: use --teacher-mode online$",
        ):
            open_feed(replace(recipe, teacher_mode="stored", views=views), data, teacher, fabric, views=rotations)


def test_contrastive_views_and_stores(make: RecipeMaker, folder: Path) -> None:
    recipe = digits(make, embeddings=str(folder), method="seed", augment="moco")
    feed, line = opened(recipe)
    assert isinstance(feed, Online)
    assert line == "teacher: online, in every step (the teacher reads the student's own views, those of moco)"
    with pytest.raises(
        RelgraphError,
        match=r"^stored embeddings will not do, since the teacher reads the student's own views, those of moco: use ",
    ):
        opened(replace(recipe, teacher_mode="stored"))
    recipe = replace(recipe, teacher_mode="stored", views="independent")
    feed, _ = opened(recipe)
    assert isinstance(feed, Stored)
    student, seen = fed(feed, recipe)
    drawn = make_augmentation("moco", padding=1, flip=False, channels=1).draw(6, 8, 8, torch.Generator().manual_seed(1))
    assert torch.equal(student, drawn.apply(open_data(recipe).train.pixels[INDEX])) and seen.pooled.shape == (6, 64)


@pytest.mark.parametrize(
    ("name", "views", "message"),
    [
        ("crop", Views("patches", 2), r"^patches are small views of a contrastive augmentation .*, got PadCropFlip$"),
        ("moco", Views("rotations", 4), r"^there are 3 rotations of an image, got 4$"),
        ("mocco", None, r"^unknown augmentation 'mocco': did you mean 'moco'\?"),
    ],
)
def test_views_that_there_are_not(make: RecipeMaker, name: str, views: Views | None, message: str) -> None:
    with pytest.raises(RelgraphError, match=message):
        make_plan(name, open_data(make()), views)


@pytest.mark.parametrize("views", [Views("rotations", 3), Views("transformations", 4)])
def test_images_that_are_not_square_are_not_turned(make: RecipeMaker, views: Views) -> None:
    """Which is told before the training, not in its first step."""
    data = open_data(make())
    wide = replace(data, train=replace(data.train, images=torch.zeros(36, 3, 8, 12, dtype=torch.uint8)))
    with pytest.raises(RelgraphError, match=r"^views that are turned want square images, got 8 x 12$"):
        make_plan("crop", wide, views)
    assert make_plan("moco", wide, Views("patches", 2)).extra is not None
