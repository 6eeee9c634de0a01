"""What is printed: one line where something is wrong, which says what it is, and no line that another has written."""

import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import partial
from importlib import import_module
from io import BytesIO, TextIOWrapper
from itertools import pairwise
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pytest
import timm
import torch
from click.testing import CliRunner
from safetensors.torch import save, save_file
from torchvision.models import get_model

from relgraph.analysis.export import FORMATS, write_graph
from relgraph.analysis.plots import learning_curve
from relgraph.analysis.report import write_report
from relgraph.analysis.run_loading import evaluate_run
from relgraph.errors import RelgraphError
from relgraph.files import read_json, read_yaml, replacing, write_json, write_table, write_yaml
from relgraph.graph.pair import graph_pair
from relgraph.names import build_backbone, load_teacher
from relgraph.networks.files import read_network, save_network
from relgraph.networks.sources import Pretrained
from relgraph.networks.teachers import Teacher
from relgraph.printing import tell
from relgraph.training.board import Board
from relgraph.training.building import parse_arguments
from relgraph.training.checkpoint import save_checkpoint
from relgraph.training.distillation import train
from tests.checks import assert_refused_like, case, refusal
from tests.faults.conftest import Make, write_images
from tests.faults.test_a_run_knows_what_it_was_made_of import stop_at

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


@pytest.mark.slow
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
    assert stream.buffer.getvalue() == b"\\u732b\\x1b[2J\nb\n"


SMALL: dict[str, Any] = {"depth": 1, "embed_dim": 48, "num_heads": 3}


