"""Teachers of the CIFAR benchmark that others trained: files that RepDistiller and mdistiller published."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from relgraph.data.sources import CIFAR100_NORMALISATION
from relgraph.errors import RelgraphError, unknown
from relgraph.networks.backbone import Backbone
from relgraph.networks.files import check_finite
from relgraph.networks.heads import Head
from relgraph.networks.sources import Arguments, Listed, Pretrained, TeacherSource
from relgraph.networks.students import ALIASES, STUDENTS
from relgraph.networks.weights import read_weights

# Those that RepDistiller published; mdistiller has more of the same networks.
PUBLISHED = ("resnet32x4", "resnet50", "resnet56", "resnet110", "vgg13", "wrn_40_2")


@dataclass(frozen=True)
class PublishedSource(TeacherSource):
    """A network of the benchmark by its name, with the weights of a file as RepDistiller and mdistiller write them.

    These name layers otherwise (`conv1`, `layer1.0.bn1`, `block1.layer.0.convShortcut`, `fc`, `classifier.0`,
    `linear`), but define each network in the order of this package: stem, stages, what follows them, classifier, and
    in a block the main path before the shortcut; in ShuffleNet V2's units with stride 2 the pooled branch comes first
    there as here. So tensors are copied in order, each compared in kind and shape, and counters of batch norms are
    left out. Images are normalised by the benchmark's constants of CIFAR-100. A file does not name its classes: the
    benchmark has them in the order of torchvision's CIFAR-100, in which this package reads it.
    """

    name: str
    takes_arguments: ClassVar[bool] = False

    @property
    def has_classifier(self) -> bool:
        """A file holds the linear classifier."""
        return True

    def load(self, weights: Path | None, input_size: int | None, arguments: Arguments) -> Pretrained:
        """Return the backbone with the weights of a file; it reads images of any size.

        Raises:
            RelgraphError: for an unknown name, without a file, or one that cannot be read safely or is of another
                network.
        """
        return Pretrained(self._read(weights)[0], None, 3, *CIFAR100_NORMALISATION)

    def classifier(self, weights: Path | None) -> tuple[Head, None]:
        """Return the linear classifier of a file, which names no classes.

        Raises:
            RelgraphError: as `load`.
        """
        return self._read(weights)[1], None

    def _read(self, weights: Path | None) -> tuple[Backbone, Head]:
        name = ALIASES.get(self.name, self.name)
        if name not in STUDENTS:
            raise unknown("network of the benchmark", self.name, STUDENTS)
        if weights is None:
            told = "needs a published file: give --teacher-weights FILE, such as its ckpt_epoch_240.pth"
            raise RelgraphError(f"repdistiller:{self.name} {told}")
        found = _counted(read_weights(weights).items())
        last = found[-1][1] if found else torch.zeros(1)
        backbone = STUDENTS[name].build(3)
        head = Head(backbone.width, None, len(last) if last.ndim == 1 else 1)
        _copy(nn.ModuleDict({"backbone": backbone, "head": head}), found, f"{weights} is no {self.name}")
        check_finite(head, str(weights))
        return backbone.eval(), head.eval()


def _counted(tensors: Iterable[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    """Return the tensors but for the counters of batch norms, which older versions of torch do not write."""
    return [(name, tensor) for name, tensor in tensors if not name.endswith("num_batches_tracked")]


@torch.no_grad()
def _copy(network: nn.Module, found: list[tuple[str, Tensor]], told: str) -> None:
    """Copy tensors into a network, in order.

    Raises:
        RelgraphError: naming the first that does not fit, or the numbers of tensors, if these differ.
    """
    own = _counted(network.state_dict().items())
    for (name, slot), (theirs, tensor) in zip(own, found, strict=False):
        kind = name.rpartition(".")[2]
        if slot.shape != tensor.shape or not theirs.endswith(kind):
            expected = f"expected a {kind} {tuple(slot.shape)} for {name}"
            raise RelgraphError(f"{told}: {expected}, found {theirs} {tuple(tensor.shape)}")
        slot.copy_(tensor)
    if len(own) != len(found):
        raise RelgraphError(f"{told}: expected {len(own)} tensors, found {len(found)}")


def list_published() -> list[Listed]:
    """Return the teachers that RepDistiller published."""
    address = "https://github.com/HobbitLong/RepDistiller"
    return [Listed("repdistiller", name, None, None, address) for name in PUBLISHED]
