"""What TensorBoard's own readers find: epochs and steps in groups, hyper-parameters, vectors for the projector."""

from pathlib import Path

import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data  # type: ignore[import-untyped]
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig  # type: ignore[import-untyped]
from tensorboard.plugins.projector.projector_plugin import _read_tensor_tsv_file  # type: ignore[import-untyped]

from relgraph.data.images import ImageSet
from relgraph.training.board import Board, write_projector


def test_tensorboard_reads_what_is_written_and_hides_what_is_trained_again(tmp_path: Path) -> None:
    options = {"method": "ega", "lr": 0.1, "k": None, "seed": 3, "milestones": [4, 5]}
    first = Board(tmp_path, options, 0, -1)
    for epoch in (1, 2, 3):
        measured = [{"epoch": epoch, "step": 20 * (epoch - 1) + step} for step in (0, 9)]
        row = {"epoch": epoch, "loss": 0.5 * epoch, "val_top1": 3.0}
        first.write(row, [{**found, "batch_match": 1.0} for found in measured])
    again = Board(tmp_path, options, 2, 29)  # stopped after the checkpoint of the second epoch
    again.write({"epoch": 3, "loss": 7.0, "val_knn": 90.0}, [{"epoch": 3, "step": 40, "batch_overlap": 0.25}])
    epochs, steps = (EventAccumulator(str(place)).Reload() for place in (tmp_path, tmp_path / "steps"))
    assert sorted(epochs.Tags()["scalars"]) == ["loss/loss", "val/knn", "val/top1"], "the epoch is the step"
    assert [(event.step, event.value) for event in epochs.Scalars("loss/loss")] == [(1, 0.5), (2, 1.0), (3, 7.0)]
    assert [event.step for event in steps.Scalars("batch/match")] == [0, 9, 20, 29]
    assert [(event.step, event.value) for event in steps.Scalars("batch/overlap")] == [(40, 0.25)]
    start = epochs.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    told = parse_session_start_info_plugin_data(start).hparams
    assert {name: value.string_value or value.number_value for name, value in told.items()} == {
        "method": "ega", "lr": 0.1, "seed": 3, "milestones": "[4, 5]",
    }  # fmt: skip


def test_the_projector_reads_the_vectors_of_both_networks(tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    images = ImageSet(pixels, torch.tensor([0, 1, -1, 1, 0]), ("a\tb", "c"), "val", torch.arange(5) + 7)
    vectors = {"student": torch.randn(5, 4), "teacher": torch.randn(5, 6)}
    write_projector(tmp_path / "board", vectors, images)
    from google.protobuf import text_format  # type: ignore[import-untyped]

    config = text_format.Parse((tmp_path / "board" / "projector_config.pbtxt").read_text(), ProjectorConfig())
    assert [one.tensor_name for one in config.embeddings] == ["student", "teacher"]
    for one in config.embeddings:
        found = torch.from_numpy(_read_tensor_tsv_file(str(tmp_path / "board" / one.tensor_path)))
        torch.testing.assert_close(found, vectors[one.tensor_name], rtol=1e-4, atol=1e-6)
        header, *rows = (tmp_path / "board" / one.metadata_path).read_text().splitlines()
        assert header == "class\timage" and rows == ["a b\t7", "c\t8", "no label\t9", "c\t10", "a b\t11"]
        picture = Image.open(tmp_path / "board" / one.sprite.image_path)
        assert [*one.sprite.single_image_dim] == [8, 8] and picture.size == (24, 16), "3 columns, 2 rows"
        assert picture.getpixel((8, 8)) == tuple(pixels[4, :, 0, 0].tolist())
