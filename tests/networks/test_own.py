"""Networks of a user's own as students and teachers: what is built, what is called with what, what is refused."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from relgraph.errors import RelgraphError
from relgraph.networks.backbone import Backbone, choose_stages, map_shapes
from relgraph.networks.heads import Student
from relgraph.networks.own import OwnNetwork, OwnStudent, OwnTeacher
from relgraph.networks.sources import Pretrained
from relgraph.networks.teachers import Teacher
from tests.checks import assert_refused, assert_refused_like, case
from tests.networks.tiny import moved


def convolutional(in_channels: int = 3, width: int = 6) -> nn.Sequential:
    """Return a network that gives a map."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, width, 3, 2)
    )


class Pooling(nn.Module):
    """A network that gives vectors, with parts, and the preparation of its images."""

    input_size, mean, std = 8, (0.5, 0.4, 0.3), [0.2, 0.3, 0.4]

    def __init__(self, in_channels: int = 3, *, width: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.layers = nn.Sequential(nn.Conv2d(4, 7, 3, 2), nn.ReLU())
        self.unused = nn.Conv2d(1, 1, 1)
        self.classifier = nn.Linear(7, width)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.classifier(self.layers(self.stem(images)).mean((2, 3)))
        return features


class Staged(Backbone):
    """A backbone of a user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def stages(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        output = self.conv(images)
        return (output,), output.amax((2, 3))


class Gives(nn.Module):
    """A network that gives what a function makes of its images."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Any:
        return self.function(images)


def own_teacher(target: object, name: str = "net", **options: Any) -> Teacher:
    """Return a teacher as a run opens it without further options."""
    return Teacher(OwnTeacher(target, name).load(None, options.pop("size", None), options), name)


# Students


def test_a_map_is_averaged_over_positions_and_vectors_are_taken_as_they_are() -> None:
    images = torch.rand(3, 3, 8, 8)
    cases: tuple[tuple[nn.Module, int, Callable[[nn.Module], Tensor]], ...] = (
        (moved(convolutional()), 6, lambda network: network(images).flatten(2).mean(-1)),
        (moved(Pooling()), 5, lambda network: network(images)),
    )
    for network, width, expected in cases:
        backbone = OwnStudent(network, "net").build(3, 8)
        assert backbone.training and backbone.width == width
        torch.testing.assert_close(backbone.eval()(images), expected(network))
        maps, output = backbone.stages(images)[0], network(images)
        assert len(maps) == (output.ndim == 4) and all(torch.equal(found, output) for found in maps)


def test_each_build_of_a_module_is_a_copy_of_it() -> None:
    module = moved(convolutional())
    before = {name: x.clone() for name, x in module.state_dict().items()}
    first, second = (OwnStudent(module, "net").build(3, 8) for _ in range(2))
    torch.autograd.backward(first(torch.rand(4, 3, 8, 8)).sum())
    with torch.no_grad():
        next(first.parameters()).zero_()
    assert not module.training and all(p.grad is None for p in module.parameters())
    for name, x in before.items():
        assert torch.equal(second.state_dict()[f"model.{name}"], x) and torch.equal(module.state_dict()[name], x)
    held: Any = lambda: module  # noqa: E731  # a function that returns one object every time
    assert not {id(p) for p in OwnStudent(held, "net").build().parameters()} & {id(p) for p in module.parameters()}


def test_classes_and_functions_are_called_with_what_they_take_of_channels_and_size() -> None:
    called: list[dict[str, Any]] = []

    def network(image_size: int, *, in_channels: int, **more: Any) -> nn.Module:
        called.append({"size": image_size, "channels": in_channels, **more})
        return convolutional(in_channels)

    assert OwnStudent(network, "net").build(1, 12)(torch.rand(2, 1, 12, 12)).shape == (2, 6)
    assert called == [{"size": 12, "channels": 1}]
    assert OwnStudent(partial(convolutional, width=9), "net").build(1, 8).width == 9
    assert OwnStudent(lambda: convolutional(2), "net").build(2, 8).width == 6
    torch.manual_seed(4)
    expected = Pooling(1).state_dict()
    torch.manual_seed(4)
    built = OwnStudent(Pooling, "net").build(1, 8).state_dict()
    assert all(torch.equal(built[f"model.{name}"], x) for name, x in expected.items()), "drawn from the run's seed"


def test_a_backbone_is_used_as_it_is_with_its_maps() -> None:
    for target in (Staged(), Staged):
        backbone = OwnStudent(target, "net").build(3, 8)
        assert type(backbone) is Staged and backbone.width == 4 and "conv.weight" in backbone.state_dict()
        assert map_shapes(backbone, 3, 8) == ((4, 6, 6),)


def test_a_student_in_half_precision_is_trained_in_float32() -> None:
    backbone = OwnStudent(convolutional().half(), "net").build(3, 8)
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}


