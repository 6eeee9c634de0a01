"""FitNets: hints of the teacher's maps (Romero et al., ICLR 2015, arXiv 1412.6550)."""

from torch import nn

from relgraph.errors import RelgraphError
from relgraph.graph.criteria import mean_square
from relgraph.graph.kernels import at_least_float32
from relgraph.graph.pair import check_nodes
from relgraph.methods.base import Batch, Output, Part, Shape, Terms, nodes_of, option
from relgraph.methods.stages import StageMethod, check_maps, check_stages, norm, same_size, through


class FitNet(StageMethod):
    """Match the teacher's values of a stage map, or of the vectors, by a regressor on the student's side.

        L = mean over all numbers of (r(s) - t)^2

    With the shapes of the maps, s and t are stage maps `(N, C, H, W)` and r is a regressor, trained with the student: a
    3x3 convolution of stride 2 if the student's map is twice as large as the teacher's, a transposed 4x4 convolution of
    stride 2 if it is half as large, else one without padding of as many positions as it must lose, 1 + H_s - H_t; then
    batch norm and ReLU. Without shapes, or with `nodes="embedding"` or "feature", s and t are vectors of one width
    `(N, D)` and r(s) = s. Called with outputs, or with vectors where it reads these; returns a scalar >= 0, which is
    infinite where a number differs by 2e19 or more. The teacher receives no gradient.

    Paper, official code and this one: in the paper the hint alone trains the lower part of the student, in a stage
    before the distillation of logits; the benchmark code (RepDistiller) has this single stage, on stage 2, with the
    weight 100, as here. The code of EGA compares the embeddings, with the weight 1 and no regressor (`--nodes
    embedding`, which then has that weight). Where the teacher's map is larger than the student's, and not twice as
    large, the code raises an error; here the teacher's is averaged over space to the student's size, and r is a 1x1
    convolution.

    Paper: FitNets: Hints for Thin Deep Nets (Romero et al., ICLR 2015, arXiv 1412.6550)
    Differs: two stages of training in the paper, one in the benchmark code and here; EGA's code compares
        embeddings, with the weight 1
    Criterion: mean square

    Args:
        student_maps: Shapes (C, H, W) of the student's maps, the stem's first.
        teacher_maps: Those of the teacher.
        stage: Which of them is compared; 0 is the stem's.
        nodes: "map" (the stage's, through the regressor), "embedding" or "feature"; by default the map if there are
            shapes, else the embedding.

    Raises:
        RelgraphError: for unknown names, shapes of one network alone or too few of them for the stage, none for the
            nodes "map", maps of other shapes or of different images, or vectors of two widths.

    >>> import torch
    >>> FitNet()(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 5.0]]))
    tensor(4.5000)
    """

    weight = 100.0
    pointwise = True

    needs_shapes = False
    least = 0  # `stage` determines the number, and vectors need none
    stage: int = option(default=2, least=0)
    nodes: Part | None = option(default=None)

    def __post_init__(self) -> None:
        """Build the regressor, if maps are compared."""
        super().__post_init__()
        student, teacher = self.student_maps, self.teacher_maps
        if (student is None) != (teacher is None):
            one = "teacher" if student is None else "student"
            raise RelgraphError(f"FitNet needs the shapes of both networks' maps or of neither, got the {one}'s alone")
        if self.nodes is None:
            self.nodes = "embedding" if student is None else "map"
        if self.nodes != "map":
            self.weight, self.reads = 1.0, (self.nodes,)
            return
        if student is None or teacher is None:
            expected = "expected the shapes of both networks' maps"
            raise RelgraphError(f"FitNet compares maps by a regressor: {expected}, got none")
        check_stages("FitNet", student, teacher, self.stage + 1)
        self.shapes = student[self.stage], teacher[self.stage]
        self.regressor = regressor(*self.shapes)

    def compare(self, student: Output, teacher: Output, batch: Batch | None) -> Terms:
        """Return `fitnet`."""
        if self.nodes is not None and self.nodes != "map":
            s, t = (nodes_of(output, self.nodes, "FitNet") for output in (student, teacher))
            check_nodes(s, t, one_width=True)
            return {"fitnet": mean_square(at_least_float32(s), at_least_float32(t))}
        check_stages("FitNet", student.maps, teacher.maps, self.stage + 1)
        s, t = student.maps[self.stage], teacher.maps[self.stage]
        check_maps(s, t)
        found = tuple(s.shape[1:]), tuple(t.shape[1:])
        if found != self.shapes:
            expected = f"{self.shapes[0]} and {self.shapes[1]}"
            raise RelgraphError(f"FitNet was built for stage maps {expected}, got {found[0]} and {found[1]}")
        return {"fitnet": mean_square(*same_size(through(self.regressor, s)[0], t))}


def regressor(student: Shape, teacher: Shape) -> nn.Sequential:
    """Return the layers that map the student's map to the teacher's channels and size, or to its own size, if smaller.

    >>> [str(regressor((4, side, side), (8, 8, 8))[0].kernel_size) for side in (16, 4, 8, 10, 6)]
    ['(3, 3)', '(4, 4)', '(1, 1)', '(3, 3)', '(1, 1)']
    """
    (inputs, *size), (outputs, *target) = student, teacher
    layer: nn.Conv2d | nn.ConvTranspose2d
    if size == [2 * side for side in target]:
        layer = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
    elif target == [2 * side for side in size]:
        layer = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False)
    else:
        height, width = (1 + max(0, s - t) for s, t in zip(size, target, strict=True))
        layer = nn.Conv2d(inputs, outputs, (height, width), bias=False)
    return nn.Sequential(layer, norm(outputs), nn.ReLU())
