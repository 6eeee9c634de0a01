"""FitNet against the benchmark code's number and convolutions written as loops, and the laws that it keeps."""

import re

import pytest
import torch
from torch import Tensor, nn

from relgraph.errors import RelgraphError
from relgraph.methods import Output, RunFacts
from relgraph.methods.base import Part, Shapes
from relgraph.methods.fitnet import FitNet, regressor
from tests.methods import golden

N = 3
# Sides of the student's and the teacher's map, the regressor's kernel and stride, and the side of its output.
SIDES = {
    (8, 4): ("Conv2d", 3, 2, 4),
    (4, 8): ("ConvTranspose2d", 4, 2, 8),
    (4, 4): ("Conv2d", 1, 1, 4),
    (5, 3): ("Conv2d", 3, 1, 3),
    (3, 5): ("Conv2d", 1, 1, 3),
    (2, 8): ("Conv2d", 1, 1, 2),
}
each_size = pytest.mark.parametrize(("student", "teacher"), SIDES)


def shapes(student: int, teacher: int) -> tuple[Shapes, Shapes]:
    return ((2, 9, 9), (2, 9, 9), (3, student, student)), ((2, 9, 9), (2, 9, 9), (4, teacher, teacher), (5, 1, 1))


def output(maps: Shapes, n: int = N) -> Output:
    stages = tuple(torch.randn(n, *shape, dtype=torch.float64) for shape in maps)
    return Output(torch.randn(n, 6).double(), feature=torch.randn(n, 5).double(), maps=stages)


def convolved(layer: nn.Conv2d | nn.ConvTranspose2d, maps: Tensor) -> Tensor:
    """Return a convolution as a sum over what each number of the map reaches, or is reached by."""
    side, kernel = maps.shape[-1], layer.kernel_size[0]
    transposed = isinstance(layer, nn.ConvTranspose2d)
    weight = layer.weight if transposed else layer.weight.transpose(0, 1)
    stride, padding = int(layer.stride[0]), 0 if isinstance(layer.padding, str) else int(layer.padding[0])
    target = (side - 1) * stride - 2 * padding + kernel if transposed else (side + 2 * padding - kernel) // stride + 1
    found = torch.zeros(len(maps), weight.shape[1], target, target, dtype=maps.dtype)
    small, large = (side, target) if transposed else (target, side)
    steps = [(i, a) for i in range(small) for a in range(kernel) if 0 <= i * stride + a - padding < large]
    for i, a in steps:
        for j, b in steps:
            y, x = i * stride + a - padding, j * stride + b - padding
            source, into = (maps[..., i, j], (y, x)) if transposed else (maps[..., y, x], (i, j))
            found[..., into[0], into[1]] += source @ weight[..., a, b]
    return found


def expected(loss: FitNet, student: Tensor, teacher: Tensor) -> Tensor:
    layer = loss.regressor[0]
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    made = convolved(layer, student)
    mean, variance = made.mean((0, 2, 3), keepdim=True), made.var((0, 2, 3), correction=0, keepdim=True)
    made = ((made - mean) / (variance + 1e-5).sqrt()).clamp_min(0)
    if teacher.shape[-1] > made.shape[-1]:
        teacher = nn.functional.adaptive_avg_pool2d(teacher, made.shape[-1])
    return (made - teacher).square().sum() / teacher.numel()


def test_official_value_and_gradient() -> None:
    student, teacher = golden.embeddings()
    golden.check("hint_mse", lambda: FitNet()(student, teacher), {"student": student})


@each_size
def test_the_regressor_brings_a_map_to_the_teachers_size(student: int, teacher: int) -> None:
    layers = regressor((3, student, student), (4, teacher, teacher))
    kind, kernel, stride, side = SIDES[student, teacher]
    layer = layers[0]
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and type(layer).__name__ == kind
    assert layer.kernel_size == (kernel, kernel) and layer.stride == (stride, stride)
    assert layers(torch.randn(N, 3, student, student)).shape == (N, 4, side, side)


