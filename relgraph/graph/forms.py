"""Forms: ways to compute the same comparison of two graphs, with or without their matrices.

- "matrix": the weights of all pairs, `(N, N)`, from which sparse graphs take their edges.
- "factored": products `(D, D)` in place of all pairs (`relgraph.graph.factored`).
- "blocked": a block of rows at a time, forward and backward at once; for a sparse graph the neighbours are found in
  blocks, and only the weights of the edges are computed.
- "auto": factored where that exists and is cheaper, blocked where the matrices would be large, else the matrix.

Values and gradients are the same to rounding. All forms but the matrix can be differentiated once. The parts determine
which forms are available: see `Relation.forms`, and `Rule.blocked` for sparse graphs.
"""

from typing import Literal, get_args

from relgraph.errors import RelgraphError, unknown

Form = Literal["auto", "matrix", "factored", "blocked"]
FORMS: tuple[Form, ...] = get_args(Form)

# Size of the matrix of all pairs above which "auto" avoids it, 2,896 nodes. Blocked, at width 256 on one thread of an
# AMD EPYC, 2,048 nodes take 0.7 (PKT) to 1.2 times as long (RKD's distances), 4,096 nodes 0.5 to 0.8 times (n = 5).
LARGEST_MATRIX = 2**23


def check_form(form: str, known: tuple[Form, ...], what: str) -> None:
    """Raise RelgraphError for an unknown form, or one that `what` does not support.

    >>> check_form("factored", ("matrix", "blocked"), "PKT")
    Traceback (most recent call last):
    relgraph.errors.RelgraphError: PKT has the forms auto, matrix, blocked, got 'factored'
    """
    if form not in FORMS:
        raise unknown("form", form, FORMS)
    if form != "auto" and form not in known:
        raise RelgraphError(f"{what} has the forms {', '.join(('auto', *known))}, got {form!r}")
