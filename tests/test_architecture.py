import ast
import configparser
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from importlib.util import resolve_name
from pathlib import Path

import relgraph
from tests.checks import case

ROOT = Path(__file__).parents[1]

# cli -> analysis, training, deploy -> names -> methods, networks, data -> graph: a module imports its level and below.
LEVELS = {
    **{
        f"relgraph.{name}": 0
        for name in (
            "errors",
            "files",
            "gradients",
            "options",
            "outputs",
            "own_code",
            "printing",
            "processes",
            "seeding",
        )
    },
    **{f"relgraph.assets{name}": 0 for name in ("", ".report", ".report.vendor")},
    "relgraph.graph": 1,
    **{f"relgraph.{name}": 2 for name in ("methods", "networks", "data")},
    "relgraph.names": 3,
    **{f"relgraph.{name}": 4 for name in ("training", "deploy", "analysis", "analysis.report")},
    "relgraph.api": 5,
    "relgraph": 5,  # the public names, gathered from all parts
    "relgraph_cli": 6,
    "relgraph.__main__": 6,  # `python -m relgraph` is the command line
}


def level(module: str) -> int:
    """Return the level of the longest known name that the module's dotted name starts with."""
    known = [name for name in LEVELS if module == name or module.startswith(f"{name}.")]
    return LEVELS[max(known, key=len)]


def module_name(file: Path) -> str:
    first, *rest = file.relative_to(ROOT).with_suffix("").parts
    names = ["relgraph_cli" if first == "cli" else first, *rest]
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


def sources(*tops: str) -> list[Path]:
    return sorted(file for top in tops for file in (ROOT / top).rglob("*.py"))


def imported_names(source: str) -> Iterator[tuple[int, int, str]]:
    """Yield line, number of leading dots and dotted name of all that a source imports, inside functions as well."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, 0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = f"{node.module}." if node.module else ""
            yield from ((node.lineno, node.level, f"{prefix}{alias.name}") for alias in node.names)


def upward_arrows(module: str, package: str, source: str) -> list[str]:
    imports = ((line, resolve_name("." * dots + name, package)) for line, dots, name in imported_names(source))
    return [
        f"{module}, line {line}: {name}"
        for line, name in imports
        if name.split(".")[0] in {"relgraph", "relgraph_cli"} and level(name) > level(module)
    ]


def test_imports_point_downwards() -> None:
    arrows = [
        arrow
        for file in sources("relgraph", "cli")
        for arrow in upward_arrows(module_name(file), module_name(file.parent), file.read_text(encoding="utf-8"))
    ]
    assert arrows == []


def test_an_upward_arrow_is_seen() -> None:
    source = "import torch\nfrom relgraph.errors import unknown\ndef f():\n    from ..methods import base\n"
    arrows = upward_arrows("relgraph.graph.pair", "relgraph.graph", source)
    assert arrows == ["relgraph.graph.pair, line 4: relgraph.methods.base"]


def test_every_package_has_a_level() -> None:
    assert {module_name(file.parent) for file in sources("relgraph", "cli")} <= set(LEVELS)


def test_the_command_line_names_its_own_files_relatively() -> None:
    for file in sources("cli"):
        for line, dots, name in imported_names(file.read_text(encoding="utf-8")):
            assert dots <= 1, f"{file.name}:{line} imports from above the package"
            assert dots or name.split(".")[0] not in {"cli", "relgraph_cli"}, f"{file.name}:{line} imports {name}"


# Receivers whose attributes are no state of a class of ours, though one of ours has an attribute of that name, and the
# beginnings of the files where they are so called.
FOREIGN = {
    # PyG's HeteroData and its stores: a pair is built, measured and laid out by those who hold it, as PyG's users do.
    "pair": ("relgraph/graph/pair.py", "relgraph/analysis/", "relgraph/api.py"),
    "store": ("relgraph/analysis/",),
    # Autograd's context of a Function, which its static methods are handed to keep what the backward pass reads.
    "ctx": ("relgraph/graph/", "relgraph/processes.py", "relgraph/networks/batch_norm.py"),
}


def declared_attributes(source: str) -> set[str]:
    """Return the attributes that classes declare: named in a body, or set on `self` or `cls` by a method."""
    found: set[str] = set()
    for owner in ast.walk(ast.parse(source)):
        if not isinstance(owner, ast.ClassDef):
            continue
        for statement in owner.body:
            if isinstance(statement, ast.Assign | ast.AnnAssign):
                found |= {name.id for name in ast.walk(statement) if is_stored(name) and isinstance(name, ast.Name)}
        attributes = (node for node in ast.walk(owner) if is_stored(node) and isinstance(node, ast.Attribute))
        found |= {node.attr for node in attributes if ast.unparse(node.value) in ("self", "cls")}
    return found


def is_stored(node: ast.AST) -> bool:
    return isinstance(getattr(node, "ctx", None), ast.Store | ast.Del)


def attributes_set(source: str) -> Iterator[tuple[int, ast.expr, str]]:
    """Yield line, receiver and name of each attribute that a source sets or deletes, by a statement or a function."""
    functions = ("setattr", "delattr", "object.__setattr__", "object.__delattr__")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and is_stored(node):
            yield node.lineno, node.value, node.attr
        if isinstance(node, ast.Call) and ast.unparse(node.func) in functions and len(node.args) > 1:
            name = node.args[1]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield node.lineno, node.args[0], name.value


def set_from_outside(source: str, declared: set[str], foreign: set[str]) -> list[tuple[int, str]]:
    """Return where a source sets an attribute that a class declares, of anything but `self`, `cls` and what is foreign.

    What is reached through another object, as `self.setup.data`, is that object's; the parts of a pair are foreign.
    """
    found = []
    for line, receiver, name in attributes_set(source):
        root = receiver
        while isinstance(root, ast.Subscript):
            root = root.value
        if name in declared and ast.unparse(receiver) not in ("self", "cls") and ast.unparse(root) not in foreign:
            found.append((line, f"{ast.unparse(receiver)}.{name}"))
    return found


def foreign_in(file: str) -> set[str]:
    return {name for name, places in FOREIGN.items() if file.startswith(places)}


@cache
def texts_and_declared() -> tuple[dict[str, str], set[str]]:
    texts = {file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8") for file in sources("relgraph", "cli")}
    return texts, {name for text in texts.values() for name in declared_attributes(text)}


def test_no_object_s_state_is_set_from_outside_its_class() -> None:
    """It is handed over when the object is made or a method is called, so that each class shows what can change it."""
    texts, declared = texts_and_declared()
    assert {"processes", "data", "best_epoch", "optimisers"} <= declared, "else nothing could be found"
    found = {file: set_from_outside(text, declared, foreign_in(file)) for file, text in texts.items()}
    assert {file: places for file, places in found.items() if places} == {}


def test_state_that_is_set_from_outside_is_seen() -> None:
    source = """