def test_what_is_no_student_is_told_in_one_sentence() -> None:
    def broken() -> nn.Module:
        raise OSError("no disk\nsecond line")

    size = "net cannot read images of 3 x 8 x 8: "
    must = f"{size}a network of your own must give a tensor (N, D) or (N, C, H, W) for N = 1 images, got "
    expected = "expected an nn.Module, or a class or function that returns one, got "
    uncopied: Any = convolutional()
    uncopied.extra = uncopied[0].weight * 2  # which torch does not copy
    for target, told in (
        (Gives(lambda x: x.flatten()), f"{must}(192,)"),
        (Gives(lambda x: x.mean(0, keepdim=True).expand(2, -1, -1, -1)), f"{must}(2, 3, 8, 8)"),
        (Gives(lambda x: {"logits": x}), f"{must}dict"),
        (Gives(lambda x: (x, x)), f"{must}tuple"),
        (Gives(lambda x: x.mul_(2).mean((2, 3))), f"{size}it changes the images in place, which a training step …"),
        (nn.Flatten(4), f"{size}Dimension out of range …"),
        (nn.Conv2d(1, 2, 3), f"{size}Given groups=1, …"),
        (3, f"net is no network: {expected}int"),
        (lambda: 3, "net must return an nn.Module, got int"),
        (broken, "net cannot be built: OSError: no disk (test_own.py, line …"),
        (lambda depth: convolutional(), "net cannot be built: TypeError: …"),
        (uncopied, "net cannot be copied: RuntimeError: Only Tensors created explicitly by the user …"),
    ):
        with case(told):
            assert_refused((partial(OwnStudent(target, "net").build, 3, 8), told))
            assert "\n" not in told


def test_a_file_holds_all_weights_of_an_own_network_and_no_others(tmp_path: Path) -> None:
    other = moved(Pooling())
    torch.save({"state_dict": other.state_dict()}, tmp_path / "w.pth")
    save_file(other.state_dict(), tmp_path / "w.safetensors")
    for file in ("w.pth", "w.safetensors"):
        for network in (
            OwnStudent(Pooling, "net").start(tmp_path / file, 3, 8),
            OwnTeacher(Pooling, "net").load(tmp_path / file, None, {}).network,
        ):
            assert isinstance(network, OwnNetwork)
            assert all(torch.equal(network.model.state_dict()[name], x) for name, x in other.state_dict().items())
    wrong = partial(OwnStudent(convolutional, "net").start, tmp_path / "w.pth", 3, 8)
    assert_refused_like(
        (wrong, r"w\.pth is of another architecture: 0\.bias is \(4,\) in the network, missing in the ")
    )


# Teachers


def test_a_teacher_tells_how_its_images_are_prepared() -> None:
    teacher = own_teacher(Pooling)
    assert (teacher.input_size, teacher.channels, teacher.width) == (8, 3, 5)
    assert (teacher.mean, teacher.std) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())
    teacher = own_teacher(timm.create_model("test_resnet", num_classes=0))
    assert (teacher.input_size, teacher.channels, teacher.mean) == (160, 3, (0.5, 0.5, 0.5))


def test_a_users_teacher_is_left_as_it_was() -> None:
    module = Pooling().train()
    own_teacher(module)
    assert module.training and all(p.requires_grad for p in module.parameters())


def test_a_teacher_is_called_with_its_arguments() -> None:
    assert own_teacher(Pooling, width=11).width == 11
    sizes: list[int] = []

    def network(image_size: int = 8, **options: Any) -> nn.Module:
        sizes.append(image_size)
        return Pooling(**options)

    assert own_teacher(network, size=12, width=3).width == 3 and own_teacher(network).width == 5
    assert sizes == [12, 8]
    assert_refused(
        (partial(own_teacher, Pooling, widht=3), "unknown argument of net 'widht': did you mean 'width'? (known: in_…"),
        (partial(own_teacher, Pooling(), width=3), "net is a module already and takes no arguments, got {'width': 3}"),
    )


def test_a_teacher_draws_the_same_weights_whatever_was_drawn_before() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = own_teacher(Pooling)
    assert torch.equal(torch.get_rng_state(), before), "and nothing else changes"
    torch.manual_seed(2)
    other = own_teacher(Pooling)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))
    assert sum(p.numel() for p in one.parameters()) > 0


