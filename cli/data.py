"""relgraph data."""

from pathlib import Path

import click

from .show import say, say_all, say_registered, table

OWN = """\
Images of your own:

folder:PATH               PATH/train/CLASS/, with PATH/test/CLASS/, PATH/val/CLASS/ or both; or, with none of these
                          three folders, images without labels anywhere in PATH, for what needs no labels
classes:PATH              PATH/CLASS/, of which --test-fraction of every class becomes the test split, by --split-seed
csv:FILE                  a table with the columns path, label and, if it is split, split (train, val or test); paths
                          are within the folder of FILE, and a label that is empty is none
huggingface:NAME[/CONFIG] the columns image and label of a data set of the Hugging Face hub, by the package datasets
                          (pip install 'relgraph[huggingface]')

Images with a class for each pixel, in PNGs: folder:PATH with images/SPLIT/ and labels/SPLIT/, or SegNet's
SPLIT/ and SPLITannot/ (SPLIT is train, val or test), classes.txt beside them; csv:FILE with the column mask in place of
label; cityscapes:PATH, which has leftImg8bit/ and gtFine/. Numbers of --ignore are no class.

--unlabelled PATH adds all images in PATH, without labels, to the training images of any data set. Formats of files are
JPEG, PNG, WebP, AVIF, GIF, TIFF, BMP and PPM, what is left out is counted; sizes may differ with --image-size."""

# What needs no download: training and test images, classes, pixels, what it comes with, and its state.
HERE = {
    "digits": ("1,442", "355", "10", "8 x 8, grey", "scikit-learn", "ready"),
    "nuclei": ("400", "125", "3 of pixels", "64 x 64, grey", "relgraph", "ready"),
}


@click.command()
@click.option(
    "--root", type=click.Path(path_type=Path, file_okay=False), default="data", show_default=True,
    help="Folder in which downloaded data sets lie.",
)  # fmt: skip
@click.option(
    "--fetch", "names", multiple=True, metavar="NAME", help="Download this data set and check it; again for more."
)
def data(root: Path, names: tuple[str, ...]) -> None:
    """List the data sets of relgraph train, or download them.

    A download that was cut off goes on where it stopped. An archive (such as cifar-100-python.tar.gz) that you put into
    the folder yourself is used, and so is what torchvision has unpacked there.

    \b
    Examples:
      relgraph data                                 what is known, where it lies, and what is missing
      relgraph data --root /scratch/data            the same for another folder
      relgraph data --fetch cifar100                download it now, as for machines without a network
      relgraph data --fetch stl10 --fetch tiny-imagenet --root /scratch/data
    """
    root = root.expanduser()
    for name in names:
        say(f"{name}: {_fetch(name, root)}")
    if not names:
        say_all(_listing(root))
        say_registered("datasets")


def _fetch(name: str, root: Path) -> str:
    from relgraph.data.catalogue import PUBLISHED, SOURCES
    from relgraph.errors import unknown

    if name not in SOURCES:
        raise unknown("data set", name, SOURCES)
    if name not in PUBLISHED:
        return f"ready, it comes with {HERE[name][-2]}"
    folder = PUBLISHED[name].provide(root)
    return f"ready in {folder}, {PUBLISHED[name].check(root)}"


def _listing(root: Path) -> str:
    from relgraph.data.catalogue import PUBLISHED

    rows, notes = [[name, *told] for name, told in HERE.items()], []
    for name, source in PUBLISHED.items():
        facts, found = source.facts, source.state(root)
        train = f"{facts.train:,}" + (f" + {facts.unlabelled:,}" if facts.unlabelled else "")
        counts = [train, f"{facts.test:,}", f"{facts.classes}{' of pixels' * facts.of_pixels}"]
        pixels = f"{facts.pixels} x {facts.pixels}" if facts.pixels else "differ"
        rows.append([name, *counts, pixels, str(source.folder(root)), found.word])
        if found.word != "ready":
            notes.append(f"{name}: {found.word}: {found.detail}")
    if notes:
        notes.append("What is missing is downloaded by relgraph train, or now by relgraph data --fetch NAME.")
    text = table(["data set", "train", "test", "classes", "pixels", "where", "state"], rows)
    return "\n\n".join(filter(None, [text, "\n".join(notes), OWN]))
