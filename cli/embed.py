"""relgraph embed."""

from contextlib import nullcontext
from pathlib import Path
from shlex import quote
from typing import Any

import click

from relgraph.training.recipe import EMBED_OPTIONS

from .launch import over_devices
from .options import ALLOW_CODE, recipe_options
from .running import removing_on_sigterm
from .show import say


@click.command()
@click.option(
    "--views", default=1, show_default=True, type=click.IntRange(min=1),
    help="Views of every image: the image itself, and a fixed crop and flip for each further one.",
)  # fmt: skip
@click.option("--dtype", default="float32", show_default=True, type=click.Choice(["float32", "float16"]),
              help="Type of the stored numbers; float16 halves the space.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of the crops and flips.")
@click.option("--batch-size", default=256, show_default=True, type=click.IntRange(min=1), help="Images at a time.")
@click.option("--index-transform", metavar="centre|pca:D|none",
              help="How the store answers queries: by directions about their mean, in D principal ones, or by plain "
              "cosines. Its rows stay.  [default: what the store has, centre for a new one]")  # fmt: skip
@click.option("-o", "--out", type=click.Path(),
              help="Directory of the store, or a table: FILE.parquet, .csv or .npy. "
              "[default: a store in the folder --embeddings]")  # fmt: skip
@click.option("--devices", type=click.IntRange(min=1),
              help="Processes, each with a GPU or with a share of the cores, that write a store, a shard at a time: it "
              "is the same for any number of them.  [default: 1]")  # fmt: skip
@click.option("--split", type=click.Choice(["train", "val", "test", "all"]), help="Images of a table. [default: all]")
@ALLOW_CODE
@recipe_options(*EMBED_OPTIONS)
def embed(out: str | None, split: Any, devices: int | None, **options: Any) -> None:
    """Store a teacher's embeddings of a training set, once for all runs that follow, or write a table of vectors.

    `relgraph train` with the same data set and teacher then reads them and the teacher need not run. All training
    images are embedded, so that every seed, validation split and choice of labels can use the store. When stopped, the
    same command continues.

    What is lost: a teacher that runs in every step is given fresh crops and flips each time; a store has a fixed few.
    With --views N and the student's `--views shared`, each step draws one of the N and the student is given the very
    same, so that its own augmentation shrinks to N views an image, the first without any crop. With the student's
    `--views independent` the student keeps fresh crops, and the teacher's embeddings are those of another view than
    the student's; one view, of the whole image, is then enough.

    A store is also an index, which `relgraph query` asks. --index-transform is what it does with a vector before two
    are compared by their cosine, with its own ones and with those of queries: fitted to the first view of all images.

    A table is for other programs: of any images, with or without labels, the name (the path within the folder of the
    data, or the position in the split), the split, the class and the vector. FILE.npy has float32 (N, D), and the names
    in FILE.names.txt. Image files are resized to the network's size without --image-size. The network may be a student:
    --teacher checkpoint:RUN, with --teacher-args output=embedding for the vectors that its method compared; of a RUN
    with --refine, FILE.parquet and .csv hold `refined` as well, each moved by its nearest in the table.

    \b
    Examples:
      relgraph embed --dataset digits --teacher embedded:digits --views 4
      relgraph embed --dataset cifar100 --teacher open_clip:ViT-B-32/openai
      relgraph train --dataset cifar100 --teacher open_clip:ViT-B-32/openai --views independent
      relgraph embed --dataset folder:photos --teacher checkpoint:runs/NAME --teacher-args output=embedding -o v.parquet
      relgraph embed --dataset cifar100 --teacher timm:vit_small_patch16_224.dino --split test -o dino.npy
      relgraph embed --devices 4 --dataset folder:photos --image-size 224 --teacher timm:vit_base_patch16_224.dino
      torchrun --nproc-per-node 4 -m relgraph embed ...        the same by torchrun, on several machines too
    """
    from relgraph import api
    from relgraph.deploy.vector_table import is_table
    from relgraph.training.recipe import resolve
    from relgraph.training.stores import default_path

    given = {name: value for name, value in options.items() if value is not None}
    recipe = resolve({name: value for name, value in given.items() if name in EMBED_OPTIONS})
    own = {name: options[name] for name in ("views", "dtype", "seed")}
    table = is_table(out, split, **own, index_transform=options["index_transform"])
    if table and devices is not None and devices > 1:
        raise click.UsageError(f"--devices is for stores: a table, {out}, is written by one process")
    path = Path(out) if out else default_path(recipe, **own)
    with over_devices(devices):
        say(f"{recipe.dataset} by {recipe.teacher} -> {path}")
        if not table and options["views"] == 1:  # told before hours are spent on it
            say("one view an image is for relgraph train --views independent; for its default, shared: --views N")
        try:
            with removing_on_sigterm() if table else nullcontext():  # of a store nothing is to be removed
                done: Any = api.embed(out=out or path, split=split, **given)
        except KeyboardInterrupt:
            if table:
                raise
            say("", "stopped; finished shards are kept, the same command continues", err=True)
            raise SystemExit(130) from None
        say(*_summary(path, done, table))


def _summary(path: Path, done: Any, table: bool) -> list[str]:
    name = quote(str(path))
    if table:
        speed = f"{done.images / done.seconds:.0f} images/s, in {done.precision}"
        return [f"{name}: {done.images} images x {done.width}; {speed}"]
    found = done.contents
    views = f"{found.views} view{'s' if found.views > 1 else ''}"
    size = f"{found.images} images x {views} x {found.width}, {found.dtype}, {found.bytes / 1e6:.1f} MB"
    if done.images == 0:
        return [f"{name} was finished already: {size}", f"as an index: {done.index}"]
    # Every view of an image goes through the teacher on its own.
    speed = f"{done.images * found.views / done.seconds:.0f} images/s through the teacher, in {found.precision}"
    return [f"{name}: {size}; {speed}", f"as an index: {done.index}"]
