"""Names of kernels, scales and criteria, the parts of a relation."""

import math
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from torch import Tensor

from relgraph import own_code
from relgraph.errors import RelgraphError, unknown
from relgraph.graph import criteria, kernels, scales
from relgraph.graph.criteria import Criterion, Row
from relgraph.graph.kernels import Kernel
from relgraph.graph.scales import Scale
from relgraph.methods.relational import CriterionOption, KernelOption, ScaleOption
from relgraph.names.own import OWN, find_own
from relgraph.options import Option
from relgraph.own_code import Own

# The parts by their names in `relgraph.graph`; those with numbers are functions that return the part.
_KERNELS = "pearson cosine linear euclidean squared_euclidean gaussian gaussian_taylor damped_pearson"
_SCALES = "raw by_mean by_max by_constant_max by_norm by_anchor_norm by_anchor_sum softmax"
_CRITERIA = "frobenius mean_square sum_square anchor_square half_square huber kl cross_entropy log_kl"
KERNELS, SCALES, CRITERIA = (
    {name: getattr(module, name) for name in names.split()}
    for module, names in ((kernels, _KERNELS), (scales, _SCALES), (criteria, _CRITERIA))
)


def kernel(spec: KernelOption) -> Kernel | None:
    """Return the kernel that a spelling names, `NAME` or `NAME:NUMBER[:NUMBER]`, or code of one's own; or the object.

    Raises:
        RelgraphError: for an unknown name, or numbers that do not fit.

    >>> kernel("gaussian:0.4").name
    'gaussian'
    """
    found: Kernel | None = _built_in("kernel", KERNELS, spec)
    return found


def scale(spec: ScaleOption) -> Scale | Callable[[Tensor], Tensor] | None:
    """Return the scale that a text names, such as `by_mean` or `softmax:0.1`; what is no text is returned as it is.

    Raises:
        RelgraphError: for an unknown name, or numbers that do not fit.
    """
    found: Scale | Callable[[Tensor], Tensor] | None = _built_in("scale", SCALES, spec)
    return found


def criterion(spec: CriterionOption) -> Criterion | Row | None:
    """Return the criterion that a text names, such as `huber`; what is no text is returned as it is.

    Raises:
        RelgraphError: for an unknown name.
    """
    found: Criterion | Row | None = _built_in("criterion", CRITERIA, spec)
    return found


def _built_in(kind: str, known: Mapping[str, Any], text: Any) -> Any:
    """Return the part of a name, or what its factory returns for the numbers after the name, `NAME:NUMBER:...`."""
    if not isinstance(text, str):
        return text.target if isinstance(text, Own) else text
    kinds = OWN[kind]
    name, *numbers = (word.strip() for word in text.split(":"))
    if name not in known and (own := find_own(kinds, text)) is not None:
        return own[0]
    if name not in known:
        raise unknown(kind, name, [*known, *own_code.registered(kinds)])
    found = known[name]
    wanted = {} if isinstance(found, Kernel | Scale | Criterion) else signature(found).parameters
    try:
        given = [item.annotation(number) for item, number in zip(wanted.values(), numbers, strict=True)]
    except ValueError:
        given = [math.nan]
    if not all(map(math.isfinite, given)):
        expected = ":".join([name, *(item.upper() for item in wanted)])
        raise RelgraphError(f"the {kind} {name} is written {expected}, got {text!r}") from None
    return found(*given) if wanted else found


# How the options of parts are read; those of other names in a method of one's own are told by their type.
PARTS: dict[str, Callable[[Any], Any]] = {"kernel": kernel, "scale": scale, "criterion": criterion}


def part_of(option: Option | None, value: Any) -> Any:
    """Return the part that the value of an option names, where the option is one of a part; else the value itself."""
    readers = dict(zip((Kernel, Scale, Criterion), PARTS.values(), strict=True))
    found = [readers[kind] for kind in option.kinds if kind in readers] if option is not None else []
    return found[0](value) if found else value
