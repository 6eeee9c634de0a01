"""The recipe of a run: every option once, as a field. The command line and the YAML file are made from it."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal

from relgraph.errors import RelgraphError
from relgraph.options import PAIR, check_names, check_options, option, options_of, with_arguments_written
from relgraph.own_code import Own
from relgraph.training.presets import EGA_TERMS, find_preset, with_arguments

if TYPE_CHECKING:
    from relgraph.names import Named
    from relgraph.training.objective import Stage
    from relgraph.training.pretrain_recipe import PretrainRecipe


# Options that may be an object of the user's own.
OBJECTS = {"dataset", "student", "network", "teacher", "method", "kernel", "scale", "criterion", "refine"}
# What `relgraph embed` reads of a recipe.
EMBED_OPTIONS = (
    "dataset", "root", "image_size", "images", "bad_images", "unlabelled", "ignore", "test_fraction", "split_seed",
    "holdout_classes", "workers",
    "teacher", "teacher_weights", "teacher_size", "teacher_mean", "teacher_std", "teacher_args", "embeddings", "device",
    "precision", "threads",
)  # fmt: skip
Fitting = Mapping[str, tuple[object, ...]]  # the values that fit, by option
# Where pixels have classes: both networks and the labels have one view, and no image has a class.
FOR_PIXELS: Fitting = {
    "augment": ("auto", "pixels"), "views": ("shared",), "scope": ("batch",), "teacher_mode": ("auto", "online"),
    "teacher_head": ("joint",), "align": (False,),
}  # fmt: skip
FIRST = "sequential", "fitted"  # heads of a teacher that labels make before the student is trained
FOR_DATA_SET: Fitting = {"graph": (None, "knn"), "neighbours": ("teacher",), "relation": ("global",)}
# Of a teacher that is known by its vectors alone.
WITHOUT_NETWORK: Fitting = {
    "normalise": ("auto", "student", "dataset"), "teacher_weights": (None,), "teacher_size": (None,),
    "teacher_mean": (None,), "teacher_std": (None,), "teacher_args": ((),), "teacher_mode": ("stored", "auto"),
}  # fmt: skip


@dataclass(frozen=True)
class BaseRecipe:
    """The options that a training and a pre-training have in common: data, teacher, seed, device.

    Args:
        dataset: digits, cifar100, ..., classes:PATH, folder:PATH, csv:FILE, huggingface:NAME (relgraph data explains
            them), or your own, such as data.py:Photos; classes: has a folder for each class, folder: has train/ and
            val/ or test/, or images alone, which have no labels then, a table the columns path, label and split.
        root: Folder in which downloaded data sets lie.
        image_size: Resize images to so many pixels, or HEIGHTxWIDTH; needed for folders of mixed sizes.
        images: Hold all images in memory, or stream them from a folder; auto: in memory up to 8 GiB.
        bad_images: Stop at an image file that cannot be read, or skip all of them before anything is drawn, and list
            them in inputs.json of the run; to find them, streamed images are decoded once at the start.
        unlabelled: Folder of images that join the training set without labels, at any depth.
        ignore: Numbers in files of labels of pixels that stand for no class, beside 255.
        test_fraction: Share of every class that becomes the test split, of a data set that has none.
        split_seed: Seed that draws this test split, or the classes that are held out; --seed does not move them.
        holdout_classes: Classes kept out of training, for validation and testing: shares such as 0.16,0.2, or names.
            Names are written val=apple,bear+test=cat. All images of the original training split that are of these
            classes are the validation and test images, as retrieval is judged; the original test split is left out.
        workers: Processes that decode streamed images; if not given one a core, up to 8.
        val_fraction: Share of the training set held out for choosing the best epoch; 0 with --select test or last.
        augment: Random views of the images: crop (padding, crop, flip), the contrastive ones of moco, simclr or
            simclr-small (crop and resize, flip, colours, blur), digits (bent and shaded), or pixels (scale, crop, flip,
            for images and the labels of their pixels alike); auto: those of the data's or the method's authors.
        teacher: embedded:digits, open_clip:NAME/WEIGHTS, timm:NAME, torchvision:NAME[/WEIGHTS], checkpoint:RUN,
            repdistiller:NAME, vectors:FILE (relgraph teachers explains them), or your own, such as nets.py:Net;
            repdistiller: reads a published file, vectors: are those of the training images, without a network.
        teacher_weights: File with the teacher's weights, for machines without a hub.
        teacher_size: Input size of the teacher, where it is not the model's own.
        teacher_mean: Mean of the teacher's input, such as 0.5,0.5,0.5.
        teacher_std: Standard deviation of the teacher's input.
        teacher_args: Arguments of the teacher: of timm's constructor, such as num_classes=1001,pad_type=same, or
            output=projection for the contrastive head of a checkpoint: that relgraph pretrain made, output=embedding
            for the vectors of a student that its method compared.
        optimiser: SGD with momentum, or AdamW with torch's betas, and rates of 0.001 if not given.
        momentum: Momentum of SGD.
        nesterov: Nesterov's momentum.
        decay_norm_and_bias: Whether weight decay also acts on weights of norms, on biases and on what a network names
            in its own no_weight_decay(); in timm's training script it does not.
        clip_norm: Largest norm of the gradient of all that is trained but the teacher's side; a longer gradient is
            scaled to it. Without a limit if not given.
        min_lr: Rate at the end of the cosine.
        batch_norm: On several devices: batch norm over the images of each, or over all of them (sync).
        drop_last: Leave out the images of an epoch that fill no batch, or train on them as a smaller batch, if there
            are two or more.
        select: Split on which the best epoch is chosen, as EGA's official code does on the test split; last: none is
            chosen, and the figures are those of the last epoch.
        seed: Seed of all random numbers: split, labels, weights, batches, crops.
        device: Where to compute.
        precision: Precision of the networks; auto: bf16 where the processor has it. Relations stay float32.
        compile: Compile the student with torch.compile; auto: if the run is long enough to pay for it, by a trial.
        checkpoint_minutes: Minutes from one checkpoint amid an epoch to the next, in one process; if not given there is
            one at the end of each epoch, and one where a scheduler ends the run (SIGTERM).
        threads: Threads that compute, on a CPU; auto: the fastest in a trial at the start. If not given, all cores, so
            that a seed gives the same numbers.
        logger: What logs the run besides its own metrics.csv: tensorboard, none, or loggers of Lightning's interface,
            spelled package.module:attribute or path/to/file.py:attribute.
    """

    dataset: str | Own = option(default="digits")
    root: str = option(default="data")
    image_size: int | PAIR | None = option(default=None, least=1)
    images: Literal["auto", "memory", "stream"] = option(default="auto")
    bad_images: Literal["stop", "skip"] = option(default="stop")
    unlabelled: str | None = option(default=None)
    ignore: tuple[int, ...] = option(default=())
    test_fraction: float = option(default=0.2, above=0, below=1)
    split_seed: int = option(default=0, least=0, most=2**31 - 1)
    holdout_classes: str | None = option(default=None)
    workers: int | None = option(default=None, least=0)
    val_fraction: float = option(default=0.1)
    augment: Literal["auto", "crop", "moco", "simclr", "simclr-small", "digits", "pixels"] = option(default="auto")
    teacher: str | Own | None = option(default=None)
    teacher_weights: str | None = option(default=None)
    teacher_size: int | None = option(default=None, least=1)
    teacher_mean: tuple[float, ...] | None = option(default=None)
    teacher_std: tuple[float, ...] | None = option(default=None)
    teacher_args: tuple[str, ...] = option(default=())
    optimiser: Literal["sgd", "adamw"] = option(default="sgd")
    momentum: float = option(default=0.9, least=0)
    nesterov: bool = option(default=False)
    decay_norm_and_bias: bool = option(default=True)
    clip_norm: float | None = option(default=None, above=0)
    min_lr: float = option(default=0.0, least=0)
    batch_norm: Literal["local", "sync"] = option(default="local")
    drop_last: bool = option(default=True)
    select: Literal["val", "test", "last"] = option(default="val")
    seed: int = option(default=0, least=0, most=2**31 - 1)
    device: Literal["auto", "cpu", "cuda"] = option(default="auto")
    precision: Literal["auto", "32-true", "bf16-mixed"] = option(default="auto")
    compile: bool | Literal["auto"] = option(default=False)
    checkpoint_minutes: float | None = option(default=None, above=0)
    threads: int | Literal["auto"] | None = option(default=None, least=1)
    logger: tuple[str, ...] | Any = option(default=("tensorboard",))

    def __post_init__(self) -> None:
        """Check kinds and ranges; names that are open-ended are checked where they are looked up."""
        for name in OBJECTS & vars(self).keys():
            object.__setattr__(self, name, Own.of(getattr(self, name), name))
        loggers = self.logger if isinstance(self.logger, tuple) else (self.logger,)
        object.__setattr__(self, "logger", tuple(map(Own.of, loggers)))
        check_options(self)
        if self.holdout_classes is not None:
            from relgraph.names import unseen_classes

            unseen_classes(self.holdout_classes)
            self.refuse_unused(False, "data without holdout_classes", self.holdout_classes, "test_fraction")
            if self.val_fraction not in (0, options_of(type(self))["val_fraction"].default):
                told = "val_fraction belongs to data without holdout_classes, whose validation images are of classes"
                raise RelgraphError(f"{told} of their own, got {self.val_fraction} and {self.holdout_classes}")

    def plain(self) -> dict[str, Any]:
        """Return every option as JSON and YAML hold it: objects by their spelling, several values as a list."""

        def plainly(value: Any) -> Any:
            if isinstance(value, (tuple, list)):
                return [plainly(part) for part in value]
            return value if isinstance(value, (bool, int, float, NoneType)) else str(value)

        return {item.name: plainly(getattr(self, item.name)) for item in fields(self)}

    @property
    def measured(self) -> Literal["val", "test"]:
        """The split that is measured after an epoch: the test split only where it selects."""
        return "test" if self.select == "test" else "val"

    @property
    def processes(self) -> int:
        """The number of processes that decode streamed images, its default included: one a core or thread, up to 8."""
        if self.workers is not None:
            return self.workers
        # A container or a scheduler may grant fewer cores than the machine has.
        granted = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(granted, 8, self.threads if isinstance(self.threads, int) else granted)

    def refuse_unused(self, used: bool, owner: str, got: object, *names: str) -> None:
        """Raise RelgraphError if one of these options was changed that only `owner` reads, unless that is `used`."""
        for name in names:
            if not used and getattr(self, name) != options_of(type(self))[name].default:
                raise RelgraphError(f"{name} belongs to {owner}, got {got}")


def check_optimiser(recipe: "Recipe | PretrainRecipe") -> None:
    """Refuse settings of the optimiser and of its learning rate that do not fit each other."""
    for name in ("momentum", "nesterov"):
        got = f"{recipe.optimiser} and {getattr(recipe, name)}"
        recipe.refuse_unused(recipe.optimiser == "sgd", "optimiser sgd", got, name)
    if recipe.nesterov and recipe.momentum == 0:
        raise RelgraphError("nesterov needs a momentum above 0, got 0")
    recipe.refuse_unused(recipe.weight_decay != 0, "a weight decay", "weight_decay 0", "decay_norm_and_bias")
    recipe.refuse_unused(recipe.schedule == "cosine", "schedule cosine", recipe.schedule, "min_lr")
    if recipe.lr is not None and recipe.min_lr > recipe.lr:
        raise RelgraphError(f"min_lr must be at most lr = {recipe.lr}, got {recipe.min_lr}")
    if recipe.epochs is not None and (recipe.warmup_epochs or 0) >= recipe.epochs:
        raise RelgraphError(f"warmup_epochs must be below epochs = {recipe.epochs}, got {recipe.warmup_epochs}")


@dataclass(frozen=True)
class Recipe(BaseRecipe):
    """Every choice of one run.

    Optimiser, weights and widths are by default those of EGA's official code; presets and users change them.

    Args:
        labels_per_class: Number of training images of each class that keep their label; the others stay, unlabelled.
            0: all.
        label_fraction: Share of every class's training images that keep their label.
        labelled_images: Number of training images that keep their labels, where pixels have classes; all if not given.
        crop_size: Size of the random crops of a training step, where pixels have classes, or HEIGHTxWIDTH; that of the
            images if not given.
        crop_scale: Bounds of the random factor by which an image is scaled before it is cropped, where pixels have
            classes.
        label_noise: Share of the labelled training images that get a wrong class, drawn at random.
        labelled_share: Share of labelled images in a batch where some have no label.
        views: Same crop and flip for both networks, or one each as in EGA's code.
        normalise: Statistics by which the student's images are normalised: the data set's, the teacher's as in EGA's
            code, or those with which the student's own weights were trained; auto: the student's if its name says
            published weights and the images have as many channels, else the data set's.
        teacher_mode: Run the teacher in every step, or read the embeddings that relgraph embed stored; auto: a store if
            one fits. A store holds a few fixed views of each image, an online teacher reads new ones.
        embeddings: Folder in which relgraph embed keeps its stores.
        teacher_stages: Parts of a teacher of timm, torchvision or your own whose outputs are its stage maps.
        teacher_head: The teacher's projection and classifier learn beside the student, are trained first and then
            fixed, are fitted first (principal directions, logistic regression), or are the own ones of a checkpoint: or
            repdistiller: that was trained on the same classes.
        head_epochs: Epochs for a sequential head; as many as for the student if not given.
        student: resnet8x4, wrn_16_2, ... (relgraph students lists them), timm:NAME[.WEIGHTS],
            torchvision:NAME[/WEIGHTS], or your own, such as nets.py:Net; without WEIGHTS it starts from random ones,
            with them from published ones (relgraph teachers lists them).
        student_weights: File from whose weights a student of timm, torchvision or your own starts, in the network's own
            names and without relgraph's description; a classifier of timm or torchvision in it is passed over.
        student_stages: Parts of a student of timm, torchvision or your own whose outputs are its stage maps, such as
            layer1,layer2; its own maps if not given.
        init_from: Run, or its file of weights, whose backbone the student starts from: to fine-tune a student that
            seed distilled.
        head: Layers on top of both backbones: a projection to the embedding and a classifier, or the classifier alone,
            one linear layer, as published students of most methods have it; for methods that read no embedding.
        target_space: Whose embeddings are the teacher's nodes: a projection's, which labels train, or its own. With its
            own vectors as they are, the student's projection ends at their width, so that it answers queries against
            an index of them.
        dim: Width of the embeddings, the nodes of the graph; 256 if not given, with target_space teacher the teacher's.
        method: ega, kd, rkd, sp, crd, ... (relgraph methods lists them), a sum such as crd+0.9*kd, your own, such as
            losses.py:Mine, or none for cross-entropy alone.
        method_args: Options of the method, such as angle_weight=2, or teacher_tau=0.01 for softer targets of seed
            (relgraph methods NAME explains them).
        ss_head: Run of relgraph pretrain --objective sskd-head: the teacher's self-supervision head, which sskd reads.
        graph: All pairs, or k nearest neighbours; dense if not given, except for methods that choose their own
            neighbours (crd).
        k: Neighbours of each node. For --graph knn; 8 if not given.
        neighbours: Which network chooses the neighbours.
        form: How all pairs are compared: by the N x N matrix, without it by products of D x D (factored) or a block of
            rows at a time; auto: whichever is cheapest. All give the same value.
        relation: On several devices: relate all images of the batch, or those of each device alone, which is another
            loss.
        scope: Whether --graph knn finds neighbours in a batch, or in the data set. With dataset the teacher's own
            vectors of all training images are searched once; a batch is then images (seeds) with all their neighbours,
            --batch-size in all, and relation and labels are of the seeds alone.
        edges: File of a graph of your own in place of those neighbours, for --scope dataset: .csv or .parquet with the
            columns source (the neighbour), target and, as the teacher's weights of the edges, weight, or .pt with
            edge_index and edge_weight; images by their position in the training split or by the name of their file.
        refine: Refine nodes by their neighbours before they are compared. By smooth, conv, a graph convolution of
            PyTorch Geometric, such as GATv2Conv or SAGEConv (docs/graphs.md), or your own, such as nets.py:Net.
        hops: With --scope dataset, refine on all images within as many edges of the seeds. 1 is the batch as it is, in
            which all neighbours of a seed send it messages, and its neighbours have those that are there; with 2 they
            have all of theirs, in larger neighbourhoods.
        kernel: Kernel of the method's relation, in place of the published one: pearson, cosine, linear, euclidean,
            squared_euclidean, gaussian:GAMMA, gaussian_taylor:GAMMA:ORDER or damped_pearson:EPSILON.
        scale: Scale of the method's relation, in place of the published one: raw, by_mean, by_max, by_constant_max,
            by_norm, by_anchor_norm, by_anchor_sum or softmax:TEMPERATURE.
        criterion: Criterion of the method's relation, in place of the published one: frobenius, mean_square,
            sum_square, anchor_square, half_square, huber, kl (of probabilities) or cross_entropy (of
            log-probabilities).
        nodes: What a method's nodes are: the projected embedding, the pooled feature below it, the last stage map, or
            the positions of that map, in one graph an image; the method's own choice if not given, with target_space
            teacher the embedding.
        pool: Of methods that compare positions: share of the height and width of the last stage maps that is pooled to
            one position; the method's own choice if not given.
        node_weight: Weight of EGA's node term, 0.8 if not given. Grows with the batch: retune it for another batch
            size.
        edge_weight: Weight of EGA's edge term, 0.24 if not given. Grows with the batch as well.
        gamma: Weight of the cross-entropy; if not given the published one: 1, with sskd and mlld 0.1, with seed, moco,
            infonce, ntxent, lightly and anchor, which need no labels, 0; of a sum 1, unless all of it need none.
        alpha: Weight of KD on the logits of the teacher's head, beside the method.
        beta: Weight of the method; the published one if not given (relgraph methods).
        init_epochs: Number of first epochs in which the method trains alone, and then no more; if not given 1/9 of all
            for fsp and ab, else 0.
        temperature: Temperature of the methods that have one (kd, dkd, mlld, sskd) and of --alpha; the method's own, 4,
            if not given.
        epochs: Passes over the training set.
        batch_size: Images in a batch, which are the nodes of its graph, at least two; of all devices together.
        accumulate: Parts in which a batch goes through the student, for a large graph on a small device; the graph
            stays that of the batch, and the student runs twice.
        lr: Learning rate of the student; with adamw 0.001 if not given.
        weight_decay: Weight decay of both optimisers.
        schedule: Learning rate over the epochs: x 0.1 at the milestones, a cosine to --min-lr, poly, or constant; poly
            is the power 0.9 of what is left of the training, by step, as segmentation has it.
        schedule_by: Whether the cosine falls with each epoch or with each step.
        warmup_epochs: First epochs, in which the student's rate rises from 0 with every step; the schedule begins after
            them, milestones are epochs of the whole run.
        milestones: Epochs of the steps; 150,180,210 of 240, and in that proportion for other lengths, if not given.
        teacher_lr: Learning rate of the teacher's head; 0.001 if not given with adamw, and with scope dataset and
            refine. It is constant for a joint head, and has the schedule for a sequential one. Its optimiser is the
            student's in all but rate, warm-up and clipping.
        align: Rotate the vectors into the teacher's space at the end (relgraph align).
        ema: Decay of an exponential moving average of the student's weights and statistics, after each step at most
            (1 + step) / (10 + step); the average is evaluated, selected and kept, while the student itself is trained
            on. 0 for none.
        patience: Epochs without a better score on the split that selects after which the run ends; epochs in which a
            method trains alone do not count. If not given, all epochs are trained.
        diagnose_every: Steps between two measurements of the graphs of student and teacher (diagnostics.csv); 0 for
            none, and none of the validation images after an epoch either.
    """

    teacher: str | Own = option(default="embedded:digits")
    labels_per_class: int = option(default=0, least=0)
    label_fraction: float = option(default=1.0)
    labelled_images: int | None = option(default=None, least=1)
    crop_size: int | PAIR | None = option(default=None, least=1)
    crop_scale: tuple[float, ...] = option(default=(0.5, 2.0))
    label_noise: float = option(default=0.0)
    labelled_share: float = option(default=0.5)
    views: Literal["shared", "independent"] = option(default="shared")
    normalise: Literal["auto", "dataset", "teacher", "student"] = option(default="auto")
    teacher_mode: Literal["auto", "online", "stored"] = option(default="auto")
    embeddings: str = option(default="embeddings")
    teacher_stages: tuple[str, ...] = option(default=())
    teacher_head: Literal["joint", "sequential", "fitted", "own"] = option(default="joint")
    head_epochs: int | None = option(default=None, least=1)
    student: str | Own = option(default="resnet8x4", aliases=("--model_s",))
    student_weights: str | None = option(default=None)
    student_stages: tuple[str, ...] = option(default=())
    init_from: str | None = option(default=None)
    head: Literal["projection", "linear"] = option(default="projection")
    target_space: Literal["projection", "teacher"] = option(default="projection")
    dim: int | None = option(default=None, least=1)
    method: str | Own = option(default="ega", aliases=("--distill",))
    method_args: tuple[str, ...] = option(default=())
    ss_head: str | None = option(default=None)
    graph: Literal["dense", "knn"] | None = option(default=None)
    k: int | None = option(default=None)
    neighbours: Literal["teacher", "student", "union", "mutual"] = option(default="teacher")
    form: Literal["auto", "matrix", "factored", "blocked"] = option(default="auto")
    relation: Literal["global", "local"] = option(default="global")
    scope: Literal["batch", "dataset"] = option(default="batch")
    edges: str | None = option(default=None)
    refine: str | Own | None = option(default=None)
    hops: int = option(default=1, least=1)
    kernel: str | Own | None = option(default=None)
    scale: str | Own | None = option(default=None)
    criterion: str | Own | None = option(default=None)
    nodes: Literal["embedding", "feature", "map", "positions"] | None = option(default=None)
    pool: float | None = option(default=None, above=0, most=1)
    node_weight: float | None = option(default=None)
    edge_weight: float | None = option(default=None)
    gamma: float | None = option(default=None, least=0, aliases=("-r",))
    alpha: float = option(default=0.0, least=0, aliases=("-a",))
    beta: float | None = option(default=None, least=0, aliases=("-b",))
    init_epochs: int | None = option(default=None, least=0)
    temperature: float | None = option(default=None, above=0)
    epochs: int = option(default=240, least=1)
    batch_size: int = option(default=64, least=2)
    accumulate: int = option(default=1, least=1)
    lr: float = option(default=0.05, least=0)
    weight_decay: float = option(default=5e-4, least=0)
    schedule: Literal["step", "cosine", "poly", "constant"] = option(default="step")
    schedule_by: Literal["epoch", "step"] = option(default="epoch")
    warmup_epochs: int = option(default=0, least=0)
    milestones: tuple[int, ...] | None = option(default=None)
    teacher_lr: float = option(default=0.01, least=0)
    align: bool = option(default=False)
    ema: float = option(default=0.0, least=0, below=1)
    patience: int | None = option(default=None, least=1)
    diagnose_every: int = option(default=50, least=0)

    def __post_init__(self) -> None:
        """Check each option, and which of them fit each other."""
        super().__post_init__()
        if self.init_from is not None and self.student_weights is not None:
            raise RelgraphError(f"a student starts from init_from or student_weights, got {self.init_from} and "
                                f"{self.student_weights}")  # fmt: skip
        self._check_teacher()
        self._check_method()
        self._check_space()
        self._check_graph()
        self._check_stages()
        self._check_rate()
        self._check_crop()

    def _check_teacher(self) -> None:
        from relgraph.names import is_vectors, teacher

        if is_vectors(self.teacher):
            self._check_fitting(f"{self.teacher} has no network", WITHOUT_NETWORK)
        got = f"{self.teacher_head!r} and {self.head_epochs}"
        self.refuse_unused(self.teacher_head == "sequential", "teacher_head 'sequential'", got, "head_epochs")
        if self.teacher_head == "own" and not teacher(self.teacher).has_classifier:
            told = "teacher_head 'own' needs a teacher checkpoint:RUN or repdistiller:NAME"
            raise RelgraphError(f"{told}, got {self.teacher}: another has --teacher-head joint, sequential or fitted")

    def _check_fitting(self, told: str, fitting: Fitting) -> None:
        """Raise RelgraphError for the first option that has none of the values that fit, the last of them told."""
        for name, values in fitting.items():
            if getattr(self, name) not in values:
                raise RelgraphError(f"{told}: expected {name} {values[-1]!r}, got {getattr(self, name)!r}")

    def _check_method(self) -> None:
        """Refuse what no chosen method reads."""
        from relgraph import names

        readers = self.embedding_readers  # which also reads the options of the methods
        known = {name for item in self.methods for name in item.options}
        got, related = str(self.method), ("refine", "form", "neighbours")
        sskd = any(item.name == "sskd" for item in self.methods)
        self.refuse_unused(sskd, "sskd", f"method {got}", "ss_head")
        self.refuse_unused("graph" in known, "methods that have a graph", got, "k", "graph")
        self.refuse_unused(self.relates, "methods that relate the images of a batch", got, *related)
        self.refuse_unused("nodes" in known, "methods with the option nodes", got, "nodes")
        self.refuse_unused("pool" in known, "methods that compare positions", got, "pool")
        self.refuse_unused("node_weight" in known, "the method ega", got, *EGA_TERMS)
        scored = "temperature" in known or self.alpha > 0
        self.refuse_unused(scored, "methods that have one and alpha", got, "temperature")
        for part, read in names.PARTS.items():
            self.refuse_unused(part in known, "methods that compare by one relation", got, part)
            read(getattr(self, part))  # an unknown name is told before anything is loaded
        if self.refine is not None:
            names.refiner(self.refine)
        self.refuse_unused(bool(self.methods), "a method", got, "beta")
        self.refuse_unused(self.uses_teacher, "a training by a teacher", f"method {got}", "align")
        self.refuse_unused(self.head == "projection", "head 'projection'", f"{self.head!r} and {self.dim}", "dim")
        if self.head == "linear" and readers:
            told = f"head 'linear' has no projected embedding, which {readers[0].name} compares"
            raise RelgraphError(f"{told}: use 'projection'")

    def _check_space(self) -> None:
        """Refuse the teacher's space where nothing would be compared in it, or its vectors would be changed."""
        from relgraph.names import may_read_all

        if self.target_space != "teacher":
            return
        if self.head == "linear":
            told = "target_space 'teacher' needs the projection that maps the student into the teacher's width"
            raise RelgraphError(f"{told}: expected head 'projection', got 'linear'")
        # A method that is given as an instance, or of one's own, and names no part, may read all.
        open_ended = any(item.made is not None or may_read_all(item) for item in self.methods)
        if not open_ended and not self.embedding_readers:
            told = "target_space 'teacher' belongs to methods that compare embeddings"
            nodes = f" with nodes {self.nodes!r}" if self.nodes else ""
            raise RelgraphError(f"{told}, got method {self.method}{nodes}")
        if self.teacher_head in FIRST and not self.reads_teacher_classifier:
            told = "trains a classifier that nothing reads with target_space 'teacher' here"
            raise RelgraphError(f"teacher_head {self.teacher_head!r} {told}: expected 'joint'")

    def _check_graph(self) -> None:
        from relgraph.names import reads_graph

        if self.batch_size % self.accumulate:
            parts = f"{self.batch_size} and {self.accumulate}"
            raise RelgraphError(f"batch_size must be a multiple of accumulate, the parts of a batch, got {parts}")
        if (self.graph, self.k) != (None, None) and not reads_graph(self.methods):
            name = next(item.name for item in self.methods if "graph" in item.options)
            raise RelgraphError(
                f"the graph of a sum is that of the images of a batch, got {self.method}: give {name}'s own by "
                f"--method-args {name}.graph=... and {name}.k=..."
            )
        self._check_scope()
        if self.topology == "dense" and (self.k is not None or self.neighbours != "teacher"):
            given = f"k = {self.k} and neighbours = {self.neighbours!r}"
            raise RelgraphError(f"k and neighbours belong to the graph 'knn', got {given}")
        if self.searches and self.chosen_nodes != "positions" and not 1 <= self.neighbours_of_each < self.batch_size:
            limit = f"k must be between 1 and batch_size - 1 = {self.batch_size - 1}"
            raise RelgraphError(f"{limit}, got {self.neighbours_of_each}")

    def _check_scope(self) -> None:
        got = f"{self.scope!r} and {self.edges}"
        self.refuse_unused(self.scope == "dataset", "scope 'dataset'", got, "edges")
        refines, got = self.scope == "dataset" and self.refine is not None, f"{self.scope!r} and {self.refine}"
        self.refuse_unused(refines, "scope 'dataset' with a refinement", got, "hops")
        if self.scope == "batch":
            return
        self.refuse_unused(bool(self.methods), "a method that reads edges", str(self.method), "scope")
        if self.edges is not None and self.k is not None:
            raise RelgraphError(f"k is that of the teacher's neighbours, in place of which stand edges, got {self.k}")
        self._check_fitting("scope 'dataset' has one fixed graph, for the batch of all devices", FOR_DATA_SET)

    def _check_crop(self) -> None:
        if not (len(self.crop_scale) == 2 and 0 < self.crop_scale[0] <= self.crop_scale[1] < math.inf):
            raise RelgraphError(f"crop_scale must be two factors above 0, the lesser first, got {self.crop_scale}")

    def check_pixels(self, of_pixels: bool) -> None:
        """Raise RelgraphError for options that do not fit data in which it is pixels that have classes, or not."""
        self.refuse_unused(of_pixels, "labels of pixels", f"the data set {self.dataset}", "crop_size", "crop_scale")
        if not of_pixels:
            self.refuse_unused(self.augment != "pixels", "labels of pixels", f"the data set {self.dataset}", "augment")
            return
        from relgraph.names import is_vectors

        self._check_fitting(f"{self.dataset} has labels of pixels", FOR_PIXELS)
        if self.learns_refinement:
            told = "is learned from classes of images, and here pixels have classes: expected smooth, or none"
            raise RelgraphError(f"the refinement {self.refine} {told}")
        if is_vectors(self.teacher) and self.uses_teacher:
            raise RelgraphError(f"labels of pixels need a teacher that sees each view, got {self.teacher}")
        if found := [item.name for item in self.methods if item.cls.views is not None]:
            raise RelgraphError(f"{found[0]} reads extra views of an image, which labels of pixels do not have")

    def _check_stages(self) -> None:
        """Refuse epochs in which nothing would teach the student."""
        first = next((item.name for item in self.methods if item.cls.init_share > 0), None)
        if first is not None and len(self.methods) > 1 and self.init_epochs is None:
            raise RelgraphError(
                f"{first} trains alone before the labels do, a stage that a sum does not have: give --init-epochs 0 to "
                "add it, or add KD to it by --alpha"
            )
        if self.initial_epochs > 0 and not self.methods:
            raise RelgraphError(f"init_epochs belongs to a method, which then trains alone, got method {self.method}")
        if self.label_weight == self.alpha == 0 and (self.initial_epochs > 0 or not self.methods):
            after = f" after {self.initial_epochs} init_epochs" if self.methods else ""
            remedy = "give --init-epochs 0" if self.methods else f"got method {self.method}"
            raise RelgraphError(f"nothing teaches the student{after}: gamma and alpha are 0, {remedy}")
        if self.initial_epochs >= self.epochs:
            raise RelgraphError(f"init_epochs must be below epochs = {self.epochs}, got {self.initial_epochs}")

    def _check_rate(self) -> None:
        check_optimiser(self)
        self.refuse_unused(self.schedule == "cosine", "schedule cosine", self.schedule, "schedule_by")
        self.refuse_unused(self.schedule == "step", "schedule step", self.schedule, "milestones")
        if self.schedule == "step" and min(self.milestones_in_use, default=math.inf) < self.warmup_epochs:
            got = ", ".join(map(str, self.milestones_in_use))
            raise RelgraphError(f"milestones must not lie in the {self.warmup_epochs} warmup_epochs, got {got}")
        if any(after <= before for before, after in pairwise((0, *(self.milestones or ())))):
            raise RelgraphError(f"milestones must rise from 1 on, got {', '.join(map(str, self.milestones or ()))}")
        if self.patience is not None and self.select == "last":
            raise RelgraphError("patience waits for a better score: expected select 'val' or 'test', got 'last'")
        if self.patience is not None and self.patience >= self.epochs:
            raise RelgraphError(f"patience must be below epochs = {self.epochs}, got {self.patience}")

    @cached_property
    def methods(self) -> list["Named"]:
        """The methods that `method` and `beta` name, each with its weight."""
        from relgraph.names import parse_methods

        return parse_methods(self.method, self.beta)

    @property
    def chosen_nodes(self) -> Literal["embedding", "feature", "map", "positions"] | None:
        """What the run chooses as nodes for all methods that leave the choice; `None` for their own choice."""
        return "embedding" if self.nodes is None and self.target_space == "teacher" else self.nodes

    @cached_property
    def embedding_readers(self) -> list["Named"]:
        """The methods that read the projected embedding, by their own options and what the run chooses."""
        from relgraph.methods.base import reads_embedding
        from relgraph.names import read_arguments

        own = read_arguments(self.methods, self.method_args)
        shared = {} if self.chosen_nodes is None else {"nodes": self.chosen_nodes}
        return [item for item in self.methods if reads_embedding(item.cls, shared | own[item.name])]

    @property
    def compares_embeddings(self) -> bool:
        """Whether a method reads the projected embedding, or may read all."""
        from relgraph.names import may_read_all

        return bool(self.embedding_readers) or any(map(may_read_all, self.methods))

    @property
    def crop(self) -> tuple[int, int] | None:
        """Height and width of the random crops of a training step, where pixels have classes."""
        return (self.crop_size, self.crop_size) if isinstance(self.crop_size, int) else self.crop_size

    def projected(self, teacher_width: int | None) -> int | None:
        """Return the width of the student's projected embeddings; `None` for a head without a projection.

        Raises:
            RelgraphError: if another was chosen than the teacher's, in whose space they are compared.
        """
        if self.head == "linear":
            return None
        if self.target_space == "projection" or teacher_width is None:
            return 256 if self.dim is None else self.dim
        if self.dim not in (None, teacher_width):
            told = f"target_space 'teacher' has embeddings of the teacher's width, {teacher_width}"
            raise RelgraphError(f"{told}: leave dim out, got {self.dim}")
        return teacher_width

    @property
    def reads_teacher_classifier(self) -> bool:
        """Whether anything reads the classifier of the teacher's head: its projection is trained by it."""
        return self.target_space == "projection" or self.learns_labels or self.learns_refinement

    @cached_property
    def learns_refinement(self) -> bool:
        """Whether nodes are refined by layers, whose teacher's side is trained by the classifier of its head."""
        from relgraph.graph.refine import Refinement
        from relgraph.names import refiner

        return self.refine is not None and Refinement(refiner(self.refine), 8).learns

    @property
    def relates(self) -> bool:
        """Whether a method compares the images of a batch with each other, in a way that the recipe chooses."""
        return any("refine" in item.shared() for item in self.methods)

    @property
    def searches(self) -> bool:
        """Whether a method reads k nearest neighbours, of the batch or of the data set."""
        return self.relates and self.topology == "knn" and self.edges is None

    @property
    def topology(self) -> str:
        """The graph, its default included."""
        return self.graph_of_batches or "dense"

    @property
    def graph_of_batches(self) -> Literal["dense", "knn"] | None:
        """The chosen graph: where batches bring the edges of the data set's, it is sparse; `None` leaves it open."""
        return "knn" if self.scope == "dataset" else self.graph

    @property
    def graph_in_use(self) -> str | None:
        """The graph that a method reads, `None` if it was left to a method with a way of its own, or there is none.

        Of several methods that were given different ones, each, joined by "+".
        """
        from relgraph.methods.relational import Relational
        from relgraph.names import read_arguments

        if self.scope == "dataset":
            return "knn-of-dataset" if self.edges is None else "edges"
        own = read_arguments(self.methods, self.method_args)
        found = [
            own[item.name].get("graph", self.topology if issubclass(item.cls, Relational) else self.graph)
            for item in self.methods
            if "graph" in item.shared(len(self.methods) > 1)
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

    @property
    def milestones_in_use(self) -> tuple[int, ...]:
        """The milestones, their default included: after 62.5 %, 75 % and 87.5 % of the epochs behind the first stage.

        They are 150, 180 and 210 of 240, as in EGA's official code.
        """
        if self.milestones is not None:
            return self.milestones
        first = self.initial_epochs
        return tuple(first + round((self.epochs - first) * part) for part in (0.625, 0.75, 0.875))

    def stage(self, epoch: int) -> "Stage":
        """Return the stage of the student's training in an epoch, counted from 0."""
        if self.initial_epochs == 0:
            return "both"
        return "method" if epoch < self.initial_epochs else "labels"

    @property
    def label_weight(self) -> float:
        """The weight of the cross-entropy, its default included: that which a method was published with.

        Of a sum none was published: it is 1, or 0 where each of its methods needs no labels.
        """
        if self.gamma is not None:
            return self.gamma
        alone = {item.cls.gamma for item in self.methods}
        return alone.pop() if len(self.methods) == 1 or alone == {0.0} else 1.0

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


def resolve(given: Mapping[str, Any], preset: str | None = None) -> Recipe:
    """Return the recipe of what a user gave, over the preset, over the defaults.

    If no preset is given, the data set selects one: digits that of its name, labels of pixels `pixels`.

    Raises:
        RelgraphError: for an unknown preset or option, a value out of range, or a data set without a teacher.

    >>> resolve({"graph": "knn", "epochs": 3}).epochs
    3
    """
    from relgraph.names import dataset as dataset_of
    from relgraph.names import settled

    check_names(Recipe, given)
    given = with_arguments_written(given)
    if preset is None:
        data = given.get("dataset", "digits")
        preset = dataset_of(data).preset if isinstance(data, str) else "none"
    own = find_preset(preset, given.get("method"), given.get("student")).options
    chosen = {**own, **given}
    if "method_args" in own and "method_args" in given:
        chosen["method_args"] = with_arguments(own["method_args"], given["method_args"])
    if "label_fraction" in given and "labels_per_class" not in given:
        chosen.pop("labels_per_class", None)  # two options for the same choice; the user's is kept
    if chosen.get("optimiser") == "adamw":
        rates = {"lr": 1e-3, "teacher_lr": 1e-3}  # SGD's are too large for it, those of a preset as well
        chosen = {**rates, **chosen} if own.get("optimiser") == "adamw" else {**chosen, **rates, **given}
    if chosen.get("scope") == "dataset" and chosen.get("refine") is not None:
        chosen = {"teacher_lr": 1e-3, **chosen}  # head and refinement diverge at more: seeds are few and share classes
    if "epochs" in given and "milestones" not in given:
        chosen.pop("milestones", None)  # they come in proportion then
    recipe = Recipe(**settled(chosen))
    dataset_of(recipe.dataset)
    if recipe.uses_teacher and recipe.dataset != "digits" and "teacher" not in given:
        raise RelgraphError(
            f"{recipe.dataset} needs a teacher, since the embedded one knows digits alone: "
            "give --teacher timm:NAME, open_clip:NAME/WEIGHTS, torchvision:NAME or checkpoint:RUN, "
            "or train with --method none"
        )
    return recipe
