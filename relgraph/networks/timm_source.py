"""Networks of timm up to their classifier, as students and teachers."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.files import first_line
from relgraph.networks.backbone import Backbone, Wrapped
from relgraph.networks.files import load_strictly
from relgraph.networks.sources import (
    Arguments,
    Listed,
    Preparation,
    Pretrained,
    TeacherSource,
    built_for,
    unknown_model,
)
from relgraph.networks.weights import from_hub, from_url, read_weights, tell_activation, tell_background

# What timm's `create_model` takes beside what describes the network: from where it is loaded, where to, and as what.
ELSEWHERE = ("checkpoint_path", "cache_dir", "model_name", "name", "device", "features_only")


class BeforeClassifier(Wrapped):
    """A model of timm up to its classifier, `(N, C, H, W) -> (N, width)`: timm's `forward_head(pre_logits=True)`.

    That is the classifier's input, but for a few families: the mean of class and distillation token of a distilled
    transformer, the vector before the classifier's own norm (LeViT, EfficientViT-M, RepViT).
    The stage maps are those of timm's `forward_intermediates`: the map of each stage of a convolutional network; the
    tokens of each block of a vision transformer, laid out as an image and without class token. A model for which an
    older timm has no `forward_intermediates` returns none.
    """

    model: Any

    def own_stages(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return timm's stage maps and the pooled vector."""
        if not hasattr(self.model, "forward_intermediates"):
            return (), self(images)
        features, maps = self.model.forward_intermediates(images)
        return tuple(maps), self.model.forward_head(features, pre_logits=True)

    def forward(self, images: Tensor) -> Tensor:
        """Return one pooled vector an image."""
        pooled: Tensor = self.model.forward_head(self.model.forward_features(images), pre_logits=True)
        return pooled


@dataclass(frozen=True)
class TimmSource(TeacherSource):
    """A model of timm by its name, with the tag of its weights: of a teacher where there are several, else its own."""

    name: str
    takes_arguments: ClassVar[bool] = True

    @property
    def published(self) -> bool:
        """Whether the name says published weights."""
        return "." in self.name

    def build(self, in_channels: int = 3, image_size: int | None = None) -> Backbone:
        """Return an untrained model for square images of a size, its own size if none is given.

        By a name with a tag it has the activation with which those weights were trained.

        Raises:
            RelgraphError: for an unknown name, or a size or number of channels that the model cannot read.
        """
        size, settings = self.arguments(in_channels, image_size)
        with built_for("timm", self.name.split(".")[0], timm_names(), in_channels, size):
            return BeforeClassifier(_create(self.name, **settings)).measured(in_channels, size)

    def arguments(self, in_channels: int, image_size: int | None) -> tuple[int, dict[str, Any]]:
        """Return the size of images and what `timm.create_model` takes to build the model for it, besides its name."""
        import timm.models

        # None where nobody published weights, or there is no such model.
        config: Any = _known_config(self.name) if self.published else timm.models.get_pretrained_cfg(self.name)
        size = image_size or (config.input_size[-1] if config else 224)
        # A network with learned positions is made for one size; the others do not take the argument.
        settings: dict[str, Any] = {"img_size": image_size} if image_size and _of_one_size(config) else {}
        if self.published:
            settings |= _activation(self.name, config, None)
        return size, {"in_chans": in_channels, **settings}

    def start(self, weights: Path | None, in_channels: int = 3, image_size: int | None = None) -> Backbone:
        """Return a model as `build` makes it, with the weights of its tag or of a file.

        For other channels than those of the weights, timm adapts the first convolution: it sums over the colours of a
        grey image, or repeats them.

        Raises:
            RelgraphError: as `build` and `load`, and if weights for images of another size cannot be interpolated.
        """
        config = _known_config(self.name)
        backbone = self.build(in_channels, image_size)
        arguments = {"in_chans": in_channels} if config and in_channels != config.input_size[0] else {}
        found = self.load(weights, image_size if _of_one_size(config) else None, arguments)
        return load_strictly(backbone, found.network.state_dict(), f"timm:{self.name} at {found.input_size} pixels")

    def preparation(self) -> Preparation:
        """Return mean and standard deviation of the images on which the weights were trained."""
        config = _known_config(self.name)
        if config is None:
            raise unknown_model("timm weights", self.name, [])
        return tuple(config.mean), tuple(config.std)

    def load(self, weights: Path | None, input_size: int | None, arguments: Arguments) -> Pretrained:
        """Return a model with the weights that timm publishes or those of a file.

        A file must fit the model that `arguments` describe in every key and shape, as it is or as timm itself converts
        the files of a model's authors. Without `num_classes` among them the model has no classifier, and the file's is
        passed over, whatever its size. Options that leave no trace in the keys must be given as arguments:
        TensorFlow's padding (`pad_type="same"`), another activation. The weights of OpenAI, MetaCLIP and DFN, which
        timm lists for a network with GELU and for one with QuickGELU, are loaded with QuickGELU by either name: they
        were trained with it.

        Raises:
            RelgraphError: if name, weights or arguments do not fit timm or the file.
        """
        config = _known_config(self.name)
        if weights is None and not (config and _address(config)):
            raise unknown_model("timm weights", self.name, [])
        arguments = {**_activation(self.name, config, weights), **arguments}
        with _arguments_of(f"timm:{self.name}", arguments):
            model = _create(self.name, **arguments) if weights is not None or arguments else None
        build = partial(_create, self.name, **{"pretrained": True, **arguments})
        if weights is not None:
            _load_file(model, weights, keep_classifier="num_classes" in arguments)
        elif config.hf_hub_id:
            file = "model.safetensors (or pytorch_model.bin)"
            model = from_hub(f"timm:{self.name}", config.hf_hub_id, file, build)
        else:  # timm itself searches the folder of torch's downloads
            model = from_url(f"timm:{self.name}", config.url, lambda _copy: build())
        with _arguments_of(f"timm:{self.name}", {**arguments, "input_size": input_size}):
            return _prepared(model, input_size, arguments)


