"""Frozen teachers: a network that somebody trained, as a map from images to embeddings.

A teacher is spelled `SOURCE:NAME[/WEIGHTS]`; `relgraph teachers PATTERN` lists what there is:

| spelling | network | embedding |
|---|---|---|
| `open_clip:NAME/WEIGHTS` | image side of a CLIP, e.g. `ViT-B-32/openai` | `encode_image`, not normalised |
| `timm:NAME[.WEIGHTS]` | an image model of timm | pooled features before the classifier |
| `torchvision:NAME[/WEIGHTS]` | a network of torchvision | what its last linear layer reads, or a mean map |
| `checkpoint:RUN` | what relgraph trained, a student or with `relgraph pretrain`: run or file | pooled features |
| `repdistiller:NAME` | of the CIFAR benchmark, from a file of RepDistiller or mdistiller | pooled features |
| `embedded:digits` | a small self-supervised network of this package | pooled features of the backbone |
| `vectors:FILE` | none (`relgraph.networks.vectors`) | a row of the file |

With `--teacher-weights` the files of `repdistiller:` are those that were published for CIFAR-100, such as
RepDistiller's `ckpt_epoch_240.pth` of resnet32x4; `--teacher-head own` uses the classifier in them.

The first three come with the weights that their libraries download, or with those of a file. With the argument
`output=projection` the embedding of a `checkpoint:` of `relgraph pretrain` is the projector's output for the features,
and with `output=embedding` that of a student is the vector which its method compared (`relgraph.networks.plain`).

Stage maps, each `(N, channels, height, width)`, in order, which `Teacher.features` gives beside the embedding:

| teacher | stage maps |
|---|---|
| a ResNet of open_clip (`RN50`) | the stem, behind its pooling, and the four layers |
| a vision transformer of open_clip | the tokens of each block, laid out as an image and without class token |
| any other network of open_clip, which it takes from timm | as timm's |
| a network of timm that has stages: convolutional, Swin | the map of each stage, of many the stem's before them |
| a vision transformer of timm | the tokens of each block, laid out as an image and without class token |
| a convolutional network of torchvision, MaxViT | the last map of each resolution before the pooling |
| ViT and Swin of torchvision | none |
| `checkpoint:`, `repdistiller:`, `embedded:` | those of the student, whatever the output |
| a segmentation network of torchvision | those that its head reads |
| a module of a user's own | the map that it gives, if it is one; a `Backbone`'s are its own |

Class scores of positions, `(N, classes, h, w)`, are given beside them by a `checkpoint:` of a run whose pixels have
classes, by a segmentation network of torchvision, and by a module of a user's own that returns them as a map.

Of timm, torchvision and modules of a user's own other stages may be chosen, by the names of sub-modules.

Those of timm and open_clip are the output of their `forward_intermediates`. Older versions of timm, such as 1.0.3, lack
it for many networks: these then return no maps.

Self-supervised networks, and how long their embeddings are:

| method | spelling | width |
|---|---|---|
| CLIP (Radford et al. 2021, arXiv 2103.00020) | `open_clip:ViT-B-32/openai`, `ViT-B-16`, `RN101`; `RN50` | 512; 1024 |
| DINO (Caron et al. 2021, arXiv 2104.14294) | `timm:vit_small_patch16_224.dino` | 384 |
| DINOv2 (Oquab et al. 2023, arXiv 2304.07193) | `timm:vit_small_patch14_dinov2.lvd142m` | 384 |
| MAE (He et al. 2021, arXiv 2111.06377) | `timm:vit_base_patch16_224.mae` | 768 |
| MoCo (He et al. 2019, arXiv 1911.05722) | `torchvision:resnet50` with a file of the encoder alone | 2048 |

No library here publishes MoCo's weights, and its authors' file is a training checkpoint: save the query encoder's state
dict alone, under the names of a ResNet-50 (`fc` may stay), and pass that file.

Pooled features are the input of a classifier: by timm's own choice the class token of most vision transformers (also
of MAE's, which no loss has trained), and the mean over the image of a convolutional network.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from hashlib import sha256
from math import inf, isfinite
from typing import Any, Self

import torch
from torch import Tensor, nn

from relgraph.data.decoding import ImageSize, pair
from relgraph.errors import RelgraphError
from relgraph.files import first_line
from relgraph.networks.backbone import Backbone, check_kept, choose_stages
from relgraph.networks.files import check_finite
from relgraph.networks.pieces import pieces
from relgraph.networks.sources import Pretrained
from relgraph.outputs import Output

# Layers that run in half precision under autocast.
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention)
# The type in which autocast computes, by the name of Fabric's precision.
SIZE = 32  # pixels of a blank image, where a teacher has no size of its own
HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Teacher(nn.Module):
    """A frozen network, `(N, channels, H, W) -> (N, width)`: always in evaluation mode, without gradient.

    Its embeddings are float32, and so are its weights unless `hold` is called. `features` gives the stage maps of a
    `Backbone` as well.

    Attributes:
        name: its name, as it was given.
        width: length of an embedding.
        input_size: side of the square images it expects in pixels, or their height and width; None for any.
        channels: colour channels it expects.
        mean: what is subtracted from each channel, on the scale 0..1.
        std: what each channel is then divided by.
        refinement: what moves its embeddings by their neighbours, if the network is a student that was refined.
        classes: names of the classes of its scores of positions, if they are known.
    """

    def __init__(self, pretrained: Pretrained, name: str, stages: Sequence[str] = ()) -> None:
        """Freeze a network, which is not copied; its stage maps are the outputs of `stages`, parts of it, if given."""
        super().__init__()
        self.name, self.input_size = name, pretrained.input_size
        self.mean, self.std = tuple(pretrained.mean), tuple(pretrained.std)
        self.channels, self.refinement = pretrained.channels or len(self.mean), pretrained.refinement
        self.classes = pretrained.classes
        if not self.mean or not self.std:
            told = "give --teacher-mean and --teacher-std, or a module with attributes mean and std, a number a channel"
            raise RelgraphError(f"how the images of teacher {name} were prepared is not known: {told}")
        if {len(self.mean), len(self.std)} != {self.channels}:
            expected = "one value a channel" if pretrained.channels is None else f"{self.channels} values each"
            got = " and ".join(str(len(values)) for values in (self.mean, self.std))
            raise RelgraphError(f"mean and std of teacher {name} must have {expected}, got {got}")
        if not all(0 < value < inf for value in self.std):  # NaN is neither
            raise RelgraphError(f"the std of teacher {name} must be positive, got {self.std}")
        if not all(map(isfinite, self.mean)):
            raise RelgraphError(f"the mean of teacher {name} must be finite, got {self.mean}")
        self._half: torch.dtype | None = None  # in which it is held
        self._fingerprint = ""  # of the weights before that
        # Convolutions run 1.3 to 1.5 times as fast with the channels last; other layers run as before.
        self.network = pretrained.network.float().requires_grad_(False).to(memory_format=torch.channels_last)
        check_finite(self.network, f"teacher {name}")
        for module in self.network.modules():
            if isinstance(module, nn.MultiheadAttention):
                module.register_forward_pre_hook(_positions_first)
        self.train()
        self.width = self._measure_width()
        choose_stages(self.network, stages, self.channels, self.input_size or SIZE, f"teacher {name}")

    def hold(self, precision: str) -> Self:
        """Hold the weights in the precision in which autocast computes with them, and return the teacher itself.

        Autocast casts the weights of linear layers, convolutions and attention in each call; here they are cast once.
        From then on a call computes under autocast, whether it is called so or not, and gives the same values: bit for
        bit, but that torch's own attention then has a faster kernel, as near to float32. Norms and sums of residual
        paths stay as they are. (With the whole network in bfloat16, embeddings of a ViT-S with random weights differ
        from float32's by 0.9 % where autocast's differ by 0.5 %.) The fingerprint stays that of the float32 weights.

        Args:
            precision: Fabric's name: "bf16-mixed", "16-mixed"; any other changes nothing.
        """
        half = HALF.get(precision)
        if half is not None and self._half is None:
            self._fingerprint = self.fingerprint()
            self._half = half
            for module in self.network.modules():
                # A layer with a forward of its own may compute with its weight before autocast's product reads it.
                if any(type(module).forward is layer.forward for layer in LAYERS):
                    module.to(half)
        return self

    def _measure_width(self) -> int:
        image = self._blank_image()
        try:
            embedding = self(image)
            check_kept(image)
        except Exception as error:  # it differs between networks
            images = " x ".join(map(str, image.shape[1:]))
            hint = "" if self.input_size else "; --teacher-size gives others"
            told = f"teacher {self.name} does not take images of {images}: {first_line(error)}{hint}"
            raise RelgraphError(told) from error
        if embedding.ndim != 2:
            raise RelgraphError(f"teacher {self.name} must give (N, width), got {tuple(embedding.shape)}")
        return int(embedding.shape[1])

    def _blank_image(self, side: ImageSize = SIZE) -> Tensor:
        device = next((values.device for values in self.network.parameters()), None)
        return torch.zeros(1, self.channels, *pair(self.input_size or side), device=device)

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in evaluation mode: statistics of a frozen network do not move."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings `(N, width)`, float32, of prepared images `(N, channels, H, W)`."""
        return torch.cat([self.features(piece, maps=False).embedding for piece in pieces(images)])

    @torch.no_grad()
    def features(self, images: Tensor, *, maps: bool = True) -> Output:
        """Return the outputs for prepared images `(N, channels, H, W)`: embedding and feature are one, and stage maps.

        Maps, each `(N, C, h, w)` in order, are left out if they are not asked for, or the network returns none. They
        stay in the type in which the network computed them, which is autocast's where it is on. With them come its
        class scores of positions as logits, `(N, classes, h, w)` float32, if it has some.
        """
        images = images.contiguous(memory_format=torch.channels_last)
        with nullcontext() if self._half is None else torch.autocast(images.device.type, self._half):
            if maps and isinstance(self.network, Backbone):
                stages, pooled = self.network.stages(images)
                logits = self.network.logits(stages)
            else:
                stages, pooled, logits = (), self.network(images), None
        embedding = pooled.float()
        return Output(embedding, None if logits is None else logits.float(), embedding, stages)

    def map_shapes(self, side: ImageSize = 32) -> tuple[tuple[int, int, int], ...]:
        """Return the `(channels, height, width)` of each stage map of an image, in order; `()` if there are none.

        The image, of zeros, has the teacher's `input_size`, or the side, or height and width, `side` if it has none.

        >>> from relgraph import load_teacher
        >>> load_teacher("embedded:digits").map_shapes()
        ((16, 8, 8), (16, 8, 8), (32, 4, 4), (64, 2, 2))
        """
        return tuple((m.shape[1], m.shape[2], m.shape[3]) for m in self.features(self._blank_image(side)).maps)

    def score_shape(self, size: tuple[int, int]) -> tuple[int, ...] | None:
        """Return `(classes, height, width)` of its scores for an image of a height and a width; `None` without any."""
        logits = self.features(self._blank_image(size)).logits
        return None if logits is None else tuple(logits.shape[1:])

    def scores(self, classes: Sequence[str], size: Sequence[int]) -> bool:
        """Return whether it has scores of these classes: of as many, where the names of its own are not known."""
        shape, known = self.score_shape((size[0], size[1])), self.classes or tuple(classes)
        return shape is not None and shape[0] == len(classes) and known == tuple(classes)

    def fingerprint(self) -> str:
        """Return the SHA-256, in hexadecimal, of all layers' kinds and all parameters' and buffers' names and values.

        Teachers with equal weights have equal fingerprints, whatever file the weights came from; one value that differs
        gives another. Stored embeddings are matched with their teacher by it.
        """
        return self._fingerprint or fingerprint_of_network(self.network)


