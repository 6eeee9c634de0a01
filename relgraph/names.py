"""Parsing of names into objects: methods such as `crd+0.9*kd` and their options, data sets, students and teachers.

No other module parses names. A built-in `NAME`, `SOURCE:NAME`, a name that an installed package registers,
`package.module:attribute`, `path/to/file.py:attribute` and, in Python, the object itself stand for the same.
"""

import math
import re
from collections.abc import Callable, Container, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from inspect import signature
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from relgraph import own_code
from relgraph.data.file_sources import ClassFolders, Folder, Table
from relgraph.data.own import HuggingFace, OwnData
from relgraph.data.sources import SOURCES as DATASETS
from relgraph.data.sources import Source
from relgraph.errors import RelgraphError, unknown
from relgraph.graph import criteria, kernels, scales
from relgraph.graph.criteria import Criterion, Row
from relgraph.graph.kernels import Kernel
from relgraph.graph.relation import Relation
from relgraph.graph.scales import Scale
from relgraph.methods import METHODS
from relgraph.methods.base import Method, RunFacts
from relgraph.methods.own import Related
from relgraph.methods.relational import CriterionOption, KernelOption, Relational, ScaleOption
from relgraph.methods.sum import Sum
from relgraph.networks.backbone import Backbone
from relgraph.networks.checkpoint_source import CheckpointSource, embedded
from relgraph.networks.files import read_student
from relgraph.networks.heads import Student
from relgraph.networks.open_clip_source import OpenClipSource
from relgraph.networks.own import OwnStudent, OwnTeacher
from relgraph.networks.published_source import PublishedSource
from relgraph.networks.sources import Arguments, StudentSource, TeacherSource
from relgraph.networks.students import ALIASES, STUDENTS, BenchmarkSource
from relgraph.networks.teachers import Teacher
from relgraph.networks.timm_source import TimmSource
from relgraph.networks.torchvision_source import TorchvisionSource
from relgraph.networks.vectors import VectorSource
from relgraph.options import Option, options_of
from relgraph.own_code import Own


class Named(NamedTuple):
    """One method of a sum, as it was written.

    Attributes:
        name: Its name.
        cls: Its class.
        weight: The number that was written before it; `None` for the published weight.
        made: The method itself, where it was given as an instance: it has its options already, and is copied.
        given: Arguments of its constructor besides its options.
    """

    name: str
    cls: type[Method]
    weight: float | None = None
    made: Method | None = None
    given: Mapping[str, Any] = {}

    @property
    def options(self) -> Mapping[str, Option]:
        """The options that can be chosen, by name."""
        return options_of(self.cls) if self.made is None else {}

    def shared(self, in_sum: bool = False) -> dict[str, str]:
        """Return the `shared_options` that can be chosen."""
        return shared_options(self.cls, in_sum) if self.made is None else {}

    def build(self, run: RunFacts, options: Mapping[str, Any]) -> Method:
        """Return the method, built for a run if it was not before."""
        return self.cls.for_run(run, **self.given, **options) if self.made is None else deepcopy(self.made)


# A method in Python, and what stands for one or several: a text, a method, or a list of these, with weights or without.
OwnMethod = type[Method] | Method | Relation
Methods = str | Own | OwnMethod | Sequence[str | OwnMethod | tuple[float, str | OwnMethod]]


