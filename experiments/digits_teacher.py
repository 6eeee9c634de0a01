"""Train the teacher that ships with relgraph: SimCLR on scikit-learn's digits, from images alone.

SimCLR (Chen et al., 2020, arXiv 2002.05709) pulls two random views of an image together and pushes different images
apart. No label enters the training, and no test image. Labels serve the judgements only: on the validation images
while it trains, on the test images before and after.

    python experiments/digits_teacher.py --out digits-simclr.safetensors
"""

import argparse
import math
import time
from pathlib import Path

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from relgraph.data.datasets import DataSet, channel_statistics, load
from relgraph.data.images import ImageSet
from relgraph.networks.files import load_network, save_network
from relgraph.networks.students import build_backbone

BACKBONE = "resnet20"
TEMPERATURE = 0.2
BATCH = 256
LEARNING_RATE = 2e-3


def uniform(count: int, low: float, high: float) -> Tensor:
    """Draw one number for each image, `(count,)`."""
    return torch.empty(count).uniform_(low, high)


def warp(images: Tensor) -> Tensor:
    """Rotate, shear, scale, shift and bend each image `(N, 1, H, W)` a little; never mirrored, as digits are not."""
    n, _, height, width = images.shape
    angle, shear = uniform(n, -15, 15).deg2rad(), uniform(n, -0.25, 0.25)
    across, down = uniform(n, 0.8, 1.2), uniform(n, 0.8, 1.2)
    cos, sin = angle.cos(), angle.sin()
    rows = (
        torch.stack((cos * across, shear * cos - sin * down, uniform(n, -0.2, 0.2)), dim=1),
        torch.stack((sin * across, shear * sin + cos * down, uniform(n, -0.2, 0.2)), dim=1),
    )
    grid = functional.affine_grid(torch.stack(rows, dim=1), [n, 1, height, width], align_corners=False)
    # Bending, by a smooth random field drawn on 4 x 4 points, helped most of what was tried (see assets/README.md).
    field = 0.08 * torch.randn(n, 2, 4, 4)
    bend = functional.interpolate(field, size=(height, width), mode="bicubic", align_corners=True)
    grid = grid + bend.permute(0, 2, 3, 1)
    return functional.grid_sample(images, grid, mode="bicubic", align_corners=False).clamp(0, 1)


def erase(images: Tensor) -> Tensor:
    """Black out a square in half of the images `(N, 1, H, W)`."""
    n, _, height, width = images.shape
    side = uniform(n, 0.2, 0.45) * width
    hit = uniform(n, 0, 1) < 0.5
    y = (torch.arange(height) + 0.5 - uniform(n, 0, height)[:, None]).abs() < side[:, None] / 2
    x = (torch.arange(width) + 0.5 - uniform(n, 0, width)[:, None]).abs() < side[:, None] / 2
    return images.masked_fill((y[:, :, None] & x[:, None, :] & hit[:, None, None])[:, None], 0.0)


def view(images: Tensor) -> Tensor:
    """Return a random view of each image, `(N, 1, H, W)` in 0..1 before and, but for the noise, after."""
    n = len(images)
    images = warp(images) ** uniform(n, -0.5, 0.5).exp().view(n, 1, 1, 1)
    images = images * uniform(n, 0.7, 1.2).view(n, 1, 1, 1)
    return erase(images + uniform(n, 0, 0.1).view(n, 1, 1, 1) * torch.randn_like(images))


