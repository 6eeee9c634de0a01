"""The section on classes of pixels from networks whose every mistake is known."""

import base64
import io
import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import jaccard_score
from torch import Tensor
from torch.nn.functional import cosine_similarity, one_hot

import relgraph
from relgraph.analysis.report.segmentation import Network, Segmented, segmentation_section, segmented
from relgraph.data.images import ImageSet
from relgraph.data.label_maps import IGNORED, LabelMaps
from relgraph.outputs import Output
from tests.tiny_pixels import TinyPixels

N, SIDE, CLASSES = 23, 12, ("sky", "road", "tram & <bus>")  # no position is a tram


@pytest.fixture
def images() -> ImageSet:
    """Images whose grey level is their number, which have more of the road each, and a column without a class."""
    maps = torch.zeros(N, SIDE * SIDE, dtype=torch.uint8)
    for number in range(N):
        maps[number, 40 : 40 + 3 * number] = 1
    maps = maps.view(N, SIDE, SIDE)
    maps[:, :, 0] = IGNORED
    pixels = torch.arange(N, dtype=torch.uint8).view(N, 1, 1, 1).expand(N, 1, SIDE, SIDE).contiguous()
    return ImageSet(pixels, torch.zeros(N, dtype=torch.long), CLASSES, "test", torch.arange(N), maps=LabelMaps.of(maps))


def network(wrong: Tensor, images: ImageSet, classes: int = 3, size: tuple[int, int] = (4, 4)) -> Network:
    """Return a network that is right but at the pixels of some images, `wrong` `(N, H, W)`."""
    assert images.maps is not None
    labels = images.maps.rows(torch.arange(N))

    def outputs(pixels: Tensor) -> Output:
        which = pixels[:, 0, 0, 0].long()
        called = labels[which].where(labels[which] != IGNORED, 0).long()
        called = torch.where(wrong[which], 1 - called, called)
        maps = torch.randn(len(which), 5, *size, generator=torch.Generator().manual_seed(0))
        return Output(maps.mean((2, 3)), one_hot(called, classes).movedim(3, 1).float(), None, (maps,))

    return outputs


def figures(found: Segmented, images: ImageSet, wrong: Tensor) -> list[float]:
    assert images.maps is not None
    labels = images.maps.rows(torch.arange(N))
    called = torch.where(wrong, 1 - labels, labels)[labels != IGNORED]
    return list(jaccard_score(labels[labels != IGNORED], called, labels=[0, 1], average=None))


def test_images_networks_and_figures_are_those_that_are_known(images: ImageSet) -> None:
    generator = torch.Generator().manual_seed(3)
    alone = torch.rand(N, SIDE, SIDE, generator=generator) < 0.1
    better = alone.clone()
    better[5], better[17], alone[17] = False, True, False  # these two differ most
    networks = {"teacher": network(torch.zeros_like(alone), images), "alone": network(alone, images),
                "distilled": network(better, images)}  # fmt: skip
    found = segmented(networks, images, "alone", "distilled")
    assert [one.image for one in found.shown][:2] == [17, 5] and found.shown[0].share == 1.0
    assert [one.image for one in found.shown][2:] == [0, 1, 11]  # equal ones in order, and evenly spaced ones
    for name, wrong in (("teacher", torch.zeros_like(alone)), ("alone", alone), ("distilled", better)):
        assert found.matrices[name].diagonal().tolist()[2] == 0
        expected = figures(found, images, wrong)
        page = segmentation_section(found, images)
        assert all(f">{100 * value:.1f}</span>" in page for value in expected), name
    assert "Neither labelled nor found anywhere, and left out: tram &amp; &lt;bus&gt;." in page
    assert page.count("<figure>") == 5 * 6 + 3 * 4 and len(re.findall("Difference of", page)) == 5


@pytest.mark.parametrize(("size", "grid"), [((4, 4), (4, 4)), ((30, 20), (12, 8))])
def test_similarities_are_the_cosines_of_all_pairs_of_positions(
    images: ImageSet, size: tuple[int, int], grid: tuple[int, int]
) -> None:
    none = torch.zeros(N, SIDE, SIDE, dtype=torch.bool)
    found = segmented({"one": network(none, images, size=size)}, images, None, "one")
    maps = torch.randn(16, 5, *size, generator=torch.Generator().manual_seed(0))[0]
    # Of a large map each position is the mean of all that it touches, some of which another touches as well.
    parts = [[slice(i * w // n, -(-(i + 1) * w // n)) for i in range(n)] for w, n in zip(size, grid, strict=True)]
    means = torch.stack([maps[:, y, x].mean((1, 2)) for y, x in product(*parts)], 1).view(5, *grid)
    page = segmentation_section(found, images, [f"{number}.png" for number in range(N)])
    drawn = re.search(r'data-grid="(\d+) (\d+)" style="background: url\(.*?,(.*?)\)', page)
    assert drawn is not None and (int(drawn[2]), int(drawn[1])) == grid
    tiles = np.asarray(Image.open(io.BytesIO(base64.b64decode(drawn[3])))) / 127.5 - 1  # from the numbers of colours
    for row, column in product(*map(range, grid)):
        expected = cosine_similarity(means[:, row, column, None, None], means, dim=0)
        assert torch.allclose(found.shown[0].similar["one"][row, column], expected, atol=1e-6)
        tile = tiles[row * grid[0] : (row + 1) * grid[0], column * grid[1] : (column + 1) * grid[1]]
        assert np.allclose(tile, expected, rtol=0, atol=0.01)
    assert "Difference" not in page and "0.png<small>0.0\N{NO-BREAK SPACE}% wrong" in page


def test_a_network_of_other_classes_has_similarities_alone(images: ImageSet) -> None:
    none = torch.zeros(N, SIDE, SIDE, dtype=torch.bool)
    networks = {"teacher": network(none, images, 7), "one": network(none, images)}
    found = segmented(networks, images, None, "one")
    assert [*found.matrices] == ["one"] and [*found.shown[0].similar] == ["teacher", "one"]


def test_a_report_on_runs_has_the_figures_of_their_own_test(tmp_path: Path) -> None:
    fast: dict[str, Any] = {
        "dataset": TinyPixels(), "student": "resnet8", "epochs": 1, "batch_size": 8, "device": "cpu", "threads": 1,
        "precision": "32-true", "logger": ("none",), "val_fraction": 0.2,
    }  # fmt: skip
    options: dict[str, dict[str, Any]] = {
        "guide": {"method": "none"},
        "alone": {"method": "none", "labelled_images": 4},
        "distilled": {"method": "pixelwise", "teacher": f"checkpoint:{tmp_path / 'guide'}", "labelled_images": 4},
    }
    runs = {name: relgraph.train(**fast, **own, out=tmp_path / name) for name, own in options.items()}
    page = relgraph.report([runs["distilled"], runs["alone"]], tmp_path / "report.html").read_text()
    for name, run in runs.items():
        assert f">{run.result['test']['best']['miou']:.1f}</span>" in page, name  # of the guide as the teacher
    assert "gained by distilled" in page and "lost against alone" in page and 'id="graph-data"' not in page
    assert page.count('alt="the teacher of ') == page.count('alt="Difference of ') >= 4  # which images is of the runs
    alone = relgraph.report(runs["guide"], tmp_path / "guide.html").read_text()
    assert "Difference of" not in alone and "gets wrong most often" in alone
