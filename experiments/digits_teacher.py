"""Make the teacher that ships with relgraph out of a pre-training on digits, and print the accuracy of its features.

    relgraph pretrain --seed 0 --out runs/digits-simclr
    python experiments/digits_teacher.py runs/digits-simclr --out digits-simclr.safetensors

No label entered the training, and no validation or test image. Labels serve the judgement only, on the test images.
"""

from pathlib import Path

import click
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from relgraph.data.catalogue import SOURCES
from relgraph.data.datasets import DataSet, load
from relgraph.data.images import ImageSet
from relgraph.data.views import Normalise
from relgraph.names import build_backbone, student
from relgraph.networks.files import load_network, save_network
from relgraph.training.evaluation import embed, knn_accuracy


def linear_probe(x: Tensor, labels: Tensor, y: Tensor, test_labels: Tensor, few: Tensor | None = None) -> float:
    """Return the accuracy, in percent, of a logistic regression on standardised features, fitted on all or on a few."""
    centre, spread = x.mean(0), x.std(0) + 1e-6
    fitted = torch.arange(len(x)) if few is None else few
    probe = LogisticRegression(max_iter=3000).fit(((x - centre) / spread)[fitted], labels[fitted])
    return 100 * float(probe.score((y - centre) / spread, test_labels))


def draw_few(labels: Tensor, labels_per_class: int, seed: int) -> Tensor:
    """Return the positions of so many images of every class."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return torch.cat([shuffled[labels[shuffled] == label][:labels_per_class] for label in range(10)])


def report(name: str, backbone: nn.Module, digits: DataSet, mean: list[float], std: list[float]) -> None:
    """Print the accuracy of the features on the test images, with all labels and with few."""

    def features(images: ImageSet) -> Tensor:
        return embed(backbone, images, Normalise(mean, std), 256, "cpu")

    x, y = features(digits.train), features(digits.test)
    train_labels, test_labels = digits.train.labels, digits.test.labels
    knn, linear = knn_accuracy(x, train_labels, y, test_labels, k=20), linear_probe(x, train_labels, y, test_labels)
    click.echo(f"{name}: test k-NN {knn:.2f} %, linear probe {linear:.2f} % (n = {len(test_labels)})")
    for count in (5, 3, 2):
        chosen = [draw_few(train_labels, count, seed) for seed in range(5)]
        few = torch.tensor([linear_probe(x, train_labels, y, test_labels, part) for part in chosen])
        click.echo(f"{name}: linear probe, {count} labels a class: {few.mean():.1f} +- {few.std():.1f} % (5 draws)")


@click.command(help=__doc__)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The safetensors file to write.")
def main(run: Path, out: Path) -> None:
    source = SOURCES["digits"]
    digits = load(source, root=Path("data"), image_size=None, val_fraction=0.1, labels_per_class=None, seed=0)
    backbone, info = load_network(run, student)
    # In half precision and without the projection head, which the run keeps.
    save_network(out, backbone.half(), {name: value for name, value in info.items() if name != "projector"})
    saved, _ = load_network(out, student)
    torch.manual_seed(0)
    untrained = build_backbone(info["backbone"], info["in_channels"], image_size=info["image_size"]).eval()
    for name, network in (("untrained", untrained), ("trained", saved)):
        report(name, network, digits, info["mean"], info["std"])


if __name__ == "__main__":
    main()
