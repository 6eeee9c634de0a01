"""The authors' numbers, value and gradient, of methods that read vectors or logits of a closed form.

Numbers of other inputs (maps, views, levels, sums of a release) are in the tests of their methods.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from relgraph.graph import contrast
from relgraph.graph.criteria import frobenius, sum_square
from relgraph.graph.kernels import centred, gaussian_taylor, identity, linear
from relgraph.graph.relation import Relation
from relgraph.graph.scales import by_norm
from relgraph.graph.topology import Nearest
from relgraph.methods import (
    CC,
    CKA,
    CSD,
    DIST,
    DKD,
    KD,
    MLLD,
    NCE,
    PKT,
    RAML,
    RKD,
    ROP,
    RRD,
    SEED,
    SP,
    Anchor,
    D3still,
    DarkRank,
    FitNet,
    InfoNCE,
    Lightly,
    MoCo,
    NTXent,
)
from tests.checks import case
from tests.methods.golden import GOLDEN, batch, check, embeddings, logits, of_logits, queue_keys

Loss = Callable[..., Tensor]
CLASSES = batch([0, 1, 2, 3] * 2)


def weighted(length: int, feature: float, inconsistent: float, consistent: float) -> D3still:
    return D3still(
        length=length, feature_weight=feature, inconsistent_weight=inconsistent, consistent_weight=consistent
    )


def mean(kernel: Any) -> Loss:
    """Return a third party's norm, a composition of the parts."""
    return lambda s, t: Relation(kernel, criterion=frobenius)(s, t) / len(s) ** 2


OFFICIAL: dict[str, Any] = {"centred": False, "official": True}
CKAS: dict[str, dict[str, Any]] = {
    "cka_linear_centred (definition)": {}, "cka_linear_centred_B12_Ds10_Dt16 (definition)": {},
    "cka_linear_unbiased (definition)": {"unbiased": True},
    "cka_linear_unbiased_B12_Ds10_Dt16 (definition)": {"unbiased": True},
    "rcka_uncentred": OFFICIAL, "rcka_uncentred_B12_Ds10_Dt16": OFFICIAL,
    "rcka_uncentred_rownorm": {**OFFICIAL, "rows": True},
    "rcka_uncentred_rownorm_B12_Ds10_Dt16": {**OFFICIAL, "rows": True},
}  # fmt: skip
GRAMS = "centred_gram_frobenius (definition)", "centred_gram_frobenius_B12_Ds10_Dt16 (definition)"
# How many images, and of how many dimensions, is read from the key.
OF_VECTORS: list[tuple[str, Loss]] = [
    ("simreg", Anchor()), ("simreg_B12_D16", Anchor()), ("simreg_mse_nonorm_flag", Anchor()),
    ("feature_regression_mean_square (definition)", Anchor(distance="mean_square")),
    *((f"cc_rbf_taylor_g0.4_P{p}", CC(order=p)) for p in (1, 2, 3, 5)),
    ("cc_rbf_exact_g0.4 (P->inf)", CC("gaussian")),
    ("cc_bilinear_raw", CC("bilinear", unit_length=False)),
    ("cc_bilinear_l2normalised", CC("bilinear")),
    ("cc_repdistiller", CC("consecutive")),
    ("cc_torchdistill_gaussian", mean(replace(gaussian_taylor(0.4, 2), prepare=identity))),
    ("cc_torchdistill_bilinear", mean(linear)),
    *((key, CKA(form=form, **x)) for key, x in CKAS.items() for form in CKA(**x).builder.known_forms),
    *((key, Relation(centred(linear), scale=by_norm, criterion=sum_square, form=form))
      for key in GRAMS for form in Relation(centred(linear), scale=by_norm, criterion=sum_square).forms()),
    ("infonce_inbatch_T0.07 (definition)", InfoNCE(tau=0.07)),
    ("ntxent_T0.5 (SimCLR, definition)", NTXent(tau=0.5)),
    ("csd_all_tq1_tg0.01", CSD(tau=1.0, teacher_tau=0.01)),
    ("csd_k4_tq1_tg0.01", CSD(length=4, tau=1.0, teacher_tau=0.01)),
    ("csd_k4_tq0.1_tg0.05", CSD(length=4, tau=0.1, teacher_tau=0.05)),
    ("csd_B12_D16_k5_tq1_tg0.01", CSD(length=5, tau=1.0, teacher_tau=0.01)),
    ("d3still_k5_a100_b5_g1", weighted(5, 100, 5, 1)),
    ("d3still_k10_a50_b2_g1", D3still(official=True)),  # divides by 9, of 7 others
    ("d3still_k5_feature_only", weighted(5, 1, 0, 0)),
    ("d3still_k5_inconsistent_only", weighted(5, 0, 1, 0)),
    ("d3still_k5_consistent_only", weighted(5, 0, 0, 1)),
    ("d3still_B12_D16_k10_a100_b5_g1", weighted(10, 100, 5, 1)),
    ("rkd_hard_dark_rank_a2_b3", DarkRank()), ("rkd_hard_dark_rank_a2_b3", DarkRank(graph=Nearest(4))),
    ("hint_mse", FitNet()), ("pkt", PKT()), ("sp", SP(nodes="feature")),
    ("nce_tau0.1", lambda s, t: NCE()(s, t, CLASSES)),
    ("raml_as_wired_0.7482_0.7482", RAML(official=True)),
    ("raml_0.7482_0.6778", RAML()), ("raml_B12_D16_0.7482_0.6778", RAML()),
    ("raml_absolute_only", RAML(across_weight=0.0, within_weight=0.0)),
    ("rkd_distance", RKD(1, 0)), ("rkd_angle", RKD(0, 1)), ("rkd_total_25_50", RKD()), ("rkd_metric_1_2", RKD(1, 2)),
    ("rop_k8_t0.1_w0.2", ROP(length=8)), ("rop_k4_t0.1_w0.2", ROP(length=4)),
    ("rop_B12_D16_k5_t0.1_w0.2", ROP(length=5)),
    ("rop_k4_t0.1_w0.2_student_differences (NOT official)", ROP(length=4, reference="student")),
]  # fmt: skip


