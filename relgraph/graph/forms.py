"""Forms: ways to compute one and the same comparison of two graphs, through their matrices or without them.

- "matrix": the weights of all pairs, `(N, N)`, of which sparse graphs then pick their edges.
- "factored": products `(D, D)` in place of all pairs (`relgraph.graph.factored`).
- "blocked": a block of rows at a time, forward and backward at once; of a sparse graph the neighbours are found so, and
  only the weights of the edges are computed.
- "auto": factored where that exists and is cheaper, blocked where the matrices would be large, else the matrix.

Values and gradients are the same to rounding. What is not a matrix can be differentiated once. Which forms there are
follows from the parts: see `Relation.forms`, and `Rule.blocked` for sparse graphs.
"""

from typing import Literal, get_args

from torch import Tensor

from relgraph.errors import RelgraphError, unknown

Form = Literal["auto", "matrix", "factored", "blocked"]
FORMS: tuple[Form, ...] = get_args(Form)

# Numbers of a matrix of all pairs above which "auto" does without it, 2,896 nodes. At 2,048 and width 256 a CPU takes
# 0.9 (PKT) to 1.6 times (RKD's distances) as long without, at 4,096 0.5 to 0.9 times.
LARGEST_MATRIX = 2**23


def choose(
    form: Form, known: tuple[Form, ...], student: Tensor, teacher: Tensor, count: int, crossing: int = 3
) -> Form:
    """Return the form in which `count` nodes, of the widths of these, are compared: never "auto".

    Args:
        form: What was asked for; anything but "auto" is returned.
        known: The forms that the comparison has.
        student: Nodes, `(N, D_s)`.
        teacher: Nodes, `(N, D_t)`.
        count: Number of nodes of the whole batch.
        crossing: Nodes for each column of the wider network above which the factored form is cheaper: on a CPU EGA's is
            as fast as the matrix at 2 to 3, for widths 64 and 256; that of rows divided by their norms, with twice the
            products, at 7 to 8.

    >>> import torch
    >>> small, large = torch.zeros(64, 256), torch.zeros(1, 256)
    >>> both = ("matrix", "factored", "blocked")
    >>> choose("auto", both, small, small, 64), choose("auto", both, large, large, 4096)
    ('matrix', 'factored')
    """
    if form != "auto":
        return form
    if "factored" in known and count > crossing * max(student.shape[-1], teacher.shape[-1]):
        return "factored"
    return "blocked" if "blocked" in known and count**2 > LARGEST_MATRIX else "matrix"


def check_form(form: str, known: tuple[Form, ...], what: str) -> None:
    """Raise RelgraphError for an unknown form, or one that `what` has not.

    >>> check_form("factored", ("matrix", "blocked"), "PKT")
    Traceback (most recent call last):
    relgraph.errors.RelgraphError: PKT has the forms auto, matrix, blocked, got 'factored'
    """
    if form not in FORMS:
        raise unknown("form", form, FORMS)
    if form != "auto" and form not in known:
        raise RelgraphError(f"{what} has the forms {', '.join(('auto', *known))}, got {form!r}")
