"""The available teachers, as the libraries list them: nothing is built or downloaded."""

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase

from relgraph.errors import RelgraphError
from relgraph.networks.open_clip_source import list_open_clip
from relgraph.networks.sources import Listed, list_embedded
from relgraph.networks.timm_source import list_timm
from relgraph.networks.torchvision_source import list_torchvision

LISTS: Mapping[str, Callable[[], list[Listed]]] = {
    "embedded": list_embedded,
    "open_clip": list_open_clip,
    "timm": list_timm,
    "torchvision": list_torchvision,
}


def known_teachers(source: str) -> list[Listed]:
    """Return the teachers of one source."""
    return LISTS[source]()


def find_teachers(pattern: str) -> list[Listed]:
    """Return the teachers whose spelling matches a pattern, whatever the case.

    Args:
        pattern: a part of the spelling, or with wildcards (`*`, `?`, `[ ]`) all of it; the source may be left out.

    Raises:
        RelgraphError: if there is none, with the nearest names.
    """
    wanted = pattern.lower()
    source = wanted.partition(":")[0]
    listed = [teacher for name in ([source] if source in LISTS else LISTS) for teacher in known_teachers(name)]
    found = [teacher for teacher in listed if _matches(teacher.spec.lower(), wanted)]
    if not found:
        raise RelgraphError(f"no teacher matches {pattern!r}{_nearest(wanted, listed)}")
    return found


def _matches(spec: str, pattern: str) -> bool:
    if re.search(r"[*?\[]", pattern):
        return fnmatchcase(spec, pattern) or fnmatchcase(spec.partition(":")[2], pattern)
    return pattern in spec


def _nearest(pattern: str, listed: list[Listed]) -> str:
    """Return a hint: whole spellings near the pattern, else architectures, else words that names are made of."""
    specs = [teacher.spec for teacher in listed]
    architectures = [re.split(r"[/.]", spec.partition(":")[2])[0] for spec in specs]
    words = [word for spec in specs for word in re.split(r"[^A-Za-z0-9]+", spec)]
    plain = re.sub(r"[*?\[\]]", "", pattern)
    for names in (specs, architectures, words):
        spelled = {name.lower(): name for name in names}
        near = get_close_matches(
            plain if names is specs else plain.partition(":")[2] or plain, spelled, n=3, cutoff=0.7
        )
        if near:
            return f": did you mean {' or '.join(spelled[name] for name in near)}?"
    return ": relgraph teachers, without a pattern, lists the sources"
