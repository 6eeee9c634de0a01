"""How near the student's graph of a run is to its teacher's: a few numbers, kept in the run once they are known."""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from relgraph.analysis.analysis import Analysis, analyse
from relgraph.analysis.run_loading import TrainedRun
from relgraph.analysis.sources import Source
from relgraph.errors import RelgraphError
from relgraph.files import read_json, write_json
from relgraph.graph.search import chosen_k
from relgraph.networks.files import fingerprint_of
from relgraph.training.runs import RunDirectory

KEPT = 8  # questions of which a run keeps the answers


@dataclass(frozen=True)
class Asked:
    """Which graph of a run is measured: of `k` nearest neighbours, on a split or its first images, by a source.

    The split is by default "test", or "train" where there are no test images, and k 8, or as many as fewer images have.
    """

    split: str | None = None
    first: int | None = None
    k: int | None = None
    source: Source = "teacher"

    def analysis(self, run: TrainedRun) -> Analysis:
        """Return the analysis of a run.

        Raises:
            RelgraphError: as `analyse`.
        """
        split = self.split or ("test" if len(run.data.test) > 0 else "train")
        k = chosen_k(self.k, 8, len(run.images(split, self.first)))
        return analyse(run, split, k, self.first, source=self.source)


class Measured(NamedTuple):
    """The measures of a run's graphs.

    Attributes:
        epoch: Of which epoch the student is.
        split: Name of the split.
        images: Number of its images.
        source: Whose vectors the teacher's graph is of.
        figures: The measures by name: shares from 0 to 1, and correlations.
    """

    epoch: int
    split: str
    images: int
    source: Source
    figures: dict[str, float]

    @classmethod
    def of(cls, run: TrainedRun, summary: Mapping[str, Any]) -> "Measured":
        """Return those of an analysis, of its summary."""
        agreement = summary["agreement"]
        found = {name: summary.get(name) for name in ("overlap", "match", "edge_rank", "pair_rank")}
        found |= {f"homophily_{side}": summary.get(side, {}).get("homophily") for side in ("student", "teacher")}
        found |= {f"nmi_{other}": agreement.get(f"student_{other}", {}).get("nmi") for other in ("teacher", "labels")}
        known = {name: value for name, value in found.items() if value is not None and math.isfinite(value)}
        return cls(run.epoch, summary["split"], summary["images"], summary["source"], known)


def measure(path: Path, given: Mapping[str, Any] | None, asked: Asked) -> Measured:
    """Return the measures of a run, from its `graph_measures.json` where they are known.

    Raises:
        RelgraphError: if the run cannot be opened, or has too few images.
    """
    known = _kept(path).get(_key(path, asked))
    if known is not None:
        return Measured(**known)
    opened = TrainedRun(path, given)
    found = Measured.of(opened, asked.analysis(opened).summary())
    keep(path, asked, found)
    return found


def keep(path: Path, asked: Asked, found: Measured) -> None:
    """Write the measures into the run, if it can be written to."""
    kept = {**_kept(path), _key(path, asked): found._asdict()}
    with suppress(RelgraphError):
        write_json(RunDirectory(path).measures_file, {"measures": dict([*kept.items()][-KEPT:])})


def _kept(path: Path) -> dict[str, Any]:
    file = RunDirectory(path).measures_file
    with suppress(RelgraphError):
        return dict(read_json(file)["measures"]) if file.is_file() else {}
    return {}


def _key(path: Path, asked: Asked) -> str:
    """Return what the measures depend on; the data and the teacher of a run are always the same."""
    known = {**asdict(asked), "student": fingerprint_of(RunDirectory(path).student_file), "by": version("relgraph")}
    return json.dumps(known)
