"""What distils a small network for road scenes? CamVid, all labels and 12 labelled images, the student alone beside.

    python experiments/camvid.py --data data/camvid --weights data/mobilenetv2_100_imagenet.fp16.safetensors \
        --config experiments/camvid.yaml --minutes 60 --out experiments/results/camvid.json

The teacher is a MobileNetV2 that was trained on ImageNet, with the light head, fine-tuned here with all labels; the
student, from scratch, a ResNet-18 of a quarter of its width and a stride of 16, with the same head. Every method has
the same images, optimiser, schedule, number of steps and seeds, and its default weight, but 0.01 of holistic. Where
12 images have labels, three quarters of each batch are of these, also for the student alone. Figures are those of the
last epoch on the test images, at 480 x 360. `--data` has images/, labels/ and classes.txt (docs/data-and-runs.md). A
run whose figures are in --out already, of the same options, is not made again; one that is in --runs is resumed or
read.
"""

import json
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click
import torch
from PIL import Image
from safetensors.torch import load_file as load
from safetensors.torch import save
from torch import nn
from torchvision.transforms.functional import pil_to_tensor

from compare import known, trained
from relgraph.files import read_yaml, write_atomically
from relgraph.own_code import permitting
from relgraph.training.runs import environment

METHODS: dict[str, dict[str, Any]] = {
    "alone": {"method": "none"},
    "pixel": {"method": "pixelwise"},
    "pixel + pair": {"method": "pixelwise+pairwise"},
    "pixel + pair + holistic": {"method": "pixelwise+pairwise+0.01*holistic"},
    "cwd": {"method": "cwd"},
    "gram": {"method": "gram"},
}
# With 12, three quarters of a batch are labelled images, and an epoch goes once through the others: 177 steps, not 45.
LABELS: dict[str, dict[str, Any]] = {
    "all labels": {}, "12 labelled": {"labelled_images": 12, "labelled_share": 0.75, "epochs": 5},
}  # fmt: skip
TEACHER: dict[str, Any] = {
    "method": "none", "student": f"{Path(__file__)}:mobilenet", "normalise": "student", "lr": 0.001,
    "student_stages": ("blocks.1", "blocks.2", "blocks.4", "blocks.6"),
}  # fmt: skip
STUDENT: dict[str, Any] = {
    "student": f"{Path(__file__)}:quarter", "student_stages": ("layer1", "layer2", "layer3", "layer4"),
}  # fmt: skip


def mobilenet(in_channels: int = 3) -> nn.Module:
    """Return timm's MobileNetV2 without its classifier, which pads images as TensorFlow does."""
    import timm

    return timm.create_model("mobilenetv2_100", num_classes=0, in_chans=in_channels, pad_type="same")


mobilenet.mean = mobilenet.std = (0.5, 0.5, 0.5)  # type: ignore[attr-defined]


