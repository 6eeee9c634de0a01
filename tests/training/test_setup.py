"""From a recipe to networks, data and optimisers: what is built, from which seed, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from relgraph.errors import RelgraphError
from relgraph.methods import EGA, KD, METHODS, SP, Batch, Method, Output, Sum
from relgraph.networks.backbone import map_shapes
from relgraph.networks.teachers import Teacher
from relgraph.training.hardware import native_bf16
from relgraph.training.inputs import teacher_input
from relgraph.training.loop import train
from relgraph.training.objective import Distiller
from relgraph.training.recipe import Recipe
from relgraph.training.setup import (
    build,
    new_distiller,
    open_data,
    open_fabric,
    open_teacher,
    parse_arguments,
    reads_maps,
)
from relgraph.training.teaching import Online

RecipeMaker = Callable[..., Recipe]


def test_one_seed_gives_one_start(make: RecipeMaker) -> None:
    first, same, other = (build(make(seed=seed)) for seed in (3, 3, 4))
    weights = [setup.distiller.state_dict() for setup in (first, same, other)]
    assert list(weights[0]) == list(weights[1]) == list(weights[2])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])
    assert torch.equal(first.data.train.labels, same.data.train.labels)
    assert not torch.equal(first.data.train.labels, other.data.train.labels)


def test_student_starts_alike_whatever_the_method(make: RecipeMaker) -> None:
    """So that a comparison of methods at one seed is not one of starting points."""
    states = [
        build(make(**options)).student.state_dict()
        for options in (
            {},
            {"method": "none"},
            {"method": "sp"},
            {"method": "crd+kd"},
            {"graph": "knn", "k": 3, "refine": "conv"},
        )
    ]
    assert all(torch.equal(states[0][name], other[name]) for other in states[1:] for name in states[0])


@pytest.mark.parametrize(
    "options",
    [{"graph": "knn", "k": 3, "refine": "conv"}, {"method": "crd"}, {"method": "crd+0.5*ega", "refine": "conv"}],
)
def test_each_parameter_has_one_optimiser(make: RecipeMaker, options: dict[str, Any]) -> None:
    setup = build(make(lr=0.3, teacher_lr=0.02, momentum=0.7, weight_decay=0.1, **options))
    student, teacher = (
        [id(p) for group in optimiser.param_groups for p in group["params"]]
        for optimiser in (setup.student_optimiser, setup.teacher_optimiser)
    )
    trained = {id(p) for p in setup.distiller.parameters()}
    assert len(student) + len(teacher) == len(trained)
    assert {*student, *teacher} == trained
    assert setup.student_optimiser.param_groups[0]["lr"] == 0.3
    assert setup.teacher_optimiser.param_groups[0]["lr"] == 0.02
    for optimiser in (setup.student_optimiser, setup.teacher_optimiser):
        assert optimiser.param_groups[0]["momentum"] == 0.7
        assert optimiser.param_groups[0]["weight_decay"] == 0.1


@pytest.mark.parametrize(
    ("options", "has_teacher"), [({"method": "none"}, False), ({"method": "none", "alpha": 1.0}, True), ({}, True)]
)
def test_a_teacher_is_loaded_where_something_reads_it(
    make: RecipeMaker, options: dict[str, Any], has_teacher: bool
) -> None:
    setup = build(make(**options))
    assert (setup.distiller.teacher_head is not None) == has_teacher
    assert bool(list(setup.distiller.teacher_parameters())) == has_teacher
    assert isinstance(setup.objective, Distiller) and setup.student is setup.objective.student


@pytest.mark.parametrize(
    ("method", "reads"),
    [
        (None, False),
        (KD(), False),
        (EGA(), False),
        (SP(), True),
        (SP(nodes="feature"), False),
        (Sum({"kd": (1.0, KD()), "sp": (1.0, SP())}), True),
        (Sum({"kd": (1.0, KD()), "ega": (1.0, EGA())}), False),
    ],
)
def test_methods_that_read_stage_maps(method: Method | None, reads: bool) -> None:
    assert reads_maps(method) == reads


@pytest.mark.parametrize(("options", "maps"), [({"method": "sp"}, 4), ({"method": "sp", "nodes": "feature"}, 0)])
def test_the_teacher_hands_on_maps_where_the_method_reads_them(
    make: RecipeMaker, options: dict[str, Any], maps: int
) -> None:
    setup = build(make(**options))
    assert isinstance(setup.feed, Online)
    images = next(setup.batches([torch.arange(2)]))
    seen = setup.feed(images, torch.arange(2), torch.Generator()).seen
    assert seen is not None
    assert len(seen.maps) == maps


class Curious(Method):
    """Keeps what its constructor and its first batch get."""

    def __init__(
        self,
        dim: int,
        student_width: int,
        teacher_width: int,
        student_maps: Any,
        teacher_maps: Any,
        images: int,
        labels: torch.Tensor,
    ) -> None:
        super().__init__()
        self.facts = (dim, student_width, teacher_width, student_maps, teacher_maps, images, labels)
        self.given: list[tuple[Output, Output, Batch | None, bool]] = []

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> dict[str, torch.Tensor]:
        self.given.append((student, teacher, batch, self.training))
        return {"curious": student.embedding.sum()}


def test_a_method_is_told_the_facts_and_rehearses(make: RecipeMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch of zeros in the shapes of the run, in evaluation mode; then it is ready for training."""
    monkeypatch.setitem(METHODS, "curious", Curious)
    recipe = make(method="curious", student="resnet8x4")
    data, teacher = open_data(recipe), open_teacher(recipe)
    module = new_distiller(recipe, data, teacher)
    method = module.method
    assert isinstance(method, Curious) and method.training
    maps = map_shapes(module.student.backbone, 3, 8)
    *facts, labels = method.facts
    assert facts == [16, 256, 64, maps, teacher.map_shapes(), 36]
    assert torch.equal(labels, data.train.labels) and set(labels.tolist()) == {-1, 0, 1, 2}
    ((student, seen, batch, training),) = method.given
    assert batch is not None and not training
    for output, width, shapes in ((student, 256, maps), (seen, 64, teacher.map_shapes())):
        assert output.embedding.shape == (12, 16) and output.logits is not None and output.logits.shape == (12, 3)
        assert output.feature is not None and output.feature.shape == (12, width)
        assert tuple(stage.shape for stage in output.maps) == tuple((12, *shape) for shape in shapes)
        assert not any(part.any() for part in (output.embedding, output.feature, *output.maps))
    assert torch.equal(batch.indices, torch.arange(12)) and torch.equal(batch.labels, labels[:12])
    few = new_distiller(make(method="curious", batch_size=64), data, teacher).method
    assert isinstance(few, Curious) and len(few.given[0][0].embedding) == 36, "no more than there are images"


