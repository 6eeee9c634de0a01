"""`relgraph presets`, a run of a preset with a published file, and the table of docs/protocols.md."""

import json
import re
from pathlib import Path

from relgraph.methods import METHODS
from relgraph.training.presets import FAMILY, PRESETS, find_preset
from relgraph.training.runs import RunDirectory
from tests.cli.conftest import Failing, Program, check_told
from tests.networks.published import state_of, write

PAGE = Path(__file__).parents[2] / "docs" / "protocols.md"


def test_presets_are_listed_and_each_shows_every_option_and_every_difference(program: Program) -> None:
    listed = program("presets").stdout
    assert all(re.search(rf"\b{re.escape(name)}\b", listed) for name in PRESETS)
    assert max(map(len, listed.splitlines())) <= 110
    for name in PRESETS:
        text, preset = program("presets", name).stdout, find_preset(name)
        options, _, differences = text.partition("what differs from the authors' protocol:")
        flags = re.findall(r"^  --(?:no-)?([a-z-]+)", options, re.MULTILINE)
        assert [flag.replace("-", "_") for flag in flags] == list(preset.options)
        assert all(told in " ".join(differences.split()) for told in preset.differs)
        assert preset.source in " ".join(options.split())


def test_what_is_shown_depends_on_method_and_student_and_can_be_typed(program: Program) -> None:
    text = program("presets", "repdistiller", "--method", "kd", "--student", "mobilenetv2").stdout
    for line in ("--lr 0.01", "--no-drop-last", "--gamma 0.1", "--beta 0.9", "--milestones 150,180,210"):
        assert f"\n  {line}\n" in text
    assert "\n  --method-args correlation=consecutive\n" in program("presets", "cc").stdout


def test_errors_of_presets(failure: Failing, misuse: Failing) -> None:
    check_told(failure, ("presets",), {"crdd": "unknown preset 'crdd': did you mean 'crd'?",
                                       "sskd --method kd": "the preset sskd trains sskd alone, got method kd",
                                       "repdistiller --method ega": "RepDistiller has the methods kd, "})  # fmt: skip
    assert "--method and --student belong to one preset" in misuse("presets", "--method", "kd")


def test_a_published_teacher_teaches_by_a_preset(program: Program, failure: Failing, tmp_path: Path) -> None:
    file = write(tmp_path / "ckpt_epoch_240.pth", state_of("resnet8", 10))
    given = ("--teacher", "repdistiller:resnet8", "--teacher-weights", file, "--student", "resnet8", "--epochs", 1,
             "--batch-size", 500)  # fmt: skip
    told = program("train", "--preset", "kd", *given, "--out", "run").stdout
    *_, last, note, following = told.splitlines()
    result = json.loads(Path("run/result.json").read_text())
    assert last.startswith("last epoch (1)") and note == result["note"] and following.endswith("run")
    assert (result["weights"], result["images"]["train"]) == ({"kd": 0.9}, 1442)
    recipe = RunDirectory(Path("run")).recipe()
    assert (recipe.head, recipe.gamma, recipe.milestones, recipe.drop_last) == ("linear", 0.1, None, False)
    assert "teacher" in program("evaluate", "run").stdout
    small = write(tmp_path / "small.pth", state_of("resnet8", 5))
    told = failure("train", "--preset", "kd", *given, "--teacher-weights", small)
    assert told.startswith("teacher_head 'own' needs a teacher of the same classes: expected the 10 of digits, got 5")


def test_the_page_has_a_row_for_each_preset_with_its_numbers() -> None:
    lines = [line.split("|")[1:-1] for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    rows = {name.strip("` "): [cell.strip() for cell in cells] for name, *cells in lines}
    assert rows.keys() == PRESETS.keys() - {"none", "digits", "pixels"}
    for name, cells in rows.items():
        options = find_preset(name).options
        if name in FAMILY:
            labels, weight, alone, _ = cells
            own = METHODS[name].weight if name != "cc" else 0.02
            assert float(re.split("[ ,]", labels)[0]) == options["gamma"]
            assert float(re.split("[ ,:;]", weight)[0]) == options.get("beta", own)
            assert int(alone or 0) == options["epochs"] - 240
            continue
        batch, epochs, rate, _, decay, head, _, figure, _ = cells
        assert (int(batch), int(epochs), float(decay)) == tuple(
            options[key] for key in ("batch_size", "epochs", "weight_decay")
        )
        assert float(rate.split(";")[0]) == options["lr"] and f"`{options['select']}`" in figure
        assert (head == "linear") == (options.get("head") == "linear")