@torch.no_grad()
def unfolded(weights: Path, data: Path, out: Path) -> Path:
    """Write the weights with batch norms that have the statistics of CamVid's images, and compute what they did.

    In the file they are folded into the convolutions, so that training by the statistics of a batch would begin with
    another function.
    """
    if out.exists():
        return out
    model = mobilenet().eval()
    given = {name: values.float() if values.is_floating_point() else values for name, values in load(weights).items()}
    model.load_state_dict({name: values for name, values in given.items() if not name.startswith("classifier.")})

    def calibrate(norm: nn.BatchNorm2d, inputs: tuple[torch.Tensor]) -> None:
        slope = norm.weight / (norm.running_var + norm.eps).sqrt()
        shift = norm.bias - norm.running_mean * slope
        var, middle = torch.var_mean(inputs[0], dim=(0, 2, 3))
        norm.running_mean, norm.running_var = middle, var
        norm.weight.copy_(slope * (var + norm.eps).sqrt())
        norm.bias.copy_(shift + slope * middle)

    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.register_forward_pre_hook(calibrate)
    files = sorted((data / "images/train").iterdir())
    pixels = torch.stack(
        [pil_to_tensor(Image.open(file).convert("RGB")) for file in files[:: max(1, len(files) // 16)]]
    )
    model(pixels[..., ::2, ::2] / 127.5 - 1)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, save({name: values.contiguous() for name, values in model.state_dict().items()}))
    return out


def quarter(in_channels: int) -> nn.Module:
    """Return a ResNet-18 of a quarter of its width behind the stem, whose last map has a sixteenth of the height."""
    from timm.models.resnet import BasicBlock, ResNet

    return ResNet(
        BasicBlock, [2, 2, 2, 2], num_classes=0, in_chans=in_channels, channels=(16, 32, 64, 128), output_stride=16
    )


def summary(results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return mean and deviation over seeds of the mIoU and the pixel accuracy."""
    return {
        name: {"n": len(runs)}
        | {
            figure: [round(mean(values), 2), round(stdev(values), 2) if len(values) > 1 else None]
            for figure in ("miou", "pixel_accuracy")
            for values in [[run[figure] for run in runs]]
        }
        for name, runs in results.items()
    }


@click.command(help=__doc__)
@click.option("--data", required=True, type=click.Path(path_type=Path), help="The folder of CamVid.")
@click.option("--weights", required=True, type=click.Path(path_type=Path), help="The teacher's, of timm.")
@click.option("--config", required=True, type=click.Path(path_type=Path), help="Options of relgraph train.")
@click.option("--methods", default=",".join(METHODS), show_default=True)
@click.option("--labels", default=",".join(LABELS), show_default=True)
@click.option("--seeds", default=2, show_default=True, type=click.IntRange(min=1))
@click.option("--minutes", default=600.0, show_default=True, help="No run is begun after that many.")
@click.option("--runs", default="runs/camvid", show_default=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path))
def main(
    data: Path, weights: Path, config: Path, methods: str, labels: str, seeds: int, minutes: float, runs: Path,
    out: Path,
) -> None:  # fmt: skip
    end, options = time.monotonic() + 60 * minutes, read_yaml(config)
    networks = {name: {**part, "student": Path(part["student"]).name}  # the folder of this file is of one machine
                for name, part in (("teacher", TEACHER), ("student", STUDENT))}  # fmt: skip
    told = {"options": options, "methods": METHODS, "labels": LABELS, **networks}
    results, here = known(out, told), {**options, "dataset": f"folder:{data}"}

    def measured(own: dict[str, Any], path: Path, key: str, seed: int) -> None:
        if any(row["seed"] == seed for row in results.get(key, [])):
            return
        result = trained({**here, **own, "seed": seed}, path)
        row = {"seed": seed, **result["test"]["last"], "images_per_s": result["images_per_s"]}
        results.setdefault(key, []).append(row)
        report = {"environment": environment(0), **told, "summary": summary(results), "runs": results}
        write_atomically(out, (json.dumps(report, indent=1) + "\n").encode())
        click.echo(f"{key}, seed {seed}: mIoU {row['miou']:.2f}, pixel accuracy {row['pixel_accuracy']:.2f}")

    with permitting([TEACHER["student"], STUDENT["student"]]):
        start = unfolded(weights, data, runs / "mobilenetv2.safetensors")
        measured({**TEACHER, "student_weights": str(start)}, runs / "teacher", "teacher", 0)
        distilled = {"teacher": f"checkpoint:{runs / 'teacher'}"}
        for seed in range(seeds):
            for few in labels.split(","):
                for name in methods.split(","):
                    if time.monotonic() > end:
                        click.echo("the time is over; the same command goes on")
                        return
                    own = {**STUDENT, **distilled, **LABELS[few], **METHODS[name]}
                    path = runs / f"{few}-{name}-seed{seed}".replace(" ", "-")
                    measured(own, path, f"{few}, {name}", seed)


if __name__ == "__main__":
    main()
