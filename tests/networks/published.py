"""Files as RepDistiller and mdistiller write them: names and shapes of each network's tensors, in their order."""

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Tensors = Iterator[tuple[str, tuple[int, ...]]]
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def conv(name: str, inputs: int, outputs: int, side: int, groups: int = 1, bias: bool = False) -> Tensors:
    yield f"{name}.weight", (outputs, inputs // groups, side, side)
    if bias:
        yield f"{name}.bias", (outputs,)


def norm(name: str, channels: int) -> Tensors:
    for part in NORM:
        yield f"{name}.{part}", () if part == "num_batches_tracked" else (channels,)


def linear(name: str, inputs: int, outputs: int) -> Tensors:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def resnet(depth: int, widths: tuple[int, ...], classes: int) -> Tensors:
    """Return those of models/resnet.py: a shortcut, `downsample`, stands behind the main path."""
    yield from conv("conv1", 3, widths[0], 3)
    yield from norm("bn1", widths[0])
    for stage in (1, 2, 3):
        for block in range((depth - 2) // 6):
            inputs, outputs, at = widths[stage if block else stage - 1], widths[stage], f"layer{stage}.{block}"
            yield from conv(f"{at}.conv1", inputs, outputs, 3)
            yield from norm(f"{at}.bn1", outputs)
            yield from conv(f"{at}.conv2", outputs, outputs, 3)
            yield from norm(f"{at}.bn2", outputs)
            if block == 0 and (stage > 1 or inputs != outputs):
                yield from conv(f"{at}.downsample.0", inputs, outputs, 1)
                yield from norm(f"{at}.downsample.1", outputs)
    yield from linear("fc", widths[-1], classes)


def bottleneck(classes: int) -> Tensors:
    """Return those of models/resnetv2.py."""
    yield from conv("conv1", 3, 64, 3)
    yield from norm("bn1", 64)
    inputs = 64
    for stage, (planes, count) in enumerate(zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True), 1):
        for block in range(count):
            at = f"layer{stage}.{block}"
            for number, sizes in enumerate(((inputs, planes, 1), (planes, planes, 3), (planes, 4 * planes, 1)), 1):
                yield from conv(f"{at}.conv{number}", *sizes)
                yield from norm(f"{at}.bn{number}", sizes[1])
            if block == 0:
                yield from conv(f"{at}.shortcut.0", inputs, 4 * planes, 1)
                yield from norm(f"{at}.shortcut.1", 4 * planes)
            inputs = 4 * planes
    yield from linear("linear", 2048, classes)


def wrn(depth: int, k: int, classes: int) -> Tensors:
    """Return those of models/wrn.py: norms before convolutions."""
    yield from conv("conv1", 3, 16, 3)
    inputs = 16
    for stage, outputs in enumerate((16 * k, 32 * k, 64 * k), 1):
        for block in range((depth - 4) // 6):
            at = f"block{stage}.layer.{block}"
            yield from norm(f"{at}.bn1", inputs)
            yield from conv(f"{at}.conv1", inputs, outputs, 3)
            yield from norm(f"{at}.bn2", outputs)
            yield from conv(f"{at}.conv2", outputs, outputs, 3)
            if inputs != outputs:
                yield from conv(f"{at}.convShortcut", inputs, outputs, 1)
            inputs = outputs
    yield from norm("bn1", inputs)
    yield from linear("fc", inputs, classes)


def vgg(counts: tuple[int, ...], classes: int) -> Tensors:
    """Return those of models/vgg.py, whose convolutions have a bias."""
    inputs = 3
    for block, (count, outputs) in enumerate(zip(counts, (64, 128, 256, 512, 512), strict=True)):
        for layer in range(count):
            yield from conv(f"block{block}.{3 * layer}", inputs, outputs, 3, bias=True)
            yield from norm(f"block{block}.{3 * layer + 1}", outputs)
            inputs = outputs
    yield from linear("classifier", 512, classes)


def mobilenet(classes: int) -> Tensors:
    """Return those of models/mobilenetv2.py at width 0.5."""
    yield from conv("conv1.0", 3, 16, 3)
    yield from norm("conv1.1", 16)
    inputs = 16
    settings = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
    for stage, (expansion, channels, count) in enumerate(settings):
        for block in range(count):
            at, inner, outputs = f"blocks.{stage}.{block}.conv", expansion * inputs, channels // 2
            yield from conv(f"{at}.0", inputs, inner, 1)
            yield from norm(f"{at}.1", inner)
            yield from conv(f"{at}.3", inner, inner, 3, groups=inner)
            yield from norm(f"{at}.4", inner)
            yield from conv(f"{at}.6", inner, outputs, 1)
            yield from norm(f"{at}.7", outputs)
            inputs = outputs
    yield from conv("conv2.0", inputs, 1280, 1)
    yield from norm("conv2.1", 1280)
    yield from linear("classifier.0", 1280, classes)


def shuffle_v1(classes: int) -> Tensors:
    """Return those of models/ShuffleNetv1.py."""
    yield from conv("conv1", 3, 24, 1)
    yield from norm("bn1", 24)
    inputs = 24
    for stage, (outputs, count) in enumerate(((240, 4), (480, 8), (960, 4)), 1):
        for block in range(count):
            at, new = f"layer{stage}.{block}", outputs - (inputs if block == 0 else 0)
            inner, groups = new // 4, 1 if inputs == 24 else 3
            yield from conv(f"{at}.conv1", inputs, inner, 1, groups)
            yield from norm(f"{at}.bn1", inner)
            yield from conv(f"{at}.conv2", inner, inner, 3, inner)
            yield from norm(f"{at}.bn2", inner)
            yield from conv(f"{at}.conv3", inner, new, 1, 3)
            yield from norm(f"{at}.bn3", new)
            inputs = outputs
    yield from linear("linear", 960, classes)


def shuffle_v2(classes: int) -> Tensors:
    """Return those of models/ShuffleNetv2.py: in the first unit of a stage the depthwise branch without expansion."""
    yield from conv("conv1", 3, 24, 1)
    yield from norm("bn1", 24)
    inputs = 24
    for stage, (outputs, count) in enumerate(((116, 4), (232, 8), (464, 4)), 1):
        half = outputs // 2
        down = ((inputs, inputs, 3, inputs), (inputs, half, 1, 1), (inputs, half, 1, 1), (half, half, 3, half),
                (half, half, 1, 1))  # fmt: skip
        plain = (half, half, 1, 1), (half, half, 3, half), (half, half, 1, 1)
        for block in range(count):
            for number, sizes in enumerate(plain if block else down, 1):
                yield from conv(f"layer{stage}.{block}.conv{number}", *sizes)
                yield from norm(f"layer{stage}.{block}.bn{number}", sizes[1])
        inputs = outputs
    yield from conv("conv2", 464, 1024, 1)
    yield from norm("bn2", 1024)
    yield from linear("linear", 1024, classes)


def layout(name: str, classes: int) -> Tensors:
    """Return names and shapes of a network of the benchmark, by our name."""
    if name == "resnet50":
        return bottleneck(classes)
    if name.startswith("resnet"):
        narrow, fourfold = (16, 16, 32, 64), (32, 64, 128, 256)
        depth, _, four = name.removeprefix("resnet").partition("x")
        return resnet(int(depth), fourfold if four else narrow, classes)
    if name.startswith("wrn"):
        _, depth, k = name.split("_")
        return wrn(int(depth), int(k), classes)
    if name.startswith("vgg"):
        per_block = {"8": (1, 1, 1, 1, 1), "11": (1, 1, 2, 2, 2), "13": (2, 2, 2, 2, 2), "16": (2, 2, 3, 3, 3),
                     "19": (2, 2, 4, 4, 4)}  # fmt: skip
        return vgg(per_block[name.removeprefix("vgg")], classes)
    return {"mobilenetv2": mobilenet, "shufflenetv1": shuffle_v1, "shufflenetv2": shuffle_v2}[name](classes)


def state_of(name: str, classes: int, seed: int = 0) -> "OrderedDict[str, Tensor]":
    """Return a state dict in the authors' naming, of random numbers at which activations keep their size."""
    random = torch.Generator().manual_seed(seed)
    found: OrderedDict[str, Tensor] = OrderedDict()
    for key, shape in layout(name, classes):
        if key.endswith("num_batches_tracked"):
            found[key] = torch.tensor(7)
        elif len(shape) > 1:
            fan = shape[1] * shape[-1] ** 2 if len(shape) == 4 else shape[1]
            found[key] = torch.randn(shape, generator=random) * (2 / fan) ** 0.5
        else:
            low = 0.75 if key.endswith(("weight", "var")) else -0.25
            found[key] = low + 0.5 * torch.rand(shape, generator=random)
    return found


def write(path: Path, state: "OrderedDict[str, Tensor]", key: str | None = "model", **more: Any) -> Path:
    """Write a file of a state: under a key as the authors do, with what else they keep, or bare."""
    torch.save(state if key is None else {"epoch": 240, key: state, **more}, path)
    return path
