"""relgraph methods."""

from typing import TYPE_CHECKING

import click

from .show import columns, entry, say, say_all, say_registered

if TYPE_CHECKING:
    from relgraph.analysis.method_info import MethodInfo


@click.command()
@click.argument("name", required=False)
def methods(name: str | None) -> None:
    """List the methods that --method takes: what each reads, what it is made of, and the published weight.

    A method reads the projected embedding, the pooled feature below it, the last stage map or all maps, logits, labels,
    or positions in the training set (indices). Kernel, topology and criterion are its parts; those with a topology run
    on --graph dense and --graph knn alike. The weight is that beside a cross-entropy of weight 1, or of the weight that
    the method's page calls gamma: 0 for those that need no labels.

    \b
    Examples:
      relgraph methods                                         the table
      relgraph methods rkd                                     one of them in full: equation, options, differences
      relgraph train --method rkd --method-args distance_weight=1,angle_weight=2
      relgraph train --method 0.8*crd+kd                       a sum; numbers take the place of the published weights
    """
    from relgraph.analysis.method_info import method_info
    from relgraph.methods import METHODS

    name = None if name is None else name.lower()  # as --method reads it
    if name == "none":
        say("none: cross-entropy alone, without a teacher")
        return
    if name is not None:
        say_all(_in_full(method_info(name)))
        return
    infos = [method_info(known) for known in METHODS]
    rows = [[c.name, ", ".join(c.reads), c.kernel, c.topology, c.criterion, f"{c.weight:g}"] for c in infos]
    say_all(columns([["method", "reads", "kernel", "topology", "criterion", "weight"], *rows]))
    say("", "papers, and where paper, official code and this one differ:")
    for c in infos:
        say_all(entry(c.name, f"{c.paper}: {c.differs}"))
    for kind in ("methods", "kernels", "scales", "criteria"):
        say_registered(kind)
    say("", "one in full: relgraph methods NAME; cross-entropy alone: --method none")


def _in_full(c: "MethodInfo") -> str:
    facts = {"paper": c.paper, "reads": ", ".join(c.reads)}
    facts |= {"kernel": c.kernel, "topology": c.topology, "criterion": c.criterion, "weight": f"{c.weight:g}"}
    facts |= {"gamma": f"{c.gamma:g}, the weight of the cross-entropy beside it", "views": c.views}
    facts["options"] = ", ".join(f"{name}={value}" for name, value in c.options.items()) or "none of its own"
    return "\n".join([*(entry(key, value) for key, value in facts.items()), "", c.doc])
