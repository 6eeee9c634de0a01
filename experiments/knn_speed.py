"""What the exact k-NN graphs of a whole data set take: time and memory of each part of `relgraph analyze`, each alone.

    python experiments/knn_speed.py --out knn_speed.json

Nodes are drawn around 100 centres, so that a graph of them has communities. Each part runs in a process of its own:
seconds passed, seconds of processor time (of all threads, so on a busy machine the fairer of the two), and the most
memory it held beyond what it held after a small set. faiss is measured where it is installed (`pip install faiss-cpu`),
and both searches by turns in one process.
"""

import json
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from benchmark.memory import in_own_process, peak_resident
from relgraph.analysis.neighbourhoods import communities, neighbour_overlap
from relgraph.files import write_atomically
from relgraph.graph.search import has_faiss, matches_in_blocks, nearest_by_faiss, nearest_in_blocks

PARTS = {
    "one graph, blocks": lambda x, y, k: nearest_in_blocks(x, k),
    "one graph, faiss": lambda x, y, k: nearest_by_faiss(x, k),
    "two graphs and matches": lambda x, y, k: (*(nearest_in_blocks(z, k) for z in (x, y)), matches_in_blocks(x, y)),
    "graph and its communities": lambda x, y, k: communities(*nearest_in_blocks(x, k)),
}


def draw_nodes(count: int, dim: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    student = 0.35 * torch.randn(100, dim)[torch.randint(0, 100, (count,))] + torch.randn(count, dim)
    return student, student + 0.5 * torch.randn(count, dim)


def measure_part(part: str, count: int, dim: int, k: int) -> dict[str, Any]:
    PARTS[part](*draw_nodes(200, dim), k)
    x, y = draw_nodes(count, dim)
    before = peak_resident() or 0
    return {**measure_time(lambda: PARTS[part](x, y, k)), "bytes": (peak_resident() or 0) - before}


def measure_time(work: Callable[[], Any]) -> dict[str, float]:
    passed, used = time.perf_counter(), time.process_time()
    work()
    return {"seconds": time.perf_counter() - passed, "processor_seconds": time.process_time() - used}


def by_turns(count: int, dim: int, k: int, rounds: int) -> list[dict[str, dict[str, float]]]:
    """Return the times of the search in blocks and of faiss's, one after the other in one process, so many times."""
    x, _ = draw_nodes(count, dim)
    searches = {"blocks": nearest_in_blocks, "faiss": nearest_by_faiss}
    for search in searches.values():
        search(x[:200], k)
    return [{name: measure_time(partial(search, x, k)) for name, search in searches.items()} for _ in range(rounds)]


def same_neighbours(count: int, dim: int, k: int) -> float:
    """Return the share of the neighbours found in blocks that faiss finds too."""
    x, _ = draw_nodes(count, dim)
    return float(neighbour_overlap(nearest_in_blocks(x, k)[0], nearest_by_faiss(x, k)[0]).mean())


@click.command(help=__doc__)
@click.option("--nodes", default=50_000, show_default=True)
@click.option("--dim", default=256, show_default=True)
@click.option("--k", default=10, show_default=True)
@click.option("--rounds", default=5, show_default=True, help="How often both searches are timed by turns.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write everything as JSON.")
def main(nodes: int, dim: int, k: int, rounds: int, out: Path | None) -> None:
    where = f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}, torch {torch.__version__}, N = {nodes:,}, D = {dim}, k = {k}, float32")
    report: dict[str, Any] = {"device": where, "torch": torch.__version__, "load": os.getloadavg()[0]}
    report |= {"nodes": nodes, "dim": dim, "k": k}
    report["parts"] = {}
    for part in PARTS:
        if "faiss" in part and not has_faiss():
            continue
        found = report["parts"][part] = in_own_process(measure_part, part, nodes, dim, k)
        print(
            f"{part:<28}{found['seconds']:>8.1f} s {found['processor_seconds']:>8.1f} s of processor time"
            f"{found['bytes'] / 2**20:>8.0f} MiB",
            flush=True,
        )
    if has_faiss():
        report["same_neighbours"] = in_own_process(same_neighbours, nodes, dim, k)
        print(f"faiss finds the same neighbours: {100 * report['same_neighbours']:.4f} %")
        turns = report["by_turns"] = in_own_process(by_turns, nodes, dim, k, rounds)
        for unit in ("seconds", "processor_seconds"):
            ratios = [turn["blocks"][unit] / turn["faiss"][unit] for turn in turns]
            report[f"{unit}_of_faiss"] = statistics.median(ratios)
            print(f"blocks / faiss by turns, {unit}: median {report[f'{unit}_of_faiss']:.2f} of {len(ratios)}, "
                  f"{min(ratios):.2f} to {max(ratios):.2f}", flush=True)  # fmt: skip
    if out is not None:
        write_atomically(out, (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