def test_the_preparation_of_a_teacher_is_never_guessed() -> None:
    told = "how the images of teacher net were prepared is not known: give --teacher-mean and --teacher-std, or …"
    normalising: Any = convolutional()
    normalising.register_buffer("mean", torch.zeros(3, 1, 1))  # such a module often subtracts it itself
    normalising.register_buffer("std", torch.ones(3, 1, 1))
    assert_refused(*((partial(own_teacher, network), told) for network in (convolutional(), normalising)))
    found = OwnTeacher(convolutional(1), "net").load(None, None, {})
    teacher = Teacher(Pretrained(found.network, 8, found.channels, (0.5,), (0.5,)), "net")
    assert (teacher.channels, teacher.width) == (1, 6)


def test_what_is_no_teacher_is_told_in_one_sentence() -> None:
    def preparing(function: Callable[[Tensor], Any]) -> Any:
        module: Any = Gives(function)
        module.mean, module.std = (0.0,), (1.0,)
        return module

    size = "teacher net does not take images of 1 x 32 x 32: "
    assert_refused(
        (partial(own_teacher, preparing(lambda x: {"a": x})), f"{size}a network of your own must give …"),
        (partial(own_teacher, preparing(lambda x: x.add_(1).mean((2, 3)))), f"{size}it changes the images in place, …"),
        (partial(own_teacher, preparing(lambda x: x @ x.new_zeros(2, 2))), f"{size}mat1 and mat2 …"),
    )


# Stage maps


def chosen(*parts: str) -> Any:
    backbone = OwnStudent(Pooling, "net").build(3, 8)
    choose_stages(backbone, parts, 3, 8, "student net")
    return backbone


def test_chosen_stages_are_the_outputs_of_these_parts_in_the_order_that_was_asked_for() -> None:
    plain, backbone = OwnStudent(Pooling, "net").build(3, 8), chosen("layers.0", "stem")
    assert list(plain.state_dict()) == list(backbone.state_dict()) and backbone.training
    images = torch.rand(2, 3, 8, 8)
    maps, pooled = backbone.stages(images)
    stem = backbone.get_submodule("model.stem")(images)
    torch.testing.assert_close(maps, (backbone.get_submodule("model.layers.0")(stem), stem))
    torch.testing.assert_close(pooled, backbone(images))
    assert map_shapes(backbone, 3, 8) == ((7, 3, 3), (4, 8, 8))
    torch.autograd.backward(maps[1].sum())
    assert backbone.get_parameter("model.stem.weight").grad is not None
    assert not any(module._forward_hooks for module in backbone.modules()), "none is left behind"


def test_a_copy_and_a_compiled_student_give_the_chosen_maps() -> None:
    student = Student(chosen("stem", "layers"), 4, 3)
    copied, compiled, images = deepcopy(student), deepcopy(student), torch.rand(2, 3, 8, 8)
    compiled.compile(backend="eager")
    with torch.no_grad():
        next(copied.parameters()).add_(1)
        expected, other, found = student(images), copied(images), compiled(images)
    assert len(found.maps) == 2 and not torch.equal(other.maps[0], expected.maps[0])
    torch.testing.assert_close(found.tensors(), expected.tensors())


def test_parts_that_give_no_map_or_are_not_there_are_told() -> None:
    own = "(known: classifier, layers, layers.0, stem, unused)"
    assert_refused(
        (lambda: chosen("stem", "layer.0"), f"unknown stage 'layer.0': did you mean 'layers.0'? {own}"),
        (
            lambda: chosen("model.stem"),
            "unknown stage 'model.stem': did you mean 'stem'? (known: classifier, layers, …",
        ),
        (lambda: chosen("classifier"), "a stage must give a map (N, C, H, W), got (1, 5) of classifier"),
        (lambda: chosen("unused"), "a stage must give a map (N, C, H, W), got nothing of unused"),
        (
            lambda: choose_stages(Staged(), ("conv",), 3, 8, "student net"),
            "stages are chosen of networks of timm, of torchvision and of your own: student net has stages of its own, "
            "got conv",
        ),
    )


def test_stages_of_a_teacher() -> None:
    found = OwnTeacher(Pooling, "net").load(None, None, {})
    teacher = Teacher(found, "net", ("stem", "layers.1"))
    assert teacher.map_shapes() == ((4, 8, 8), (7, 3, 3))
    with pytest.raises(RelgraphError, match="unknown stage 'stern'"):
        Teacher(found, "net", ("stern",))
