"""The recipe of a run: every option once, as a field. The command line and the YAML file are made from it."""

import math
import os
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

from relgraph.data import AUGMENTATIONS, BUILT_IN
from relgraph.errors import RelgraphError, unknown

if TYPE_CHECKING:
    from relgraph.names import Named
    from relgraph.training.objective import Stage


def option(default: Any, text: str, *, aliases: tuple[str, ...] = (), choices: tuple[str, ...] = ()) -> Any:
    """Return a field with the metadata that the command line needs."""
    return field(default=default, metadata={"help": text, "aliases": aliases, "choices": choices})


# A YAML file may hold a word where a number belongs; 5e-4, without a point, is such a word.
NUMBERS: dict[Any, tuple[Any, str]] = {
    int: (int, "a whole number"),
    int | None: (int | None, "a whole number"),
    float: (int | float, "a number"),
    float | None: (int | float | None, "a number"),
    bool: (bool, "true or false"),
}


@dataclass(frozen=True)
class Recipe:
    """Every choice of one run.

    Optimiser, weights and widths are by default those of EGA's official code; presets and users change them.
    """

    dataset: str = option(
        "digits",
        "digits, cifar10, cifar100, tiny-imagenet, stl10, stl10+unlabelled (with 100,000 images that have no label), "
        "or folder:PATH with train/ and val/ or test/, or with images alone, which have no labels then (relgraph data "
        "lists what is there).",
    )
    root: str = option("data", "Folder in which downloaded data sets lie.")
    image_size: int | None = option(None, "Resize images to this many pixels; needed for folders of mixed sizes.")
    images: str = option(
        "auto",
        "Hold all images in memory, or stream them from a folder; auto: in memory up to 8 GiB.",
        choices=("auto", "memory", "stream"),
    )
    workers: int | None = option(None, "Processes that decode streamed images; if not given one a core, up to 8.")
    val_fraction: float = option(
        0.1, "Share of the training set held out for choosing the best epoch; 0 with --select test."
    )
    labels_per_class: int = option(
        0, "Keep the labels of so many training images a class; the others stay, unlabelled. 0: all."
    )
    label_fraction: float = option(1.0, "Keep the labels of this share of every class's training images.")
    label_noise: float = option(0.0, "Give this share of the labelled training images a wrong class, drawn at random.")
    labelled_share: float = option(0.5, "Share of labelled images in a batch where some have no label.")
    views: str = option(
        "shared",
        "Same crop and flip for both networks, or one each as in EGA's code.",
        choices=("shared", "independent"),
    )
    augment: str = option(
        "auto",
        "Random views of the images: crop (padding, crop, flip), the contrastive ones of moco, simclr or simclr-small "
        "(crop and resize, flip, colours, blur), or digits (bent and shaded); auto: those of the method's authors.",
        choices=("auto", *AUGMENTATIONS),
    )
    normalise: str = option(
        "dataset",
        "Statistics by which the student's images are normalised: the data set's, or the teacher's as in EGA's code.",
        choices=("dataset", "teacher"),
    )
    teacher: str = option(
        "embedded:digits",
        "embedded:digits, open_clip:NAME/WEIGHTS, timm:NAME, torchvision:NAME[/WEIGHTS], checkpoint:RUN "
        "(relgraph teachers lists them).",
    )
    teacher_weights: str | None = option(None, "File with the teacher's weights, for machines without a hub.")
    teacher_size: int | None = option(None, "Input size of the teacher, where it is not the model's own.")
    teacher_mean: tuple[float, ...] | None = option(None, "Mean of the teacher's input, such as 0.5,0.5,0.5.")
    teacher_std: tuple[float, ...] | None = option(None, "Deviation of the teacher's input.")
    teacher_args: tuple[str, ...] = option(
        (),
        "Arguments of the teacher: of timm's constructor, such as num_classes=1001,pad_type=same, or output=projection "
        "for the contrastive head of a checkpoint: that relgraph pretrain made.",
    )
    teacher_mode: str = option(
        "auto",
        "Run the teacher in every step, or read what relgraph embed stored of it; auto: a store if one fits. "
        "Stored views are a few fixed ones of each image, an online teacher reads new ones.",
        choices=("auto", "online", "stored"),
    )
    embeddings: str = option("embeddings", "Folder in which relgraph embed keeps its stores.")
    teacher_head: str = option(
        "joint",
        "The teacher's projection and classifier learn beside the student, are trained first and then fixed, or are "
        "the own ones of a checkpoint: that was trained on the same classes.",
        choices=("joint", "sequential", "own"),
    )
    head_epochs: int | None = option(None, "Epochs for a sequential head; as many as for the student if not given.")
    student: str = option(
        "resnet8x4",
        "resnet8x4, wrn_16_2, vgg8, mobilenetv2, ... (relgraph students lists them), timm:NAME or torchvision:NAME.",
        aliases=("--model_s",),
    )
    init_from: str | None = option(
        None, "Run, or its file of weights, whose backbone the student starts from: to fine-tune what seed distilled."
    )
    dim: int = option(256, "Width of the embeddings, the nodes of the graph.")
    method: str = option(
        "ega",
        "ega, kd, rkd, sp, crd, ... (relgraph methods lists them), a sum such as crd+0.9*kd, or none for cross-entropy "
        "alone.",
        aliases=("--distill",),
    )
    method_args: tuple[str, ...] = option(
        (),
        "Options of the method, such as angle_weight=2, or seed's teacher_tau=0.01, from where on its targets are soft "
        "(relgraph methods NAME explains them).",
    )
    ss_head: str | None = option(
        None, "Run of relgraph pretrain --objective sskd-head: the teacher's self-supervision head, which sskd reads."
    )
    graph: str | None = option(
        None,
        "All pairs, or k nearest neighbours; dense if not given, but for methods with a way of their own (crd).",
        choices=("dense", "knn"),
    )
    k: int | None = option(None, "Neighbours of each node (for --graph knn; 8 if not given).")
    neighbours: str = option(
        "teacher", "Who chooses the neighbours.", choices=("teacher", "student", "union", "mutual")
    )
    form: str = option(
        "auto",
        "How all pairs are compared: by the N x N matrix, without it by products of D x D (factored) or a block of "
        "rows at a time; auto: whichever is cheapest. All have one value.",
        choices=("auto", "matrix", "factored", "blocked"),
    )
    relation: str = option(
        "global",
        "On several devices: relate all images of the batch, or those of each device alone, which is another loss.",
        choices=("global", "local"),
    )
    refine: str | None = option(
        None, "Refine nodes by their neighbours before they are compared.", choices=("smooth", "conv")
    )
    nodes: str | None = option(
        None,
        "What a method's nodes are: the projected embedding, the pooled feature below it, or the last stage map; the "
        "method's own choice if not given.",
        choices=("embedding", "feature", "map"),
    )
    node_weight: float | None = option(
        None, "Weight of EGA's node term, 0.8 if not given. Grows with the batch: retune it for another batch size."
    )
    edge_weight: float | None = option(
        None, "Weight of EGA's edge term, 0.24 if not given. Grows with the batch as well."
    )
    gamma: float | None = option(
        None,
        "Weight of the cross-entropy; if not given the published one: 1, with sskd 0.1, with seed, moco, infonce and "
        "ntxent, which need no labels, 0.",
        aliases=("-r",),
    )
    alpha: float = option(0.0, "Weight of KD on the logits of the teacher's head, beside the method.", aliases=("-a",))
    beta: float | None = option(
        None, "Weight of the method; the published one if not given (relgraph methods).", aliases=("-b",)
    )
    init_epochs: int | None = option(
        None,
        "First epochs, in which the method trains alone, and then no more; if not given 1/9 for fsp and ab, else 0.",
    )
    temperature: float | None = option(
        None, "Temperature of the methods that have one (kd, sskd) and of --alpha; the method's own, 4, if not given."
    )
    epochs: int = option(240, "Passes over the training set.")
    batch_size: int = option(64, "Images in a batch, which are the nodes of its graph; of all devices together.")
    accumulate: int = option(
        1,
        "Parts in which a batch goes through the student, for a large graph on a small device; the graph stays that of "
        "the batch, and the student runs twice.",
    )
    batch_norm: str = option(
        "local",
        "On several devices: batch norm over the images of each, or over all of them (sync).",
        choices=("local", "sync"),
    )
    lr: float = option(0.05, "Learning rate of the student.")
    momentum: float = option(0.9, "Momentum of both optimisers.")
    weight_decay: float = option(5e-4, "Weight decay of both optimisers.")
    schedule: str = option(
        "step", "x 0.1 at the milestones, a cosine to 0, or constant.", choices=("step", "cosine", "constant")
    )
    milestones: tuple[int, ...] | None = option(
        None, "Epochs of the steps; 150,180,210 of 240, and in that proportion for other lengths, if not given."
    )
    teacher_lr: float = option(
        0.01, "Learning rate of the teacher's head: constant for a joint one, with the schedule for a sequential one."
    )
    select: str = option(
        "val", "Split on which the best epoch is picked; 'test' is the original's habit.", choices=("val", "test")
    )
    diagnose_every: int = option(
        50, "Steps from one look at the graphs of student and teacher to the next (diagnostics.csv); 0 for none."
    )
    seed: int = option(0, "Seed of everything: split, labels, weights, batches, crops.")
    device: str = option("auto", "Where to compute.", choices=("auto", "cpu", "cuda"))
    precision: str = option(
        "auto",
        "auto: bf16 where the processor has it; relations stay float32.",
        choices=("auto", "32-true", "bf16-mixed"),
    )
    compile: bool = option(False, "Compile the student with torch.compile.")

    def __post_init__(self) -> None:
        """Check kinds and ranges; names that are open-ended are checked where they are looked up."""
        for item in fields(self):
            check_kind(item, getattr(self, item.name))
        for name in ("epochs", "dim", "image_size", "teacher_size", "head_epochs", "accumulate"):
            if getattr(self, name) is not None:
                at_least(name, getattr(self, name), 1)
        for name in ("diagnose_every", "lr", "teacher_lr", "momentum", "weight_decay", "alpha", "labels_per_class"):
            at_least(name, getattr(self, name), 0)
        for name in ("workers", "beta", "gamma", "init_epochs"):
            if getattr(self, name) is not None:
                at_least(name, getattr(self, name), 0)
        if self.temperature is not None and not self.temperature > 0:
            raise RelgraphError(f"temperature must be positive, got {self.temperature}")
        if self.head_epochs is not None and self.teacher_head != "sequential":
            raise RelgraphError(
                f"head_epochs belongs to teacher_head 'sequential', got {self.teacher_head!r} and {self.head_epochs}"
            )
        if self.teacher_head == "own" and not self.teacher.startswith("checkpoint:"):
            raise RelgraphError(f"teacher_head 'own' needs a teacher checkpoint:RUN, got {self.teacher}")
        if self.ss_head is not None and not any(item.name == "sskd" for item in self.methods):
            raise RelgraphError(f"ss_head belongs to sskd, got method {self.method}")
        if not 0 <= self.seed < 2**31:
            raise RelgraphError(f"seed must be between 0 and {2**31 - 1}, got {self.seed}")
        self._check_method()
        self._check_graph()

    def _check_method(self) -> None:
        from relgraph.methods.options import options_of
        from relgraph.names import has_graph, read_arguments, reads_graph

        read_arguments(self.methods, self.method_args or ())
        if self.k is not None and not any(has_graph(item.cls) for item in self.methods):
            raise RelgraphError(f"k belongs to methods that have a graph, got {self.method}, which has none")
        if self.graph is not None and not any(has_graph(item.cls) for item in self.methods):
            raise RelgraphError(f"graph belongs to methods that have one, got {self.method}, which has none")
        if (self.graph is not None or self.k is not None) and not reads_graph(self.methods):
            name = next(item.name for item in self.methods if has_graph(item.cls))
            raise RelgraphError(
                f"the graph of a sum is that of the images of a batch, got {self.method}: give {name}'s own by "
                f"--method-args {name}.graph=... and {name}.k=..."
            )
        if self.beta is not None and not self.methods:
            raise RelgraphError(f"beta is the weight of a method, got method {self.method}")
        first = next((item.name for item in self.methods if item.cls.init_share > 0), None)
        if first is not None and len(self.methods) > 1 and self.init_epochs is None:
            raise RelgraphError(
                f"{first} trains alone before the labels do, a stage that a sum has not: give --init-epochs 0 to add "
                "it, or add KD to it by --alpha"
            )
        if self.refine is not None and not self.relates:
            raise RelgraphError(f"refine belongs to methods that relate the images of a batch, got {self.method}")
        if self.form != "auto" and not self.relates:
            raise RelgraphError(f"form belongs to methods that relate the images of a batch, got {self.method}")
        if self.neighbours != "teacher" and not self.relates:
            raise RelgraphError(f"neighbours belong to methods that relate the images of a batch, got {self.method}")
        if self.nodes is not None and not any("nodes" in options_of(item.cls) for item in self.methods):
            raise RelgraphError(f"nodes belong to methods that leave the choice of them, got {self.method}")
        if self.initial_epochs > 0 and not self.methods:
            raise RelgraphError(f"init_epochs belong to a method, which then trains alone, got method {self.method}")
        if self.label_weight == 0 and self.alpha == 0:
            if not self.methods:
                raise RelgraphError(f"nothing teaches the student: gamma and alpha are 0, got method {self.method}")
            if self.initial_epochs > 0:
                raise RelgraphError(
                    f"nothing teaches the student after {self.initial_epochs} init_epochs: gamma and alpha are 0, give "
                    "--init-epochs 0"
                )
        if self.initial_epochs > 0 and self.initial_epochs >= self.epochs:
            raise RelgraphError(f"init_epochs must be below epochs = {self.epochs}, got {self.initial_epochs}")

    def _check_graph(self) -> None:
        if self.batch_size % self.accumulate:
            parts = f"{self.batch_size} and {self.accumulate}"
            raise RelgraphError(f"batch_size must be a multiple of accumulate, the parts of a batch, got {parts}")
        if self.batch_size < 2:
            raise RelgraphError(f"a relation needs two images: batch_size must be at least 2, got {self.batch_size}")
        if self.topology == "dense" and (self.k is not None or self.neighbours != "teacher"):
            given = f"k = {self.k} and neighbours = {self.neighbours!r}"
            raise RelgraphError(f"k and neighbours belong to the graph 'knn', got {given}")
        if self.relates and self.topology == "knn" and not 1 <= self.neighbours_of_each <= self.batch_size - 1:
            limit = f"k must be between 1 and batch_size - 1 = {self.batch_size - 1}"
            raise RelgraphError(f"{limit}, got {self.neighbours_of_each}")

    @cached_property
    def methods(self) -> list["Named"]:
        """The methods that `method` and `beta` name, each with its weight."""
        from relgraph.names import parse_methods

        return parse_methods(self.method, self.beta)

    @property
    def relates(self) -> bool:
        """Whether a method compares the images of a batch with each other."""
        from relgraph.methods.relational import Relational

        return any(issubclass(item.cls, Relational) for item in self.methods)

    @property
    def topology(self) -> str:
        """The graph, its default included."""
        return "dense" if self.graph is None else self.graph

    @property
    def graph_in_use(self) -> str | None:
        """The graph that a method reads, `None` if it was left to a method with a way of its own, or there is none.

        Of several methods that were given different ones, each, joined by "+".
        """
        from relgraph.methods.relational import Relational
        from relgraph.names import read_arguments, shared_options

        own = read_arguments(self.methods, self.method_args)
        found = [
            own[item.name].get("graph", self.topology if issubclass(item.cls, Relational) else self.graph)
            for item in self.methods
            if "graph" in shared_options(item.cls, len(self.methods) > 1)
        ]
        return "+".join(dict.fromkeys(graph for graph in found if graph is not None)) or None

    @property
    def initial_epochs(self) -> int:
        """The number of epochs in which the method trains alone, before the labels do."""
        if self.init_epochs is not None:
            return self.init_epochs
        share = self.methods[0].cls.init_share if len(self.methods) == 1 else 0.0
        least = 1 if share > 0 and self.epochs > 1 else 0  # a short run has its stage as well
        return max(least, round(share * self.epochs))

    def stage(self, epoch: int) -> "Stage":
        """Return the stage of the student's training in an epoch, counted from 0."""
        if self.initial_epochs == 0:
            return "both"
        return "method" if epoch < self.initial_epochs else "labels"

    @property
    def label_weight(self) -> float:
        """The weight of the cross-entropy, its default included: that which a method was published with."""
        if self.gamma is not None:
            return self.gamma
        return self.methods[0].cls.gamma if len(self.methods) == 1 else 1.0

    @property
    def learns_labels(self) -> bool:
        """Whether the student's classifier is trained; otherwise its features are evaluated by their neighbours."""
        by_logits = any("logits" in item.cls.reads for item in self.methods)
        return self.label_weight > 0 or self.alpha > 0 or by_logits

    @property
    def augmentation(self) -> str:
        """The random views, `auto` replaced by those that the method was published with."""
        if self.augment != "auto":
            return self.augment
        if not any(item.cls.augment == "contrastive" for item in self.methods):
            return "crop"
        return "digits" if self.dataset == "digits" else "moco"

    @property
    def uses_teacher(self) -> bool:
        """Whether any term of the loss reads a teacher."""
        return bool(self.methods) or self.alpha > 0

    @property
    def neighbours_of_each(self) -> int:
        """The k of a k-NN graph, its default included."""
        return 8 if self.k is None else self.k

    @property
    def processes(self) -> int:
        """The number of processes that decode streamed images, its default included."""
        return granted_processes() if self.workers is None else self.workers


