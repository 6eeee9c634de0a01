"""Trust: on which anchors a teacher is right, and on which of the others it is the least wrong."""

import torch
from torch import Tensor


def rank_of(scores: Tensor, true: Tensor) -> Tensor:
    """Return at which place an anchor's scores have the true candidate, 0 for the first, `(..., M) -> (...)`.

    Equal scores stand in the order of their columns, as a stable sort leaves them.

    Args:
        scores: The anchors' scores of M candidates, `(..., M)`.
        true: The true candidate of each anchor, `(...)`, in 0..M-1.

    >>> rank_of(torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.3, 0.5]]), torch.tensor([2, 2]))
    tensor([1, 1])
    """
    place = true.unsqueeze(-1)
    own = scores.gather(-1, place)
    earlier = torch.arange(scores.shape[-1], device=scores.device) < place
    return ((scores > own) | ((scores == own) & earlier)).sum(-1)


def trusted(rank: Tensor, ratio: float) -> Tensor:
    """Return which rows are trusted: those of rank 0, and of the W others the `floor(W * ratio)` of lowest rank.

    The selective transfer of SSKD (Xu et al., 2020, arXiv 2006.07114). Equal ranks at the boundary go by image, and
    within an image by view. Nothing is read back from the device.

    Args:
        rank: Rank of the true candidate for V views of N images, `(V, N)`.
        ratio: Share of the others, in [0, 1].

    >>> trusted(torch.tensor([[0, 2, 1], [3, 0, 5]]), ratio=0.5)
    tensor([[ True,  True,  True],
            [False,  True, False]])
    """
    position = rank.mT.flatten().argsort(stable=True).argsort()
    wrong = (rank > 0).sum()
    kept = rank.numel() - wrong + (wrong.double() * ratio).long()  # as int() of Python does it
    return (position < kept).view(rank.mT.shape).mT


def trusted_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the values where the mask is true, a scalar; 0 where it is nowhere.

    >>> trusted_mean(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([True, False, True]))
    tensor(3.5000)
    """
    return torch.where(mask, values, 0).sum() / mask.sum().clamp_min(1)
