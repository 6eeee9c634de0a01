"""Whole reports, read as a browser reads them: what they hold, ask for and show of names that look like HTML."""

import csv
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from relgraph.analysis.pictures import data_uri, thumbnails
from relgraph.analysis.report import page as page_module
from relgraph.analysis.report import write_report
from relgraph.analysis.report.measures import Asked, Measured, keep, measure
from relgraph.analysis.run_loading import TrainedRun
from relgraph.files import read_json, read_yaml, write_table, write_yaml
from relgraph.printing import Stages
from relgraph.training.distillation import train
from relgraph.training.pretrain_recipe import resolve_pretraining
from relgraph.training.pretraining import pretrain
from relgraph.training.recipe import Recipe
from tests.analysis.conftest import Runs
from tests.checks import assert_refused_like, plain
from tests.pictures import write_folder

VOID = {"meta", "link", "img", "br"}
HOSTILE = ("\"'&amp;", "<script>alert(1)<%script>".replace("%", "\N{DIVISION SLASH}"), "cat")
LOADED = ("src", "href", "srcset", "data", "action", "poster", "xlink:href", "formaction")


class Page(HTMLParser):
    """A report, taken apart."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source, self.open, self.elements, self.text = text, [""], list[tuple[str, dict[str, str]]](), ""
        self.data = ""
        self.feed(text)
        self.close()
        assert self.open == [""], "an element is not closed"
        self.ids = [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.elements.append((tag, found))
        if tag not in VOID:
            self.open.append(f"{tag}#{found.get('id', '')}")

    def handle_endtag(self, tag: str) -> None:
        assert tag in VOID or self.open.pop().split("#")[0] == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1] == "script#graph-data":
            self.data += data
        elif self.open[-1].split("#")[0] not in ("script", "style"):
            self.text += data + "\n"

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def graph(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.data)
        return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return images in classes with hostile names."""
    return write_folder(tmp_path_factory.mktemp("data") / "folder", {"train": 12, "val": 5, "test": 6}, HOSTILE)


QUICK: dict[str, Any] = {
    "student": "resnet8", "dim": 8, "epochs": 2, "batch_size": 9, "lr": 0.01, "device": "cpu", "precision": "32-true",
}  # fmt: skip


@pytest.fixture(scope="module")
def hostile(folder: Path) -> Path:
    path = folder.parent / "<b>run & co</b>".replace("/", "\N{DIVISION SLASH}")
    train(Recipe(dataset=f"folder:{folder}", **QUICK), path)
    return path


@pytest.fixture(scope="module")
def pretrained(folder: Path) -> Path:
    path = folder.parent / "pretrained"
    options = {"dataset": f"folder:{folder}", "network": "resnet8", "epochs": 1, "batch_size": 9, "device": "cpu"}
    pretrain(resolve_pretraining(options), path)
    return path


