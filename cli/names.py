"""relgraph students."""

import click

EPILOG = """\b
Examples:
  relgraph students wrn                                    those whose name contains it
  relgraph students 'resnet*x4'                            wildcards stand for the whole name
  relgraph students 'timm:*vit*tiny*'
  relgraph students torchvision:mobilenet
"""

OTHERS = """
Also: timm:MODEL and torchvision:MODEL, any of their image classification networks, untrained
(relgraph students timm: lists them)."""


@click.command(epilog=EPILOG)
@click.argument("pattern", required=False)
def students(pattern: str | None) -> None:
    """List the networks that --student takes, with what they cost without a classifier.

    Width is the length of the pooled vector; MACs are millions of multiply-accumulates in the convolutions, for one
    image of 32 x 32 pixels. All read any size from 8 x 8 pixels, and any number of channels.
    """
    from relgraph.networks.catalogue import student_names
    from relgraph.networks.students import SIZES

    from .show import table

    names = student_names(pattern or "*")
    if names[0] not in SIZES:
        click.echo("\n".join(names))
        return
    rows = [[name, f"{SIZES[name][0]:,}", str(SIZES[name][1]), f"{SIZES[name][2] / 1e6:,.1f}"] for name in names]
    click.echo(table(["student", "parameters", "width", "MACs (M)"], rows))
    if pattern is None:
        click.echo(OTHERS)
