"""relgraph train."""

from pathlib import Path
from shlex import quote
from typing import Any

import click

from relgraph.training.recipe import Recipe, resolve

from .groups import Grouped
from .options import DEVICES, given_options, recipe_options, refuse_beside_resume, run_options
from .running import run
from .show import accuracies, say, say_all


@click.command(cls=Grouped)
@run_options
@click.option(
    "--preset",
    help="A named set of options, which --config and others change: a published protocol (ega, crd, sskd, ...), "
    "digits or none; relgraph presets lists them.",
)
@click.option(
    "--clip_mode", metavar="NAME", help="The original's spelling of a CLIP teacher: RN50, RN101, ViT-B/32, ViT-B/16."
)
@DEVICES
@recipe_options()
def train(
    out: Path | None, resume: Path | None, clip_mode: str | None, devices: int | None, allow_code: bool, **options: Any
) -> None:
    """Train a student: views -> student and teacher -> graph pair -> matching -> loss.

    Without a data set, the offline example is trained: scikit-learn's digits with labels for a few images a class, and
    a teacher that was trained without labels and comes with the package.

    \b
    Examples:
      relgraph train --graph dense
      relgraph train --graph knn --k 8 --seed 1 --out runs/knn8
      relgraph train --method none                             the student alone, to compare with
      relgraph train --method rkd --graph knn                  another method (relgraph methods lists them)
      relgraph train --method crd+0.9*kd --gamma 0.1           a sum of methods, weights as spelled
      relgraph train --dataset cifar100 --clip_mode ViT-B/32 --preset ega
      relgraph train --dataset cifar100 --preset crd --teacher repdistiller:resnet32x4 --teacher-weights ckpt_240.pth
      relgraph train --dataset folder:photos --image-size 64 --teacher timm:vit_small_patch16_224.dino
      relgraph train --dataset stl10+unlabelled --teacher torchvision:resnet50 --student timm:mobilenetv3_small_050
      relgraph train --method seed                             without labels; then fine-tune what came of it:
      relgraph train --method none --init-from runs/NAME
      relgraph train --method sskd --ss-head runs/HEAD         few or wrong labels (see relgraph pretrain --help)
      relgraph train --student wrn_16_1 --label-fraction 0.1 --label-noise 0.2 --teacher-head sequential
      relgraph train --devices 2 --batch-size 128              one graph over two processes or GPUs
      relgraph train --batch-size 1024 --accumulate 8          a large graph on a small device
      torchrun --nproc-per-node 4 -m relgraph train            the same by torchrun, on several machines too
      relgraph train --config recipe.yaml --seed 2
      relgraph train --resume runs/knn8
    """
    refuse_beside_resume(resume, options, out, clip_mode)
    preset = options.pop("preset")
    if clip_mode is not None and options["teacher"] is not None:
        raise click.UsageError("--clip_mode names the teacher: give it or --teacher, not both")
    from relgraph.own_code import permitting
    from relgraph.training.runs import RunDirectory

    if clip_mode is not None:
        from relgraph.names import clip_spec

        options["teacher"] = clip_spec(clip_mode)
    with permitting(everything=allow_code):
        given = given_options(Recipe, options)
        recipe = resolve(given, preset) if resume is None else RunDirectory.open(resume).recipe(given)
    done = run("train", recipe, _summary(recipe), out, resume, devices, allow_code)
    if done is not None:
        _tell(*done)


def _summary(recipe: Recipe) -> str:
    graph = recipe.graph_in_use
    method = f"{recipe.method} on the graph {graph}" if graph else f"method {recipe.method}"
    others = f"from {recipe.teacher}, {method}" if recipe.uses_teacher else "without a teacher"
    return f"{recipe.dataset}: {recipe.student} {others}, {recipe.epochs} epoch{'s' if recipe.epochs > 1 else ''}"


def _tell(result: dict[str, Any], path: Path) -> None:
    epochs = {"last": result["epochs"], "best": result.get("best_epoch")}
    rows = {f"{which} epoch ({epochs[which]})": figures for which, figures in result["test"].items()}
    told = accuracies("student on the test split", rows)
    if told:
        say_all(told)
    following = "evaluate" if told else "report"  # without labels there are no accuracies, but graphs
    say(result["note"], f"next: relgraph {following} {quote(str(path))}")
