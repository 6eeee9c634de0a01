import pytest
import scipy.linalg  # type: ignore[import-untyped]
import torch
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn.functional import normalize

from relgraph.graph.alignment import DirectionRotation, Moments, VectorTransform, procrustes, rotation
from tests.checks import assert_refused_like, case
from tests.methods.golden import embeddings

# The residual |S W - T|^2 / (B Dt) of embeddings of a closed form, and the norm of its gradient (METHODS2, 17).
GOLDEN = {
    (8, 16, False): (0.06535109735452388, 0.04519094812380983),
    (8, 16, True): (0.062308106903760194, 0.04412627721372499),
    (12, 10, False): (0.20221558543756366, 0.06490627624955093),
    (12, 10, True): (0.19807167566606387, 0.06423778653109384),
}


def vectors(rows: int, student: int, teacher: int, mean: float = 3.0) -> tuple[Tensor, Tensor]:
    """Return random vectors of two networks in float64, with a mean and directions of unlike variance."""
    s = torch.randn(rows, student, dtype=torch.float64) * torch.linspace(0.1, 2, student, dtype=torch.float64)
    t = torch.randn(rows, teacher, dtype=torch.float64) + s.mean(1, keepdim=True)
    return s + mean, t - 2 * mean


def test_golden_value_and_gradient() -> None:
    for (rows, width, centred), (value, length) in GOLDEN.items():
        with case(rows, width, centred):
            student, teacher = embeddings(rows, width)[0].requires_grad_(), embeddings(rows, 16)[1]
            loss = (procrustes(student, teacher, centred=centred)(student) - teacher).square().mean()
            (gradient,) = torch.autograd.grad(loss, student)
            assert loss.item() == pytest.approx(value, rel=1e-10)
            # Of the last, singular values fall to 1e-13 of the largest: changes of 1e-17 move its gradient by 1e-9.
            rel = 1e-8 if (rows, centred) == (12, True) else 1e-10
            assert gradient.norm().item() == pytest.approx(length, rel=rel)


def test_a_rotation_of_one_width_is_scipys() -> None:
    student, teacher = vectors(40, 7, 7)
    s, t = student - student.mean(0), teacher - teacher.mean(0)
    for centred, a, b in ((False, student, teacher), (True, s, t)):
        expected, scale = scipy.linalg.orthogonal_procrustes(a.numpy(), b.numpy())
        found = procrustes(student, teacher, centred=centred)
        torch.testing.assert_close(found.weight, torch.from_numpy(expected).T)
        scaled = procrustes(student, teacher, centred=centred, scaled=True)
        torch.testing.assert_close(scaled.weight, found.weight * (scale / a.square().sum()))
        bias = teacher.mean(0) - found.weight @ student.mean(0) if centred else torch.zeros(7, dtype=torch.float64)
        torch.testing.assert_close(found.bias, bias)
        assert not any(each.requires_grad for each in found.parameters())


def test_rows_or_columns_are_orthonormal_and_no_other_such_map_is_nearer() -> None:
    for widths in ((5, 9), (9, 5)):
        with case(widths):
            student, teacher = vectors(50, *widths)
            found = procrustes(student, teacher)
            w, small = found.weight.T, min(widths)
            gram = w @ w.T if widths[0] <= widths[1] else w.T @ w
            torch.testing.assert_close(gram, torch.eye(small, dtype=torch.float64))
            s, t = student - student.mean(0), teacher - teacher.mean(0)
            along = (s @ w * t).sum()  # which is what the rotation makes largest; |S W|^2 is constant where Ds <= Dt
            for _ in range(20):
                other = torch.linalg.svd(torch.randn(widths, dtype=torch.float64), full_matrices=False)
                assert (s @ (other.U @ other.Vh) * t).sum() < along


def test_a_turned_copy_is_found_and_blocks_give_what_one_gives() -> None:
    student, _ = vectors(60, 6, 6, mean=1e4)  # a sum of raw squares would lose 8 digits to this mean
    turn = torch.linalg.qr(torch.randn(9, 6, dtype=torch.float64)).Q.T
    teacher = 0.3 * (student - student.mean(0)) @ turn - 1e3
    moments = Moments(6, 9)
    for rows in (slice(0, 1), slice(1, 1), slice(1, 23), slice(23, 60)):
        moments.add(student[rows], teacher[rows])
    found = rotation(moments, scaled=True, dtype=torch.float64)
    torch.testing.assert_close(found(student), teacher, rtol=1e-10, atol=1e-8)
    torch.testing.assert_close(found.weight, procrustes(student, teacher, scaled=True).weight, rtol=1e-9, atol=1e-12)


def test_degenerate_vectors_are_defined_or_refused() -> None:
    few, teacher = vectors(4, 9, 12)  # fewer images than dimensions: W is not unique, S W is
    order = torch.randperm(4)
    one, other = (procrustes(few[rows], teacher[rows])(few) for rows in (slice(None), order))
    torch.testing.assert_close(one, other)
    constant = few.clone()
    constant[:, 3] = 5.0
    for s, t in ((constant, teacher), (torch.ones(5, 3), torch.ones(5, 3)), (torch.zeros(5, 3), torch.randn(5, 3))):
        for scaled in (False, True):
            assert bool(procrustes(s, t, scaled=scaled)(s).isfinite().all())
    assert bool(procrustes(few[:1], teacher[:1], centred=False)(few).isfinite().all())
    assert procrustes(few.float(), teacher.float()).weight.dtype == torch.float32
    assert_refused_like(
        (lambda: procrustes(few[:1], teacher[:1]), "at least 2 vectors to fit a map to, got 1$"),
        (lambda: procrustes(few, teacher[:3]), r"of the same images, got \(4, 9\) and \(3, 12\)$"),
        (lambda: procrustes(few / 0, teacher), "finite numbers, got NaN or infinity$"),
        (lambda: Moments(9, 12).add(few, few), r"expected vectors \(N, 9\) and \(N, 12\), got \(4, 9\) and \(4, 9\)$"),
    )


