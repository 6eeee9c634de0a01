"""Base classes of all methods: a module that maps the networks' outputs for a batch to named losses."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from inspect import cleandoc, get_annotations
from typing import Any, ClassVar, Literal, NamedTuple, Self, dataclass_transform, get_type_hints

import torch
from torch import Tensor, nn

from relgraph.errors import RelgraphError
from relgraph.graph.positions import on_grid, positions_of
from relgraph.graph.refine import Refined
from relgraph.options import check_options, options_of
from relgraph.options import option as option
from relgraph.outputs import Batch as Batch
from relgraph.outputs import Output as Output

Part = Literal["embedding", "feature", "map", "positions"]
Terms = dict[str, Tensor]
Loss = Callable[[Output], Tensor]
Shape = tuple[int, int, int]  # channels, height and width of a stage map
Shapes = tuple[Shape, ...]  # of all of a network, the stem's first


class Views(NamedTuple):
    """Extra views of each image that a method needs: the networks' outputs for them are in `Output.extra`.

    Attributes:
        kind: "rotations" by 90, 180 and 270 degrees; "transformations", one each of SSKD's four; small "patches".
        each: How many of each image, V.
    """

    kind: Literal["rotations", "transformations", "patches"]
    each: int


def joined(*parts: Terms) -> Terms:
    """Return the terms of all parts.

    Raises:
        RelgraphError: if two of them have one name, of which only one would be trained.
    """
    terms: Terms = {}
    for part in parts:
        if twice := terms.keys() & part.keys():
            raise RelgraphError(f"two terms of the loss are called {min(twice)}: expected another name of one of them")
        terms |= part
    return terms


class Summand(NamedTuple):
    """One method of a weighted sum of methods.

    Attributes:
        method: The method.
        owner: What its terms are called, `OWNER_TERM`, or the owner alone if that is, or ends with, the term's name;
            empty where they keep their own names.
        weight: Its factor in the sum.
    """

    method: "Method"
    owner: str = ""
    weight: float = 1.0

    def named(self, terms: Terms) -> Terms:
        """Return terms by their names in the sum."""
        owner = self.owner
        names = [owner if f"_{owner}".endswith(f"_{name}") else f"{owner}_{name}" if owner else name for name in terms]
        return joined(*({name: term} for name, term in zip(names, terms.values(), strict=True)))


class Space(NamedTuple):
    """The vectors of one image that a method compares: a part of each network's output, behind layers of the method's.

    Attributes:
        part: The part.
        student: The layers on the student's, if the method has some.
        teacher: Those on the teacher's.
        joint: Whether a student's vector is compared with teacher vectors, which gives both networks one space; a
            relation of each network's own vectors leaves the student's turned.
    """

    part: Literal["embedding", "feature"]
    student: nn.Module | None = None
    teacher: nn.Module | None = None
    joint: bool = False


FACT = r"^(Paper|Differs|Kernel|Topology|Criterion): (.+(?:\n    .+)*)"
# Attributes of every method, which no option may be called.
RESERVED = frozenset({"weight", "gamma", "views", "reads", "augment", "init_share", "pointwise", "slots"})


@dataclass(frozen=True)
class RunFacts:
    """The networks and the data of a run, passed to a method once, when it is built (`Method.for_run`).

    Attributes:
        dim: Width of both networks' embeddings.
        student_width: Width of the student's feature.
        teacher_width: Width of the teacher's feature.
        student_maps: Shapes (C, H, W) of the student's stage maps, the stem's first.
        teacher_maps: Those of the teacher.
        images: Number of training images.
        labels: Class of each of them, `(images,)`, -1 where it is unknown.
        ss_head: The teacher's self-supervision head, where the run has one.
        of_data_set: Whether each batch brings the edges of a graph of the whole data set.
        scores: Shape (classes, H, W) of the student's logits, of a network that has some at each position.
        image: Shape (C, H, W) of the images that the student reads.
    """

    dim: int
    student_width: int
    teacher_width: int
    student_maps: Shapes = ()
    teacher_maps: Shapes = ()
    images: int = 0
    labels: Tensor | None = None
    ss_head: nn.Module | None = None
    of_data_set: bool = False
    scores: Shape | None = None
    image: Shape | None = None

    def widths(self, part: Part) -> tuple[int, int]:
        """Return the widths of student and teacher of one part of an output, flattened."""
        if part == "embedding":
            return self.dim, self.dim
        if part == "feature":
            return self.student_width, self.teacher_width
        for side, shapes in (("student", self.student_maps), ("teacher", self.teacher_maps)):
            if not shapes:
                raise RelgraphError(f"nodes {part!r} need stage maps of student and teacher, got none of the {side}")
        (c, h, w), (d, height, width) = self.student_maps[-1], self.teacher_maps[-1]
        if part == "positions":
            return c, d
        return c * h * w, d * height * width


@dataclass_transform(eq_default=False, field_specifiers=(option, field))
@dataclass(eq=False, repr=False)
class Method(nn.Module):
    """A published distillation loss of a student and a teacher: `method(student, teacher, batch) -> scalar`.

    Student and teacher are `Output`s, or bare vectors `(N, D)`, which are used as both embedding and feature, if a
    method needs nothing else. The teacher is detached in `terms`, once, for all methods: no method passes gradient to
    it. A loss has no side effects: it may read a memory and never writes it; `remember` does.

    Numbers of half precision are read as float32. Any batch of finite numbers, from one image on, has a finite loss and
    gradient where these fit their types. A loss that grows with a power of its inputs is infinite where that overflows;
    the method's docstring says from where on, in float32 (in float64 the exponents of ten are eight times as large). A
    gradient in float16 is infinite from 65,504 on, as soon as that of one term is.

    A method is a dataclass: its options are annotated fields with `option(default, ...)`, from which the constructor,
    the command line and YAML files are made. It builds its layers in `__post_init__` and implements `compare`. Facts of
    a run that it needs, such as the networks' widths, are passed to `for_run`. Its docstring has a line `Paper:`, and
    one `Differs:` that lists where paper, official code and this one differ; if no `Relation` defines its parts, they
    are given in lines `Kernel:`, `Topology:` and `Criterion:` (see `facts_of`).

    Attributes:
        weight: The published weight of the method, or of the requested form, relative to a cross-entropy of weight 1.
            The method itself does not apply it: `Sum` does.
        term_weights: The published weights of the terms of a method that has several, or the chosen ones; `terms`
            applies them.
        init_share: Share of the epochs in which the method trains alone, before the cross-entropy does, as the authors
            of some methods have it; 0 for the others.
        gamma: The published weight of the cross-entropy beside it; 0 for a method that needs no labels.
        augment: How the input images of both networks are augmented: "crop" (padding, crop, flip), or "contrastive" as
            in the training of self-supervised teachers.
        views: The extra views of each image that it needs, if any.
        reads: The parts that it reads of the outputs ("embedding", "feature", "map", "maps", "logits") and of the batch
            ("labels", "indices", "image", the student's images); if empty, it may read all parts but images.
        pointwise: Whether the loss is a mean over images, each of which contributes independently.
        slots: Whether its memory has a slot for each training image, which holds what `remember` got of it last: a run
            that knows the teacher's vectors of all images has them remembered before it trains.
    """

    init_share: ClassVar[float] = 0.0
    gamma: ClassVar[float] = 1.0
    augment: ClassVar[Literal["crop", "contrastive"]] = "crop"
    weight: float = field(default=1.0, init=False)
    pointwise: bool = field(default=False, init=False)
    reads: tuple[str, ...] = field(default=(), init=False)
    views: Views | None = field(default=None, init=False)
    slots: bool = field(default=False, init=False)

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        _new_defaults(cls)
        dataclass(eq=False, repr=False)(cls)
        taken = RESERVED & {item.name for item in fields(cls) if "bounds" in item.metadata}
        if taken:
            raise TypeError(f"{cls.__name__}: every method has an attribute {min(taken)}, give the option another name")
        for item in fields(cls):
            if item.init and item.name in vars(cls):
                delattr(cls, item.name)  # a default in the class would hide a module of that name in the instance

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """Return the module before its fields are set, since there may be modules among them."""
        self = super().__new__(cls)
        nn.Module.__init__(self)
        return self

    def __post_init__(self) -> None:
        """Check the options; a method with layers builds them after this check."""
        check_options(self)

    @classmethod
    def for_run(cls, run: RunFacts, **options: Any) -> Self:
        """Return the method for the networks and the data of a run, with the user's options.

        A method that needs facts of the run reads them here, as `cls(width=run.student_width, **options)`.
        """
        return cls(**options)

    @property
    def anchored(self) -> bool:
        """Whether each image contributes to the loss by itself, or by its own edges, so that some may do so alone."""
        return self.pointwise

    def extra_repr(self) -> str:
        """Return the options, for `repr`."""
        return ", ".join(f"{name}={getattr(self, name)}" for name in options_of(type(self)))

    @cached_property
    def term_weights(self) -> dict[str, float]:
        """The factor of each term, by its name; terms without an entry have the factor 1."""
        options = options_of(type(self)).items()
        return {option.term: getattr(self, name) or 0.0 for name, option in options if option.term}

    def forward(self, student: Output | Tensor, teacher: Output | Tensor, batch: Batch | None = None) -> Tensor:
        """Return the loss of one batch, a scalar: the sum of its terms.

        Raises:
            RelgraphError: if shapes or values do not fit the method.
        """
        return torch.stack(list(self.terms(student, teacher, batch).values())).sum()

    def terms(self, student: Output | Tensor, teacher: Output | Tensor, batch: Batch | None = None) -> Terms:
        """Return the weighted terms of the loss by name, scalars, for logs and for debugging."""
        return self.weighted(self.compare(as_output(student), as_output(teacher).detach(), as_batch(batch)))

    def weighted(self, found: Terms, owner: str = "", weight: float = 1.0) -> Terms:
        """Return the terms of `compare`, each multiplied by its weight, and named and weighed as those of a summand."""
        by = self.term_weights
        if not isinstance(found, dict) or any(by[name] and name not in found for name in by):
            expected = ", ".join(by) or type(self).__name__.lower()
            returned = ", ".join(found) if isinstance(found, dict) else type(found).__name__
            raise RelgraphError(f"{type(self).__name__} compares by the terms {expected}, a dict, got {returned}")
        for name, term in found.items():
            if not isinstance(term, Tensor) or term.ndim:
                told = tuple(term.shape) if isinstance(term, Tensor) else type(term).__name__
                raise RelgraphError(f"{type(self).__name__} compares by terms that are scalars, got {name}: {told}")
        terms = {name: weight * by.get(name, 1.0) * term for name, term in found.items()}
        return Summand(self, owner).named(terms) if owner else terms

    def summands(self) -> list[Summand]:
        """Return the methods that this one is a sum of: itself alone for all but `Sum`."""
        return [Summand(self)]

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return the terms of one batch by name, without their weights, scalars; the teacher's output is detached.

        A training refuses a name that its metrics have already, such as `loss`, `cross_entropy` or `val_mine`.
        """
        raise RelgraphError(f"{type(self).__name__} needs a method compare(student, teacher, batch), found none")

    def teacher_terms(self, student: Output, teacher: Output, batch: Batch, cross_entropy: Loss) -> Terms:
        """Return the losses that train the method's own side of the teacher, by name; they train its head as well.

        `cross_entropy` returns the loss of the teacher's head on the batch's labels for an output whose embedding or
        feature the method has changed. The student gets no gradient from these losses. Most methods have no parameters
        on this side: only those with `teacher_parameters` are asked for losses in a training.
        """
        return {}

    def space(self) -> Space:
        """Return where the vectors of one image are compared: for maps and logits, that of the feature below them."""
        nodes = getattr(self, "nodes", None)
        reads_embedding = nodes == "embedding" or (nodes is None and "embedding" in self.reads)
        return Space("embedding" if reads_embedding else "feature")

    def refined(self) -> Refined | None:
        """Return the refinement of the method's nodes; most methods have none."""
        return None

    def teacher_parameters(self) -> Sequence[nn.Parameter]:
        """Return the parameters that `teacher_terms` trains, which the student's optimiser does not update."""
        return ()

    def teacher_rates(self) -> Mapping[nn.Parameter, float]:
        """Return the learning rates of those `teacher_parameters` that have one of their own; others have the run's."""
        return {}

    @torch.no_grad()
    def remember(self, student: Output | Tensor, teacher: Output | Tensor, batch: Batch) -> None:
        """Write this batch into the method's memory; most methods have none.

        Of stage maps a training passes the last one, to a method that reads "map".
        In a user-defined loop, call it in every step between `backward` and the optimiser's step.
        """


def _new_defaults(cls: type[Method]) -> None:
    """Make what a class sets without an annotation, `kernel = cosine`, the default of the option that it inherits."""
    annotated = get_annotations(cls)
    for item in fields(cls):  # those of its base
        if item.init and "bounds" in item.metadata and item.name in vars(cls) and item.name not in annotated:
            value = vars(cls)[item.name]
            default = value.__func__ if isinstance(value, staticmethod) else value
            setattr(cls, item.name, field(default=default, kw_only=item.kw_only, metadata=item.metadata))
            annotated[item.name] = get_type_hints(cls)[item.name]
    cls.__annotations__ = annotated


def facts_of(cls: type) -> dict[str, str]:
    """Return the facts of a method's docstring, a line each: its `Paper`, where it `Differs`, its parts in words.

    >>> from relgraph.methods import KD
    >>> facts_of(KD)["Criterion"]
    'KL T^2'
    """
    docs = (cleandoc(base.__doc__ or "") for base in reversed(cls.__mro__))
    return {key: " ".join(text.split()) for doc in docs for key, text in re.findall(FACT, doc, re.MULTILINE)}


def chosen_nodes(cls: type[Method], options: Mapping[str, Any]) -> Part:
    """Return the nodes of a method with these options: the chosen ones, or its own default."""
    own = options_of(cls).get("nodes")
    part: Part = options.get("nodes", "embedding" if own is None else own.default)
    return part


def pool_of(method: Method) -> float | None:
    """Return the share of a map that a method pools to one position, 0 for none; `None` if it compares no positions.

    >>> from relgraph.methods import SP, Pairwise
    >>> pool_of(Pairwise()), pool_of(SP())
    (0.5, None)
    """
    if "pool" not in options_of(type(method)) or getattr(method, "nodes", "positions") != "positions":
        return None
    pool: float | None = vars(method)["pool"]
    return pool or 0.0


def reads_embedding(cls: type[Method], options: Mapping[str, Any]) -> bool:
    """Return whether a method with these options reads the projected embedding.

    >>> from relgraph.methods import EGA, KD, RKD
    >>> [reads_embedding(cls, {}) for cls in (EGA, KD, RKD)], reads_embedding(RKD, {"nodes": "embedding"})
    ([True, False, False], True)
    """
    if "nodes" in options_of(cls):
        return chosen_nodes(cls, options) == "embedding"
    return "embedding" in (getattr(cls, "nodes", None), *cls.reads)


def nodes_of(output: Output, part: Part, method: str, side: str = "", width: int | None = None) -> Tensor:
    """Return the nodes `(N, D)` that a method reads of an output: embedding, feature, or the last map, flattened.

    Raises:
        RelgraphError: if the output has no such part, or its width is not the one that the method was built for on this
            side.
    """
    if part == "positions":
        raise RelgraphError(f"{method} relates images, not the positions of one: expected other nodes than 'positions'")
    if part == "map":
        if not output.maps:
            expected = "expected Output(embedding, maps=(...)) of both networks, or nodes='feature' for vectors"
            raise RelgraphError(f"{method} reads the last stage map: {expected}")
        return output.maps[-1].flatten(1)
    found = output.embedding if part == "embedding" else output.feature
    if found is None and part == "embedding":
        raise no_embedding(method)
    if found is None:
        raise RelgraphError(f"{method} reads features: expected Output(embedding, feature=...) of both networks")
    if width is not None and (found.ndim != 2 or found.shape[1] != width):
        raise RelgraphError(f"{method} was built for {side} nodes (N, {width}), got {tuple(found.shape)}")
    return found


def no_embedding(method: str) -> RelgraphError:
    """Return the error of a method that reads the embedding, for an output without one."""
    return RelgraphError(f"{method} reads embeddings: expected Output(embedding) of both networks, got none")


def stage_maps(output: Output, method: str, least: int = 1) -> tuple[Tensor, ...]:
    """Return the maps of an output, that of the stem first.

    Raises:
        RelgraphError: if there are fewer than `least`.
    """
    if len(output.maps) < least:
        expected = f"expected Output(embedding, maps=(...)) with at least {least} of student and teacher"
        raise RelgraphError(f"{method} reads stage maps (N, C, H, W): {expected}, got {len(output.maps)}")
    return output.maps


def logits_of(student: Output, teacher: Output, method: str, maps: bool = False) -> tuple[Tensor, Tensor]:
    """Return the logits `(N, classes)` of student and teacher; of `maps` those of all positions, `(N H W, classes)`.

    A teacher's map of another grid is resized to the student's (bilinear).

    Raises:
        RelgraphError: if they are missing or differ in shape, or are maps `(N, classes, H, W)` where none are read.
    """
    if student.logits is None or teacher.logits is None:
        expected = "expected Output(embedding, logits) of student and teacher"
        raise RelgraphError(f"{method} reads logits: {expected}, got bare embeddings")
    if maps and student.logits.ndim == teacher.logits.ndim == 4:
        s, t = student.logits, teacher.logits
        if s.shape[:2] == t.shape[:2]:
            return positions_of(s).flatten(0, 1), positions_of(on_grid(t, s.shape[-2:])).flatten(0, 1)
    if student.logits.shape != teacher.logits.shape:
        shapes = f"{tuple(student.logits.shape)} and {tuple(teacher.logits.shape)}"
        raise RelgraphError(f"{method} needs logits of one shape (N, classes) from student and teacher, got {shapes}")
    if student.logits.ndim != 2:
        expected = "(N, classes) or (N, classes, H, W)" if maps else "(N, classes)"
        raise RelgraphError(f"{method} reads logits {expected}, got {tuple(student.logits.shape)}")
    return student.logits, teacher.logits


def score_maps(student: Output, teacher: Output, method: str) -> tuple[Tensor, Tensor]:
    """Return the logits of student and teacher at positions, `(N, classes, H, W)`, the teacher's on the student's grid.

    Raises:
        RelgraphError: if they are missing, of whole images, or differ in images or classes.
    """
    s, t = student.logits, teacher.logits
    if s is None or t is None or not s.ndim == t.ndim == 4 or s.shape[:2] != t.shape[:2]:
        found = " and ".join("none" if x is None else str(tuple(x.shape)) for x in (s, t))
        raise RelgraphError(f"{method} reads logits (N, classes, H, W) of student and teacher, got {found}")
    return s, on_grid(t, s.shape[-2:])


def labels_of(batch: Batch | None, method: str, count: int) -> Tensor:
    """Return the labels of a batch of `count` images, `(N,)`.

    Raises:
        RelgraphError: if there is no batch, or one of another size.
    """
    if batch is None or not isinstance(batch.labels, Tensor):
        raise RelgraphError(f"{method} reads labels: expected a Batch(indices, labels) as the third argument, got none")
    if batch.labels.shape != (count,):
        raise RelgraphError(f"{method} reads one label for each of the {count} images, got {tuple(batch.labels.shape)}")
    return batch.labels


def extra_of(output: Output, views: Views | None, count: int, method: str) -> Output:
    """Return a network's outputs for the extra views of `count` images.

    Raises:
        RelgraphError: if there are none, or for another number of views.
    """
    kind, each = ("views", 0) if views is None else (views.kind, views.each)
    parts = [] if output.extra is None else [output.extra.embedding, output.extra.logits, output.extra.feature]
    rows = sorted({len(part) for part in parts if part is not None})
    if output.extra is None or rows != [each * count]:
        found = " and ".join(map(str, rows)) or "none"
        expected = f"expected {each} * {count} rows in Output.extra"
        raise RelgraphError(f"{method} reads {each} {kind} of each image: {expected}, got {found}")
    return output.extra


def as_output(given: Output | Tensor) -> Output:
    """Return an output; a bare tensor is used as both embedding and feature.

    Raises:
        RelgraphError: for anything else.
    """
    if isinstance(given, Output):
        return given
    if not isinstance(given, Tensor):
        expected = "vectors (N, D) or an Output(embedding, logits=..., feature=..., maps=...) of each network"
        raise RelgraphError(f"a method takes {expected}, got {type(given).__name__}")
    return Output(given, feature=given)


def as_batch(given: Batch | None) -> Batch | None:
    """Return a batch, or none.

    Raises:
        RelgraphError: for anything else.
    """
    if given is not None and not isinstance(given, Batch):
        raise RelgraphError(f"the third argument of a method is a Batch(indices, labels), got {type(given).__name__}")
    return given
