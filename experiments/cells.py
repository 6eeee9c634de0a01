"""A few minutes of segmentation: micrographs of cells, a student alone and with its teacher, 12 labelled images.

    make cells          or          python experiments/cells.py

The packaged data set `nuclei`; the teacher, a ResNet-20, was given all labels. Everything is written to runs/cells/,
and trained anew each time: report.html has the maps of classes of all networks beside each other.
"""

import shutil
from pathlib import Path
from typing import Any

import relgraph

OUT = Path("runs/cells")
FEW: dict[str, Any] = {"student": "resnet8", "labelled_images": 12}
TEACHER = f"checkpoint:{OUT / 'teacher'}"
# Directory of the run -> its name in the table, and its options.
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "teacher": ("teacher, resnet20, all labels", {"method": "none", "student": "resnet20"}),
    "alone": ("resnet8 alone", {"method": "none", **FEW}),
    "pixelwise": ("+ pixelwise", {"method": "pixelwise", "teacher": TEACHER, **FEW}),
    "pairwise": ("+ pixelwise + pairwise", {"method": "pixelwise+pairwise", "teacher": TEACHER, **FEW}),
}


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    runs = {
        name: relgraph.train(dataset="nuclei", epochs=10, select="last", out=OUT / name, **options)
        for name, (_, options) in RUNS.items()
    }
    students = [run for name, run in runs.items() if name != "teacher"]
    page = relgraph.report(students, OUT / "report.html")
    print(f"\n{'12 labelled images, one seed, in %':<36}{'mIoU':>8}{'pixels':>8}{'parameters':>14}")
    for name, run in runs.items():
        test, size = run.result["test"]["last"], sum(values.numel() for values in run.student().parameters())
        print(f"{RUNS[name][0]:<36}{test['miou']:>8.1f}{test['pixel_accuracy']:>8.1f}{size:>14,}")
    print(f"{page} shows the maps.")


if __name__ == "__main__":
    main()
