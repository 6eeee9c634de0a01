"""Depthwise convolutions in float32 under autocast, against torch's own in float32."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from relgraph.names import build_backbone
from relgraph.networks.depthwise import depthwise_in_float32

SLOW: dict[str, dict[str, Any]] = {
    "stride": {"kernel_size": 3, "stride": 2, "groups": 4},
    "5 x 5": {"kernel_size": 5, "padding": 2, "groups": 4},
    "1 x 5": {"kernel_size": (1, 5), "groups": 4},
    "dilation": {"kernel_size": 3, "dilation": 2, "groups": 4},
    "two maps a channel": {"kernel_size": 3, "stride": 2, "groups": 4, "out_channels": 8},
}
FAST: dict[str, dict[str, Any]] = {
    "3 x 3": {"kernel_size": 3, "groups": 4},
    "1 x 1": {"kernel_size": 1, "groups": 4},
    "groups": {"kernel_size": 3, "stride": 2, "groups": 2},
    "plain": {"kernel_size": 5},
}


def layer(options: dict[str, Any]) -> nn.Conv2d:
    """Return a convolution of four channels with weights of its own."""
    torch.manual_seed(0)
    return nn.Conv2d(4, **{"out_channels": 4, **options})


def passed(module: Any, x: Tensor) -> tuple[Tensor, ...]:
    """Return the output under autocast, and the gradients of its sum by images and weights."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        output = module(x)
    return output, *torch.autograd.grad(output.sum(), [x, *module.parameters()])


@pytest.mark.parametrize("name", SLOW)
def test_the_result_is_that_of_float32_rounded(name: str) -> None:
    x = torch.rand(3, 4, 9, 9)
    own, plain = depthwise_in_float32(layer(SLOW[name])), layer(SLOW[name])
    output, *gradients = passed(own, x)
    assert output.dtype == torch.bfloat16
    x.requires_grad_()
    expected = plain(x)
    assert torch.equal(output, expected.bfloat16())
    for found, other in zip(gradients, torch.autograd.grad(expected.sum(), [x, *plain.parameters()]), strict=True):
        assert found.dtype == torch.float32
        assert torch.equal(found, other)  # the gradient of a sum is one everywhere, which bfloat16 holds


@pytest.mark.parametrize("name", FAST)
def test_other_convolutions_are_left_alone(name: str) -> None:
    x, own = torch.rand(3, 4, 9, 9), depthwise_in_float32(layer(FAST[name]))
    assert type(own) is nn.Conv2d
    for found, expected in zip(passed(own, x), passed(layer(FAST[name]), x), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_autocast_nothing_changes(dtype: torch.dtype) -> None:
    x, plain = torch.rand(3, 4, 9, 9, dtype=dtype), layer(SLOW["stride"]).to(dtype)
    own: nn.Module = depthwise_in_float32(layer(SLOW["stride"])).to(dtype)
    assert torch.equal(own(x), plain(x))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_copy_is_another_layer_of_the_same_kind(copied: Any) -> None:
    own = depthwise_in_float32(nn.Sequential(layer(SLOW["stride"])))
    other, x = copied(own), torch.rand(3, 4, 9, 9)
    assert type(other[0]) is type(own[0])
    assert all(torch.equal(*each) for each in zip(passed(own, x), passed(other, x), strict=True))
    nn.init.zeros_(other.state_dict()["0.weight"])
    assert own.state_dict()["0.weight"].abs().sum() > 0
    assert other.state_dict().keys() == own.state_dict().keys()


def test_parameters_and_names_of_a_network_stay() -> None:
    timm = pytest.importorskip("timm")
    # Padded as TensorFlow does, by timm's own class of convolution.
    network = timm.create_model("mobilenetv3_small_050", num_classes=0, pad_type="same").eval()
    names, parameters = list(network.state_dict()), list(network.parameters())
    depthwise_in_float32(depthwise_in_float32(network))
    assert list(network.state_dict()) == names
    assert all(one is other for one, other in zip(network.parameters(), parameters, strict=True))
    kinds = [type(each).__name__ for each in network.modules()]
    assert kinds.count("Float32Conv2dSame") == 4
    assert kinds.count("Float32Conv2d") > 4
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, network.head_hidden_size)


def test_a_compiled_network_computes_the_same() -> None:
    own, x = depthwise_in_float32(nn.Sequential(layer(SLOW["5 x 5"]), nn.ReLU())), torch.rand(3, 4, 9, 9)
    expected = passed(own, x)
    compiled = torch.compile(own, backend="aot_eager", fullgraph=True)
    for found, other in zip(passed(compiled, x), expected, strict=True):
        torch.testing.assert_close(found, other)


@pytest.mark.parametrize("student", ["mobilenetv2", "shufflenetv1", "shufflenetv2"])
def test_the_own_small_students_have_such_layers(student: str) -> None:
    network = depthwise_in_float32(build_backbone(student, 3, image_size=32))
    assert any(type(each).__name__ == "Float32Conv2d" for each in network.modules())
