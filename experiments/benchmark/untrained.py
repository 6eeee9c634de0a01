"""Teachers with random weights, for measurements: nothing is downloaded, and speed does not depend on the weights."""

from relgraph.errors import RelgraphError, unknown
from relgraph.networks.open_clip_source import NO_TEXT, ImageTower
from relgraph.networks.sources import Pretrained, unknown_model
from relgraph.networks.teachers import Teacher
from relgraph.networks.timm_source import BeforeClassifier
from relgraph.networks.weights import silent


def untrained_teacher(spec: str) -> Teacher:
    """Return the teacher `timm:NAME` or `open_clip:NAME` with random weights.

    Raises:
        RelgraphError: if there is no such network, or it takes no colour images.
    """
    source, _, name = spec.partition(":")
    if source not in LIBRARIES:
        raise unknown("source of untrained teachers", source, LIBRARIES)
    found = LIBRARIES[source](name)
    if found.channels != 3:
        raise RelgraphError(f"an untrained teacher must take 3 channels, {spec} takes {found.channels}")
    return Teacher(found, spec)


def _of_timm(name: str) -> Pretrained:
    import timm

    if name not in timm.list_models():
        raise unknown_model("timm model", name, timm.list_models())
    model = timm.create_model(name, num_classes=0)
    config = timm.data.resolve_model_data_config(model)
    channels, _, size = config["input_size"]
    return Pretrained(BeforeClassifier(model), size, channels, config["mean"], config["std"])


def _of_open_clip(name: str) -> Pretrained:
    import open_clip

    if name not in open_clip.list_models():
        raise unknown_model("open_clip model", name, open_clip.list_models())
    with silent():  # it warns that the weights are random
        visual = open_clip.create_model(name, text_cfg=dict(NO_TEXT)).visual
    config = visual.preprocess_cfg
    size = config["size"] if isinstance(config["size"], int) else config["size"][-1]
    return Pretrained(ImageTower(visual), size, 3, config["mean"], config["std"])


LIBRARIES = {"timm": _of_timm, "open_clip": _of_open_clip}
