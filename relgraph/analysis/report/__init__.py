"""A report on finished runs: one HTML file that opens from disk and loads nothing else."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from relgraph.analysis.analysis import Analysis
from relgraph.analysis.report import detail_sections as detail
from relgraph.analysis.report import run_sections as section
from relgraph.analysis.report.answers import answers, answers_section
from relgraph.analysis.report.content import maps, matrices, worst
from relgraph.analysis.report.measures import Asked, Measured, keep, measure
from relgraph.analysis.report.page import document
from relgraph.analysis.report.segmentation import of_runs, segmentation_section
from relgraph.analysis.report.summary import Group, Summary, groups, summaries
from relgraph.analysis.run_loading import TrainedRun
from relgraph.analysis.sources import Source
from relgraph.analysis.targets import check_own
from relgraph.errors import RelgraphError
from relgraph.files import write_atomically
from relgraph.networks.files import read_network
from relgraph.printing import Stages
from relgraph.training.recipe import Recipe
from relgraph.training.runs import RunDirectory

Section = tuple[str, tuple[str, Markup]]  # id, heading and content
SUBTITLE = "relgraph report on"  # by which a page is known again, those of before as well
LIMIT = 10 * 2**20  # bytes: what a browser opens at once and a mail still takes


def write_report(
    runs: Sequence[Path], path: Path, *, split: str | None = None, first: int | None = None, k: int | None = None,
    source: Source = "teacher", given: Mapping[Path, Mapping[str, Any]] | None = None,
) -> int:  # fmt: skip
    """Write a report on `runs` as one HTML file, whole or not at all, and return its size in bytes.

    All runs are described and compared, their graphs of `k` nearest neighbours on a split, or on its first images,
    included; the first of them that trained a student is shown in detail. The split is by default "test", or "train"
    where there are no test images; `source` says whose vectors the teacher's graph is of (see `analyse`). Code of one's
    own that a run names may be `given` again (see `TrainedRun`). A run that is not finished is shown as far as it is;
    what is damaged is left out with a line. A run keeps its measures in `graph_measures.json`.

    Of runs on labels of pixels, the first of each recipe that are on the same data, some images are shown with the
    classes that student and teacher give their pixels, instead of graphs.

    Raises:
        RelgraphError: if one is not a run, none can be read or has a student that can be opened where one is trained,
            the splits have too few images, the report would exceed 10 MiB, or the file cannot be written.
    """
    given = given or {}
    described, notes = summaries(runs, given)
    grouped, repeated = groups(described)
    with closing(Stages("report", sum(len(group.runs) for group in grouped) + 7)) as stages:
        shown, dense, failed = _measure(grouped, given, Asked(split, first, k, source), stages)
        details = {} if shown is None else dict(stages.each(_in_detail(shown, first), "sections"))
        if dense:
            details |= _pixels(dense, split, first)
    sections = dict[str, tuple[str, Markup]]()
    if (nearness := section.nearness(grouped)) is not None:
        sections["nearness"] = ("Which run is nearer its teacher?", nearness)
    if (measures := section.measures(grouped)) is not None:
        sections["measures"] = ("How near runs are to their teachers", measures)
    sections["results"] = ("Results", section.results(grouped, [*notes, *repeated, *failed]))
    sections["settings"] = ("What was run", section.options(described))
    if (curves := section.curves(grouped)) is not None:
        sections["curves"] = ("Learning curves", curves)
    first_read = {"nearness", "pixels", "graph"}
    if len(grouped) == 1 or "graph" not in details:  # the tables of several would push the graph out of sight
        first_read |= {"measures", "results"}
    sections = dict(sorted((sections | details).items(), key=lambda item: item[0] not in first_read))
    sections["environment"] = ("Environment", section.environment(described))
    title = described[0].name if len(described) == 1 else f"{described[0].name} and {len(described) - 1} more"
    subtitle = f"{SUBTITLE} {len(described)} run{'s' if len(described) > 1 else ''}"
    page = document(title, sections, subtitle).encode()
    if len(page) > LIMIT:
        raise RelgraphError(f"a report takes at most {LIMIT:,} bytes, got {len(page):,}: give fewer runs")
    write_atomically(path, page)
    return len(page)


def check_page(path: Path) -> None:
    """Check that a report can be written to a path: nothing is there, or a report of before.

    Raises:
        RelgraphError: if anything else is.
    """
    mark = f'<p class="subtitle">{SUBTITLE} '.encode()
    check_own(path, "report of relgraph", lambda data: data.startswith(b"<!doctype html>") and mark in data)


class Shown(NamedTuple):
    """The run in detail."""

    run: Summary
    opened: TrainedRun
    analysis: Analysis
    summary: dict[str, Any]


def _measure(
    grouped: Sequence[Group], given: Mapping[Path, Mapping[str, Any]], asked: Asked, stages: Stages
) -> tuple[Shown | None, dict[str, TrainedRun], list[str]]:
    """Measure the graphs of all runs that have a student.

    Return the first in detail, by name the first run of each group on labels of pixels, which have no such graphs, and
    sentences on the others.

    Raises:
        RelgraphError: if there are students, and none can be opened and measured.
    """
    shown, dense, notes, errors = None, dict[str, TrainedRun](), list[str](), list[RelgraphError]()
    of_pixels: object = None  # the data of those runs
    for group in grouped:
        for place, run in enumerate(group.runs):
            if not isinstance(run.recipe, Recipe):
                continue
            if not RunDirectory(run.path).student_file.is_file():
                notes.append(f"there is no student of {run.name} yet, epochs: {run.epochs}")
                continue
            stages(f"graphs of {run.name}")
            try:
                if read_network(RunDirectory(run.path).student_file)[1].get("pixels"):
                    if not dense or (place == 0 and run.data == of_pixels):
                        dense[run.name], of_pixels = TrainedRun(run.path, given.get(run.path)), run.data
                    continue
                if shown is None:
                    opened = TrainedRun(run.path, given.get(run.path))
                    analysis = asked.analysis(opened)
                    shown = Shown(run, opened, analysis, analysis.summary())
                    measured = Measured.of(opened, shown.summary)
                    keep(run.path, asked, measured)
                else:
                    measured = measure(run.path, given.get(run.path), asked)
                group.runs[place] = run._replace(measured=measured)
            except RelgraphError as error:
                errors.append(error)
                notes.append(f"the graphs of {run.name} are left out: {str(error).replace(str(run.path), run.name)}")
    if errors and shown is None and not dense:
        raise errors[0]
    return shown, dense, notes


def _pixels(runs: Mapping[str, TrainedRun], split: str | None, first: int | None) -> dict[str, tuple[str, Markup]]:
    """Return the section on runs on labels of pixels of the same data."""
    data = next(iter(runs.values()))
    images = data.images(split or ("test" if len(data.data.test) else "train"), first)
    found = of_runs(runs, images)
    if found is None:
        return {}
    return {"pixels": ("Classes of pixels", segmentation_section(found, images, data.data.file_names(images)))}


def _in_detail(shown: Shown, first: int | None) -> Iterator[Section]:
    run, opened, found, summary = shown
    images = opened.images(found.split, first)
    files = opened.data.file_names(images)
    of_epoch = "" if run.finished else f", epoch {opened.epoch} ({run.epochs})"
    yield "diagnostics", (f"Neighbourhoods of {run.name}{of_epoch}", detail.diagnostics(found, summary))
    if found.labelled:
        yield "classes", ("Classes", detail.by_class(found, summary))
    yield "matrices", ("Edge matrices", detail.edge_matrices(matrices(found), found))
    placed = maps(found)
    yield "maps", ("Maps", detail.class_maps(found, placed))
    yield "graph", (f"The graph of {run.name}{of_epoch}", detail.graph_view(found, placed, images, files))
    if found.teacher is not None:
        listed = detail.worst_neighbourhoods(found, worst(found), placed, images, files)
        yield "worst", ("Where they disagree most", listed)
    answered = answers(opened, images)
    if answered is not None:
        heading = "Answers of the teacher's index" if answered.shared else "Answers of both networks' indexes"
        yield "answers", (heading, answers_section(answered, images, files))
