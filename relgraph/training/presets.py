"""Published protocols by name: the options of each, its source, and every difference that remains.

A preset's options stand over the defaults of a recipe and under what a user gives; milestones are those of its epochs,
and come in proportion for another number. Teacher, student and data set are the user's. `docs/protocols.md` has the
table of all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from relgraph.errors import RelgraphError, unknown


@dataclass(frozen=True)
class Preset:
    """A named set of options of a training.

    Attributes:
        about: What it is.
        source: Paper, year and official code; empty for one of relgraph's own.
        options: Values of options of the recipe, by name.
        differs: What is not as in the authors' protocol, a sentence each.
    """

    about: str
    source: str
    options: Mapping[str, Any]
    differs: tuple[str, ...] = ()


# What the official codes for CIFAR-100 have in common.
CIFAR: dict[str, Any] = {
    "epochs": 240, "batch_size": 64, "drop_last": False, "val_fraction": 0.0, "lr": 0.05, "momentum": 0.9,
    "weight_decay": 5e-4, "schedule": "step", "milestones": (150, 180, 210), "augment": "crop",
    "teacher_mode": "online", "precision": "32-true",
}  # fmt: skip
# Students that the official codes train with a fifth of the learning rate.
SMALL = ("mobilenetv2", "shufflenetv1", "shufflenetv2", "MobileNetV2", "ShuffleV1", "ShuffleV2")

RANDOM = (
    "Weights, order of the images, crops and flips are drawn by generators of this package, from the same "
    "distributions: a seed gives other numbers than in the authors' code."
)
POOLS = (
    "Students average over all positions where the authors' networks pool 8 x 8, 4 x 4 or 2 x 2: the same at 32 pixels."
)
CLASSIFIER = (
    "The classifier of {student} begins as PyTorch's linear layers do, the authors' with {theirs} and a bias of zero."
)
INITIAL = {"vgg": "a normal of deviation 0.01", "mobilenet": "a normal of deviation 0.01", "wrn": "the same weights"}
ON_TEST = "The test split picks the best epoch, as in the code: the figure of that epoch is optimistic."


def _rate(student: object, small: Sequence[str] = SMALL) -> dict[str, float]:
    """Return the learning rate for a student."""
    return {"lr": 0.01} if student in small else {}


def _initial(student: object) -> tuple[str, ...]:
    """Return how a student's classifier begins otherwise, if it does."""
    theirs = next((told for family, told in INITIAL.items() if str(student).lower().startswith(family)), None)
    return () if theirs is None else (CLASSIFIER.format(student=student, theirs=theirs),)


EGA: dict[str, Any] = {
    **CIFAR, "method": "ega", "node_weight": 0.8, "edge_weight": 0.24, "gamma": 1.0, "alpha": 0.0, "dim": 256,
    "views": "independent", "normalise": "teacher", "teacher_head": "joint", "teacher_lr": 0.01, "select": "test",
}  # fmt: skip
EGA_DIFFERS = (
    RANDOM,
    POOLS,
    ON_TEST,
    "The teacher's input is resized in float32, in the code by PIL with 8 bits between the passes: 0.3 of 255 grey "
    "levels apart in the mean, some levels at hard edges.",
    "CLIP computes in float32; the release runs it in float16 on a GPU.",
    "An embedding without variance has correlation 0 with every other, in the code NaN.",
)


def _ega(method: str | None, student: str | None) -> Preset:
    source = "Ma, Chen, Akata, BMVC 2022, arXiv 2211.13264; github.com/yccm/EGA"
    options = {**EGA, **_rate(student, ("shufflenetv1", "ShuffleV1"))}
    return Preset("EGA's official script, its teacher's head trained beside the student", source, options, EGA_DIFFERS)


def _ega_sequential(method: str | None, student: str | None) -> Preset:
    joint = _ega(method, student)
    told = (
        "The release does not run this strategy: with a CLIP teacher it ignores the head that was trained first. These "
        "are the settings of its two scripts."
    )
    return Preset(
        "EGA's official scripts, its teacher's head trained first",
        joint.source,
        {**joint.options, "edge_weight": 0.3, "teacher_head": "sequential"},
        (*joint.differs, told),
    )


