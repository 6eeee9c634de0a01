"""Teachers of timm."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from relgraph.errors import RelgraphError
from relgraph.files import first_line
from relgraph.networks.files import load_strictly
from relgraph.networks.sources import Arguments, Listed, Source, no_model
from relgraph.networks.timm_students import BeforeClassifier
from relgraph.networks.weights import from_hub, from_url, read_weights


def from_timm(name: str, weights: Path | None, input_size: int | None, arguments: Arguments) -> Source:
    """Build a model of timm, with the weights that timm publishes or those of a file.

    A file must fit the model that `arguments` describe in every key and shape, as it is or as timm itself converts the
    files of a model's authors. Without `num_classes` among them the model has no classifier, and the file's is passed
    over, whatever its size. Options that leave no trace in the keys must be given as arguments: TensorFlow's padding
    (`pad_type="same"`), another activation.

    Raises:
        RelgraphError: if name, weights or arguments do not fit timm or the file.
    """
    from timm import data

    model = _timm_model(name, weights, arguments)
    config: dict[str, Any] = data.resolve_model_data_config(model)  # type: ignore[attr-defined, no-untyped-call]
    size = int(arguments.get("img_size", config["input_size"][-1]))
    if input_size and input_size != size and hasattr(model, "set_input_size"):
        model.set_input_size(img_size=input_size)  # interpolates the positions of a transformer
    channels = int(arguments.get("in_chans", config["input_size"][0]))
    network = BeforeClassifier(model)
    return Source(network, size, channels, config["mean"], config["std"], network.stages)


def list_timm() -> list[Listed]:
    """Return the weights that timm publishes."""
    import timm
    from timm.models import get_pretrained_cfg

    names = timm.list_models(pretrained=True)
    configs = [(name, get_pretrained_cfg(name)) for name in names]
    return [
        Listed(f"timm:{name}", int(config.input_size[-1]), None, _address(config)) for name, config in configs if config
    ]


def _timm_model(name: str, weights: Path | None, arguments: Arguments) -> Any:
    import timm

    config = _timm_config(name)
    if weights is None and not (config and _address(config)):
        raise RelgraphError(f"nobody publishes weights of timm:{name}: pass a file with --teacher-weights FILE")
    settings: dict[str, Any] = {"num_classes": 0, **arguments}
    try:
        if weights is None:
            return _published(name, config, settings)
        model = timm.create_model(name, pretrained=False, **settings)
    except TypeError as error:
        raise RelgraphError(f"timm:{name} does not take {dict(arguments)}: {first_line(error)}") from error
    _load_timm_file(model, weights, keep_classifier="num_classes" in arguments)
    return model


def _timm_config(name: str) -> Any:
    """Return timm's configuration of a model's weights, None if there are none."""
    import timm
    from timm.models import get_pretrained_cfg

    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        raise no_model("timm model", name, timm.list_models())
    try:
        return get_pretrained_cfg(name)
    except RuntimeError as error:
        known = timm.list_models(f"{architecture}.*", pretrained=True)
        raise no_model("timm weights", name, known) from error


def _address(config: Any) -> str:
    return f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else str(config.url or "")


def _published(name: str, config: Any, settings: Mapping[str, Any]) -> Any:
    """Return a model with the weights that timm downloads, or finds where it keeps them."""
    import timm

    def build() -> Any:
        return timm.create_model(name, pretrained=True, **settings)

    if config.hf_hub_id:
        return from_hub(f"timm:{name}", config.hf_hub_id, "model.safetensors (or pytorch_model.bin)", build)
    return from_url(f"timm:{name}", config.url, lambda copy: build())  # timm itself searches that folder


def _load_timm_file(model: Any, path: Path, keep_classifier: bool) -> None:
    tensors = _converted(model, read_weights(path))
    if not keep_classifier:
        named = model.pretrained_cfg.get("classifier") or ()
        names = [named] if isinstance(named, str) else named
        heads = tuple(f"{head}." for head in names)
        norms = tuple(f"{head.rpartition('.')[0]}.bn." for head in names)  # LeViT's classifiers have one of their own
        own = model.state_dict().keys()
        tensors = {
            key: value
            for key, value in tensors.items()
            if not key.startswith(heads) and (key in own or not key.startswith(norms))
        }
    load_strictly(model, tensors, path)


def _converted(model: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights with timm's names: timm converts the files of a model's authors, such as DINOv2's."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None or model.state_dict().keys() <= tensors.keys():
        return tensors
    try:
        return dict(convert(dict(tensors), model))
    except Exception:  # a file of another architecture: loading it reports the first wrong key
        return tensors
