"""From a recipe to networks, data and optimisers: what is built, from which seed, and what is refused."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from relgraph.data.views import prepare
from relgraph.errors import RelgraphError
from relgraph.methods import EGA, KD, METHODS, SP, SSKD, Batch, Method, Output, RunFacts, Sum, Views
from relgraph.names import build_backbone, load_student, load_teacher
from relgraph.networks.backbone import map_shapes
from relgraph.networks.files import load_head, load_ss_head, save_network, save_ss_head
from relgraph.networks.heads import Projector
from relgraph.networks.teachers import Teacher
from relgraph.training.building import open_data, open_fabric, open_teacher, parse_arguments
from relgraph.training.hardware import native_bf16
from relgraph.training.inputs import teacher_input
from relgraph.training.loop import train, train_epoch
from relgraph.training.objective import Distiller
from relgraph.training.recipe import Recipe
from relgraph.training.setup import Setup, build, new_distiller, reads_maps
from relgraph.training.teacher_features import Online

RecipeMaker = Callable[..., Recipe]
Runs = Callable[[str], Path]


def part(module: Distiller, name: str) -> nn.Module:
    """Return the method of that name, of those that a distiller compares."""
    assert isinstance(module.method, Sum)
    return module.method.parts[name]


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
    batch = Batch(torch.arange(2), setup.data.train.labels[:2])
    seen = setup.feed(images, batch, torch.Generator()).teacher
    assert seen is not None
    assert len(seen.maps) == maps


class Curious(Method):
    """Keeps what it is told of the run, and what it gets of each batch."""

    facts: RunFacts

    def __post_init__(self) -> None:
        super().__post_init__()
        self.given: list[tuple[Output, Output, Batch | None, bool]] = []

    @classmethod
    def for_run(cls, run: RunFacts, **options: Any) -> "Curious":
        return cls(run, **options)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> dict[str, torch.Tensor]:
        self.given.append((student, teacher, batch, self.training))
        return {"curious": student.embedding.sum()}


def test_a_method_is_told_the_facts_and_rehearses(make: RecipeMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch of zeros in the shapes of the run, in evaluation mode; then it is ready for training."""
    monkeypatch.setitem(METHODS, "curious", Curious)
    recipe = make(method="curious", student="resnet8x4")
    data, teacher = open_data(recipe), open_teacher(recipe)
    module = new_distiller(recipe, data, teacher)
    method = part(module, "curious")
    assert isinstance(method, Curious) and method.training
    maps = map_shapes(module.student.backbone, 3, 8)
    facts, labels = method.facts, method.facts.labels
    assert (facts.dim, facts.student_width, facts.teacher_width, facts.images) == (16, 256, 64, 36)
    assert (facts.student_maps, facts.teacher_maps, facts.ss_head) == (maps, teacher.map_shapes(), None)
    assert labels is not None and torch.equal(labels, data.train.labels) and set(labels.tolist()) == {-1, 0, 1, 2}
    ((student, seen, batch, training),) = method.given
    assert batch is not None and not training
    for output, width, shapes in ((student, 256, maps), (seen, 64, teacher.map_shapes())):
        assert output.embedding.shape == (12, 16) and output.logits is not None and output.logits.shape == (12, 3)
        assert output.feature is not None and output.feature.shape == (12, width)
        assert tuple(stage.shape for stage in output.maps) == tuple((12, *shape) for shape in shapes)
        assert not any(part.any() for part in (output.embedding, output.feature, *output.maps))
    assert torch.equal(batch.indices, torch.arange(12)) and torch.equal(batch.labels, labels[:12])
    few = part(new_distiller(make(method="curious", batch_size=64), data, teacher), "curious")
    assert isinstance(few, Curious) and len(few.given[0][0].embedding) == 36, "no more than there are images"


def test_a_method_s_own_option_wins_over_the_run_s(make: RecipeMaker) -> None:
    kd = part(build(make(method="kd", temperature=5.0, method_args=("temperature=2",))).objective, "kd")
    assert isinstance(kd, KD) and kd.temperature == 2
    given = make(method="ega+sp", edge_weight=0.1, graph="knn", k=3, method_args=("node_weight=2", "sp.k=4"))
    module = build(given).objective
    ega, sp = part(module, "ega"), part(module, "sp")
    assert isinstance(ega, EGA) and isinstance(sp, SP)
    assert (ega.node_weight, ega.edge_weight, ega.graph, ega.k, sp.graph, sp.k) == (2, 0.1, "knn", 3, "knn", 4)


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
    options |= {"teacher_mean": (0.25,), "teacher_std": (0.5,)}  # the embedded teacher's own are those of digits
    teacher, setup = open_teacher(make(**options)), build(make(**options))
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
    """What it computes is measured by `make bench`: compiling takes half a minute and a C++ compiler."""
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
        ({"method": "crd", "method_args": ("tau=0",)}, r"^tau must be above 0, got 0\.0$"),
        ({"method": "sp", "refine": "conv"}, r"^a learned refinement trains the teacher's side by its classifier"),
        ({"alpha": 1.0, "temperature": 0.0}, r"^temperature must be above 0, got 0\.0$"),
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


