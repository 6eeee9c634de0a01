"""Parsing of names into objects: methods such as `crd+0.9*kd` and their options, data sets, students and teachers.

No other module parses names.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from relgraph.data.sources import SOURCES as DATASETS
from relgraph.data.sources import Folder, Source
from relgraph.errors import RelgraphError, unknown
from relgraph.methods import METHODS
from relgraph.methods.base import Method, RunFacts
from relgraph.methods.relational import Relational
from relgraph.methods.sum import Sum
from relgraph.networks.backbone import Backbone
from relgraph.networks.checkpoint_source import CheckpointSource, embedded
from relgraph.networks.files import read_student
from relgraph.networks.heads import Student
from relgraph.networks.open_clip_source import OpenClipSource
from relgraph.networks.published_source import PublishedSource
from relgraph.networks.sources import Arguments, StudentSource, TeacherSource
from relgraph.networks.students import BenchmarkSource
from relgraph.networks.teachers import Teacher
from relgraph.networks.timm_source import TimmSource
from relgraph.networks.torchvision_source import TorchvisionSource
from relgraph.options import options_of


class Named(NamedTuple):
    """One method of a sum, as it was written.

    Attributes:
        name: Its name.
        cls: Its class.
        weight: The number that was written before it; `None` for the published weight.
    """

    name: str
    cls: type[Method]
    weight: float | None = None


def parse_methods(text: str, beta: float | None = None, known: Mapping[str, type[Method]] = METHODS) -> list[Named]:
    """Return the methods that a text names, `[WEIGHT*]NAME[+...]`, each with the weight it was given; none for "none".

    Args:
        text: Such as `ega`, `crd+0.9*kd` or `none`.
        beta: Weight of a single method that is written without one.
        known: The methods by name.

    Raises:
        RelgraphError: for an unknown name, a weight that is no number >= 0, a method named twice, or `beta` beside a
            sum or a written weight.

    >>> [(item.name, item.weight) for item in parse_methods("sp+0.9*kd")]
    [('sp', None), ('kd', 0.9)]
    """
    if text.strip().lower() == "none":
        return []
    # A plus after a digit and an e belongs to a number, 1e+3; that of nce+kd does not.
    parts = [part.strip() for part in re.split(r"(?<![\d.][eE])\+", text)]
    if beta is not None and (len(parts) > 1 or "*" in text):
        raise RelgraphError(f"beta is the weight of one method: write the weights of {text!r} as in 25*rkd+0.9*kd")
    found = [_parse_part(part, known, beta) for part in parts]
    names = [item.name for item in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RelgraphError(f"a sum names each method once, got {twice} more often in {text!r}")
    return found


def _parse_part(part: str, known: Mapping[str, type[Method]], weight: float | None) -> Named:
    factor, sign, name = part.rpartition("*")
    name = name.strip().lower()
    if name == "" or "," in name or name[0].isdigit():
        raise RelgraphError(f"methods are written NAME, WEIGHT*NAME or a sum of these with +, got {part!r}")
    if name == "none":
        raise RelgraphError("none is cross-entropy alone: it has no weight and stands in no sum")
    if name not in known:
        raise unknown("method", name, [*known, "none"])
    if sign:
        try:
            weight = float(factor)
        except ValueError:
            raise RelgraphError(f"the weight of {name} must be a number, got {factor.strip()!r}") from None
    if weight is not None and not 0 <= weight < math.inf:
        raise RelgraphError(f"the weight of {name} must be at least 0 and finite, got {weight}")
    return Named(name, known[name], weight)


def build(
    named: Sequence[Named], run: RunFacts, shared: Mapping[str, Any], arguments: Sequence[str] = ()
) -> Sum | None:
    """Return the methods of `parse_methods` as a sum, each with its weight; `None` if there is none.

    Args:
        named: From `parse_methods`.
        run: The networks and the data, which are passed to each method.
        shared: The run's own options by name (`graph`, `k`, `nodes`, `temperature`, ...): each method with an option of
            that name uses it, unless `arguments` give another value; `None` stands for the method's own default.
        arguments: `OPTION=VALUE`, or `METHOD.OPTION=VALUE` where several methods have the option.

    Raises:
        RelgraphError: for options that no method has or values that are not valid.
    """
    chosen = read_arguments(named, arguments)
    methods = {}
    for item in named:
        taken = {name: shared.get(of_run) for name, of_run in shared_options(item.cls, len(named) > 1).items()}
        options = {name: value for name, value in taken.items() if value is not None} | chosen[item.name]
        method = item.cls.for_run(run, **options)
        methods[item.name] = (method.weight if item.weight is None else item.weight, method)
    return Sum(methods) if methods else None


# Options that a run has as well, for all its methods.
SHARED = ("graph", "k", "neighbours", "nodes", "form", "temperature", "node_weight", "edge_weight")


def shared_options(cls: type[Method], in_sum: bool = False) -> dict[str, str]:
    """Return the options that a method shares with its run, each with its name in the run.

    The graph of a sum is that of the images of a batch: a method with a graph of its own ignores it.

    >>> from relgraph.methods import IRG
    >>> shared_options(IRG)["graph_form"]
    'form'
    """
    names = {name: name for name in SHARED if name in options_of(cls)}
    if issubclass(cls, Relational):
        names.pop("form", None)
        return {**names, cls.form_option: "form", "refine": "refine"}
    return {name: name for name in names if not (in_sum and name in ("graph", "k"))}


def has_graph(cls: type[Method]) -> bool:
    """Return whether a method compares graphs, so that a topology can be chosen."""
    return "graph" in options_of(cls)


def reads_graph(named: Sequence[Named]) -> bool:
    """Return whether any method uses the run's graph: in a sum it is that of a batch, and a memory has its own."""
    return any("graph" in shared_options(item.cls, len(named) > 1) for item in named)


