import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from relgraph.data.images import ImageSet, image_files
from relgraph.errors import RelgraphError
from relgraph.training.evaluation import accuracy, embed, knn_accuracy, linear_probe


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def clusters(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return n points about three corners of a triangle, with the number of the corner."""
    labels = torch.arange(n) % 3
    corners = torch.tensor([[4.0, 0.0], [0.0, 4.0], [-4.0, -4.0]])
    return corners[labels] + torch.randn(n, 2, generator=generator), labels


def test_accuracy_is_a_naive_count(generator: torch.Generator) -> None:
    logits = torch.randn(50, 9, generator=generator)
    labels = torch.randint(9, (50,), generator=generator)
    found = accuracy(logits, labels)
    for k in (1, 5):
        right = sum(
            y in sorted(range(9), key=row.__getitem__)[-k:]
            for row, y in zip(logits.tolist(), labels.tolist(), strict=True)
        )
        assert found[f"top{k}"] == pytest.approx(100 * right / 50)
    assert found.keys() == {"top1", "top5"}
    assert accuracy(torch.eye(3), torch.tensor([0, 1, 0])) == {"top1": pytest.approx(200 / 3), "top5": 100.0}


def test_knn_is_a_naive_vote(generator: torch.Generator) -> None:
    train, test = torch.randn(60, 7, generator=generator), torch.randn(40, 7, generator=generator)
    train *= torch.rand(60, 1, generator=generator) * 50  # lengths that cosine ignores
    train_labels, test_labels = torch.arange(60) % 4, torch.arange(40) % 4
    right = 0
    for x, y in zip(test, test_labels.tolist(), strict=True):
        similar = torch.cosine_similarity(x[None], train)
        votes = Counter(train_labels[similar.argsort(descending=True)[:9]].tolist())
        right += min(votes, key=lambda c: (-votes[c], c)) == y
    assert knn_accuracy(train, train_labels, test, test_labels, k=9) == pytest.approx(100 * right / 40)


def test_knn_leaves_out_unknown_labels_and_takes_what_there_is(generator: torch.Generator) -> None:
    train, labels = clusters(30, generator)
    test, expected = clusters(9, generator)
    hidden = torch.where(torch.arange(30) < 21, -1, labels)
    assert knn_accuracy(train, hidden, test, expected, k=3) == knn_accuracy(
        train[21:], labels[21:], test, expected, k=3
    )
    assert knn_accuracy(train, torch.where(torch.arange(30) == 0, 0, -1), test, expected) == pytest.approx(100 / 3)


def test_probe_separates_clusters(generator: torch.Generator) -> None:
    train, labels = clusters(90, generator)
    test, expected = clusters(60, generator)
    nearest = torch.cdist(test, torch.stack([train[labels == c].mean(0) for c in range(3)])).argmin(1)
    bayes = 100 * (nearest == expected).double().mean().item()
    assert linear_probe(train * 1000 + 5, labels, test * 1000 + 5, expected) == pytest.approx(bayes, abs=5)
    assert bayes > 95


@pytest.mark.parametrize("measure", [knn_accuracy, linear_probe])
def test_constant_features_give_a_finite_number(measure: Callable[..., float]) -> None:
    labels = torch.arange(12) % 3
    for same in (torch.zeros(12, 4), torch.ones(12, 4)):
        found = measure(same, labels, same, labels)
        assert isinstance(found, float) and math.isfinite(found)


@pytest.mark.parametrize("measure", [knn_accuracy, linear_probe])
def test_what_cannot_be_measured(measure: Callable[..., float], generator: torch.Generator) -> None:
    x, y = clusters(12, generator)
    for arguments, words in [
        ((x * math.nan, y, x, y), "features must be finite"),
        ((x, y, x / 0, y), "features must be finite"),
        ((x, y, x[:, :1], y), "equally wide, got 2 and 1"),
        ((x, y[:5], x, y), r"got \(12, 2\) and \(5,\)"),
        ((x, -torch.ones_like(y), x, y), "no images"),
        ((x, y, x[:0], y[:0]), "no images"),
    ]:
        with pytest.raises(RelgraphError, match=words):
            measure(*arguments)
    with pytest.raises(RelgraphError, match="two classes or more"):
        linear_probe(x, torch.zeros_like(y), x, y)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten())


def prepare(images: Tensor) -> Tensor:
    return images.float() / 255


def test_embed_is_the_network_in_evaluation_mode(
    generator: torch.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    images = torch.randint(256, (7, 3, 5, 5), dtype=torch.uint8, generator=generator)
    net = network()
    found = embed(net, images, prepare, batch_size=3, device="cpu")
    with torch.no_grad():
        expected = net.eval()(prepare(images))
    torch.testing.assert_close(found, expected)
    assert found.dtype == torch.float32 and not found.requires_grad
    embed(net, images, prepare, 3, "cpu", progress="teacher")
    assert capsys.readouterr().err == "", "no bar where nobody looks"
    with pytest.raises(RelgraphError, match="no images"):
        embed(net, images[:0], prepare, batch_size=2, device="cpu")


@pytest.mark.parametrize("workers", [0, 2])
def test_embed_reads_a_split_in_memory_or_in_files(tmp_path: Path, generator: torch.Generator, workers: int) -> None:
    pixels = torch.randint(256, (7, 3, 5, 5), dtype=torch.uint8, generator=generator)
    names = [f"{i}.png" for i in range(7)]
    for name, image in zip(names, pixels, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / name)
    net = network()
    expected = embed(net, pixels, prepare, batch_size=3, device="cpu")
    for images in (pixels, image_files(tmp_path, names, None)):
        split = ImageSet(images, torch.zeros(7), ("a", "b"), "test", torch.arange(7))
        assert torch.equal(embed(net, split, prepare, batch_size=3, device="cpu", workers=workers), expected)


def test_embed_restores_the_mode_of_every_module() -> None:
    net = network()
    net[1].eval()  # a frozen normalisation inside a network in training
    images = torch.zeros(2, 3, 5, 5, dtype=torch.uint8)
    embed(net, images, prepare, batch_size=2, device="cpu")
    assert [module.training for module in net] == [True, False, True, True]
    with pytest.raises(ZeroDivisionError):
        embed(net, images, lambda x: x / (1 // 0), batch_size=2, device="cpu")
    assert [module.training for module in net] == [True, False, True, True]