def backbone_of(setup: Setup) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in setup.student.backbone.state_dict().items()}


@pytest.mark.parametrize("given", ["run", "file"])
def test_a_student_starts_from_the_backbone_of_a_run(given: str, make: RecipeMaker, finished: Runs) -> None:
    path = finished("seed") if given == "run" else finished("seed") / "student.safetensors"
    plain, setup = (build(make(method="none", init_from=start)) for start in (None, str(path)))
    stored, _ = load_student(path)
    found = backbone_of(setup)
    assert list(found) == list(backbone_of(plain))
    assert all(torch.equal(found[name], tensor) for name, tensor in stored.backbone.state_dict().items())
    assert not torch.equal(found["stem.0.weight"], backbone_of(plain)["stem.0.weight"])
    head = setup.student.head.project.weight
    assert not torch.equal(head, stored.head.project.weight), "the head is a new one, for other classes"
    trained = {id(p) for group in setup.student_optimiser.param_groups for p in group["params"]}
    assert trained == {id(p) for p in setup.student.parameters()} and setup.student.backbone.training


def test_a_student_starts_from_a_pre_training(make: RecipeMaker, tmp_path: Path) -> None:
    backbone = build_backbone("resnet8", 3)
    parts = nn.ModuleDict({"backbone": backbone, "projector": Projector(64, 16)})
    info: dict[str, Any] = {"backbone": "resnet8", "in_channels": 3, "image_size": 8, "mean": [0.5], "std": [0.5]}
    save_network(tmp_path / "network.safetensors", parts, info)
    for method in ("none", "kd"):
        found = backbone_of(build(make(method=method, init_from=str(tmp_path))))
        assert all(torch.equal(found[name], tensor) for name, tensor in backbone.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"student": "resnet14"}, r"seed holds a resnet8: expected a resnet14, the student$"),
        ({"init_from": "nowhere"}, r"^cannot read the network file nowhere: [^\n]*$"),
        ({"dataset": "digits"}, r"is of another architecture: stem\.0\.weight is \(16, 1, 3, 3\) in the network, "),
    ],
)
def test_what_no_student_can_start_from(
    options: dict[str, Any], message: str, make: RecipeMaker, finished: Runs, tmp_path: Path
) -> None:
    with pytest.raises(RelgraphError, match=message):
        build(make(**{"method": "none", "init_from": str(finished("seed")), **options}))
    with pytest.raises(RelgraphError, match=r"holds no network: expected network\.safetensors of a pre-training or"):
        build(make(method="none", init_from=str(tmp_path)))


@pytest.fixture
def owner(finished: Runs) -> dict[str, Any]:
    """Return the options of a run whose teacher is a student of the same classes and brings its head."""
    return {"teacher": f"checkpoint:{finished('kd')}", "teacher_head": "own"}


@pytest.mark.parametrize(
    "options", [{"method": "kd", "dim": 24}, {"method": "ega"}, {"method": "ega", "refine": "conv"}]
)
def test_a_teacher_keeps_its_own_head(
    options: dict[str, Any], make: RecipeMaker, owner: dict[str, Any], finished: Runs
) -> None:
    """Its logits are those of the run that it comes from, before the training and after it."""
    setup = build(make(**owner, **options))
    source, info = load_student(finished("kd"))
    head = setup.objective.teacher_head
    assert head is not None and not any(p.requires_grad for p in head.parameters())
    images = next(setup.batches([torch.arange(6)]))
    prepared = prepare(images, None, 3, info["mean"], info["std"])
    batch = Batch(torch.arange(6), setup.data.train.labels[:6])
    given = setup.feed(images, batch, torch.Generator().manual_seed(1))
    assert given.teacher is not None
    embedding, logits = head(given.teacher.pooled)
    expected = source(prepare(given.images, None, 3, info["mean"], info["std"]))
    torch.testing.assert_close((embedding, logits), (expected.embedding, expected.logits))
    assert not torch.equal(prepared, prepare(given.images, None, 3, info["mean"], info["std"])), "a view of its own"
    row = train_epoch(setup, 0)
    assert all(torch.equal(tensor, source.head.state_dict()[name]) for name, tensor in head.state_dict().items())
    assert row["teacher_head"] > 0, "its cross-entropy is told, and teaches nothing"
    trained = {id(p) for group in setup.teacher_optimiser.param_groups for p in group["params"]}
    assert trained.isdisjoint(id(p) for p in head.parameters()) and bool(trained) == ("refine" in options)


