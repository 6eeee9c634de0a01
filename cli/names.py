"""Lists of names."""

import click


@click.command()
def students() -> None:
    """List the student networks, with parameters and width of the backbone."""
    from relgraph.networks.students import RESNETS, build_backbone

    from .show import table

    rows = []
    for name in RESNETS:
        backbone = build_backbone(name)
        rows.append([name, f"{sum(p.numel() for p in backbone.parameters()):,}", str(backbone.width)])
    click.echo(table(["student", "parameters", "width"], rows))
