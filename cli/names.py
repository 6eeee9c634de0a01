"""relgraph students."""

import click

OTHERS = """
Also: timm:MODEL and torchvision:MODEL, any of their image classification networks, untrained
(relgraph students timm: lists them); timm:MODEL.TAG and torchvision:MODEL/WEIGHTS start from
published weights (relgraph teachers timm: lists them)."""


@click.command()
@click.argument("pattern", required=False)
def students(pattern: str | None) -> None:
    """List the networks that --student takes, with what they cost without a classifier.

    Width is the length of the pooled vector; MACs are millions of multiply-accumulates in the convolutions, for one
    image of 32 x 32 pixels. All read any size from 8 x 8 pixels, and any number of channels.

    \b
    Examples:
      relgraph students wrn                                    those whose name contains it
      relgraph students 'resnet*x4'                            wildcards stand for the whole name
      relgraph students 'timm:*vit*tiny*'
      relgraph students torchvision:mobilenet
    """
    from relgraph.networks.catalogue import student_names
    from relgraph.networks.students import STUDENTS

    from .show import say, say_all, say_registered, table

    names = student_names(pattern or "*")
    if names[0] not in STUDENTS:
        say(*names)
        return
    listed = ((name, STUDENTS[name]) for name in names)
    rows = [[name, f"{s.parameters:,}", str(s.width), f"{s.operations / 1e6:,.1f}"] for name, s in listed]
    say_all(table(["student", "parameters", "width", "MACs (M)"], rows))
    if pattern is None:
        say_all(OTHERS)
        say_registered("students")
