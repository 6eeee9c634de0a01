"""relgraph presets."""

from typing import Any

import click

from .show import columns, entry, say, say_all


@click.command()
@click.argument("name", required=False)
@click.option("--method", help="The method, where the protocol has several.")
@click.option("--student", help="The student, on which a learning rate may depend.")
def presets(name: str | None, method: str | None, student: str | None) -> None:
    """List the published protocols that --preset of relgraph train takes, or show one in full.

    A preset's options stand over the defaults, and what else is given on the command line or in --config over them.
    Data set, teacher and student are for you to name. The name of a method of RepDistiller stands for its benchmark
    with that method.

    \b
    Examples:
      relgraph presets                                         the list
      relgraph presets crd --student mobilenetv2               every option, and every difference that remains
      relgraph presets repdistiller --method crd+kd
      relgraph train --preset crd --dataset cifar100 --teacher repdistiller:resnet32x4 --teacher-weights ckpt_240.pth
    """
    from relgraph.training.presets import FAMILY, PRESETS, find_preset

    if name is None and (method is not None or student is not None):
        raise click.UsageError("--method and --student belong to one preset: name it")
    if name is None:
        found = {known: find_preset(known) for known in PRESETS if known not in FAMILY}
        say_all(columns([["preset", "what it is"], *([known, preset.about] for known, preset in found.items())]))
        say("", f"repdistiller with one of its methods: {', '.join(FAMILY)}")
        say("one in full, with what differs from the authors' protocol: relgraph presets NAME")
        return
    preset = find_preset(name, method, student)
    say_all(entry("preset", f"{name}: {preset.about}"))
    if preset.source:
        say_all(entry("source", preset.source))
    say("", "options:", *(f"  {_written(option, value)}" for option, value in preset.options.items()))
    if preset.differs:
        say("", "what differs from the authors' protocol:")
        for told in preset.differs:
            say_all(entry("  -", told, 4))


def _written(name: str, value: Any) -> str:
    """Return an option as the command line takes it."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag} {','.join(map(str, value)) if isinstance(value, tuple) else value}"
