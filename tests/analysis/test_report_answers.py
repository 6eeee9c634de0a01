"""The section on answers against a loop over queries, in the student's own index and in the teacher's."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from relgraph.analysis.report.answers import Answers, answers, answers_section
from relgraph.analysis.run_loading import TrainedRun
from relgraph.data.images import ImageSet
from relgraph.graph.alignment import VectorTransform, procrustes
from relgraph.networks.plain import PlainStudent


def naive(queries: Tensor, gallery: Tensor, query: int) -> list[int]:
    """Return all other images, the nearest first."""
    cosines = normalize(gallery.double()) @ normalize(queries[query].double(), dim=0)
    order = sorted(range(len(gallery)), key=lambda place: -float(cosines[place]))
    return [place for place in order if place != query]


def check(found: Answers, student: tuple[Tensor, Tensor], teacher: Tensor) -> None:
    assert len(found.found) == 10 and found.k == 8 and found.images == len(teacher)
    for one in found.found:
        own, other = naive(*student, one.query), naive(teacher, teacher, one.query)
        assert one.student == [(place, other.index(place) + 1) for place in own[:8]]
        assert one.teacher == [(place, own.index(place) + 1) for place in other[:8]]
        assert one.overlap == len({*own[:8]} & {*other[:8]}) / 8
    unit = normalize(teacher.double())
    near = [float((unit[[place for place, _ in one.student]] @ unit[one.query]).sum()) for one in found.found]
    listed = [(one.overlap, one_near) for one, one_near in zip(found.found, near, strict=True)]
    assert listed == sorted(listed), "among equals those whose answers the teacher finds least similar come first"
    assert found.found[-1].overlap <= found.overlap


def test_queries_with_the_fewest_answers_in_common_and_their_ranks(
    opened: TrainedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    images: ImageSet = opened.data.test.select(torch.arange(60))
    s, t = opened.vectors(images)
    assert t is not None
    own, gallery = VectorTransform.fit(s)(s), VectorTransform.fit(t)(t)
    found = answers(opened, images)
    assert found is not None and not found.shared
    check(found, (own, own), gallery)
    page = answers_section(found, images)
    assert "an index of its own" in page and page.count(" by the teacher, ") == page.count(" by the student, ") == 160
    student, turn = opened.plain, procrustes(s, t)
    parts = student.backbone, student.head, student.projector, student.part, student.info
    turned = PlainStudent(*parts, turn, VectorTransform.fit(t)).eval()
    monkeypatch.setitem(opened.__dict__, "plain", turned)
    found = answers(opened, images)
    assert found is not None and found.shared
    check(found, (VectorTransform.fit(t)(turn(s)), gallery), gallery)
    assert "the same index" in answers_section(found, images)


def test_few_images_have_no_such_section(opened: TrainedRun) -> None:
    assert answers(opened, opened.data.test.select(torch.arange(9))) is None