def report(tmp_path: Path, *runs: Path, **options: Any) -> Page:
    """Return a report that was checked for what holds for each: it asks for nothing, and all pictures are told."""
    path = tmp_path / "report.html"
    size = write_report(runs, path, **options)
    assert size == path.stat().st_size < 10 * 2**20
    page = Page(path.read_text(encoding="utf-8"))
    for _, attributes in page.elements:
        for name in LOADED:
            assert attributes.get(name, "#").startswith(("#", "data:")), attributes[name]
        assert not any(name.startswith("on") for name in attributes), "scripts listen, attributes do not"
    styles = "".join(re.findall("<style>(.*?)</style>", page.source, re.DOTALL))
    assert "url(" not in styles and "@import" not in styles
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy and "http" not in policy and "unsafe-eval" not in policy
    assert len(page.ids) == len(set(page.ids))
    assert {link["href"].removeprefix("#") for link in page.all("a")} <= {*page.ids}
    assert all(picture.get("alt") is not None for picture in page.all("img"))
    assert all(drawing.get("aria-label") or drawing.get("aria-hidden") for drawing in page.all("svg"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all("scope" in cell for cell in page.all("th"))
    assert len(page.all("main")) == len(page.all("h1")) == len(page.all("title")) == 1
    return page


@pytest.fixture(scope="module")
def page(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return report(tmp_path_factory.mktemp("report"), runs("few"), runs("all"), runs("none"), k=4)


@pytest.mark.slow
def test_sections_and_their_contents(runs: Runs, page: Page) -> None:
    sections = [attributes["id"] for attributes in page.all("section")]
    assert sections == [
        "nearness", "graph", "measures", "results", "settings", "curves", "diagnostics", "classes", "matrices", "maps",
        "worst", "answers", "environment",
    ]  # fmt: skip
    links = [link["href"] for link in page.all("a")]
    assert [f"#{section}" for section in sections] == links[1 : len(sections) + 1], "after the link to the content"
    thumbs = [picture for picture in page.all("img") if picture["alt"].count(", number ") == 1]
    ranked = [picture for picture in thumbs if ", rank " in picture["alt"]]
    assert len(thumbs) == 12 * (1 + 2 * 4) + 10 * (1 + 2 * 8), "the worst are shown with their neighbours"
    assert len(ranked) == 10 * 2 * 8, "the answers of both networks are shown with their ranks"
    assert str(runs("few").parent) not in page.source, "paths of the machine are not told"


def test_figures_are_those_of_the_run(runs: Runs, opened: TrainedRun, page: Page) -> None:
    result = json.loads((runs("few") / "result.json").read_text())
    assert f"{result['test']['best']['top1']:.1f}\N{NO-BREAK SPACE}%" in page.text
    student, _ = opened.outputs(opened.data.test)
    assert student.logits is not None
    share = float((student.logits.argmax(1) == opened.data.test.labels).float().mean())
    assert re.search(rf"Accuracy of the head\s+{100 * share:.1f}\s%", page.text)


def test_curves_are_the_metrics_of_all_runs(runs: Runs, page: Page) -> None:
    lines = page.all("polyline")
    with (runs("few") / "metrics.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    first = next(line for line in lines if line["data-name"] == "few")
    assert first["data-values"] == " ".join(f"{i}:{loss:.4g}" for i, loss in enumerate(losses, 1))
    assert {line["data-name"] for line in lines} == {"few", "all", "none"}


def test_diagnostics_over_time_where_there_are_any(runs: Runs, tmp_path: Path) -> None:
    copy = shutil.copytree(runs("few"), tmp_path / "few")
    columns = ["epoch", "loss", "val_overlap@8", "batch_overlap", "batch_edge_rank", "batch_match",
               "batch_homophily_student", "batch_homophily_teacher", "batch_homophily_edges"]  # fmt: skip
    rows = (1, 2, 7, 10, 0.2, 30, 40, 50, 12), (2, 1, 9, 20, None, 40, None, 60, None)
    named = [dict(zip(columns, row, strict=True)) for row in rows]
    write_table(copy / "metrics.csv", [{k: v for k, v in row.items() if v is not None} for row in named])
    page = report(tmp_path, copy, first=20)
    found = [(line["data-part"], line["data-values"]) for line in page.all("polyline")]
    values = "1:2 2:1", "1:7 2:9", "1:10 2:20", "1:0.2", "1:30 2:40", "1:40", "1:50 2:60"
    assert found == list(zip(("", "", "", "", "", "student", "teacher"), values, strict=True))
    assert "Of the 12 edges an epoch that were measured and whose both ends have a label." in page.text
    assert page.text.count("Neighbour overlap@8 in %, validation") == 1 and "Dashed: the teacher" in page.text


def test_the_graph_has_all_that_its_view_reads(page: Page) -> None:
    data, views = page.graph, [attributes for _, attributes in page.elements if attributes.get("id") == "graph-view"]
    assert len(views) == 1 and len(data["nodes"]) == 355
    names = ["id", "label", "class", "prediction", "community", "x", "y", "thumb"]
    for node in data["nodes"]:
        for name in names:
            assert name in node or {f"{name}_student", f"{name}_teacher"} <= set(node)
    assert set(data["edges"]) == {"student", "teacher"} and data["sprite"]["data"].startswith("data:image/")
    assert {"tile", "columns"} <= set(data["sprite"])


def test_hostile_names_are_text(hostile: Path, tmp_path: Path) -> None:
    page = report(tmp_path, hostile, k=3)
    assert page.graph["classes"] == sorted(HOSTILE)
    assert "<script>alert" not in page.source and not page.all("b")
    assert [script.get("id") for script in page.all("script") if script.get("type")] == ["graph-data"]
    assert all(name in page.text for name in (*HOSTILE, hostile.name))
    assert any(HOSTILE[1] in picture["alt"] for picture in page.all("img"))


def test_seeds_of_one_recipe_are_one_line_with_a_band(runs: Runs, tmp_path: Path) -> None:
    losses: dict[str, list[float]] = {"knn-0": [4.0, 2.0], "knn-1": [6.0, 2.5]}
    for seed, (name, values) in enumerate(losses.items()):
        copy = shutil.copytree(runs("few"), tmp_path / name)
        write_yaml(copy / "recipe.yaml", plain({**read_yaml(copy / "recipe.yaml", sealed=True), "seed": seed}))
        write_table(copy / "metrics.csv", [{"epoch": epoch, "loss": loss} for epoch, loss in enumerate(values, 1)])
    page = report(tmp_path, *(tmp_path / name for name in losses), first=20, k=3)
    (line,) = page.all("polyline")
    assert line["data-name"] == "knn (2 seeds)" and line["data-values"] == "1:5±1.4 2:2.25±0.35"
    assert (
        len(page.all("polygon")) == 1 and "its band one standard deviation (of the sample) to either side" in page.text
    )


def test_what_is_unfinished_or_damaged_is_told_beside_the_others(runs: Runs, tmp_path: Path) -> None:
    """The unfinished run is the one in detail; measures that a run keeps are taken from it."""
    unfinished, begun, damaged, kept = (
        shutil.copytree(runs(variant), tmp_path / name)
        for variant, name in (("few", "unfinished"), ("few", "begun"), ("all", "damaged"), ("none", "kept"))
    )
    for name in ("result.json", "best.ckpt", "student.safetensors", "metrics.csv"):
        (begun / name).unlink()
    (unfinished / "result.json").unlink()
    os.truncate(damaged / "best.ckpt", 100)
    asked = Asked(first=20, k=3)
    keep(kept, asked, measure(kept, None, asked)._replace(figures={"homophily_student": 0.4321}))
    page = report(tmp_path, unfinished, begun, damaged, kept, first=20, k=3)
    text = page.text.replace("\N{NO-BREAK SPACE}", " ")
    assert "Neighbourhoods of unfinished, epoch 2 (2, not finished)" in text
    assert "There is no student of begun yet, epochs: 0 of 2, not finished." in text
    assert "The graphs of damaged are left out: cannot read the checkpoint damaged/best.ckpt" in text
    assert "43.2 %" in text, "what a run keeps is not measured again"
    print(re.sub(r"\s+", " ", text)[:900])
    assert re.search(r"unfinished\s+digits\s+0\s+2, not finished\s+2, so far", text)
    told = r"^cannot read the checkpoint .*damaged.best\.ckpt"
    assert_refused_like((lambda: write_report([damaged, begun], tmp_path / "page.html", first=20, k=3), told))
    found = measure(unfinished, None, asked)
    assert found.epoch == 2 and found == Measured(
        **read_json(unfinished / "graph_measures.json")["measures"].popitem()[1]
    )


def test_where_there_is_no_terminal_a_line_tells_how_far_it_is(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stages, "PAUSE", 0.0)
    report(tmp_path, runs("few"), runs("none"), first=20, k=3)
    first, second, *_ = capsys.readouterr().err.splitlines()
    assert (first, second) == ("report: graphs of few, 0 of 9 done", "report: graphs of none, 1 of 9 done")


def test_another_split_and_fewer_images(hostile: Path, tmp_path: Path) -> None:
    images = TrainedRun(hostile).images("train", 10)
    pictures = [data_uri(picture) for picture in thumbnails(images, 64)]
    page = report(tmp_path, hostile, split="train", first=10, k=2)
    assert {picture["src"] for picture in page.all("img") if "class" in picture} <= {*pictures}, "those of the ten"
    assert len(page.graph["nodes"]) == 10 and "10 images of the train split" in page.text


def test_without_a_teacher(runs: Runs, tmp_path: Path) -> None:
    page = report(tmp_path, runs("none"), first=40)
    assert page.graph["edges"]["teacher"] == [] and not {"worst", "answers"} & {*page.ids}
    assert "graph" in page.ids and "matrices" in page.ids


def test_without_labels(folder: Path, tmp_path: Path) -> None:
    options = {"dataset": f"folder:{folder / 'train'}", "method": "infonce", "batch_size": 4}
    train(Recipe(**QUICK | options), tmp_path / "run")
    page = report(tmp_path, tmp_path / "run", k=3)
    assert "images of the train split" in page.text and "classes" not in page.ids and "class-legend" not in page.ids
    assert page.graph["classes"] == [] and {node["class"] for node in page.graph["nodes"]} == {-1}
    assert "homophily" not in page.text.replace("Homophily is", "").lower()


def test_a_pre_training_has_curves_and_figures_alone(pretrained: Path, tmp_path: Path) -> None:
    page = report(tmp_path, pretrained)
    assert "simclr" in page.text and len(page.all("polyline")) > 0
    assert "graph" not in page.ids and page.data == ""
    result = json.loads((pretrained / "result.json").read_text())
    assert f"{result['test']['knn']:.1f}\N{NO-BREAK SPACE}%" in page.text


def test_the_first_run_with_a_student_is_the_one_in_detail(pretrained: Path, hostile: Path, tmp_path: Path) -> None:
    page = report(tmp_path, pretrained, hostile, k=2)
    assert len(page.graph["nodes"]) == 18
    assert f"Neighbourhoods of {hostile.name}" in page.text


def test_what_no_document_or_json_may_hold() -> None:
    assert "<h1>a\ufffd\ufffd日本</h1>" in page_module.document("a\x1b\udcff日本", {}, "")
    assert (
        "</script"
        not in page_module.fill("graph.html", data={"k": "</script>", "nodes": []}, total=0, source=None).split("json")[
            1
        ][:-10]
    )
    with pytest.raises(ValueError, match="not JSON compliant"):
        page_module.fill("graph.html", data={"k": float("nan"), "nodes": []}, total=0, source=None)


def test_no_script_of_the_page_can_end_early_or_asks_for_something() -> None:
    for name in page_module.SCRIPTS:
        code = page_module.asset(name)
        assert "<!--" not in code, name
        assert not re.search(r"\b(eval|fetch|importScripts)\(|new Function|XMLHttpRequest|WebSocket", code), name


def test_same_runs_same_report(runs: Runs, tmp_path: Path) -> None:
    one, other = (tmp_path / name for name in ("one.html", "other.html"))
    for path in (one, other):
        write_report([runs("few")], path, first=30, k=3)
    assert one.read_bytes() == other.read_bytes()


def test_errors_leave_what_was_there(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, run = tmp_path / "report.html", [runs("few")]
    path.write_text("before")
    assert_refused_like(
        (lambda: write_report(run, path, k=400), "number of images less one, 354, got 400"),
        (lambda: write_report(run, path, split="tset"), "unknown split 'tset'"),
        (lambda: write_report([tmp_path], path), "is not a run"),
        (
            lambda: write_report(run, tmp_path / "missing" / "report.html", first=10, k=2),
            "cannot write .*: No such file",
        ),
    )
    monkeypatch.setattr("relgraph.analysis.report.LIMIT", 1000)
    told = "a report takes at most 1,000 bytes, got"
    assert_refused_like((lambda: write_report(run, path, first=10, k=2), told))
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