def test_a_rehearsal_leaves_no_trace(make: RecipeMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make(method="crd+kd")
    data, teacher = open_data(recipe), open_teacher(recipe)
    rehearsed = new_distiller(recipe, data, teacher).state_dict()
    monkeypatch.setattr("relgraph.training.setup.rehearse", lambda *_: None)
    plain = new_distiller(recipe, data, teacher).state_dict()
    assert list(rehearsed) == list(plain) and any("bank" in name for name in plain)
    assert all(torch.equal(rehearsed[name], plain[name]) for name in plain)


def test_what_a_method_cannot_read_is_told_before_the_training(
    make: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Teacher, "map_shapes", lambda self: ())  # as of a vision transformer of torchvision
    with pytest.raises(
        RelgraphError,
        match=r"^SP reads the last stage map: expected Output\(embedding, maps=\(\.\.\.\)\) of both networks",
    ):
        train(make(method="sp"), tmp_path / "run")
    with pytest.raises(
        RelgraphError, match=r"^nodes 'map' need stage maps of student and teacher, got none of the teacher$"
    ):
        train(make(method="sp", refine="smooth"), tmp_path / "run")
    with pytest.raises(RelgraphError, match=r"width.*256.*64"):
        train(make(method="nce", nodes="feature", student="resnet8x4"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "ega (dense)"),
        ({"method": "sp+0.9*kd", "graph": "knn", "k": 3}, "sp+0.9*kd (knn)"),
        ({"method": "kd"}, "kd"),
        ({"method": "none"}, "none"),
    ],
)
def test_the_stored_student_says_what_it_learned_by(make: RecipeMaker, options: dict[str, Any], name: str) -> None:
    assert build(make(**options)).description()["objective"] == name


def test_networks_get_the_input_that_they_describe(make: RecipeMaker) -> None:
    setup = build(make())
    images = next(setup.batches([torch.arange(2)]))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (setup.data.mean, setup.data.std))
    torch.testing.assert_close(setup.student_input(images), (images / 255 - mean) / std)
    teacher = open_teacher(make())
    assert teacher_input(teacher, images).shape[1] == teacher.channels == 1
    info = setup.description()
    assert info["classes"] == ["ant", "bee", "cat"] and info["in_channels"] == 3 and info["image_size"] == 8
    assert info["backbone"] == "resnet8" and info["dim"] == 16


