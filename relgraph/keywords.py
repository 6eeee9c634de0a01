"""The keywords of `relgraph.train`, `pretrain` and `embed`: the options of the commands, by name and type.

Made from the typed options by `tests/test_keywords.py` for editors and type checkers; the commands' help explains them.
"""

from collections.abc import Mapping
from typing import Any, Literal, TypedDict


class DataOptions(TypedDict, total=False):
    """Options of all three functions."""

    dataset: str | Any
    root: str
    image_size: int | tuple[int, int] | None
    images: Literal["auto", "memory", "stream"]
    bad_images: Literal["stop", "skip"]
    unlabelled: str | None
    ignore: tuple[int, ...]
    test_fraction: float
    split_seed: int
    holdout_classes: str | None
    workers: int | None
    teacher_weights: str | None
    teacher_size: int | None
    teacher_mean: tuple[float, ...] | None
    teacher_std: tuple[float, ...] | None
    teacher_args: tuple[str, ...] | Mapping[str, Any]
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "32-true", "bf16-mixed"]
    threads: int | Literal["auto"] | None


class RunOptions(DataOptions, total=False):
    """Options of `relgraph.train` and `relgraph.pretrain`."""

    val_fraction: float
    augment: Literal["auto", "crop", "moco", "simclr", "simclr-small", "digits", "pixels"]
    optimiser: Literal["sgd", "adamw"]
    momentum: float
    nesterov: bool
    decay_norm_and_bias: bool
    clip_norm: float | None
    min_lr: float
    batch_norm: Literal["local", "sync"]
    drop_last: bool
    seed: int
    compile: bool | Literal["auto"]
    checkpoint_minutes: float | None
    logger: tuple[str, ...] | Any
    temperature: float | None


class TrainOptions(RunOptions, total=False):
    """Options of `relgraph.train`."""

    teacher: str | Any
    select: Literal["val", "test", "last"]
    labels_per_class: int
    label_fraction: float
    labelled_images: int | None
    crop_size: int | tuple[int, int] | None
    crop_scale: tuple[float, ...]
    label_noise: float
    labelled_share: float
    views: Literal["shared", "independent"]
    normalise: Literal["auto", "dataset", "teacher", "student"]
    teacher_mode: Literal["auto", "online", "stored"]
    embeddings: str
    teacher_stages: tuple[str, ...]
    teacher_head: Literal["joint", "sequential", "fitted", "own"]
    head_epochs: int | None
    student: str | Any
    student_weights: str | None
    student_stages: tuple[str, ...]
    init_from: str | None
    head: Literal["projection", "linear"]
    target_space: Literal["projection", "teacher"]
    dim: int | None
    method: str | Any
    method_args: tuple[str, ...] | Mapping[str, Any]
    ss_head: str | None
    graph: Literal["dense", "knn"] | None
    k: int | None
    neighbours: Literal["teacher", "student", "union", "mutual"]
    form: Literal["auto", "matrix", "factored", "blocked"]
    relation: Literal["global", "local"]
    scope: Literal["batch", "dataset"]
    edges: str | None
    refine: str | Any | None
    hops: int
    kernel: str | Any | None
    scale: str | Any | None
    criterion: str | Any | None
    nodes: Literal["embedding", "feature", "map", "positions"] | None
    pool: float | None
    node_weight: float | None
    edge_weight: float | None
    gamma: float | None
    alpha: float
    beta: float | None
    init_epochs: int | None
    epochs: int
    batch_size: int
    accumulate: int
    lr: float
    weight_decay: float
    schedule: Literal["step", "cosine", "poly", "constant"]
    schedule_by: Literal["epoch", "step"]
    warmup_epochs: int
    milestones: tuple[int, ...] | None
    teacher_lr: float
    align: bool
    ema: float
    patience: int | None
    diagnose_every: int


class PretrainOptions(RunOptions, total=False):
    """Options of `relgraph.pretrain`."""

    teacher: str | Any | None
    select: Literal["val", "test"]
    objective: Literal["simclr", "moco", "sskd-head"]
    network: str | Any
    transformations: Literal["rotations", "all"]
    dim: int
    hidden: int | None
    queue: int
    key_momentum: float
    epochs: int | None
    batch_size: int | None
    lr: float | None
    weight_decay: float | None
    schedule: Literal["cosine", "step", "constant"]
    warmup_epochs: int | None
    eval_every: int


class EmbedOptions(DataOptions, total=False):
    """Options of `relgraph.embed`."""

    teacher: str | Any
    embeddings: str
