"""relgraph pretrain."""

from pathlib import Path
from shlex import quote
from typing import Any

import click

from relgraph.errors import RelgraphError
from relgraph.training.pretrain_recipe import PretrainRecipe, resolve_pretraining

from .options import given_options, pretraining_options, refuse_beside_resume, run_options
from .show import accuracies, say, say_all
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
@run_options
@pretraining_options
def pretrain(out: Path | None, resume: Path | None, **options: Any) -> None:
    """Train a teacher without labels: two random views of an image find each other.

    Any folder of images will do. Labels, where there are some, serve the k-NN accuracy alone, which shows how far the
    training has come. The run is a teacher for `relgraph train`: --teacher checkpoint:RUN gives the pooled features,
    with --teacher-args output=projection the vectors that were contrasted.

    The objective sskd-head trains no network but the self-supervision head that SSKD reads of a given teacher.
    """
    refuse_beside_resume(resume, out, *options.values())
    from relgraph.training.runs import free_name

    recipe = resolve_pretraining(given_options(PretrainRecipe, options)) if resume is None else _stored(resume)
    path = resume or out or free_name(Path("runs"), recipe)
    subject = f"a head for {recipe.teacher}" if recipe.teacher else recipe.network
    epochs = f"{recipe.epochs} epoch{'s' if recipe.epochs != 1 else ''}"
    say(f"{recipe.dataset}: {subject} by {recipe.objective}, {epochs} -> {path}")
    _run(recipe, path, resume is not None, named=resume is None and out is None)


def _stored(path: Path) -> PretrainRecipe:
    from relgraph.training.runs import Run

    recipe = Run.open(path).stored()
    if not isinstance(recipe, PretrainRecipe):
        raise RelgraphError(f"{path} is a run of relgraph train: continue it with relgraph train --resume {path}")
    return recipe


def _run(recipe: PretrainRecipe, path: Path, resume: bool, *, named: bool) -> None:
    from relgraph.analysis.plots import learning_curve
    from relgraph.training.pretraining import pretrain as train

    with stoppable("pretrain", path, named=named):
        result = train(recipe, path, resume=resume)
        learning_curve(path)
    if recipe.teacher is not None:
        teacher, head = quote(recipe.teacher), quote(str(path))
        say(f"next: relgraph train --method sskd --teacher {teacher} --ss-head {head} ...")
        return
    if result["test"]:
        networks = {recipe.network: result["test"], f"{recipe.network}, untrained": result["test_untrained"]}
        say_all(accuracies("features on the test split", networks))
    say(f"next: relgraph train --teacher checkpoint:{quote(str(path))} ...")
