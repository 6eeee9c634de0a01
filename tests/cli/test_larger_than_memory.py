"""`relgraph embed`, `analyze` and `export` with embeddings that are several times what they may hold in memory."""

import json
import sys
from functools import partial
from pathlib import Path

import networkx as nx
import pytest
import torch

from relgraph.analysis.analysis import analyse
from relgraph.analysis.export import read_pair
from relgraph.analysis.neighbourhoods import some_pairs
from relgraph.data.embeddings import EmbeddingStore
from relgraph.graph.pair import STUDENT, TEACHER
from relgraph.training.building import open_data, open_teacher
from relgraph.training.distillation import train
from relgraph.training.feed import input_of
from relgraph.training.recipe import Recipe
from tests.limits import run

linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems limit other memory")
pytestmark = [pytest.mark.slow, linux]

WIDTH, LIMIT = 16_384, 31 * 2**20

# What is held of embeddings, and read of them at a time, is made small; then each command has LIMIT bytes more than
# Python, its libraries and the open run take when it asks for nodes. The first command must fail with embeddings in
# memory. Commands of few images come before, without a limit: they load the libraries. What the allocator keeps from
# one command to the next differs by some MiB; what commands leave must be less than the limit, or they hold nodes.
# Nodes so wide are slow to compare: a thousand pairs must do for the correlation over all.
LIMITED = """
import os, sys, torch
from functools import partial
from relgraph.analysis import neighbourhoods, run_loading
from relgraph.graph import search
from relgraph_cli.main import main
from tests.limits import limit_data

torch.set_num_threads(1)
more, commands = int(sys.argv[1]), [command.split() for command in sys.argv[2:]]
run_loading.IMAGES_AT_ONCE, search.READ, search.LARGEST = 32, 2**19, 0
neighbourhoods.some_pairs = partial(neighbourhoods.some_pairs, limit=1000)
for command in commands:
    main([*command, "--first", "40"], standalone_mode=False)
    os.remove(command[-1])  # which the real one writes
nodes, held = run_loading.TrainedRun.nodes, []

def limited(*given):
    held.append(limit_data(more))
    return nodes(*given)

run_loading.TrainedRun.nodes = limited
try:
    main(commands[0], standalone_mode=False)
except RuntimeError as error:
    assert "memory" in str(error), error
else:
    sys.exit("the limit is none")
run_loading.MEMORY_LIMIT = 0
for command in commands:
    limit_data(10**12)
    main(command, standalone_mode=False)
assert len(held) == 1 + len(commands) and held[-1] - held[0] < more, held
"""


# The teacher's output repeats each of its numbers many times. The limit is set when the first shard is begun, and holds
# for a store of one shard, which must fail, and for one of many.
EMBEDDED = """
import sys, torch
from functools import cache
from relgraph.training import stores
from relgraph_cli.main import main
from tests.limits import limit_data

torch.set_num_threads(1)
more, copies = map(int, sys.argv[1:])
open_teacher, write, limit_once = stores.open_teacher, stores._write, cache(limit_data)

def wide_teacher(recipe):
    teacher = open_teacher(recipe)
    teacher.width *= copies
    teacher.register_forward_hook(lambda module, images, feature: feature.repeat(1, copies))
    return teacher

def limited(*arguments):
    limit_once(more)
    return write(*arguments)

stores.open_teacher, stores._write = wide_teacher, limited
for path, per_shard in (("one", 1000), ("many", 100)):
    stores.images_per_shard = lambda images, bytes: per_shard
    try:
        main(["embed", "--batch-size", "50", "--precision", "32-true", "--out", path], standalone_mode=False)
    except Exception as error:
        assert path == "one" and "memory" in str(error).lower(), error
    else:
        assert path == "many", "the limit is none"
"""


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run with wide embeddings."""
    path = tmp_path_factory.mktemp("wide") / "run"
    train(Recipe(student="resnet8", dim=WIDTH, epochs=1, device="cpu", lr=0.01, labels_per_class=3), path)
    return path


def test_a_split_that_does_not_fit_memory(wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relgraph.analysis.neighbourhoods.some_pairs", partial(some_pairs, limit=1000))
    images = f"{wide} --split train --first 800 --k 3 --source projection"
    nodes = f"export {images} --side student --attributes community,overlap -o student.json"
    analyze = f"analyze {images} --search blocks --out found.json"
    done = run(LIMITED, LIMIT, analyze, f"export {images} -o pair.pt", nodes)
    assert done.returncode == 0, done.stderr
    expected = analyse(wide, "train", 3, first=800, source="projection")
    count = len(expected.labels)
    assert 2 * count * WIDTH * 4 > 3 * LIMIT
    found = json.loads((tmp_path / "found.json").read_text())
    summary = expected.summary()
    for name in ("overlap", "match", "pair_rank", "edge_rank", "relation_error"):
        assert found[name] == pytest.approx(summary[name], rel=1e-3), name
    assert found["images"] == count
    stored = read_pair(tmp_path / "pair.pt")
    for side, kind, graph in (("student", STUDENT, expected.student), ("teacher", TEACHER, expected.teacher)):
        assert graph is not None
        torch.testing.assert_close(stored[side].x, graph.embedding, rtol=1e-4, atol=1e-4)
        assert stored[kind].edge_index.shape == (2, 3 * count)
    student = nx.node_link_graph(json.loads((tmp_path / "student.json").read_text()), edges="edges")
    shares = [student.nodes[f"s{node}"]["overlap"] for node in range(count)]
    assert expected.comparison is not None
    assert sum(shares) / count == pytest.approx(float(expected.comparison.overlap.mean()), rel=1e-3)


def test_a_store_is_written_that_does_not_fit_memory(tmp_path: Path) -> None:
    copies, limit = 256, 27 * 2**20
    done = run(EMBEDDED, limit, copies)
    assert done.returncode == 0, done.stderr
    store = EmbeddingStore(tmp_path / "many")
    assert store.contents.bytes > 3 * limit
    recipe = Recipe(device="cpu", val_fraction=0.0, select="test")
    teacher, images = open_teacher(recipe).eval(), open_data(recipe).train
    assert torch.is_tensor(images.images)
    some = torch.arange(0, len(images), 100)
    rows = store.view()[images.index[some]].view(-1, copies, teacher.width)
    with torch.no_grad():
        expected = teacher(input_of(teacher)(images.images[some]))
    torch.testing.assert_close(rows, expected.unsqueeze(1).expand_as(rows), rtol=1e-4, atol=1e-5)
