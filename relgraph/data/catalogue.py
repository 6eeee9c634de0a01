"""The built-in data sets by name."""

from relgraph.data.pixel_sources import Nuclei, Pets, Voc
from relgraph.data.sources import (
    CIFAR10_NORMALISATION,
    CIFAR100_NORMALISATION,
    STL10_SIZE,
    Digits,
    Facts,
    Published,
    Source,
    TinyImageNet,
    Torchvision,
)

# The labels of Tiny-ImageNet's test images were never published, so that `val` is the test split everywhere.
PUBLISHED: dict[str, Published] = {
    "cifar10": Torchvision("cifar10", Facts(50_000, 10_000, 10, 32), 170_498_071, CIFAR10_NORMALISATION),
    "cifar100": Torchvision("cifar100", Facts(50_000, 10_000, 100, 32), 169_001_437, CIFAR100_NORMALISATION),
    "stl10": Torchvision("stl10", Facts(5_000, 8_000, 10, 96), STL10_SIZE),
    "stl10+unlabelled": Torchvision("stl10+unlabelled", Facts(5_000, 8_000, 10, 96, 100_000), STL10_SIZE),
    "tiny-imagenet": TinyImageNet("tiny-imagenet", Facts(100_000, 10_000, 200, 64)),
    "voc": Voc("voc", Facts(1_464, 1_449, 21, 0, of_pixels=True)),
    "pets": Pets("pets", Facts(3_680, 3_669, 2, 0, of_pixels=True)),
}
SOURCES: dict[str, Source] = {"digits": Digits(), "nuclei": Nuclei(), **PUBLISHED}
