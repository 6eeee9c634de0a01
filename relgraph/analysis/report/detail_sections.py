"""The sections on one run: diagnostics, edge matrices, maps, the graph view, and the worst neighbourhoods."""

import re
from collections.abc import Mapping, Sequence
from itertools import accumulate, islice
from typing import Any

import torch
from torch import Tensor

from relgraph.analysis.analysis import Analysis
from relgraph.analysis.colours import NO_CLASS, class_colours
from relgraph.analysis.pictures import data_uri, matrix_picture, sprite, thumbnails
from relgraph.analysis.report import content
from relgraph.analysis.report.content import SIDES, Maps, Matrices, Neighbourhood
from relgraph.analysis.report.html import Html, element, figure, joined, json_script, legend, number, paragraph, table
from relgraph.data.images import ImageSet

WORST_CLASSES = 10
COLUMNS = {"overlap": "Overlap", "relation_error": "Relation error"}
COLUMNS |= {f"homophily_{side}": f"Homophily, {side}" for side in SIDES}
LEGEND = 20  # classes that fit a legend; more are chosen from a list
THUMBNAIL = 64
MANY = 800  # points of a map that would hide each other


def diagnostics(analysis: Analysis, summary: Mapping[str, Any]) -> Html:
    """Return the measures of the k-NN graphs, as cards and a table."""
    rows = [[name, *map(number, values)] for name, values in content.figures(analysis, summary).items()]
    caption = f"{len(analysis.labels):,} images of the {analysis.split} split, {analysis.k} nearest neighbours"
    told = [(element("dt", {}, name), element("dd", {}, number(n))) for name, n in content.agreement(summary).items()]
    cards = [element("div", {"class": "card"}, *both) for both in told]
    explanation = "Nodes are the images' embeddings; edges join each to its nearest others by Pearson correlation. "
    explanation += "Homophily is the share of edges that join equal labels; communities are Louvain's."
    if cards:
        explanation += " Overlap is the share of its neighbours on which both networks agree; a node matches if, among "
        explanation += "all teacher nodes, its own is the nearest."
    shown = element("dl", {"class": "cards"}, *cards) if cards else ""
    return joined(paragraph(explanation), shown, table(caption, ["", *map(str.capitalize, analysis.graphs)], rows))


def by_class(analysis: Analysis, summary: Mapping[str, Any]) -> Html:
    """Return the classes with the student's worst relations, and the classes that its graph mixes up."""
    classes = summary["per_class"]
    shown = [name for name in COLUMNS if name in classes[0]]
    rows = [[one["name"], *(number(one[name]) for name in ["images", *shown])] for one in classes[:WORST_CLASSES]]
    header = ["Class", "Images", *(COLUMNS[name] for name in shown)]
    order = "relation error, the mean |r_s - r_t| of an edge" if analysis.teacher is not None else "homophily"
    some = "The classes" if len(classes) <= WORST_CLASSES else f"The {WORST_CLASSES} worst classes"
    return element("div", {"class": "tables"}, table(f"{some} by {order}", header, rows), _mixed(analysis, summary))


def _mixed(analysis: Analysis, summary: Mapping[str, Any]) -> Html:
    names, edges = analysis.classes, summary["confusion"]
    caption = "Classes that are mixed up: share of the edges from one class that end in another, "
    caption += "largest differences first"
    listed = zip(edges["from"], edges["to"], *(edges[f"{side}_share"] for side in analysis.graphs), strict=True)
    shown = islice(listed, WORST_CLASSES)
    rows = [[f"{names[a]} → {names[b]}", *(f"{100 * share:.1f} %" for share in shares)] for a, b, *shares in shown]
    return table(caption, ["From → to", *map(str.capitalize, analysis.graphs)], rows) if rows else Html("")


