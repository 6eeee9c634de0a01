"""Checkpoints: written whole or not at all, read without unpickling anything but tensors and plain values.

torch's files are zip archives with a CRC-32 of each part. torch does not compare it when it reads; here it is compared.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from relgraph.errors import RelgraphError
from relgraph.files import first_line, replacing, torch_load, torch_save


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint beside `path` and move it there: an interrupt or a full disk leaves the previous one.

    Of modules and optimisers it holds their `state_dict`.

    Raises:
        RelgraphError: if it cannot be written; the previous checkpoint is untouched.
    """
    plain = {name: part.state_dict() if hasattr(part, "state_dict") else part for name, part in state.items()}
    with replacing(path) as part, part.open("wb") as stream:
        torch_save(plain, stream)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint, on the CPU; the weights of what was trained are its `objective`.

    Raises:
        RelgraphError: if it is missing, damaged, not a run's, or holds anything but tensors and plain values.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"the CRC-32 of {damaged} is another one")
        content = torch_load(path)
    except FileNotFoundError as error:
        raise RelgraphError(f"there is no checkpoint {path}") from error
    except zipfile.BadZipFile as error:
        raise RelgraphError(f"cannot read the checkpoint {path}: it is damaged ({first_line(error)[:200]})") from error
    except Exception as error:  # a damaged archive makes zipfile and zlib raise nearly anything
        raise RelgraphError(f"cannot read the checkpoint {path}: {first_line(error)[:200]}") from error
    if not isinstance(content, dict) or not isinstance(content.get("objective"), dict):
        older = isinstance(content, dict) and "distiller" in content
        what = "is of a version of relgraph whose runs this one cannot read" if older else "is not a run's checkpoint"
        raise RelgraphError(f"{path} {what}: train it again")
    return content


def random_state() -> dict[str, Any]:
    """Return the state of torch's generators, on the CPU and on this process's CUDA device if there is one."""
    return {"cpu": torch.get_rng_state(), "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []}


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put torch's generators back into a state that `random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and state["cuda"]:
        torch.cuda.set_rng_state(state["cuda"][0])