def fingerprint_of_network(network: nn.Module) -> str:
    """Return the fingerprint that a teacher of this network has: see `Teacher.fingerprint`."""
    digest = sha256()
    # Two activations differ in no weight.
    digest.update(" ".join(type(module).__name__ for module in network.modules()).encode())
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # Of each tensor in its logical order, since a device or version may choose another one in memory.
        values = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(values.numpy().data)
    return digest.hexdigest()


def _positions_first(attention: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Lay the positions of `batch_first` attention out first in memory, under autocast.

    The module transposes its input, and autocast multiplies what is then not contiguous position by position, with a
    copy of the weights for each: on a CPU more than half of a CLIP's time. What is computed is the same. Attention
    whose input has the type of its weights transposes nothing, on a CPU: torch has one kernel for all of it, which
    takes six times as long if positions are first.
    """
    if not attention.batch_first or getattr(attention.in_proj_bias, "dtype", None) == inputs[0].dtype:
        return None
    if not torch.is_autocast_enabled(inputs[0].device.type):
        return None
    # Query, key and value that are one tensor stay one: the module then projects them in one product.
    laid = {id(x): x.transpose(0, 1).contiguous().transpose(0, 1) for x in inputs[:3]}
    return (*(laid[id(x)] for x in inputs[:3]), *inputs[3:])
