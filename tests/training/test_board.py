from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from relgraph.training.board import Board


def test_tensorboard_reads_what_is_written_and_hides_what_is_trained_again(tmp_path: Path) -> None:
    first = Board(tmp_path, 0, 0)
    for epoch in (1, 2, 3):
        first.write({"epoch": epoch, "loss": 0.5 * epoch}, [{"epoch": epoch, "step": step} for step in (0, 9)])
    again = Board(tmp_path, 2, 4)  # stopped after the checkpoint of the second epoch
    again.write({"epoch": 3, "loss": 7.0, "val_knn": 90.0}, [{"epoch": 3, "step": 0, "overlap": 0.25}])
    epochs, steps = (EventAccumulator(str(place)).Reload() for place in (tmp_path, tmp_path / "steps"))
    assert sorted(epochs.Tags()["scalars"]) == ["loss", "val_knn"], "the epoch is the step"
    assert [(event.step, event.value) for event in epochs.Scalars("loss")] == [(1, 0.5), (2, 1.0), (3, 7.0)]
    assert [(event.step, event.value) for event in steps.Scalars("step")] == [(1, 0), (2, 9), (3, 0), (4, 9), (5, 0)]
    assert [(event.step, event.value) for event in steps.Scalars("overlap")] == [(5, 0.25)]


def test_a_file_that_is_lost_midway(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board = Board(tmp_path / "board", 0, 0)
    board.write({"epoch": 1, "loss": 1.0}, [])
    (tmp_path / "board" / "steps").rename(tmp_path / "away")
    (tmp_path / "board" / "steps").touch()
    for epoch in (2, 3):
        board.write({"epoch": epoch, "loss": 1.0}, [])
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 1 and told[0].startswith(f"cannot write {tmp_path / 'board'}: ")
