"""Stores of a teacher's embeddings of a whole training set: which one fits a run, and how one is made."""

import json
import os
import re
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from relgraph.data.datasets import DataSet, joined
from relgraph.data.embeddings import EmbeddingStore, StoreWriter, check_complete, check_place
from relgraph.data.fingerprint import ImageRecord
from relgraph.data.images import ImageFiles, ImageSet
from relgraph.data.manifest import DTYPES, Contents, images_per_shard, is_store
from relgraph.data.views import Normalise
from relgraph.errors import RelgraphError
from relgraph.files import digest, locked, writing
from relgraph.names import dataset, index_transform
from relgraph.networks.teachers import Teacher
from relgraph.printing import no_bar, tell
from relgraph.processes import SINGLE_PROCESS, ProcessGroup
from relgraph.training.building import load_data, open_fabric, open_teacher, precision_of
from relgraph.training.indexing import fit_index
from relgraph.training.recipe import EMBED_OPTIONS, Recipe
from relgraph.training.trials import with_threads

SAMPLE = 16  # images whose embeddings are computed anew: a moment, and a wrong order or crop shows in every row

# The largest ||found - stored|| / ||stored|| of a row, by the precision of the store. With a MobileNetV2 on 48 images
# of Tiny-ImageNet, rounding to TF32 is at most 0.004 from float32, and bfloat16 0.05 to 0.12, so two machines' bfloat16
# at most twice that from each other. The image moved by one pixel is 0.11 to 0.25 away, mirrored 0.25 to 0.6, another
# image 0.75 to 1.2, and the sample has several.
TOLERANCE = {"32-true": 0.05, "bf16-mixed": 0.2}


# What a store says of its images and its teacher, as a run says it of its own.
FACTS = {
    "image_shape": "the shape of an image",
    "streamed": "whether images are streamed",
    "crop_padding": "the black pixels around an image",
    "flip": "whether crops are mirrored",
    "input_size": "the teacher's input size",
    "mean": "the teacher's mean",
    "std": "the teacher's std",
    "arguments": "the teacher's arguments",
    "width": "the teacher's width",
    "fingerprint": "the SHA-256 of the teacher's weights",
}


def facts(recipe: Recipe, data: DataSet, teacher: Teacher) -> dict[str, Any]:
    """Return the values of `FACTS` for a run's images and teacher."""
    images = data.train.images
    own = tuple(images.shape[1:]), isinstance(images, ImageFiles), data.crop_padding, data.flip
    of_teacher = teacher.input_size, teacher.mean, teacher.std, tuple(sorted(recipe.teacher_args)), teacher.width
    return dict(zip(FACTS, (*own, *of_teacher, teacher.fingerprint()), strict=True))


