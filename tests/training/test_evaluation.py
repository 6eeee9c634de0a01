import math
from collections import Counter
from copy import deepcopy
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from relgraph.data.images import ImageFiles, ImageSet, image_files
from relgraph.training.evaluation import accuracy, embed, knn_accuracy, linear_probe
from tests.checks import assert_refused_like

MEASURES = (knn_accuracy, linear_probe)


def clusters(n: int) -> tuple[Tensor, Tensor]:
    """Return n points about three corners of a triangle, with the number of the corner."""
    labels = torch.arange(n) % 3
    corners = torch.tensor([[4.0, 0.0], [0.0, 4.0], [-4.0, -4.0]])
    return corners[labels] + torch.randn(n, 2), labels


def test_accuracy_is_a_naive_count() -> None:
    logits = torch.randn(50, 9)
    labels = torch.randint(9, (50,))
    found = accuracy(logits, labels)
    for k in (1, 5):
        right = sum(y in row.argsort()[-k:] for row, y in zip(logits, labels, strict=True))
        assert found[f"top{k}"] == pytest.approx(100 * right / 50)
    assert found.keys() == {"top1", "top5"}
    assert accuracy(torch.eye(3), torch.tensor([0, 1, 0])) == {"top1": pytest.approx(200 / 3), "top5": 100.0}


def test_knn_is_a_naive_vote() -> None:
    train, test = torch.randn(60, 7), torch.randn(40, 7)
    train *= torch.rand(60, 1) * 50  # lengths that cosine ignores
    train_labels, test_labels = torch.arange(60) % 4, torch.arange(40) % 4
    right = 0
    for x, y in zip(test, test_labels.tolist(), strict=True):
        similar = torch.cosine_similarity(x[None], train)
        votes = Counter(train_labels[similar.argsort(descending=True)[:9]].tolist())
        right += min(votes, key=lambda c: (-votes[c], c)) == y
    assert knn_accuracy(train, train_labels, test, test_labels, k=9) == pytest.approx(100 * right / 40)


def test_knn_leaves_out_unknown_labels_and_takes_what_there_is() -> None:
    train, labels = clusters(30)
    test, expected = clusters(9)
    hidden = torch.where(torch.arange(30) < 21, -1, labels)
    known = knn_accuracy(train[21:], labels[21:], test, expected, k=3)
    assert knn_accuracy(train, hidden, test, expected, k=3) == known
    assert knn_accuracy(train, torch.where(torch.arange(30) == 0, 0, -1), test, expected) == pytest.approx(100 / 3)


def test_constant_features_give_a_finite_number() -> None:
    labels = torch.arange(12) % 3
    for measure, same in product(MEASURES, (torch.zeros(12, 4), torch.ones(12, 4))):
        found = measure(same, labels, same, labels)
        assert isinstance(found, float) and math.isfinite(found)


def test_what_cannot_be_measured() -> None:
    x, y = clusters(12)
    wrong = (
        ((x * math.nan, y, x, y), "features must be finite"),
        ((x, y, x / 0, y), "features must be finite"),
        ((x, y, x[:, :1], y), "equally wide, got 2 and 1"),
        ((x, y[:5], x, y), r"got \(12, 2\) and \(5,\)"),
        ((x, -torch.ones_like(y), x, y), "no images"),
        ((x, y, x[:0], y[:0]), "no images"),
    )
    assert_refused_like(*((partial(measure, *given), told) for measure in MEASURES for given, told in wrong))
    assert_refused_like((lambda: linear_probe(x, torch.zeros_like(y), x, y), "two classes or more"))


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten())


def prepare(images: Tensor) -> Tensor:
    return images.float() / 255


def test_embed_is_the_network_in_evaluation_mode(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Of images in memory or in files, in pieces of any size."""
    images, net = torch.randint(256, (7, 3, 5, 5), dtype=torch.uint8), network()
    found = embed(net, images, prepare, batch_size=3, device="cpu", progress="teacher")
    assert capsys.readouterr().err == "", "no bar where nobody looks"
    with torch.no_grad():
        expected = deepcopy(net).eval()(prepare(images))
    torch.testing.assert_close(found, expected)
    assert found.dtype == torch.float32 and not found.requires_grad
    assert_refused_like((lambda: embed(net, images[:0], prepare, batch_size=2, device="cpu"), "no images"))
    names = [f"{i}.png" for i in range(7)]
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / name)
    stored: list[Tensor | ImageFiles] = [images, image_files(tmp_path, names, None)]
    for pixels, workers in product(stored, (0, 2)):
        split = ImageSet(pixels, torch.zeros(7), ("a", "b"), "test", torch.arange(7))
        assert torch.equal(embed(net, split, prepare, batch_size=3, device="cpu", workers=workers), found)


def test_embed_restores_the_mode_of_every_module() -> None:
    net, images = network(), torch.zeros(2, 3, 5, 5, dtype=torch.uint8)
    net[1].eval()  # a frozen normalisation inside a network in training
    embed(net, images, prepare, batch_size=2, device="cpu")
    assert [module.training for module in net] == [True, False, True, True]
    with pytest.raises(ZeroDivisionError):
        embed(net, images, lambda x: x / (1 // 0), batch_size=2, device="cpu")
    assert [module.training for module in net] == [True, False, True, True]
