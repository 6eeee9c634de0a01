"""The sections on one run: diagnostics, edge matrices, maps, the graph view, and the worst neighbourhoods."""

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import torch
from markupsafe import Markup

from relgraph.analysis.analysis import Analysis
from relgraph.analysis.colours import NO_CLASS, class_colours, class_shapes
from relgraph.analysis.pictures import data_uri, matrix_picture, sprite, thumbnails
from relgraph.analysis.report import content
from relgraph.analysis.report.content import SIDES, Maps, Matrices, Neighbourhood
from relgraph.analysis.report.graph_data import graph_data
from relgraph.analysis.report.marks import Marks, class_names, outline, scatter
from relgraph.analysis.report.page import MINUS, fill, number
from relgraph.data.images import ImageSet

WORST_CLASSES = 10
COLUMNS = {"overlap": "Overlap", "relation_error": "Relation error"}
COLUMNS |= {f"homophily_{side}": f"Homophily, {side}" for side in SIDES}
THUMBNAIL = 64
CROWDED = 800  # images on a map, from which on their marks are smaller


def diagnostics(analysis: Analysis, summary: Mapping[str, Any]) -> Markup:
    """Return the measures of the k-NN graphs, as cards and a table."""
    rows = [[name, *map(number, values)] for name, values in content.figures(analysis, summary).items()]
    caption = f"{len(analysis.labels):,} images of the {analysis.split} split, {analysis.k} nearest neighbours"
    header, cards = ["", *map(str.capitalize, analysis.graphs)], content.agreement(summary)
    return fill("diagnostics.html", cards=cards, caption=caption, header=header, rows=rows)


def by_class(analysis: Analysis, summary: Mapping[str, Any]) -> Markup:
    """Return the classes with the student's worst relations, and the classes that its graph mixes up."""
    classes, names = summary["per_class"], analysis.classes
    shown = [name for name in COLUMNS if name in classes[0]]
    rows = [[one["name"], *(number(one[name]) for name in ["images", *shown])] for one in classes[:WORST_CLASSES]]
    edges = summary["confusion"]
    listed = zip(edges["from"], edges["to"], *(edges[f"{side}_share"] for side in analysis.graphs), strict=True)
    mixed = [[f"{names[a]} → {names[b]}", *(f"{100 * share:.1f} %" for share in shares)] for a, b, *shares in listed]
    order = "relation error, the mean |r_s - r_t| of an edge" if analysis.teacher is not None else "homophily"
    some = "The classes" if len(classes) <= WORST_CLASSES else f"The {WORST_CLASSES} worst classes"
    header, networks = (
        ["Class", "Images", *map(COLUMNS.get, shown)],
        ["From → to", *map(str.capitalize, analysis.graphs)],
    )
    return fill(
        "classes.html",
        worst=f"{some} by {order}",
        header=header,
        rows=rows,
        mixed=mixed[:WORST_CLASSES],
        networks=networks,
    )


def edge_matrices(found: Matrices, total_classes: int) -> Markup:
    """Return the edge matrices of the teacher and the student, and their difference, as pictures."""
    s, t = Markup("E<sub>s</sub>"), Markup("E<sub>t</sub>")
    drawn = [(s + ", student", "E_s, student", "1", matrix_picture(found.student, 1.0))]
    if found.teacher is not None:
        difference = found.student - found.teacher
        largest = max(0.1, float(difference.abs().max()))
        drawn.insert(0, (t + ", teacher", "E_t, teacher", "1", matrix_picture(found.teacher, 1.0)))
        symbol, name = f"{s} {MINUS} {t}, difference", f"E_s {MINUS} E_t, difference"
        drawn.append((Markup(symbol), name, f"{largest:.2g}", matrix_picture(difference, largest)))
    lines = list(accumulate(size for _, size in found.blocks[:-1]))
    colours, blocks = matrix_picture(torch.linspace(-1, 1, 128)[None], 1.0), [name for name, _ in found.blocks]
    return fill("matrices.html", count=len(found.chosen), classes=total_classes, blocks=blocks, lines=lines,
                panels=drawn, colours=colours)  # fmt: skip


def class_maps(analysis: Analysis, maps: Maps) -> Markup:
    """Return the maps of both networks side by side, the student's first, with one legend and the classes' names."""
    labels, classes = analysis.labels[maps.chosen].clamp_min(-1), len(analysis.classes)
    radius = 0.017 if len(labels) > CROWDED else 0.024
    panels = [
        (side, scatter(places, labels.tolist(), classes, radius), class_names(places, labels, analysis.classes))
        for side, places in zip(SIDES, maps.places, strict=False)
    ]
    keys = [
        (number, analysis.classes[number], Marks(number, colour, shape, "M0 0" + outline(shape, 1.0)))
        for number, (colour, shape) in enumerate(zip(class_colours(classes), class_shapes(classes), strict=True))
    ]
    if (labels < 0).any():
        keys.append((-1, "no label", Marks(-1, NO_CLASS, "circle", "M0 0h0")))
    return fill("maps.html", method=maps.method, count=len(labels), panels=panels, keys=keys, radius=radius)


def graph_view(analysis: Analysis, maps: Maps, images: ImageSet, files: list[str] | None = None) -> Markup:
    """Return the place of the interactive view, and its data; `files` are the names of all images, where known."""
    picture, places = sprite(images.select(maps.chosen.to(images.labels.device)))
    shown = None if files is None else [files[place] for place in maps.chosen.tolist()]
    return fill("graph.html", data=graph_data(analysis, maps, places, shown) | {"sprite": picture})


def worst_neighbourhoods(
    analysis: Analysis, found: list[Neighbourhood], maps: Maps, images: ImageSet, files: list[str] | None = None
) -> Markup:
    """Return the images on which the networks disagree most, with their neighbours as thumbnails."""
    wanted = sorted({i for one in found for i in (one.image, *one.student, *one.teacher)})
    pictures = thumbnails(images.select(torch.tensor(wanted, device=images.labels.device)), THUMBNAIL)
    nodes = {place: node for node, place in enumerate(maps.chosen.tolist())}
    told = {}
    for place, picture in zip(wanted, pictures, strict=True):
        name, number = analysis.class_name(place), int(analysis.index[place])
        file = f"number {number}" if files is None else files[place]
        told[place] = {"name": name, "file": file, "told": f"{name or 'image'}, {file}", "picture": data_uri(picture)}

    def neighbour(place: int, one: Neighbourhood) -> dict[str, Any]:
        shared = place in one.student and place in one.teacher
        other = int(analysis.labels[place]) != int(analysis.labels[one.image])
        return {**told[place], "shared": shared, "kinds": " ".join(["shared"] * shared + ["other"] * other)}

    shown = [
        {
            "image": told[one.image],
            "node": nodes[one.image],
            "overlap": one.overlap,
            "rows": {side: [neighbour(i, one) for i in getattr(one, side)] for side in SIDES},
        }
        for one in found
    ]
    return fill("worst.html", found=shown)
