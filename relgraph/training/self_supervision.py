"""Objectives without labels: SimCLR, MoCo v2, and the self-supervision head that SSKD gives a teacher."""

import copy

import torch
from torch import Tensor, nn

from relgraph.graph.contrast import queue_contrast, view_contrast
from relgraph.graph.kernels import cosine
from relgraph.graph.memory import Queue
from relgraph.methods.sskd import views_to_images
from relgraph.networks.backbone import Backbone
from relgraph.networks.heads import Projector
from relgraph.outputs import Batch, Output, StepInputs
from relgraph.training.diagnostics import Diagnostics
from relgraph.training.objective import Losses, Objective, Stage, losses_of

# The key encoder's batch norm reads the images of a step in this number of shuffled groups, as if on several devices:
# with the same groups as the query, its statistics would reveal the pairs (He et al., 2019, section 3.3).
SHUFFLED_GROUPS = 4


class SimCLR(Objective):
    """Identify the other view of an image among all views of the batch: NT-Xent after a projection head.

    SimCLR (Chen, Kornblith, Norouzi, Hinton, ICML 2020, arXiv 2002.05709). Its projection head has a batch norm.

    Args:
        backbone: The network to train.
        dim: Width of the vectors that are contrasted.
        hidden: Width of the projection head's middle; the backbone's if not given.
        temperature: > 0.
    """

    def __init__(self, backbone: Backbone, dim: int, hidden: int | None, temperature: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = Projector(backbone.width, dim, hidden, norm=True)
        self.temperature = temperature

    def forward(self, inputs: StepInputs, stage: Stage = "both", diagnostics: Diagnostics | None = None) -> Losses:
        """Return the loss of two views `(N, C, H, W)` of the same images, the inputs' own and the extra one."""
        first, second = inputs.images, inputs.extra
        assert second is not None
        both = self.projector(self.backbone(torch.cat([first, second])))
        loss = view_contrast(both[: len(first)], both[len(first) :], self.temperature)
        return losses_of("nt_xent", loss, Output(both))


class MoCo(Objective):
    """Identify the other view of an image, encoded by a momentum encoder, among a queue of earlier keys.

    MoCo v2 (He et al., CVPR 2020, arXiv 1911.05722; Chen et al., 2020, arXiv 2003.04297): InfoNCE, a momentum encoder
    that is updated before it computes the keys, a head of two layers. The authors shuffle a batch over several devices,
    so that batch norm does not reveal pairs; here the key encoder reads it in shuffled groups, which is equivalent on
    one device.

    Args:
        backbone: The network to train.
        dim: Width of the vectors that are contrasted.
        hidden: Width of the projection head's middle; the backbone's if not given.
        temperature: > 0.
        queue: Number of keys.
        momentum: Share in [0, 1) of its weights that the key encoder keeps in each step.
    """

    def __init__(
        self, backbone: Backbone, dim: int, hidden: int | None, temperature: float, queue: int, momentum: float
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = Projector(backbone.width, dim, hidden)
        self.keys = nn.Sequential(copy.deepcopy(backbone), copy.deepcopy(self.projector)).requires_grad_(False)
        self.queue = Queue(queue, dim)
        self.temperature, self.momentum = temperature, momentum

    def forward(self, inputs: StepInputs, stage: Stage = "both", diagnostics: Diagnostics | None = None) -> Losses:
        """Return the loss of two views `(N, C, H, W)` of the same images; the extra one becomes the keys."""
        first, second = inputs.images, inputs.extra
        assert second is not None
        query, keys = self.projector(self.backbone(first)), self._key(second)
        loss = queue_contrast(query, keys, self.queue.keys, self.temperature)
        return losses_of("info_nce", loss, Output(query))._replace(teacher=Output(keys))

    @torch.no_grad()
    def _key(self, images: Tensor) -> Tensor:
        self._follow()
        # On the CPU, so that every device shuffles in the same way.
        order = torch.randperm(len(images)).to(images.device, non_blocking=True)
        groups = min(SHUFFLED_GROUPS, max(1, len(images) // 2))  # batch norm needs two images
        shuffled = torch.cat([self.keys(part) for part in images[order].tensor_split(groups)])
        return shuffled.new_empty(shuffled.shape).index_copy_(0, order, shuffled)

    @torch.no_grad()
    def _follow(self) -> None:
        """Update the key encoder's weights towards the query's by the momentum; it has its own batch norm buffers."""
        slow: list[Tensor] = list(self.keys.parameters())
        torch._foreach_lerp_(slow, [*self.backbone.parameters(), *self.projector.parameters()], 1 - self.momentum)

    @torch.no_grad()
    def remember(self, losses: Losses, batch: Batch) -> None:
        """Put the keys of the batch into the queue."""
        if losses.teacher is not None:
            self.queue.remember(cosine.nodes(losses.teacher.embedding))


class SelfSupervisionHead(Objective):
    """A head on a frozen teacher's feature that finds the original of a transformed image: stage 2 of SSKD's teacher.

    Cross-entropy of the cosines of each transformed image with all originals of the batch (Xu, Liu, Li, Loy, ECCV 2020,
    arXiv 2006.07114), at the temperature 1 as in the official code, where the paper leaves one to choose.

    Args:
        width: Width of the teacher's feature, and of the head's output.
        temperature: > 0.
    """

    def __init__(self, width: int, temperature: float) -> None:
        super().__init__()
        self.projector = Projector(width, width)
        self.temperature = temperature

    def forward(self, inputs: StepInputs, stage: Stage = "both", diagnostics: Diagnostics | None = None) -> Losses:
        """Return the loss of the teacher's features of N images and their extra views, `(N, width)`, `(V N, width)`."""
        assert inputs.teacher is not None and inputs.teacher.extra is not None
        images, views = (self.projector(output.embedding) for output in (inputs.teacher, inputs.teacher.extra))
        return losses_of("views_to_images", views_to_images(views, images, self.temperature), Output(images))
