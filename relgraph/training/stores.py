"""Which store of embeddings fits a run: its teacher, its images, its views, and a few values computed anew."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from relgraph.data.datasets import DataSet
from relgraph.data.embeddings import EmbeddingStore, check_complete, first_changed
from relgraph.data.images import ImageFiles
from relgraph.data.manifest import Contents, Manifest, manifest_file
from relgraph.data.views import Normalise
from relgraph.errors import RelgraphError
from relgraph.networks.teachers import Teacher
from relgraph.training.recipe import Recipe

SAMPLE = 16  # images whose embeddings are computed anew: a moment, and a wrong order or crop shows in every row

# The largest ||found - stored|| / ||stored|| of a row, by the precision of the store. With a MobileNetV2 on 48 images
# of Tiny-ImageNet, rounding to TF32 is at most 0.004 from float32, and bfloat16 0.05 to 0.12, so two machines' bfloat16
# at most twice that from each other. The image moved by one pixel is 0.11 to 0.25 away, mirrored 0.25 to 0.6, another
# image 0.75 to 1.2, and the sample has several.
TOLERANCE = {"32-true": 0.05, "bf16-mixed": 0.2}


@dataclass(frozen=True, eq=False)
class Wanted:
    """A run that needs its teacher's embeddings."""

    recipe: Recipe
    data: DataSet
    teacher: Teacher
    device: torch.device

    @cached_property
    def fingerprint(self) -> str:
        """The teacher's fingerprint."""
        return self.teacher.fingerprint()

    @cached_property
    def checksums(self) -> Tensor:
        """The checksums of the training images."""
        return self.data.train.checksums()


def find_store(wanted: Wanted) -> tuple[EmbeddingStore | None, list[str]]:
    """Return the first store in the recipe's folder that fits, those with more views first, and why others do not.

    The folder may be a store itself. Stores of other data sets or teachers are skipped silently.
    """
    folder, reasons = Path(wanted.recipe.embeddings), []
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    found = []
    for path in [folder] if _is_store(folder) else filter(_is_store, inside):
        try:
            found.append((path, Manifest.read(path)))
        except RelgraphError as error:
            reasons.append(str(error))
    for path, manifest in sorted(found, key=lambda item: (-item[1].contents.views, item[0])):
        contents = manifest.contents
        try:  # the cheap comparisons come first, the teacher runs last
            check_complete(path, manifest)
            _check_contents(wanted, path, contents)
            store = EmbeddingStore(path, wanted.device)
            _check_images(wanted, store)
            _check_values(wanted, store)
            return store, []
        except RelgraphError as error:
            asked = (wanted.recipe.dataset, wanted.recipe.teacher)
            if path == folder or (contents.dataset, contents.teacher) == asked:
                reasons.append(str(error))
    return None, reasons


def _is_store(path: Path) -> bool:
    return manifest_file(path).is_file()


def _check_contents(wanted: Wanted, path: Path, contents: Contents) -> None:
    images, most = wanted.data.train.images, int(wanted.data.train.index.max())
    if most >= contents.images:
        raise RelgraphError(f"{path} does not fit: it has {contents.images} images, the training set has more")
    if wanted.recipe.views == "shared" and contents.views < 2:
        raise RelgraphError(
            f"{path} has one view an image, which as the shared one would leave the student without augmentation: "
            "use --views independent, or relgraph embed --views N"
        )
    teacher = wanted.teacher
    for what, stored, here in (
        ("the shape of an image", contents.image_shape, tuple(images.shape[1:])),
        ("whether images are streamed", contents.streamed, isinstance(images, ImageFiles)),
        ("the black pixels around an image", contents.crop_padding, wanted.data.crop_padding),
        ("whether crops are mirrored", contents.flip, wanted.data.flip),
        ("the teacher's input size", contents.input_size, teacher.input_size),
        ("the teacher's mean", contents.mean, teacher.mean),
        ("the teacher's std", contents.std, teacher.std),
        ("the teacher's arguments", contents.arguments, tuple(sorted(wanted.recipe.teacher_args))),
        ("the teacher's width", contents.width, teacher.width),
        ("the SHA-256 of the teacher's weights", contents.fingerprint, wanted.fingerprint),
    ):
        if stored != here:
            raise RelgraphError(
                f"{path} does not fit: {what}: {_short(stored)} in the store, {_short(here)} in this run"
            )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 64 else f"{text[:12]}..."


def _check_images(wanted: Wanted, store: EmbeddingStore) -> None:
    index = wanted.data.train.index.cpu()
    changed = first_changed(store.checksums[index], wanted.checksums)
    if changed is not None:
        raise RelgraphError(
            f"{store.path} does not fit: image {int(index[changed])} of the training split is another one there; "
            "if the images have changed, delete the store and run relgraph embed again"
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