# The methods of RepDistiller, as this package calls them, each with options over those of the benchmark. Where not
# given here, weight and form are the method's own defaults, which are the benchmark's.
FAMILY: dict[str, dict[str, Any]] = {
    "kd": {"gamma": 0.1, "beta": 0.9},
    "fitnet": {},
    "at": {},
    "sp": {},
    "cc": {"method_args": ("correlation=consecutive",)},
    "vid": {},
    "rkd": {},
    "pkt": {},
    # 30 epochs of the method alone, which are 1/9 and the method's own share, and the 240. The weight that the scripts
    # give multiplies a loss of zero: the code's first stage has none.
    "ab": {"epochs": 270, "milestones": (180, 210, 240)},
    "ft": {},
    "fsp": {"epochs": 270, "milestones": (180, 210, 240), "beta": 1.0},
    "nst": {},
    "crd": {},
}
STAGES = (
    "Networks with different numbers of stages are paired from the last, in the code from the first; those of the "
    "published pairs are equal."
)
MOMENTUM = (
    "The optimiser's momentum goes on from the first stage to the second; in the code that has an optimiser of its own."
)
FAMILY_DIFFERS: dict[str, tuple[str, ...]] = {
    "at": (STAGES,),
    "vid": (STAGES,),
    "nst": (STAGES,),
    "fsp": (STAGES, MOMENTUM),
    "ab": (
        STAGES,
        MOMENTUM,
        "Connectors read the student's activated maps; the code compares maps before their activation, with the "
        "identity as connector where both have one shape.",
    ),
    "ft": (
        "The paraphraser learns beside the student, at the rate of teacher_lr; in the code in 30 epochs before it, at "
        "0.01 for ResNets and 0.05 for others, and is then fixed.",
    ),
    "crd": ("Negatives are drawn on the device, with replacement; in the code in the loader, without.",),
}


def _repdistiller(method: str | None, student: str | None, default: str = "kd") -> Preset:
    from relgraph.names import parse_methods

    method = default if method is None else method
    named = parse_methods(method)
    strange = next((item.name for item in named if item.name not in FAMILY), None)
    if strange is not None:
        raise RelgraphError(f"RepDistiller has the methods {', '.join(FAMILY)} and sums of them, got {strange}")
    options: dict[str, Any] = {
        **CIFAR, **_rate(student), "method": method, "gamma": 1.0, "alpha": 0.0, "head": "linear", "views": "shared",
        "normalise": "dataset", "select": "last",
    }  # fmt: skip
    if named:
        options["teacher_head"] = "own"
    if len(named) == 1 and named[0].weight is None:
        options |= FAMILY[named[0].name]
    elif any(item.name == "cc" for item in named):
        options["method_args"] = ("cc.correlation=consecutive",)
    return Preset(
        "The CIFAR-100 benchmark of RepDistiller",
        "Tian, Krishnan, Isola, ICLR 2020, arXiv 1910.10699; github.com/HobbitLong/RepDistiller",
        options,
        (
            RANDOM,
            POOLS,
            *_initial(student),
            "The test split is read once, at the end; the code measures every epoch on it and reports the last.",
            *dict.fromkeys(told for item in named for told in FAMILY_DIFFERS.get(item.name, ())),
        ),
    )


def _sskd(method: str | None, student: str | None) -> Preset:
    options = {
        **CIFAR, **_rate(student), "method": "sskd", "gamma": 0.1, "alpha": 0.0, "head": "linear", "views": "shared",
        "normalise": "dataset", "teacher_head": "own", "select": "test",
    }  # fmt: skip
    return Preset(
        "SSKD's official script, from the student's training on",
        "Xu, Liu, Li, Loy, ECCV 2020, arXiv 2006.07114; github.com/xuguodong03/SSKD",
        options,
        (
            RANDOM,
            POOLS,
            *_initial(student),
            ON_TEST,
            "The teacher's self-supervision head, in the code trained by the same script for 60 epochs, is given by "
            "--ss-head: relgraph pretrain --objective sskd-head --val-fraction 0 --no-drop-last --precision 32-true.",
            "Images are normalised by RepDistiller's constants, mean 0.5071, 0.4867, 0.4408; the code has 0.5071, "
            "0.4866, 0.4409.",
            "Of equal ranks at the boundary of the selected rows the first in the batch are kept, in the code any.",
            "As in the code, views are rotations alone; the paper has four transformations (transformations=all).",
        ),
    )


# What SEED and MoCo v2 have in common.
CONTRASTIVE: dict[str, Any] = {
    "epochs": 200, "batch_size": 256, "drop_last": True, "val_fraction": 0.0, "select": "last", "lr": 0.03,
    "momentum": 0.9, "weight_decay": 1e-4, "schedule": "cosine", "augment": "moco", "gamma": 0.0, "alpha": 0.0,
    "teacher_mode": "online", "views": "shared",
}  # fmt: skip
VECTORS = (
    "The queue holds the teacher's pooled features; the code's are 128 numbers behind the teacher's own projector "
    "(for a checkpoint: of relgraph pretrain, --teacher-args output=projection)."
)
SMALL_IMAGES = (
    "Views have the size of the data set's images, in the code 224 pixels; features are judged by k-NN and a logistic "
    "regression, in the code by a linear classifier trained with SGD."
)


