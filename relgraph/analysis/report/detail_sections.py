"""The sections on one run: diagnostics, edge matrices, maps, the graph view, and the worst neighbourhoods."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from relgraph.analysis.analysis import Analysis
from relgraph.analysis.colours import NO_CLASS, class_colours
from relgraph.analysis.figures import confusion
from relgraph.analysis.report.charts import scatter
from relgraph.analysis.report.content import (
    SIDES,
    Maps,
    Matrices,
    Neighbourhood,
    agreement,
    figures,
    graph_data,
)
from relgraph.analysis.report.html import Html, element, joined, json_script
from relgraph.analysis.report.run_sections import NOTHING, table
from relgraph.analysis.report.thumbnails import data_uri, matrix_picture, scale_picture, sprite, thumbnails
from relgraph.data.images import ImageSet

WORST_CLASSES = 10
COLUMNS = {
    "overlap": "Overlap",
    "relation_error": "Relation error",
    "homophily_student": "Homophily, student",
    "homophily_teacher": "Homophily, teacher",
}
LEGEND = 20  # classes that fit a legend; more are chosen from a list
THUMBNAIL = 64
CORRELATION = 1.0
MINUS = "\N{MINUS SIGN}"


def text(words: str) -> Html:
    """Return a paragraph."""
    return element("p", {}, words)


def diagnostics(analysis: Analysis, summary: Mapping[str, Any]) -> Html:
    """Return the measures of the k-NN graphs, as cards and a table."""
    common = agreement(summary)
    rows = [[name, *(number(value) for value in values)] for name, values in figures(analysis, summary).items()]
    caption = f"{len(analysis.labels):,} images of the {analysis.split} split, {analysis.k} nearest neighbours"
    cards = [
        element("div", {"class": "card"}, element("dt", {}, name), element("dd", {}, number(value)))
        for name, value in common.items()
    ]
    explanation = "Nodes are the images' embeddings; edges join each to its nearest others by Pearson correlation. "
    explanation += "Homophily is the share of edges that join equal labels; communities are Louvain's."
    if cards:
        explanation += " Overlap is the share of its neighbours on which both networks agree; a node matches if, among "
        explanation += "all teacher nodes, its own is the nearest."
    return joined(
        text(explanation),
        element("dl", {"class": "cards"}, *cards) if cards else "",
        table(caption, ["", *(name.capitalize() for name in analysis.graphs)], rows),
    )


def number(value: float | None) -> str:
    """Return a count as it is, another number with three digits, and a dash where there is none."""
    if value is None or math.isnan(value):
        return NOTHING
    return (f"{value:,}" if isinstance(value, int) else f"{value:.3f}").replace("-", MINUS)


def by_class(analysis: Analysis, summary: Mapping[str, Any]) -> Html:
    """Return the classes with the student's worst relations, and the classes that its graph mixes up."""
    names = ("overlap", "relation_error", "homophily_student", "homophily_teacher")
    shown = [name for name in names if name in summary["per_class"][0]]
    rows = [
        [one["name"], number(one["images"]), *(number(one[name]) for name in shown)]
        for one in summary["per_class"][:WORST_CLASSES]
    ]
    header = ["Class", "Images", *(COLUMNS[name] for name in shown)]
    order = "relation error, the mean |r_s - r_t| of an edge" if analysis.teacher is not None else "homophily"
    some = "The classes" if len(summary["per_class"]) <= WORST_CLASSES else f"The {WORST_CLASSES} worst classes"
    return element("div", {"class": "tables"}, table(f"{some} by {order}", header, rows), _mixed(analysis))


def _mixed(analysis: Analysis) -> Html:
    found = [one for one in confusion(analysis) if one.anchor != one.candidate][:WORST_CLASSES]
    if not found:
        return Html("")
    sides = [f"{name}_share" for name in analysis.graphs]
    rows = [
        [
            joined(analysis.classes[one.anchor], " → ", analysis.classes[one.candidate]),
            *(f"{100 * getattr(one, side):.1f} %" for side in sides),
        ]
        for one in found
    ]
    caption = (
        "Classes that are mixed up: share of the edges from one class that end in another, largest differences first"
    )
    return table(caption, ["From → to", *(name.capitalize() for name in analysis.graphs)], rows)


