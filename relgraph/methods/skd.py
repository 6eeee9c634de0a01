"""Structured knowledge distillation (Liu, Chen, Liu, Qin, Luo, Wang, CVPR 2019, arXiv 1903.04197)."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Self

from relgraph.methods.base import Method, RunFacts, Shape, option
from relgraph.methods.holistic import Holistic, scores_of
from relgraph.methods.pairwise import Pairwise
from relgraph.methods.pixelwise import Pixelwise
from relgraph.methods.sum import Sum
from relgraph.options import check_options


class SKD(Sum):
    """Match class scores at each position, cosines between positions and whole score maps: three methods at once.

        L = pixel_weight * L_pixelwise + pair_weight * L_pairwise + holistic_weight * L_holistic

    with the terms of `Pixelwise`, `Pairwise` and `Holistic`, whose docstrings say what they read; one of weight 0 is
    left out. Called with outputs that hold logits `(B, classes, H, W)` and a last stage map; returns a scalar. The
    teacher receives no gradient. With other options of a term write the sum itself,
    `pixelwise+pairwise+0.01*holistic`.

    Paper, official code and this one: the paper has the weight 10 for the first two and 0.1 for the third, the code's
    script 10, of a term that is summed over the images, 0.5 and 0.1 (`official=True`). Those hurt small students on
    small data; by default the weights are 1 and 0.5, and the holistic term, which trains a discriminator, is off.

    Paper: Structured Knowledge Distillation for Semantic Segmentation (Liu et al., CVPR 2019, arXiv 1903.04197)
    Differs: weights 1, 0.5 and 0, where the code has 10, 0.5 and 0.1 (--method-args official=true) and the paper 10, 10
        and 0.1
    Kernel: cosine
    Topology: positions of one image
    Criterion: KL; mean square; WGAN-GP

    Args:
        scores: Shape (classes, H, W) of the student's logits, for the holistic term.
        official: Whether weights not given, and the form of the pixel-wise term, are the code's.
        pixel_weight: Weight of the pixel-wise term; 1, or the code's 10, if not given.
        pair_weight: Weight of the pair-wise term.
        holistic_weight: Weight of the holistic term; 0, or the code's 0.1, if not given.

    Raises:
        RelgraphError: for numbers out of range, weights that are all 0, or as its parts.

    >>> import torch
    >>> from relgraph.methods import Output
    >>> x, y = torch.randn(2, 5, 8, 8), torch.randn(2, 5, 8, 8)
    >>> sorted(SKD().terms(Output(x, x, maps=(x,)), Output(y, y, maps=(y,))))
    ['pairwise', 'pixelwise']
    >>> SKD((5, 8, 8), official=True).weights
    {'pixelwise': 10.0, 'pairwise': 0.5, 'holistic': 0.1}
    """

    reads = ("logits", "map")

    methods: Mapping[str, tuple[float, Method]] = field(init=False)
    scores: Shape | None = None
    official: bool = option(default=False, kw_only=True)
    pixel_weight: float | None = option(default=None, least=0, kw_only=True)
    pair_weight: float = option(default=0.5, least=0, kw_only=True)
    holistic_weight: float | None = option(default=None, least=0, kw_only=True)

    def __post_init__(self) -> None:
        """Put the parts that have a weight together."""
        check_options(self)
        pixelwise = Pixelwise(official=self.official)
        pixel = pixelwise.weight if self.pixel_weight is None else self.pixel_weight
        holistic = Holistic.weight * self.official if self.holistic_weight is None else self.holistic_weight
        parts: dict[str, tuple[float, Method]] = {
            "pixelwise": (pixel, pixelwise),
            "pairwise": (self.pair_weight, Pairwise()),
        }
        if holistic > 0:
            parts["holistic"] = holistic, Holistic(scores_of(self.scores))
        self.methods = {name: part for name, part in parts.items() if part[0] > 0}
        super().__post_init__()

    @classmethod
    def for_run(cls, run: RunFacts, **options: Any) -> Self:
        """Return the method for the student's score maps in a run."""
        return cls(run.scores, **options)
