from functools import partial

from relgraph.networks.catalogue import find_teachers
from tests.checks import assert_refused_like


def specs(pattern: str) -> list[str]:
    return [teacher.spec for teacher in find_teachers(pattern)]


def test_a_part_of_the_spelling() -> None:
    assert specs("torchvision:resnet50") == [f"torchvision:resnet50/IMAGENET1K_V{i}" for i in (1, 2)]
    found = specs("DINOv2")
    assert "timm:vit_small_patch14_dinov2.lvd142m" in found
    assert all("dinov2" in spec for spec in found)


def test_wildcards_stand_for_the_whole_spelling() -> None:
    assert "open_clip:ViT-B-32/openai" in specs("open_clip:*ViT-B-32*")
    assert "timm:vit_base_patch16_224.mae" in specs("vit_*.mae")
    assert all(spec.endswith("/openai") for spec in specs("open_clip:*/openai"))


def test_a_pattern_with_a_source_asks_that_one_alone() -> None:
    assert specs("embedded:") == ["embedded:digits"]
    assert {spec.split(":")[0] for spec in specs("resnet50")} == {"repdistiller", "timm", "torchvision"}


def test_no_match() -> None:
    for pattern, words in (
        ("dinov4", "did you mean dinov[23]"),
        ("ViT-B-33", "did you mean ViT-B-32"),
        ("timm:vit_smal_patch16_224.dino", "did you mean timm:vit_small_patch16_224.dino"),
        ("*nothing like it*", "relgraph teachers, without a pattern"),
    ):
        assert_refused_like((partial(find_teachers, pattern), words))
