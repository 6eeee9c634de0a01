"""relgraph pretrain."""

from pathlib import Path
from shlex import quote
from typing import Any

import click

from relgraph.training.pretrain_recipe import PretrainRecipe, resolve_pretraining

from .groups import Grouped
from .options import DEVICES, given_options, pretraining_options, refuse_beside_resume, run_options
from .running import run
from .show import accuracies, say, say_all


@click.command(cls=Grouped)
@run_options
@DEVICES
@pretraining_options
def pretrain(out: Path | None, resume: Path | None, devices: int | None, allow_code: bool, **options: Any) -> None:
    """Train a teacher without labels: two random views of an image find each other.

    Any folder of images will do. Labels, where there are some, serve the k-NN accuracy alone, which shows how far the
    training has come. The run is a teacher for `relgraph train`: --teacher checkpoint:RUN gives the pooled features,
    with --teacher-args output=projection the vectors that were contrasted.

    The objective sskd-head trains no network but the self-supervision head that SSKD reads of a given teacher.

    \b
    Examples:
      relgraph pretrain                                        the teacher that comes with the package, on digits
      relgraph pretrain --dataset folder:photos --image-size 64 --network resnet20
      relgraph pretrain --objective moco --queue 4096 --key-momentum 0.99 --dataset cifar100 --network wrn_16_2
      relgraph train --dataset cifar100 --teacher checkpoint:runs/NAME --student resnet8
      relgraph train --dataset cifar100 --teacher checkpoint:runs/NAME --student resnet8 --method seed
      relgraph pretrain --objective sskd-head --dataset cifar100 --teacher checkpoint:runs/TEACHER
      relgraph train --dataset cifar100 --teacher checkpoint:runs/TEACHER --method sskd --ss-head runs/HEAD
      relgraph pretrain --devices 4 --batch-size 1024 --dataset folder:photos --image-size 64    one loss over four
      relgraph pretrain --resume runs/NAME
    """
    refuse_beside_resume(resume, options, out)
    from relgraph.own_code import permitting
    from relgraph.training.runs import RunDirectory

    with permitting(everything=allow_code):
        given = given_options(PretrainRecipe, options)
        recipe = resolve_pretraining(given) if resume is None else RunDirectory.open(resume).pretraining(given)
    subject = f"a head for {recipe.teacher}" if recipe.teacher else recipe.network
    epochs = f"{recipe.epochs} epoch{'s' if recipe.epochs != 1 else ''}"
    told = f"{recipe.dataset}: {subject} by {recipe.objective}, {epochs}"
    done = run("pretrain", recipe, told, out, resume, devices, allow_code)
    if done is not None:
        _tell(recipe, *done)


def _tell(recipe: PretrainRecipe, result: dict[str, Any], path: Path) -> None:
    if recipe.teacher is not None:
        teacher, head = quote(str(recipe.teacher)), quote(str(path))
        say(f"next: relgraph train --method sskd --teacher {teacher} --ss-head {head} ...")
        return
    if result["test"]:
        networks = {str(recipe.network): result["test"], f"{recipe.network}, untrained": result["test_untrained"]}
        say_all(accuracies("features on the test split", networks))
    say(f"next: relgraph train --teacher checkpoint:{quote(str(path))} ...")
