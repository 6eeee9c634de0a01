"""Adversarial distillation of whole score maps (Liu, Chen, Liu, Qin, Luo, Wang, CVPR 2019, arXiv 1903.04197)."""

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import adaptive_avg_pool2d, relu

from relgraph.errors import RelgraphError
from relgraph.graph.kernels import at_least_float32, full_precision
from relgraph.methods.base import Batch, Loss, Method, Output, RunFacts, Shape, Terms, option, score_maps
from relgraph.networks.discriminator import SIDE, Discriminator
from relgraph.seeding import generator


class Holistic(Method):
    """Let score maps look like the teacher's to a discriminator, the holistic term of structured distillation.

    The discriminator D is trained to tell the teacher's logits `(B, classes, H, W)` from the student's, as the critic
    of a WGAN with gradient penalty, and the student to be taken for the teacher:

        L = -1 / B * sum_b D(z^s_b)
        L_discriminator = 1 / B * sum_b [D(z^s_b) - D(z^t_b)]
        L_penalty = penalty / B * sum_b (|d D / d z_b| - 1)^2        z_b = a_b z^t_b + (1 - a_b) z^s_b

    with a_b uniform in [0, 1). With `objective="hinge"` the second is the mean of `max(0, 1 - D(z^t))` and `max(0, 1 +
    D(z^s))`, without a penalty. The student is trained by L, through D as it is; D is the method's side of the teacher
    and trained by the others (`teacher_terms`, both times the published weight 0.1), at a learning rate of its own.
    Neither gets gradient from the other's. Where D has several outputs, one a position, as of maps of 24 x 24 or 128 x
    128 positions, D(z) is their mean in L and L_discriminator, and their sum in L_penalty. L has no least value: it
    says whether the student fools D, not how near it is. A teacher's map of another grid is resized to the student's
    (bilinear). Spectral norms and the draws of a_b move when `remember` is called: once a step, between `backward` and
    the optimiser's step. Weights that become no number, which users report of WGAN-GP, end a training with the name of
    the term that did first.

    Paper, official code and this one: in the paper D sees the image beside the scores (`conditional=True`, here
    averaged to their size), in the code the scores alone, as by default here. The network is the code's: batch norm of
    the scores, four convolutions of stride 2 with spectral norm, of 64 to 512 channels, self-attention behind the last
    two; of maps with a side under 64 fewer of them. The code iterates the spectral norms in every forward pass, several
    times a step, and lets D's learning rate fall with the student's; here it is constant. The code differentiates a
    square root at 0 where D is flat, which is no number; here that gradient is 0. Its order, the student and then D on
    the outputs from before, is one step of both. The weight 0.1 is the code's.

    Paper: Structured Knowledge Distillation for Semantic Segmentation (Liu et al., CVPR 2019, arXiv 1903.04197)
    Differs: the discriminator sees the scores alone, as in the code (the image as well in the paper: --method-args
        conditional=true); its learning rate is constant, and its spectral norms are iterated once a step
    Kernel: discriminator
    Topology: whole maps
    Criterion: WGAN-GP

    Args:
        scores: Shape (classes, H, W) of the student's logits, at least 8 x 8 positions; of other sizes maps may follow.
        image_channels: Channels of the images that the student reads, for a conditional discriminator.
        conditional: Whether the discriminator sees the image (`Batch.images`) as well.
        objective: "wgan-gp" or "hinge".
        penalty: Weight of the gradient penalty of "wgan-gp", at least 0.
        width: Channels of the discriminator's first convolution.
        discriminator_lr: Its learning rate.

    Raises:
        RelgraphError: for unknown names, numbers out of range, without logits of maps with as many classes, or without
            the images that it is to see.

    >>> import torch
    >>> loss = Holistic((5, 16, 16), width=8)
    >>> student, teacher = (Output(torch.zeros(2, 3), torch.randn(2, 5, 16, 16)) for _ in range(2))
    >>> sorted(loss.terms(student, teacher)), sorted(loss.teacher_terms(student, teacher, None, None))
    (['holistic'], ['discriminator', 'penalty'])
    """

    weight = 0.1
    scores: Shape
    image_channels: int = 0
    reads: tuple[str, ...] = field(default=("logits",), init=False)
    conditional: bool = option(default=False, kw_only=True)
    objective: Literal["wgan-gp", "hinge"] = option(default="wgan-gp", kw_only=True)
    penalty: float = option(default=10.0, least=0, kw_only=True)
    width: int = option(default=64, least=8, kw_only=True)
    discriminator_lr: float = option(default=4e-4, least=0, kw_only=True)

    def __post_init__(self) -> None:
        """Build the discriminator."""
        super().__post_init__()
        if not isinstance(self.scores, Sequence) or len(self.scores) != 3:
            raise RelgraphError(f"Holistic is built for score maps: expected (classes, h, w), got {self.scores}")
        classes, *size = self.scores
        if min(size) < SIDE:
            raise RelgraphError(f"Holistic needs score maps of {SIDE} x {SIDE} positions or more, got {tuple(size)}")
        beside = self.image_channels if self.conditional else 0
        if self.conditional:
            self.reads = ("logits", "image")
            if beside < 1:
                raise RelgraphError(f"a conditional Holistic sees images: expected image_channels, got {beside}")
        self.discriminator = Discriminator(classes + beside, (size[0], size[1]), self.width)
        self.seed, self.steps = int(torch.randint(2**31, ())), 0

    @classmethod
    def for_run(cls, run: RunFacts, **options: Any) -> Self:
        """Return the method for the student's score maps and the images of a run."""
        return cls(scores_of(run.scores), 0 if run.image is None else run.image[0], **options)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `holistic`."""
        s, _ = self._maps(student, teacher)
        fixed = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        with full_precision(s):
            found: Tensor = functional_call(self.discriminator, fixed, (self._seen(s, batch),))
        return {"holistic": -found.mean()}

    def teacher_terms(self, student: Output, teacher: Output, batch: Batch, cross_entropy: Loss) -> Terms:
        """Return `discriminator` and, of WGAN-GP, `penalty`, both times the published weight."""
        s, t = (x.detach() for x in self._maps(student, teacher))
        with full_precision(s):
            fake, real = (self.discriminator(self._seen(x, batch)) for x in (s, t))
            if self.objective == "hinge":
                return {"discriminator": 0.1 * (relu(1 - real).mean() + relu(1 + fake).mean())}
            mixed = torch.lerp(s, t, self._draws(s)).requires_grad_()
            score = self.discriminator(self._seen(mixed, batch)).sum()
            (slope,) = torch.autograd.grad(score, mixed, create_graph=True)
            penalty = (torch.linalg.vector_norm(slope.flatten(1), dim=1) - 1).square().mean()
        return {"discriminator": 0.1 * (fake.mean() - real.mean()), "penalty": 0.1 * self.penalty * penalty}

    def teacher_parameters(self) -> Sequence[nn.Parameter]:
        """Return the parameters of the discriminator."""
        return [*self.discriminator.parameters()]

    def teacher_rates(self) -> Mapping[nn.Parameter, float]:
        """Return the discriminator's learning rate for its parameters."""
        return dict.fromkeys(self.teacher_parameters(), self.discriminator_lr)

    @torch.no_grad()
    def remember(self, student: Output | Tensor, teacher: Output | Tensor, batch: Batch) -> None:
        """Advance the spectral norms and the random stream."""
        self.discriminator.iterate()
        self.steps += 1

    def get_extra_state(self) -> Tensor:
        """Return seed and step of the random stream, (2,), which are part of `state_dict`."""
        return torch.tensor([self.seed, self.steps])

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the random stream."""
        self.seed, self.steps = state.tolist()

    def _maps(self, student: Output, teacher: Output) -> tuple[Tensor, Tensor]:
        """Return the score maps of both, in the precision of the discriminator."""
        s, t = score_maps(student, teacher, "Holistic")
        if s.shape[1] != self.scores[0] or min(s.shape[2:]) < SIDE:
            expected = f"logits (B, {self.scores[0]}, H, W), H and W at least {SIDE}"
            raise RelgraphError(f"Holistic was built for {expected}, got {tuple(s.shape)}")
        dtype = self.discriminator.scale.dtype
        return at_least_float32(s).to(dtype), at_least_float32(t).to(dtype)

    def _seen(self, maps: Tensor, batch: Batch | None) -> Tensor:
        """Return what the discriminator sees of score maps: with the images, if it is conditional."""
        if not self.conditional:
            return maps
        images = None if batch is None else batch.images
        if images is None or images.shape[:2] != (len(maps), self.image_channels):
            expected = f"expected Batch(..., images=(B, {self.image_channels}, h, w)) as the third argument"
            raise RelgraphError(f"a conditional Holistic sees the {len(maps)} images: {expected}, got "
                                f"{'none' if images is None else tuple(images.shape)}")  # fmt: skip
        return torch.cat([maps, adaptive_avg_pool2d(images.to(maps.dtype), (maps.shape[2], maps.shape[3]))], dim=1)

    def _draws(self, maps: Tensor) -> Tensor:
        """Return the share of the teacher in each image's mixture, `(B, 1, 1, 1)`, the same until `remember`."""
        drawn = torch.rand(len(maps), 1, 1, 1, generator=generator("mixtures", self.seed, self.steps))
        return drawn.to(maps)


def scores_of(scores: Shape | None) -> Shape:
    """Return the shape of the student's score maps.

    Raises:
        RelgraphError: if there is none, since it classifies whole images.
    """
    if scores is None:
        expected = "expected networks that segment, got logits (B, classes) of whole images"
        raise RelgraphError(f"Holistic reads logits (B, classes, H, W): {expected}")
    return scores
