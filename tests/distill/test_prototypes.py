"""Prototypes: how evenly they are spread, and that rotation puts them beside their own classes."""
import pytest
import torch
import torch.nn.functional as F

from timm_ltkd.distill import align_prototypes, balanced_prototypes, class_directions
from timm_ltkd.distill.prototypes import _repulsion
from timm_ltkd.errors import UserError


def cosines(prototypes):
    """Of all pairs."""
    cosine = prototypes @ prototypes.T
    return cosine[~torch.eye(len(cosine), dtype=torch.bool)]


def means_with_common_direction(classes, dim, seed=0):
    """Class means as pooled features have them: all near one long vector, tail classes hardly apart from it."""
    generator = torch.Generator().manual_seed(seed)
    common = 20. * torch.randn(dim, generator=generator, dtype=torch.float64)
    spread = torch.linspace(1., 0.1, classes, dtype=torch.float64).unsqueeze(1)
    return common + spread * torch.randn(classes, dim, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize('classes, dim', [
    (2, 1), (2, 7), (10, 9), (10, 64), (100, 99), (100, 128), (12, 5), (100, 64), (1000, 512), (300, 64)])
def test_prototypes_are_unit_vectors_and_seeded(classes, dim):
    state = torch.get_rng_state()
    first, same, other = (balanced_prototypes(classes, dim, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state), 'no global generator is drawn from'
    assert first.shape == (classes, dim) and first.dtype == torch.float64
    assert torch.allclose(first.norm(dim=1), torch.ones(classes, dtype=torch.float64), atol=1e-12)
    assert torch.equal(first, same)
    assert classes == 2 and dim == 1 or not torch.allclose(first, other, atol=1e-3)


@pytest.mark.parametrize('classes, dim', [(2, 1), (3, 2), (10, 9), (10, 64), (100, 99), (100, 640)])
def test_few_classes_are_a_simplex(classes, dim):
    cosine = cosines(balanced_prototypes(classes, dim))
    assert (cosine + 1 / (classes - 1)).abs().max() < 1e-12


@pytest.mark.parametrize('classes, dim', [(4, 2), (11, 9), (18, 9), (100, 64), (100, 50), (1000, 512)])
def test_up_to_twice_the_dimension_no_two_are_nearer_than_orthogonal(classes, dim):
    prototypes = balanced_prototypes(classes, dim)
    assert cosines(prototypes).max() < 1e-12
    assert prototypes.sum(dim=0).norm() < 1e-10, 'balanced: they sum to zero'
    nearest = (prototypes @ prototypes.T).amin(dim=1)
    assert nearest.max() < 0, 'each is opposed to some other'


@pytest.mark.parametrize('classes, dim', [(7, 3), (24, 4), (30, 10), (100, 16), (100, 32)])
def test_more_classes_are_as_good_as_the_best_of_ten_restarts(classes, dim):
    largest = [float(cosines(balanced_prototypes(classes, dim, seed=seed)).max()) for seed in range(10)]
    assert max(largest) <= 1.05 * min(largest)


@pytest.mark.parametrize('classes, dim, optimum', [(12, 3, 5 ** -0.5), (7, 3, 0.21014)])
def test_more_classes_reach_a_known_optimum(classes, dim, optimum):
    """The icosahedron, and Tammes' seven points (77.870 degrees)."""
    assert cosines(balanced_prototypes(classes, dim)).max() == pytest.approx(optimum, rel=5e-3)


@pytest.mark.slow
def test_very_many_classes():
    prototypes = balanced_prototypes(8142, 64)
    random = F.normalize(torch.randn(8142, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    assert cosines(prototypes).max() < 0.75 * cosines(random).max()


def test_repulsion_is_the_energy_it_says_in_chunks_too(monkeypatch):
    points = balanced_prototypes(9, 3).requires_grad_()
    cosine = points @ points.T
    off = cosine[~torch.eye(9, dtype=torch.bool)]
    expected = (16. * off).logsumexp(0) / 16.
    (grad,) = torch.autograd.grad(expected, points)
    for chunk in (1024, 4):
        monkeypatch.setattr('timm_ltkd.distill.prototypes._CHUNK', chunk)
        energy, by_hand = _repulsion(points.detach(), 16.)
        assert torch.allclose(energy, expected.detach(), rtol=1e-12) and torch.allclose(by_hand, grad, rtol=1e-10)


@pytest.mark.parametrize('classes, dim', [(100, 64), (10, 64), (50, 64), (100, 99)])
@pytest.mark.parametrize('seed', [0, 1])
def test_aligned_prototypes_are_nearest_to_their_own_class(classes, dim, seed):
    means = means_with_common_direction(classes, dim, seed)
    prototypes = balanced_prototypes(classes, dim, seed=seed)
    rotated = align_prototypes(prototypes, means)
    assert torch.allclose(rotated @ rotated.T, prototypes @ prototypes.T, atol=1e-12), 'mutual angles stay'
    near = rotated @ class_directions(means).T
    own = torch.arange(classes)
    assert (near.argmax(dim=0) == own).double().mean() >= 0.95 and (near.argmax(dim=1) == own).double().mean() >= 0.95


def test_without_centring_they_would_not_be():
    means = means_with_common_direction(100, 64)
    spread = F.normalize(means) @ F.normalize(means).T
    assert spread.min() > 0.99, 'uncentred, all classes lie in one direction'
    assert cosines(class_directions(means)).mean() < 0


def test_alignment_undoes_a_rotation():
    prototypes = balanced_prototypes(30, 20, seed=3)
    turn, _ = torch.linalg.qr(torch.randn(20, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    means = 5. * prototypes @ turn + 7.
    assert torch.allclose(align_prototypes(prototypes, means), prototypes @ turn, atol=1e-10)
    assert torch.allclose(align_prototypes(prototypes, means.float()), prototypes @ turn, atol=1e-5)


def test_class_directions_count_each_class_once():
    means = torch.tensor([[3., 0.], [0., 0.], [0., 3.]])
    expected = F.normalize(means.double() - torch.tensor([1., 1.], dtype=torch.float64))
    assert torch.allclose(class_directions(means), expected)
    assert torch.equal(class_directions(torch.ones(3, 2)), torch.zeros(3, 2, dtype=torch.float64)), 'no NaN'


@pytest.mark.parametrize('call, message', [
    (lambda: balanced_prototypes(1, 4), 'at least 2 classes'),
    (lambda: balanced_prototypes(4, 0), '1 dimension'),
    (lambda: align_prototypes(torch.ones(3, 2), torch.ones(2, 3)), 'one shape'),
])
def test_bad_input(call, message):
    with pytest.raises(UserError, match=message):
        call()


@pytest.mark.parametrize('classes, dim', [(4, 6), (9, 6), (14, 6)])
def test_the_default_device_changes_nothing(classes, dim):
    with torch.device('meta'):
        prototypes = balanced_prototypes(classes, dim)
    assert torch.equal(prototypes, balanced_prototypes(classes, dim))
