"""Code of the user's own: found by its spelling or registered by installed packages, and loaded only on their word.

`package.module:attribute` and `path/to/file.py:attribute` name a class, a function or an object. Importing it runs it.
The spelling of a caller is the caller's word for that; one that is read from a file, such as the recipe of a run, is
not: `check_permitted` refuses it unless it was given again (`permitting`).
"""

import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache, reduce
from importlib.metadata import EntryPoint, entry_points, packages_distributions, version
from pathlib import Path
from types import ModuleType, NoneType
from typing import Any

from relgraph.errors import RelgraphError, unknown
from relgraph.files import file_digest, told_of

# What stands before a colon and names no module: sources of networks and of data, and objects of an earlier process.
SOURCES = frozenset({
    "timm", "torchvision", "open_clip", "checkpoint", "embedded", "repdistiller", "vectors", "folder", "classes", "csv",
    "huggingface", "object",
})  # fmt: skip
KINDS = ("students", "teachers", "datasets", "methods", "kernels", "scales", "criteria", "refinements",
         "loggers")  # fmt: skip
IN_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
IN_FILE = re.compile(r"[^*+]+\.py:[^\W\d]\w*(\.[^\W\d]\w*)*")
MODULE = "relgraph_own_"  # begins the names of modules that are files
PERMITTED: ContextVar[frozenset[str] | None] = ContextVar("permitted", default=frozenset())  # None is everything


@dataclass(frozen=True)
class Own:
    """An object of the user's own in place of a spelling, and what names it in messages and files.

    Attributes:
        target: The object; two of one spelling are equal.
        spelling: Its spelling, which is its text as well.
    """

    target: Any = field(repr=False, compare=False)
    spelling: str

    def __str__(self) -> str:
        """Return the spelling."""
        return self.spelling

    @classmethod
    def of(cls, spec: Any, option: str = "") -> Any:
        """Return an object with its spelling; texts, numbers, nothing, and what has its spelling as they are.

        A list is a sum of methods where the `option` is `method`; a data set may be a list as well.
        """
        if isinstance(spec, (str, int, float, cls, NoneType)):
            return spec
        return cls(spec, sum_of(spec) if option == "method" and isinstance(spec, list) else spelling_of(spec))


def is_own(text: str) -> bool:
    """Return whether a text spells code of the user's own.

    >>> [is_own(text) for text in ("nets.py:make", "lab.nets:Net", "timm:resnet18", "vgg8")]
    [True, True, False, False]
    """
    module = IN_MODULE.fullmatch(text) and text.partition(":")[0] not in SOURCES
    return bool(module or IN_FILE.fullmatch(text))


@contextmanager
def telling(what: str) -> Iterator[None]:
    """Tell in one sentence of an error that another's code raises.

    Raises:
        RelgraphError: if it raises any.
    """
    try:
        yield
    except RelgraphError:
        raise
    except Exception as error:
        raise RelgraphError(f"{what}: {told_of(error)}") from error


def absolute(text: str) -> str:
    """Return a spelling with the whole path of its file, which is found from any directory; others as they are.

    Raises:
        RelgraphError: for a path with a plus or a star, which are read as a sum of methods.
    """
    if not IN_FILE.fullmatch(text):
        return text
    file, _, attribute = text.rpartition(":")
    found = f"{Path(file).expanduser().absolute()}:{attribute}"
    if not is_own(found):
        raise RelgraphError(f"{text} must lie at a path without + and *, which stand for sums, got {found}")
    return found


def load(text: str) -> Any:
    """Return the object that a text spells; the module that defines it is imported.

    Raises:
        RelgraphError: if there is no such file, module or attribute, or the import fails.
    """
    place, _, attribute = text.rpartition(":")
    module = _module(text, place)
    try:
        return reduce(getattr, attribute.split("."), module)
    except AttributeError as error:
        named = [name for name, value in vars(module).items() if name[0] != "_" and not isinstance(value, ModuleType)]
        raise unknown(f"attribute of {place}", attribute, named) from error


def _module(text: str, place: str) -> ModuleType:
    in_file = place.endswith(".py")
    if in_file and not Path(place).expanduser().is_file():
        raise RelgraphError(f"{text}: expected a file {place}, found none")
    try:
        file = Path(place).expanduser().absolute()
        return _of_file(file, file.read_bytes()) if in_file else _by_name(place)
    except ModuleNotFoundError as error:
        if error.name != place or "." in place:
            told = "which is neither installed nor in this directory"
            raise RelgraphError(f"{text} needs the module {error.name}, {told}") from error
        raise unknown("source or module", place, SOURCES - {"object"}) from error
    except Exception as error:  # what code of another's raises
        raise RelgraphError(f"{text} cannot be imported: {told_of(error)}") from error


