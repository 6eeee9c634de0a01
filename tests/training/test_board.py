"""TensorBoard's files: each figure of an epoch and of a measured step once, also after a stop."""

from pathlib import Path

from relgraph.training.board import Board
from relgraph.training.pretrain_recipe import resolve_pretraining
from relgraph.training.runs import Run


def test_what_was_not_kept_is_told_again_and_stands_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    run = Run.create(tmp_path / "run", resolve_pretraining({"epochs": 3}))
    for first, words in (1, "lost"), (2, "kept"):  # the second epoch was told, and no checkpoint holds it
        board = Board(run, epochs=first - 1, measured=2 * (first - 1))
        for epoch in range(first, 4 if words == "kept" else 3):
            value = epoch + (0.5 if words == "lost" else 0)
            steps = [{"epoch": epoch, "step": step, "overlap": value + step / 8} for step in (0, 3)]
            board.write({"epoch": epoch, "loss": value} | ({"val_knn": value} if epoch == 2 else {}), steps)
        if words == "kept":
            board.close()
    folder = run.path / "tensorboard"
    epochs, of_steps = (EventAccumulator(str(path)).Reload() for path in (folder, folder / "steps"))
    assert [(event.step, event.value) for event in epochs.Scalars("loss")] == [(1, 1.5), (2, 2.0), (3, 3.0)]
    assert [(event.step, event.value) for event in epochs.Scalars("val_knn")] == [(2, 2.0)]
    assert set(epochs.Tags()["scalars"]) == {"loss", "val_knn"}
    assert [(event.step, event.value) for event in of_steps.Scalars("overlap")] == [
        (1, 1.5), (2, 1.875), (3, 2.0), (4, 2.375), (5, 3.0), (6, 3.375),
    ]  # fmt: skip
    assert [event.value for event in of_steps.Scalars("step")] == [0, 3, 0, 3, 0, 3]
