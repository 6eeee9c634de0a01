"""Methods over the positions of images: the authors' numbers, loops over images, and what they refuse."""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from relgraph.graph.criteria import mean_square
from relgraph.graph.kernels import cosine, linear
from relgraph.graph.pair import STUDENT, graph_pair
from relgraph.graph.relation import Relation
from relgraph.graph.topology import ALL_PAIRS, Above, Nearest, OwnRule
from relgraph.methods import (
    CC,
    CIRKD,
    CKA,
    CWD,
    DIST,
    DKD,
    EGA,
    IRG,
    KD,
    NCE,
    PKT,
    RKD,
    SP,
    DarkRank,
    Gram,
    Lightly,
    Method,
    Output,
    Pairwise,
    Pixelwise,
)  # fmt: skip
from relgraph.methods.own import Related
from tests.checks import assert_refused, case
from tests.limits import run
from tests.methods.golden import check, embeddings, maps, of_logits, queue_keys
from tests.methods.test_rrd import filled

SIX, FOUR = (2, 5, 6, 6), (2, 5, 4, 6)


def of_map(x: Tensor) -> Output:
    """Return an output of nothing but a last stage map."""
    return Output(x.new_zeros(len(x), 2), maps=(x,))


def numbers(
    key: str, method: Method, student: Tensor, teacher: Tensor, of: Callable[[Tensor], Output] = of_map
) -> None:
    """Compare a method's value and gradient with the entry of that name."""
    with case(key):
        check(key, lambda: method(of(student), of(teacher)), {"student": student})


def test_pairwise() -> None:
    for side in (6, 5):
        numbers(f"pairwise_pool0.5_{side}x{side}", Pairwise(), *maps(4, 8, side, side, phase=0.0))
    six = maps(4, 8, 6, 6, phase=0.0)
    numbers("pairwise_unpooled_6x6", Pairwise(pool=1 / 6), *six)
    numbers("pairwise_unpooled_6x6_norm_not_detached (NOT official)", Pairwise(pool=1 / 6, constant_norm=False), *six)
    numbers("pairwise_avgpool_beta2x2_6x6 (paper reading)", Pairwise(pool=1 / 3, pooling="mean"), *six)


def test_pixelwise() -> None:
    student, teacher = (2 * x for x in maps(2, 5, 3, 4, phase=0.0))
    numbers("pixelwise_ce", Pixelwise(official=True), student, teacher, of_logits)
    for method in (Pixelwise(), KD(temperature=1.0)):
        check("pixelwise_kl_mean_pixels_batch", partial(method, of_logits(student), of_logits(teacher)), {})


def test_gram() -> None:
    options: dict[str, dict[str, Any]] = {
        "gram": {}, "gram_neg": {"negatives": "clamped"}, "gram_teacher": {"negatives": "teacher"},
        "gram_batch_level": {"level": "batch"},
    }  # fmt: skip
    for shape in (SIX, FOUR):
        for name, chosen in options.items():
            numbers(f"dinov3_{name}_{shape[2]}x{shape[3]}", Gram(**chosen), *maps(*shape, phase=0.0))
    for size, given in (("", embeddings()), ("_B12_Ds10_Dt16", embeddings(12, 10, 16))):
        for normalised, kernel in (("", cosine), ("_unnormalised", linear)):
            key = f"dinov3_gram_embeddings{normalised}{size}"
            check(key, partial(Gram(nodes="feature", kernel=kernel), *given), {"student": given[0]})


def test_channel_wise() -> None:
    for shape in (SIX, FOUR):
        for temperature in (4.0, 1.0):
            for of, nodes in ((of_logits, "logits"), (of_map, "map")):
                method = CWD(temperature=temperature, nodes=nodes)  # type: ignore[arg-type]
                key = f"cwd_channel_T{temperature:.0f}_{shape[2]}x{shape[3]}"
                numbers(key, method, *maps(*shape, phase=0.0), of)
        numbers(
            f"cwd_spatial_T4_{shape[2]}x{shape[3]}",
            CWD(nodes="logits", over="channels"),
            *maps(*shape, phase=0.0),
            of_logits,
        )


def test_channels_of_another_number_pass_through_a_convolution() -> None:
    student, teacher = torch.randn(2, 3, 4, 4).double().requires_grad_(), torch.randn(2, 5, 4, 4).double()
    for dtype in (torch.float64, torch.float32):
        loss = CWD(3, 5).to(dtype)
        assert isinstance(loss.project, torch.nn.Conv2d)
        expected = CWD()(of_map(loss.project(student.to(dtype))), of_map(teacher))
        found = loss(of_map(student.to(dtype)), of_map(teacher))
        torch.testing.assert_close(found, expected, check_dtype=False)
        assert torch.autograd.grad(found, loss.project.weight)[0].any()
    assert CWD(3, 3).project is CWD(3, 5, nodes="logits").project is None


