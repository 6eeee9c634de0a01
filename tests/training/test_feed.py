"""The inputs of a step: the views of both networks as a generator decides, and the teacher's outputs for them."""

from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from relgraph.data.augment import make_augmentation
from relgraph.data.datasets import DataSet
from relgraph.data.embeddings import EmbeddingStore
from relgraph.data.extra_views import make_extra_views
from relgraph.data.views import Normalise
from relgraph.methods import EGA, KD, SP, Method, Sum, Views
from relgraph.networks.sources import Pretrained
from relgraph.networks.teachers import Teacher
from relgraph.outputs import Batch, Output
from relgraph.training.building import open_data, open_teacher
from relgraph.training.distillation import open_task
from relgraph.training.feed import Feed, Online, Stored, TwoViews, input_of, make_plan, open_feed, reads_maps
from relgraph.training.recipe import Recipe
from relgraph.training.stores import store_embeddings
from tests.checks import assert_refused, assert_refused_like, refusal
from tests.training.conftest import RecipeMaker

INDEX = torch.tensor([30, 2, 2, 17, 35, 9])
SHARING = ("shared", "independent")


class Reading(Method):
    """A method that reads maps or extra views; nothing is computed with it."""

    def __init__(self, views: Views | None = None, reads: tuple[str, ...] = ("embedding",)) -> None:
        super().__init__()
        self.views, self.reads = views, reads


class Opened(NamedTuple):
    """A feed with what it was opened for."""

    feed: Any
    fixed: Recipe
    line: str
    data: DataSet

    def __call__(self, seed: int = 1, index: Tensor = INDEX) -> Any:
        """Return the inputs for images at these positions; they do not depend on the labels."""
        batch = Batch(index, torch.full((len(index),), -1))
        found = self.feed(self.data.train.pixels[index], batch, torch.Generator().manual_seed(seed))
        assert found.batch is batch
        return found

    def read(self, views: Tensor) -> Tensor:
        """Return views as the student reads them."""
        return Normalise(self.data.mean, self.data.std)(views)

    def drawn(self, name: str, count: int = 1) -> tuple[list[Tensor], Any, torch.Generator]:
        """Return views that an augmentation draws one after the other, what was drawn last, and the generator."""
        generator, images = torch.Generator().manual_seed(1), self.data.train.pixels[INDEX]
        size, channels = images.shape[-1], images.shape[1]
        augmentation = make_augmentation(name, padding=1, flip=self.data.flip, channels=channels)
        draws = [augmentation.draw(len(INDEX), size, size, generator) for _ in range(count)]
        return [draw.apply(images) for draw in draws], draws[0], generator


def opened(recipe: Recipe, method: Method | None = None) -> Opened:
    task = open_task(recipe, open_data(recipe), torch.device("cpu"))
    teacher = open_teacher(recipe) if recipe.uses_teacher else None
    return Opened(*open_feed(recipe, task, teacher, recipe.precision, method), task.data)


def digits(make: RecipeMaker, **options: Any) -> Recipe:
    return make(dataset="digits", **options)


