"""A student as a folder laid out as a model of the Hugging Face Hub: weights, `config.json` and a model card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin, hf_hub_download
from torch import Tensor

from relgraph.data.decoding import pair
from relgraph.deploy.comparing import compared
from relgraph.deploy.exported_program import description
from relgraph.files import new_folder
from relgraph.names import load_student
from relgraph.networks.files import save_tensors
from relgraph.networks.plain import HUB_FILE, PlainStudent

CARD = "README.md"
FIGURES = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "knn": "k-NN accuracy of the features",
    "recall@1": "recall@1 among images of unseen classes",
    "mAP": "mAP among images of unseen classes",
    "linear": "linear probe of the features",
}


class Made(NamedTuple):
    """How a student was trained, for its model card.

    Attributes:
        network: Name of the network.
        method: Name of the method.
        teacher: Name of the teacher, "none" without one.
        dataset: Name of the data set, without its path.
        result: The run's `result.json`.
        licence: Of the weights, an identifier such as `mit`; `None` where nobody stated one.
    """

    network: str
    method: str
    teacher: str
    dataset: str
    result: Mapping[str, Any]
    licence: str | None


class HubStudent(PlainStudent, ModelHubMixin):
    """A trained student that the Hub's methods read and write: `from_pretrained`, `save_pretrained`, `push_to_hub`.

    `from_pretrained` takes the `student` and `allow_code` of `relgraph.load_student` as well.

    Attributes:
        card: The text of its model card.
    """

    def __init__(self, student: PlainStudent, card: str) -> None:
        parts = student.backbone, student.head, student.projector, student.part, student.info
        super().__init__(*parts, student.align, student.index, student.stored_refinement)
        self.card = card
        self.train(student.training)

    def _save_pretrained(self, save_directory: Path) -> None:
        save_tensors(save_directory / HUB_FILE, self.tensors(), self.info)
        told = {"relgraph": "student", **description(self, False)}
        (save_directory / "config.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        (save_directory / CARD).write_text(self.card, encoding="utf-8")

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, revision: str | None, cache_dir: str | Path | None, force_download: bool,
        local_files_only: bool, token: str | bool | None, student: object = None, allow_code: bool = False,
        **_others: Any,
    ) -> Self:  # fmt: skip
        """Return the student of a folder or a repository.

        Raises:
            RelgraphError: if it holds no student of relgraph.
        """
        where: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir, "force_download": force_download}
        where |= {"local_files_only": local_files_only, "token": token}
        files = {
            name: Path(model_id) / name if Path(model_id).is_dir() else Path(hf_hub_download(model_id, name, **where))
            for name in (HUB_FILE, CARD)
        }
        found = load_student(files[HUB_FILE], student=student, allow_code=allow_code)
        return cls(found, files[CARD].read_text(encoding="utf-8") if files[CARD].is_file() else "")


def write_hub(student: PlainStudent, path: Path, made: Made, *, images: Tensor, own: object = None) -> float:
    """Write a student as a folder for the Hugging Face Hub, and return how far the folder's outputs are from it.

    `relgraph.load_student(path)` and `HubStudent.from_pretrained(path)` open it.

    Args:
        student: The student.
        path: The folder, new or empty, which is written whole or not at all.
        made: How it was trained.
        images: uint8 images of the student's size, on which both are compared.
        own: The network of one's own in it, as `load_student` takes it.

    Raises:
        RelgraphError: if something is at `path`, it cannot be written, or it gives other outputs.
    """
    info = {**student.info, "dataset": made.dataset}  # whose spelling may have a path of this machine
    named = PlainStudent(
        student.backbone, student.head, student.projector, student.part, info, student.align, student.index,
        student.stored_refinement,
    ).eval()  # fmt: skip
    with new_folder(path) as part:
        HubStudent(named, model_card(student, made)).save_pretrained(part)
        loaded = HubStudent.from_pretrained(part, student=own)
        return compared(student, loaded, images, path, "torch")


def model_card(student: PlainStudent, made: Made) -> str:
    """Return the model card: what the student is, of what it was made, its figures and how it is used."""
    images, test = made.result["images"], made.result["test"]
    test = test["best"] if "best" in test else test["last"]  # which is the student's file where none is selected
    rows = "\n".join(f"| {FIGURES.get(name, name)} | {value:.2f} % |" for name, value in test.items())
    note = made.result["note"]
    size = " x ".join(map(str, dict.fromkeys(pair(student.preprocess.image_size))))
    parameters = sum(each.numel() for each in student.parameters())
    gives = f"vectors `(N, D)` and logits of {len(student.classes)} classes" if student.classes else "vectors `(N, D)`"
    unstated = "not stated: ask who published it. Those of the teacher and of the data may apply"
    data = ModelCardData(
        license=made.licence, library_name="relgraph", pipeline_tag="image-feature-extraction",
        tags=["relgraph", "knowledge-distillation", "model_hub_mixin"],
    )  # fmt: skip
    return str(
        ModelCard(f"""---
{data.to_yaml()}
---

# {made.network}, distilled by {made.method}

A network of {parameters:,} parameters, which maps images of {size} pixels to {gives}.

- **Method**: {made.method}
- **Teacher**: {made.teacher}
- **Data**: {made.dataset}, {images["train"]:,} training images ({images["labelled"]:,} labelled)
- **Seed**: {made.result["seed"]}; one run
- **Licence**: {made.licence or unstated}

| on {images["test"]:,} test images | |
|---|---|
{rows}

{note[:1].upper()}{note[1:]}.

```python
import relgraph

student = relgraph.load_student("hf:OWNER/NAME")  # or this folder
vectors, logits = student(student.preprocess("photo.jpg")[None])
```
""")
    )
