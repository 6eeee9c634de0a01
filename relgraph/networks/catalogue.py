"""The available students and teachers, as the libraries list them: nothing is built or downloaded."""

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase

from relgraph.errors import RelgraphError
from relgraph.networks.checkpoint_source import list_embedded
from relgraph.networks.open_clip_source import list_open_clip
from relgraph.networks.published_source import list_published
from relgraph.networks.segmentation_source import list_segmentation, segmentation_names
from relgraph.networks.sources import Listed
from relgraph.networks.students import ALIASES, STUDENTS
from relgraph.networks.timm_source import list_timm, timm_names
from relgraph.networks.torchvision_source import list_torchvision, torchvision_names

LISTS: Mapping[str, Callable[[], list[Listed]]] = {
    "embedded": list_embedded,
    "open_clip": list_open_clip,
    "repdistiller": list_published,
    "timm": list_timm,
    "torchvision": lambda: [*list_torchvision(), *list_segmentation()],
}
# Of students, those of the benchmark have no library.
NAMES: Mapping[str, Callable[[], list[str]]] = {
    "timm": timm_names, "torchvision": lambda: [*torchvision_names(), *segmentation_names()]
}  # fmt: skip


def student_names(pattern: str = "*") -> list[str]:
    """Return the names of students that match a pattern, whatever the case.

    Args:
        pattern: A part of the name, or with wildcards (`*`, `?`, `[ ]`) all of it. One that begins with `timm:` or
            `torchvision:` is of the library's models.

    Raises:
        RelgraphError: if there is none.

    >>> student_names("wrn*2")
    ['wrn_16_2', 'wrn_40_2']
    """
    wanted = ALIASES.get(pattern, pattern).lower()
    library, colon, _ = wanted.partition(":")
    names = [f"{library}:{name}" for name in NAMES[library]()] if colon and library in NAMES else list(STUDENTS)
    found = [name for name in names if _matches(wanted, name)]
    if not found:
        raise RelgraphError(f"no student matches {pattern!r}: `relgraph students` lists them all")
    return found


def find_teachers(pattern: str) -> list[Listed]:
    """Return the teachers whose spelling matches a pattern, whatever the case.

    Args:
        pattern: a part of the spelling, or with wildcards (`*`, `?`, `[ ]`) all of it; the source may be left out.

    Raises:
        RelgraphError: if there is none, with the nearest names.
    """
    wanted = pattern.lower()
    sources = [source for source in LISTS if wanted.startswith(source)] or LISTS  # one alone is asked faster
    listed = [teacher for source in sources for teacher in LISTS[source]()]
    found = [teacher for teacher in listed if _matches(wanted, teacher.spec, teacher.name)]
    if not found:
        raise RelgraphError(f"no teacher matches {pattern!r}{_nearest(wanted, listed)}")
    return found


def _matches(pattern: str, *names: str) -> bool:
    complete = pattern if re.search(r"[*?\[]", pattern) else f"*{pattern}*"
    return any(fnmatchcase(name.lower(), complete) for name in names)


def _nearest(pattern: str, listed: list[Listed]) -> str:
    """Return a hint: whole spellings near the pattern, else architectures, else words that names are made of."""
    plain = re.sub(r"[*?\[\]]", "", pattern)
    without_source = re.sub("^[^:]*:(?=.)", "", plain)
    specs = [teacher.spec for teacher in listed]
    architectures = [re.split(r"[/.]", teacher.name)[0] for teacher in listed]
    words = re.findall(r"[A-Za-z0-9]+", " ".join(specs))
    for wanted, names in ((plain, specs), (without_source, architectures), (without_source, words)):
        spelled = {name.lower(): name for name in names}
        if near := get_close_matches(wanted, spelled, cutoff=0.7):
            return f": did you mean {' or '.join(spelled[name] for name in near)}?"
    return ": relgraph teachers, without a pattern, lists the sources"