def test_the_own_head_teaches_sskd(make: RecipeMaker, owner: dict[str, Any], finished: Runs, tmp_path: Path) -> None:
    teacher = load_teacher(owner["teacher"])
    save_ss_head(tmp_path / "ss_head.safetensors", Projector(64, 64), teacher="x", fingerprint=teacher.fingerprint())
    setup = build(make(**owner, method="sskd", ss_head=str(tmp_path)))
    sskd = part(setup.objective, "sskd")
    assert (
        isinstance(sskd, SSKD)
        and sskd.ss_head is not None
        and setup.note.startswith("teacher: online, in every step (sskd")
    )
    before = deepcopy(sskd.ss_head.state_dict())
    row = train_epoch(setup, 0)
    assert all(row[name] > 0 for name in ("cross_entropy", "kd", "transformed", "self_supervision", "teacher_head"))
    assert setup.objective.teacher_head is not None
    own, now = load_head(finished("kd"))[0].state_dict(), setup.objective.teacher_head.state_dict()
    assert all(torch.equal(own[name], now[name]) for name in own)
    after = sskd.ss_head.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 24}, r"^ega does not compare embeddings of width 24 with those of the teacher's own head, 16: use "
         r"--dim 16 \(matching nodes needs embeddings of one width: .*, got 24 and 16\)$"),
        ({"dim": 24, "method": "pkt", "nodes": "embedding", "refine": "conv"},
         r"^pkt does not compare embeddings of width 24 .*, 16: use --dim 16 \([^\n]*\)$"),
        ({"dataset": "digits", "method": "kd", "labels_per_class": 0},
         r"^teacher_head 'own' needs a teacher of the same classes: expected the 10 of digits, got 3 or other"),
        ({"dataset": "unlabelled", "method": "seed"},
         r"^teacher_head 'own' needs a teacher of the same classes: expected the 0 of folder:.*, got 3 or other names"),
        ({"teacher": "checkpoint:nowhere", "method": "kd"}, r"^cannot read the network file nowhere"),
    ],
)  # fmt: skip
def test_an_own_head_that_does_not_fit(
    options: dict[str, Any], message: str, make: RecipeMaker, owner: dict[str, Any]
) -> None:
    with pytest.raises(RelgraphError, match=message):
        build(make(**{**owner, **options}))


def test_methods_that_compare_relations_take_any_width_of_an_own_head(make: RecipeMaker, owner: dict[str, Any]) -> None:
    setup = build(make(**owner, method="pkt", nodes="embedding", dim=24))
    assert setup.student.head.project.out_features == 24


def test_a_pre_training_has_no_head_of_its_own(make: RecipeMaker, tmp_path: Path) -> None:
    parts = nn.ModuleDict({"backbone": build_backbone("resnet8", 3), "projector": Projector(64, 16)})
    info = {"backbone": "resnet8", "in_channels": 3, "image_size": 8, "mean": [0.5] * 3, "std": [0.5] * 3}
    save_network(tmp_path / "network.safetensors", parts, info)
    with pytest.raises(
        RelgraphError, match=r"holds no classifier: expected the student\.safetensors of a training run"
    ):
        build(make(method="kd", teacher=f"checkpoint:{tmp_path}", teacher_head="own"))


def test_the_head_of_self_supervision_reaches_the_method(make: RecipeMaker, ss_head: Path) -> None:
    setup = build(make(method="sskd"))
    sskd = part(setup.objective, "sskd")
    assert isinstance(sskd, SSKD) and sskd.ss_head is not None
    stored, _ = load_ss_head(ss_head, 64)
    found = sskd.ss_head.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in stored.state_dict().items()) and len(found) == 4
    trained = {
        id(p) for o in (setup.student_optimiser, setup.teacher_optimiser) for g in o.param_groups for p in g["params"]
    }
    assert trained == {id(p) for p in setup.distiller.parameters()}
    assert not any("ss_head" in name for name, _ in setup.distiller.named_parameters())


