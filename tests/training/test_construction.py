"""New networks and methods: one start for all methods, a rehearsal without trace, given backbones and heads."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from relgraph.graph.criteria import huber
from relgraph.graph.scales import by_mean
from relgraph.methods import EGA, KD, METHODS, SP, SSKD, Batch, Method, Output, RunFacts, Sum
from relgraph.names import build_backbone, open_student
from relgraph.networks.backbone import map_shapes
from relgraph.networks.files import load_ss_head, save_network, save_ss_head
from relgraph.networks.heads import Projector
from relgraph.networks.teachers import Teacher
from relgraph.training.building import open_data, open_teacher
from relgraph.training.distillation import build, new_distiller, open_task, train
from relgraph.training.epochs import train_epoch
from relgraph.training.objective import Distiller
from relgraph.training.recipe import Recipe
from tests.checks import assert_refused_like
from tests.training.conftest import RecipeMaker, Runs, equal, part, states

PRETRAINED: dict[str, Any] = {"backbone": "resnet8", "in_channels": 3, "image_size": 8, "mean": [0.5] * 3,
                              "std": [0.5] * 3}  # fmt: skip


def new(recipe: Recipe) -> Distiller:
    teacher = open_teacher(recipe) if recipe.uses_teacher else None
    return new_distiller(recipe, open_task(recipe, open_data(recipe), torch.device("cpu")), teacher)


def test_student_starts_alike_whatever_the_method(make: RecipeMaker) -> None:
    """So that a comparison of methods at one seed is not one of starting points."""
    first = states(new(make()).student)
    others = {"method": "none"}, {"method": "sp"}, {"method": "crd+kd"}, {"graph": "knn", "k": 3, "refine": "conv"}
    for options in others:
        assert equal(states(new(make(**options)).student), first)
    assert not equal(states(new(make(seed=1)).student), first)


def test_slow_layers_of_a_small_student_are_in_float32(make: RecipeMaker) -> None:
    """Those that `depthwise_in_float32` finds; names and first weights are those of the network as it is."""
    recipe = make(student="mobilenetv2", method="none")
    found = new(recipe).student.backbone
    assert "Float32Conv2d" in {type(layer).__name__ for layer in found.modules()}
    torch.manual_seed(recipe.seed)
    assert equal(states(found), states(build_backbone("mobilenetv2", 3, image_size=8)))


def test_batch_norm_that_would_see_one_value_is_refused_before_the_training(make: RecipeMaker) -> None:
    """torch raises it in the first step; a network whose last maps are larger than 1 x 1 takes parts of one image."""
    one = make(student="mobilenetv2", method="none", batch_size=4, accumulate=4)
    told = (
        "^mobilenetv2 has batch norm, which takes no statistics of one image \\(Expected more than 1 value .*\\): "
        "choose a larger batch_size, or a smaller accumulate$"
    )
    assert_refused_like((lambda: new(one), told))
    two = new(make(student="mobilenetv2", method="none", batch_size=4, accumulate=2))
    assert equal(states(two.student), states(new(make(student="mobilenetv2", method="none")).student))
    assert new(make(method="none", batch_size=4, accumulate=4)).student.training


def test_the_parts_of_a_recipe_reach_the_method(make: RecipeMaker) -> None:
    method = new(
        make(method="ega+rkd", kernel="gaussian:0.4", criterion="huber", method_args=("scale=by_mean",))
    ).method
    assert isinstance(method, Sum) and isinstance(method.parts["ega"], EGA)
    relation = method.parts["ega"].relation
    assert relation is not None
    assert (relation.kernel.name, relation.scale, relation.criterion) == ("gaussian", by_mean, huber)


class Curious(Method):
    """Keeps what it is told of the run, and what it gets of each batch."""

    facts: RunFacts

    def __post_init__(self) -> None:
        super().__post_init__()
        self.given: list[tuple[Output, Output, Batch | None, bool]] = []

    @classmethod
    def for_run(cls, run: RunFacts, **options: Any) -> "Curious":
        return cls(run, **options)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> dict[str, Tensor]:
        self.given.append((student, teacher, batch, self.training))
        return {"curious": student.embedding.sum()}


def test_a_method_is_told_the_facts_and_rehearses(make: RecipeMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch of zeros in the shapes of the run, in evaluation mode; then it is ready for training."""
    monkeypatch.setitem(METHODS, "curious", Curious)
    recipe = make(method="curious", student="resnet8x4")
    data, teacher, module = open_data(recipe), open_teacher(recipe), new(recipe)
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
        assert output.feature is not None and output.feature.shape == (12, width) and output.extra is None
        assert tuple(stage.shape for stage in output.maps) == tuple((12, *shape) for shape in shapes)
        assert not any(x.any() for x in output.tensors())
    assert torch.equal(batch.indices, torch.arange(12)) and torch.equal(batch.labels, labels[:12])
    few = part(new(make(method="curious", batch_size=64)), "curious")
    assert isinstance(few, Curious) and len(few.given[0][0].embedding) == 36, "no more than there are images"