def test_across_images() -> None:
    for shape in (SIX, FOUR):
        for tau in (0.1, 1.0):
            numbers(f"cirkd_minibatch_T{tau:g}_{shape[2]}x{shape[3]}", CIRKD(tau=tau), *maps(*shape, phase=0.0))
    student, teacher = maps(2, 3, 6, 6, phase=0.0)[0], maps(*SIX, phase=0.0)[1]
    numbers("cirkd_minibatch_T0.1_6x6_Cs3_Ct5", CIRKD(), student, teacher)


def test_across_images_in_blocks_and_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    s, t = torch.randn(3, 4, 2, 3).double(), torch.randn(3, 5, 2, 3).double()
    values = []
    for a, b in product(range(3), range(3)):
        pairs = [(x[a].flatten(1).T, x[b].flatten(1).T) for x in (s, t)]
        cosines = [torch.stack([torch.cosine_similarity(row, held) for row in asked]) for asked, held in pairs]
        p, q = ((row / 0.1).softmax(-1) for row in cosines)
        values.append((q * (q / p).log()).sum(-1).mean())
    expected = torch.stack(values).mean()
    torch.testing.assert_close(CIRKD()(of_map(s), of_map(t)), expected)
    monkeypatch.setattr("relgraph.methods.cirkd.rows_at_once", lambda *_: 4)
    torch.testing.assert_close(CIRKD()(of_map(s), of_map(t)), expected)


def lightly(student: Tensor, teacher: Tensor, *of: Tensor) -> dict[str, Tensor]:
    """Return the terms of its third version for embeddings and maps, with golden's queue."""
    loss = filled(Lightly(teacher_width=of[1].shape[1], queue=32, local_weight=1.0), queue_keys().roll(8, 0))
    outputs = [Output(x, feature=x, maps=(y,)) for x, y in zip(of, (student, teacher), strict=True)]
    return loss.terms(outputs[0], outputs[1])


def _local(*given: Tensor) -> Tensor:
    return lightly(*given)["local"]


def test_the_local_term_of_lightly() -> None:
    vectors, six = embeddings(8), (8, 5, 6, 6)
    student, teacher = maps(*six, phase=0.0)
    inputs = {"embedding": vectors[0], "map": student}
    check("lightly_v3_local_T0.07_6x6", partial(_local, student, teacher, *vectors), inputs)
    check("lightly_v3_total_6x6", lambda: torch.stack([*lightly(student, teacher, *vectors).values()]).sum(), inputs)
    for key, shape in (("6x6_Cs3_Ct5", (2, 3, 6, 6)), ("student4x6_teacher6x6", (2, 5, 4, 6))):
        other = maps(*shape, phase=0.0)[0]
        check(f"lightly_v3_local_{key}", partial(_local, other, teacher[:2], *embeddings(2)), {"student": other})


def _of_logits(method: Method, student: Tensor, teacher: Tensor) -> Tensor:
    found: Tensor = method(of_logits(2 * student), of_logits(2 * teacher))
    return found


def test_dist_of_maps_and_cka_of_patches() -> None:
    for shape in (SIX, FOUR):
        student, teacher = maps(*shape, phase=0.0)
        key = f"dist_maps_{shape[2]}x{shape[3]}"
        with case(key):
            check(key, partial(_of_logits, DIST(), student, teacher), {"student": student})
    numbers("paka_cka_per_image_6x6 (definition)", CKA(nodes="positions"), *maps(*SIX, phase=0.0))


METHODS: tuple[tuple[type[Method], dict[str, Any]], ...] = (
    (EGA, {}), (EGA, {"node_weight": 0.0}), (SP, {}), (CC, {}), (PKT, {}), (DarkRank, {}), (RKD, {}), (CKA, {}),
    (Gram, {"negatives": "clamped"}), (Pairwise, {"pool": None}),
)  # fmt: skip
GRAPHS: tuple[dict[str, Any], ...] = (
    {}, {"graph": "knn", "k": 5}, {"graph": "knn", "k": 5, "neighbours": "union"}, {"graph": Above(0.2)},
    {"form": "blocked"}, {"form": "factored"}, {"graph": "knn", "k": 5, "form": "blocked"},
    {"graph": OwnRule(lambda s, t, kernel: Above(0.1)(s, t, kernel))},
)  # fmt: skip


