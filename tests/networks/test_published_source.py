"""Published files against names and shapes written out for each network, and a ResNet computed from their names."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from relgraph.data.sources import CIFAR100_NORMALISATION
from relgraph.names import load_teacher, teacher
from relgraph.networks.students import STUDENTS
from tests.checks import assert_refused_like
from tests.networks.published import state_of, write
from tests.networks.test_students import FAMILIES


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_tensor_of_a_file_is_read_in_the_authors_order(name: str, tmp_path: Path) -> None:
    state = state_of(name, 5)
    file = write(tmp_path / "ckpt_epoch_240.pth", state, best_acc=torch.tensor(79.4))
    source = teacher(f"repdistiller:{name}")
    head, classes = source.classifier(file)
    network = source.load(file, None, {}).network
    found = [x for part in (network, head) for n, x in part.state_dict().items() if "num_batches" not in n]
    expected = [x for n, x in state.items() if "num_batches" not in n]
    assert len(found) == len(expected) and all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
    assert classes is None and head.dim == head.width == STUDENTS[name].width and source.has_classifier


def resnet_of_names(state: "OrderedDict[str, Tensor]", images: Tensor) -> tuple[Tensor, Tensor]:
    """Return feature and logits of a CIFAR ResNet in evaluation mode, computed from the authors' names."""

    def conv(at: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{at}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def norm(at: str, x: Tensor) -> Tensor:
        mean, var, weight, bias = (state[f"{at}.{n}"] for n in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias)

    x = norm("bn1", conv("conv1", images)).relu()
    for stage in (1, 2, 3):
        for block in range(len({name.split(".")[1] for name in state if name.startswith(f"layer{stage}.")})):
            at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = norm(f"{at}.bn2", conv(f"{at}.conv2", norm(f"{at}.bn1", conv(f"{at}.conv1", x, stride)).relu()))
            short = f"{at}.downsample"
            x = (y + (norm(f"{short}.1", conv(f"{short}.0", x, stride)) if f"{short}.0.weight" in state else x)).relu()
    feature = F.avg_pool2d(x, 8).flatten(1)
    return feature, F.linear(feature, state["fc.weight"], state["fc.bias"])


def test_a_published_resnet_computes_what_its_names_say(tmp_path: Path) -> None:
    images = torch.randn(3, 3, 32, 32)
    for name, channels in (("resnet14", [16, 16, 32, 64]), ("resnet8x4", [32, 64, 128, 256])):
        state = state_of(name, 100)
        file = write(tmp_path / "file.pth", state)
        found = load_teacher(f"repdistiller:{name}", weights=file)
        feature, logits = resnet_of_names(state, images)
        torch.testing.assert_close(found(images), feature, rtol=1e-4, atol=1e-4)
        head, _ = teacher(f"repdistiller:{name}").classifier(file)
        torch.testing.assert_close(head(found(images))[1], logits, rtol=1e-4, atol=1e-4)
        assert (found.mean, found.std) == CIFAR100_NORMALISATION and (found.channels, found.input_size) == (3, None)
        assert [shape[0] for shape in found.map_shapes()] == channels


def test_the_ways_in_which_such_files_are_written(tmp_path: Path) -> None:
    """Under a key, bare, of data-parallel training, and of a torch that counts no batches."""
    state = state_of("resnet8", 10)
    parallel = OrderedDict((f"module.{name}", x) for name, x in state.items())
    older = OrderedDict((name, x) for name, x in state.items() if "num_batches" not in name)
    expected = load_teacher("repdistiller:resnet8", weights=write(tmp_path / "a.pth", state)).fingerprint()
    for number, (content, key) in enumerate(((state, "state_dict"), (state, None), (parallel, "model"), (older, None))):
        file = write(tmp_path / f"{number}.pth", content, key)
        assert load_teacher("repdistiller:resnet8", weights=file).fingerprint() == expected


def test_files_that_misfit(tmp_path: Path) -> None:
    state = state_of("resnet8", 10)
    file = write(tmp_path / "f.pth", state)
    longer = write(tmp_path / "longer.pth", OrderedDict([*state.items(), ("more.bias", torch.zeros(10))]))
    turned = OrderedDict(state)
    turned["bn1.bias"] = turned.pop("bn1.bias")  # at the end
    swapped = OrderedDict(sorted(state.items(), key=lambda item: "running_var" in item[0]))
    lost = OrderedDict(state, **{"fc.bias": torch.full((10,), torch.nan)})
    unsafe = write(tmp_path / "unsafe.pth", state, opt=Path("x"))
    nan, turned_, swapped_ = (
        write(tmp_path / f"{name}.pth", content)
        for name, content in (("nan", lost), ("turned", turned), ("swapped", swapped))
    )

    def load(weights: Path | None = None, name: str = "resnet8") -> Callable[[], object]:
        return partial(load_teacher, f"repdistiller:{name}", weights=weights)

    assert_refused_like(
        (
            load(file, "resnet14"),
            r"f\.pth is no resnet14: expected a weight \(16, 16, 3, 3\) for .*, found layer2\.0\.conv1",
        ),
        (load(longer), r"longer\.pth is no resnet8: expected \d+ tensors, found \d+$"),
        (
            load(turned_),
            r"no resnet8: expected a bias \(16,\) for backbone\.stem\.1\.bias, found bn1\.running_mean \(16,\)",
        ),
        (load(swapped_), r"expected a running_var \(16,\) for backbone\.stem\.1\.running_var, found layer1"),
        (load(nan), r"nan\.pth holds weights that are not finite: classify\.bias"),
        (load(unsafe), r"unsafe\.pth cannot be read as weights: .*safety"),
        (load(), "^repdistiller:resnet8 needs a published file: give --teacher-weights FILE"),
        (load(file, "resnet9"), "^unknown network of the benchmark 'resnet9': did you mean"),
    )
