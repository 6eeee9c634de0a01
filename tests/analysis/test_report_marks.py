"""Marks of classes: where they stand on a map, and how well their colours and shapes are told apart."""

import re
from itertools import combinations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from relgraph.analysis.colours import NO_CLASS, SHAPES, TEN, class_colours, class_shapes, rgb
from relgraph.analysis.report.marks import class_names, outline, scatter
from relgraph.analysis.report.page import asset
from tests.checks import case

Colour = NDArray[np.float64]
# Machado, Oliveira and Fernandes, 2009, severity 1: what of linear red, green and blue is seen.
SEEN = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(colour: str) -> Colour:
    part = np.array(rgb(colour)) / 255
    return np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """Return the contrast of the Web Content Accessibility Guidelines, 1 to 21."""
    low, high = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(light: Colour) -> Colour:
    """Return OKLab of linear light (Ottosson, 2020)."""
    to_cones = [[0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998]]
    to_lab = [[0.21045, 0.79362, -0.00407], [1.97800, -2.42859, 0.45059], [0.02590, 0.78277, -0.80868]]
    found: Colour = np.array(to_lab) @ np.cbrt(np.array(to_cones) @ light.clip(0))
    return found


def test_colours_are_told_apart_by_all_and_on_both_surfaces() -> None:
    surfaces = set(re.findall("--surface: (#[0-9a-f]{6})", asset("page.css")))
    assert len(surfaces) == 2
    styles = asset("page.css")
    runs = [re.search(f"--run-{number}: (#[0-9a-f]{{6}})", styles) for number in range(10)]
    assert [run and run[1] for run in runs] == list(TEN), "runs have the colours of classes"
    assert len(re.findall("--run-0:", styles)) == 1, "light and dark have the same"
    networks = re.findall("--(?:student|teacher): (#[0-9a-f]{6})", styles)
    for colour in (*TEN, *networks, NO_CLASS):
        with case(colour):
            assert all(contrast(colour, surface) > 2.7 for surface in surfaces)
    for seen, matrix in {"normal": np.eye(3).tolist(), **SEEN}.items():
        with case(seen):
            places = [lab(np.array(matrix) @ linear(colour)) for colour in TEN]
            assert min(float(np.linalg.norm(a - b)) for a, b in combinations(places, 2)) > 0.055
    assert max(max(rgb(colour)) - min(rgb(colour)) for colour in [NO_CLASS]) < 16
    assert min(max(rgb(colour)) - min(rgb(colour)) for colour in TEN) > 70, "none is grey"


def test_fifty_classes_differ_in_colour_or_shape() -> None:
    for count in (0, 1, 10, 11, 50, 100):
        colours, shapes = class_colours(count), class_shapes(count)
        assert len({*zip(colours, shapes, strict=True)}) == min(count, 50)
        assert len(colours) == count and {*shapes} <= {*SHAPES} and NO_CLASS not in colours


def test_a_map_has_each_point_once_in_the_mark_of_its_class() -> None:
    places, labels = torch.rand(30, 2) * 2 - 1, [i % 4 - 1 for i in range(30)]
    paths = scatter(places, labels, 3, 0.02)
    expected = [(NO_CLASS, "circle"), *zip(class_colours(3), class_shapes(3), strict=True)]
    assert [(mark.colour, mark.shape) for mark in paths] == expected
    for mark in paths:
        found = [(float(x), float(y)) for x, y in re.findall(r"M(\S+) (-?[\d.]+)", mark.path)]
        own = [i for i, other in enumerate(labels) if other == mark.label]
        torch.testing.assert_close(torch.tensor(found), places[own] * torch.tensor([1, -1]), atol=6e-4, rtol=0)
        assert mark.path.count(outline(mark.shape, 0.02)) == len(own)


def test_an_outline_ends_where_its_shape_does() -> None:
    for shape, corners in SHAPES.items():
        steps = np.array([[float(x), float(y)] for x, y in re.findall(r"[ml](\S+?) (-?[\d.]+)", outline(shape, 0.5))])
        with case(shape):
            assert steps.reshape(-1, 2).cumsum(0) == pytest.approx(0.5 * np.array(corners).reshape(-1, 2), abs=5e-3)


def test_names_stand_at_the_medians_and_hide_no_other() -> None:
    labels = torch.tensor([0] * 5 + [1] * 4 + [2] * 3 + [-1] * 9)
    places = torch.zeros(21, 2)
    places[5:9] = torch.tensor([0.01, 0.0])
    places[9:12] = torch.tensor([[0.5, 0.4], [0.5, 0.4], [-0.9, 0.9]])
    assert class_names(places, labels, ["cat", "dog", "owl", "none"]) == [
        (0.0, -0.0, "cat"), (pytest.approx(0.5), pytest.approx(-0.4), "owl"),
    ]  # fmt: skip
    assert class_names(places, torch.full((21,), -1), []) == []
    assert class_names(places[9:11] + 0.4, labels[9:11], ["", "", "o" * 99]) == [], "it would leave the map"
