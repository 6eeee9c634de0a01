"""Weights that others trained: read from a file, or fetched from the Hugging Face Hub or another server."""

import logging
import os
import ssl
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from relgraph.errors import RelgraphError
from relgraph.files import first_line, torch_load, unreadable
from relgraph.printing import tell

# Long enough for a slow line to answer, short enough to wait for where there is none.
HUB_TIMEOUT_SECONDS = 5.0

T = TypeVar("T")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weights file by name: `.safetensors`, or what `torch.load(weights_only=True)` accepts.

    A training checkpoint is opened at its `state_dict` or `model`, and the prefix `module.` of data-parallel training
    is dropped.

    Raises:
        RelgraphError: if the file is missing, truncated, holds no tensors by name, or holds objects that only unsafe
            loading would read.
    """
    if not path.is_file():
        raise RelgraphError(f"there is no weights file {path}")
    content: Any
    try:
        content = load_file(path) if path.suffix == ".safetensors" else torch_load(path)
    except ValueError as error:
        remedy = ""
        if "Python objects" in str(error):
            remedy = ", not loaded for safety; save its state_dict alone"
        if "TorchScript" in str(error):
            remedy = "; if you trust it, torch.save its torch.jit.load(FILE).state_dict()"
        raise RelgraphError(f"{path} cannot be read as weights: {error}{remedy}") from error
    except Exception as error:  # of a damaged safetensors file
        raise RelgraphError(f"{path} cannot be read as weights: {unreadable(error)}") from error
    if isinstance(content, Mapping):
        nested = (content[key] for key in ("state_dict", "model") if isinstance(content.get(key), Mapping))
        content = next(nested, content)
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if tensors:
            consume_prefix_in_state_dict_if_present(tensors, "module.")
            return tensors
    raise RelgraphError(f"{path} holds no weights: expected tensors by name, found {type(content).__name__}")


def from_hub(spec: str, repository: str, file: str, get: Callable[[], T]) -> T:
    """Return the result of `get`, which reads the Hub's local cache, and the Hub only if it is reachable.

    Without a network `huggingface_hub` retries each file five times, almost a minute in all, logging each of them.

    Args:
        spec: the name of the network, for the error.
        repository: `owner/name` on the Hub.
        file: what to download by hand, for the error.
        get: requests the weights from the Hub.

    Raises:
        RelgraphError: if it cannot be had, with what to download and where to put it.
    """
    from huggingface_hub import constants

    folder, what = repository.replace("/", "--"), f"{file} from https://huggingface.co/{repository}"
    place = f"copy the folder models--{folder} of another machine's Hub cache to {constants.HF_HUB_CACHE}"
    offline = constants.HF_HUB_OFFLINE
    online = not offline and _answers(constants.ENDPOINT)
    constants.HF_HUB_OFFLINE = not online
    with silent(), tensors_alone(), _fetched(spec, what, place):
        try:
            return get()
        except FileNotFoundError as error:
            if online:
                raise
            raise ConnectionError("the Hugging Face Hub cannot be reached and its cache has no copy") from error
        finally:
            constants.HF_HUB_OFFLINE = offline


def from_url(spec: str, url: str, get: Callable[[Path], T]) -> T:
    """Return the result of `get` for the path where torch keeps a download, `<torch.hub.get_dir()>/checkpoints/NAME`.

    Where no file is there, `get` downloads it.

    Raises:
        RelgraphError: if it cannot be had, with what to download and where to put it.
    """
    copy = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    with tensors_alone(), _fetched(spec, url, f"put it at {copy} (torch.hub.get_dir()/checkpoints)"):
        if not copy.is_file() and not _answers(url):
            raise ConnectionError(f"{urlparse(url).netloc or url} cannot be reached and torch's cache has no copy")
        return get(copy)


@contextmanager
def converting(path: Path) -> Iterator[None]:
    """Turn what a library raises for tensors of other shapes than those of its own files into one error message."""
    try:
        yield
    except Exception as error:
        told = f"its tensors cannot be converted ({first_line(error)[:200]})"
        raise RelgraphError(f"{path} is of another architecture: {told}") from error


def tell_activation(path: Path, spec: str, others: str) -> None:
    """Say that a file does not tell which of two activations its network was trained with."""
    told = f"{path} does not tell whether it was trained with QuickGELU, as OpenAI's, MetaCLIP's and DFN's CLIP were"
    tell(f"{told}: {spec} computes GELU, give {others} if it was", stream=sys.stderr)


def tell_background(path: Path, classifiers: Iterable[Tensor | None], remedy: str) -> None:
    """Say where a file has a class more than ImageNet: TensorFlow's background, whose networks pad otherwise."""
    if any(layer is not None and layer.shape[:1] == (1001,) for layer in classifiers):
        told = f"{path} has 1001 classes, as TensorFlow's networks have, which pad images otherwise"
        tell(f"{told}: if it is one of them, give {remedy}", stream=sys.stderr)


@contextmanager
def _fetched(spec: str, what: str, place: str) -> Iterator[None]:
    """Turn the exception of a failed download, which depends on library, version and server, into one error message."""
    try:
        yield
    except RelgraphError:
        raise  # a file that is there and damaged: not a failed download
    except Exception as error:
        reason = unreadable(error) if "weights_only" in str(error) else first_line(error)
        raise RelgraphError(
            f"the weights of {spec} could not be loaded: {reason}; download {what} and pass it with "
            f"--teacher-weights FILE (a student: --student-weights), or {place}"
        ) from error


@contextmanager
def tensors_alone() -> Iterator[None]:
    """Within it, torch unpickles nothing but tensors and plain values, whatever a library asks for."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def silent() -> Iterator[None]:
    """Within it, libraries log nothing but what is worse than an error."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def _answers(address: str) -> bool:
    """Return whether a server can be reached at all; any answer counts."""
    try:
        urlopen(Request(address, method="HEAD"), timeout=HUB_TIMEOUT_SECONDS).close()
    except HTTPError as error:
        error.close()
    except URLError as error:
        # The Hub's client may be configured to trust a certificate that Python does not trust.
        return isinstance(error.reason, ssl.SSLError)
    except (OSError, ValueError):
        return False
    return True