@cache
def _of_file(file: Path, content: bytes) -> ModuleType:
    """Return the module that a file of this content defines, which may import its neighbours, as a script does."""
    name = MODULE + hashlib.sha256(str(file).encode()).hexdigest()[:16]
    found = importlib.util.spec_from_file_location(name, file)
    assert found is not None, "it ends with .py"
    module = importlib.util.module_from_spec(found)
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    sys.modules[name] = module  # dataclasses look their module up
    try:
        exec(compile(content, str(file), "exec"), vars(module))  # what is recorded, and no older bytecode
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _by_name(name: str) -> ModuleType:
    """Return a module, which may be in the current directory, as for `python -m`."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    return importlib.import_module(name)


def spelling_of(target: Any) -> str:
    """Return a spelling by which an object is found again, or `object:TYPE` if it has none.

    A class that has none is called `object:NAME` by its own name.

    >>> spelling_of(RelgraphError), spelling_of(3)
    ('relgraph.errors:RelgraphError', 'object:int')
    """
    module, name = getattr(target, "__module__", "") or "", getattr(target, "__qualname__", "<")
    spelled = f"object:{(target if isinstance(target, type) else type(target)).__qualname__.split('<locals>.')[-1]}"
    if "<" in name or module in ("", "__main__"):
        return spelled
    place = sys.modules.get(module)
    try:
        if reduce(getattr, name.split("."), place) != target:  # a method of an object, or what a decorator made
            return spelled
    except AttributeError:
        return spelled
    found = f"{getattr(place, '__file__', None) if module.startswith(MODULE) else module}:{name}"
    return found if is_own(found) else spelled


def sum_of(methods: list[Any]) -> str:
    """Return the spelling of a sum of methods, each alone or as (weight, method).

    >>> sum_of(["kd", (0.5, RelgraphError)])
    'kd+0.5*relgraph.errors:RelgraphError'
    """
    parts = [part if isinstance(part, tuple) and len(part) == 2 else (None, part) for part in methods]
    words = [part if isinstance(part, str) else spelling_of(part) for _, part in parts]
    return "+".join(word if w is None else f"{w}*{word}" for (w, _), word in zip(parts, words, strict=True))


def origin(kind: str, text: str) -> dict[str, str]:
    """Return where code of a spelling, or a registered name, came from: its file with SHA-256, its package's version.

    Raises:
        RelgraphError: if it cannot be imported or read.
    """
    place = text.rpartition(":")[0] if is_own(text) else registered(kind)[text].module
    file = getattr(_module(text, place), "__file__", None)
    found = {"spelling": text}
    if file is not None:
        found |= {"file": file, "sha256": file_digest(Path(file))}
    for package in packages_distributions().get(place.split(".")[0], [])[:1]:
        found |= {"package": package, "version": version(package)}
    return found


def registered(kind: str) -> dict[str, EntryPoint]:
    """Return what installed packages register as entry points of the group `relgraph.KIND`, by name.

    >>> registered("students")
    {}
    """
    return {entry.name: entry for entry in entry_points(group=f"relgraph.{kind}")}


def load_registered(kind: str, name: str) -> Any:
    """Return what an installed package registers under a name.

    Raises:
        RelgraphError: if it cannot be imported.
    """
    entry = registered(kind)[name]
    with telling(f"{name} of the package {entry.dist.name if entry.dist else entry.value} cannot be loaded"):
        return entry.load()


@contextmanager
def permitting(spellings: Iterable[str] = (), *, everything: bool = False) -> Iterator[None]:
    """Permit in the block that files name this code of the user's own, or any, besides what is permitted already."""
    before = PERMITTED.get()
    token = PERMITTED.set(None if everything or before is None else before | set(map(absolute, spellings)))
    try:
        yield
    finally:
        PERMITTED.reset(token)


def check_permitted(text: str, owner: str) -> None:
    """Check that code of one's own that a file names may be loaded.

    Raises:
        RelgraphError: if it was not given again.
    """
    permitted = PERMITTED.get()
    if is_own(text) and permitted is not None and text not in permitted:
        told = "it is run only if you name it again, or with --allow-code (in Python allow_code=True)"
        raise RelgraphError(f"{owner} names code of its own, {text}: {told}")
