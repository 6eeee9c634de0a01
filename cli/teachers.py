"""relgraph teachers."""

import click

from .show import columns, say, say_all, say_registered

# By source: the form of its teachers' names, and their kind.
SPELLINGS = {
    "embedded": ("embedded:NAME", "a small self-supervised network that comes with the package"),
    "open_clip": ("open_clip:NAME/WEIGHTS", "image side of a CLIP"),
    "repdistiller": ("repdistiller:NAME", "of the CIFAR benchmark, as RepDistiller and mdistiller published them"),
    "timm": ("timm:NAME[.WEIGHTS]", "an image model of timm, up to its classifier"),
    "torchvision": ("torchvision:NAME[/WEIGHTS]", "a classification network of torchvision, up to its classifier"),
}
SELF_SUPERVISED = (
    ("embedded:digits", "SimCLR on scikit-learn's digits, the teacher of the offline example"),
    ("open_clip:ViT-B-32/openai", "CLIP, as in the EGA paper"),
    ("open_clip:RN50/openai", "CLIP with a ResNet-50"),
    ("timm:vit_small_patch16_224.dino", "DINO"),
    ("timm:vit_small_patch14_dinov2.lvd142m", "DINOv2"),
    ("timm:vit_base_patch16_224.mae", "masked autoencoder (MAE)"),
)


@click.command()
@click.argument("pattern", required=False)
def teachers(pattern: str | None) -> None:
    """List the teachers that --teacher takes, with their input size and where their weights are published.

    Nothing is downloaded. On a machine without a network, pass a file that was downloaded elsewhere with
    --teacher-weights FILE.

    \b
    Examples:
      relgraph teachers                                        the sources, and some that learned without labels
      relgraph teachers dinov2                                 all whose spelling contains it
      relgraph teachers 'open_clip:*ViT-B-32*'                 wildcards stand for the whole spelling
      relgraph teachers 'timm:vit_*.mae'
      relgraph teachers torchvision:resnet50
    """
    if pattern is None:
        _overview()
        return
    from relgraph.networks.catalogue import find_teachers

    rows = []
    for teacher in find_teachers(pattern):
        size = f"{teacher.input_size} px" if teacher.input_size else "-"
        weights = f"{teacher.megabytes:.0f} MB" if teacher.megabytes else "-"
        rows.append([teacher.spec, size, weights, teacher.address or "-"])
    say_all(columns([["teacher", "images", "download", "published at"], *rows]))


def _overview() -> None:
    from relgraph.networks.catalogue import LISTS

    rows = [[SPELLINGS[source][0], str(len(listed())), SPELLINGS[source][1]] for source, listed in LISTS.items()]
    rows.append(["checkpoint:FILE", "-", "a student of relgraph: its file, or the directory of its run"])
    rows.append(["vectors:FILE", "-", "none: a file of its vectors of the training images, .npy or .parquet"])
    say_all(columns([["teacher", "weights", "network"], *rows]))
    say("", "trained without class labels, among others:")
    say_all(columns([["teacher", "method"], *SELF_SUPERVISED]))
    say_registered("teachers")
    say("", "names and sizes: relgraph teachers PATTERN, such as: relgraph teachers dinov2")
