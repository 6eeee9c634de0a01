"""What 100 million images on 64 devices take, from figures measured here, part by part; and what the graph pair costs.

    python experiments/bench.py scaling --sizes 64,256,512,1024,2048,4096,8192,16384,32768,65536 \\
        --threads 2 --json scaling.json
    python experiments/scaling.py --bench scaling.json --out scaling_parts.json

Each part that grows with the images is measured at some of them and multiplied.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from benchmark.communication import gather_bytes, gradient_bytes, product_bytes
from benchmark.loops import STORED, LoopBuilder, Settings
from benchmark.memory import in_own_process, peak_resident
from benchmark.scaling import parameters_of_resnet8x4
from benchmark.timing import Start, in_turn, spread
from relgraph import EGA
from relgraph.data.batches import epoch_batches
from relgraph.data.folders import read_folder
from relgraph.data.manifest import images_per_shard
from relgraph.data.views import FixedViews
from relgraph.files import write_atomically
from relgraph.graph.criteria import frobenius
from relgraph.graph.kernels import pearson

IMAGES, PROCESSES, DIM = 100_000_000, 64, 256
WIDTH, VIEWS, HALF = 512, 4, 2  # the teacher's, stored in float16
BANK = 128  # width of CRD's keys
CPU = torch.device("cpu")


def without_pair(student: Tensor, teacher: Tensor) -> Tensor:
    """Return EGA's loss from the same weights, kept in no graph pair."""
    s, t = pearson.nodes(student), pearson.nodes(teacher.detach())
    node = frobenius(pearson.matrix(s, t), torch.eye(len(s)))
    return 0.8 * node + 0.24 * frobenius(pearson.matrix(s, s), pearson.matrix(t, t))


def losses(loss: Callable[[Tensor, Tensor], Tensor], n: int) -> Start:
    def start(count: int) -> Iterator[None]:
        torch.manual_seed(0)
        student, teacher = torch.randn(n, DIM, requires_grad=True), torch.randn(n, DIM)
        yield
        for _ in range(count):
            torch.autograd.backward(loss(student, teacher))

    return start


def pair_rows(rounds: int) -> list[dict[str, Any]]:
    """Return what the pair costs, as a share of a training step of resnet8x4 with stored embeddings."""
    rows = []
    for n in (64, 256):
        x, y = torch.randn(n, DIM), torch.randn(n, DIM)
        torch.testing.assert_close(without_pair(x, y), EGA()(x, y))
        with tempfile.TemporaryDirectory() as folder:
            builder = LoopBuilder(Settings(student="resnet8x4", batch_size=n, steps=20, device="cpu"), Path(folder))
            quick = {"pair": losses(EGA(), n), "plain": losses(without_pair, n)}
            step = in_turn({"step": builder.steps(STORED)}, rounds=rounds, repetitions=4, device=CPU)["step"]
            times = in_turn(quick, rounds=3 * rounds, repetitions=50, device=CPU)
        pairs = zip(times["pair"].samples, times["plain"].samples, strict=True)
        cost = spread([pair - plain for pair, plain in pairs])
        rows.append({"n": n, "step": spread(step.samples), "cost": cost}
                    | {name: spread(times[name].samples) for name in quick}
                    | {"share": cost["median"] / spread(step.samples)["median"]})  # fmt: skip
    return rows


def measure_batches(count: int, known: float) -> dict[str, float]:
    """Return what drawing an epoch's batches of 4,096 takes, and going through them."""
    labels = torch.zeros(count, dtype=torch.int64)
    labels[round(known * count) :] = -1
    before, begin = peak_resident() or 0, time.perf_counter()
    drawn = epoch_batches(labels, batch_size=4096, labelled_share=0.25, seed=0, epoch=0)
    through = sum(len(batch) for batch in drawn)
    assert through <= 4 / 3 * count + 4096
    return {"images": count, "known": known, "seconds": time.perf_counter() - begin,
            "bytes": (peak_resident() or 0) - before}  # fmt: skip


