"""Files are written whole or not at all."""

from pathlib import Path

import pytest

from relgraph.errors import RelgraphError
from relgraph.files import new_folder, replacing, write_atomically


def test_writing_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"one", b"another, longer", b""):
        write_atomically(path, data)
        assert path.read_bytes() == data
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
def test_an_interrupted_write_leaves_the_old_file(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(call, full)
    with pytest.raises(RelgraphError) as told:
        write_atomically(path, b"new")
    assert str(told.value) == f"cannot write {path}: No space left on device, what it held before is untouched"
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as part:
        part.write_bytes(b"ne")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with pytest.raises(KeyboardInterrupt), new_folder(path) as part:
        (part / "file").write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    path.mkdir()  # an empty one is taken
    with new_folder(path) as part:
        (part / "file").write_text("whole")
        assert list(path.iterdir()) == []
    assert (path / "file").read_text() == "whole" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(RelgraphError, match="exists already: expected a new or an empty folder"), new_folder(path):
        pass
    with pytest.raises(RelgraphError, match=r"cannot write .*: No such file"), new_folder(tmp_path / "none" / "folder"):
        pass
    assert (path / "file").read_text() == "whole"