class Meter:
    count: int
    total, best = 0, 1
    def __init__(self): self.sums, self.last = [], None
    def own(self): self.sums = []; self.count += 1; setattr(self, "last", 1)
    @classmethod
    def make(cls): cls.best = 2
def f(meter, x, pair):
    meter.count += 1
    meter.other.last: int = 3
    (x, meter.total), *meter.sums = (1, 2), 3
    setattr(meter, "best", 4)
    object.__setattr__(x[0], "last", 5)
    for meter.count in x: del x().sums
    with x as meter.last: pass
    x.count[0] = x.unknown = 6; setattr(x, "unknown", 7); setattr(x, name, 8); meter.sums.append(x.count)
    pair.count = pair["student"].total = 9
"""
    declared = declared_attributes(source)
    assert declared == {"count", "total", "best", "sums", "last"}
    found = [place for _, place in sorted(set_from_outside(source, declared, {"pair"}))]
    assert found == [
        "meter.count", "meter.other.last", "meter.sums", "meter.total", "meter.best", "x[0].last", "meter.count",
        "x().sums", "meter.last",
    ]  # fmt: skip


def test_every_foreign_receiver_is_met() -> None:
    """One that nobody needs would hide what is set from outside."""
    texts, declared = texts_and_declared()
    for name, place in ((name, place) for name, places in FOREIGN.items() for place in places):
        inside = {file: text for file, text in texts.items() if file.startswith(place)}
        with case(name, place):
            assert any(set_from_outside(text, declared, foreign_in(file) - {name}) for file, text in inside.items())


def loaded_modules(code: str) -> set[str]:
    """Return the top-level names of all modules that are loaded after the code has run in a new interpreter.

    But for those in a set `before` of the code.
    """
    report = (
        "\nimport sys\nloaded = {name.split('.')[0] for name in sys.modules} - globals().get('before', set())"
        "\nprint('loaded:', *loaded)"
    )
    run = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines()[-1].removeprefix("loaded: ").split())


def test_import_relgraph_is_light() -> None:
    heavy = {
        "torch_geometric", "torchvision", "lightning_fabric", "networkx", "sklearn", "timm", "open_clip", "pydantic",
    }  # fmt: skip
    # What torch itself may load on some machine is no fault of ours.
    before = "import sys, torch\nbefore = {name.split('.')[0] for name in sys.modules}\n"
    loaded = loaded_modules(f"{before}import relgraph")
    assert "relgraph" in loaded and heavy & loaded == set()


def test_help_loads_no_torch() -> None:
    code = """
import sys
from importlib.metadata import entry_points
(command,) = entry_points(group="console_scripts", name="relgraph")
sys.argv = ["relgraph", "--help"]
try:
    command.load()()
except SystemExit as end:
    assert not end.code, end.code
"""
    loaded = loaded_modules(code)
    assert "relgraph_cli" in loaded
    assert loaded.isdisjoint({"torch", "pydantic"})


def test_all_packages_and_files_are_installed_and_cli_is_no_top_level_name() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    folders = {file.parent for file in sources("relgraph", "cli")}
    packages = setup["options"]["packages"].split()
    assert sorted(packages) == sorted(module_name(folder) for folder in folders) and "cli" not in packages
    assert setup["options"]["package_dir"].split() == ["relgraph_cli", "=", "cli"]
    assert all((folder / "__init__.py").is_file() for folder in folders)
    assert (ROOT / "relgraph" / "py.typed").is_file(), "the marker of typed packages"
    for file in (ROOT / "relgraph").rglob("*"):
        if file.is_file() and file.suffix not in {".py", ".pyc"}:
            patterns = setup["options.package_data"].get(module_name(file.parent), "").split()
            assert any(map(file.match, patterns)), f"{file.relative_to(ROOT)} would not be installed"
    assert relgraph.__version__ == version("relgraph") == setup["metadata"]["version"]