def compare(key: str, loss: Loss) -> None:
    found = re.search(r"_B(\d+)_Ds?(\d+)(?:_Dt(\d+))?", key)
    student, teacher = embeddings(*(int(size) for size in found.groups() if size)) if found else embeddings()
    with case(key, loss):
        check(key, lambda: loss(student, teacher), {next(iter(GOLDEN[key]["grad_fro"])): student})


def test_of_vectors() -> None:
    for key, loss in OF_VECTORS:
        compare(key, loss)


def test_with_queues() -> None:
    """Golden's queues are 32 keys of 16 numbers, or 36; lightly's oldest keys are the last of them, ours the first."""
    held: list[tuple[str, Any, int]] = [
        *((f"moco_infonce_T{tau}", MoCo(teacher_width=16, queue=32, tau=tau), 0) for tau in (0.07, 0.2)),
        *((f"seed_tauS{tau}_tauT{of_teacher}",
           SEED(teacher_width=16, queue=32, tau=float(tau), teacher_tau=float(of_teacher)), 0)
          for tau, of_teacher in (("0.2", "0.0001"), ("0.2", "0.01"), ("0.2", "0.05"), ("0.07", "0.0001"))),
        ("csd_queue_k6_tq1_tg0.01 (definition)",
         CSD(16, 16, length=6, tau=1.0, teacher_tau=0.01, memory="queue", queue=32, batch_keys=False), 0),
        ("rrd_ts0.02_tt0.1", RRD(teacher_width=16, queue=32), 0),
        ("rrd_ts0.1_tt0.02", RRD(teacher_width=16, queue=32, tau=0.1, teacher_tau=0.02), 0),
        ("rrd_ts0.02_tt0.1_B12_D16", RRD(teacher_width=16, queue=36), 0),
        ("lightly_v1_T0.07", Lightly(teacher_width=16, queue=32), 8),
        ("lightly_v1_T0.07_B12_D16", Lightly(teacher_width=16, queue=32), 12),
        ("lightly_v3_global_T0.07_6x6", Lightly(teacher_width=16, queue=32), 8),
    ]  # fmt: skip
    for key, method, roll in held:
        memory: Any = method.remembered if isinstance(method, CSD) else method.memory
        keys = memory.double().keys
        keys.copy_(queue_keys(len(keys)).roll(roll, 0))
        compare(key, method)
    for key, count in (("lightly_v1_T0.07_first_step_zero_queue", 32), ("lightly_v1_T0.07_queue6_batch8", 6)):
        compare(key, Lightly(teacher_width=16, queue=count, official=True).double())
    assert contrast.LARGEST_ON_CPU > 12 * 36, "as wholes: in blocks they are the same, of `test_contrast`"


def term(name: str) -> MLLD:
    """Return MLLD with one of its terms alone, at one temperature."""
    weights: Any = {f"{each}_weight": float(each == name) for each in ("instance", "batch", "class")}
    return MLLD(4.0, several=False, **weights)


OF_LOGITS: dict[str, Loss] = {
    "kd_T1": KD(1.0), "kd_T4": KD(), "lskd_kd_T2": KD(2.0, standardise=True),
    "lskd_kd_T2_weight9": lambda *given: 9 * KD(2.0, standardise=True)(*given),
    "dist_b1_g1": DIST(), "dist_inter_only": DIST(intra_weight=0), "dist_intra_only": DIST(inter_weight=0),
    "dist_b2_g2": DIST(inter_weight=2, intra_weight=2), "dist_tau4_b1_g1": DIST(tau=4),
    "dkd_a1_b8_T4": DKD(), "dkd_target_class_only_T4": DKD(others_weight=0),
    "dkd_non_target_only_T4": DKD(target_weight=0, others_weight=1),
    "lskd_dkd_a9_b72_T2": DKD(2.0, 9, 72, standardise=True),
    **{f"mlld_{name}_T4": term(name) for name in ("instance", "batch", "class")},
}  # fmt: skip


def test_of_logits() -> None:
    for key, loss in OF_LOGITS.items():
        student, teacher = logits()
        with case(key):
            inputs = {next(iter(GOLDEN[key]["grad_fro"])): student}
            check(key, lambda loss=loss, s=student, t=teacher: loss(of_logits(s), of_logits(t), CLASSES), inputs)  # type: ignore[misc]