@dataclass(frozen=True, eq=False)
class Wanted:
    """A run that needs its teacher's embeddings, and the processes that all ask for them."""

    recipe: Recipe
    data: DataSet
    teacher: Teacher
    device: torch.device
    processes: ProcessGroup = SINGLE_PROCESS

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What a store of its images and its teacher says of them."""
        return facts(self.recipe, self.data, self.teacher)


def find_store(wanted: Wanted) -> tuple[EmbeddingStore | None, list[str]]:
    """Return the first store in the recipe's folder that fits, those with more views first, and why others do not.

    The folder may be a store itself. Stores of other data sets or teachers are skipped silently.
    """
    folder, reasons = Path(wanted.recipe.embeddings), []
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    found = []
    for path in [folder] if is_store(folder) else filter(is_store, inside):
        try:
            found.append((path, Contents.read(path)))
        except RelgraphError as error:
            reasons.append(str(error))
    for path, contents in sorted(found, key=lambda item: (-item[1].views, item[0])):
        try:
            return fitting_store(wanted, path, contents), []
        except RelgraphError as error:
            asked = (str(wanted.recipe.dataset), str(wanted.recipe.teacher))
            if path == folder or (contents.dataset, contents.teacher) == asked:
                reasons.append(str(error))
    return None, reasons


def fitting_store(wanted: Wanted, path: Path, contents: Contents) -> EmbeddingStore:
    """Return the store at a path if it holds a run's training images, embedded by its teacher.

    Raises:
        RelgraphError: if it does not, or is not finished or damaged.
    """
    # The cheap comparisons come first, the teacher runs last.
    check_complete(path, contents)
    _check_contents(wanted, path, contents)

    def checked() -> EmbeddingStore:
        store = EmbeddingStore(path, wanted.device)
        _check_images(wanted, store)
        _check_values(wanted, store)
        return store

    return wanted.processes.all_or_none(checked)


def _check_contents(wanted: Wanted, path: Path, contents: Contents) -> None:
    if int(wanted.data.train.index.max()) >= contents.images:
        raise RelgraphError(f"{path} does not fit: it has {contents.images} images, the training set has more")
    if wanted.recipe.views == "shared" and contents.views < 2:
        raise RelgraphError(
            f"{path} has one view an image, which as the shared one would leave the student without augmentation: "
            "use --views independent, or relgraph embed --views N"
        )
    for name, here in wanted.facts.items():
        stored = getattr(contents, name)
        if stored != here:
            told = f"{FACTS[name]}: {_short(stored)} in the store, {_short(here)} in this run"
            raise RelgraphError(f"{path} does not fit: {told}")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 64 else f"{text[:12]}..."


def _check_images(wanted: Wanted, store: EmbeddingStore) -> None:
    train = wanted.data.train
    changed = store.first_changed(train, wanted.processes)
    if changed is not None:
        files = train.images
        where = f" ({os.fsdecode(files.names[changed])})" if isinstance(files, ImageFiles) else ""
        raise RelgraphError(
            f"{store.path} does not fit: image {int(train.index[changed])}{where} of the training split is another one "
            "there; if the images have changed, delete the store and run relgraph embed again"
        )


def _check_values(wanted: Wanted, store: EmbeddingStore) -> None:
    """Compute a few of the store's embeddings anew, spread over images and views, and compare them."""
    train, contents = wanted.data.train, store.contents
    position = torch.arange(min(SAMPLE, len(train))) * len(train) // min(SAMPLE, len(train))
    index = train.index.cpu()[position].to(wanted.device)
    view = (torch.arange(len(position)) % contents.views).to(wanted.device)
    images = train.select(position).sample(len(position)).to(wanted.device)
    seen = store.views().take(view, index).apply(images)
    prepare = Normalise(contents.mean, contents.std, size=contents.input_size, device=wanted.device)
    # In the store's precision: what the run computes in changes the values by more than another machine does.
    with torch.autocast(wanted.device.type, torch.bfloat16, enabled=contents.precision == "bf16-mixed"):
        found = wanted.teacher(prepare(seen))
    stored = store.rows(view, index)
    error = (found - stored).norm(dim=1) / stored.norm(dim=1).clamp_min(torch.finfo(stored.dtype).tiny)
    worst, tolerance = int(error.argmax()), TOLERANCE.get(contents.precision, max(TOLERANCE.values()))
    if not bool((error <= tolerance).all()):
        raise RelgraphError(
            f"{store.path} does not fit: computed anew, view {int(view[worst])} of image {int(index[worst])} differs "
            f"by {100 * float(error[worst]):.0f} % from what is stored, expected at most {100 * tolerance:.0f} %"
        )


TRIED = 32  # images of a trial of threads
NAME_LIMIT = 150  # characters of a default name before what sets it apart; file systems take 255 bytes
# Options of which another value makes another store, besides the teacher's arguments, whose order makes none.
DISTINGUISHING = (
    "dataset", "image_size", "images", "unlabelled", "test_fraction", "split_seed", "holdout_classes", "teacher",
    "teacher_weights", "teacher_size", "teacher_mean", "teacher_std",
)  # fmt: skip
Embed = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Embedded:
    """A finished store.

    Attributes:
        contents: what is in it.
        images: how many of its images were embedded now; the others had been before.
        seconds: how long that took.
        index: spelling of the transform with which it answers queries as an index.
    """

    contents: Contents
    images: int
    seconds: float
    index: str


def store_embeddings(
    recipe: Recipe, path: Path, *, views: int, dtype: str = "float32", seed: int = 0, batch_size: int = 256,
    index: str | None = None,
) -> Embedded:  # fmt: skip
    """Write the recipe's teacher's embeddings of its original training split to `path`, or continue to.

    All images are embedded, those that a run would hold out as well, so that every seed, `val_fraction`, choice of
    labels and of held-out classes can use the store. Of a data set without a test split that is all but the test images
    that are drawn, and with `holdout_classes`, for which none are drawn, all. An interrupt loses the shard that is
    being computed. Of several processes each writes its share of the shards, and what they hold does not depend on
    their number; the first one begins the store, and ends it.

    Args:
        recipe: Of which the options of `relgraph embed` count.
        path: Directory of the store.
        views: Of each image.
        dtype: Of the stored numbers.
        seed: Of the crops and flips.
        batch_size: Images at a time.
        index: Spelling of the transform with which the store answers queries, beside its rows (see `fit_index`).

    Raises:
        RelgraphError: if the recipe's names are unknown, a number is out of range, something else is at `path`, or the
            embeddings are not finite.
    """
    if views < 1 or batch_size < 1 or dtype not in DTYPES:
        raise RelgraphError(
            "views and batch_size must be at least 1 and dtype float32 or float16, "
            f"got {views}, {batch_size} and {dtype!r}"
        )
    if index is not None:
        index_transform(index)  # before hours are spent
    check_place(path)
    fabric, data = open_fabric(recipe), load_data(whole_splits(recipe))
    processes = ProcessGroup.current()
    data = replace(data, train=joined(data)) if data.unseen else data
    precision = str(fabric.strategy.precision.precision)
    teacher = open_teacher(recipe).to(fabric.device).hold(precision)
    with ExitStack() as held:
        processes.all_or_none(lambda: _hold(path, held) if processes.first else None)
        record = ImageRecord.of(data.train, processes)
        known = processes.agreed(record.sha256)
        contents = _contents(recipe, data, teacher, known, dtype=dtype, precision=precision, views=views, seed=seed)
        writer, embed = StoreWriter(path, contents, record, processes), _embedder(contents, teacher, fabric)
        if writer.missing and fabric.device.type == "cpu":
            recipe = try_threads(recipe, data.train, embed, batch_size, processes)
        start = time.perf_counter()
        _write(writer, data.train, embed, batch_size, recipe.processes)
        processes.wait()  # not before an error is told: the others may have hours of work left
        seconds = time.perf_counter() - start
        found = processes.all_or_none(lambda: fit_index(path, index) if processes.first else "")
        return Embedded(contents, writer.images, seconds, processes.agreed(found))