def measure_listing(count: int) -> dict[str, float]:
    """Return what listing a folder of so many images takes, 1,000 to a class, and identifying them by checksums."""
    with tempfile.TemporaryDirectory() as folder:
        for split, each in (("train", 1000), ("test", 1)):
            for number in range(count // 1000):
                inside = Path(folder, split, f"class_{number:06}")
                inside.mkdir(parents=True)
                for image in range(each):
                    (inside / f"image_{number:06}{image:03}.jpg").touch()
        before, begin = peak_resident() or 0, time.perf_counter()
        images = read_folder(Path(folder), 32, "stream")[1]["train"][0]
        listed, held = time.perf_counter() - begin, (peak_resident() or 0) - before
        begin = time.perf_counter()
        images.checksums()  # type: ignore[union-attr]
        return {"images": count, "seconds": listed, "bytes": held, "kept": images.names.nbytes,  # type: ignore[union-attr]
                "checksums": time.perf_counter() - begin}  # fmt: skip


def measure_views(count: int) -> dict[str, float]:
    """Return what the fixed views of a store's images take."""
    before, begin = peak_resident() or 0, time.perf_counter()
    views = FixedViews(count, VIEWS, padding=4, flip=True, seed=0)
    kept = sum(x.nbytes for x in (views.dx, views.dy, views.flip))
    return {"images": count, "seconds": time.perf_counter() - begin, "bytes": (peak_resident() or 0) - before,
            "kept": kept}  # fmt: skip


def hashing_speed() -> float:
    """Return how many bytes a second SHA-256 reads from a file in the page cache, as opening a store does."""
    import hashlib

    with tempfile.NamedTemporaryFile() as file:
        file.write(os.urandom(2**28))
        file.flush()
        begin = time.perf_counter()
        with open(file.name, "rb") as stream:
            hashlib.file_digest(stream, "sha256")
        return 2**28 / (time.perf_counter() - begin)


def calculation(report: dict[str, Any], bench: dict[str, Any]) -> dict[str, Any]:
    """Return what all of it takes for the large case."""
    seconds = {(row["form"], row["n"]): row["time"]["median"] for row in bench["rows"]}
    parameters = report["parameters"]
    per_batch = []
    for each in (64, 1024):
        n = each * PROCESSES
        steps = IMAGES // n
        rows = {"gathered": gather_bytes(each, DIM, PROCESSES), "summed": product_bytes(DIM, PROCESSES),
                "gradients": gradient_bytes(parameters, PROCESSES)}  # fmt: skip
        times = {"matrix": seconds.get(("matrix", n)), "blocked": seconds.get(("blocked", n)),
                 "factored": seconds.get(("factored", each))}  # of its own rows alone  # fmt: skip
        per_batch.append({
            "each": each, "n": n, "steps": steps, "step_bytes": rows, "step_seconds": times,
            "epoch_bytes": {name: steps * value for name, value in rows.items()},
            "epoch_hours": {name: None if value is None else steps * value / 3600 for name, value in times.items()},
        })  # fmt: skip
    store = IMAGES * VIEWS * WIDTH * HALF
    listing, views = (report[name]["images"] for name in ("listing", "views"))
    return {
        "batches": per_batch,
        "store": {"bytes": store, "checksums": 8 * IMAGES,
                  "shards": -(-IMAGES // images_per_shard(IMAGES, VIEWS * WIDTH * HALF)),
                  "verify_seconds": store / report["sha256_bytes_per_s"]},
        "listing": {name: report["listing"][name] / listing * IMAGES
                    for name in ("seconds", "bytes", "kept", "checksums")},
        "views": {name: report["views"][name] / views * IMAGES for name in ("seconds", "bytes", "kept")},
        "labels_bytes": 8 * IMAGES, "index_bytes": 8 * IMAGES,
        "queue_bytes": 65_536 * BANK * 4, "crd_banks_bytes": 2 * IMAGES * BANK * 4,
    }  # fmt: skip


@click.command(help=__doc__)
@click.option(
    "--bench", type=click.Path(path_type=Path, exists=True), required=True, help="What the first command wrote."
)
@click.option("--rounds", default=5, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True)
def main(bench: Path, rounds: int, out: Path) -> None:
    report: dict[str, Any] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    report |= {"load_before": os.getloadavg()[0], "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())}
    report["parameters"] = parameters_of_resnet8x4(DIM)
    report["pair"] = pair_rows(rounds)
    for row in report["pair"]:
        print(f"N = {row['n']}: pair {1e6 * row['cost']['median']:.0f} us of a step of "
              f"{1e3 * row['step']['median']:.1f} ms, {100 * row['share']:.2f} %", flush=True)  # fmt: skip
    sizes = (1_000_000, 10_000_000, IMAGES)
    report["batches"] = [in_own_process(measure_batches, n, known) for n in sizes for known in (1.0, 0.01)]
    report["listing"] = in_own_process(measure_listing, 200_000)
    report["views"] = in_own_process(measure_views, 10_000_000)
    report["sha256_bytes_per_s"] = hashing_speed()
    report["calculation"] = calculation(report, json.loads(bench.read_bytes()))
    write_atomically(out, (json.dumps(report, indent=1) + "\n").encode())
    print(json.dumps({**report, "pair": None}, indent=1))


if __name__ == "__main__":
    main()