@pytest.mark.parametrize("largest", [2**23, 200])
def test_each_image_has_a_graph_of_its_own(largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By `torch.vmap` and in loops: the mean over images of what the method says of the positions of one.

    Also where the matrices of 3 images are too large to be held at once and that of one would not be: in blocks.
    """
    monkeypatch.setattr("relgraph.graph.pair.LARGEST_MATRIX", largest)
    if largest == 200:
        for name, numbers in (("SMALLEST", 36), ("LARGEST", 60)):
            monkeypatch.setattr(f"relgraph.graph.blocks.{name}", numbers)
    student, teacher = torch.randn(3, 6, 4, 3).double().requires_grad_(), torch.randn(3, 6, 4, 3).double()
    for cls, options in METHODS:
        for graph in GRAPHS:
            if cls is DarkRank and not isinstance(graph.get("graph", ""), str):
                continue  # an image may have fewer edges than it ranks
            if graph.get("form") == "factored" and (cls in (CC, PKT, DarkRank, RKD) or options.get("negatives")):
                continue
            with case(cls.__name__, options, graph):
                whole = cls(**{"nodes": "positions", **options, **graph})
                one = cls(**{"nodes": "embedding" if cls is EGA else "feature", **options, **graph})
                found = whole(of_map(student), of_map(teacher))
                each = [one(s.flatten(1).T, t.flatten(1).T) for s, t in zip(student, teacher, strict=True)]
                expected = torch.stack(each).mean()
                torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
                gradients = [torch.autograd.grad(value, student)[0] for value in (found, expected)]
                torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_the_graphs_of_images_are_a_batch_of_pairs() -> None:
    """Student first, joined by PyG: each is the pair of one image's positions, and relations read it."""
    student, teacher = torch.randn(3, 4, 2, 3).double().requires_grad_(), torch.randn(3, 4, 2, 3).double()
    nodes = [x.flatten(2).mT for x in (student, teacher)]
    for graph in (ALL_PAIRS, Nearest(2), Nearest(2, "mutual")):
        method = Related(Relation(linear), nodes="positions", graph=graph)
        found = method.pair(of_map(student), of_map(teacher))
        public = graph_pair(*nodes, topology=graph, kernel=linear, y=torch.arange(18).view(3, 6))
        assert (
            found is not None
            and found.num_graphs == public.num_graphs == 3
            and found.node_types == ["student", "teacher"]
        )
        for number, image in enumerate(zip(*nodes, strict=True)):
            for batch, rule in ((found, method.rule.with_own()), (public, graph)):
                pair, expected = batch[number], graph_pair(*image, topology=rule, kernel=linear, match=batch is public)
                assert pair.edge_types == expected.edge_types and pair.graph == expected.graph
                for kind in pair.edge_types:
                    assert torch.equal(pair[kind].edge_index, expected[kind].edge_index)
                    torch.testing.assert_close(pair[kind].edge_weight, expected[kind].edge_weight)
                relation = Relation(linear, rule, criterion=mean_square)
                torch.testing.assert_close(relation.of_pair(pair), relation(*image))
            assert torch.equal(public[number]["teacher"].y, torch.arange(6) + 6 * number)
        (gradient,) = torch.autograd.grad(found[STUDENT].edge_weight.sum(), student)
        assert gradient.any()
    assert_refused((lambda: graph_pair(nodes[0], nodes[1][:2]), "embeddings must be (N, D)…"))


def test_a_relation_of_ones_own_over_positions() -> None:
    relation = Relation(cosine, scale=lambda w: w.abs(), criterion=lambda s, t: (s - t).abs().amax(-1))
    student, teacher = torch.randn(2, 3, 3, 3), torch.randn(2, 4, 3, 3)
    found = Related(relation, nodes="positions")(of_map(student), of_map(teacher))
    each = [relation(s.flatten(1).T, t.flatten(1).T) for s, t in zip(student, teacher, strict=True)]
    torch.testing.assert_close(found, torch.stack(each).mean())


def test_a_teacher_of_another_grid_is_resized() -> None:
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 2, 6)
    resized = torch.nn.functional.interpolate(teacher, (4, 4), mode="bilinear", align_corners=False)
    for method in (SP(nodes="positions"), CIRKD(), CWD()):
        torch.testing.assert_close(method(of_map(student), of_map(teacher)), method(of_map(student), of_map(resized)))
    torch.testing.assert_close(
        KD()(of_logits(student), of_logits(teacher)), KD()(of_logits(student), of_logits(resized))
    )


def test_degenerate_maps_are_finite() -> None:
    related = (EGA, SP, PKT, CKA, RKD)
    methods = [*(cls(nodes="positions") for cls in related), Pairwise(), Gram(), CWD(), CIRKD()]
    for shape in ((1, 3, 1, 1), (2, 3, 1, 4), (2, 3, 2, 2)):
        x = torch.randn(shape)
        for method, given in product(methods, (0 * x, 0 * x + 1, 1e30 * x, x.bfloat16())):
            student = given.clone().requires_grad_()
            with case(type(method).__name__, shape, given.flatten()[0].item()):
                value = method(of_map(student), of_map(given.flip(1)))
                (gradient,) = torch.autograd.grad(value, student)
                assert value.isfinite() and gradient.isfinite().all()