def _of_one_size(config: Any) -> bool:
    return config is not None and bool(config.fixed_input_size)


def timm_names() -> list[str]:
    """Return the names of timm's models."""
    import timm

    return timm.list_models()


def list_timm() -> list[Listed]:
    """Return the weights that timm publishes."""
    import timm.models

    configs: dict[str, Any] = {name: timm.models.get_pretrained_cfg(name) for name in timm.list_models(pretrained=True)}
    return [Listed("timm", name, c.input_size[-1], None, _address(c)) for name, c in configs.items()]


def _create(name: str, **settings: Any) -> Any:
    import timm

    return timm.create_model(name, **{"pretrained": False, "num_classes": 0, **settings})


@contextmanager
def _arguments_of(spec: str, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Turn what timm raises for arguments, most of which it does not check, into one sentence.

    Raises:
        RelgraphError: for arguments that timm does not take, or that say where weights come from.
    """
    if given := [name for name in arguments if name.startswith("pretrained") or name in ELSEWHERE]:
        told = "arguments describe the network, and weights of your own are --teacher-weights FILE"
        raise RelgraphError(f"{spec} takes no argument {given[0]}: {told}")
    try:
        yield
    except Exception as error:
        shown = ", ".join(f"{name}={value}"[:100] for name, value in arguments.items() if value is not None)
        raise RelgraphError(f"{spec} does not take {shown or 'its own defaults'}: {first_line(error)}") from error


def _prepared(model: Any, input_size: int | None, arguments: Arguments) -> Pretrained:
    """Return a model, at another size of images if one is given, with the preparation that timm has for its weights."""
    from timm import data

    config: dict[str, Any] = data.resolve_model_data_config(model)  # type: ignore[attr-defined, no-untyped-call]
    channels, _, side = config["input_size"]
    size = int(arguments.get("img_size", side))
    if input_size and input_size != size and hasattr(model, "set_input_size"):
        model.set_input_size(img_size=input_size)  # interpolates the positions of a transformer
    channels = int(arguments.get("in_chans", channels))
    return Pretrained(BeforeClassifier(model), size, channels, config["mean"], config["std"])


def _known_config(name: str) -> Any:
    """Return timm's configuration of a model's weights, None if there are none."""
    import timm.models

    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        raise unknown_model("timm model", name, timm_names())
    try:
        return timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise unknown_model("timm weights", name, timm.list_models(f"{architecture}.*", pretrained=True)) from error


def _activation(name: str, config: Any, weights: Path | None) -> dict[str, str]:
    """Return the activation with which weights were trained, as an argument, where timm lists them for two of them."""
    import timm.models

    architecture, _, tag = name.partition(".")
    twin = architecture.replace("_clip_", "_clip_quickgelu_")
    if twin == architecture or "quickgelu" in architecture or not timm.is_model(twin):
        return {}
    if weights is not None and not tag:
        tell_activation(weights, f"timm:{architecture}", f"timm:{architecture}.WEIGHTS or timm:{twin}")
        return {}
    known = timm.list_models(f"{twin}.*", pretrained=True)
    return {"act_layer": "quick_gelu"} if f"{twin}.{tag or config.tag}" in known else {}


def _address(config: Any) -> str:
    return f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else str(config.url or "")


def _load_file(model: Any, path: Path, keep_classifier: bool) -> None:
    """Load a file, with timm's names: timm converts the files of a model's authors, such as DINOv2's."""
    tensors, own = read_weights(path), model.state_dict().keys()
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is not None and not own <= tensors.keys():
        with suppress(Exception):  # a file of another architecture: loading it reports the first wrong key
            tensors = dict(convert(dict(tensors), model))
    if not keep_classifier:
        named = model.pretrained_cfg.get("classifier") or ()
        heads = [f"{head}." for head in ([named] if isinstance(named, str) else named)]
        norms = [f"{head[:-1].rpartition('.')[0]}.bn." for head in heads]  # LeViT's classifiers have one of their own
        tell_background(
            path, [tensors.get(f"{head}weight") for head in heads], "--teacher-args num_classes=1001,pad_type=same"
        )
        tensors = {key: t for key, t in tensors.items() if key in own or not key.startswith((*heads, *norms))}
    _adapt_first(model, tensors)
    load_strictly(model, tensors, path)


def _adapt_first(model: Any, tensors: dict[str, Tensor]) -> None:
    """Adapt the first convolution of a file to a model that was asked for with other channels, as timm does itself."""
    from timm.models import adapt_input_conv

    config, parameters = model.pretrained_cfg, dict(model.named_parameters())
    first = config.get("first_conv") or ()
    for name in [first] if isinstance(first, str) else first:
        key, channels = f"{name}.weight", config["input_size"][0]
        own, given = parameters.get(key), tensors.get(key)
        if own is not None and given is not None and own.shape[1] != given.shape[1] == channels:
            tensors[key] = adapt_input_conv(own.shape[1], given)
