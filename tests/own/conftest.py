"""Three small packages outside the import path of the project, installed as pip would for those who ask for them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGES = Path(__file__).parent / "packages"
REGISTERED = {
    "labnets": {"students": {"labtiny": "labnets:Tiny"}, "teachers": {"labcolours": "labnets:Colours"}},
    "labdata": {"datasets": {"labflat": "labdata:Flat"}},
    "labloss": {"methods": {"labreg": "labloss:Regression"}, "kernels": {"labsigns": "labloss:signs"}},
}
Relgraph = Callable[..., list["Ended"]]


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


SEVERAL = """
import contextlib, io, json, sys
from importlib.metadata import entry_points

(entry,) = entry_points(group="console_scripts", name="relgraph")
command, ends = entry.load(), []
for arguments in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as told, contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            command(arguments)
        except SystemExit as end:
            ends.append((end.code or 0, told.getvalue(), errors.getvalue()))
json.dump(ends, sys.stdout)
"""


class Ended(NamedTuple):
    """How a command ended, and what it said."""

    status: int
    told: str
    errors: str

    def done(self) -> str:
        """Return what was said by a command that must succeed."""
        assert self.status == 0, self.errors
        return self.told

    def failed(self) -> str:
        """Return the one line of a command that must fail."""
        assert self.status == 1 and len(self.errors.splitlines()) == 1, self.errors
        return self.errors


@pytest.fixture(scope="module")
def relgraph_process(site: Path) -> Relgraph:
    """Return a function that runs commands in one new process, in which the packages are installed or not."""

    def run(*commands: list[str], cwd: Path, installed: bool = True) -> list[Ended]:
        env = os.environ | {"PYTHONPATH": str(site) if installed else "", "OMP_NUM_THREADS": "1"}
        program, given = [sys.executable, "-W", "ignore", "-c", SEVERAL], json.dumps(commands)
        done = subprocess.run(program, input=given, capture_output=True, text=True, env=env, check=False, cwd=cwd)
        assert done.returncode == 0, done.stderr
        found = [Ended(*end) for end in json.loads(done.stdout)]
        assert len(found) == len(commands)
        return found

    return run
