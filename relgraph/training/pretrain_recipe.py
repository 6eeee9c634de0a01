"""The recipe of a pre-training: every option once, as that of a training; what both share is defined there."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from relgraph.data import AUGMENTATIONS
from relgraph.errors import RelgraphError, unknown
from relgraph.training.recipe import Recipe, at_least, check_dataset, check_kind, granted_processes, option

OBJECTIVES = ("simclr", "moco", "sskd-head")
SHARED = {item.name: item for item in fields(Recipe)}


def same(name: str) -> Any:
    """Return the field of this name as `Recipe` has it."""
    item = SHARED[name]
    return option(item.default, **{"text": item.metadata["help"], **_known(item.metadata)})


def _known(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {key: metadata[key] for key in ("aliases", "choices")}


# What each objective begins with. The values of MoCo v2 (Chen et al., 2020, arXiv 2003.04297) and of SSKD's head (Xu et
# al., 2020, arXiv 2006.07114) are their official code's, but for MoCo's warm-up, which is ours. Of SimCLR (Chen et al.,
# 2020, arXiv 2002.05709) the temperature is that of its experiments on small images; its optimiser is LARS for batches
# of 4,096, and the settings of SGD here, for batches that fit one device, are ours.
DEFAULTS: dict[str, dict[str, Any]] = {
    "simclr": {"temperature": 0.5, "epochs": 200, "batch_size": 256, "lr": 0.06, "weight_decay": 5e-4},
    "moco": {"temperature": 0.2, "epochs": 200, "batch_size": 256, "lr": 0.03, "weight_decay": 1e-4},
    "sskd-head": {
        "temperature": 1.0,
        "epochs": 60,
        "batch_size": 64,
        "lr": 0.05,
        "weight_decay": 5e-4,
        "warmup_epochs": 0,
        "schedule": "step",  # at 30 and 45 of 60 epochs
    },
}
# The teacher that comes with the package: small images, bent and shaded, never mirrored.
DIGITS: dict[str, Any] = {
    "temperature": 0.2,
    "epochs": 200,
    "batch_size": 256,
    "optimiser": "adamw",
    "lr": 2e-3,
    "weight_decay": 0.01,
    "dim": 64,
    "hidden": 128,
    "eval_every": 25,
    "warmup_epochs": 20,
    "precision": "32-true",
}


def by_objective(name: str, text: str) -> Any:
    """Return a field whose default is the objective's."""
    values = ", ".join(f"{objective} {settings[name]}" for objective, settings in DEFAULTS.items())
    return option(None, f"{text}  [default: {values}]")