def _seed(method: str | None, student: str | None) -> Preset:
    return Preset(
        "SEED's official script for a MoCo v2 teacher and a batch of 256",
        "Fang, Wang, Wang, Zhang, Yang, Liu, ICLR 2021, arXiv 2101.04731; github.com/jacobswan1/SEED",
        {**CONTRASTIVE, "method": "seed", "method_args": ("tau=0.2", "teacher_tau=1e-4", "queue=65536", "head=mlp")},
        (
            RANDOM,
            VECTORS,
            SMALL_IMAGES,
            "The cosine begins at once; the code holds the full rate for 5 epochs, in which it is at most 0.1 % lower.",
            "For another batch than 256 the code multiplies the rate by batch / 256, and reaches it in 5 epochs: give "
            "--lr.",
            "The precision is --precision's own choice, bfloat16 where the device is fast in it; the code computes in "
            "float16 and scales its loss.",
            "Views are MoCo v2's, which the code has for MoCo teachers; for SwAV's it crops from 14 % of the area.",
        ),
    )


def _moco(method: str | None, student: str | None) -> Preset:
    return Preset(
        "MoCo v2's official settings, with the teacher as key encoder",
        "He, Fan, Wu, Xie, Girshick, 2019, arXiv 1911.05722; Chen, Fan, Girshick, He, 2020, arXiv 2003.04297; "
        "github.com/facebookresearch/moco",
        {
            **CONTRASTIVE, "method": "moco", "method_args": ("tau=0.2", "queue=65536", "head=mlp"),
            "precision": "32-true",
        },
        (
            RANDOM,
            VECTORS,
            SMALL_IMAGES,
            "The key encoder is the teacher, which is fixed and reads the student's view; in the code it is a running "
            "mean of the network that is trained, with a view of its own. MoCo itself is relgraph pretrain --objective "
            "moco, where a warm-up of 10 epochs is ours (--warmup-epochs 0).",
            "Keys are not shuffled over GPUs, which a fixed key encoder in evaluation mode does not need.",
        ),
    )  # fmt: skip


# Few labels, so that a teacher improves the student; the weights are EGA's own. bf16 does not speed up such a small
# network, and float32 is the same everywhere.
DIGITS: dict[str, Any] = {"student": "resnet8", "labels_per_class": 3, "epochs": 20, "precision": "32-true"}

# For a few hundred steps from random weights. A ResNet-8 alone on nuclei, 20 epochs, seed 0, test mIoU of the last:
# AdamW at 0.005 68.9, at 0.002 68.4; SGD at 0.1 66.5, at 0.02 65.2. With SGD give a rate as well.
PIXELS: dict[str, Any] = {
    "method": "pixelwise", "epochs": 30, "batch_size": 16, "optimiser": "adamw", "lr": 0.002, "weight_decay": 0.01,
    "schedule": "poly",
}  # fmt: skip

Make = Callable[[str | None, str | None], Preset]
PRESETS: dict[str, Make] = {
    "none": lambda method, student: Preset("The defaults alone", "", {}),
    "digits": lambda method, student: Preset("The offline example: digits with few labels", "", DIGITS),
    "pixels": lambda method, student: Preset("Classes of pixels: few epochs, small batches, AdamW", "", PIXELS),
    "ega": _ega,
    "ega-sequential": _ega_sequential,
    "repdistiller": _repdistiller,
    **{name: partial(_repdistiller, default=name) for name in FAMILY},
    "sskd": _sskd,
    "seed": _seed,
    "moco": _moco,
}


def find_preset(name: str, method: str | None = None, student: str | None = None) -> Preset:
    """Return the preset of a name, for the method and the student that a user gave, if any.

    The name of a method of RepDistiller stands for `repdistiller` with that method.

    Raises:
        RelgraphError: for an unknown name, or a method that the protocol does not have.

    >>> find_preset("repdistiller", "rkd", "mobilenetv2").options["lr"]
    0.01
    """
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    found = PRESETS[name](method, student)
    if name in ("sskd", "seed", "moco") and method is not None and str(method).strip().lower() != name:
        raise RelgraphError(f"the preset {name} trains {name} alone, got method {method}")
    return found


def with_arguments(own: Sequence[str], given: Sequence[str]) -> tuple[str, ...]:
    """Return the options of methods of a preset, `NAME=VALUE`, and those that a user gave, which win.

    >>> with_arguments(("tau=0.2", "head=mlp"), ("seed.tau=0.1",))
    ('head=mlp', 'seed.tau=0.1')
    """
    names = {_name(argument) for argument in given}
    return (*(argument for argument in own if _name(argument) not in names), *given)


def _name(argument: str) -> str:
    return argument.partition("=")[0].strip().rpartition(".")[2]
