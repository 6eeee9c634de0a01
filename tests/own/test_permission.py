"""Code of one's own that a file names is not run without a word, however the file spells it."""

from pathlib import Path
from typing import Any

import pytest

import relgraph
from relgraph.errors import RelgraphError
from relgraph.files import read_yaml, write_yaml
from relgraph.training.recipe import Recipe
from relgraph.training.runs import RunDirectory
from tests.checks import case

LEAVES_A_MARK = "from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\ndef found(): ...\n"
# Each way in which a file may name code; CODE stands for its spelling.
NAMED: tuple[dict[str, Any], ...] = (
    {"student": "CODE"}, {"dataset": "CODE"}, {"method": "CODE"}, {"method": "kd + 0.5 * CODE"},
    {"method": [0.5, "CODE"]}, {"method": ["CODE"]}, {"teacher": "CODE", "teacher_head": "own"},
    {"method": "sp", "kernel": "CODE"}, {"method": "sp", "scale": "CODE"}, {"method": "sp", "criterion": "CODE"},
    {"method": "sp", "method_args": ["kernel= CODE "]}, {"logger": ["tensorboard", "CODE"]},
)  # fmt: skip


def naming(code: str) -> list[dict[str, Any]]:
    def spelled(value: Any) -> Any:
        return [spelled(part) for part in value] if isinstance(value, list) else str(value).replace("CODE", code)

    return [{name: spelled(value) for name, value in options.items()} for options in NAMED]


def mark_of(folder: Path) -> tuple[str, Path]:
    """Return the spelling of code that leaves a mark where it is run, and the mark."""
    (folder / "code.py").write_text(LEAVES_A_MARK)
    return f"{folder / 'code.py'}:found", folder / "code.ran"


def test_a_run_s_recipe_runs_no_code(tmp_path: Path) -> None:
    code, mark = mark_of(tmp_path)
    run = RunDirectory.create(tmp_path / "run", Recipe())
    plain = read_yaml(run.recipe_file, sealed=True)
    for options in naming(code):
        write_yaml(run.recipe_file, {**plain, **options})
        for verb in (lambda: relgraph.train(resume=run.path), lambda: relgraph.evaluate(run.path)):
            with case(options), pytest.raises(RelgraphError):
                verb()
            assert not mark.exists(), options


def test_permission_for_one_run_of_a_report_is_not_for_another(tmp_path: Path) -> None:
    code, mark = mark_of(tmp_path)
    mine, other = (RunDirectory.create(tmp_path / name, Recipe()) for name in ("mine", "other"))
    write_yaml(other.recipe_file, {**read_yaml(other.recipe_file, sealed=True), "method": code})
    page = relgraph.report([relgraph.Run(mine.path, allow_code=True), other.path], tmp_path / "report.html")
    assert "Left out is other: other/recipe.yaml names code of its own" in page.read_text(encoding="utf-8")
    assert not mark.exists()
