"""Images of noise in folders."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def write_image(file: Path, size: tuple[int, int] = (8, 8), seed: int = 0) -> np.ndarray:
    """Write an image of so many pixels, width first, and return them as (H, W, 3)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)
    return pixels


def write_folder(
    root: Path, counts: dict[str, int], classes: Sequence[str] = ("cat", "dog"), size: tuple[int, int] = (8, 8)
) -> Path:
    """Write so many images for each class of each split, no two of them alike, and return their folder."""
    files = (root / split / name / f"{i}.png" for split in counts for name in classes for i in range(counts[split]))
    for seed, file in enumerate(files):
        write_image(file, size, seed)
    return root