def test_height_and_width_may_call_for_different_kernels() -> None:
    loss = FitNet(((3, 6, 4),), ((4, 4, 5),), stage=0).double()
    assert loss.regressor(torch.randn(N, 3, 6, 4).double()).shape == (N, 4, 4, 4)
    assert loss(output(((3, 6, 4),)), output(((4, 4, 5),))).isfinite()


@each_size
def test_maps_through_the_regressor(student: int, teacher: int) -> None:
    s, t = (output(maps) for maps in shapes(student, teacher))
    loss = FitNet(*shapes(student, teacher)).double()
    assert loss.nodes == "map" and loss.reads == ("maps",)
    torch.testing.assert_close(loss(s, t), expected(loss, s.maps[2], t.maps[2]), rtol=1e-10, atol=0)


def test_another_stage() -> None:
    maps = shapes(4, 4)
    s, t = (output(side) for side in maps)
    loss = FitNet(*maps, stage=1).double()
    torch.testing.assert_close(loss(s, t), expected(loss, s.maps[1], t.maps[1]), rtol=1e-10, atol=0)


@pytest.mark.parametrize("nodes", ["embedding", "feature"])
@pytest.mark.parametrize("with_shapes", [False, True])
def test_vectors_are_compared_as_they_are(nodes: Part, with_shapes: bool) -> None:
    maps = shapes(4, 4)
    s, t = (output(side) for side in maps)
    loss = FitNet(*maps, nodes=nodes) if with_shapes else FitNet(nodes=nodes)
    assert loss.reads == (nodes,) and not list(loss.parameters())
    a, b = getattr(s, nodes).tolist(), getattr(t, nodes).tolist()
    total = sum((x - y) ** 2 for row, other in zip(a, b, strict=True) for x, y in zip(row, other, strict=True))
    assert loss(s, t).item() == pytest.approx(total / (N * len(a[0])), rel=1e-12)


def test_without_shapes_it_reads_embeddings() -> None:
    student, teacher = output(()), output(())
    assert FitNet().reads == ("embedding",)
    assert torch.equal(FitNet()(student, teacher), FitNet(nodes="embedding")(student, teacher))


@each_size
def test_gradient_reaches_the_stage_and_the_regressor_and_nothing_else(student: int, teacher: int) -> None:
    s, t = (output(maps) for maps in shapes(student, teacher))
    for stage in (*s.maps, *t.maps):
        stage.requires_grad_()
    loss = FitNet(*shapes(student, teacher)).double()
    torch.autograd.backward(loss(s, t))
    assert all(stage.grad is None for stage in (*s.maps[:2], *t.maps))
    learnt = [s.maps[2], *loss.parameters()]
    assert len(learnt) == 4 and all(x.grad is not None and x.grad.any() for x in learnt)
    assert list(loss.teacher_parameters()) == []


def test_gradcheck() -> None:
    loss, teacher = FitNet(((2, 4, 4),), ((2, 2, 2),), stage=0).double(), output(((2, 2, 2),))

    def value(stage: Tensor) -> Tensor:
        found: Tensor = loss(Output(torch.zeros(N, 2), maps=(stage,)), teacher)
        return found

    assert torch.autograd.gradcheck(value, torch.randn(N, 2, 4, 4).double().requires_grad_())
    x = torch.randn(N, 4).double()
    assert torch.autograd.gradcheck(lambda y: FitNet()(y, x), torch.randn(N, 4).double().requires_grad_())


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@each_size
def test_half_precision_is_compared_in_float32(student: int, teacher: int, dtype: torch.dtype, autocast: bool) -> None:
    s, t = (
        given._replace(maps=tuple(stage.to(dtype) for stage in given.maps))
        for given in (output(maps) for maps in shapes(student, teacher))
    )
    leaf = s.maps[2].requires_grad_()
    loss = FitNet(*shapes(student, teacher))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        value = loss(s, t)
    assert value.dtype == torch.float32
    assert torch.autograd.grad(value, leaf)[0].isfinite().all()
    torch.testing.assert_close(value.double(), loss.double()(s, t), rtol=0.02 if autocast else 1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_of_vectors(dtype: torch.dtype) -> None:
    student, teacher = torch.full((2, 3), 60000.0).to(dtype).requires_grad_(), torch.zeros(2, 3).to(dtype)
    value = FitNet()(student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, student.float().square().mean())
    assert torch.autograd.grad(value * 1e-4, student)[0].isfinite().all()


def test_maps_of_zeros_and_one_image_are_finite() -> None:
    maps = shapes(4, 4)
    loss = FitNet(*maps).double()
    dead = output(maps[0], 1)._replace(
        maps=tuple(torch.zeros(1, *shape).double().requires_grad_() for shape in maps[0])
    )
    teacher = output(maps[1], 1)
    value = loss(dead, teacher)
    assert value.item() == pytest.approx(teacher.maps[2].square().mean().item(), rel=1e-12)
    assert torch.autograd.grad(value, dead.maps[2])[0].isfinite().all()
    assert FitNet()(teacher, teacher) == 0


def test_its_term_has_a_name_and_two_calls_are_equal() -> None:
    maps = shapes(8, 4)
    student, teacher = (output(side) for side in maps)
    loss = FitNet(*maps).double()
    state = {name: value.clone() for name, value in loss.state_dict().items()}
    assert list(loss.terms(student, teacher)) == ["fitnet"] and loss.weight == 100
    assert list(FitNet().terms(student, teacher)) == ["fitnet"]
    assert torch.equal(loss(student, teacher), loss(student, teacher))
    assert all(torch.equal(value, state[name]) for name, value in loss.state_dict().items())


def test_its_layers_follow_the_seed() -> None:
    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in FitNet(*shapes(8, 4)).parameters()])

    assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))