@dataclass(frozen=True)
class PretrainRecipe:
    """Every choice of one pre-training. Options that are `None` become their objective's `DEFAULTS`."""

    objective: str = option(
        "simclr",
        "simclr (two views of an image against all others of the batch), moco (against a queue of a momentum encoder's "
        "keys), or sskd-head (the self-supervision head of a given teacher).",
        choices=OBJECTIVES,
    )
    network: str = option(
        "resnet20",
        "Network to train: resnet20, wrn_16_2, mobilenetv2, ... (relgraph students lists them), timm:NAME or "
        "torchvision:NAME.",
    )
    dataset: str = same("dataset")
    root: str = same("root")
    image_size: int | None = same("image_size")
    images: str = same("images")
    workers: int | None = same("workers")
    val_fraction: float = option(0.1, "Share of the training set held out, for the k-NN accuracy; 0 to train on all.")
    augment: str = option(
        "auto",
        "Random views: moco, simclr, simclr-small (without blur, for images of up to 64 pixels), digits (bent and "
        "shaded) or crop; auto: what fits objective and images.",
        choices=("auto", *AUGMENTATIONS),
    )
    transformations: str = option(
        "rotations",
        "What sskd-head learns to see through: rotations as the official code, or all four of the paper.",
        choices=("rotations", "all"),
    )
    teacher: str | None = option(None, "Frozen teacher whose head sskd-head trains, spelled as for relgraph train.")
    teacher_weights: str | None = same("teacher_weights")
    teacher_size: int | None = same("teacher_size")
    teacher_mean: tuple[float, ...] | None = same("teacher_mean")
    teacher_std: tuple[float, ...] | None = same("teacher_std")
    teacher_args: tuple[str, ...] = same("teacher_args")
    temperature: float | None = by_objective("temperature", "Temperature of the contrastive softmax.")
    dim: int = option(128, "Width of the vectors that are contrasted, behind the projection head.")
    hidden: int | None = option(None, "Width of the projection head's middle; the network's own if not given.")
    queue: int = option(65536, "Keys in MoCo's queue: fewer than there are images, or an image meets its own old keys.")
    key_momentum: float = option(0.999, "Share of itself that MoCo's key encoder keeps in each step.")
    epochs: int | None = by_objective("epochs", "Passes over the training set.")
    batch_size: int | None = by_objective("batch_size", "Images in a batch.")
    optimiser: str = option("sgd", "SGD with momentum, or AdamW.", choices=("sgd", "adamw"))
    lr: float | None = by_objective("lr", "Learning rate.")
    momentum: float = option(0.9, "Momentum of SGD.")
    weight_decay: float | None = by_objective("weight_decay", "Weight decay.")
    schedule: str = option(
        "cosine",
        "After the warm-up a cosine to 0, x 0.1 after a half and three quarters of the epochs (sskd-head's), or "
        "constant.",
        choices=("cosine", "step", "constant"),
    )
    warmup_epochs: int | None = option(
        None, "Epochs in which the learning rate rises from 0; 10, or a tenth of the epochs if that is fewer."
    )
    eval_every: int = option(1, "Epochs from one k-NN accuracy to the next; the last epoch always has one.")
    select: str = option(
        "val", "Split on which the k-NN accuracy is read while it trains; nothing is picked by it.",
        choices=("val", "test"),
    )  # fmt: skip
    seed: int = same("seed")
    device: str = same("device")
    precision: str = same("precision")
    compile: bool = option(False, "Compile the network with torch.compile.")

    def __post_init__(self) -> None:
        """Check kinds and ranges; names that are open-ended are checked where they are looked up."""
        for item in fields(self):
            check_kind(item, getattr(self, item.name))
        for name in ("epochs", "batch_size", "dim", "hidden", "queue", "image_size", "teacher_size", "eval_every"):
            if getattr(self, name) is not None:
                at_least(name, getattr(self, name), 2 if name == "batch_size" else 1)
        for name in ("lr", "momentum", "weight_decay", "workers", "warmup_epochs"):
            if getattr(self, name) is not None:
                at_least(name, getattr(self, name), 0)
        if self.epochs is not None and (self.warmup_epochs or 0) >= self.epochs:
            raise RelgraphError(f"warmup_epochs must be below epochs = {self.epochs}, got {self.warmup_epochs}")
        if self.temperature is not None and not self.temperature > 0:
            raise RelgraphError(f"temperature must be positive, got {self.temperature}")
        if not 0 <= self.key_momentum < 1:
            raise RelgraphError(f"key_momentum must be at least 0 and below 1, got {self.key_momentum}")
        if not 0 <= self.seed < 2**31:
            raise RelgraphError(f"seed must be between 0 and {2**31 - 1}, got {self.seed}")
        if self.objective == "sskd-head" and self.teacher is None:
            raise RelgraphError("sskd-head trains a head of a teacher: give --teacher, spelled as for relgraph train")
        self._check_unused()
        if self.objective != "sskd-head" and self.teacher is not None:
            raise RelgraphError(f"{self.objective} has no teacher, got {self.teacher}: teachers are for sskd-head")

    def _check_unused(self) -> None:
        """Refuse options of other objectives, which would change nothing."""
        owners = {"queue": "moco", "key_momentum": "moco", "transformations": "sskd-head"}
        owners |= dict.fromkeys(("network", "dim", "hidden", "compile"), "simclr and moco")
        if self.optimiser == "adamw" and self.momentum != SHARED["momentum"].default:
            raise RelgraphError(f"momentum belongs to optimiser sgd, got adamw and {self.momentum}")
        owners |= {item.name: "sskd-head" for item in fields(self) if item.name.startswith("teacher_")}
        for item in fields(self):
            owner = owners.get(item.name, self.objective)
            if self.objective not in owner.split(" and ") and getattr(self, item.name) != item.default:
                raise RelgraphError(f"{item.name} belongs to {owner}, got objective {self.objective}")

    @property
    def processes(self) -> int:
        """The number of processes that decode streamed images, its default included."""
        return granted_processes() if self.workers is None else self.workers


def resolve_pretraining(given: Mapping[str, Any]) -> PretrainRecipe:
    """Return the recipe of what a user gave, over the `DEFAULTS` of its objective.

    SimCLR on digits, the data set of the offline example, brings the settings of the teacher that is in the package.

    Raises:
        RelgraphError: for an unknown option or data set, or a value out of range.

    >>> resolve_pretraining({"objective": "moco", "dataset": "cifar100"}).temperature
    0.2
    """
    for name in given:
        if name not in {item.name for item in fields(PretrainRecipe)}:
            raise unknown("option", name, [item.name for item in fields(PretrainRecipe)])
    asked = {name: value for name, value in given.items() if value is not None}
    objective, dataset = str(asked.get("objective", "simclr")), str(asked.get("dataset", "digits"))
    if objective not in OBJECTIVES:
        raise unknown("objective", objective, OBJECTIVES)
    check_dataset(dataset)
    own = DIGITS if (dataset, objective) == ("digits", "simclr") else {}
    chosen = {**DEFAULTS[objective], **own, **asked}
    if "warmup_epochs" not in asked and isinstance(chosen["epochs"], int):  # what else it may be, the recipe refuses
        chosen["warmup_epochs"] = min(chosen.get("warmup_epochs", 10), chosen["epochs"] // 10)
    return PretrainRecipe(**chosen)


def augmentation(recipe: PretrainRecipe, side: int) -> str:
    """Return the augmentation of a recipe for images of `side` pixels, with `auto` resolved.

    >>> augmentation(resolve_pretraining({"dataset": "cifar100"}), side=32)
    'simclr-small'
    """
    if recipe.augment != "auto":
        return recipe.augment
    if recipe.objective == "sskd-head":
        return "crop"
    if recipe.dataset == "digits":
        return "digits"
    if recipe.objective == "moco":
        return "moco"
    return "simclr-small" if side <= 64 else "simclr"
