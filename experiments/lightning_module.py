"""A relgraph method in a LightningModule, with a student and a teacher of torchvision.

    pip install pytorch-lightning
    python experiments/lightning_module.py

The data are scikit-learn's digits, the teacher has random weights: take one of your own. Ten lines are relgraph's: the
method, the heads that bring both networks to one width, and the loss of a step.
"""

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18, shufflenet_v2_x0_5

import relgraph
from relgraph.networks.heads import Head

DIM, CLASSES = 64, 10


class Distilled(pl.LightningModule):
    """Cross-entropy and EGA: the student's embeddings relate as the teacher's do."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = shufflenet_v2_x0_5(), resnet18().requires_grad_(False).eval()
        width, teacher_width = self.student.fc.in_features, self.teacher.fc.in_features
        self.student.fc = self.teacher.fc = nn.Identity()
        self.head, self.teacher_head = Head(width, DIM, CLASSES), Head(teacher_width, DIM, CLASSES)
        self.method = relgraph.EGA()

    def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
        """Return the loss; the teacher's head learns from its own cross-entropy alone."""
        images, labels = batch
        embedding, logits = self.head(self.student(images))
        with torch.no_grad():
            self.teacher.eval()
            feature = self.teacher(images)
        teacher_embedding, teacher_logits = self.teacher_head(feature)
        loss: Tensor = cross_entropy(logits, labels) + cross_entropy(teacher_logits, labels)
        loss = loss + self.method(embedding, teacher_embedding)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimiser of all that learns."""
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.002, momentum=0.9)


def main() -> None:
    pl.seed_everything(0)
    images, labels = load_digits(return_X_y=True)
    x = interpolate(torch.from_numpy(images).float().view(-1, 1, 8, 8) / 16, size=(32, 32)).expand(-1, 3, -1, -1)
    loader = DataLoader(TensorDataset(x[:640], torch.from_numpy(labels)[:640]), batch_size=64, shuffle=True)
    trainer = pl.Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
                         enable_model_summary=False)  # fmt: skip
    trainer.fit(Distilled(), loader)
    print(f"loss of the last batch: {trainer.callback_metrics['loss']:.4f}")


if __name__ == "__main__":
    main()
