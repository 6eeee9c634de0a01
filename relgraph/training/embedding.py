"""A teacher's embeddings of a whole training set, computed once and stored."""

import re
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from relgraph.data.datasets import DataSet
from relgraph.data.embeddings import StoreWriter, checksums_digest
from relgraph.data.images import ImageFiles, ImageSet
from relgraph.data.manifest import DTYPES, Contents, images_per_shard
from relgraph.data.views import Normalise
from relgraph.errors import RelgraphError
from relgraph.names import dataset
from relgraph.networks.teachers import Teacher
from relgraph.training.building import open_data, open_fabric, open_teacher
from relgraph.training.recipe import Recipe
from relgraph.training.threads import choose_threads

TRIED = 32  # images of a trial of threads
Embed = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Embedded:
    """A finished store.

    Attributes:
        contents: what is in it.
        images: how many of its images were embedded now; the others had been before.
        seconds: how long that took.
    """

    contents: Contents
    images: int
    seconds: float


def store_embeddings(
    recipe: Recipe, path: Path, *, views: int, dtype: str = "float32", seed: int = 0, batch_size: int = 256
) -> Embedded:
    """Write the recipe's teacher's embeddings of its original training split to `path`, or continue to.

    All images are embedded, those that a run would hold out for validation as well, so that every seed, `val_fraction`
    and choice of labels can use the store. An interrupt loses the shard that is being computed.

    Raises:
        RelgraphError: if the recipe's names are unknown, a number is out of range, something else is at `path`, or the
            embeddings are not finite.
    """
    if views < 1 or batch_size < 1 or dtype not in DTYPES:
        raise RelgraphError(
            "views and batch_size must be at least 1 and dtype float32 or float16, "
            f"got {views}, {batch_size} and {dtype!r}"
        )
    fabric, data = open_fabric(recipe), open_data(_whole(recipe))
    teacher = open_teacher(recipe).to(fabric.device).hold(str(fabric.strategy.precision.precision))
    checksums, precision = data.train.checksums(), str(fabric.strategy.precision.precision)
    contents = _contents(recipe, data, teacher, checksums, views=views, dtype=dtype, seed=seed, precision=precision)
    writer, embed = StoreWriter(path, contents, checksums), _embedder(contents, teacher, fabric)
    if writer.missing and fabric.device.type == "cpu":
        few = torch.arange(min(TRIED, batch_size, len(data.train)))
        pixels = data.train.select(few).sample(len(few))
        _, line = choose_threads(recipe.threads, lambda: embed(pixels, few))
        if line is not None:
            tqdm.write(line)
    start = time.perf_counter()
    images = _write(writer, data.train, embed, batch_size, recipe.processes)
    return Embedded(contents, images, time.perf_counter() - start)


def _contents(
    recipe: Recipe,
    data: DataSet,
    teacher: Teacher,
    checksums: Tensor,
    *,
    views: int,
    dtype: str,
    seed: int,
    precision: str,
) -> Contents:
    """Return the description of a store: its images, its teacher, its views."""
    return Contents(
        dataset=recipe.dataset,
        images=len(data.train),
        image_shape=tuple(data.train.images.shape[1:]),
        streamed=isinstance(data.train.images, ImageFiles),
        checksums=checksums_digest(checksums),
        teacher=recipe.teacher,
        arguments=tuple(sorted(recipe.teacher_args)),
        fingerprint=teacher.fingerprint(),
        input_size=teacher.input_size,
        mean=teacher.mean,
        std=teacher.std,
        width=teacher.width,
        dtype=dtype,
        precision=precision,
        views=views,
        crop_padding=data.crop_padding,
        flip=data.flip,
        view_seed=seed,
        images_per_shard=images_per_shard(len(data.train), views * teacher.width * DTYPES[dtype].itemsize),
    )


def default_path(recipe: Recipe, views: int) -> Path:
    """Return where the embeddings of a recipe's data set by its teacher are stored by default.

    >>> default_path(Recipe(dataset="folder:/photos/birds", teacher="open_clip:ViT-B-32/openai"), 4).as_posix()
    'embeddings/birds-open_clip-ViT-B-32-openai-4views'
    """
    name = f"{dataset(recipe.dataset).short_name}-{recipe.teacher}-{views}view{'s' if views > 1 else ''}"
    return Path(recipe.embeddings) / re.sub(r"[^\w.]+", "-", name, flags=re.ASCII).strip("-.")


def _whole(recipe: Recipe) -> Recipe:
    """Return the recipe with the original training split in one piece, and without a graph that batches must fit."""
    return replace(recipe, val_fraction=0.0, select="test", labels_per_class=0, label_fraction=1.0, label_noise=0.0,
                   method="seed", graph=None, k=None, neighbours="teacher", refine=None)  # fmt: skip


def _embedder(contents: Contents, teacher: Teacher, fabric: Any) -> Embed:
    """Return the map from images `(B, C, H, W)` and their positions `(B,)` to `(B, views, width)` on the CPU."""
    fixed = contents.fixed_views().to(fabric.device)
    prepare = Normalise(contents.mean, contents.std, size=contents.input_size, device=fabric.device)

    def embed(images: Tensor, index: Tensor) -> Tensor:
        images, index = images.to(fabric.device), index.to(fabric.device)
        rows = []
        for view in range(contents.views):
            seen = fixed.take(torch.full_like(index, view), index).apply(images)
            rows.append(teacher(prepare(seen)))
        return torch.stack(rows, dim=1).cpu()

    return embed


def _write(writer: StoreWriter, images: ImageSet, embed: Embed, batch_size: int, workers: int) -> int:
    """Write the missing shards and return the number of their images.

    No batch reaches across a shard's border: what is in a shard does not depend on where an earlier run was stopped.
    """
    contents = writer.manifest.contents
    parts = [(shard, part) for shard in writer.missing for part in torch.split(contents.positions(shard), batch_size)]
    total = sum(len(part) for _, part in parts)
    rows = torch.empty(0)
    with (
        closing(images.batches([part for _, part in parts], workers)) as batches,
        tqdm(desc="embed", initial=contents.images - total, total=contents.images, unit="img", disable=None) as bar,
    ):
        for (shard, part), pixels in zip(parts, batches, strict=True):
            positions = contents.positions(shard)
            if part[0] == positions[0]:
                rows = torch.empty(len(positions), contents.views, contents.width)
            rows[part - positions[0]] = embed(pixels, part)
            bar.update(len(part))
            if part[-1] == positions[-1]:
                writer.write(shard, rows)
    return total
