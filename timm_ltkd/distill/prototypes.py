"""Class directions that no class count can bias: evenly spread, then turned to where a teacher puts the classes."""
import torch
import torch.nn.functional as F

from ..errors import UserError

_SHARPNESS = (16., 64., 256., 1024.)  # the energy goes from a mean repulsion to that of the closest pair
_WORK = 4e9  # multiplications at one sharpness; larger sets get fewer steps
_CHUNK = 1024  # rows of the cosine matrix that are in memory at once


def balanced_prototypes(num_classes: int, dim: int, seed: int = 0) -> torch.Tensor:
    """Unit vectors that are as far from each other as they can be, in a random orientation.

    With C classes in d dimensions: for C <= d + 1 a simplex equiangular tight frame, all cosines -1 / (C - 1)
    (Papyan et al. 2020, arXiv 2008.08186); for C <= 2d simplices in subspaces orthogonal to each other, as equal in
    size as can be, largest cosine 0, which is the optimum (Rankin 1955); beyond that the minimiser of a log-sum-exp
    repulsion energy (our choice).

    Args:
        num_classes: C, at least 2.
        dim: d.
        seed: Of the orientation, and of where the minimiser starts.

    Returns:
        float64 `[C, d]` on the CPU; the same for the same seed.

    Raises:
        UserError: Fewer than two classes, or no dimension.
    """
    if num_classes < 2 or dim < 1:
        raise UserError(f'prototypes need at least 2 classes and 1 dimension, got {num_classes} and {dim}')
    with torch.device('cpu'):  # whatever the default is
        return _spread(num_classes, dim, torch.Generator().manual_seed(seed))


def _spread(num_classes: int, dim: int, generator: torch.Generator) -> torch.Tensor:
    if num_classes > 2 * dim:
        start = torch.randn(num_classes, dim, generator=generator, dtype=torch.float64)
        return _minimise_repulsion(F.normalize(start))
    parts = max(num_classes - dim, 1)
    sizes = [num_classes // parts + (i < num_classes % parts) for i in range(parts)]
    simplices = torch.block_diag(*(_simplex(size) for size in sizes))
    simplices = simplices[torch.randperm(num_classes, generator=generator)]  # neighbours in the list are no relatives
    frame, _ = torch.linalg.qr(torch.randn(dim, simplices.shape[1], generator=generator, dtype=torch.float64))
    return F.normalize(simplices @ frame.T)


def class_directions(class_means: torch.Tensor) -> torch.Tensor:
    """Where each class lies from the centre of all: means `[C, d]` minus their mean, of unit length; float64.

    Each class counts once in the centre, however many images it has.
    """
    class_means = class_means.double()
    return F.normalize(class_means - class_means.mean(dim=0))


def align_prototypes(prototypes: torch.Tensor, class_means: torch.Tensor) -> torch.Tensor:
    """The prototypes, rotated (or reflected) as near to the `class_directions` as their mutual angles allow.

    Orthogonal Procrustes (Schönemann 1966), solved in the span of the prototypes.

    Args:
        prototypes: Unit vectors `[C, d]`.
        class_means: `[C, d]`.

    Returns:
        float64 `[C, d]`, with the same mutual angles.

    Raises:
        UserError: Different shapes.
    """
    if prototypes.shape != class_means.shape:
        raise UserError(
            f'prototypes {list(prototypes.shape)} and class means {list(class_means.shape)} must be of one shape')
    _, coordinates = torch.linalg.qr(prototypes.double().T)  # prototypes = coordinates.T @ (an orthonormal frame)
    left, _, right = torch.linalg.svd(coordinates @ class_directions(class_means), full_matrices=False)
    return coordinates.T @ (left @ right)


def _simplex(size: int) -> torch.Tensor:
    """The corners `[n, n - 1]` of a regular simplex around 0, of unit length (Helmert's contrasts)."""
    index = torch.arange(1, size, dtype=torch.float64)
    contrasts = torch.ones(size, size - 1, dtype=torch.float64).triu()
    contrasts[1:].diagonal().copy_(-index)
    return F.normalize(contrasts / (index * (index + 1)).sqrt())


def _minimise_repulsion(points: torch.Tensor) -> torch.Tensor:
    """Move unit vectors `[C, d]` apart by L-BFGS, at one sharpness after the other."""
    num, dim = points.shape
    steps = min(max(int(_WORK / (num * num * dim)), 5), 50)
    for sharpness in _SHARPNESS:
        free = points.clone()  # of any length; only the direction counts
        optimizer = torch.optim.LBFGS(
            [free], max_iter=steps, history_size=10, tolerance_grad=1e-12, tolerance_change=1e-12,
            line_search_fn='strong_wolfe')

        def closure(free=free, sharpness=sharpness):
            length = free.norm(dim=1, keepdim=True)
            unit = free / length
            energy, grad = _repulsion(unit, sharpness)
            free.grad = num * (grad - (grad * unit).sum(dim=1, keepdim=True) * unit) / length
            return num * energy

        optimizer.step(closure)
        points = F.normalize(free)
    return points


def _repulsion(points: torch.Tensor, sharpness: float) -> tuple[torch.Tensor, torch.Tensor]:
    """log(sum of exp(s · cosine) over all pairs) / s of unit vectors `[C, d]`, and its gradient `[C, d]`."""
    row_energy, row_grad = torch.empty_like(points[:, :1]), torch.empty_like(points)
    for start in range(0, len(points), _CHUNK):
        rows = slice(start, start + _CHUNK)
        cosine = points[rows] @ points.T
        cosine.diagonal(start).fill_(-torch.inf)  # no point repels itself
        top = cosine.amax(dim=1, keepdim=True)
        weight = cosine.sub_(top).mul_(sharpness).exp_()
        total = weight.sum(dim=1, keepdim=True)
        row_energy[rows] = sharpness * top + total.log()
        row_grad[rows] = weight @ points / total
    energy = row_energy.logsumexp(dim=0)
    return energy.squeeze() / sharpness, 2 * (row_energy - energy).exp() * row_grad
