"""Where teachers come from: timm, open_clip, and relgraph's own files."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from relgraph.errors import RelgraphError, unknown
from relgraph.files import first_line
from relgraph.networks.files import load_network, load_strictly
from relgraph.networks.weights import quiet_hub, read_weights

EMBEDDED = {"digits": "digits-simclr.safetensors"}

Arguments = Mapping[str, str | int | float | bool]


@dataclass(frozen=True)
class Source:
    """A network, images to embeddings, and how the images were prepared that it was trained on."""

    network: nn.Module
    input_size: int
    channels: int
    mean: Sequence[float]
    std: Sequence[float]


class BeforeClassifier(nn.Module):
    """A timm model up to its classifier, so that files with and without one load into it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the pooled features `(N, width)` of `(N, C, H, W)`."""
        embedding: Tensor = self.model.forward_head(self.model.forward_features(images), pre_logits=True)
        return embedding


def from_timm(name: str, weights: Path | None, input_size: int | None, arguments: Arguments) -> Source:
    """Build a model of timm, with the weights that timm publishes or those of a file.

    A file must fit the model that `arguments` describe in every key and shape. Without `num_classes` among them the
    model has no classifier, and the file's is passed over, whatever its size. What leaves no trace in the keys must be
    told: TensorFlow's padding (`pad_type="same"`), another activation.

    Raises:
        RelgraphError: if name, weights or arguments are not as timm or the file want them.
    """
    from timm import data

    model = _timm_model(name, weights, arguments)
    config: dict[str, Any] = data.resolve_model_data_config(model)  # type: ignore[attr-defined, no-untyped-call]
    size = int(arguments.get("img_size", config["input_size"][-1]))
    if input_size and input_size != size and hasattr(model, "set_input_size"):
        model.set_input_size(img_size=input_size)  # interpolates the positions of a transformer
    channels = int(arguments.get("in_chans", config["input_size"][0]))
    return Source(BeforeClassifier(model), size, channels, config["mean"], config["std"])


def _timm_model(name: str, weights: Path | None, arguments: Arguments) -> Any:
    import timm

    page = _timm_page(name)
    if weights is None and not page:
        raise RelgraphError(f"nobody publishes weights of timm:{name}: pass a file with --teacher-weights FILE")
    settings: dict[str, Any] = {"num_classes": 0, **arguments}
    try:
        if weights is None:
            return _fetched(f"timm:{name}", page, lambda: timm.create_model(name, pretrained=True, **settings))
        model = timm.create_model(name, pretrained=False, **settings)
    except TypeError as error:
        raise RelgraphError(f"timm:{name} does not take {dict(arguments)}: {first_line(error)}") from error
    _load_timm_file(model, weights, keep_classifier="num_classes" in arguments)
    return model


def _timm_page(name: str) -> str:
    """Return where timm's weights of a model are published, or "" if nowhere."""
    import timm
    from timm.models import get_pretrained_cfg

    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        raise _no_model("timm model", name, timm.list_models())
    try:
        config = get_pretrained_cfg(name)
    except RuntimeError as error:
        known = timm.list_models(f"{architecture}.*", pretrained=True)
        raise _no_model("timm weights", name, known) from error
    if config is None:
        return ""
    return f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else str(config.url or "")


def _load_timm_file(model: Any, path: Path, keep_classifier: bool) -> None:
    tensors = read_weights(path)
    if not keep_classifier:
        named = model.pretrained_cfg.get("classifier") or ()
        heads = tuple(f"{head}." for head in ([named] if isinstance(named, str) else named))
        tensors = {key: value for key, value in tensors.items() if not key.startswith(heads)}
    load_strictly(model, tensors, path)


class ImageTower(nn.Module):
    """The image side of a CLIP: what its `encode_image` computes."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings `(N, width)` of `(N, 3, H, W)`, not normalised."""
        embedding: Tensor | tuple[Tensor, ...] = self.visual(images)
        return embedding[0] if isinstance(embedding, tuple) else embedding  # CoCa returns its tokens as well


