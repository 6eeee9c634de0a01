"""A student that is its teacher's own network, and starts from its weights, but reads a sixteenth of the pixels.

    python experiments/fewer_pixels.py --weights data/mobilenetv2_100_imagenet.fp16.safetensors \
        --config experiments/cifar100_fewer_pixels.yaml -o data/mobilenetv2_40.safetensors
    python experiments/retrieval.py --config experiments/cifar100_fewer_pixels.yaml \
        --students experiments/fewer_pixels.py:MobileNetV2 --methods csd --out experiments/results/fewer_pixels.json

The first command writes the weights that the second one's student starts from. Those of the teacher have no statistics
of a batch normalisation: these are folded into its convolutions. To train on, its normalisations get back means and
variances, of activations on training images at the student's size, with the weights and biases that undo them, so that
the network computes what it did.
"""

from pathlib import Path
from typing import Any

import click
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn.functional import interpolate

from relgraph.files import read_yaml, write_atomically
from relgraph.training.building import open_data
from relgraph.training.recipe import resolve

SIZE, IMAGES, BATCH = 40, 4096, 256


class MobileNetV2(nn.Module):
    """The teacher's network without its classifier, on images enlarged to SIZE pixels: vectors of 1,280 numbers."""

    mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

    def __init__(self) -> None:
        super().__init__()
        import timm

        self.network = timm.create_model("mobilenetv2_100", num_classes=0, pad_type="same")

    def forward(self, images: Tensor) -> Tensor:
        large = interpolate(images, size=(SIZE, SIZE), mode="bicubic", align_corners=False)
        vectors: Tensor = self.network(large)
        return vectors


class Short(MobileNetV2):
    """The same without its last convolution, from 320 to 1,280 maps: the projection of 320 numbers stands for it."""

    def __init__(self) -> None:
        super().__init__()
        self.network.conv_head, self.network.bn2 = nn.Identity(), nn.Identity()


NETWORKS = {network.__name__: network for network in (MobileNetV2, Short)}


@torch.no_grad()
def unfold(network: nn.Module, images: Tensor) -> None:
    """Give each batch normalisation the mean and variance of what it reads, and undo both by its weight and bias."""
    sums: dict[nn.BatchNorm2d, list[Any]] = {}

    def add(layer: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        x = inputs[0].double()
        count, total, squares = sums.get(layer, [0, 0, 0])
        sums[layer] = [count + x[:, 0].numel(), total + x.sum((0, 2, 3)), squares + x.square().sum((0, 2, 3))]

    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    hooks = [layer.register_forward_pre_hook(add) for layer in layers]
    network.eval()
    for batch in images.split(BATCH):
        network(batch)
    for hook in hooks:
        hook.remove()
    for layer, (count, total, squares) in sums.items():
        mean = total / count
        variance = squares / count - mean.square()
        assert layer.running_mean is not None and layer.running_var is not None
        scale = layer.weight.double() / (layer.running_var.double() + layer.eps).sqrt()
        shift = layer.bias.double() - scale * layer.running_mean.double()
        layer.weight.copy_(scale * (variance + layer.eps).sqrt())
        layer.bias.copy_(shift + scale * mean)
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)


@click.command(help=__doc__)
@click.option("--weights", required=True, type=click.Path(path_type=Path), help="The teacher's, which are folded.")
@click.option("--config", required=True, type=click.Path(path_type=Path), help="Options of relgraph train.")
@click.option("--network", default="MobileNetV2", show_default=True, type=click.Choice([*NETWORKS]))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path))
@torch.no_grad()
def main(weights: Path, config: Path, network: str, out: Path) -> None:
    student, known = NETWORKS[network](), load_file(weights)
    student.network.load_state_dict({name: known[name].float() for name in student.network.state_dict()})
    told = {name: value for name, value in read_yaml(config).items() if name not in ("student_weights", "normalise")}
    train = open_data(resolve(told)).train
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:IMAGES]
    images = train.select(chosen).pixels.float() / 127.5 - 1
    before = student.eval()(images[:BATCH])
    unfold(student, images)
    change = (student(images[:BATCH]) - before).abs().max() / before.abs().max()
    write_atomically(out, save(student.state_dict()))
    click.echo(f"{out}: vectors on {BATCH} images differ by at most {change:.1g} of the largest number")


if __name__ == "__main__":
    main()
