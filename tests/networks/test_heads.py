"""Heads against the counts of the official code, students and projectors against their products written out."""

import torch

from relgraph.names import build_backbone
from relgraph.networks.heads import Head, Projector, Student


def parameters(head: torch.nn.Module) -> int:
    return sum(p.numel() for p in head.parameters())


def test_parameter_counts_for_256_dimensions_and_100_classes() -> None:
    """Of students: resnet8x4, vgg13, ShuffleNetV1; of teachers: CLIP's RN101 and ViT-B, RN50."""
    counts = {256: 91_492, 512: 157_028, 960: 271_716, 1024: 288_100}
    assert {width: parameters(Head(width, 256, 100)) for width in counts} == counts
    assert parameters(build_backbone("resnet8x4")) + counts[256] == 1_299_332
    assert parameters(Projector(512, 128)) == 512 * 512 + 512 + 512 * 128 + 128  # MoCo v2 and SEED on a ResNet-18
    assert parameters(Projector(256, 256)) == 2 * (256 * 256 + 256)  # SSKD's on a resnet32x4
    assert parameters(Projector(64, 16, hidden=32, norm=True)) == 64 * 32 + 32 + 2 * 32 + 32 * 16 + 16


def test_a_linear_head_is_one_layer_whose_embedding_is_the_feature() -> None:
    student = Student(build_backbone("resnet8", 3), None, 5).eval()
    output, layer = student(torch.rand(4, 3, 8, 8)), student.head.classify
    assert output.feature is not None and torch.equal(output.embedding, output.feature)
    torch.testing.assert_close(output.logits, output.feature @ layer.weight.T + layer.bias)
    assert list(student.head.state_dict()) == ["classify.weight", "classify.bias"]
    assert (student.head.width, student.head.dim, Head(64, 16, 5).dim) == (64, 64, 16)


def test_a_head_like_a_stored_one_has_its_sizes() -> None:
    for head in (Head(7, 3, 5), Head(7, None, 5)):
        again = Head.like(head.state_dict())
        again.load_state_dict(head.state_dict())
        assert (again.width, again.dim) == (head.width, head.dim)
        assert Head.like(head.state_dict(), 9, 4).classify.out_features == 4
        assert Head.like(head.state_dict(), 9).width == 9
    assert Head.like({}).width == 1, "what is missing is told when it is loaded"


def test_a_projector_is_two_linear_maps_and_a_rectifier_behind_a_norm_if_asked() -> None:
    feature = torch.randn(40, 7).double()
    for norm in (False, True):
        projector = Projector(7, 3, hidden=5, norm=norm).double()
        first, second = (projector.get_parameter(f"{i}.weight") for i in (0, 2 + norm))
        hidden = feature @ first.T + projector.get_parameter("0.bias")
        if norm:
            hidden = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()
        expected = hidden.clamp(min=0) @ second.T + projector.get_parameter(f"{2 + norm}.bias")
        torch.testing.assert_close(projector(feature), expected)
        assert (expected < 0).any()  # nothing behind the second


def test_embedding_and_logits_are_linear_in_the_feature() -> None:
    student = Student(build_backbone("resnet8", 3), 16, 5).eval()
    output = student(torch.rand(4, 3, 8, 8))
    project, classify = student.head.project, student.head.classify
    assert output.feature is not None and output.logits is not None
    assert output.embedding.shape == (4, 16) and output.logits.shape == (4, 5) and output.feature.shape == (4, 64)
    torch.testing.assert_close(output.embedding, output.feature @ project.weight.T + project.bias)
    torch.testing.assert_close(output.logits, output.embedding @ classify.weight.T + classify.bias)


def test_the_output_holds_the_stage_maps_and_their_gradients() -> None:
    student = Student(build_backbone("vgg8", 3), 16, 5)
    output = student(torch.rand(4, 3, 16, 16))
    assert [stage.shape[1:] for stage in output.maps] == [(64, 16, 16), (128, 8, 8), (256, 4, 4), *[(512, 2, 2)] * 2]
    assert output.feature is not None
    torch.testing.assert_close(output.feature, output.maps[-1].mean(dim=(2, 3)))
    torch.autograd.backward(output.maps[0].sum())
    assert student.backbone.get_parameter("blocks.0.0.weight").grad is not None
