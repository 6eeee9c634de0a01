"""relgraph pretrain."""

from pathlib import Path
from shlex import quote
from typing import Any

import click

from .options import from_file, pretraining_options
from .show import table
from .stopping import stoppable

EPILOG = """\b
Examples:
  relgraph pretrain                                        the teacher that comes with the package, on digits
  relgraph pretrain --dataset folder:photos --image-size 64 --network resnet20
  relgraph pretrain --objective moco --queue 4096 --key-momentum 0.99 --dataset cifar100 --network wrn_16_2
  relgraph train --dataset cifar100 --teacher checkpoint:runs/NAME --student resnet8
  relgraph train --dataset cifar100 --teacher checkpoint:runs/NAME --student resnet8 --method seed
  relgraph pretrain --objective sskd-head --dataset cifar100 --teacher checkpoint:runs/TEACHER
  relgraph train --dataset cifar100 --teacher checkpoint:runs/TEACHER --method sskd --ss-head runs/HEAD
  relgraph pretrain --resume runs/NAME
"""


@click.command(epilog=EPILOG)
@click.option("--out", type=click.Path(path_type=Path), help="Run directory. [default: a new one under runs/]")
@click.option(
    "--resume", type=click.Path(path_type=Path), metavar="RUN", help="Continue a stopped run as if it had not stopped."
)
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.yaml",
              help="Options from a file, as recipe.yaml of a run; those on the command line win.")  # fmt: skip
@pretraining_options
@click.pass_context
def pretrain(ctx: click.Context, /, out: Path | None, resume: Path | None, config: Path | None, **options: Any) -> None:
    """Train a teacher without labels: two random views of an image find each other.

    Any folder of images will do. Labels, where there are some, serve the k-NN accuracy alone, which shows how far the
    training has come. The run is a teacher for `relgraph train`: --teacher checkpoint:RUN gives the pooled features,
    with --teacher-args output=projection the vectors that were contrasted.

    The objective sskd-head trains no network but the self-supervision head that SSKD reads of a given teacher.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if resume is not None and (given or config or out):
        raise click.UsageError("--resume keeps the recipe of the run: give no other option with it")
    from relgraph.errors import RelgraphError
    from relgraph.training.pretrain_recipe import PretrainRecipe, resolve_pretraining
    from relgraph.training.runs import Run, free_name

    if resume is not None:
        stored = Run.open(resume).stored()
        if not isinstance(stored, PretrainRecipe):
            raise RelgraphError(
                f"{resume} is a run of relgraph train: continue it with relgraph train --resume {resume}"
            )
        recipe, path = stored, resume
    else:
        recipe = resolve_pretraining({**({} if config is None else from_file(ctx, config)), **given})
        path = out or free_name(Path("runs"), recipe)
    subject = f"a head for {recipe.teacher}" if recipe.teacher else recipe.network
    epochs = f"{recipe.epochs} epoch{'s' if recipe.epochs != 1 else ''}"
    click.echo(f"{recipe.dataset}: {subject} by {recipe.objective}, {epochs} -> {path}")
    _run(recipe, path, resume is not None)


def _run(recipe: Any, path: Path, resume: bool) -> None:
    from relgraph.analysis.plots import learning_curve
    from relgraph.training.pretraining import pretrain as train

    with stoppable("pretrain", path):
        result = train(recipe, path, resume=resume)
        learning_curve(path)
    if recipe.objective == "sskd-head":
        teacher, head = quote(recipe.teacher), quote(str(path))
        click.echo(f"next: relgraph train --method sskd --teacher {teacher} --ss-head {head} ...")
        return
    if result["test"]:
        names = {"knn": "k-NN %", "linear": "linear probe %"}
        columns = [name for name in names if name in result["test"]]
        networks = {recipe.network: result["test"], f"{recipe.network}, untrained": result["test_untrained"]}
        rows = [[network, *(found[name] for name in columns)] for network, found in networks.items()]
        click.echo(table(["features on the test split", *(names[name] for name in columns)], rows))
    click.echo(f"next: relgraph train --teacher checkpoint:{quote(str(path))} ...")
