"""The published methods, one file each.

A method is a module that compares the outputs of student and teacher for a batch, and needs no trainer of ours. Most
read one vector an image, of any width on either side:

>>> import torch
>>> from relgraph.methods import PKT
>>> student, teacher = torch.nn.Linear(8, 4), torch.nn.Linear(8, 32)  # your networks, up to their classifiers
>>> classifier, criterion = torch.nn.Linear(4, 10), PKT()
>>> parameters = [*student.parameters(), *classifier.parameters(), *criterion.parameters()]
>>> optimiser = torch.optim.SGD(parameters, lr=0.05)
>>> for images, labels in [(torch.randn(16, 8), torch.randint(10, (16,)))]:
...     feature = student(images)
...     loss = torch.nn.functional.cross_entropy(classifier(feature), labels)
...     loss = loss + criterion.weight * criterion(feature, teacher(images))  # the teacher receives no gradient
...     optimiser.zero_grad()
...     loss.backward()
...     optimiser.step()

Those that read logits, stage maps or labels take an `Output` of each network and a `Batch`.
"""

from relgraph.methods.ab import AB as AB
from relgraph.methods.anchor import Anchor as Anchor
from relgraph.methods.at import AT as AT
from relgraph.methods.base import Batch as Batch
from relgraph.methods.base import Method as Method
from relgraph.methods.base import Output as Output
from relgraph.methods.base import RunFacts as RunFacts
from relgraph.methods.base import Views as Views
from relgraph.methods.base import option as option
from relgraph.methods.cc import CC as CC
from relgraph.methods.ccl import CCL as CCL
from relgraph.methods.cirkd import CIRKD as CIRKD
from relgraph.methods.cka import CKA as CKA
from relgraph.methods.crd import CRD as CRD
from relgraph.methods.csd import CSD as CSD
from relgraph.methods.cwd import CWD as CWD
from relgraph.methods.d3still import D3still as D3still
from relgraph.methods.darkrank import DarkRank as DarkRank
from relgraph.methods.dist import DIST as DIST
from relgraph.methods.dkd import DKD as DKD
from relgraph.methods.ega import EGA as EGA
from relgraph.methods.ega import ega_loss as ega_loss
from relgraph.methods.fitnet import FitNet as FitNet
from relgraph.methods.fsp import FSP as FSP
from relgraph.methods.ft import FT as FT
from relgraph.methods.gram import Gram as Gram
from relgraph.methods.holistic import Holistic as Holistic
from relgraph.methods.infonce import InfoNCE as InfoNCE
from relgraph.methods.irg import IRG as IRG
from relgraph.methods.kd import KD as KD
from relgraph.methods.lightly import Lightly as Lightly
from relgraph.methods.mlld import MLLD as MLLD
from relgraph.methods.moco import MoCo as MoCo
from relgraph.methods.nce import NCE as NCE
from relgraph.methods.nst import NST as NST
from relgraph.methods.ntxent import NTXent as NTXent
from relgraph.methods.pairwise import Pairwise as Pairwise
from relgraph.methods.pixelwise import Pixelwise as Pixelwise
from relgraph.methods.pkt import PKT as PKT
from relgraph.methods.raml import RAML as RAML
from relgraph.methods.rkd import RKD as RKD
from relgraph.methods.rop import ROP as ROP
from relgraph.methods.rrd import RRD as RRD
from relgraph.methods.seed import SEED as SEED
from relgraph.methods.skd import SKD as SKD
from relgraph.methods.sp import SP as SP
from relgraph.methods.sskd import SSKD as SSKD
from relgraph.methods.sum import Sum as Sum
from relgraph.methods.vid import VID as VID

# EGA and the relational family; positions of images; those that relate the student to the teacher's own vectors;
# contrast and self-supervision, logits and hints, the yardsticks that read maps.
_RELATIONAL: tuple[type[Method], ...] = (EGA, SP, CC, RKD, IRG, PKT, DarkRank, NCE, CCL, CKA)
_DENSE: tuple[type[Method], ...] = (Pixelwise, Pairwise, Holistic, SKD, CWD, Gram, CIRKD)
_ASYMMETRIC: tuple[type[Method], ...] = (CSD, ROP, D3still, RAML)
_OTHERS: tuple[type[Method], ...] = (
    CRD, SEED, RRD, Lightly, MoCo, InfoNCE, NTXent, Anchor, SSKD, KD, DKD, DIST, MLLD, FitNet, AT, VID, NST, FSP, AB,
    FT,
)  # fmt: skip
METHODS = {cls.__name__.lower(): cls for cls in _RELATIONAL + _ASYMMETRIC + _DENSE + _OTHERS}

__all__ = [
    "AB", "AT", "CC", "CCL", "CIRKD", "CKA", "CRD", "CSD", "CWD", "DIST", "DKD", "EGA", "FSP", "FT", "IRG", "KD",
    "METHODS", "MLLD", "NCE", "NST", "PKT", "RAML", "RKD", "ROP", "RRD", "SEED", "SKD", "SP", "SSKD", "VID",
    "Anchor", "Batch", "D3still", "DarkRank", "FitNet", "Gram", "Holistic", "InfoNCE", "Lightly", "Method", "MoCo",
    "NTXent", "Output", "Pairwise", "Pixelwise", "RunFacts", "Sum", "Views", "ega_loss", "option",
]  # fmt: skip
