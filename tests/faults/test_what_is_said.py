"""What is printed: one line where something is wrong, which says what it is, and no line that another has written."""

import os
import re
import tempfile
from functools import partial
from importlib import import_module
from io import BytesIO, TextIOWrapper
from itertools import pairwise
from pathlib import Path
from string import ascii_lowercase

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save

from relgraph.analysis.export import FORMATS, write_graph
from relgraph.analysis.plots import learning_curve
from relgraph.analysis.report import write_report
from relgraph.files import read_json, read_yaml, write_json, write_table, write_yaml
from relgraph.graph.pair import graph_pair
from relgraph.networks.files import read_network, save_network
from relgraph.printing import tell
from relgraph.training.building import parse_arguments
from relgraph.training.checkpoint import save_checkpoint
from relgraph.training.distillation import train
from tests.checks import assert_refused_like, case, refusal
from tests.faults.conftest import Make, write_images

main = import_module("relgraph_cli.main").main


@pytest.fixture
def full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every file that is written beside another be on a disk that is full."""

    def link(suffix: str, prefix: str, folder: Path) -> tuple[int, str]:
        path = folder / f"{prefix}{suffix}"
        path.symlink_to("/dev/full")
        return os.open(path, os.O_RDWR), str(path)

    monkeypatch.setattr(tempfile, "mkstemp", link)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full")
def test_a_full_disk_is_called_one(finished: Path, tmp_path: Path, full_disk: None) -> None:
    pair, layer = graph_pair(torch.eye(3), torch.eye(3)), torch.nn.Linear(2, 2)
    writers = {f"g.{name}": lambda path: write_graph(pair, path) for name in FORMATS} | {
        "last.ckpt": lambda path: save_checkpoint(path, {"objective": layer}),
        "student.safetensors": lambda path: save_network(path, layer, {}),
        "result.json": lambda path: write_json(path, {}),
        "recipe.yaml": lambda path: write_yaml(path, {}),
        "metrics.csv": lambda path: write_table(path, [{"loss": 1.0}]),
        "page.html": lambda path: write_report([finished], path, k=2),
        "learning_curve.png": lambda path: learning_curve(finished),
    }
    for name, write in writers.items():
        call = lambda write=write, name=name: write(tmp_path / name)  # noqa: E731
        assert_refused_like((call, rf"^cannot write [^\n]*{name}: No space left on device"))
    assert list(tmp_path.iterdir()) == []


LETTERS = [*pairwise(ascii_lowercase)]
YAML = {
    "brackets": "[" * 5000,
    "braces in a value": "lr: " + "{" * 100_000,
    "indents": "".join(f"{' ' * i}a:\n" for i in range(600)),
    "a bomb of aliases": "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in LETTERS),
    "a bomb of merges": "a: &a {x: 1}\n" + "".join(f"{b}: &{b} {{<<: [*{a}, *{a}, *{a}]}}\n" for a, b in LETTERS),
    "a long value": "student: " + "x" * 100_000,
    "a long file": "student: " + "x" * 10_000_000,
    "a long number": "epochs: " + "9" * 5000,
    "a longer number": "epochs: " + "9:" * 9000 + "9",
    "a date": "epochs: 2001-99-99",
    "a tag": "epochs: !!bool x",
    "a set": "epochs: !!set {1, 2}",
    "no text": "\x1b[2J",
}  # fmt: skip


def test_yaml_that_nobody_writes_gives_one_short_line(tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    for name, text in YAML.items():
        file.write_text(text)
        with case(name):
            told = refusal(partial(read_yaml, file))
            assert str(file) in told and "\n" not in told and len(told) < 300 + len(str(file)) and told.isprintable()
    for value in ("[" * 5000, "!!python/name:os.system", "{file: x}", "x" * 5000, "!!bool x"):
        with case(value[:30]):
            told = refusal(partial(parse_arguments, (f"act_layer={value}",)))
            assert told.startswith("the value of the teacher argument 'act_layer' is not valid") and len(told) < 200


def test_json_with_many_brackets_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("[" * 100_000)
    assert_refused_like((partial(read_json, tmp_path / "result.json"), r"^cannot read .*result\.json as JSON"))
    (tmp_path / "best.safetensors").write_bytes(save({}, metadata={"relgraph": "[" * 100_000}))
    assert_refused_like((partial(read_network, tmp_path / "best.safetensors"), r"the description in .* is damaged"))


HOSTILE = ("ant\x1b[2J", "be\ne\u732b", "c\u202eat\xff")


def test_names_are_printed_without_control_characters(tmp_path: Path, make: Make) -> None:
    images = write_images(tmp_path / "da\x1b]0;ta", {"train": 9, "val": 4, "test": 5}, HOSTILE)
    run = tmp_path / "ru\x1b[1m\nn$\\frac$\u732b"
    train(make(dataset=f"folder:{images}"), run)
    page = str(tmp_path / "p\x07age.html")
    for charset in ("utf-8", "latin-1"):
        for arguments in (
            ["train", "--resume", str(run)],
            ["evaluate", str(run)],
            ["analyze", str(run), "--k", "2"],
            ["export", str(run), "-o", str(tmp_path / "g\x1b[A.json"), "--k", "2"],
            ["report", str(run), "-o", page, "--k", "2"],
            ["evaluate", str(tmp_path / "no\x1brun")],
            ["evaluate", str(run), "\x1b[2J"],
            ["--resume\x1b[2J"],
        ):
            with case(charset, *map(ascii, arguments)):
                result = CliRunner(charset=charset).invoke(main, arguments)
                assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
                assert all(one.isprintable() for one in result.output.replace("\n", "")), ascii(result.output)
                assert result.exit_code == 0 or result.stderr.splitlines()[-1].startswith("Error: ")
    told = CliRunner(charset="ascii").invoke(main, ["analyze", str(run), "--k", "2"]).output
    assert r"be\ne" in told and r"ant\x1b[2J" in told and r"\u732b" in told


def test_all_that_is_printed_passes_the_functions_that_escape_it() -> None:
    root = Path(__file__).parents[2]
    for file in [*(root / "relgraph").rglob("*.py"), *(root / "cli").glob("*.py")]:
        if file.name not in ("printing.py", "show.py"):
            with case(file):
                assert not re.search(r"^\s*(click\.echo|click\.secho|print|tqdm\.write)\(", file.read_text(), re.M)


def test_a_line_on_a_stream_of_few_characters() -> None:
    stream = TextIOWrapper(BytesIO(), encoding="ascii", write_through=True)
    tell("\u732b\x1b[2J", "b", stream=stream)
    assert stream.buffer.getvalue() == b"\\u732b\\x1b[2J\nb\n"  # type: ignore[attr-defined]
