"""A report on finished runs: one HTML file that opens from disk and loads nothing else."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup
from tqdm import tqdm

from relgraph.analysis.analysis import analyse
from relgraph.analysis.report import detail_sections as detail
from relgraph.analysis.report import run_sections as section
from relgraph.analysis.report.answers import answers, answers_section
from relgraph.analysis.report.content import maps, matrices, worst
from relgraph.analysis.report.page import document
from relgraph.analysis.report.summary import summaries
from relgraph.analysis.run_loading import TrainedRun
from relgraph.analysis.sources import Source
from relgraph.errors import RelgraphError
from relgraph.files import write_atomically
from relgraph.printing import no_bar
from relgraph.training.recipe import Recipe

Section = tuple[str, tuple[str, Markup]]  # id, heading and content
LIMIT = 10 * 2**20  # bytes: what a browser opens at once and a mail still takes


def write_report(
    runs: Sequence[Path], path: Path, *, split: str | None = None, first: int | None = None, k: int = 8,
    source: Source = "teacher", given: Mapping[Path, Mapping[str, Any]] | None = None,
) -> int:  # fmt: skip
    """Write a report on `runs` as one HTML file, whole or not at all, and return its size in bytes.

    All runs are described and compared, and the first of them that trained a student is shown in detail: its graphs of
    `k` nearest neighbours on a split, or on its first images. The split is by default "test", or "train" where
    there are no test images; `source` says whose vectors the teacher's graph is of (see `analyse`). Code of one's own
    that a run names may be `given` again (see `TrainedRun`).

    Raises:
        RelgraphError: if a run cannot be opened, the split has too few images, the report would exceed 10 MiB, or the
            file cannot be written.
    """
    given = given or {}
    described = summaries(runs, given)
    sections = {"results": ("Results", section.results(described))}
    sections["settings"] = ("What was run", section.options(described))
    if (curves := section.curves(described)) is not None:
        sections["curves"] = ("Learning curves", curves)
    distilled = [(run, one.name) for run, one in zip(runs, described, strict=True) if isinstance(one.recipe, Recipe)]
    for run, name in distilled[:1]:
        detailed = _in_detail(TrainedRun(run, given.get(run)), name, split, first, k, source)
        sections |= dict(tqdm(detailed, f"report on {name}", 7, leave=False, disable=no_bar()))
    # What one looks for first stands first.
    sections = dict(sorted(sections.items(), key=lambda item: (item[0] != "results", item[0] != "graph")))
    sections["environment"] = ("Environment", section.environment(described))
    title = described[0].name if len(described) == 1 else f"{described[0].name} and {len(described) - 1} more"
    subtitle = f"relgraph report on {len(described)} run{'s' if len(described) > 1 else ''}"
    page = document(title, sections, subtitle).encode()
    if len(page) > LIMIT:
        raise RelgraphError(f"a report takes at most {LIMIT:,} bytes, got {len(page):,}: give fewer runs")
    write_atomically(path, page)
    return len(page)


def _in_detail(
    opened: TrainedRun, name: str, split: str | None, first: int | None, k: int, source: Source
) -> Iterator[Section]:
    chosen = split or ("test" if len(opened.data.test) > 0 else "train")
    found, images = analyse(opened, chosen, k, first, source=source), opened.images(chosen)
    summary = found.summary()
    yield "diagnostics", (f"Neighbourhoods of {name}", detail.diagnostics(found, summary))
    if found.labelled:
        yield "classes", ("Classes", detail.by_class(found, summary))
    yield "matrices", ("Edge matrices", detail.edge_matrices(matrices(found), len(found.classes)))
    placed = maps(found)
    yield "maps", ("Maps", detail.class_maps(found, placed))
    yield "graph", (f"The graph of {name}", detail.graph_view(found, placed, images))
    if found.teacher is not None:
        yield "worst", ("Where they disagree most", detail.worst_neighbourhoods(found, worst(found), placed, images))
    shown = images if first is None else images.select(torch.arange(min(first, len(images))))
    answered = answers(opened, shown)
    if answered is not None:
        heading = "Answers of the teacher's index" if answered.shared else "Answers of both networks' indexes"
        yield "answers", (heading, answers_section(answered, shown))
