"""The recipe of a pre-training: every option once, as that of a training; what both share is in `BaseRecipe`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from relgraph.errors import RelgraphError, unknown
from relgraph.options import check_names, option, with_arguments_written
from relgraph.own_code import Own
from relgraph.training.recipe import BaseRecipe, check_optimiser

# What each objective begins with. The values of MoCo v2 (Chen et al., 2020, arXiv 2003.04297) and of SSKD's head (Xu et
# al., 2020, arXiv 2006.07114) are their official code's, but for MoCo's warm-up, which is ours. Of SimCLR (Chen et al.,
# 2020, arXiv 2002.05709) the temperature is that of its experiments on small images; its optimiser is LARS for batches
# of 4,096, and the settings of SGD here, for batches that fit one device, are ours.
DEFAULTS: dict[str, dict[str, Any]] = {
    "simclr": {"temperature": 0.5, "epochs": 200, "batch_size": 256, "lr": 0.06, "weight_decay": 5e-4},
    "moco": {"temperature": 0.2, "epochs": 200, "batch_size": 256, "lr": 0.03, "weight_decay": 1e-4},
    "sskd-head": {  # the learning rate falls at 30 and 45 of 60 epochs
        "temperature": 1.0, "epochs": 60, "batch_size": 64, "lr": 0.05, "weight_decay": 5e-4, "warmup_epochs": 0,
        "schedule": "step",
    },
}  # fmt: skip
# The teacher that comes with the package: small images, bent and shaded, never mirrored.
DIGITS: dict[str, Any] = {
    "temperature": 0.2, "epochs": 200, "batch_size": 256, "optimiser": "adamw", "lr": 2e-3, "weight_decay": 0.01,
    "dim": 64, "hidden": 128, "eval_every": 25, "warmup_epochs": 20, "precision": "32-true",
}  # fmt: skip
# Options that some objectives read; all read the others.
OWNERS = {
    "moco": ("queue", "key_momentum"),
    "sskd-head": (
        "transformations", "teacher_weights", "teacher_size", "teacher_mean", "teacher_std", "teacher_args",
    ),
    "simclr and moco": ("network", "dim", "hidden", "compile"),
}  # fmt: skip


@dataclass(frozen=True)
class PretrainRecipe(BaseRecipe):
    """Every choice of one pre-training. Options that are `None` become their objective's `DEFAULTS`.

    Args:
        objective: simclr (two views of an image against all others of the batch), moco (against a queue of a momentum
            encoder's keys), or sskd-head (the self-supervision head of a given teacher).
        network: Network to train: resnet20, wrn_16_2, mobilenetv2, ... (relgraph students lists them), timm:NAME or
            torchvision:NAME.
        val_fraction: Share of the training set held out for the k-NN accuracy; 0 to train on all images.
        augment: Random views: moco, simclr, simclr-small (without blur, for images of up to 64 pixels), digits (bent
            and shaded) or crop; auto: what fits objective and images.
        transformations: Transformations of an image that sskd-head learns to recognise: rotations as in the official
            code, or all four of the paper.
        teacher: Frozen teacher for which sskd-head trains a head, written as for relgraph train.
        temperature: Temperature of the contrastive softmax.
        dim: Width of the vectors that are contrasted, behind the projection head.
        hidden: Width of the projection head's hidden layer; that of the network's features if not given.
        queue: Number of keys in MoCo's queue: fewer than there are images, or an image meets its own old keys.
        key_momentum: Momentum of MoCo's key encoder: the share of its weights that it keeps in each step.
        epochs: Passes over the training set.
        batch_size: Images in a batch.
        optimiser: SGD with momentum, or AdamW with torch's betas, 0.9 and 0.999.
        lr: Learning rate.
        weight_decay: Weight decay.
        schedule: After the warm-up a cosine to --min-lr, x 0.1 after a half and three quarters of the epochs
            (sskd-head's), or constant.
        warmup_epochs: Epochs in which the learning rate rises from 0; 10, or a tenth of the epochs if that is fewer.
        eval_every: Epochs between two measurements of the k-NN accuracy; it is always measured in the last epoch.
        select: Split on which the k-NN accuracy is measured during the training; no epoch is chosen by it.
        compile: Compile the network with torch.compile; auto: if the run is long enough to pay for it.
    """

    objective: Literal["simclr", "moco", "sskd-head"] = option(default="simclr")
    network: str | Own = option(default="resnet20")
    transformations: Literal["rotations", "all"] = option(default="rotations")
    temperature: float | None = option(default=None, above=0)
    dim: int = option(default=128, least=1)
    hidden: int | None = option(default=None, least=1)
    queue: int = option(default=65536, least=1)
    key_momentum: float = option(default=0.999, least=0, below=1)
    epochs: int | None = option(default=None, least=1)
    batch_size: int | None = option(default=None, least=2)
    lr: float | None = option(default=None, least=0)
    weight_decay: float | None = option(default=None, least=0)
    schedule: Literal["cosine", "step", "constant"] = option(default="cosine")
    warmup_epochs: int | None = option(default=None, least=0)
    eval_every: int = option(default=1, least=1)
    select: Literal["val", "test"] = option(default="val")

    def __post_init__(self) -> None:
        """Check each option, and which of them fit each other."""
        super().__post_init__()
        check_optimiser(self)
        if self.objective == "sskd-head" and self.teacher is None:
            raise RelgraphError("sskd-head trains a head of a teacher: give --teacher, spelled as for relgraph train")
        for owner, names in OWNERS.items():
            self.refuse_unused(self.objective in owner.split(" and "), owner, f"objective {self.objective}", *names)
        if self.objective != "sskd-head" and self.teacher is not None:
            raise RelgraphError(f"{self.objective} has no teacher, got {self.teacher}: teachers are for sskd-head")


def resolve_pretraining(given: Mapping[str, Any]) -> PretrainRecipe:
    """Return the recipe of what a user gave, over the `DEFAULTS` of its objective.

    SimCLR on digits, the data set of the offline example, brings the settings of the teacher that is in the package.

    Raises:
        RelgraphError: for an unknown option or data set, or a value out of range.

    >>> resolve_pretraining({"objective": "moco", "dataset": "cifar100"}).temperature
    0.2
    """
    from relgraph.names import dataset as dataset_of
    from relgraph.names import settled

    check_names(PretrainRecipe, given)
    asked = {name: value for name, value in with_arguments_written(given).items() if value is not None}
    objective, dataset = str(asked.get("objective", "simclr")), asked.get("dataset", "digits")
    if objective not in DEFAULTS:
        raise unknown("objective", objective, DEFAULTS)
    dataset_of(dataset)
    own = DIGITS if (dataset, objective) == ("digits", "simclr") else {}
    chosen = {**DEFAULTS[objective], **own, **asked}
    if "warmup_epochs" not in asked and isinstance(chosen["epochs"], int):  # what else it may be, the recipe refuses
        chosen["warmup_epochs"] = min(chosen.get("warmup_epochs", 10), chosen["epochs"] // 10)
    return PretrainRecipe(**settled(chosen))


def augmentation(recipe: PretrainRecipe, side: int) -> str:
    """Return the augmentation of a recipe for images of `side` pixels, with `auto` resolved.

    >>> augmentation(resolve_pretraining({"dataset": "cifar100"}), side=32)
    'simclr-small'
    """
    if recipe.augment != "auto":
        return recipe.augment
    if recipe.dataset == "digits" and recipe.objective != "sskd-head":
        return "digits"
    return {"sskd-head": "crop", "moco": "moco", "simclr": "simclr-small" if side <= 64 else "simclr"}[recipe.objective]
