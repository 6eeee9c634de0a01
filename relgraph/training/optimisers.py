"""The optimisers of a recipe, and which parameters their weight decay leaves out."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from relgraph.training.runs import AnyRecipe


def new_optimiser(
    recipe: AnyRecipe, module: nn.Module, parameters: Iterable[nn.Parameter], lr: float,
    rates: Mapping[nn.Parameter, float] = MappingProxyType({}),
) -> Optimizer:  # fmt: skip
    """Return the recipe's optimiser of a module's parameters, at a learning rate; some have `rates` of their own."""
    assert recipe.weight_decay is not None, "its objective fills in what is not given"
    groups: list[dict[str, Any]] = []
    by_rate: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        by_rate.setdefault(rates.get(parameter, lr), []).append(parameter)
    for rate, group in by_rate.items():
        parts = [{"params": group}] if recipe.decay_norm_and_bias else decay_groups(module, group)
        groups += [{**part, "lr": rate} for part in parts]
    if recipe.optimiser == "adamw":
        return AdamW(groups, lr=lr, weight_decay=recipe.weight_decay)
    return SGD(groups, lr=lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, nesterov=recipe.nesterov)


def decay_groups(module: nn.Module, parameters: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    """Return the groups of parameters without weight decay and with it; either may be missing.

    Without are vectors and numbers, as weights of norms, every bias, and what the module or a part of it names in its
    `no_weight_decay()`. These are the groups of timm's `param_groups_weight_decay`, written out here since timm takes
    seconds to import, asks the whole model alone for names, and knows patterns among them in its later versions only.
    """
    named = [
        f"{prefix}.{pattern}" if prefix else pattern
        for prefix, part in module.named_modules()
        if callable(names := getattr(part, "no_weight_decay", None))
        for pattern in names()
    ]
    free = {
        id(parameter)
        for name, parameter in module.named_parameters()
        if parameter.ndim <= 1 or name.endswith(".bias") or any(fnmatchcase(name, pattern) for pattern in named)
    }
    without, decaying = ([p for p in parameters if (id(p) in free) is kind] for kind in (True, False))
    groups: list[dict[str, Any]] = [{"params": without, "weight_decay": 0.0}, {"params": decaying}]
    return [group for group in groups if group["params"]]