def test_arguments_that_timm_does_not_check_are_one_line(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), file)
    values: dict[str, Any] = {
        "act_layer": "nonsense", "block": "x", "output_stride": 3, "layers": 5, "global_pool": "zzz", "in_chans": "x",
        "num_classes": 10**13, "img_size": "x", "norm_layer": "x", "foo": 1,
    }  # fmt: skip
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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full")
def test_a_board_on_a_full_disk_is_one_line_and_the_run_goes_on(
    make: Make, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, original = threading.active_count(), Path.open

    def full(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        return original(
            Path("/dev/full") if "tfevents" in self.name else self, mode.replace("x", "a"), *arguments, **options
        )

    monkeypatch.setattr(Path, "open", full)
    train(make(), tmp_path / "run")
    assert threading.active_count() == before, "no thread that could die"
    told = [line for line in capsys.readouterr().out.splitlines() if "tensorboard" in line]
    assert told == [
        f"cannot write {tmp_path / 'run' / 'tensorboard'}: No space left on device: the run goes on without it"
    ]
    for name in ("student.safetensors", "diagnostics.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()


def test_a_board_at_a_limit_of_file_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resource = pytest.importorskip("resource")
    board, limits = Board(tmp_path, {}, 0, -1), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        for epoch in range(1, 50):
            board.write({"epoch": epoch, "loss": 1.0}, [])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert capsys.readouterr().out == f"cannot write {tmp_path}: File too large: the run goes on without it\n"


def saved(path: Path, name: str, value: float) -> Path:
    """Write a network of relgraph's own whose tensors of a name hold a value."""
    network = torch.nn.ModuleDict({"backbone": build_backbone("resnet8", 3)})
    for found in network.modules():
        if isinstance(found, torch.nn.BatchNorm2d):
            found.state_dict()[name].view(-1)[-1] = value
    info = {"backbone": "resnet8", "in_channels": 3, "image_size": 8, "mean": [0.5] * 3, "std": [0.5] * 3}
    save_network(path, network, info)
    return path


def test_a_teacher_whose_weights_are_no_numbers_is_refused(tmp_path: Path) -> None:
    for value in (math.nan, math.inf, -math.inf):
        path = saved(tmp_path / "teacher.safetensors", "bias", value)
        model = timm.create_model("test_resnet", num_classes=0)
        model.state_dict()["layer1.0.conv1.weight"].view(-1)[3] = value
        save_file(model.state_dict(), tmp_path / "w.safetensors")
        told = "holds weights that are not finite: "
        assert_refused_like(
            (partial(load_teacher, f"checkpoint:{path}"), rf"^{path} {told}[a-z0-9_.]+ first"),
            (
                partial(load_teacher, "timm:test_resnet", weights=tmp_path / "w.safetensors"),
                rf"w\.safetensors {told}layer1\.0\.conv1\.weight first",
            ),
            (partial(Teacher, Pretrained(model, 32, 3, [0] * 3, [1] * 3), "x"), rf"^teacher x {told}layer1\.0\.conv1"),
        )


def test_a_teacher_whose_outputs_are_no_numbers_is_no_matter_of_the_learning_rate(make: Make, tmp_path: Path) -> None:
    path = saved(tmp_path / "teacher.safetensors", "weight", 1e38)  # finite weights, whose outputs are not
    for options in ({}, {"method": "kd", "teacher_head": "sequential"}):
        told = refusal(partial(train, make(teacher=f"checkpoint:{path}", **options), tmp_path / "run"))
        assert told.startswith("the teacher's outputs are not a number in epoch 1") and "learning rate" not in told
        shutil.rmtree(tmp_path / "run")
    told = refusal(lambda: train(make(lr=1e30), tmp_path / "run"))
    assert "a smaller learning rate" in told


def test_no_more_neighbours_are_said_to_vote_than_vote(make: Make, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", {"train": 2, "val": 2, "test": 2})
    train(make(dataset=f"folder:{images}", batch_size=6, epochs=1), tmp_path / "run")
    told = CliRunner().invoke(main, ["evaluate", str(tmp_path / "run")]).output
    assert told.endswith("k = 6\n") and evaluate_run(tmp_path / "run", k=4)["neighbours"] == 4


READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None or os.geteuid() != 0, reason="needs to mount")
def test_a_run_on_a_read_only_mount_is_refused_before_an_epoch(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("relgraph.training.trainer._check_weights", lambda job, epoch: stop_at(epoch))
        train(make(), path)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    program = [sys.executable, "-m", "relgraph", "train", "--resume", str(path)]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", READ_ONLY, "sh", str(path), *program], capture_output=True, text=True, check=False
    )
    if "permitted" in done.stderr or "denied" in done.stderr:
        pytest.skip("may not mount")
    assert done.returncode == 1 and "epoch " not in done.stdout.split("->")[1]
    assert done.stderr == f"Error: cannot write {path}: Read-only file system\n"
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_defaults_that_do_not_fit_are_said_in_a_line_of_their_own(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = make(epochs=1)
    options = [f"--dataset={recipe.dataset}", f"--teacher={recipe.teacher}", "--device=cpu"]
    told = CliRunner().invoke(main, ["embed", *options]).output.splitlines()
    assert any(line.startswith("one view an image is for relgraph train --views independent") for line in told)
    train(recipe, tmp_path / "run")
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "teacher: online" and told[1].startswith("no stored embeddings fit: embeddings/")
    assert "use --views independent, or relgraph embed --views N" in told[1]


def test_tensors_that_a_library_cannot_convert_are_one_line(tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    for spec, name in (
        ("open_clip:ViT-S-32-alt", "visual.positional_embedding"),
        ("torchvision:vit_b_32", "encoder.pos_embedding"),
    ):
        for other in (torch.tensor(1.0), torch.zeros(0)):
            torch.save({name: other}, file)
            with case(spec, tuple(other.shape)):
                told = rf"^{file} is of another architecture: its tensors cannot be converted"
                assert_refused_like((partial(load_teacher, spec, weights=file), told))


def test_numbers_by_which_images_are_prepared(tmp_path: Path) -> None:
    load = partial(load_teacher, "embedded:digits")
    for value in (math.nan, math.inf, 0.0):
        assert_refused_like((partial(load, std=[value]), r"^the std of teacher embedded:digits must be positive, got "))
    assert_refused_like((partial(load, mean=[math.nan]), r"^the mean of teacher embedded:digits must be finite, got "))


def test_numbers_that_are_written_in_part_mean_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(RelgraphError, match=r"^cannot write .*images\.npy: No space left on device$"):  # noqa: SIM117
        with replacing(tmp_path / "images.npy"):
            raise OSError("1442 requested and 496 written")  # numpy's, without a number of the system