def test_matrices_of_a_batch_are_too_large_together() -> None:
    """The form is that of all images: of 50 x 50 positions one matrix is 24 MiB, those of 8 images would be 191."""
    batch = torch.randn(8, 2500, 1024), torch.randn(8, 2500, 4)
    for method, form in ((SP, "blocked"), (PKT, "blocked"), (partial(PKT, graph="knn"), "blocked")):
        builder = method(nodes="positions").builder
        assert builder.form_of(batch[0][0], batch[1][0]) == "matrix"
        assert builder.of_graphs(*batch).form == form
    assert Pairwise(pool=None).builder.of_graphs(batch[1], batch[1]).form == "factored"


def test_unpooled_maps_in_float32_lose_no_more_digits_than_a_matrix() -> None:
    """Of features after a ReLU, and of graphs that nearly agree: the teacher's vectors are the student's, turned."""
    student = torch.randn(2, 8, 16, 16).double()
    turned = torch.einsum("dc,bchw->bdhw", torch.linalg.qr(torch.randn(20, 8).double())[0], student)
    cases = (student.relu(), torch.randn(2, 20, 16, 16).double().relu()), (student, turned + 1e-2 * turned.roll(1))
    for given in cases:
        found = {}
        for form, dtype in (("matrix", torch.float64), ("matrix", torch.float32), ("factored", torch.float32)):
            s, t = (x.to(dtype).requires_grad_() for x in given)
            value = Pairwise(pool=None, form=form)(of_map(s), of_map(t))  # type: ignore[arg-type]
            found[form, dtype] = value.detach().double(), torch.autograd.grad(value, s)[0].double()
        exact = found["matrix", torch.float64]
        for number, expected in enumerate(exact):
            lost, of_matrix = (
                float((found[form, torch.float32][number] - expected).norm() / expected.norm())
                for form in ("factored", "matrix")
            )
            assert lost < 2 * of_matrix + 2e-7


UNPOOLED = """
import sys, torch
from relgraph.methods import Output, Pairwise
from tests.limits import limit_data

def terms(student, teacher, **options):
    outputs = [Output(x.new_zeros(len(x), 2), maps=(x,)) for x in (student, teacher)]
    return Pairwise(pool=None, **options)(*outputs)

torch.manual_seed(0)
student, teacher = torch.randn(8, 128, 65, 65, requires_grad=True), torch.randn(8, 320, 65, 65)
terms(torch.randn(2, 4, 3, 3, requires_grad=True), torch.randn(2, 4, 3, 3)).backward()  # imports
limit_data(300 * 2**20)
terms(student, teacher, form=sys.argv[1]).backward()
print(float(student.grad.norm()))
"""


@pytest.mark.slow
def test_unpooled_maps_hold_no_matrix() -> None:
    """Of 65 x 65 maps of 8 images one matrix is 545 MiB: beside the maps, forward and backward take less than 300."""
    found = run(UNPOOLED, "auto")
    assert found.returncode == 0 and float(found.stdout) > 0, found.stderr
    assert "DefaultCPUAllocator: can't allocate memory" in run(UNPOOLED, "matrix").stderr


def test_what_they_refuse() -> None:
    x = torch.randn(2, 3, 17, 17)
    images = "relates images, not the positions of one: expected other nodes than 'positions'"
    assert_refused(
        (lambda: NCE(nodes="positions"), f"NCE {images}"),
        (lambda: IRG(nodes="positions"), f"IRG {images}"),
        (lambda: SP(pool=0.5), "SP pools positions: expected the nodes 'positions', got 'map'"),
        (lambda: SP(nodes="positions", pool=0.0), "pool must be above 0 and at most 1, got 0.0"),
        (lambda: RKD(nodes="positions")(of_map(x), of_map(x)),
         "RKD compares at most 256 positions of an image, got 289: expected a pool"),
        (lambda: EGA(nodes="positions")(of_map(x), of_map(x[:, :2])), "matching nodes needs embeddings of one width…"),
        (lambda: DKD()(of_logits(x), of_logits(x)), "DKD reads logits (N, classes), got (2, 3, 17, 17)"),
        (lambda: CWD(nodes="logits")(of_map(x), of_map(x)), "CWD reads logits (N, classes, H, W)…"),
        (lambda: CWD()(of_map(x), of_map(x[:, :2])), "CWD compares channels: expected student_channels…"),
    )  # fmt: skip
