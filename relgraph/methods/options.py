"""What a method's class says of itself: its options, the weights of its terms, and the facts of its docstring."""

import re
from inspect import cleandoc

from relgraph.options import option as option
from relgraph.options import options_of as options_of

FACT = r"^(Paper|Differs|Kernel|Topology|Criterion): (.+(?:\n    .+)*)"


def facts_of(cls: type) -> dict[str, str]:
    """Return the facts of a method's docstring, a line each: its `Paper`, where it `Differs`, its parts in words.

    >>> from relgraph.methods import KD
    >>> facts_of(KD)["Criterion"]
    'KL T^2'
    """
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        for key, text in re.findall(FACT, cleandoc(base.__doc__ or ""), re.MULTILINE):
            found[key] = " ".join(text.split())
    return found