def read_arguments(named: Sequence[Named], arguments: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the options of each method by name, from `OPTION=VALUE` or `METHOD.OPTION=VALUE`.

    Raises:
        RelgraphError: for an option that no method has, or that several have, one that is given twice, or a value of
            the wrong kind.
    """
    found: dict[str, dict[str, Any]] = {item.name: {} for item in named}
    for argument in arguments:
        key, sign, text = argument.partition("=")
        prefix, _, name = key.strip().rpartition(".")
        prefix = prefix.lower()
        if not sign or not name:
            raise RelgraphError(f"an option of a method must be NAME=VALUE or METHOD.NAME=VALUE, got {argument!r}")
        if prefix and prefix not in found:
            raise unknown("method", prefix, found)
        asked = [item for item in named if prefix in ("", item.name)]
        owners = [item for item in asked if name in options_of(item.cls)]
        if not owners:
            raise _no_option(asked, name)
        if len(owners) > 1:
            names = " or ".join(f"{item.name}.{name}" for item in owners)
            raise RelgraphError(f"{name} is an option of several methods: write {names}")
        owner = owners[0].name
        if name in found[owner]:
            raise RelgraphError(f"{name} of {owner} is given twice: {found[owner][name]} and {text.strip()}")
        found[owner][name] = options_of(owners[0].cls)[name].read(text.strip(), owner)
    return found


def _no_option(asked: Sequence[Named], name: str) -> RelgraphError:
    known = {option for item in asked for option in options_of(item.cls)}
    if known:
        return unknown("option of the method", name, known)
    names = " and ".join(item.name for item in asked) or "cross-entropy alone"
    return RelgraphError(f"there are no options of {names}, got {name!r}")


def build_method(
    text: str,
    run: RunFacts,
    shared: Mapping[str, Any] | None = None,
    arguments: Sequence[str] = (),
    beta: float | None = None,
) -> Sum | None:
    """Return the methods that a text names, with their weights; `None` for "none", cross-entropy alone.

    Args:
        text: As for `parse_methods`.
        run: The networks and the data, which are passed to each method (`Method.for_run`).
        shared: The run's own options by name, for each method that has one of that name.
        arguments: Options of the methods, `NAME=VALUE`.
        beta: Weight of a single method, in place of the authors'.

    Raises:
        RelgraphError: for an unknown name, an option that the method does not have, or a value that is not valid.
    """
    return build(parse_methods(text, beta), run, shared or {}, arguments)


def dataset(text: str) -> Source:
    """Return the data set that a text names: a built-in one such as `cifar100`, or `folder:PATH`.

    Raises:
        RelgraphError: for an unknown name.

    >>> dataset("folder:/photos/birds").short_name
    'birds'
    """
    if text.startswith("folder:"):
        return Folder(text.removeprefix("folder:"))
    if text not in DATASETS:
        raise unknown("data set", text, [*DATASETS, "folder:PATH"])
    return DATASETS[text]


SOURCES = ("open_clip", "timm", "torchvision", "checkpoint", "repdistiller", "embedded")
# The names of the original CLIP release, as the official EGA code spells its teachers.
CLIP_NAMES = (
    "RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px",
)  # fmt: skip


def student(text: str) -> StudentSource:
    """Return the student that a text names: one of the benchmark, `timm:MODEL` or `torchvision:MODEL`.

    The name is looked up when the network is built.

    >>> student("timm:resnet18").build(1, 32).width
    512
    """
    library, _, model = text.partition(":")
    if model and library == "timm":
        return TimmSource(model)
    if model and library == "torchvision":
        return TorchvisionSource(model)
    return BenchmarkSource(text)


def teacher(text: str) -> TeacherSource:
    """Return the teacher that a text names (see `relgraph.networks.teachers`), which is looked up when it is loaded.

    >>> str(teacher("checkpoint:runs/first").path)
    'runs/first'

    Raises:
        RelgraphError: for an unknown source, or a text without one.
    """
    source, _, name = text.partition(":")
    if not name:
        known = ", ".join(SOURCES)
        raise RelgraphError(f"a teacher is spelled SOURCE:NAME[/WEIGHTS] with a source of {known}, got {text!r}")
    architecture, _, tag = name.partition("/")
    match source:
        case "timm":
            return TimmSource(name)
        case "open_clip":
            return OpenClipSource(architecture, tag)
        case "torchvision":
            return TorchvisionSource(architecture, tag)
        case "checkpoint":
            return CheckpointSource(Path(name), student)
        case "repdistiller":
            return PublishedSource(name)
        case "embedded":
            return CheckpointSource(embedded(name), student)
    raise unknown("teacher source", source, SOURCES)


def build_backbone(name: str, in_channels: int = 3, *, image_size: int | None = None) -> Backbone:
    """Return an untrained backbone with an attribute `width`, `(N, in_channels, H, W) -> (N, width)`.

    Args:
        name: One of the benchmark's students, `timm:MODEL` or `torchvision:MODEL`.
        in_channels: Of the images.
        image_size: Of the images in pixels, for models of timm and torchvision that are made for one size, such as
            transformers; the others read any size, and the benchmark's own ignore it.

    Raises:
        RelgraphError: for an unknown name, the message holds the nearest known one; and for a model of timm or
            torchvision that cannot read such images.

    >>> import torch
    >>> build_backbone("resnet8x4")(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 256])
    """
    return student(name).build(in_channels, image_size)


def load_student(path: str | Path) -> tuple[Student, dict[str, Any]]:
    """Return a trained student, in evaluation mode, and its description, from a run or its `student.safetensors`.

    The description contains the properties of its input: `in_channels`, `image_size`, `mean`, `std` (of images in 0..1)
    and `classes`.

    Raises:
        RelgraphError: if the file is missing, truncated, without a head, or of another architecture than it declares.
    """
    return read_student(Path(path), student)


def load_teacher(
    spec: str,
    *,
    weights: str | Path | None = None,
    input_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    arguments: Arguments | None = None,
) -> Teacher:
    """Return the frozen teacher that `spec` names (see the head of `relgraph.networks.teachers`).

    Args:
        spec: `SOURCE:NAME[/WEIGHTS]`.
        weights: a file for `open_clip:`, `timm:` and `torchvision:` teachers, instead of the weights that these
            libraries download; the published file of a `repdistiller:` teacher.
        input_size: side of the images in pixels, instead of what the network was trained on.
        mean: per channel on the scale 0..1, instead of the one known for the weights.
        std: per channel on the scale 0..1, instead of the one known for the weights.
        arguments: what else `timm.create_model` needs for the file, e.g. `{"num_classes": 1001, "pad_type": "same"}`;
            of a `checkpoint:`, `{"output": "projection"}` for its projector's output instead of its features.

    Raises:
        RelgraphError: if a name is unknown, weights cannot be had, read, or do not match, or an option does not apply.
    """
    source = teacher(spec)
    if arguments and not source.takes_arguments:
        raise RelgraphError(f"arguments are for timm and checkpoint teachers, got {dict(arguments)} for {spec}")
    if weights and not source.takes_weights:
        raise RelgraphError(f"{spec} brings its own weights, got the file {weights} as well")
    found = source.load(None if weights is None else Path(weights), input_size, arguments or {})
    given: dict[str, Any] = {"input_size": input_size, "mean": mean, "std": std}
    return Teacher(replace(found, **{name: value for name, value in given.items() if value}), spec)


def clip_spec(name: str) -> str:
    """Return the name here of a network of the original CLIP release.

    >>> clip_spec("ViT-B/32")
    'open_clip:ViT-B-32/openai'

    Raises:
        RelgraphError: if CLIP has no network of that name.
    """
    if name not in CLIP_NAMES:
        raise unknown("CLIP network", name, CLIP_NAMES)
    return f"open_clip:{name.replace('/', '-').replace('@336px', '-336')}/openai"