def _hold(path: Path, held: ExitStack) -> None:
    """Make the directory of a store, and keep other programs from writing to it."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    held.enter_context(locked(path))


def _contents(
    recipe: Recipe, data: DataSet, teacher: Teacher, checksums: str, *, dtype: str, precision: str, views: int,
    seed: int,
) -> Contents:  # fmt: skip
    count = len(data.train)
    return Contents(
        dataset=str(recipe.dataset), images=count, checksums=checksums, teacher=str(recipe.teacher), dtype=dtype,
        precision=precision, views=views, view_seed=seed,
        images_per_shard=images_per_shard(count, views * teacher.width * DTYPES[dtype].itemsize),
        **facts(recipe, data, teacher),
    )  # fmt: skip


def try_threads(
    recipe: Recipe, images: ImageSet, embed: Embed, batch_size: int, processes: ProcessGroup = SINGLE_PROCESS
) -> Recipe:
    """Set the recipe's number of threads, tell what there is to say of it, and return the recipe with that number."""
    few = torch.arange(min(TRIED, batch_size, len(images)))
    pixels = images.select(few).sample(len(few))
    recipe, line = with_threads(recipe, lambda: embed(pixels, few), processes)
    if line and processes.first:
        tell(line.strip())
    return recipe


def default_path(recipe: Recipe, views: int, dtype: str = "float32", seed: int = 0) -> Path:
    """Return where the embeddings of a recipe's data set by its teacher are stored by default.

    The name ends with a digest of all that makes another store, such as the teacher's arguments and size.

    >>> default_path(Recipe(dataset="folder:/photos/birds", teacher="open_clip:ViT-B-32/openai"), 4).as_posix()[:-8]
    'embeddings/birds-open_clip-ViT-B-32-openai-4views-'
    """
    options = recipe.plain()
    own = {name: options[name] for name in DISTINGUISHING}
    # The precision that is meant by auto, which is another one on another machine.
    text = json.dumps([own, sorted(recipe.teacher_args), precision_of(recipe), views, dtype, seed], sort_keys=True)
    told = f"{dataset(recipe.dataset).short_name}-{recipe.teacher}"
    name = re.sub(r"[^\w.]+", "-", told, flags=re.ASCII).strip("-.")[:NAME_LIMIT]
    ending = f"{views}view{'s' if views > 1 else ''}-{digest(text.encode())[:8]}"
    return Path(recipe.embeddings) / f"{name}-{ending}".lstrip("-")


def whole_splits(recipe: Recipe) -> Recipe:
    """Return what `relgraph embed` reads of a recipe, with the original splits in one piece."""
    own = {name: getattr(recipe, name) for name in EMBED_OPTIONS}
    return Recipe(**own, val_fraction=0.0, select="test", method="seed")


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


def _write(writer: StoreWriter, images: ImageSet, embed: Embed, batch_size: int, workers: int) -> None:
    """Write the missing shards of this process; the first one shows how far all of them should be.

    No batch reaches across a shard's border: what is in a shard does not depend on where an earlier run was stopped,
    nor on the number of processes.
    """
    contents, processes, done = writer.contents, writer.processes, writer.contents.images - writer.images
    parts = [(shard, part) for shard in writer.own for part in torch.split(contents.positions(shard), batch_size)]
    hidden, rows = no_bar(shown=processes.first), torch.empty(0)
    with (
        closing(images.batches([part for _, part in parts], workers)) as batches,
        tqdm(desc="embed", initial=done, total=contents.images, unit="img", disable=hidden) as bar,
    ):
        for (shard, part), pixels in zip(parts, batches, strict=True):
            positions = contents.positions(shard)
            if part[0] == positions[0]:
                rows = torch.empty(len(positions), contents.views, contents.width)
            rows[part - positions[0]] = embed(pixels, part)
            done = min(contents.images, done + processes.count * len(part))
            bar.update(done - bar.n)
            if part[-1] == positions[-1]:
                writer.write(shard, rows)