def parse_methods(spec: Methods, beta: float | None = None, known: Mapping[str, type[Method]] = METHODS) -> list[Named]:
    """Return the methods that are meant, each with the weight it was given; none for "none".

    Args:
        spec: A text, `[WEIGHT*]NAME[+...]`, such as `ega`, `crd+0.9*kd` or `none`; or in Python a class derived from
            `Method`, an instance of one, a bare `Relation`, a list of these and of names, each alone or as (weight,
            method), or a `Sum`.
        beta: Weight of a single method that is written without one.
        known: The methods by name.

    Raises:
        RelgraphError: for an unknown name, what is no method, a weight that is no number >= 0, a method named twice,
            or `beta` beside a sum or a written weight.

    >>> [(item.name, item.weight) for item in parse_methods("sp+0.9*kd")]
    [('sp', None), ('kd', 0.9)]
    >>> [(item.name, item.weight) for item in parse_methods([(0.5, Relation()), METHODS["sp"](), "2*kd"])]
    [('related', 0.5), ('sp', None), ('kd', 2.0)]
    """
    spec = spec.target if isinstance(spec, Own) else spec
    parts = _summands(spec)
    written = repr(spec) if isinstance(spec, str) else "the sum"
    weighed = any(weight is not None or (isinstance(given, str) and "*" in given) for weight, given in parts)
    if beta is not None and (len(parts) > 1 or weighed):
        raise RelgraphError(f"beta is the weight of one method: write the weights of {written} as in 25*rkd+0.9*kd")
    if isinstance(spec, Sum):
        return [Named(name, type(method), spec.weights[name], method) for name, method in spec.each()]
    found: dict[str, Named] = {}
    for weight, given in parts:
        if not isinstance(given, str):
            item = _own_method(given, beta if weight is None else weight, found)
        else:
            item = _parse_part(given if weight is None else f"{weight}*{given}", known, beta)
            if item.name in found:
                raise RelgraphError(f"a sum names each method once, got {item.name} more often in {written}")
        found[item.name] = item
    return list(found.values())


def split_sum(text: str) -> list[str]:
    """Return the parts of a sum of methods."""
    # A plus after a digit and an e belongs to a number, 1e+3; that of nce+kd does not.
    return [part.strip() for part in re.split(r"(?<![\d.][eE])\+", text)]


def _summands(spec: Any) -> list[tuple[Any, Any]]:
    """Return the methods of a sum as they are given, each with the weight that stands beside it, or `None`."""
    if isinstance(spec, str):
        return [] if spec.strip().lower() == "none" else [(None, part) for part in split_sum(spec)]
    if isinstance(spec, Sum):
        return [(spec.weights[name], method) for name, method in spec.each()]
    parts = spec if isinstance(spec, list) else [spec]
    return [part if isinstance(part, tuple) and len(part) == 2 else (None, part) for part in parts]


def _own_method(given: Any, weight: float | None, taken: Container[str], name: str = "") -> Named:
    """Return what a class, an instance or a relation stands for in a sum; a name that is taken gets a number."""
    made = given if isinstance(given, Method) else None
    cls = Related if isinstance(given, Relation) else given if made is None else type(made)
    if not (isinstance(cls, type) and issubclass(cls, Method)) or issubclass(cls, Sum):
        expected = "a name, a class derived from Method, an instance of one, or a Relation"
        raise RelgraphError(f"a method of a sum is {expected}, got {getattr(given, '__name__', type(given).__name__)}")
    own = name or cls.__name__.lower()
    name = next(name for name in chain([own], (f"{own}_{i}" for i in count(2))) if name not in taken)
    facts = {"relation": given} if isinstance(given, Relation) else {}
    return Named(name, cls, _checked(name, weight), made, facts)


def _parse_part(part: str, known: Mapping[str, type[Method]], weight: float | None) -> Named:
    factor, sign, written = part.rpartition("*")
    own = _own("methods", written.strip()) if written.strip().lower() not in known else None
    name = (written if own is None else re.split("[:.]", own[1])[-1]).strip().lower()
    if name == "" or "," in name or name[0].isdigit():
        raise RelgraphError(f"methods are written NAME, WEIGHT*NAME or a sum of these with +, got {part!r}")
    if name == "none":
        raise RelgraphError("none is cross-entropy alone: it has no weight and stands in no sum")
    if own is None and name not in known:
        raise unknown("method", name, [*known, *own_code.registered("methods"), "none"])
    if sign:
        try:
            weight = float(factor)
        except ValueError:
            raise RelgraphError(f"the weight of {name} must be a number, got {factor.strip()!r}") from None
    return Named(name, known[name], _checked(name, weight)) if own is None else _own_method(own[0], weight, (), name)


def _checked(name: str, weight: float | None) -> float | None:
    if weight is not None and not (isinstance(weight, int | float) and 0 <= weight < math.inf):
        raise RelgraphError(f"the weight of {name} must be at least 0 and finite, got {weight!r}")
    return weight


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
        taken = {name: shared.get(of_run) for name, of_run in item.shared(len(named) > 1).items()}
        options = {name: value for name, value in taken.items() if value is not None} | chosen[item.name]
        method = item.build(run, {name: _part(item.options.get(name), value) for name, value in options.items()})
        methods[item.name] = (method.weight if item.weight is None else item.weight, method)
    return Sum(methods) if methods else None


