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
import timm
import torch
from click.testing import CliRunner
from safetensors.torch import save, save_file
from torchvision.models import get_model

from relgraph.analysis.export import FORMATS, write_graph
from relgraph.analysis.plots import learning_curve
from relgraph.analysis.report import write_report
from relgraph.files import read_json, read_yaml, write_json, write_table, write_yaml
from relgraph.graph.pair import graph_pair
from relgraph.names import load_teacher
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


SMALL = {"depth": 1, "embed_dim": 48, "num_heads": 3}


def test_arguments_that_timm_does_not_check_are_one_line(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), file)
    values = {"act_layer": "nonsense", "block": "x", "output_stride": 3, "global_pool": "zzz", "layers": 5,
              "in_chans": "x", "num_classes": 10**13, "img_size": "x", "norm_layer": "x", "foo": 1}  # fmt: skip
    elsewhere = {"checkpoint_path": "BAD", "pretrained": True, "pretrained_cfg": "x", "pretrained_cfg_overlay": "x",
                 "cache_dir": "x", "device": "meta", "features_only": True, "name": "x", "model_name": "x"}  # fmt: skip
    for weights in (file, None):
        load = partial(load_teacher, "timm:test_resnet", weights=weights)
        assert_refused_like(
            *(
                (partial(load, arguments={name: value}), rf"takes no argument {name}: ")
                for name, value in elsewhere.items()
            )
        )
    for name, value in values.items():
        told = refusal(partial(load_teacher, "timm:test_resnet", weights=file, arguments={name: value}))
        assert "timm:test_resnet does not take" in told and "\n" not in told, (name, told)
    told = refusal(partial(load_teacher, "timm:test_vit", weights=file, input_size=10**9))
    assert "another architecture" in told


def test_weights_of_two_activations_are_loaded_with_the_right_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "w.safetensors"
    network = timm.create_model("vit_base_patch32_clip_224", num_classes=0, **SMALL)
    save_file(network.state_dict(), file)
    load = partial(load_teacher, weights=file)
    for tag, same in (("openai", True), ("metaclip_400m", True), ("laion2b", False)):
        ours, quick = (
            load(f"timm:vit_base_patch32_clip_{kind}224{name}", arguments=SMALL).fingerprint()
            for kind, name in (("", f".{tag}"), ("quickgelu_", ""))
        )
        assert (ours == quick) is same, tag
    asked = load("timm:vit_base_patch32_clip_224.openai", arguments={**SMALL, "act_layer": "gelu"})
    assert asked.fingerprint() == load("timm:vit_base_patch32_clip_224.laion2b", arguments=SMALL).fingerprint()
    assert capsys.readouterr() == ("", "")
    load("timm:vit_base_patch32_clip_224", arguments=SMALL)
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and str(file) in told and "timm:vit_base_patch32_clip_224 computes GELU" in told


def test_a_class_more_than_imagenet_has_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "w.safetensors"
    for spec, make in (("timm:test_resnet", timm.create_model), ("torchvision:squeezenet1_1", get_model)):
        for classes in (1000, 1001):
            save_file(make(spec.partition(":")[2], num_classes=classes).state_dict(), file)
            load_teacher(spec, weights=file)
            told = capsys.readouterr().err
            assert told.count("\n") == classes - 1000 and (f"{file} has 1001 classes" in told) is (classes == 1001)
    save_file(timm.create_model("test_resnet", num_classes=1001).state_dict(), file)
    load_teacher("timm:test_resnet", weights=file, arguments={"num_classes": 1001})
    assert capsys.readouterr().err == ""