def edge_matrices(found: Matrices, total_classes: int) -> Html:
    """Return the edge matrices of the teacher and the student, and their difference, as pictures."""
    limit = CORRELATION
    panels = []
    if found.teacher is not None:
        difference = found.student - found.teacher
        largest = max(0.1, float(difference.abs().max()))
        panels.append(_matrix("E_t, teacher", matrix_picture(found.teacher, limit), limit, found))
        panels.append(_matrix("E_s, student", matrix_picture(found.student, limit), limit, found))
        panels.append(_matrix(f"E_s {MINUS} E_t, difference", matrix_picture(difference, largest), largest, found))
    else:
        panels.append(_matrix("E_s, student", matrix_picture(found.student, limit), limit, found))
    count = len(found.chosen)
    if found.blocks:
        of = f"{len(found.blocks)} of {total_classes}" if len(found.blocks) < total_classes else f"{total_classes}"
        subject = f"{count} images of {of} classes, sorted by class"
    else:
        subject = f"{count} images, in the order of the split"
    names = ", ".join(name for name, _ in found.blocks)
    parts = [
        text(f"Correlations between {subject}: one row and one column an image. Lines part the classes."
             if found.blocks else f"Correlations between {subject}: one row and one column an image."),
        element("div", {"class": "panels three"}, *panels),
    ]  # fmt: skip
    if names:
        parts.append(element("p", {"class": "note"}, f"Classes from top to bottom: {names}."))
    return joined(*parts)


def _matrix(name: str, address: str, limit: float, found: Matrices) -> Html:
    count, position, lines = len(found.chosen), 0, []
    for _, size in found.blocks[:-1]:
        position += size
        lines.append(element("line", {"x1": position, "x2": position, "y1": 0, "y2": count}))
        lines.append(element("line", {"x1": 0, "x2": count, "y1": position, "y2": position}))
    picture = element("img", {"src": address, "alt": f"{name}: matrix of correlations between {count} images"})
    box = {"viewBox": f"0 0 {count} {count}", "aria-hidden": "true", "preserveAspectRatio": "none"}
    scale = element(
        "div",
        {"class": "scale"},
        element("span", {}, f"{MINUS}{limit:.2g}"),
        element("img", {"src": scale_picture(), "alt": f"colours from {MINUS}{limit:.2g}, blue, to {limit:.2g}, red"}),
        element("span", {}, f"{limit:.2g}"),
    )
    square = element("div", {"class": "matrix"}, picture, element("svg", box, *lines))
    return element("figure", {}, element("figcaption", {}, _subscript(name)), square, scale)


def _subscript(name: str) -> Html:
    """Return a name with the letters after `_` below the line."""
    first, *others = name.split("_")
    return joined(first, *(part for other in others for part in (element("sub", {}, other[:1]), other[1:])))


def class_maps(analysis: Analysis, maps: Maps) -> Html:
    """Return the maps of both networks side by side, the teacher's first, with one legend."""
    labels = analysis.labels[maps.chosen].tolist()
    colours = class_colours(len(analysis.classes))
    panels = [
        element("figure", {"class": "map"}, element("figcaption", {}, side.capitalize()),
                scatter(places, labels, colours, f"{maps.method} map of the {side}: {len(labels)} images by class"))
        for side, places in reversed(list(zip(SIDES, maps.places, strict=False)))
    ]  # fmt: skip
    return joined(
        text(
            f"{maps.method} of {len(labels):,} images by each network's correlations. Distances between far groups "
            "mean little and directions nothing; the student's map began at the teacher's places."
            if len(panels) == 2
            else f"{maps.method} of {len(labels):,} images by the student's correlations."
        ),
        _legend(analysis.classes, colours, labels),
        element("div", {"class": "panels two"}, *panels),
    )


