"""Outputs of a network: their tensors, alone and for extra views that pass through it with the images."""

from copy import deepcopy

import pytest
import torch

from relgraph.names import build_backbone
from relgraph.networks.heads import Student
from relgraph.outputs import Output, bare, of_views

N, V = 4, 2


def assert_equal(found: Output, expected: Output) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_a_function_of_each_tensor() -> None:
    part = Output(torch.ones(2, 3, requires_grad=True), maps=(torch.ones(2, 1, 4, 4), torch.ones(2, 1, 2, 2)))
    whole = part._replace(logits=torch.ones(2, 5), extra=part._replace(feature=torch.ones(2, 7)))
    double = whole.each(lambda x: 2 * x)
    assert double.feature is None and double.extra is not None and double.extra.logits is None
    assert double.extra.extra is None and len(double.maps) == len(double.extra.maps) == 2
    tensors = (double.embedding, double.logits, *double.maps, double.extra.embedding, double.extra.feature)
    assert all(x is not None and bool((x == 2).all()) for x in tensors)
    assert double.embedding.requires_grad and not whole.detach().embedding.requires_grad
    inner = whole.detach().extra
    assert inner is not None and not inner.embedding.requires_grad


def test_a_bare_vector_is_embedding_and_feature() -> None:
    vectors = torch.randn(3, 2)
    found = bare(vectors)
    assert found.embedding is found.feature is vectors
    assert (found.logits, found.maps, found.extra) == (None, (), None)


@pytest.mark.parametrize(("side", "passes"), [(None, 1), (8, 1), (4, 2)])
def test_extra_views_of_one_size_share_a_batch_with_the_images(side: int | None, passes: int) -> None:
    """They then share the statistics of batch norm; smaller patches have their own."""
    network = Student(build_backbone("resnet8", 1), 6, 3).double()
    images, copy = torch.randn(N, 1, 8, 8).double(), deepcopy(network)
    extra = None if side is None else torch.randn(V * N, 1, side, side).double()
    found = of_views(network, images, extra)
    seen = {int(x) for name, x in network.named_buffers() if name.endswith("num_batches_tracked")}
    assert seen == {passes}
    if extra is None:
        assert_equal(found, copy(images))
        return
    if side == 4:
        first, rest = copy(images), copy(extra)
    else:
        both: Output = copy(torch.cat([images, extra]))
        first, rest = both.each(lambda x: x[:N]), both.each(lambda x: x[N:])
        assert not torch.allclose(first.embedding, deepcopy(copy)(images).embedding), "else nothing would be shared"
    assert len(found.maps) == 4 and found.extra is not None and found.extra.maps == ()
    assert_equal(found._replace(extra=None), first)
    assert_equal(found.extra, rest._replace(maps=()))
