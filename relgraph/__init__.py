"""relgraph: distil what a teacher knows of the relations between images into a small student.

Every batch becomes a PyTorch Geometric graph pair; on all pairs this is Embedding Graph Alignment (Ma, Chen, Akata,
BMVC 2022, arXiv 2211.13264), on k nearest neighbours its sparse form.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relgraph.analysis.export import read_pair, to_networkx, write_graph
    from relgraph.api import Run, align, analyze, embed, evaluate, export, predict, pretrain, query, report, train
    from relgraph.errors import RelgraphError
    from relgraph.graph.pair import graph_pair
    from relgraph.graph.relation import Relation
    from relgraph.graph.topology import AllPairs, Given, Nearest
    from relgraph.methods import EGA, KD, METHODS, Method, Output, ega_loss
    from relgraph.names import build_backbone, load_student, load_teacher
    from relgraph.networks.heads import Head
    from relgraph.training.callbacks import Callback, EpochEnd, StepEnd
    from relgraph.training.spread import spread_over

# Loaded when first asked for, so that `import relgraph` costs nothing.
_HOME = {
    "relgraph.api": "Run align analyze embed evaluate export predict pretrain query report train",
    "relgraph.analysis.export": "read_pair to_networkx write_graph",
    "relgraph.errors": "RelgraphError",
    "relgraph.graph.pair": "graph_pair",
    "relgraph.graph.relation": "Relation",
    "relgraph.graph.topology": "AllPairs Given Nearest",
    "relgraph.methods": "EGA KD METHODS Method Output ega_loss",
    "relgraph.names": "build_backbone load_student load_teacher",
    "relgraph.networks.heads": "Head",
    "relgraph.training.callbacks": "Callback EpochEnd StepEnd",
    "relgraph.training.spread": "spread_over",
}

__version__ = version("relgraph")
__all__ = [
    "EGA", "KD", "METHODS", "AllPairs", "Callback", "EpochEnd", "Given", "Head", "Method", "Nearest", "Output",
    "Relation", "RelgraphError", "Run", "StepEnd", "align", "analyze", "build_backbone", "ega_loss", "embed",
    "evaluate", "export", "graph_pair", "load_student", "load_teacher", "predict", "pretrain", "query", "read_pair",
    "report", "spread_over", "to_networkx", "train", "write_graph",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    for home, names in _HOME.items():
        if name in names.split():
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'relgraph' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