def test_a_head_of_self_supervision_of_another_teacher(make: RecipeMaker, finished: Runs, tmp_path: Path) -> None:
    """By its width, or by the fingerprint of the teacher's weights."""
    other = f"checkpoint:{finished('kd')}"
    with pytest.raises(
        RelgraphError,
        match=r"^the self-supervision head in .* was trained for another teacher: embedded:digits, or other weights of "
        r"it, than checkpoint:.*kd$",
    ):
        build(make(method="sskd", teacher=other))
    save_ss_head(tmp_path / "wide", Projector(128, 128), teacher="wide", fingerprint="0")
    with pytest.raises(RelgraphError, match=r"wide was trained for a teacher of width 128, this one has 64$"):
        build(make(method="sskd", ss_head=str(tmp_path / "wide")))
    with pytest.raises(RelgraphError, match=r"was trained on transformations=rotations, sskd asks for all: train one"):
        build(make(method="sskd", method_args=("transformations=all",)))
    with pytest.raises(RelgraphError, match=r"^cannot read the self-supervision head file .*ss_head\.safetensors: "):
        build(make(method="sskd", ss_head=str(tmp_path)))
    with pytest.raises(
        RelgraphError,
        match=r"given by --ss-head RUN: `relgraph pretrain --objective sskd-head --teacher \.\.\.` trains",
    ):
        build(make(method="sskd", ss_head=None))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"method": "ega"},
            r"^folder:.* has no labels, and method ega learns from labels here: seed, moco, infonce and ",
        ),
        ({"method": "none"}, r"has no labels, and method none learns from labels"),
        ({"method": "kd", "gamma": 0.0}, r"has no labels, and method kd learns from labels"),
        ({"method": "seed+kd"}, r"has no labels, and method seed\+kd learns from labels"),
        ({"method": "seed", "alpha": 0.5}, r"has no labels, and method seed learns from labels"),
        ({"method": "seed", "gamma": 1.0}, r"has no labels, and method seed learns from labels"),
        (
            {"method": "seed", "teacher_head": "sequential"},
            r"has no labels, from which a sequential teacher_head learns",
        ),
        ({"method": "seed", "labels_per_class": 2}, r"has no labels to hide or to change"),
    ],
)
def test_images_without_labels_for_what_needs_them(options: dict[str, Any], message: str, make: RecipeMaker) -> None:
    recipe = make(dataset="unlabelled")
    with pytest.raises(RelgraphError, match=message):
        build(replace(recipe, **options))


@pytest.mark.parametrize("options", [{"method": "seed"}, {"gamma": 0.0}, {"method": "crd", "gamma": 0.0}])
def test_images_without_labels_for_what_needs_none(options: dict[str, Any], make: RecipeMaker) -> None:
    setup = build(make(dataset="unlabelled", **options))
    assert setup.description()["classes"] == [] and len(setup.data.val) == 0
    assert setup.objective.teacher_head is not None
    logits = [setup.student.head.classify.out_features, setup.objective.teacher_head.classify.out_features]
    assert logits == [1, 1], "a layer without outputs would be warned of"


def test_what_a_method_is_shown_of_extra_views(make: RecipeMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    class Asking(Curious):
        views = Views("rotations", 3)

    monkeypatch.setitem(METHODS, "extra", Asking)
    setup = build(make(method="extra"))
    method = part(setup.objective, "extra")
    assert isinstance(method, Asking)
    ((student, teacher, _, _),) = method.given
    for output in (student, teacher):
        assert output.extra is not None and output.extra.logits is not None
        assert output.extra.embedding.shape == (36, 16) and output.extra.logits.shape == (36, 3)
        assert output.extra.feature is not None and output.extra.feature.shape == (36, 64)
    row = train_epoch(setup, 0)
    (shown, seen, batch, _), *_ = method.given[1:]
    assert shown.extra is not None and seen.extra is not None and batch is not None
    assert len(shown.extra.embedding) == len(seen.extra.embedding) == 3 * len(batch.indices) == 36
    told = "teacher: online, in every step (extra reads the teacher's outputs of 3 extra views of an image)"
    assert "curious" in row and setup.note.startswith(told)


def test_a_head_that_no_class_teaches_stays_as_it_is(make: RecipeMaker) -> None:
    """Its cross-entropy is 0 on images without labels: weight decay alone would shrink it, step by step."""
    setup = build(make(dataset="unlabelled", method="ega", gamma=0))
    head = setup.objective.teacher_head
    assert head is not None and list(setup.objective.teacher_parameters()) == []
    before = deepcopy(head.state_dict())
    row = train_epoch(setup, 0)
    assert row["edge"] > 0 and all(torch.equal(before[name], tensor) for name, tensor in head.state_dict().items())
