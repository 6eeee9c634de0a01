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
    docs = (cleandoc(base.__doc__ or "") for base in reversed(cls.__mro__))
    return {key: " ".join(text.split()) for doc in docs for key, text in re.findall(FACT, doc, re.MULTILINE)}