def _legend(classes: tuple[str, ...], colours: list[str], labels: list[int]) -> Html:
    """Return the classes as buttons, or where they are too many as a list, which light up one of them."""
    if not classes:
        return Html("")
    if len(classes) > LEGEND:
        entries = [element("option", {"value": number}, name) for number, name in enumerate(classes)]
        chosen = element("select", {"id": "class-select"}, element("option", {"value": ""}, "all classes"), *entries)
        return element("p", {"class": "legend"}, element("label", {"for": "class-select"}, "Light up "), chosen)
    unknown = [(-1, "no label", NO_CLASS)] if -1 in labels else []
    keys = [
        element("button", {"type": "button", "class": "key", "data-class": number, "aria-pressed": "false"},
                element("span", {"class": "swatch", "style": f"--c:{colour}"}), name)
        for number, name, colour in [*zip(range(len(classes)), classes, colours, strict=True), *unknown]
    ]  # fmt: skip
    group = {"class": "legend", "id": "class-legend", "role": "group", "aria-label": "Light up one class in both maps"}
    return element("div", group, *keys)


def graph_view(analysis: Analysis, maps: Maps, images: ImageSet) -> Html:
    """Return the place of the interactive view, and its data."""
    picture, places = sprite(images.select(maps.chosen.to(images.labels.device)))
    data = graph_data(analysis, maps, places)
    data |= {"sprite": picture, "colours": class_colours(len(analysis.classes)), "layout": maps.method}
    count, k = len(places), data["k"]
    return joined(
        text(f"The {k}-nearest-neighbour graph of {count:,} images, in the places of the maps above; neighbours are "
             "sought among these images."),
        element("noscript", {}, text("The view needs JavaScript, which is part of this file.")),
        element("div", {"id": "graph-view"}),
        json_script("graph-data", data),
    )  # fmt: skip


def worst_neighbourhoods(analysis: Analysis, found: list[Neighbourhood], images: ImageSet) -> Html:
    """Return the images on which the networks disagree most, with their neighbours as thumbnails."""
    wanted = sorted({i for one in found for i in (one.image, *one.student, *one.teacher)})
    which = torch.tensor(wanted, device=images.labels.device)
    pictures = thumbnails(images.select(which), THUMBNAIL)
    shown = {number: data_uri(picture) for number, picture in zip(wanted, pictures, strict=True)}
    items = [_neighbourhood(analysis, one, shown) for one in found]
    return joined(
        text("The images with the fewest neighbours in common, among equals those first whose edges differ most. "
             "A frame marks a neighbour that both networks choose."),
        element("ol", {"class": "worst"}, *items),
    )  # fmt: skip


def _neighbourhood(analysis: Analysis, one: Neighbourhood, shown: dict[int, str]) -> Html:
    both = set(one.student) & set(one.teacher)
    label = _label(analysis, one.image)
    rows = [
        element("div", {"class": "row"}, element("h4", {}, name.capitalize()),
                element("ul", {"aria-label": f"Neighbours by the {name}"},
                        *(_thumbnail(analysis, i, one.image, shown[i], i in both) for i in neighbours)))
        for name, neighbours in (("teacher", one.teacher), ("student", one.student))
    ]  # fmt: skip
    heading = element("h3", {}, label, element("small", {}, f"overlap {one.overlap:.2f}"))
    image = element("img", {"src": shown[one.image], "alt": _alternative(analysis, one.image), "class": "anchor"})
    return element("li", {}, image, element("div", {}, heading, *rows))


def _thumbnail(analysis: Analysis, image: int, anchor: int, address: str, shared: bool) -> Html:
    same = int(analysis.labels[image]) == int(analysis.labels[anchor])
    kinds = ["shared"] if shared else []
    kinds += [] if same else ["other"]
    alternative = _alternative(analysis, image) + (", chosen by both networks" if shared else "")
    picture = element("img", {"src": address, "alt": alternative, "title": alternative})
    caption = element("span", {"aria-hidden": "true"}, _label(analysis, image, ""))
    return element("li", {"class": " ".join(kinds) or None}, picture, caption)


def _label(analysis: Analysis, image: int, without: str = "no label") -> str:
    label = int(analysis.labels[image])
    return analysis.classes[label] if label >= 0 else without


def _alternative(analysis: Analysis, image: int) -> str:
    return f"{_label(analysis, image, 'image')}, number {int(analysis.index[image])}"
