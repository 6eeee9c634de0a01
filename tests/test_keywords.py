"""The keywords of the functions are the options of the commands, by name and type.

After a change of an option: `python -c "from tests.test_keywords import write; write()"`.
"""

import inspect
from collections.abc import Iterable
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import relgraph
from relgraph import keywords
from relgraph.options import ARGUMENTS, Option, options_of
from relgraph.own_code import Own
from relgraph.training.pretrain_recipe import PretrainRecipe
from relgraph.training.recipe import EMBED_OPTIONS, Recipe

HEAD = '''"""The keywords of `relgraph.train`, `pretrain` and `embed`: the options of the commands, by name and type.

Made from the typed options by `tests/test_keywords.py` for editors and type checkers; the commands' help explains them.
"""

from collections.abc import Mapping
from typing import Any, Literal, TypedDict
'''
NAMED = {
    "TrainOptions": ("relgraph.train", list(options_of(Recipe).values())),
    "PretrainOptions": ("relgraph.pretrain", list(options_of(PretrainRecipe).values())),
    "EmbedOptions": ("relgraph.embed", [options_of(Recipe)[name] for name in EMBED_OPTIONS]),
}


def annotation(kind: Any) -> str:
    if kind is NoneType:
        return "None"
    if kind is Own:
        return "Any"  # the object itself
    if get_origin(kind) is Literal:
        return f"Literal[{', '.join(repr(word).replace(chr(39), chr(34)) for word in get_args(kind))}]"
    return str(kind) if get_origin(kind) else str(kind.__name__)


def lines_of(options: Iterable[Option]) -> list[str]:
    return [
        f"    {item.name}: {' | '.join(map(annotation, item.kinds))}"
        + " | Mapping[str, Any]" * (item.name in ARGUMENTS)
        for item in options
    ]


def source(name: str, told: str, lines: Iterable[str], base: str = "TypedDict") -> str:
    return "\n".join([f"class {name}({base}, total=False):", f'    """Options of {told}."""', "", *lines, ""])


def expected() -> str:
    """What all three functions take, what `train` and `pretrain` share beyond it, and each one's own."""
    listed = {name: lines_of(options) for name, (_, options) in NAMED.items()}
    common = [line for line in listed["TrainOptions"] if all(line in lines for lines in listed.values())]
    shared = [line for line in listed["TrainOptions"] if line in listed["PretrainOptions"] and line not in common]
    parts = [source("DataOptions", "all three functions", common)]
    parts.append(source("RunOptions", "`relgraph.train` and `relgraph.pretrain`", shared, "DataOptions"))
    for name, (function, _) in NAMED.items():
        base, known = ("DataOptions", common) if name == "EmbedOptions" else ("RunOptions", common + shared)
        own = [line for line in listed[name] if line not in known]
        parts.append(source(name, f"`{function}`", own, base))
    return "\n\n".join([HEAD, *parts])


def write() -> None:
    Path(keywords.__file__).write_text(expected(), encoding="utf-8")


def test_keywords_are_the_options() -> None:
    assert Path(keywords.__file__).read_text(encoding="utf-8") == expected(), __doc__


def test_no_keyword_of_a_function_hides_an_option() -> None:
    for function, options in ((relgraph.train, Recipe), (relgraph.pretrain, PretrainRecipe)):
        assert not inspect.signature(function).parameters.keys() & options_of(options).keys()