@pytest.mark.parametrize("name", [name for name in METHODS if name != "holistic"])  # which is of score maps
def test_no_built_in_method_is_refused(name: str, make: RecipeMaker) -> None:
    """One was, for the name of a term of its own: MLLD's `batch`."""
    assert new(make(method=name)).method is not None


@pytest.mark.parametrize("name", ["cross_entropy", "loss", "epoch", "train_top1", "val_mine", "teacher_head"])
def test_a_term_is_not_called_like_another_figure_of_the_run(
    name: str, make: RecipeMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a term took the place of the other one in metrics.csv; `cross_entropy` also in what is trained."""

    class Mine(Method):
        def compare(self, student: Output, teacher: Output, batch: Batch | None) -> dict[str, Tensor]:
            return {name: (student.embedding - teacher.embedding).square().mean()}

    monkeypatch.setitem(METHODS, "mine", Mine)
    told = rf"^mine has a term called {name}, as another figure of a run is: expected another name$"
    assert_refused_like((lambda: new(make(method="mine")), told))


def test_an_error_in_a_method_of_ones_own_is_one_sentence(make: RecipeMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    class Faulty(Method):
        def compare(self, student: Output, teacher: Output, batch: Batch | None) -> dict[str, Tensor]:
            return {"faulty": student.norm()}  # type: ignore[attr-defined]

    monkeypatch.setitem(METHODS, "faulty", Faulty)
    told = r"^faulty cannot compare a batch: AttributeError: .* 'norm' \(test_construction.py, line \d+\)$"
    assert_refused_like((lambda: new(make(method="faulty")), told))


def test_a_method_s_own_option_wins_over_the_run_s(make: RecipeMaker) -> None:
    kd = part(new(make(method="kd", temperature=5.0, method_args=("temperature=2",))), "kd")
    assert isinstance(kd, KD) and kd.temperature == 2
    options = {"edge_weight": 0.1, "graph": "knn", "k": 3, "method_args": ("node_weight=2", "sp.k=4")}
    module = new(make(method="ega+sp", **options))
    ega, sp = part(module, "ega"), part(module, "sp")
    assert isinstance(ega, EGA) and isinstance(sp, SP)
    assert (ega.node_weight, ega.edge_weight, ega.graph, ega.k, sp.graph, sp.k) == (2, 0.1, "knn", 3, "knn", 4)


def test_a_rehearsal_leaves_no_trace(make: RecipeMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make(method="crd+kd")
    rehearsed = states(new(recipe))
    monkeypatch.setattr("relgraph.training.distillation.rehearse", lambda *_: None)
    plain = states(new(recipe))
    assert equal(rehearsed, plain) and any("bank" in name for name in plain)


def test_what_a_method_cannot_read_is_told(make: RecipeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Teacher, "map_shapes", lambda self, side: ())  # as of a vision transformer of torchvision
    maps = r"^SP reads the last stage map: expected Output\(embedding, maps=\(\.\.\.\)\) of both networks"
    for options, told in (
        ({"method": "sp"}, maps),
        ({"method": "sp", "refine": "smooth"}, r"^nodes 'map' need stage maps of .*, got none of the teacher$"),
        ({"method": "nce", "nodes": "feature", "student": "resnet8x4"}, r"width.*256.*64"),
    ):
        assert_refused_like((partial(train, make(**options), tmp_path / "run"), told))
    assert not (tmp_path / "run").exists()


# Given networks


@pytest.fixture
def pretrained(tmp_path: Path) -> tuple[Path, nn.Module]:
    """Return the run directory of a pre-training, and its backbone."""
    backbone, path = build_backbone("resnet8", 3), tmp_path / "pretrained"
    path.mkdir()
    both = nn.ModuleDict({"backbone": backbone, "projector": Projector(64, 16)})
    save_network(path / "network.safetensors", both, PRETRAINED)
    return path, backbone


def test_where_a_student_may_start_from(make: RecipeMaker, finished: Runs, pretrained: tuple[Path, nn.Module]) -> None:
    run, (path, backbone) = finished("seed"), pretrained
    stored, _ = open_student(run)
    plain = new(make(method="none")).student
    assert not equal(states(plain.backbone), states(stored.backbone))
    for given, method, expected in (
        (run, "none", stored.backbone),
        (run / "student.safetensors", "none", stored.backbone),
        (path, "none", backbone),
        (path, "kd", backbone),
    ):
        module = new(make(method=method, init_from=str(given)))
        assert equal(states(module.student.backbone), states(expected)) and module.student.backbone.training
        assert not equal(states(module.student.head), states(stored.head)), "the head is a new one, for other classes"
        assert {id(p) for p in module.student_parameters()} == {id(p) for p in module.student.parameters()}
    build(make(method="none", init_from="gone"), restored=True)  # its weights are in a checkpoint


def test_what_no_student_can_start_from(make: RecipeMaker, finished: Runs, tmp_path: Path) -> None:
    run = str(finished("seed"))
    for options, told in (
        ({"init_from": run, "student": "resnet14"}, r"seed holds a resnet8: expected a resnet14, the student$"),
        ({"init_from": "nowhere"}, r"^cannot read the network file nowhere: [^\n]*$"),
        ({"init_from": run, "dataset": "digits"}, r"of another architecture: stem\.0\.weight is \(16, 1, 3, 3\) in "),
        ({"init_from": str(tmp_path)}, r"holds no network: expected network\.safetensors of a pre-training or"),
    ):
        assert_refused_like((partial(new, make(method="none", **options)), told))


@pytest.fixture
def owner(finished: Runs) -> dict[str, Any]:
    """Return the options of a run whose teacher is a student of the same classes and brings its head."""
    return {"teacher": f"checkpoint:{finished('kd')}", "teacher_head": "own"}


def test_a_teacher_keeps_its_own_head(make: RecipeMaker, owner: dict[str, Any], finished: Runs) -> None:
    """Its logits are those of the run that it comes from, before the training and after it."""
    source, _ = open_student(finished("kd"))
    for options in ({"method": "kd", "dim": 24}, {"method": "ega"}, {"method": "ega", "refine": "conv"}):
        job = build(make(**owner, **options))
        head = job.objective.teacher_head
        assert head is not None and not any(p.requires_grad for p in head.parameters())
        batch = Batch(torch.arange(6), job.data.train.labels[:6])
        inputs = job.feed(job.data.train.pixels[:6], batch, torch.Generator().manual_seed(1))
        assert inputs.teacher is not None
        expected = source(inputs.images)  # both were normalised as their data set
        torch.testing.assert_close(head(inputs.teacher.embedding), (expected.embedding, expected.logits))
        row, _ = train_epoch(job, 0)
        assert equal(states(head), states(source.head))
        assert row["teacher_head"] > 0, "its cross-entropy is told, and teaches nothing"
        assert not {id(p) for p in job.objective.teacher_parameters()} & {id(p) for p in head.parameters()}
        assert ("teacher_optimiser" in job.optimisers) == ("refine" in options)


def test_own_heads_that_misfit(make: RecipeMaker, owner: dict[str, Any], pretrained: tuple[Path, nn.Module]) -> None:
    """Methods that compare relations take any width."""
    classes = "teacher_head 'own' needs a teacher of the same classes: expected the"
    for options, told in (
        ({"dim": 24}, r"^ega does not compare embeddings of width 24 with those of the teacher's own head, 16: use "
         r"--dim 16 \(matching nodes needs embeddings of one width: .*, got 24 and 16\)$"),
        ({"dim": 24, "method": "pkt", "nodes": "embedding", "refine": "conv"},
         r"^pkt does not compare embeddings of width 24 .*, 16: use --dim 16 \([^\n]*\)$"),
        ({"dataset": "digits", "method": "kd", "labels_per_class": 0}, rf"^{classes} 10 of digits, got 3 or other"),
        ({"dataset": "unlabelled", "method": "seed"}, rf"^{classes} 0 of folder:.*, got 3 or other names"),
        ({"teacher": "checkpoint:nowhere", "method": "kd"}, r"^cannot read the network file nowhere"),
        ({"teacher": f"checkpoint:{pretrained[0]}", "method": "kd"},
         r"holds no classifier: expected student\.safetensors of a training run"),
    ):  # fmt: skip
        assert_refused_like((partial(new, make(**{**owner, **options})), told))
    module = new(make(**owner, method="pkt", nodes="embedding", dim=24))
    assert module.student.head.project.out_features == 24


def test_sskd_gets_its_self_supervision_head(make: RecipeMaker, ss_head: Path, finished: Runs, tmp_path: Path) -> None:
    """It learns nothing; that of another teacher, by its width or by the fingerprint of the weights, is refused."""
    module = new(make(method="sskd"))
    sskd = part(module, "sskd")
    assert isinstance(sskd, SSKD) and sskd.ss_head is not None
    assert equal(states(sskd.ss_head), states(load_ss_head(ss_head, 64)[0])) and len(states(sskd.ss_head)) == 4
    assert not any("ss_head" in name for name, _ in module.named_parameters())
    save_ss_head(tmp_path / "wide", Projector(128, 128), teacher="wide", fingerprint="0")
    for options, told in (
        ({"teacher": f"checkpoint:{finished('kd')}"}, r"^the self-supervision head in .* was trained for another "
         r"teacher: embedded:digits, or other weights of it, than checkpoint:.*kd$"),
        ({"ss_head": str(tmp_path / "wide")}, r"wide was trained for a teacher of width 128, this one has 64$"),
        ({"method_args": ("transformations=all",)}, r"was trained on transformations=rotations, sskd asks for all: "
         r"train one"),
        ({"ss_head": str(tmp_path)}, r"^cannot read the self-supervision head file .*ss_head\.safetensors: "),
        ({"ss_head": None}, r"given by --ss-head RUN: `relgraph pretrain --objective sskd-head --teacher \.\.\.` "),
    ):  # fmt: skip
        assert_refused_like((lambda options=options: new(make(method="sskd", **options)), told))  # type: ignore[misc]