def edge_matrices(found: Matrices, total_classes: int) -> Html:
    """Return the edge matrices of the teacher and the student, and their difference, as pictures."""
    drawn = [("E_s, student", found.student, 1.0)]
    if found.teacher is not None:
        difference = found.student - found.teacher
        drawn.insert(0, ("E_t, teacher", found.teacher, 1.0))
        drawn.append(("E_s \N{MINUS SIGN} E_t, difference", difference, max(0.1, float(difference.abs().max()))))
    panels = element("div", {"class": "panels three"}, *(_matrix(*one, found.blocks) for one in drawn))
    some, row = f"Correlations between {len(found.chosen)} images", "one row and one column an image."
    if not found.blocks:
        return joined(paragraph(f"{some}, in the order of the split: {row}"), panels)
    of = f"{len(found.blocks)} of {total_classes}" if len(found.blocks) < total_classes else f"{total_classes}"
    words = paragraph(f"{some} of {of} classes, sorted by class: {row} Lines part the classes.")
    names = ", ".join(name for name, _ in found.blocks)
    return joined(words, panels, paragraph(f"Classes from top to bottom: {names}.", "note"))


def _matrix(name: str, matrix: Tensor, limit: float, blocks: list[tuple[str, int]]) -> Html:
    count, lines = len(matrix), []
    for at in accumulate(size for _, size in blocks[:-1]):
        lines.append(element("line", {"x1": at, "x2": at, "y1": 0, "y2": count}))
        lines.append(element("line", {"x1": 0, "x2": count, "y1": at, "y2": at}))
    alternative = f"{name}: matrix of correlations between {count} images"
    picture = element("img", {"src": matrix_picture(matrix, limit), "alt": alternative})
    box = {"viewBox": f"0 0 {count} {count}", "aria-hidden": "true", "preserveAspectRatio": "none"}
    least, most = f"\N{MINUS SIGN}{limit:.2g}", f"{limit:.2g}"
    colours = matrix_picture(torch.linspace(-1, 1, 128)[None], 1.0)
    strip = element("img", {"src": colours, "alt": f"colours from {least}, blue, to {most}, red"})
    scale = element("div", {"class": "scale"}, element("span", {}, least), strip, element("span", {}, most))
    caption = Html(re.sub(r"_(\w)", r"<sub>\1</sub>", name))  # the letter after "_" below the line
    return figure(caption, element("div", {"class": "matrix"}, picture, element("svg", box, *lines)), scale)


def class_maps(analysis: Analysis, maps: Maps) -> Html:
    """Return the maps of both networks side by side, the teacher's first, with one legend."""
    labels, colours = analysis.labels[maps.chosen].tolist(), class_colours(len(analysis.classes))
    count = len(labels)
    panels = []
    for side, places in zip(SIDES, maps.places, strict=False):
        drawn = scatter(places, labels, colours, f"{maps.method} map of the {side}: {count} images by class")
        panels.append(figure(side.capitalize(), drawn, kind="map"))
    words = f"{maps.method} of {count:,} images by the student's correlations."
    if len(panels) == 2:
        words = f"{maps.method} of {count:,} images by each network's correlations. Distances between far groups "
        words += "mean little and directions nothing; the student's map began at the teacher's places."
    keys = _class_legend(analysis.classes, colours, labels)
    return joined(paragraph(words), keys, element("div", {"class": "panels two"}, *reversed(panels)))


def scatter(places: Tensor, labels: Sequence[int], colours: Sequence[str], name: str) -> Html:
    """Return points `(n, 2)` within -1..1 as a drawing, a path for each class, those without a label first."""
    points: dict[int, list[str]] = {}
    for (x, y), label in zip(places.tolist(), labels, strict=True):
        points.setdefault(label, []).append(f"M{x:.3f} {-y:.3f}h0")
    paths = []
    for label in sorted(points):
        stroke = colours[label] if label >= 0 else NO_CLASS
        paths.append(element("path", {"data-class": label, "stroke": stroke, "d": "".join(points[label])}))
    size = "many" if len(labels) > MANY else "few"
    box = {"viewBox": "-1.06 -1.06 2.12 2.12", "role": "img", "aria-label": name, "class": size}
    return element("svg", box, *paths)