@pytest.fixture(scope="module")
def folder(make: RecipeMaker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store of digits, whose training images are not numbered from 0 on; do not change it."""
    root = tmp_path_factory.mktemp("embeddings")
    store_embeddings(digits(make), root / "three", views=3)
    return root


@torch.no_grad()
def taught(recipe: Recipe, images: Tensor) -> Tensor:
    """Return the teacher's own feature of images."""
    teacher = open_teacher(recipe)
    feature: Tensor = teacher(input_of(teacher)(images))
    return feature


def feature_of(found: Output | None) -> Tensor:
    """Return the feature of a teacher, which is its embedding before its head."""
    assert found is not None and found.feature is not None and found.logits is None
    assert torch.equal(found.feature, found.embedding) and not found.embedding.requires_grad
    return found.embedding


@pytest.mark.parametrize("name", ["crop", "moco"])
def test_a_student_alone_has_its_augmentation(make: RecipeMaker, name: str) -> None:
    """In one view or, to contrast them, in two that are drawn one after the other."""
    one = opened(make(method="none", augment=name))
    views, _, _ = one.drawn(name, 2)
    found = one()
    assert type(one.feed) is Feed and (one.line, found.teacher, found.extra) == ("teacher: none", None, None)
    assert torch.equal(found.images, one.read(views[0]))
    assert found.images.is_contiguous(memory_format=torch.channels_last)
    two = one._replace(feed=TwoViews(one.feed.plan, one.feed.student_input))()
    assert torch.equal(two.images, one.read(views[0])) and torch.equal(two.extra, one.read(views[1]))
    assert one.fixed == make(method="none", augment=name)


def test_every_augmentation_feeds_both_networks(make: RecipeMaker) -> None:
    """One view for both, or the teacher's drawn after the student's; maps and extra views are there on request."""
    for name, views in product(("crop", "moco", "simclr", "simclr-small", "digits"), SHARING):
        recipe = make(views=views, teacher_mode="online", augment=name)
        one = opened(recipe)
        found, (drawn, _, _) = one(), one.drawn(name, 2)
        assert one.line.startswith("teacher: online") and torch.equal(found.images, one.read(drawn[0]))
        torch.testing.assert_close(feature_of(found.teacher), taught(recipe, drawn[views == "independent"]))
        assert found.teacher.maps == () and found.extra is None


def test_online_gives_the_stage_maps_of_the_same_views(make: RecipeMaker) -> None:
    """In one pass or in as many parts as the student's, to methods that read maps."""
    kd = KD()
    assert all(map(reads_maps, (SP(), Sum({"kd": (1.0, kd), "sp": (1.0, SP())}), Reading(reads=()))))
    assert not any(map(reads_maps, (None, kd, EGA(), SP(nodes="feature"), Sum({"kd": (1.0, kd), "ega": (1.0, EGA())}))))
    for views in SHARING:
        recipe = make(views=views, method="sp")
        plain, one, parted = opened(recipe), opened(recipe, SP()), opened(replace(recipe, accumulate=3), SP())
        assert one.line == "teacher: online, in every step (sp reads the teacher's stage maps)"
        for found in (one(), parted()):
            feature = feature_of(found.teacher)
            assert torch.equal(found.images, plain().images)
            torch.testing.assert_close(feature, feature_of(plain().teacher))
            assert tuple(stage.shape[1:] for stage in found.teacher.maps) == open_teacher(recipe).map_shapes()
            torch.testing.assert_close(found.teacher.maps[-1].mean((2, 3)), feature)  # of this teacher, a CIFAR ResNet
            assert not any(part.requires_grad for part in found.teacher.maps)


def test_online_computes_in_the_run_s_precision(make: RecipeMaker) -> None:
    single, maps, half, half_maps = (
        feature_of(opened(make(teacher_mode="online", precision=precision), method)().teacher)
        for precision in ("32-true", "bf16-mixed") for method in (None, SP())
    )  # fmt: skip
    assert single.dtype == half.dtype == torch.float32
    assert torch.equal(single, maps) and torch.equal(half, half_maps) and not torch.equal(single, half)
    torch.testing.assert_close(single, half, rtol=0.05, atol=0.05)


def test_the_student_sees_the_view_whose_embedding_is_given(make: RecipeMaker, folder: Path) -> None:
    recipe, index = digits(make, seed=2), torch.arange(60)
    data = open_data(recipe)
    for limit in (0, 2**32):
        store = EmbeddingStore(folder / "three", limit=limit)
        assert store.resident == (limit > 0)
        feed = Stored(make_plan("crop", data, None), lambda x: x, store, data.train.index, shared=True)
        found = Opened(feed, recipe, "", data)(index=index)
        assert found.images.dtype == torch.uint8 and found.teacher.maps == ()
        torch.testing.assert_close(feature_of(found.teacher), taught(recipe, found.images))
        plain = (found.images == data.train.pixels[index]).flatten(1).all(1)
        assert 0 < plain.sum() < 40, "about a third are the image itself"


def test_views_of_a_store_are_drawn_uniformly_and_the_generator_decides(make: RecipeMaker, folder: Path) -> None:
    for views in SHARING:
        one = opened(digits(make, embeddings=str(folder), views=views))
        assert isinstance(one.feed, Stored)
        (first, again, other) = (one(seed) for seed in (1, 1, 2))
        assert torch.equal(first.images, again.images)
        assert torch.equal(first.teacher.embedding, again.teacher.embedding)
        assert not torch.equal(first.images, other.images)
        if views == "shared":
            images = one(index=torch.full((300,), 5)).images
            _, counts = torch.unique(images.flatten(1), dim=0, return_counts=True)
            assert len(counts) == 3 and ((counts - 100).abs() < 40).all(), counts  # 5 standard deviations
            line = f"stored embeddings {folder}/three, 3 views an image, one of them drawn for both networks"
            assert one.line == f"teacher: {line}, computed in 32-true"
            continue
        known = one.feed.known(torch.tensor([4, 0]))
        stored = one.feed.store.rows(torch.zeros(2, dtype=torch.long), one.data.train.index[torch.tensor([4, 0])])
        assert torch.equal(feature_of(known), stored)
        # Fresh for the student, and each feature is that of some stored view of its image.
        assert "3 views an image, fresh ones for the student" in one.line
        assert torch.equal(first.images, one.read(one.drawn("crop")[0][0]))
        stored_as = one.data.train.index[INDEX]
        rows = torch.stack([one.feed.store.rows(torch.full((6,), view), stored_as) for view in range(3)])
        assert (first.teacher.embedding == rows).all(2).any(0).all()


def test_one_view_is_the_image_itself(make: RecipeMaker, tmp_path: Path) -> None:
    recipe = make(views="independent", embeddings=str(tmp_path))
    store_embeddings(recipe, tmp_path / "one", views=1)
    one = opened(recipe)
    assert "1 view an image, fresh ones for the student" in one.line
    torch.testing.assert_close(feature_of(one().teacher), taught(recipe, one.data.train.pixels[INDEX]))


def test_what_a_mode_finds_and_says(make: RecipeMaker, folder: Path, tmp_path: Path) -> None:
    """A resolved recipe finds the same again."""
    recipe, nothing = digits(make, embeddings=str(folder)), str(tmp_path)
    one = opened(recipe)
    fixed = one.fixed
    assert (fixed.teacher_mode, fixed.embeddings) == ("stored", str(folder / "three"))
    assert isinstance(one.feed, Stored) and opened(fixed).line == one.line
    assert isinstance(opened(replace(recipe, teacher_mode="online")).feed, Online)
    std = open_teacher(recipe).std
    does_not_fit = f"{folder}/three does not fit: the teacher's std: {std} in the store, (0.5,) in this run"
    none = f"{nothing} holds none of digits by embedded:digits, relgraph embed makes them"
    for options, why, missing in (
        ({"teacher_std": (0.5,)}, f"\nno stored embeddings fit: {does_not_fit}", does_not_fit),
        ({"embeddings": nothing}, ", in every step (relgraph embed would store its outputs, once)", none),
    ):
        other = replace(recipe, **options)
        online = opened(other)
        assert isinstance(online.feed, Online) and online.line == f"teacher: online{why}"
        assert online.fixed == replace(other, teacher_mode="online")
        stored = replace(other, teacher_mode="stored")
        assert_refused((partial(opened, stored), f"no stored embeddings fit: {missing}"))


def test_what_no_store_holds(make: RecipeMaker, folder: Path) -> None:
    """Maps, extra views, and a contrastive view that both networks see; of its own the student may have any."""
    recipe = digits(make, embeddings=str(folder))
    rotations = Reading(Views("rotations", 3))
    cases: tuple[tuple[dict[str, Any], Method | None, str], ...] = (
        ({"method": "sp"}, SP(), "sp reads the teacher's stage maps"),
        ({"method": "kd"}, Reading(reads=()), "kd names no part that it reads, and may read all"),
        ({"method": "kd"}, rotations, "kd reads the teacher's outputs of 3 extra views of an image"),
        ({"method": "kd", "views": "independent"}, rotations, "kd reads the teacher's outputs of 3 extra views of an"),
        ({"method": "seed", "augment": "moco"}, None, "the teacher reads the student's own views, those of moco"),
    )
    for options, method, why in cases:
        given = replace(recipe, **options)
        one = opened(given, method)
        assert isinstance(one.feed, Online) and one.line.startswith(f"teacher: online, in every step ({why}")
        assert one.fixed == replace(given, teacher_mode="online")
        told = refusal(partial(opened, replace(given, teacher_mode="stored"), method))
        assert told.startswith(f"stored embeddings will not do, since {why}")
        assert told.endswith(": use --teacher-mode online")
    one = opened(replace(recipe, method="seed", augment="moco", teacher_mode="stored", views="independent"))
    assert isinstance(one.feed, Stored)
    found = one()
    assert torch.equal(found.images, one.read(one.drawn("moco")[0][0])) and found.teacher.embedding.shape == (6, 64)


EXTRA = (Views("rotations", 3), "crop"), (Views("transformations", 4), "crop"), (Views("patches", 2), "moco")


@pytest.mark.slow
def test_both_networks_see_the_same_extra_views(make: RecipeMaker) -> None:
    """Drawn after the first ones, with the flip of the student's, view by view: also where the teacher has its own."""
    for (wanted, name), views in product(EXTRA, SHARING):
        recipe = make(views=views, augment=name)
        one = opened(recipe, Reading(wanted))
        (first, *others), draw, generator = one.drawn(name, 1 + (views == "independent"))
        augmentation = make_augmentation(name, padding=1, flip=True, channels=3)
        more = make_extra_views(*wanted, padding=1, flip=True, augmentation=augmentation, side=8)
        extra = more.draw(6, 8, 8, draw.flip, generator).apply(one.data.train.pixels[INDEX])
        assert len(extra) == wanted.each * 6
        for reads in (("embedding",), ("embedding", "maps")):
            found = opened(recipe, Reading(wanted, reads))()
            assert torch.equal(found.images, one.read(first)) and torch.equal(found.extra, one.read(extra))
            torch.testing.assert_close(feature_of(found.teacher), taught(recipe, (others or [first])[0]))
            torch.testing.assert_close(found.teacher.extra.embedding, taught(recipe, extra))
            assert len(found.teacher.maps) == (4 if "maps" in reads else 0) and found.teacher.extra.maps == ()
            assert all(len(stage) == 6 for stage in found.teacher.maps)


def test_a_teacher_of_any_size_sees_patches_as_they_are(make: RecipeMaker) -> None:
    """In a pass of their own, since they are smaller."""
    seen: list[tuple[int, ...]] = []

    class Mean(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(tuple(images.shape))
            return images.mean((2, 3))

    recipe = make(augment="moco")
    teacher = Teacher(Pretrained(Mean(), None, 3, (0, 0, 0), (1, 1, 1)), "mean")
    data = open_data(recipe)
    seen.clear()
    feed = Online(make_plan("moco", data, Views("patches", 2)), lambda x: x, teacher, input_of(teacher))
    found = Opened(feed, recipe, "", data)()
    assert found.extra.shape == (12, 3, 3, 3) and seen == [(6, 3, 8, 8), (12, 3, 3, 3)]
    torch.testing.assert_close(feature_of(found.teacher), found.images.mean((2, 3)))
    torch.testing.assert_close(feature_of(found.teacher.extra), found.extra.mean((2, 3)))


def test_views_that_there_are_not(make: RecipeMaker) -> None:
    """Which is told before the training, not in its first step."""
    data = open_data(make())
    wide = replace(data, train=replace(data.train, images=torch.zeros(36, 3, 8, 12, dtype=torch.uint8)))
    turned = r"^views that are turned want square images, got 8 x 12$"
    patches = r"^patches are small views of a contrastive augmentation .*, got PadCropFlip$"
    for images, name, views, told in (
        (data, "crop", Views("patches", 2), patches),
        (data, "moco", Views("rotations", 4), r"^there are 3 rotations of an image, got 4$"),
        (data, "mocco", None, r"^unknown augmentation 'mocco': did you mean 'moco'\?"),
        (wide, "crop", Views("rotations", 3), turned),
        (wide, "crop", Views("transformations", 4), turned),
    ):
        assert_refused_like((partial(make_plan, name, images, views), told))
    assert make_plan("moco", wide, Views("patches", 2)).extra is not None
