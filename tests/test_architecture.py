import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

# cli -> analysis, training -> methods, networks, data -> graph: a module imports its own level and those below.
LEVELS = {
    "relgraph.errors": 0,
    "relgraph.files": 0,
    "relgraph.assets": 0,
    "relgraph.assets.report": 0,
    "relgraph.assets.report.vendor": 0,
    "relgraph.graph": 1,
    "relgraph.methods": 2,
    "relgraph.networks": 2,
    "relgraph.data": 2,
    "relgraph.training": 3,
    "relgraph.analysis": 3,
    "relgraph.analysis.report": 3,
    "relgraph": 4,  # the public names, gathered from all parts
    "relgraph_cli": 5,
    "relgraph.__main__": 5,  # `python -m relgraph` is the command line
}


def level(module: str) -> int:
    """Return the level of the longest known name that the module's dotted name starts with."""
    known = [name for name in LEVELS if module == name or module.startswith(f"{name}.")]
    return LEVELS[max(known, key=len)]


def module_name(file: Path) -> str:
    first, *rest = file.relative_to(ROOT).with_suffix("").parts
    names = ["relgraph_cli" if first == "cli" else first, *rest]
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


def package_name(file: Path) -> str:
    return module_name(file.with_name("__init__.py"))


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


def absolute(package: str, dots: int, name: str) -> str:
    """Resolve a relative import against the package of the module that contains it."""
    if dots == 0:
        return name
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - dots + 1], name])


def upward_arrows(module: str, package: str, source: str) -> list[str]:
    imports = ((line, absolute(package, dots, name)) for line, dots, name in imported_names(source))
    return [
        f"{module}, line {line}: {name}"
        for line, name in imports
        if name.split(".")[0] in {"relgraph", "relgraph_cli"} and level(name) > level(module)
    ]


def test_imports_point_downwards() -> None:
    arrows = [
        arrow
        for file in sources("relgraph", "cli")
        for arrow in upward_arrows(module_name(file), package_name(file), file.read_text(encoding="utf-8"))
    ]
    assert arrows == []


def test_an_upward_arrow_is_seen() -> None:
    source = "import torch\nfrom relgraph.errors import unknown\ndef f():\n    from ..methods import base\n"
    arrows = upward_arrows("relgraph.graph.pair", "relgraph.graph", source)
    assert arrows == ["relgraph.graph.pair, line 4: relgraph.methods.base"]


def test_every_package_has_a_level() -> None:
    assert {package_name(file) for file in sources("relgraph", "cli")} <= set(LEVELS)


def test_the_command_line_names_its_own_files_relatively() -> None:
    for file in sources("cli"):
        for line, dots, name in imported_names(file.read_text(encoding="utf-8")):
            assert dots <= 1, f"{file.name}:{line} imports from above the package"
            assert dots or name.split(".")[0] not in {"cli", "relgraph_cli"}, f"{file.name}:{line} imports {name}"


def loaded_modules(code: str) -> set[str]:
    """Return the top-level names of all modules that are loaded after the code has run in a new interpreter."""
    report = "\nimport sys\nprint('loaded:', *{name.split('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines()[-1].removeprefix("loaded: ").split())


def test_import_relgraph_is_light() -> None:
    heavy = {"torch_geometric", "torchvision", "lightning_fabric", "networkx", "sklearn", "timm", "open_clip"}
    before = loaded_modules("import torch")
    after = loaded_modules("import relgraph")
    assert "relgraph" in after
    # What torch itself may load on some machine is no fault of ours.
    assert heavy & (after - before) == set()


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
    assert "torch" not in loaded