def test_principal_directions_are_scikit_learns_up_to_sign() -> None:
    given, _ = vectors(80, 7, 7)
    found, x = VectorTransform.fit(torch.split(given, 9), pca=4, normalise=False), normalize(given)
    expected = PCA(4, svd_solver="full").fit(x.numpy())
    directions = torch.from_numpy(expected.components_)
    assert found.components is not None and found.width == 7 and found.dimensions == 4
    sign = (directions * found.components).sum(1).sign()
    torch.testing.assert_close(found.components, directions * sign[:, None])
    torch.testing.assert_close(found.mean, torch.from_numpy(expected.mean_))
    for rows in (x, given * torch.logspace(-3, 3, 80, dtype=given.dtype)[:, None]):  # the direction alone counts
        torch.testing.assert_close(found(rows), torch.from_numpy(expected.transform(x.numpy())) * sign)


def test_a_transform_centres_then_normalises_and_travels_as_tensors() -> None:
    given, _ = vectors(20, 5, 5)
    x = normalize(given)
    torch.testing.assert_close(VectorTransform.fit(given)(given), normalize(x - x.mean(0)))
    torch.testing.assert_close(VectorTransform.fit(given, centre=False)(given), x)
    torch.testing.assert_close(VectorTransform.fit(x, centre=False, normalise=False)(x), x)
    uncentred = VectorTransform.fit(x, pca=5, centre=False, normalise=False)  # all directions: a rotation about 0
    torch.testing.assert_close(uncentred(x) @ uncentred(x).T, x @ x.T)
    for made in (VectorTransform.fit(x, pca=2), VectorTransform.fit(x.float(), normalise=False)):
        again = VectorTransform.like(made.state_dict(), made.plain())
        assert torch.equal(again(x.to(made.mean)), made(x.to(made.mean))) and again.normalise == made.normalise
    about = VectorTransform(normalize(given[0], dim=0))
    assert not about(given[:1]).any()  # the mean has no direction: 0, not NaN


def test_vectors_of_another_type_are_transformed_in_that_of_the_index() -> None:
    """A table may be float16, where the square of a length of 300 is infinite, and that of 0 divided by is NaN."""
    given = 300 * torch.randn(40, 6)
    given[5] = 0
    for pca in (None, 4):
        index = VectorTransform.fit(given, pca=pca)
        for dtype in (torch.float16, torch.bfloat16, torch.float64):
            with case(pca, dtype):
                rows = given.to(dtype)
                assert torch.equal(index(rows), index(rows.float()))
                fitted = VectorTransform.fit(rows, pca=pca)(given).float()
                torch.testing.assert_close(fitted, VectorTransform.fit(rows.float(), pca=pca)(given))


def test_turned_directions_are_directions_of_which_a_transform_takes_the_mean() -> None:
    student, teacher = vectors(20, 5, 5)
    turn = rotation(moments := Moments(5, 5).add(normalize(student), normalize(teacher + 1)), scaled=True)
    mean = moments.means[1]
    found = DirectionRotation.like({**turn.double().state_dict(), "mean": mean})
    plain, turned = turn(normalize(student)), found(7 * student)
    torch.testing.assert_close(turned.norm(dim=1), torch.ones_like(turned[:, 0]))
    for index in (VectorTransform(mean), VectorTransform(mean, torch.eye(5).double()[:3])):
        about = (plain - mean) if index.components is None else (plain - mean) @ index.components.T
        torch.testing.assert_close(index(turned), normalize(about))
        torch.testing.assert_close(index(turned / 3), index(turned))  # other programs bring them to length 1
    still = DirectionRotation.like({"weight": torch.zeros(2, 3), "bias": mean[:2].float(), "mean": mean[:2].float()})
    x = torch.randn(4, 3, requires_grad=True)
    torch.testing.assert_close(still(x), mean[:2].float().expand(4, 2))
    still(x).sum().backward()
    assert x.grad is not None and bool(x.grad.isfinite().all())


def test_a_transform_that_cannot_be_fitted_is_refused() -> None:
    x, _ = vectors(4, 6, 6)
    assert bool(VectorTransform.fit(x, pca=3)(x).isfinite().all())
    assert_refused_like(
        (lambda: VectorTransform.fit(x, pca=4), "pca must keep 1 to 3 directions, in which the vectors vary, got 4$"),
        (lambda: VectorTransform.fit(x, pca=0), "pca must keep 1 to 3 directions"),
        (lambda: VectorTransform.fit(x[:1]), "at least 2 vectors to fit a map to, got 1$"),
        (lambda: VectorTransform.fit([]), "expected vectors to fit a transform to, got none$"),
        (lambda: VectorTransform.fit(x)(torch.zeros(2, 3)), "the index holds vectors of width 6, got 3$"),
        (lambda: VectorTransform.like({"mean": x}, {}), r"expected the transform of an index.*\(4, 6\)"),
    )
