"""Teachers with random weights, for measurements: the time of a network's computation does not depend on its values."""

from typing import Any

from relgraph.errors import RelgraphError, unknown
from relgraph.networks.open_clip_source import NO_TEXT, ImageTower
from relgraph.networks.sources import Source, no_model
from relgraph.networks.teachers import Teacher
from relgraph.networks.timm_students import BeforeClassifier
from relgraph.networks.weights import silent


def untrained_teacher(spec: str) -> Teacher:
    """Return the teacher `timm:NAME` or `open_clip:NAME` with random weights; nothing is downloaded.

    Raises:
        RelgraphError: if there is no such network, or it takes no colour images.
    """
    source, _, name = spec.partition(":")
    builders = {"timm": _timm, "open_clip": _open_clip}
    if source not in builders:
        raise unknown("source of untrained teachers", source, builders)
    found = builders[source](name)
    if found.channels != 3:
        raise RelgraphError(f"an untrained teacher must take 3 channels, {spec} takes {found.channels}")
    return Teacher(
        found.network,
        name=spec,
        input_size=found.input_size,
        channels=found.channels,
        mean=found.mean,
        std=found.std,
        stages=found.stages,
    )


def _timm(name: str) -> Source:
    import timm
    from timm import data

    if name not in timm.list_models():
        raise no_model("timm model", name, timm.list_models())
    model: Any = timm.create_model(name, pretrained=False, num_classes=0)
    config: dict[str, Any] = data.resolve_model_data_config(model)  # type: ignore[attr-defined, no-untyped-call]
    channels, _, side = config["input_size"]
    network = BeforeClassifier(model)
    return Source(network, side, channels, config["mean"], config["std"], network.stages)


def _open_clip(name: str) -> Source:
    import open_clip

    if name not in open_clip.list_models():
        raise no_model("open_clip model", name, open_clip.list_models())
    with silent():  # it warns that the weights are random
        model: Any = open_clip.create_model(name, text_cfg=dict(NO_TEXT))
    config: dict[str, Any] = model.visual.preprocess_cfg
    side = config["size"] if isinstance(config["size"], int) else config["size"][-1]
    tower = ImageTower(model.visual)
    return Source(tower, side, 3, config["mean"], config["std"], tower.stages)
