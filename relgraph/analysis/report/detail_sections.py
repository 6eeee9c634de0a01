"""The sections on one run: diagnostics, edge matrices, maps, the graph view, and the worst neighbourhoods."""

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import torch
from markupsafe import Markup
from torch import Tensor

from relgraph.analysis.analysis import Analysis
from relgraph.analysis.colours import NO_CLASS, class_colours, class_shapes
from relgraph.analysis.pictures import data_uri, matrix_picture, sprite, thumbnails
from relgraph.analysis.report import content
from relgraph.analysis.report.content import SIDES, Maps, Matrices, Neighbourhood
from relgraph.analysis.report.graph_data import graph_data
from relgraph.analysis.report.marks import Marks, class_names, outline, scatter
from relgraph.analysis.report.page import MINUS, fill, number, percent
from relgraph.analysis.sources import title
from relgraph.data.images import ImageSet

WORST_CLASSES = 10
COLUMNS = {"overlap": "Overlap", "relation_error": "Relation error"}
THUMBNAIL = 64
CROWDED = 800  # images on a map, from which on their marks are smaller


def diagnostics(analysis: Analysis, summary: Mapping[str, Any]) -> Markup:
    """Return the measures of the k-NN graphs, as cards and a table."""
    found, header = content.figures(analysis, summary), content.networks(analysis)
    rows = [[name, *map(percent if name in content.SHARES else number, values)] for name, values in found.items()]
    known = "" if summary["labelled"] == summary["images"] else f", {summary['labelled'] or 'none'} with a label"
    caption = f"{len(analysis.labels):,} images of the {analysis.split} split{known}, {analysis.k} nearest neighbours"
    cards = {name: (percent if share else number)(value) for name, (value, share) in content.agreement(summary).items()}
    apart = " and ".join(str(summary[side]["width"]) for side in analysis.graphs) if "match" not in summary else ""
    return fill("diagnostics.html", cards=cards, caption=caption, header=["", *header], rows=rows, widths=apart,
                source=None if analysis.teacher is None else title(analysis.source))  # fmt: skip


def by_class(analysis: Analysis, summary: Mapping[str, Any]) -> Markup:
    """Return the classes with the student's worst relations, and the classes that its graph mixes up."""
    classes, names = summary["per_class"], analysis.classes
    called = {f"homophily_{side}": name for side, name in zip(analysis.graphs, content.networks(analysis), strict=True)}
    columns = COLUMNS | {name: f"Homophily, {network.lower()}" for name, network in called.items()}
    shown = [name for name in columns if name in classes[0]]
    rows = [[one["name"], number(one["images"]), *((number if name == "relation_error" else percent)(one[name])
             for name in shown)] for one in classes[:WORST_CLASSES]]  # fmt: skip
    edges = summary["confusion"]
    listed = zip(edges["from"], edges["to"], *(edges[f"{side}_share"] for side in analysis.graphs), strict=True)
    mixed = [[f"{names[a]} → {names[b]}", *map(percent, shares)] for a, b, *shares in listed]
    order = "relation error, the mean |r_s - r_t| of an edge" if analysis.teacher is not None else "homophily"
    some = "The classes" if len(classes) <= WORST_CLASSES else f"{WORST_CLASSES} of {len(classes)} classes, the worst"
    more = f", {WORST_CLASSES} of {len(mixed):,} pairs" if len(mixed) > WORST_CLASSES else ""
    header, networks = ["Class", "Images", *map(columns.get, shown)], ["From → to", *content.networks(analysis)]
    return fill("classes.html", worst=f"{some} by {order}", header=header, rows=rows, mixed=mixed[:WORST_CLASSES],
                more=more, networks=networks)  # fmt: skip


def edge_matrices(found: Matrices, analysis: Analysis) -> Markup:
    """Return the edge matrices of the student and the teacher, and their difference, as pictures."""
    s, t = Markup("E<sub>s</sub>"), Markup("E<sub>t</sub>")
    drawn = [_panel(s + ", student", "E_s, student", found.student)]
    if found.teacher is not None:
        side, difference = content.networks(analysis)[1].lower(), found.student - found.teacher
        largest = max(map(abs, content.scale_of(difference)))
        drawn.append(_panel(t + f", {side}", f"E_t, {side}", found.teacher))
        symbol, name = Markup(f"{s} {MINUS} {t}, difference"), f"E_s {MINUS} E_t, difference"
        drawn.append(_panel(symbol, name, difference, (-largest, largest), "RdBu_r"))
    ends, count = list(accumulate(size for _, size in found.blocks)), len(found.chosen)
    middles = [(end - size / 2, name) for end, (name, size) in zip(ends, found.blocks, strict=True)]
    order = [(place + 0.5, f"{analysis.index[found.chosen[place]]}") for place in (0, count - 1)]
    axis = [(100 * at / count, name) for at, name in middles or order]
    return fill("matrices.html", count=count, total=len(analysis.labels), classes=len(analysis.classes),
                blocks=len(found.blocks), lines=ends[:-1], panels=drawn, axis=axis)  # fmt: skip


def _panel(
    symbol: Markup, name: str, matrix: Tensor, scale: tuple[float, float] | None = None, colours: str = "cividis"
) -> tuple[Any, ...]:
    """Return a matrix for its template: symbol, name, picture, and the ends and the colours of its scale."""
    low, high = scale or content.scale_of(matrix)
    ends = [f"{end:.{2 if high - low > 0.05 else 4}f}".replace("-", MINUS) for end in (low, high)]
    bar = matrix_picture(torch.linspace(0, 1, 128)[None], 0.0, 1.0, colours)
    return symbol, name, matrix_picture(matrix, low, high, colours), *ends, bar


def class_maps(analysis: Analysis, maps: Maps) -> Markup:
    """Return the maps of both networks side by side, the student's first, with one legend and the classes' names."""
    labels, classes = analysis.labels[maps.chosen].clamp_min(-1), len(analysis.classes)
    radius = 0.017 if len(labels) > CROWDED else 0.024
    panels = [
        (side, called, scatter(places, labels.tolist(), classes, radius), class_names(places, labels, analysis.classes))
        for side, called, places in zip(SIDES, content.networks(analysis), maps.places, strict=False)
    ]
    keys = [
        (number, analysis.classes[number], Marks(number, colour, shape, "M0 0" + outline(shape, 1.0)))
        for number, (colour, shape) in enumerate(zip(class_colours(classes), class_shapes(classes), strict=True))
    ]
    if keys and bool((labels < 0).any()):
        keys.append((-1, "no label", Marks(-1, NO_CLASS, "circle", "M0 0h0")))
    total = len(analysis.labels)
    return fill(
        "maps.html", method=maps.method, count=len(labels), total=total, panels=panels, keys=keys, radius=radius
    )


def graph_view(analysis: Analysis, maps: Maps, images: ImageSet, files: list[str] | None = None) -> Markup:
    """Return the place of the interactive view, and its data; `files` are the names of all images, where known."""
    picture, places = sprite(images.select(maps.chosen.to(images.labels.device)))
    shown = None if files is None else [files[place] for place in maps.chosen.tolist()]
    data, total = graph_data(analysis, maps, places, shown) | {"sprite": picture}, len(analysis.labels)
    source = None if analysis.teacher is None else title(analysis.source)
    return fill("graph.html", data=data, total=total, source=source)


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
            "rows": {
                called.lower(): [neighbour(i, one) for i in getattr(one, side)]
                for side, called in zip(SIDES, content.networks(analysis), strict=True)
            },
        }
        for one in found
    ]
    return fill("worst.html", found=shown)
