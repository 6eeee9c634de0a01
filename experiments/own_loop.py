"""A relgraph method in a training loop of one's own: timm networks, plain torch, none of relgraph's trainer.

    python experiments/own_loop.py
    python experiments/own_loop.py --method pkt --student resnet10t --teacher resnet18

The data are scikit-learn's digits. The teacher is trained here, on all labels; the student has 3 labels a class, and
learns once without and once with the method. To take a published teacher instead, create it with `pretrained=True`.
"""

import click
import timm
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from relgraph import METHODS
from relgraph.methods import Method


def digits(size: int = 32) -> tuple[Tensor, Tensor]:
    """Return images `(1797, 1, size, size)` in [0, 1] and their labels, shuffled once and for all."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    x = torch.from_numpy(images).float().view(-1, 1, 8, 8) / 16
    return interpolate(x, size=(size, size), mode="bilinear")[order], torch.from_numpy(labels)[order]


def first_of_each_class(labels: Tensor, count: int) -> Tensor:
    """Return labels with all but the first `count` of each class replaced by -1, which cross-entropy ignores."""
    kept = torch.full_like(labels, -1)
    for label in labels.unique():
        chosen = (labels == label).nonzero().flatten()[:count]
        kept[chosen] = label
    return kept


def train(
    network: nn.Module, images: Tensor, labels: Tensor, epochs: int, teacher: nn.Module | None = None,
    method: Method | None = None,
) -> None:  # fmt: skip
    """Train on labels (-1: unknown) and, if there is one, by a method on the features and a frozen teacher's."""
    parameters = [*network.parameters(), *(() if method is None else method.parameters())]
    optimiser = torch.optim.SGD(parameters, lr=0.02, momentum=0.9, weight_decay=5e-4)
    for _ in range(epochs):
        network.train()
        for index in torch.randperm(len(images))[: len(images) // 64 * 64].split(64):
            feature = network.forward_head(network.forward_features(images[index]), pre_logits=True)
            logits, y = network.get_classifier()(feature), labels[index]
            loss = cross_entropy(logits, y, ignore_index=-1, reduction="sum") / (y >= 0).sum().clamp_min(1)
            if teacher is not None and method is not None:
                with torch.no_grad():
                    teacher_feature = teacher.forward_head(teacher.forward_features(images[index]), pre_logits=True)
                loss = loss + method.weight * method(feature, teacher_feature)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the accuracy in percent."""
    return 100 * (network.eval()(images).argmax(1) == labels).float().mean().item()


@click.command(help=__doc__)
@click.option(
    "--method", default="rkd", show_default=True, type=click.Choice(["rkd", "pkt", "cc", "darkrank"]),
    help="One that reads a vector an image, of any width.",
)  # fmt: skip
@click.option("--student", default="test_resnet", show_default=True)
@click.option("--teacher", default="resnet10t", show_default=True)
@click.option("--epochs", default=8, show_default=True)
@click.option("--images", default=1797, show_default=True, help="How many, the last 500 of them for the test.")
def main(method: str, student: str, teacher: str, epochs: int, images: int) -> None:
    x, y = digits()
    held = min(500, images // 2)
    (x, x_test), (y, y_test) = ((part[: images - held], part[images - held : images]) for part in (x, y))

    def create(name: str) -> nn.Module:
        torch.manual_seed(0)
        return timm.create_model(name, num_classes=10, in_chans=1)

    guide = create(teacher)
    train(guide, x, y, epochs)
    click.echo(f"teacher {teacher}, all labels: {accuracy(guide, x_test, y_test):.1f} %")
    few = first_of_each_class(y, 3)
    for name in ("none", method):
        network = create(student)
        train(network, x, few, epochs, guide.eval(), METHODS[name]() if name in METHODS else None)
        click.echo(f"student {student}, 3 labels a class, method {name}: {accuracy(network, x_test, y_test):.1f} %")


if __name__ == "__main__":
    main()
