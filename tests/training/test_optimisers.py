"""Weight decay leaves out what timm leaves out, and optimisers have the recipe's settings."""

from typing import Any

import pytest
import torch
from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]
from torch import nn
from torch.optim import SGD, AdamW

from relgraph.names import build_backbone
from relgraph.networks.heads import Student
from relgraph.training.distillation import build
from relgraph.training.optimisers import decay_groups, new_optimiser
from relgraph.training.recipe import Recipe, resolve
from tests.training.conftest import RecipeMaker


def names_of(module: nn.Module, groups: list[dict[str, Any]]) -> list[tuple[float, list[str]]]:
    """Return of each group its weight decay and the names of its parameters in the module."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return [(group.get("weight_decay", 0.05), [names[id(p)] for p in group["params"]]) for group in groups]


@pytest.mark.parametrize(
    "name", ["timm:vit_tiny_patch16_224", "timm:swin_tiny_patch4_window7_224", "resnet8x4", "vgg8"]
)
def test_the_groups_are_those_of_timm(name: str) -> None:
    """Names of a network within the student count, as `pos_embed` of a transformer."""
    student = Student(build_backbone(name, 3, image_size=224 if "timm" in name else 32), 8, 3)
    model: Any = getattr(student.backbone, "model", None)
    own = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    expected = param_groups_weight_decay(student, 0.05, no_weight_decay_list=[f"backbone.model.{name}" for name in own])
    found = names_of(student, decay_groups(student, [*student.parameters()]))
    assert found == names_of(student, expected)
    assert ("backbone.model.pos_embed" in found[0][1]) == ("vit" in name), "which is no vector"


def test_the_groups_hold_the_parameters_that_are_asked_for() -> None:
    module: Any = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1, bias=False))
    asked = [module[0].weight, module[1].weight]
    assert names_of(module, decay_groups(module, asked)) == [(0.0, ["1.weight"]), (0.05, ["0.weight"])]
    assert names_of(module, decay_groups(module, [module[2].weight])) == [(0.05, ["2.weight"])]


def test_patterns_of_a_part_count_from_that_part() -> None:
    class Tabled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first_table, self.weight = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2, 2))

        def no_weight_decay(self) -> set[str]:
            return {"*_table"}

    module = nn.ModuleDict({"inner": Tabled(), "last_table": nn.Embedding(2, 2)})
    assert names_of(module, decay_groups(module, [*module.parameters()])) == [
        (0.0, ["inner.first_table"]), (0.05, ["inner.weight", "last_table.weight"])
    ]  # fmt: skip


def test_optimisers_have_the_recipe_s_settings(make: RecipeMaker) -> None:
    module = nn.Linear(2, 3)
    for kind, options, settings in (
        (SGD, {"momentum": 0.7, "nesterov": True}, {"momentum": 0.7, "nesterov": True}),
        (SGD, {}, {"momentum": 0.9, "nesterov": False}),
        (AdamW, {"optimiser": "adamw"}, {"betas": (0.9, 0.999)}),
    ):
        given: dict[str, Any] = {"weight_decay": 0.3, **options}
        (group,) = new_optimiser(Recipe(**given), module, module.parameters(), 0.2).param_groups
        assert settings.items() <= group.items() and (group["lr"], group["weight_decay"]) == (0.2, 0.3)
        optimiser = new_optimiser(Recipe(**given, decay_norm_and_bias=False), module, module.parameters(), 0.2)
        assert isinstance(optimiser, kind)
        assert [(group["lr"], group["weight_decay"]) for group in optimiser.param_groups] == [(0.2, 0.0), (0.2, 0.3)]
        both = new_optimiser(Recipe(**given), module, module.parameters(), 0.2, {module.bias: 0.01}).param_groups
        assert [(g["lr"], g["params"]) for g in both] == [(0.2, [module.weight]), (0.01, [module.bias])]
    job = build(make(**given, decay_norm_and_bias=False, graph="knn", k=3, refine="conv", teacher_lr=0.4))
    for rate, each in zip((0.01, 0.4), job.optimisers.values(), strict=True):
        assert [(g["lr"], g["weight_decay"]) for g in each.param_groups] == [(rate, 0.0), (rate, 0.3)]
        assert all(settings.items() <= g.items() for g in each.param_groups)


def test_adamw_has_smaller_rates_unless_they_are_given() -> None:
    assert (resolve({}).lr, resolve({}).teacher_lr) == (0.05, 0.01)
    found = resolve({"optimiser": "adamw"})
    assert (found.lr, found.teacher_lr) == (0.001, 0.001)
    assert resolve({"optimiser": "adamw", "lr": 0.05}).lr == 0.05
