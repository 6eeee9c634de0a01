"""The newcomer's three minutes: a student alone, and with its teacher's graph; then one graph for Gephi or networkx.

    make demo          or          python experiments/demo.py

Scikit-learn's digits, three labelled images a class, and the teacher that comes with relgraph, which was trained
without labels. Everything is written to runs/demo/, and trained anew each time.
"""

import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import networkx

from relgraph import write_graph
from relgraph.analysis.analysis import analyse
from relgraph.analysis.plots import learning_curve
from relgraph.analysis.run_loading import evaluate_run, run_pair
from relgraph.training.distillation import train
from relgraph.training.recipe import resolve

# Directory of the run -> its name in the table, and its options.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "alone": ("cross-entropy alone", {"method": "none"}),
    "dense": ("+ EGA, all pairs", {"graph": "dense"}),
    "knn": ("+ EGA, 8 neighbours", {"graph": "knn", "k": 8}),
    "knn-smooth": ("+ EGA, 8 neighbours, smoothed", {"graph": "knn", "k": 8, "refine": "smooth"}),
}
OUT = Path("runs/demo")


def main() -> None:
    # PyTorch Geometric's import warns of its own future changes.
    warnings.filterwarnings("ignore", message=".*torch.jit.* is deprecated")
    start = time.perf_counter()
    shutil.rmtree(OUT, ignore_errors=True)
    rows = {}
    for folder, (name, options) in VARIANTS.items():
        path = OUT / folder
        print(f"\n{name} -> {path}", flush=True)
        result = train(resolve(options), path)
        learning_curve(path)
        rows[folder] = (result, evaluate_run(path))
    graph = OUT / "graph.graphml"
    write_graph(run_pair(OUT / "knn", first=200, k=8), graph)
    opened = networkx.read_graphml(graph)
    show(rows)
    print(
        f"\n{graph}: {opened.number_of_nodes()} nodes, {opened.number_of_edges()} edges; opens in Gephi and networkx."
    )
    compared = analyse(OUT / "knn", k=8).comparison  # with the frozen teacher's own vectors
    assert compared is not None
    shared = 8 * float(compared.overlap.mean())
    print(
        f"Of a test image's 8 nearest neighbours in the teacher's own graph, {shared:.1f} are so in the student's too."
    )
    print(f"{time.perf_counter() - start:.0f} s in all.")


def show(rows: dict[str, tuple[dict[str, Any], dict[str, Any]]]) -> None:
    """Print one table and its conclusion."""
    report = rows["dense"][1]
    images, teacher = report["images"], report["teacher"]
    print(f"\nDigits, {images['labelled']} labelled of {images['train']} training images, one seed.")
    print(f"Accuracy in % on {images['test']} test images; k-NN on features, with all labels:")
    print(f"{'student, resnet8':<32}{'last epoch':>12}{'best epoch':>12}{'k-NN':>8}")
    for folder, (result, report) in rows.items():
        test, name = result["test"], VARIANTS[folder][0]
        print(f"{name:<32}{test['last']['top1']:>12.1f}{test['best']['top1']:>12.1f}{report['student']['knn']:>8.1f}")
    print(f"{'(teacher, probe on these labels)':<32}{teacher['linear_few']:>12.1f}{'':>12}{teacher['knn']:>8.1f}")
    alone, pairs = (rows[folder][0]["test"]["last"]["top1"] for folder in ("alone", "dense"))
    verdict = "helps" if pairs > alone else "does not help"
    print(f"Distillation {verdict} here: {pairs - alone:+.1f} points at the last epoch, one seed.")
    print("Five seeds: see experiments/README.md.")


if __name__ == "__main__":
    sys.exit(main())
