"""Class counts, and everything long-tailed that derives from them."""
from collections.abc import Sequence

import torch

from .errors import UserError, last_line


class ClassPrior:
    """Images per class of a training set; made once and handed to losses, samplers, metrics and reports.

    Everything is kept and returned in float64, so that a class with one image in a million is not rounded away;
    who computes in a lower precision casts at the end.

    Args:
        counts: Training images of each class, `[C]`, whole numbers of at least 1.
        class_names: Names for messages; the class index is used without them.
        many: A class with more images is many-shot.
        few: A class with fewer images is few-shot.

    Attributes:
        counts: The counts as a float64 tensor `[C]`.
        many, few: The boundaries that `shot_groups`, and with it every figure and report, goes by.

    Raises:
        UserError: No class, a count that is not a whole number, a class without an image (it is named), more or fewer
            names than classes, or boundaries the wrong way round.
    """

    def __init__(
            self,
            counts: Sequence[int] | torch.Tensor,
            class_names: Sequence[str] | None = None,
            *,
            many: int = 100,
            few: int = 20,
    ):
        try:
            counts = torch.as_tensor(counts, dtype=torch.float64, device='cpu').detach()
        except (TypeError, ValueError, RuntimeError) as e:
            raise UserError(f'class counts must be a list, a number a class: {last_line(e)}') from e
        if counts.ndim != 1 or not counts.numel():
            raise UserError(f'class counts must be a non-empty list, a number a class; got shape {list(counts.shape)}')
        if not torch.isfinite(counts).all() or (counts != counts.round()).any() or (counts < 0).any():
            raise UserError('class counts must be whole numbers of images, 1 or more')
        if class_names is not None and len(class_names) != len(counts):
            raise UserError(f'{len(counts)} class counts and {len(class_names)} class names: give a name for each')
        if (counts == 0).any():
            index = int((counts == 0).nonzero()[0])
            name = f" ('{class_names[index]}')" if class_names is not None else ''
            raise UserError(f'class {index}{name} has no training image; remove the class or give it images')
        _check_boundaries(many, few)
        self.counts = counts
        self.many, self.few = many, few

    @property
    def num_classes(self) -> int:
        return self.counts.numel()

    @property
    def num_samples(self) -> int:
        return int(self.counts.sum())

    @property
    def imbalance_factor(self) -> float:
        """Images of the largest class over images of the smallest."""
        return float(self.counts.max() / self.counts.min())

    def log_prior(self) -> torch.Tensor:
        """log(n_c / n), float64 `[C]`."""
        return self.counts.log() - self.counts.sum().log()

    def effective_number_weights(self, beta: float = 0.9999) -> torch.Tensor:
        """(1 - beta) / (1 - beta^n_c), scaled to mean 1, float64 `[C]`.

        Source: Cui et al. 2019, arXiv 1901.05555, eq. 2. beta = 0 weighs all classes alike; as beta goes to 1 the
        weights go to those of the inverse frequency.

        Raises:
            UserError: beta outside [0, 1).
        """
        if not 0. <= beta < 1.:
            raise UserError(f'beta must be in [0, 1), got {beta}')
        log_beta = torch.tensor(beta, dtype=torch.float64, device='cpu').log()
        weights = (1. - beta) / -torch.expm1(self.counts * log_beta)  # 1 - beta^n without cancellation
        return weights / weights.mean()

    def inverse_frequency_weights(self, power: float = 1.) -> torch.Tensor:
        """n_c^-power, scaled to mean 1, float64 `[C]`; power 0.5 is the softer square-root weighting."""
        weights = self.counts ** -power
        return weights / weights.mean()

    def shot_groups(self, many: int | None = None, few: int | None = None) -> dict[str, torch.Tensor]:
        """Which classes are many-shot (> many images), few-shot (< few) and medium-shot (the rest).

        Source: Liu et al. 2019, arXiv 1904.05160, with 100 and 20. The boundaries themselves are medium.

        Args:
            many, few: Other boundaries than the prior's own.

        Returns:
            {'many': bool `[C]`, 'medium': bool `[C]`, 'few': bool `[C]`}; each class is in exactly one.
        """
        many, few = self.many if many is None else many, self.few if few is None else few
        _check_boundaries(many, few)
        is_many, is_few = self.counts > many, self.counts < few
        return {'many': is_many, 'medium': ~(is_many | is_few), 'few': is_few}

    def __repr__(self) -> str:
        return (f'ClassPrior({self.num_classes} classes, {self.num_samples} images, '
                f'imbalance factor {self.imbalance_factor:g})')


def check_prior(prior: ClassPrior) -> None:
    """A UserError if it is anything else than a `ClassPrior`, such as the counts alone."""
    if not isinstance(prior, ClassPrior):
        raise UserError(f'prior cannot be a {type(prior).__name__}: give a ClassPrior(counts)')


def _check_boundaries(many: int, few: int) -> None:
    if not 0 <= few <= many:
        raise UserError(
            f'shot groups need 0 <= few <= many, got few={few} (--few-shot) and many={many} (--many-shot)')