def test_the_student_s_images_may_be_normalised_as_the_teacher_s(make: RecipeMaker) -> None:
    """As EGA's official code does, also for a student alone; the stored student says so."""
    options: dict[str, Any] = {"dataset": "digits", "labels_per_class": 0, "normalise": "teacher"}
    teacher, setup = open_teacher(make()), build(make(**options))
    images = next(setup.batches([torch.arange(2)]))
    torch.testing.assert_close(setup.student_input(images), (images / 255 - teacher.mean[0]) / teacher.std[0])
    assert setup.description()["mean"] == list(teacher.mean) and setup.description()["std"] == list(teacher.std)
    alone = build(make(**options, method="none"))
    assert alone.data.mean == teacher.mean != open_data(make(**options)).mean
    with pytest.raises(
        RelgraphError, match=r"^normalise 'teacher' needs images with .* got 3 and 1 of embedded:digits"
    ):
        build(make(normalise="teacher"))


def test_the_whole_student_is_compiled_and_its_weights_keep_their_names(make: RecipeMaker) -> None:
    """What it computes is measured by `relgraph bench`: compiling takes half a minute and a C++ compiler."""
    plain, compiled = build(make()), build(make(compile=True))
    assert list(plain.distiller.state_dict()) == list(compiled.distiller.state_dict())
    assert compiled.student._compiled_call_impl is not None and plain.student._compiled_call_impl is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_no_cuda_where_it_was_asked_for(make: RecipeMaker) -> None:
    with pytest.raises(
        RelgraphError, match=r"^device cuda was asked for, but torch finds no CUDA device here: [^\n]*$"
    ):
        build(make(device="cuda"))


def test_precision_is_what_the_processor_is_fast_at_unless_asked(make: RecipeMaker) -> None:
    assert open_fabric(make(precision="auto"))._precision.precision == ("bf16-mixed" if native_bf16() else "32-true")
    assert open_fabric(make(precision="32-true"))._precision.precision == "32-true"
    assert open_fabric(make(precision="bf16-mixed"))._precision.precision == "bf16-mixed"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"student": "resnet9"}, r"^unknown student 'resnet9'"),
        ({"method": "egg"}, r"^unknown method 'egg': did you mean 'ega'\?"),
        ({"teacher": "embedded:digit"}, r"did you mean '(embedded:)?digits'"),
        ({"teacher": "checkpoint:nowhere.safetensors"}, r"nowhere\.safetensors"),
        ({"node_weight": -1.0}, r"^node_weight must be at least 0, got -1\.0$"),
        ({"method": "crd", "method_args": ("tau=0",)}, r"^tau must be positive, got 0\.0$"),
        ({"method": "sp", "refine": "conv"}, r"^a learned refinement trains the teacher's side by its classifier"),
        ({"alpha": 1.0, "temperature": 0.0}, r"^temperature must be positive, got 0\.0$"),
        ({"labels_per_class": 13}, r"has 12 training images, fewer than the 13 labels"),
        ({"labelled_share": 0.0}, r"^the labelled share of a batch must be above 0 and at most 1, got 0\.0$"),
        ({"graph": "knn", "k": 6, "labelled_share": 1.0}, r"k must be .*5.*6"),  # batches of the 6 labelled images
        ({"graph": "knn", "k": 36, "batch_size": 64, "labels_per_class": 0}, r"k must be .*35.*36"),
    ],
)
def test_what_does_not_fit(make: RecipeMaker, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RelgraphError, match=message):
        build(make(**options))


def test_a_missing_folder(make: RecipeMaker, tmp_path: Path) -> None:
    with pytest.raises(RelgraphError, match=r"nowhere: no such folder$"):
        build(make(dataset=f"folder:{tmp_path / 'nowhere'}"))


def test_arguments_of_a_teacher_are_typed() -> None:
    found = parse_arguments(("a=1", "b=0.5", "c=true", "d=same", "e=x=y"))
    assert found == {"a": 1, "b": 0.5, "c": True, "d": "same", "e": "x=y"}
    assert [type(value) for value in found.values()] == [int, float, bool, str, str]
    with pytest.raises(RelgraphError, match=r"^the value of the teacher argument 'a' is not valid: '\[1'$"):
        parse_arguments(("a=[1",))
    for wrong in ("a", "=1"):
        with pytest.raises(RelgraphError, match=rf"^teacher arguments must be name=value, got '{wrong}'$"):
            parse_arguments((wrong,))


def test_without_validation_images_only_the_test_split_can_select() -> None:
    data = open_data(Recipe(val_fraction=0.0, select="test"))
    assert len(data.val) == 0 and len(data.train) + len(data.test) == 1797
    with pytest.raises(RelgraphError, match=r"^picking the best epoch needs validation images"):
        open_data(Recipe(val_fraction=0.0, select="val"))
