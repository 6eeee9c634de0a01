import pytest
import torch

from relgraph.data.fixed_views import FixedViews
from relgraph.data.views import PadCropFlip
from relgraph.errors import RelgraphError
from relgraph.seeding import generator


def images(n: int) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, 6, 6), dtype=torch.uint8)


def test_view_0_is_the_image_and_the_others_are_not() -> None:
    views, index = FixedViews(9, 3, padding=2, flip=True, seed=0), torch.tensor([8, 0, 3, 3])
    pixels = images(9)[index]
    assert torch.equal(views.take(torch.zeros(4, dtype=torch.long), index).apply(pixels), pixels)
    for v in (1, 2):
        assert not torch.equal(views.take(torch.full((4,), v), index).apply(pixels), pixels)


def test_a_view_is_one_draw_for_all_images_by_seed_and_number() -> None:
    views, view, index = FixedViews(50, 3, padding=2, flip=True, seed=5), [2, 1, 2, 1], [40, 7, 7, 7]
    draws = [PadCropFlip(2, True).draw(50, 6, 6, generator("stored views", 5, v)) for v in range(3)]
    taken = views.take(torch.tensor(view), torch.tensor(index))
    for name in ("dx", "dy", "flip"):
        expected = torch.stack([getattr(draws[v], name)[i] for v, i in zip(view, index, strict=True)])
        assert getattr(taken, name).dtype == expected.dtype and torch.equal(getattr(taken, name), expected)


def test_more_views_leave_the_first_as_they_are() -> None:
    few, many = (FixedViews(30, count, padding=4, flip=True, seed=1) for count in (2, 5))
    assert torch.equal(few.dx, many.dx[:2]) and torch.equal(few.flip, many.flip[:2])


def test_seeds_differ_and_flips_are_those_of_the_data_set() -> None:
    first, second = (FixedViews(64, 2, padding=4, flip=False, seed=seed) for seed in (0, 1))
    assert not torch.equal(first.dx, second.dx)
    assert not first.flip.any()
    with pytest.raises(RelgraphError, match="at least 1 image and 1 view, got 5 and 0"):
        FixedViews(5, 0, padding=1, flip=False, seed=0)


def test_a_stored_view_is_not_the_view_of_an_epoch_of_its_number() -> None:
    """The student would meet in epoch v what its teacher has stored as view v."""
    for seed, v in ((0, 1), (5, 2)):
        stored = FixedViews(50, 3, padding=4, flip=True, seed=seed).take(torch.full((50,), v), torch.arange(50))
        trained = PadCropFlip(4, True).draw(50, 6, 6, generator("views", seed, v))
        assert (stored.dx == trained.dx).float().mean() < 0.5 and (stored.dy == trained.dy).float().mean() < 0.5
        assert not torch.equal(stored.flip, trained.flip)
