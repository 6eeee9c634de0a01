"""The examples of loops of one's own, and the notebook, as a user runs them."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


ALONE = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}  # what torchrun would set


def run(*command: object, **more: str) -> str:
    env = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"} | more
    for _ in range(3):
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=env, check=False)
        if "terminate called without an active exception" not in done.stderr:  # of torch 2.14's gloo, one end in twenty
            break
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_a_loop_over_two_processes_has_the_loss_of_one() -> None:
    torchrun, loop = Path(sys.executable).with_name("torchrun"), EXPERIMENTS / "ddp_loop.py"
    one, two = run(sys.executable, loop, **ALONE), run(torchrun, "--nproc-per-node", 2, loop)
    assert one.split(": ")[1] == two.split(": ")[1] and "over 2 processes" in two


def test_the_map_of_labels_names_what_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    main = importlib.import_module("label_map").main
    for options in (["--methods", "alone:Foo"], ["--shares", "1,Foo"]):
        done = CliRunner().invoke(main, options)
        assert done.exit_code == 2 and done.output.strip().endswith("got 'Foo'") and "'EGA, nodes'" in done.output


@pytest.mark.slow
def test_a_lightning_module() -> None:
    pytest.importorskip("pytorch_lightning")
    assert float(run(sys.executable, "-W", "ignore", EXPERIMENTS / "lightning_module.py").split(": ")[1]) > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_notebook(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(EXPERIMENTS / "notebook.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    texts = [
        "".join(out.get("text", "") or str(out.get("data", {}).get("text/plain", "")) for out in each)
        for each in outputs
    ]
    assert "epoch   3/3" in texts[2] and "batch" in texts[2], "progress is shown"
    assert texts[3].count("(") == 3 and "'student'" in texts[4] and texts[5] == "torch.Size([1, 256])"
    assert texts[6].endswith("(355, 1420)") and (tmp_path / "runs" / "tiny" / "result.json").is_file()
