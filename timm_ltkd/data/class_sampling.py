"""How often each class is shown in an epoch: as often as it has images, or more evenly."""
from collections.abc import Sequence

import numpy as np
import torch

from ..errors import UserError, nearest
from .seeded import derive_seed

CLASS_SAMPLINGS = ('instance', 'class', 'sqrt', 'progressive')


def class_shares(
        class_counts: Sequence[int] | np.ndarray | torch.Tensor,
        sampling: str,
        *,
        epoch: int = 0,
        epochs: int | None = None,
) -> torch.Tensor:
    """Probability of each class to be drawn.

    Source: Kang et al. 2020, arXiv 1910.09217, eq. 1 and 2: n_c^q / Σ_j n_j^q with q = 1 (`instance`), 0 (`class`) or
    1/2 (`sqrt`); `progressive` goes linearly from `instance` in the first epoch to `class` in the last.

    Args:
        class_counts: Images of each class, [C]; a class without one is never drawn.
        sampling: One of `CLASS_SAMPLINGS`.
        epoch: From 0; only `progressive` looks at it.
        epochs: How many there will be, for `progressive`; a later epoch is as the last.

    Returns:
        float64 [C], sum 1.

    Raises:
        UserError: An unknown sampling, no image at all, an epoch that does not exist, `progressive` without `epochs`.
    """
    if sampling not in CLASS_SAMPLINGS:
        raise UserError(f"unknown class sampling '{sampling}'{nearest(sampling, CLASS_SAMPLINGS)}")
    if epoch < 0 or epochs is not None and epochs < 1:
        raise UserError(f'class sampling needs an epoch from 0 on and at least one in all, got {epoch} of {epochs}')
    counts = torch.as_tensor(class_counts).to(torch.float64)
    if not counts.any():
        raise UserError('class sampling needs at least one image')
    power = {'class': 0., 'sqrt': 0.5}.get(sampling, 1.)
    shares = _normalized(torch.where(counts > 0, counts ** power, 0.))
    if sampling == 'progressive':
        if epochs is None:
            raise UserError('progressive class sampling needs epochs, how many there will be')
        balance = min(epoch / max(epochs - 1, 1), 1.)
        shares = (1 - balance) * shares + balance * _normalized((counts > 0).double())
    return shares


def epoch_order(
        targets: Sequence[int] | np.ndarray | torch.Tensor,
        sampling: str,
        epoch: int,
        *,
        seed: int,
        epochs: int | None = None,
) -> torch.Tensor:
    """The images of an epoch in the order in which they are shown, a function of its arguments alone.

    An epoch is as long as the data set. Class c gets the whole numbers next to N times its share, rounded at random so
    that the mean over epochs is exact (systematic sampling). Its images are drawn without replacement until all have
    been, and then anew: in an epoch the images of a class differ by at most one in how often they are shown.

    Args:
        targets: Class of each image, [N].
        sampling: One of `CLASS_SAMPLINGS`; `instance` shows each image once.
        epoch: From 0.
        seed: Any integer.
        epochs: How many there will be, for `progressive`.

    Returns:
        Positions in the data set, int64 [N].

    Raises:
        UserError: As `class_shares`.
    """
    targets = torch.as_tensor(targets, dtype=torch.int64)
    generator = torch.Generator().manual_seed(derive_seed(seed, epoch))
    order = torch.randperm(len(targets), generator=generator)
    counts = torch.bincount(targets)
    shares = class_shares(counts, sampling, epoch=epoch, epochs=epochs)
    if sampling == 'instance':
        return order
    draws = _round_at_random(shares * len(targets), generator).tolist()
    members = targets.argsort(stable=True).split(counts.tolist())
    drawn = [_draw(images, number, generator) for images, number in zip(members, draws, strict=True) if number]
    return torch.cat(drawn)[order]


def _normalized(weights: torch.Tensor) -> torch.Tensor:
    return weights / weights.sum()


def _round_at_random(values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each value rounded down or up, with the right mean, int64 [C]; the sum, a whole number, is kept."""
    ends = values.cumsum(0)
    ends[-1] = ends[-1].round()
    start = torch.rand(1, generator=generator, dtype=torch.float64)
    return torch.cat([start, ends + start]).floor().long().diff()


def _draw(images: torch.Tensor, number: int, generator: torch.Generator) -> torch.Tensor:
    """`number` of the images: permutation after permutation of them all, as far as it goes."""
    rounds = -(-number // len(images))
    keys = torch.rand(rounds, len(images), generator=generator, dtype=torch.float64)
    return images[keys.argsort(dim=1, stable=True)].flatten()[:number]
