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
from relgraph.options import Option, options_of
from relgraph.own_code import Own
from relgraph.training.pretrain_recipe import PretrainRecipe
from relgraph.training.recipe import EMBED_OPTIONS, Recipe

HEAD = '''"""The keywords of `relgraph.train`, `pretrain` and `embed`: the options of the commands, by name and type.

Made from the typed options by `tests/test_keywords.py` for editors and type checkers; the commands' help explains them.
"""

from typing import Any, Literal, TypedDict
'''
CLASSES = {
    "TrainOptions": ("relgraph.train", options_of(Recipe).values()),
    "PretrainOptions": ("relgraph.pretrain", options_of(PretrainRecipe).values()),
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


def source(name: str, function: str, options: Iterable[Option]) -> str:
    lines = [f"    {item.name}: {' | '.join(map(annotation, item.kinds))}" for item in options]
    return "\n".join([f"class {name}(TypedDict, total=False):", f'    """Options of `{function}`."""', "", *lines, ""])


def expected() -> str:
    return "\n\n".join([HEAD, *(source(name, *facts) for name, facts in CLASSES.items())])


def write() -> None:
    Path(keywords.__file__).write_text(expected(), encoding="utf-8")


def test_keywords_are_the_options() -> None:
    assert Path(keywords.__file__).read_text(encoding="utf-8") == expected(), __doc__


def test_no_keyword_of_a_function_hides_an_option() -> None:
    for function, options in ((relgraph.train, Recipe), (relgraph.pretrain, PretrainRecipe)):
        assert not inspect.signature(function).parameters.keys() & options_of(options).keys()
