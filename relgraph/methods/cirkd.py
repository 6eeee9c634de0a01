"""Cross-image relational knowledge distillation (Yang, Zhou, An, Jiang, Xu, Zhang, CVPR 2022, arXiv 2204.06986)."""

from dataclasses import field
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from relgraph.errors import RelgraphError
from relgraph.graph.blocks import rows_at_once, sum_of_blocks
from relgraph.graph.contrast import soft_rows
from relgraph.graph.criteria import log_kl
from relgraph.graph.kernels import cosine, full_precision
from relgraph.graph.memory import ClassQueues, Draws
from relgraph.graph.positions import on_grid, pooled, positions_of
from relgraph.methods.base import Batch, Method, Output, RunFacts, Terms, as_output, option
from relgraph.methods.stages import last_maps, norm, through

REMEMBERED = 16  # pixels of a class and an image, at most


class CIRKD(Method):
    """Match the teacher's similarities of each position of an image to all positions of every image of the batch.

    With x_bi the vector at position i of image b of the last stage map, and of each ordered pair of images (a, b), a
    with itself included, the softmax of its P candidates

        p_ab(i, j) = exp(cos(x_ai, x_bj) / tau) / sum_k exp(cos(x_ai, x_bk) / tau)
        L = 1 / (B^2 P) * sum_ab sum_i KL(p^t_ab(i, .) || p^s_ab(i, .))

    Called with outputs that hold maps `(B, C_s, H, W)` and `(B, C_t, h, w)`; a teacher's map of another grid is resized
    to the student's (bilinear). Returns a scalar >= 0. The teacher receives no gradient. The (B P)^2 similarities are
    computed a block of rows at a time.

    With `pixel_weight` or `region_weight` above 0, 0.1 each in the paper, there are two memories as well: of each class
    a queue of the teacher's vectors of pixels, up to 16 of an image, and one of regions, the means of an image's pixels
    of that class, all of unit length. Of each step `keys / classes + 1` slots are drawn, the same of every class, and
    with the keys v_j in them, z_i the student's vector behind its head, or the teacher's, and the softmax

        q(i, j) = exp(cos(z_i, v_j) / tau) / sum_k exp(cos(z_i, v_k) / tau)        KL(q^t(i, .) || q^s(i, .))

    is averaged over the positions that have a class; terms `pixel` and `region`. They read the labels of pixels, `(B,
    H, W)`, of which a position has that in its middle; -1 counts for nothing. The head is trained by the loss. Memories
    change only when `remember` is called, once a step, and start with random unit vectors: 20,000 slots of C_t numbers
    a class take 486 MB of 19 classes and 320 channels, in checkpoints as well. `remember` reads back from the device
    which images have a class.

    Paper, official code and this one: tau = 0.1 and no tau^2. The code's memory of pixels holds other pixels than those
    of the class, by a defect: it applies random numbers of pixels of the class to all pixels of the image; here they
    are of the class. Its loss reads the memory after the batch has been written, here before it; a queue at whose end a
    batch does not fit takes it at the end, here it goes round. Its batch is that of one device, here the whole. Its
    later version averages maps of 256 x 256 positions and more over windows of 4 x 4; `pool` is by the largest number.

    Paper: Cross-Image Relational Knowledge Distillation for Semantic Segmentation (Yang et al., CVPR 2022, arXiv
        2204.06986)
    Differs: the mini-batch term alone unless the memories are asked for, whose pixels are those of the class here and
        any of the image's in the code; over the whole batch, not that of a device
    Kernel: cosine
    Topology: positions of all images
    Criterion: KL of softmax

    Args:
        tau: Temperature > 0 of the similarities.
        student_channels: Channels of the student's last stage map, for the head.
        teacher_channels: Channels of the teacher's, for the memories.
        classes: How many classes pixels have, for the memories.
        pixel_weight: Weight of the memory of pixels; 0.1 in the paper.
        region_weight: Weight of the memory of regions; 0.1 in the paper.
        pixel_queue: Slots of a class in the memory of pixels.
        region_queue: Slots of a class in the memory of regions.
        pixel_keys: Keys of all classes that a step draws from the memory of pixels.
        region_keys: Keys of all classes that a step draws from the memory of regions.
        head: "mlp", two convolutions 1 x 1 with batch norm and ReLU between them; "none", which needs equal channels.
        pool: Share of the height and width of both maps that is pooled to one position by the largest number; none if
            not given.

    Raises:
        RelgraphError: for numbers out of range, outputs without maps, or of a memory without channels, classes, or
            labels of pixels, each below `classes`.

    >>> import torch
    >>> x, y = torch.randn(2, 4, 3, 3), torch.randn(2, 6, 3, 3)
    >>> bool(CIRKD()(Output(x, maps=(x,)), Output(y, maps=(y,))) > 0)
    True
    >>> loss = CIRKD(student_channels=4, teacher_channels=6, classes=5, region_weight=0.1)
    >>> outputs, batch = (Output(x, maps=(x,)), Output(y, maps=(y,))), Batch(torch.arange(2), torch.zeros(2, 12, 12))
    >>> sorted(loss.terms(*outputs, batch)), loss.remember(*outputs, batch)  # then the optimiser's step
    (['cirkd', 'region'], None)
    """

    reads: tuple[str, ...] = field(default=("map",), init=False)
    tau: float = option(default=0.1, above=0)
    student_channels: int | None = field(default=None, kw_only=True)
    teacher_channels: int | None = field(default=None, kw_only=True)
    classes: int | None = field(default=None, kw_only=True)
    pixel_weight: float = option(default=0.0, least=0, term="pixel", kw_only=True)
    region_weight: float = option(default=0.0, least=0, term="region", kw_only=True)
    pixel_queue: int = option(default=20000, above=0, kw_only=True)
    region_queue: int = option(default=2000, above=0, kw_only=True)
    pixel_keys: int = option(default=4096, above=0, kw_only=True)
    region_keys: int = option(default=1024, above=0, kw_only=True)
    head: Literal["mlp", "none"] = option(default="mlp", kw_only=True)
    pool: float | None = option(default=None, above=0, most=1, kw_only=True)

    def __post_init__(self) -> None:
        """Build the memories and the student's head, if there are any."""
        super().__post_init__()
        self.pixels = self.regions = self.project = None
        if self.pixel_weight == self.region_weight == 0:
            return
        self.reads = ("map", "labels")
        s, t, classes = self.student_channels, self.teacher_channels, self.classes
        if s is None or t is None or classes is None or min(s, t, classes) < 1:
            expected = "expected student_channels, teacher_channels and classes"
            raise RelgraphError(
                f"the memories of CIRKD are of classes of pixels: {expected}, got {s}, {t} and {classes}"
            )
        if self.head == "none" and s != t:
            raise RelgraphError(f"CIRKD without a head compares maps of as many channels, got {s} and {t}")
        self.pixels = ClassQueues(classes, self.pixel_queue, t) if self.pixel_weight else None
        self.regions = ClassQueues(classes, self.region_queue, t) if self.region_weight else None
        layers = nn.Conv2d(s, t, 1), norm(t), nn.ReLU(), nn.Conv2d(t, t, 1)
        self.project = nn.Sequential(*layers) if self.head == "mlp" else None
        self.draws = Draws()

    @classmethod
    def for_run(cls, run: RunFacts, **options: Any) -> Self:
        """Return the method; with memories, for the run's last stage maps and its classes of pixels."""
        if not (options.get("pixel_weight") or options.get("region_weight")):
            return cls(**options)
        student, teacher = run.widths("positions")
        if run.scores is None:
            raise RelgraphError(
                "the memories of CIRKD are of classes of pixels: expected data whose pixels have classes"
            )
        return cls(student_channels=student, teacher_channels=teacher, classes=run.scores[0], **options)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `cirkd` and, with memories, `pixel` and `region`."""
        s, t = self._maps(student, teacher)
        terms = {"cirkd": self._across(positions_of(s), positions_of(t))}
        if self.pixels is None and self.regions is None:
            return terms
        labels = self._labels(batch, s)
        if labels.device.type == "cpu":  # elsewhere reading values would synchronise the device: `remember` does anyway
            self._check(labels)
        known = labels.flatten() >= 0
        if self.project is not None:
            with full_precision(s):
                s, _ = through(self.project, s)  # of which cosines do not see the factor
        rows = [positions_of(x).flatten(0, 1) for x in (s, t)]
        given = (self.pixels, self.pixel_keys), (self.regions, self.region_keys)
        for name, (memory, keys) in zip(("pixel", "region"), given, strict=True):
            if memory is not None:
                drawn = memory.keys(self._slots(memory.size, keys, s.device))
                crossed, entropy = soft_rows(rows[0], rows[1], drawn, self.tau, self.tau)
                terms[name] = torch.where(known, crossed - entropy, 0).sum() / known.sum().clamp_min(1)
        return terms

    @torch.no_grad()
    def remember(self, student: Output | Tensor, teacher: Output | Tensor, batch: Batch) -> None:
        """Put some of the teacher's pixels of each class and image, and their mean, in place of the oldest."""
        if self.pixels is None and self.regions is None:
            return
        s, t = self._maps(as_output(student), as_output(teacher))
        labels, nodes = self._labels(batch, s), cosine.nodes(positions_of(t))
        self._check(labels)
        order = torch.rand(labels.shape, generator=self.draws.generator(labels.device, 1), device=labels.device)
        for label in range(self.classes or 0):
            of_class = labels == label
            if self.regions is not None:
                means = (of_class.to(nodes).unsqueeze(1) @ nodes).squeeze(1)  # over their number, which lengths lack
                self.regions.remember(label, cosine.nodes(means[of_class.any(1)]))
            if self.pixels is not None:
                some = min(REMEMBERED, labels.shape[1])
                chosen = order.masked_fill(~of_class, -1).topk(some, dim=1).indices
                image = torch.arange(len(nodes), device=labels.device).unsqueeze(1)
                self.pixels.remember(label, nodes[image, chosen][of_class.gather(1, chosen)])
        self.draws.advance()

    def _maps(self, student: Output, teacher: Output) -> tuple[Tensor, Tensor]:
        """Return the last stage maps of both networks on the student's grid, pooled."""
        s, t = last_maps(student, teacher, "CIRKD")
        if self.pool is not None:
            s, t = pooled(s, self.pool), pooled(t, self.pool)
        return s, on_grid(t, s.shape[-2:])

    def _across(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the divergence over the positions of all images `(B, P, C)`, a scalar."""
        count, width = student.shape[:2]
        nodes = [cosine.nodes(x.flatten(0, 1)) for x in (student, teacher)]

        def rows(anchors: slice, x: Tensor) -> Tensor:
            """Return each anchor's distribution over the positions of each image, `(A, B, P)`."""
            return (cosine.matrix(x[anchors], x) / self.tau).view(-1, count, width).log_softmax(-1)

        def term(anchors: slice, s: Tensor, t: Tensor) -> Tensor:
            return log_kl.of_block(rows(anchors, s), rows(anchors, t))

        block = rows_at_once(count * width, max(x.numel() for x in nodes))
        return (sum_of_blocks(term, nodes, count * width, block) / (count**2 * width)).to(student.dtype)

    def _labels(self, batch: Batch | None, maps: Tensor) -> Tensor:
        """Return the class of the pixel in the middle of each position of maps, `(B, P)`, -1 where it is unknown."""
        if batch is None or batch.labels.ndim != 3 or len(batch.labels) != len(maps):
            found = None if batch is None else tuple(batch.labels.shape)
            raise RelgraphError(f"CIRKD's memories read the labels of pixels, {len(maps)} maps (B, H, W), got {found}")
        labels = batch.labels.unsqueeze(1).float()
        return interpolate(labels, size=maps.shape[-2:], mode="nearest-exact").flatten(1)

    def _check(self, labels: Tensor) -> None:
        """Raise RelgraphError for a label that names no class."""
        most, classes = int(labels.max()), self.classes or 0
        if most >= classes:
            raise RelgraphError(f"labels of pixels must be 0 to {classes - 1}, or -1 where unknown, got {most}")

    def _slots(self, size: int, keys: int, device: torch.device) -> Tensor:
        """Return the slots of every class that a step reads, each once."""
        count = keys // (self.classes or 1) + 1
        return torch.randperm(size, generator=self.draws.generator(device), device=device)[:count]