def nt_xent(embeddings: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding the other view among all: rows i and i + N of `(2N, D)` are views of one image."""
    unit = functional.normalize(embeddings, dim=1)
    similarity = (unit @ unit.T / temperature).fill_diagonal_(-math.inf)
    count = len(unit)
    return functional.cross_entropy(similarity, torch.arange(count).roll(count // 2))


@torch.no_grad()
def features(backbone: nn.Module, images: Tensor, mean: float, std: float) -> Tensor:
    """Return the pooled vectors `(N, width)` of uint8 images `(N, 1, H, W)`, normalised as in training."""
    pooled: Tensor = backbone.eval()((images / 255 - mean) / std)
    return pooled


def linear_probe(x: Tensor, labels: Tensor, y: Tensor, asked: Tensor, few: Tensor | None = None) -> float:
    """Return the accuracy, in percent, of a logistic regression on standardised features, fitted on all or on a few."""
    centre, spread = x.mean(0), x.std(0) + 1e-6
    fitted = torch.arange(len(x)) if few is None else few
    probe = LogisticRegression(max_iter=3000).fit(((x - centre) / spread)[fitted], labels[fitted])
    return 100 * float(probe.score((y - centre) / spread, asked))


def judge(backbone: nn.Module, known: ImageSet, asked: ImageSet, mean: float, std: float) -> tuple[float, float]:
    """Return the accuracies, in percent, of 20 nearest neighbours (cosine) and of a linear probe with all labels."""
    x, y = features(backbone, known.images, mean, std), features(backbone, asked.images, mean, std)
    neighbours = KNeighborsClassifier(20, metric="cosine").fit(x, known.labels)
    return 100 * neighbours.score(y, asked.labels), linear_probe(x, known.labels, y, asked.labels)


def draw_few(labels: Tensor, labels_per_class: int, seed: int) -> Tensor:
    """Return the positions of so many images of every class."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return torch.cat([shuffled[labels[shuffled] == label][:labels_per_class] for label in range(10)])


def train(backbone: nn.Module, images: Tensor, mean: float, std: float, epochs: int, digits: DataSet) -> None:
    """Train the backbone by SimCLR on float images `(N, 1, H, W)`; the projection head is dropped afterwards."""
    head = nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 64))
    parameters = [*backbone.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=0.01)
    batches = len(images) // BATCH
    steps = epochs * batches
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    bar = tqdm(range(1, epochs + 1), unit="epoch")
    for epoch in bar:
        backbone.train()
        for batch in torch.randperm(len(images))[: batches * BATCH].split(BATCH):  # type: ignore[no-untyped-call]
            pair = torch.cat((view(images[batch]), view(images[batch])))
            loss = nt_xent(head(backbone((pair - mean) / std)), TEMPERATURE)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}")
        if epoch % 25 == 0:
            knn, linear = judge(backbone, digits.train, digits.val, mean, std)
            bar.write(f"epoch {epoch}: validation k-NN {knn:.2f} %, linear probe {linear:.2f} %")


def report(name: str, backbone: nn.Module, known: ImageSet, digits: DataSet, mean: float, std: float) -> None:
    """Print what the features are worth on the test images, with all labels and with few."""
    knn, linear = judge(backbone, known, digits.test, mean, std)
    print(f"{name}: test k-NN {knn:.2f} %, linear probe {linear:.2f} % (n = {len(digits.test)})")
    x, y = features(backbone, known.images, mean, std), features(backbone, digits.test.images, mean, std)
    for count in (2, 3, 5):
        draws = [draw_few(known.labels, count, seed) for seed in range(5)]
        few = torch.tensor([linear_probe(x, known.labels, y, digits.test.labels, draw) for draw in draws])
        print(f"{name}: linear probe, {count} labels a class: {few.mean():.1f} +- {few.std():.1f} % (5 draws)")


def main() -> None:
    """Train, save in half precision, read back and judge what was saved."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the safetensors file to write")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    digits = load("digits", root=Path("data"), image_size=None, val_fraction=0.1, labels_per_class=None, seed=0)
    images = torch.cat((digits.train.images, digits.val.images))
    labels, index = (torch.cat((getattr(digits.train, n), getattr(digits.val, n))) for n in ("labels", "index"))
    known = ImageSet(images, labels, digits.train.classes, "train", index)
    mean, std = (round(statistic[0], 4) for statistic in channel_statistics(images))

    backbone = build_backbone(BACKBONE, in_channels=1)
    report("untrained", backbone, known, digits, mean, std)
    start = time.perf_counter()
    train(backbone, images / 255, mean, std, arguments.epochs, digits)
    print(f"{arguments.epochs} epochs in {time.perf_counter() - start:.0f} s, {torch.get_num_threads()} threads")
    info = {"backbone": BACKBONE, "in_channels": 1, "image_size": 8, "mean": [mean], "std": [std]}
    save_network(arguments.out, backbone.half(), info | {"objective": "simclr"})
    saved, _ = load_network(arguments.out)
    report("trained", saved, known, digits, mean, std)


if __name__ == "__main__":
    main()