MAPS = shapes(8, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nodes": "pixel"}, "unknown nodes 'pixel' (known: embedding, feature, map)"),
        (
            {"nodes": "map"},
            "FitNet compares maps by a regressor: expected the shapes of both networks' maps, got none",
        ),
        (
            {"student_maps": MAPS[0]},
            "FitNet needs the shapes of both networks' maps or of neither, got the student's alone",
        ),
        (
            {"teacher_maps": MAPS[0]},
            "FitNet needs the shapes of both networks' maps or of neither, got the teacher's alone",
        ),
        (
            {"student_maps": MAPS[0], "teacher_maps": ()},
            "FitNet reads stage maps, the maps=(...) of an Output: "
            "expected at least 3 of student and teacher (stem and 2 stages), got 3 and 0",
        ),
        (
            {"student_maps": MAPS[0], "teacher_maps": MAPS[1], "stage": 3},
            "FitNet reads stage maps, the maps=(...) of an Output: "
            "expected at least 4 of student and teacher (stem and 3 stages), got 3 and 4",
        ),
        ({"student_maps": MAPS[0], "teacher_maps": MAPS[1], "stage": -1}, "stage must be at least 0, got -1"),
    ],
)
def test_what_its_constructor_refuses(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        FitNet(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(("student", "teacher"), [((), ()), (MAPS[0], ())])
def test_a_run_without_maps_is_refused_unless_vectors_are_asked_for(student: Shapes, teacher: Shapes) -> None:
    run = RunFacts(4, 3, 3, student, teacher)
    with pytest.raises(RelgraphError, match=rf"\(stem and 2 stages\), got {len(student)} and 0$"):
        FitNet.for_run(run)
    assert FitNet.for_run(run, nodes="feature").weight == 1


def test_what_its_call_refuses() -> None:
    loss = FitNet(*MAPS).double()
    student, teacher = (output(side) for side in MAPS)
    message = (
        "FitNet reads stage maps, the maps=(...) of an Output: "
        "expected at least 3 of student and teacher (stem and 2 stages), got 3 and 0"
    )
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        loss(student, teacher.embedding)
    message = "FitNet was built for stage maps (3, 8, 8) and (4, 4, 4), got (4, 4, 4) and (3, 8, 8)"
    with pytest.raises(RelgraphError, match=f"^{re.escape(message)}$"):
        loss(teacher, student)
    with pytest.raises(RelgraphError, match=r"^stage maps must be \(N, C, H, W\)"):
        loss(student, output(MAPS[1], 2))
    with pytest.raises(RelgraphError, match=r"embeddings of one width: .*, got 4 and 5$"):
        FitNet()(torch.zeros(2, 4), torch.zeros(2, 5))