# Options that a run has as well, for all its methods.
SHARED = (
    "graph", "k", "neighbours", "nodes", "form", "kernel", "scale", "criterion", "temperature", "node_weight",
    "edge_weight",
)  # fmt: skip


def shared_options(cls: type[Method], in_sum: bool = False) -> dict[str, str]:
    """Return the options that a method shares with its run, each with its name in the run.

    The graph of a sum is that of the images of a batch: a method with a graph of its own ignores it.

    >>> from relgraph.methods import IRG
    >>> shared_options(IRG)["graph_form"]
    'form'
    """
    options = options_of(cls)
    names = {name: name for name in SHARED if name in options}
    if issubclass(cls, Relational):
        names.pop("form", None)
        return {**names, cls.form_option: "form", "refine": "refine"}
    return {name: name for name in names if not (in_sum and name in ("graph", "k"))}


def has_graph(cls: type[Method]) -> bool:
    """Return whether a method compares graphs, so that a topology can be chosen."""
    return "graph" in options_of(cls)


def reads_graph(named: Sequence[Named]) -> bool:
    """Return whether any method uses the run's graph: in a sum it is that of a batch, and a memory has its own."""
    return any("graph" in item.shared(len(named) > 1) for item in named)


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
        owners = [item for item in asked if name in item.options]
        if not owners:
            raise _no_option(asked, name)
        if len(owners) > 1:
            names = " or ".join(f"{item.name}.{name}" for item in owners)
            raise RelgraphError(f"{name} is an option of several methods: write {names}")
        owner = owners[0].name
        if name in found[owner]:
            raise RelgraphError(f"{name} of {owner} is given twice: {found[owner][name]} and {text.strip()}")
        option = owners[0].options[name]
        found[owner][name] = _part(option, option.read(text.strip(), owner))
    return found


def _no_option(asked: Sequence[Named], name: str) -> RelgraphError:
    known = {option for item in asked for option in item.options}
    if known:
        return unknown("option of the method", name, known)
    names = " and ".join(item.name for item in asked) or "cross-entropy alone"
    if any(item.made is not None for item in asked):
        return RelgraphError(f"{names} was given as an instance, which takes no options, got {name!r}")
    return RelgraphError(f"there are no options of {names}, got {name!r}")


def build_method(
    spec: Methods,
    run: RunFacts,
    shared: Mapping[str, Any] | None = None,
    arguments: Sequence[str] = (),
    beta: float | None = None,
) -> Sum | None:
    """Return the methods that are meant, with their weights; `None` for "none", cross-entropy alone.

    Args:
        spec: As for `parse_methods`.
        run: The networks and the data, which are passed to each method (`Method.for_run`).
        shared: The run's own options by name, for each method that has one of that name.
        arguments: Options of the methods, `NAME=VALUE`.
        beta: Weight of a single method, in place of the authors'.

    Raises:
        RelgraphError: for an unknown name, an option that the method does not have, or a value that is not valid.
    """
    return build(parse_methods(spec, beta), run, shared or {}, arguments)


# The parts by their names in `relgraph.graph`; those with numbers are functions that return the part.
KERNELS = {
    name: getattr(kernels, name)
    for name in ("pearson", "cosine", "linear", "euclidean", "squared_euclidean", "gaussian", "gaussian_taylor")
}
SCALES = {
    name: getattr(scales, name)
    for name in ("raw", "by_mean", "by_max", "by_constant_max", "by_anchor_norm", "by_anchor_sum", "softmax")
}
CRITERIA = {
    name: getattr(criteria, name)
    for name in ("frobenius", "mean_square", "sum_square", "half_square", "huber", "kl", "cross_entropy")
}


def kernel(spec: KernelOption) -> Kernel | None:
    """Return the kernel that a spelling names, `NAME` or `NAME:NUMBER[:NUMBER]`, or code of one's own; or the object.

    Raises:
        RelgraphError: for an unknown name, or numbers that do not fit.

    >>> kernel("gaussian:0.4").name
    'gaussian'
    """
    found: Kernel | None = _built_in("kernel", KERNELS, spec)
    return found