def granted_processes() -> int:
    """Return one process for each core that this program may use, up to 8."""
    # A container or a scheduler may grant fewer cores than the machine has.
    granted = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(granted, 8)


PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    # EGA's official training script. What still differs from it: the best epoch is picked on held-out training images
    # (there on the test split, which is `select: test` with `val_fraction: 0`).
    "ega": {
        "student": "resnet8x4",
        "node_weight": 0.8,
        "edge_weight": 0.24,
        "epochs": 240,
        "batch_size": 64,
        "lr": 0.05,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "step",  # at 150, 180 and 210 of 240 epochs
        "teacher_lr": 0.01,
        "views": "independent",
        "normalise": "teacher",
    },
    # Few labels, so that a teacher improves the student; the weights are EGA's own.
    "digits": {
        "student": "resnet8",
        "labels_per_class": 3,
        "labelled_share": 0.5,
        "epochs": 20,
        "precision": "32-true",  # bf16 does not speed up such a small network, and float32 is the same everywhere
    },
}
# The official script for the sequential strategy.
PRESETS["ega-sequential"] = {**PRESETS["ega"], "edge_weight": 0.3, "teacher_head": "sequential"}


def resolve(given: Mapping[str, Any], preset: str | None = None) -> Recipe:
    """Return the recipe of what a user gave, over the preset, over the defaults.

    Digits, the data set of the offline example, selects the preset of its name if no preset is given.

    Raises:
        RelgraphError: for an unknown preset or option, a value out of range, or a data set without a teacher.

    >>> resolve({"graph": "knn", "epochs": 3}).epochs
    3
    """
    known = [item.name for item in fields(Recipe)]
    for name in given:
        if name not in known:
            raise unknown("option", name, known)
    if preset is None:
        preset = "digits" if given.get("dataset", "digits") == "digits" else "none"
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    chosen = {**PRESETS[preset], **given}
    if "label_fraction" in given and "labels_per_class" not in given:
        chosen.pop("labels_per_class", None)  # two options for the same choice; the user's is kept
    recipe = Recipe(**chosen)
    check_dataset(recipe.dataset)
    if recipe.uses_teacher and recipe.dataset != "digits" and "teacher" not in given:
        raise RelgraphError(
            f"{recipe.dataset} needs a teacher, since the embedded one knows digits alone: "
            "give --teacher timm:NAME, open_clip:NAME/WEIGHTS, torchvision:NAME or checkpoint:RUN, "
            "or train with --method none"
        )
    return recipe


def check_dataset(name: str) -> None:
    """Raise RelgraphError unless a data set is built in or a folder."""
    if name not in BUILT_IN and not name.startswith("folder:"):
        raise unknown("data set", name, [*BUILT_IN, "folder:PATH"])


def at_least(name: str, value: float, least: float) -> None:
    """Raise RelgraphError unless a value is finite and at least the given bound."""
    if not least <= value < math.inf:
        raise RelgraphError(f"{name} must be at least {least}, got {value}")


def check_kind(item: Field[Any], value: Any) -> None:
    """Raise RelgraphError unless a value is of its field's kind and one of its choices."""
    kind, words = NUMBERS.get(item.type, (object, ""))
    if not isinstance(value, kind):
        raise RelgraphError(f"{item.name} must be {words}, got {value!r}")
    if str(item.type).startswith("tuple") and not isinstance(value, tuple | None):
        raise RelgraphError(f"{item.name} must be a list, got {value!r}")
    if str(item.type) == "tuple[str, ...]" and not all(isinstance(part, str) for part in value or ()):
        raise RelgraphError(f"{item.name} must be a list of words, got {list(value)}")
    choices = item.metadata["choices"]
    if choices and value is not None and value not in choices:
        raise unknown(item.name, value, choices)
