import configparser
from importlib.metadata import version
from pathlib import Path

import relgraph

ROOT = Path(__file__).parents[1]


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    assert parser.read(ROOT / "setup.cfg")
    return parser


def lines(section: str, key: str) -> list[str]:
    return setup_cfg()[section][key].split()


def package_name(folder: Path) -> str:
    first, *rest = folder.relative_to(ROOT).parts
    return ".".join(["relgraph_cli" if first == "cli" else first, *rest])


def test_packages_are_the_folders_with_python_files() -> None:
    folders = {file.parent for top in ("relgraph", "cli") for file in (ROOT / top).rglob("*.py")}
    assert sorted(lines("options", "packages")) == sorted(map(package_name, folders))
    assert all((folder / "__init__.py").is_file() for folder in folders)


def test_cli_is_never_a_top_level_name() -> None:
    assert "cli" not in lines("options", "packages")
    assert setup_cfg()["options"]["package_dir"].split() == ["relgraph_cli", "=", "cli"]


def test_files_that_are_not_python_are_package_data() -> None:
    data = setup_cfg()["options.package_data"]
    for file in (ROOT / "relgraph").rglob("*"):
        if file.is_dir() or file.suffix in {".py", ".pyc"}:
            continue
        patterns = data.get(package_name(file.parent), "").split()
        assert any(file.match(pattern) for pattern in patterns), f"{file.relative_to(ROOT)} would not be installed"


def test_the_typing_marker_exists() -> None:
    assert (ROOT / "relgraph" / "py.typed").is_file()


def test_the_version_is_the_one_of_setup_cfg() -> None:
    assert relgraph.__version__ == version("relgraph") == setup_cfg()["metadata"]["version"]
