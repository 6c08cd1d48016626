"""Class weights that may come in late: deferred re-weighting (Cao et al. 2019)."""
import torch
from torch import nn

from ...errors import UserError
from ...prior import ClassPrior
from ..checks import check_choice, check_number

_KINDS = ('effective', 'inverse', 'none')


class ClassWeights(nn.Module):
    """The class weights of an epoch, as the options of a loss say.

    Deferred re-weighting (DRW): all classes weigh alike at first, so that the features are learned from the natural
    distribution, and the weights come in with the last, low learning rates. Source: Cao et al. 2019,
    arXiv 1906.07413, section 3.3 (epoch 160 of 200 on CIFAR-LT).

    Args:
        what: Name of the loss, for messages.
        prior: Class prior of the training set.
        kind: 'effective' for effective-number weights (Cui et al. 2019, arXiv 1901.05555), 'inverse' for 1 / n_c,
            'none'. None means none, or effective where one of the other two options is given.
        beta: β of the effective numbers; None is 0.9999.
        deferred_epochs: All classes weigh alike for so many epochs first; None is 0.

    Raises:
        UserError: An unknown kind, a value out of range, or an option that would have no effect.
    """
    weights: torch.Tensor | None

    def __init__(
            self,
            what: str,
            prior: ClassPrior,
            kind: str | None = None,
            beta: float | None = None,
            deferred_epochs: float | None = None,
    ):
        super().__init__()
        if kind is None:
            kind = 'none' if beta is None and deferred_epochs is None else 'effective'
        check_choice(what, 'weights', kind, _KINDS)
        if kind != 'effective' and beta is not None:
            raise UserError(f'{what}: beta belongs to weights=effective, which these are not')
        if kind == 'none' and deferred_epochs is not None:
            raise UserError(f'{what}: deferred_epochs says when class weights come in, and there are none')
        self.deferred_epochs = check_number(
            what, 'deferred_epochs', 0 if deferred_epochs is None else deferred_epochs, least=0.)
        weights = None
        if kind == 'effective':
            weights = prior.effective_number_weights(check_number(what, 'beta', 0.9999 if beta is None else beta))
        elif kind == 'inverse':
            weights = prior.inverse_frequency_weights()
        self.register_buffer('weights', weights, persistent=False)  # float64; made from the prior, not saved
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Told before each epoch, counted from 0: `deferred_epochs` is the first with weights."""
        self.active = epoch >= self.deferred_epochs

    def forward(self) -> torch.Tensor | None:
        """ω `[C]` with mean 1, or None while all classes weigh alike."""
        return self.weights if self.active else None
