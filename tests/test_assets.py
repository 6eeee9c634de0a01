"""The teacher that comes with the package is as good as its README says."""

from pathlib import Path

from relgraph.data.datasets import load
from relgraph.data.sources import Digits
from relgraph.names import build_backbone, load_teacher
from relgraph.training.evaluation import embed, knn_accuracy, linear_probe
from relgraph.training.feed import input_of


def test_the_embedded_teacher_knows_digits_without_labels_and_an_untrained_network_does_not() -> None:
    digits = load(Digits(), root=Path("unused"), image_size=None, val_fraction=0.1, labels_per_class=None, seed=0)
    teacher, untrained = load_teacher("embedded:digits"), build_backbone("resnet20", in_channels=1).eval()
    knn, probe = list[float](), list[float]()
    for network in (teacher, untrained):
        train, test = (embed(network, images, input_of(teacher), 256, "cpu") for images in (digits.train, digits.test))
        knn.append(knn_accuracy(train, digits.train.labels, test, digits.test.labels, k=20))
        probe.append(linear_probe(train, digits.train.labels, test, digits.test.labels))
    assert knn[0] > 98 > 90 > knn[1] and probe[0] > 98


def test_the_file_is_small_and_described() -> None:
    assets = Path(__file__).parents[1] / "relgraph" / "assets"
    assert (assets / "digits-simclr.safetensors").stat().st_size < 2**20
    text = (assets / "README.md").read_text()
    assert "experiments/digits_teacher.py" in text and "CC BY 4.0" in text