def from_open_clip(name: str, weights: Path | None, input_size: int | None) -> Source:
    """Build the image side of a CLIP from `ARCHITECTURE[/WEIGHTS]`; the text side is let go.

    With a file, WEIGHTS only says how they were trained (`openai`: with QuickGELU), and nothing is downloaded.

    Raises:
        RelgraphError: if a name is unknown or the weights cannot be had, read, or do not match.
    """
    architecture, _, tag = name.partition("/")
    config = _open_clip_config(architecture, tag, needed=weights is None)
    model = _open_clip_model(architecture, tag if weights is None else None, config, input_size)
    if weights is not None:
        _load_image_tower(model, weights)
    preparation: dict[str, Any] = {**model.visual.preprocess_cfg, **config}
    size = preparation["size"]
    side = size if isinstance(size, int) else size[-1]
    return Source(ImageTower(model.visual), side, 3, preparation["mean"], preparation["std"])


def _open_clip_config(architecture: str, tag: str, needed: bool) -> dict[str, Any]:
    """Return what open_clip knows of weights: where they are, their activation, mean and std."""
    import open_clip

    if architecture not in open_clip.list_models():
        raise _no_model("open_clip model", architecture, open_clip.list_models())
    if not tag and not needed:
        return {}
    tags = [known for model, known in open_clip.list_pretrained() if model == architecture]
    if tag not in tags:
        raise _no_model(f"weights of open_clip:{architecture}/WEIGHTS", tag, tags)
    config: dict[str, Any] = open_clip.get_pretrained_cfg(architecture, tag)
    # OpenAI trained with QuickGELU, which the plain architectures lack and older versions of open_clip do not list.
    return {"quick_gelu": tag == "openai", **config}


def _open_clip_model(architecture: str, tag: str | None, config: Mapping[str, Any], input_size: int | None) -> Any:
    import open_clip

    def build() -> Any:
        return open_clip.create_model(
            architecture,
            pretrained=tag,
            force_quick_gelu=bool(config.get("quick_gelu")),
            force_image_size=input_size,
        )

    hub = str(config.get("hf_hub", "")).rstrip("/")
    page = f"https://huggingface.co/{hub}" if hub else str(config.get("url", ""))
    return build() if tag is None else _fetched(f"open_clip:{architecture}/{tag}", page, build)


def _load_image_tower(model: Any, path: Path) -> None:
    prefix = "visual."
    tensors = {key.removeprefix(prefix): value for key, value in read_weights(path).items() if key.startswith(prefix)}
    if not tensors:
        raise RelgraphError(f"{path} is not of an open_clip model: expected keys that begin with 'visual.', found none")
    load_strictly(model.visual, tensors, path)


def checkpoint(path: Path) -> Source:
    """Read the backbone of a student of relgraph, from its file or the directory of its run.

    Raises:
        RelgraphError: if the file is missing, damaged or another program's.
    """
    backbone, info = load_network(path / "student.safetensors" if path.is_dir() else path)
    return Source(backbone, info["image_size"], info["in_channels"], info["mean"], info["std"])


def embedded(name: str) -> Source:
    """Read a network that comes with the package.

    Raises:
        RelgraphError: if there is none of that name.
    """
    if name not in EMBEDDED:
        raise unknown("embedded teacher", name, EMBEDDED)
    with resources.as_file(resources.files("relgraph") / "assets" / EMBEDDED[name]) as path:
        return checkpoint(path)


def _fetched(spec: str, page: str, build: Callable[[], Any]) -> Any:
    """Return what `build` builds, with one sentence for whatever goes wrong while it downloads."""
    with quiet_hub() as online:
        try:
            return build()
        except TypeError:
            raise  # wrong arguments, not a failed download
        except Exception as error:  # what a failed download raises changes with library, version and server
            reason = first_line(error) if online else "the Hugging Face Hub cannot be reached and its cache has no copy"
            raise RelgraphError(
                f"the weights of {spec} could not be loaded: {reason}; fetch the file from {page} and pass it with "
                "--teacher-weights FILE"
            ) from error


def _no_model(kind: str, name: str, known: Iterable[str]) -> RelgraphError:
    """Return the error for a name among hundreds, where listing all would bury the hint."""
    names = list(known)
    near = get_close_matches(name, names, n=3, cutoff=0.4)
    if near:
        return RelgraphError(f"unknown {kind} {name!r}: did you mean {' or '.join(near)}?")
    if not names:
        return RelgraphError(f"unknown {kind} {name!r}: none are published, pass a file with --teacher-weights FILE")
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return RelgraphError(f"unknown {kind} {name!r} (known: {', '.join(names[:8])}{more})")