def _class_legend(classes: tuple[str, ...], colours: list[str], labels: list[int]) -> Html:
    """Return the classes as buttons, or where they are too many as a list, which light up one of them."""
    if not classes:
        return Html("")
    if len(classes) > LEGEND:
        entries = [element("option", {"value": place}, name) for place, name in enumerate(classes)]
        chosen = element("select", {"id": "class-select"}, element("option", {"value": ""}, "all classes"), *entries)
        return element("p", {"class": "legend"}, element("label", {"for": "class-select"}, "Light up "), chosen)
    shown = [*zip(range(len(classes)), classes, colours, strict=True)]
    shown += [(-1, "no label", NO_CLASS)] if -1 in labels else []
    return legend("class", "Light up one class in both maps", shown, pressed=False)


def graph_view(analysis: Analysis, maps: Maps, images: ImageSet) -> Html:
    """Return the place of the interactive view, and its data."""
    picture, places = sprite(images.select(maps.chosen.to(images.labels.device)))
    data = content.graph_data(analysis, maps, places)
    data |= {"sprite": picture, "colours": class_colours(len(analysis.classes)), "layout": maps.method}
    words = f"The {data['k']}-nearest-neighbour graph of {len(places):,} images, in the places of the maps above; "
    words += "neighbours are sought among these images."
    without = element("noscript", {}, paragraph("The view needs JavaScript, which is part of this file."))
    place = element("div", {"id": "graph-view"})
    return joined(paragraph(words), without, place, json_script("graph-data", data))


def worst_neighbourhoods(analysis: Analysis, found: list[Neighbourhood], images: ImageSet) -> Html:
    """Return the images on which the networks disagree most, with their neighbours as thumbnails."""
    wanted = sorted({i for one in found for i in (one.image, *one.student, *one.teacher)})
    pictures = thumbnails(images.select(torch.tensor(wanted, device=images.labels.device)), THUMBNAIL)
    shown = {place: data_uri(picture) for place, picture in zip(wanted, pictures, strict=True)}
    words = "The images with the fewest neighbours in common, among equals those first whose edges differ most. "
    words += "A frame marks a neighbour that both networks choose."
    items = [_neighbourhood(analysis, one, shown) for one in found]
    return joined(paragraph(words), element("ol", {"class": "worst"}, *items))


def _neighbourhood(analysis: Analysis, one: Neighbourhood, shown: dict[int, str]) -> Html:
    labels, both, rows = analysis.labels, set(one.student) & set(one.teacher), []
    for name, neighbours in (("teacher", one.teacher), ("student", one.student)):
        items = []
        for image in neighbours:
            kinds = " ".join(["shared"] * (image in both) + ["other"] * bool(labels[image] != labels[one.image]))
            told = _described(analysis, image) + (", chosen by both networks" if image in both else "")
            picture = element("img", {"src": shown[image], "alt": told, "title": told})
            caption = element("span", {"aria-hidden": "true"}, analysis.class_name(image))
            items.append(element("li", {"class": kinds or None}, picture, caption))
        listed = element("ul", {"aria-label": f"Neighbours by the {name}"}, *items)
        rows.append(element("div", {"class": "row"}, element("h4", {}, name.capitalize()), listed))
    overlap = element("small", {}, f"overlap {one.overlap:.2f}")
    heading = element("h3", {}, analysis.class_name(one.image, "no label"), overlap)
    image_of = element("img", {"src": shown[one.image], "alt": _described(analysis, one.image), "class": "anchor"})
    return element("li", {}, image_of, element("div", {}, heading, *rows))


def _described(analysis: Analysis, image: int) -> str:
    return f"{analysis.class_name(image, 'image')}, number {int(analysis.index[image])}"
