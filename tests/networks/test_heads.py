"""Heads against the counts of the official code, students and projectors against their products written out."""

import torch

from relgraph.names import build_backbone
from relgraph.networks.heads import Head, Projector, Student
from relgraph.networks.students import STUDENTS

# Of each network of the RepDistiller benchmark, as its own code defines it, with 100 and with 10 classes.
COUNTED = {
    "resnet8": (83_892, 78_042), "resnet14": (181_108, 175_258), "resnet20": (278_324, 272_474),
    "resnet32": (472_756, 466_906), "resnet44": (667_188, 661_338), "resnet56": (861_620, 855_770),
    "resnet110": (1_736_564, 1_730_714), "resnet8x4": (1_233_540, 1_210_410), "resnet32x4": (7_433_860, 7_410_730),
    "resnet50": (23_705_252, 23_520_842), "wrn_16_1": (180_916, 175_066), "wrn_16_2": (703_284, 691_674),
    "wrn_40_1": (569_780, 563_930), "wrn_40_2": (2_255_156, 2_243_546), "vgg8": (3_965_028, 3_918_858),
    "vgg11": (9_277_284, 9_231_114), "vgg13": (9_462_180, 9_416_010), "vgg16": (14_774_436, 14_728_266),
    "vgg19": (20_086_692, 20_040_522), "mobilenetv2": (812_836, 697_546), "shufflenetv1": (949_258, 862_768),
    "shufflenetv2": (1_355_528, 1_263_278),
}  # fmt: skip


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


def test_students_with_a_linear_head_have_the_benchmark_s_parameters() -> None:
    assert COUNTED.keys() == STUDENTS.keys()
    for name, counts in COUNTED.items():
        backbone = build_backbone(name)
        assert tuple(parameters(Student(backbone, None, classes)) for classes in (100, 10)) == counts, name


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