def scale(spec: ScaleOption) -> Scale | Callable[[Tensor], Tensor] | None:
    """Return the scale that a text names, such as `by_mean` or `softmax:0.1`; what is no text is returned as it is.

    Raises:
        RelgraphError: for an unknown name, or numbers that do not fit.
    """
    found: Scale | Callable[[Tensor], Tensor] | None = _built_in("scale", SCALES, spec)
    return found


def criterion(spec: CriterionOption) -> Criterion | Row | None:
    """Return the criterion that a text names, such as `huber`; what is no text is returned as it is.

    Raises:
        RelgraphError: for an unknown name.
    """
    found: Criterion | Row | None = _built_in("criterion", CRITERIA, spec)
    return found


def _built_in(kind: str, known: Mapping[str, Any], text: Any) -> Any:
    """Return the part of a name, or what its factory returns for the numbers after the name, `NAME:NUMBER:...`."""
    if not isinstance(text, str):
        return text.target if isinstance(text, Own) else text
    kinds = OWN[kind]
    name, *numbers = (word.strip() for word in text.split(":"))
    if name not in known and (own := _own(kinds, text)) is not None:
        return own[0]
    if name not in known:
        raise unknown(kind, name, [*known, *own_code.registered(kinds)])
    found = known[name]
    wanted = {} if isinstance(found, Kernel | Scale | Criterion) else signature(found).parameters
    try:
        given = [item.annotation(number) for item, number in zip(wanted.values(), numbers, strict=True)]
    except ValueError:
        given = [math.nan]
    if not all(map(math.isfinite, given)):
        expected = ":".join([name, *(item.upper() for item in wanted)])
        raise RelgraphError(f"the {kind} {name} is written {expected}, got {text!r}") from None
    return found(*given) if wanted else found


# How the options of parts are read; those of other names in a method of one's own are told by their type.
PARTS: dict[str, Callable[[Any], Any]] = {"kernel": kernel, "scale": scale, "criterion": criterion}


def _part(option: Option | None, value: Any) -> Any:
    """Return the part that the value of an option names, where the option is one of a part; else the value itself."""
    readers = dict(zip((Kernel, Scale, Criterion), PARTS.values(), strict=True))
    found = [readers[kind] for kind in option.kinds if kind in readers] if option is not None else []
    return found[0](value) if found else value


def is_checkpoint(teacher: object) -> bool:
    """Return whether a teacher is a network that relgraph trained, `checkpoint:RUN`.

    >>> is_checkpoint("checkpoint:runs/digits"), is_checkpoint("embedded:digits")
    (True, False)
    """
    return isinstance(teacher, str) and teacher.startswith("checkpoint:")


def is_vectors(teacher: object) -> bool:
    """Return whether a teacher is known by its vectors alone, `vectors:FILE`.

    >>> is_vectors("vectors:clip.npy"), is_vectors("embedded:digits")
    (True, False)
    """
    return isinstance(teacher, str) and teacher.startswith("vectors:")


# Options that may name code of one's own, by the kind of thing that they name.
OWN = {"dataset": "datasets", "student": "students", "network": "students", "teacher": "teachers", "method": "methods",
       "kernel": "kernels", "scale": "scales", "criterion": "criteria"}  # fmt: skip


def own_spellings(text: str) -> list[str]:
    """Return the spellings of code of one's own in a text: the text itself, or those in a sum of methods.

    >>> own_spellings("0.5*losses.py:Mine+kd"), own_spellings("timm:resnet18")
    (['losses.py:Mine'], [])
    """
    return list(filter(own_code.is_own, _parts(text)))


def _parts(text: str) -> list[str]:
    return [text] if own_code.is_own(text) else [part.rpartition("*")[2].strip() for part in split_sum(text)]


def own_code_of(recipe: Any) -> list[str]:
    """Return the spellings of code of one's own in a recipe."""
    return [text for name in OWN for text in own_spellings(str(getattr(recipe, name, None)))]


