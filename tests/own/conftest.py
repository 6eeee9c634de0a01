"""Three small packages outside the import path of the project, installed as pip would for those who ask for them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PACKAGES = Path(__file__).parent / "packages"
REGISTERED = {
    "labnets": {"students": {"labtiny": "labnets:Tiny"}, "teachers": {"labcolours": "labnets:Colours"}},
    "labdata": {"datasets": {"labflat": "labdata:Flat"}},
    "labloss": {"methods": {"labreg": "labloss:Regression"}, "kernels": {"labsigns": "labloss:signs"}},
}
Relgraph = Callable[..., "subprocess.CompletedProcess[str]"]


def install(folder: Path, *, registered: bool = True) -> Path:
    """Lay the packages out in a folder as pip does, with their entry points if they are `registered`."""
    for name, groups in REGISTERED.items():
        shutil.copy(PACKAGES / name / f"{name}.py", folder)
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "top_level.txt").write_text(f"{name}\n")
        sections = [
            "\n".join([f"[relgraph.{kind}]", *(f"{key} = {value}" for key, value in entries.items())])
            for kind, entries in groups.items()
        ]
        (info / "entry_points.txt").write_text("\n\n".join(sections) if registered else "")
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder with the packages, on the import path of this process."""
    folder = install(tmp_path_factory.mktemp("site"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder
    for name in REGISTERED:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def relgraph_process(site: Path) -> Relgraph:
    """Return a function that runs the program in a new process, in which the packages are installed or not."""

    def run(*args: object, cwd: Path, installed: bool = True) -> "subprocess.CompletedProcess[str]":
        paths = [str(site)] if installed else []
        env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "relgraph", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, env=env, check=False, cwd=cwd)

    return run


SEVERAL = """
import json, sys
from importlib.metadata import entry_points

(entry,) = entry_points(group="console_scripts", name="relgraph")
command = entry.load()
for arguments in json.load(sys.stdin):
    try:
        command(arguments)
    except SystemExit as end:
        if end.code:
            raise
"""


def run_several(site: Path, *commands: list[str], cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run several commands in one new process, in which the packages are installed, up to the first that fails."""
    env = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", SEVERAL], input=json.dumps(commands), capture_output=True, text=True,
                          env=env, check=False, cwd=cwd)  # fmt: skip
