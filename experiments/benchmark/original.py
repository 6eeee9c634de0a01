"""EGA's training loop as in its official code, to compare with: written anew from its description, not its code.

As described: the teacher runs in every step, on crops of its own; PIL images, transformed one by one in two worker
processes; float32, channels first; one Pearson matrix of both batches; figures read back in every step
(Ma, Chen, Akata, 2022, arXiv 2211.13264).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.utils.data import DataLoader, Dataset

from relgraph.data.images import ImageSet
from relgraph.networks.heads import Head, Student
from relgraph.networks.teachers import Teacher

Item = tuple[Tensor, Tensor, int]


class TwoViews(Dataset[Item]):
    """The student's view of an image, the teacher's view (another crop, another flip), and its class."""

    def __init__(self, images: ImageSet, teacher_size: int, mean: Sequence[float], std: Sequence[float]) -> None:
        from torchvision import transforms

        self.pixels = images.pixels.permute(0, 2, 3, 1).cpu().numpy()
        self.labels = images.labels.tolist()
        side = self.pixels.shape[1]
        crop = transforms.RandomCrop(side, padding=side // 8)
        resize = transforms.Resize(teacher_size, transforms.InterpolationMode.BICUBIC)
        rest = [transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize(mean, std)]
        self.student_view: Any = transforms.Compose([crop, *rest])
        self.teacher_view: Any = transforms.Compose([crop, resize, *rest])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> Item:
        from PIL import Image

        image = Image.fromarray(self.pixels[number])
        return self.student_view(image), self.teacher_view(image), self.labels[number]


def original_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return EGA of embeddings `(N, D)`: one 2N x 2N Pearson matrix cut in four, Frobenius norms, weights 0.8 and 0.24.

    Without a guard: a node without variance makes it NaN.
    """
    n = len(student)
    matrix = torch.corrcoef(torch.cat([student, teacher]))
    node = torch.linalg.vector_norm(matrix[:n, n:] - torch.eye(n, device=student.device))
    edge = torch.linalg.vector_norm(matrix[:n, :n] - matrix[n:, n:])
    loss: Tensor = 0.8 * node + 0.24 * edge
    return loss


class Original:
    """Networks, optimisers and loader of that loop; `start(n)` trains on n batches, for `timing`."""

    def __init__(
        self,
        student: Student,
        head: Head,
        teacher: Teacher,
        images: ImageSet,
        *,
        batch_size: int,
        device: torch.device,
        workers: int = 2,
    ) -> None:
        assert teacher.input_size is not None
        self.student = student.to(device).train()
        self.head = head.to(device)
        self.teacher = teacher.network.to(device).to(memory_format=torch.contiguous_format)
        self.device, self.batch_size, self.images = device, batch_size, len(images)
        self.student_optimiser = _sgd(self.student, 0.05)
        self.teacher_optimiser = _sgd(self.head, 0.01)
        self.batches: list[list[int]] = []  # of one epoch; the loader reads it when an epoch begins
        self.loader = DataLoader(
            TwoViews(images, teacher.input_size, teacher.mean, teacher.std),
            batch_sampler=self.batches,
            num_workers=workers,
            persistent_workers=workers > 0,
        )

    def start(self, n: int) -> Iterator[None]:
        """Get the first batch, yield, and train on n batches."""
        order = torch.randint(self.images, (n, self.batch_size))
        self.batches[:] = order.tolist()
        loaded = iter(self.loader)
        batch = next(loaded, None)
        yield
        while batch is not None:
            self.step(*batch)
            batch = next(loaded, None)

    def step(self, images: Tensor, teacher_images: Tensor, labels: Tensor) -> dict[str, float]:
        """Train on one batch and return its figures."""
        images, teacher_images, labels = (x.to(self.device) for x in (images, teacher_images, labels))
        with torch.no_grad():
            feature = self.teacher(teacher_images).float()
        output = self.student(images)
        embedding, logits = self.head(feature)
        assert output.logits is not None
        loss = cross_entropy(output.logits, labels) + original_loss(output.embedding, embedding.detach())
        teacher_loss = cross_entropy(logits, labels)
        for optimiser, value in ((self.student_optimiser, loss), (self.teacher_optimiser, teacher_loss)):
            optimiser.zero_grad()
            torch.autograd.backward(value)
            optimiser.step()
        ranked = output.logits.topk(min(5, output.logits.shape[1])).indices == labels[:, None]
        return {
            "loss": loss.item(),
            "teacher_loss": teacher_loss.item(),
            "top1": ranked[:, 0].float().mean().item(),
            "top5": ranked.any(1).float().mean().item(),
        }


def _sgd(network: nn.Module, lr: float) -> SGD:
    return SGD(network.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
