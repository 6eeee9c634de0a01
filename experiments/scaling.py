"""What 100 million images on 64 devices take, from figures measured here, part by part; and what the graph pair costs.

    python experiments/bench.py scaling --sizes 64,256,512,1024,2048,4096,8192,16384,32768,65536 \\
        --threads 2 --json scaling.json
    python experiments/scaling.py --bench scaling.json --out scaling_parts.json

Each part that grows with the images is measured at some of them and multiplied.
"""

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from benchmark.communication import gather_bytes, gradient_bytes, product_bytes
from benchmark.loops import STORED, LoopBuilder, Settings
from benchmark.memory import in_own_process, peak_resident
from benchmark.scaling import parameters_of_resnet8x4
from benchmark.timing import Start, in_turn, spread
from relgraph import EGA
from relgraph.data.batches import epoch_batches
from relgraph.data.embeddings import COMPARED, RECORD, EmbeddingStore, open_record, record_of, shard_file
from relgraph.data.folders import read_folder
from relgraph.data.manifest import Contents, images_per_shard
from relgraph.data.sealed_rows import SealedRows, record_type, write_rows
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


def described(count: int) -> Contents:
    """Return the contents of a store of so many images."""
    shard = images_per_shard(count, VIEWS * WIDTH * HALF)
    return Contents(
        dataset="folder:images", images=count, image_shape=(3, 224, 224), streamed=True, checksums="", teacher="timm:x",
        arguments=(), fingerprint="", input_size=None, mean=(0.5,), std=(0.5,), width=WIDTH, dtype="float16",
        precision="32-true", views=VIEWS, crop_padding=4, flip=True, view_seed=0, images_per_shard=shard,
    )  # fmt: skip


def sparse_rows(file: Path, shape: tuple[int, ...], width: int, dtype: str) -> None:
    """Write the header of a file of rows, and make it as long as they would: they are zeros, which take no space."""
    kind = record_type(np.dtype(dtype), width)
    header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    with file.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        stream.truncate(stream.tell() + math.prod(shape) * kind.itemsize)


def measure_opening(count: int) -> dict[str, float]:
    """Return what opening a store of so many images takes; its rows, which nothing reads then, are sparse files."""
    contents = described(count)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        contents.write(path)
        sparse_rows(path / RECORD, (count,), 3, "int64")
        for shard in range(contents.shards):
            sparse_rows(shard_file(path, shard), (len(contents.positions(shard)), VIEWS), WIDTH, "float16")
        before, begin, used = peak_resident() or 0, time.perf_counter(), time.process_time()
        EmbeddingStore(path)
        return {"images": count, "shards": contents.shards, "seconds": time.perf_counter() - begin,
                "processor": time.process_time() - used, "bytes": (peak_resident() or 0) - before}  # fmt: skip


def measure_reading(count: int) -> dict[str, float]:
    """Return what a store's checksums take: those of the record of its images, and those of the rows of a step."""
    contents, random = described(count), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write_rows(path / RECORD, random.integers(0, 2**40, (count, 3)), contents.first_row(0))
        rows = random.standard_normal((2**14, VIEWS, WIDTH)).astype(np.float16)
        write_rows(shard_file(path, 0), rows, contents.first_row(0))
        record, used = open_record(path, contents), time.process_time()
        for first in range(0, count, COMPARED):
            record_of(record, np.arange(first, min(first + COMPARED, count)))
        of_record = time.process_time() - used
        shard = SealedRows(shard_file(path, 0), (2**14, VIEWS), WIDTH, "float16", contents.first_row(0))
        used = time.process_time()
        for _ in range(100):
            shard.read(random.integers(0, len(shard), 1024))
        return {"images": count, "record": of_record, "row": (time.process_time() - used) / 100 / 1024}


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
        "store": {"bytes": store, "record": 28 * IMAGES,
                  "shards": described(IMAGES).shards, "open_seconds": report["opening"]["processor"],
                  "record_seconds": report["reading"]["record"] / report["reading"]["images"] * IMAGES,
                  "epoch_seconds": report["reading"]["row"] * IMAGES},
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
@click.option(
    "--keep", type=click.Path(path_type=Path, exists=True),
    help="An earlier report: what does not concern the store is taken from it, and not measured again.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True)
def main(bench: Path, rounds: int, keep: Path | None, out: Path) -> None:
    now = {"torch": torch.__version__, "threads": torch.get_num_threads(), "load_before": os.getloadavg()[0],
           "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())}  # fmt: skip
    report = measured(rounds) | now if keep is None else json.loads(keep.read_bytes()) | {"store": now}
    report["opening"] = in_own_process(measure_opening, IMAGES)
    report["reading"] = in_own_process(measure_reading, 10_000_000)
    report["calculation"] = calculation(report, json.loads(bench.read_bytes()))
    write_atomically(out, (json.dumps(report, indent=1) + "\n").encode())
    print(json.dumps({**report, "pair": None}, indent=1))


def measured(rounds: int) -> dict[str, Any]:
    """Return what was measured of all but the store."""
    report: dict[str, Any] = {}
    report["parameters"] = parameters_of_resnet8x4(DIM)
    report["pair"] = pair_rows(rounds)
    for row in report["pair"]:
        print(f"N = {row['n']}: pair {1e6 * row['cost']['median']:.0f} us of a step of "
              f"{1e3 * row['step']['median']:.1f} ms, {100 * row['share']:.2f} %", flush=True)  # fmt: skip
    sizes = (1_000_000, 10_000_000, IMAGES)
    report["batches"] = [in_own_process(measure_batches, n, known) for n in sizes for known in (1.0, 0.01)]
    report["listing"] = in_own_process(measure_listing, 200_000)
    report["views"] = in_own_process(measure_views, 10_000_000)
    return report


if __name__ == "__main__":
    main()
