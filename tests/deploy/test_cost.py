"""What a student costs: counts against products written out, times by a clock that does not run, its one line."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import nn

import relgraph
from relgraph.analysis.run_loading import TrainedRun
from relgraph.deploy.cost import multiply_accumulates, run_cost, sentence
from relgraph.deploy.quantised import some_pixels
from relgraph.deploy.speed import images_per_second
from relgraph.networks.students import STUDENTS
from tests.checks import refusal
from tests.pictures import write_folder


@pytest.fixture(autouse=True)
def _no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do without the minute that torch's compiler takes."""

    def none(*given: Any) -> None:
        raise RuntimeError("no compiler here\nin so many lines")

    monkeypatch.setattr(torch, "compile", none)


def test_a_convolution_and_a_layer_cost_their_products() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8 * 8, 5))
    assert multiply_accumulates(network, torch.zeros(1, 3, 8, 8)) == 8 * 8 * 4 * (3 * 3 * 3) + 4 * 8 * 8 * 5
    grouped = nn.Conv2d(4, 4, 3, groups=4)
    assert multiply_accumulates(grouped, torch.zeros(1, 4, 8, 8)) == 6 * 6 * 4 * 9


def test_attention_costs_its_products_though_torch_computes_them_in_one_kernel() -> None:
    layer, tokens, width, hidden = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval(), 5, 16, 32
    own = tokens * width * (3 * width + width + 2 * hidden)
    between = 2 * tokens * tokens * width
    before = torch.backends.mha.get_fastpath_enabled()
    assert multiply_accumulates(layer, torch.zeros(1, tokens, width)) == own + between
    assert torch.backends.mha.get_fastpath_enabled() == before


@pytest.mark.parametrize("name", ["resnet8", "mobilenetv2", "shufflenetv1"])
def test_a_student_s_count_is_the_published_one(name: str) -> None:
    network = STUDENTS[name].build(3).eval()
    assert multiply_accumulates(network, torch.zeros(1, 3, 32, 32)) == STUDENTS[name].operations


def test_a_speed_is_the_median_after_a_call_that_warms_up(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([9.0, 1.0, 2.0, 90.0, 3.0, 2.5])
    now = [0.0]
    monkeypatch.setattr("relgraph.deploy.speed.time.perf_counter", lambda: now[0])

    def call() -> None:
        now[0] += next(seconds)

    assert images_per_second(call, 10) == 10 / 2.5


def test_short_calls_are_repeated_for_half_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [0.0], []
    monkeypatch.setattr("relgraph.deploy.speed.time.perf_counter", lambda: now[0])

    def call() -> None:
        now[0] += 2**-5
        calls.append(1)

    assert images_per_second(call, 4) == 128 and len(calls) == 1 + 16


def told(student: float | None, teacher: float | None) -> str:
    figures: dict[str, Any] = {"parameters": 96_314, "forms": {"torch": {"images_per_second": student}}}
    if student is None:
        figures["forms"] = {"torch": {"skipped": "no memory"}}
    both = {"student": figures}
    return sentence(
        both if teacher is None else both | {"teacher": {"forms": {"torch": {"images_per_second": teacher}}}}
    )


def test_the_sentence_says_what_share_of_the_teacher_s_time_is_needed() -> None:
    assert told(5_000.0, 100.0) == "0.10 M parameters, 1/50 of the teacher's time"
    assert told(200.0, 100.0) == "0.10 M parameters, 1/2 of the teacher's time"
    assert told(100.0, 90.0) == "0.10 M parameters, 0.90 of the teacher's time"
    assert told(50.0, 100.0) == "0.10 M parameters, 2.00 of the teacher's time"
    assert told(50.0, None) == told(None, 100.0) == "0.10 M parameters"


def neighbours(vectors: torch.Tensor, k: int) -> list[set[int]]:
    search = NearestNeighbors(n_neighbors=k, metric="correlation", algorithm="brute").fit(vectors.numpy())
    return [set(row) for row in search.kneighbors(return_distance=False).tolist()]


@pytest.mark.slow
def test_a_run_tells_size_speed_and_neighbours_of_both(digits_run: Path) -> None:
    opened, student = TrainedRun(digits_run), relgraph.load_student(digits_run)
    found = run_cost(opened, student, batch_size=32)
    assert (found["batch"], found["threads"], found["device"]) == (32, 1, "cpu")
    own, other = found["student"], found["teacher"]
    assert own["parameters"] == sum(p.numel() for p in student.parameters()) and own["image"] == [1, 8, 8]
    assert other["parameters"] == sum(p.numel() for p in relgraph.load_teacher("embedded:digits").parameters())
    assert own["macs"] == multiply_accumulates(student, torch.zeros(1, 1, 8, 8)) < other["macs"]
    assert list(own["forms"]) == ["torch", "compiled", "onnx", "int8"] and list(other["forms"]) == ["torch"]
    assert own["forms"]["compiled"] == {"skipped": "no compiler here"}
    for form in ("torch", "onnx", "int8"):
        assert own["forms"][form].keys() == {"bytes", "images_per_second"}
    weights = sum(values.nbytes for values in student.state_dict().values())
    sizes = {form: own["forms"][form]["bytes"] for form in ("torch", "onnx", "int8")}
    assert weights < sizes["torch"] < 1.1 * weights and sizes["int8"] < 0.4 * sizes["onnx"]

    test = opened.data.test
    vectors = student(torch.stack([student.preprocess(pixels) for pixels in some_pixels(test)]))[0].detach()
    of_teacher = opened.outputs(test)[1]
    assert of_teacher is not None and of_teacher.feature is not None
    near = found["neighbours"]
    assert (near["k"], near["split"], near["images"]) == (10, "test", len(test))
    mine = neighbours(vectors, 10)
    for name, others in (("overlap", of_teacher.embedding), ("overlap_own", of_teacher.feature)):
        shared = [len(a & b) / 10 for a, b in zip(mine, neighbours(others, 10), strict=True)]
        assert near[name] == pytest.approx(sum(shared) / len(shared), abs=2e-3)  # ties to rounding
    assert f"{100 * near['overlap']:.0f} % of its 10 nearest neighbours ({len(test)} images" in found["sentence"]


@pytest.mark.slow
def test_a_missing_package_is_told_and_the_rest_is_measured(digits_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    forms = run_cost(TrainedRun(digits_run), relgraph.load_student(digits_run))["student"]["forms"]
    assert "images_per_second" in forms["torch"]
    assert all("pip install 'relgraph[deploy]'" in forms[form]["skipped"] for form in ("onnx", "int8"))


@pytest.mark.slow
def test_without_labels_the_cost_is_all_that_evaluate_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relgraph.deploy.cost.FORMS", ("torch",))
    folder = write_folder(tmp_path / "flat", {"all": 16}, ["noise"])
    run = relgraph.train(
        dataset=f"folder:{folder}", image_size=8, batch_size=4, teacher="embedded:digits", student="resnet8", epochs=1,
        method="seed", method_args=("queue=8",), out=tmp_path / "run", device="cpu",
    )  # fmt: skip
    assert "has no labels" in refusal(run.evaluate)
    found = run.evaluate(cost=True)
    assert found.keys() == {"run", "cost"} and found["cost"]["neighbours"]["split"] == "train"