def settled(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with the whole paths of files of code of one's own, and tuples in place of lists."""

    def whole(text: str) -> str:
        for part in own_spellings(text):
            text = text.replace(part, own_code.absolute(part))
        return text

    found = {name: whole(value) if name in OWN and isinstance(value, str) else value for name, value in options.items()}
    return {name: tuple(v) if isinstance(v, list) and name not in OWN else v for name, v in found.items()}


def origins(recipe: Any) -> dict[str, dict[str, str]]:
    """Return where the code of one's own, and what installed packages registered, came from, by option of a recipe."""
    found: dict[str, dict[str, str]] = {}
    for name, kind in OWN.items():
        for text in _parts(str(getattr(recipe, name, None))):
            if own_code.is_own(text) or text in own_code.registered(kind):
                found[name if name not in found else f"{name} {text}"] = own_code.origin(kind, text)
    return found


def check_permitted(text: str, owner: str) -> None:
    """Raise RelgraphError if a text that a file holds names code of one's own that was not permitted."""
    for part in own_spellings(text):
        own_code.check_permitted(part, owner)


def _own(kind: str, spec: object) -> tuple[Any, str] | None:
    """Return what code of one's own a spelling or an object stands for and its spelling, `None` for other spellings.

    Raises:
        RelgraphError: if it cannot be found or imported, or was an object of an earlier process.
    """
    own = Own.of(spec)
    if isinstance(own, Own):
        return own.target, own.spelling
    spec = str(spec)
    if spec.startswith("object:"):
        one = kind.removesuffix("s")
        told = f"pass it again, {one}=..., or spell it package.module:attribute or path/to/file.py:attribute"
        raise RelgraphError(f"the {one} was {spec.removeprefix('object:')}, an object in Python: {told}")
    if own_code.is_own(spec):
        return own_code.load(spec), spec
    return (own_code.load_registered(kind, spec), spec) if spec in own_code.registered(kind) else None


def logger(spec: object) -> tuple[Any, str]:
    """Return what a logger's spelling stands for and the spelling; or an object.

    Raises:
        RelgraphError: for an unknown name, or code of one's own that cannot be imported.
    """
    own = _own("loggers", spec)
    if own is None:
        raise unknown("logger", str(spec), ["tensorboard", "none", *own_code.registered("loggers")])
    return own


OWN_DATA: dict[str, Callable[[str], Source]] = {
    "folder": Folder, "classes": ClassFolders, "csv": Table, "huggingface": HuggingFace
}  # fmt: skip


def dataset(spec: object) -> Source:
    """Return the data set of a spelling: a built-in one such as `cifar100`, or one of `OWN_DATA`; or an object.

    Raises:
        RelgraphError: for an unknown name.

    >>> dataset("folder:/photos/birds").short_name
    'birds'
    """
    if isinstance(spec, Source):
        return spec
    kind, _, place = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    if kind in OWN_DATA and place:
        return OWN_DATA[kind](place)
    if isinstance(spec, str) and spec in DATASETS:
        return DATASETS[spec]
    own = _own("datasets", spec)
    if own is None:
        others = "folder:PATH", "classes:PATH", "csv:FILE", "huggingface:NAME"
        raise unknown("data set", str(spec), [*DATASETS, *others, *own_code.registered("datasets")])
    return own[0] if isinstance(own[0], Source) else OwnData(*own)


SOURCES = ("open_clip", "timm", "torchvision", "checkpoint", "repdistiller", "embedded", "vectors")
# The names of the original CLIP release, as the official EGA code spells its teachers.
CLIP_NAMES = (
    "RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px",
)  # fmt: skip


def student(spec: object) -> StudentSource:
    """Return the student of a spelling: one of the benchmark, `timm:MODEL[.TAG]`, `torchvision:MODEL[/WEIGHTS]`.

    Or an object. A built-in name is looked up when the network is built; one with a tag starts from the published
    weights of that tag.

    Raises:
        RelgraphError: for code of one's own that cannot be imported.

    >>> student("timm:resnet18").build(1, 32).width
    512
    """
    if isinstance(spec, str):
        library, _, model = spec.partition(":")
        if model and library == "timm":
            return TimmSource(model)
        if model and library == "torchvision":
            return TorchvisionSource(*model.split("/", 1))
        if spec in STUDENTS or spec in ALIASES:
            return BenchmarkSource(spec)
    own = _own("students", spec)
    return BenchmarkSource(str(spec)) if own is None else OwnStudent(*own)


def student_in_file(text: str) -> StudentSource:
    """Return the student that a file names.

    Raises:
        RelgraphError: if it is code of one's own that was not permitted, or cannot be found.
    """
    check_permitted(text, "the network's file")
    return student(text)


def teacher(spec: object) -> TeacherSource:
    """Return the teacher of a spelling (see `relgraph.networks.teachers`), looked up when it is loaded; or an object.

    >>> str(teacher("checkpoint:runs/first").path)
    'runs/first'

    Raises:
        RelgraphError: for an unknown source, or a text without one.
    """
    source, _, name = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    architecture, _, tag = name.partition("/")
    match source:
        case "timm" if name:
            return TimmSource(name)
        case "open_clip" if name:
            return OpenClipSource(architecture, tag)
        case "torchvision" if name:
            return TorchvisionSource(architecture, tag)
        case "checkpoint" if name:
            return CheckpointSource(Path(name), student_in_file)
        case "repdistiller" if name:
            return PublishedSource(name)
        case "embedded" if name:
            return CheckpointSource(embedded(name), student_in_file)
        case "vectors" if name:
            return VectorSource(Path(name))
    own = _own("teachers", spec)
    if own is not None:
        return OwnTeacher(*own)
    if not name:
        known = ", ".join(SOURCES)
        raise RelgraphError(f"a teacher is spelled SOURCE:NAME[/WEIGHTS] with a source of {known}, got {spec!r}")
    raise unknown("teacher source", source, SOURCES)


def build_backbone(name: object, in_channels: int = 3, *, image_size: int | None = None) -> Backbone:
    """Return a backbone with an attribute `width`, `(N, in_channels, H, W) -> (N, width)`.

    It is untrained, unless the name says weights.

    Args:
        name: One of the benchmark's students, `timm:MODEL` or `torchvision:MODEL`; `timm:MODEL.TAG` and
            `torchvision:MODEL/WEIGHTS` start from the published weights.
        in_channels: Of the images.
        image_size: Of the images in pixels, for models of timm and torchvision that are made for one size, such as
            transformers; the others read any size, and the benchmark's own ignore it.

    Raises:
        RelgraphError: for an unknown name, the message holds the nearest known one; for a model of timm or torchvision
            that cannot read such images; and for weights that cannot be had.

    >>> import torch
    >>> build_backbone("resnet8x4")(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 256])
    """
    source = student(name)
    return source.start(None, in_channels, image_size) if source.published else source.build(in_channels, image_size)


def load_student(
    path: str | Path, *, student: object = None, allow_code: bool = False
) -> tuple[Student, dict[str, Any]]:
    """Return a trained student, in evaluation mode, and its description, from a run or its `student.safetensors`.

    The description contains the properties of its input: `in_channels`, `image_size`, `mean`, `std` (of images in 0..1)
    and `classes`.

    Args:
        path: The run or the file.
        student: The network of one's own that it holds, given again: its spelling, or the object.
        allow_code: Whether code of one's own that the file names may be run.

    Raises:
        RelgraphError: if the file is missing, truncated, without a head, or of another architecture than it declares;
            for code of one's own that was neither given again nor allowed.
    """
    with own_code.permitting(everything=allow_code):
        return read_student(Path(path), student_in_file if student is None else _always(student))


def _always(spec: object) -> Callable[[str], StudentSource]:
    """Return a function that finds the same student whatever a file names."""
    return lambda _: student(spec)


def load_teacher(
    spec: object,
    *,
    weights: str | Path | None = None,
    input_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    arguments: Arguments | None = None,
    stages: Sequence[str] = (),
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
        stages: sub-modules whose outputs are the stage maps, such as `("layer1", "layer2")`, instead of the network's
            own; of networks of timm, of torchvision and of your own.

    Raises:
        RelgraphError: if a name is unknown, weights cannot be had, read, or do not match, or an option does not apply.
    """
    spec = Own.of(spec)
    source = teacher(spec)
    if arguments and not source.takes_arguments:
        raise RelgraphError(f"arguments are for timm, checkpoint and own teachers, got {dict(arguments)} for {spec}")
    if weights and not source.takes_weights:
        raise RelgraphError(f"{spec} brings its own weights, got the file {weights} as well")
    found = source.load(None if weights is None else Path(weights), input_size, arguments or {})
    given: dict[str, Any] = {"input_size": input_size, "mean": mean, "std": std}
    return Teacher(replace(found, **{name: value for name, value in given.items() if value}), str(spec), stages)


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
