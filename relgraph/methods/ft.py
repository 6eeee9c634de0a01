"""Factor transfer (Kim, Park, Kwak, NeurIPS 2018, arXiv 1802.04977)."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from relgraph.graph.criteria import mean_square
from relgraph.graph.kernels import at_least_float32, excess
from relgraph.methods.at import attention
from relgraph.methods.base import Batch, Loss, Output, Terms, option
from relgraph.methods.stages import StageMethod, norm, same_size, through


class FT(StageMethod):
    """Match the factor of the teacher's last map, encoded by a paraphraser, an auto-encoder trained on that map.

    The paraphraser's encoder maps the teacher's last map, of C channels, to a factor of `paraphrase_rate * C` channels,
    and the translator maps the student's last map to a factor of the same width. With `Q(f)` the mean square of a
    factor over its channels, as a vector of length 1 over the positions,

        L = mean |Q(translator(s)) - Q(encoder(t))|        L_paraphraser = mean (decoder(encoder(t)) - t)^2

    with means over all images and positions (and channels). The larger factor is averaged over space to the size of the
    smaller before. Encoder, decoder and translator are three 3x3 convolutions of stride 1 each, with leaky ReLUs of
    slope 0.1: from C channels to C, kC and kC in the encoder, back the same way by transposed convolutions in the
    decoder, and in the translator from the student's C_s to C_s, kC and kC, with batch norms. The translator is trained
    with the student by L; the paraphraser by L_paraphraser alone (`teacher_terms`), which gives the student no
    gradient. Called with outputs that hold maps `(N, C, H, W)`; returns a scalar >= 0. The teacher receives no
    gradient.

    Paper, official code and this one: the code trains the paraphraser in 30 epochs before the student's; here it is
    trained beside the student, so the first targets are those of a paraphraser that is hardly trained. The paper
    compares the factors themselves, each divided by its length; the benchmark code (RepDistiller) their channels' mean
    squares, as here. The weight 200 is its too.

    Paper: Paraphrasing Complex Network: Network Compression via Factor Transfer (Kim, Park, Kwak, NeurIPS 2018,
        arXiv 1802.04977)
    Differs: the paraphraser is trained beside the student, in the code 30 epochs before it; factors are compared by
        their channels' mean squares, as in the code, not in the paper
    Criterion: mean absolute

    Args:
        student_maps: Shapes (C, H, W) of the student's maps, the stem's first.
        teacher_maps: Those of the teacher.
        paraphrase_rate: k in (0, 1]: channels of a factor for each channel of the teacher.

    Raises:
        RelgraphError: if a network returns no map, they are not of the same images or have other channels than the
            given shapes, or the rate is out of range.

    >>> loss = FT(student_maps=((4, 8, 8),), teacher_maps=((8, 4, 4),))
    >>> loss.encoder[-2].out_channels, len(loss.teacher_parameters())
    (4, 12)
    """

    weight = 200.0
    pointwise = True

    least = 1
    facing = slice(-1, None)
    paraphrase_rate: float = option(default=0.5, above=0, most=1)

    def __post_init__(self) -> None:
        """Build translator and paraphraser."""
        super().__post_init__()
        ((student, *_), (teacher, *_)) = self.built[0]
        factor = max(1, int(self.paraphrase_rate * teacher))
        self.translator = _layers(nn.Conv2d, (student, student, factor, factor), normed=True)
        self.encoder = _layers(nn.Conv2d, (teacher, teacher, factor, factor))
        self.decoder = _layers(nn.ConvTranspose2d, (factor, factor, teacher, teacher))

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `ft`."""
        [(s, t)] = self.pairs(student, teacher)
        # Not under no_grad: autocast keeps the weights it casts, in older torch (its issue 158232) as constants then,
        # and the paraphraser would get no gradient from its own loss.
        t = t / excess(t).amax((1, 2, 3), keepdim=True)  # of each image, whose attention does not see its scale
        target = through(self.encoder, t)[0].detach()
        return {"ft": factor_loss(through(self.translator, s)[0], target)}

    def teacher_terms(self, student: Output, teacher: Output, batch: Batch, cross_entropy: Loss) -> Terms:
        """Return `paraphraser`, the mean squared error of its reconstruction of the teacher's last map."""
        t = self.pairs(student, teacher)[0][1].detach()
        found, factor = through(nn.Sequential(self.encoder, self.decoder), t)
        return {"paraphraser": mean_square(found * factor, at_least_float32(t))}

    def teacher_parameters(self) -> Sequence[nn.Parameter]:
        """Return the parameters of the paraphraser."""
        return [*self.encoder.parameters(), *self.decoder.parameters()]


def factor_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean absolute difference of the attention of two factors `(N, k, H, W)` and `(N, k, h, w)`."""
    s, t = (attention(factor) for factor in same_size(student, teacher))
    return (s - t).abs().mean()


def _layers(convolution: Callable[..., nn.Module], widths: Sequence[int], normed: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = []  # slopes of 0.1 as in the code
    for inputs, outputs in pairwise(widths):
        after = [norm(outputs)] if normed else []
        layers += [convolution(inputs, outputs, 3, padding=1, bias=not normed), *after, nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)
