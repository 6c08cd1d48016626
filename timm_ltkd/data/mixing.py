"""Mixup and CutMix, timm's, with draws that can be repeated."""
from collections.abc import Sequence
from typing import Any

import torch
from timm.data import Mixup
from timm.data.mixup import mixup_target

from ..errors import UserError
from .seeded import seeded_generators
from .views import Views


class SeededMixup:
    """timm's `Mixup`, whose draws depend on (seed, epoch, step, rank) alone, so that a resumed run mixes the same.

    Image i is mixed with image B - 1 - i. Of an odd batch, which timm refuses, the last image stays as it is.

    Args:
        num_classes: C.
        seed: Any integer.
        rank: Of this process; each mixes its own batches.
        off_epoch: From this epoch on images are not mixed (the targets stay soft); 0 for never.
        label_smoothing: Of the targets, mixed or not.
        **options: Of timm's `Mixup`: `mixup_alpha`, `cutmix_alpha`, `cutmix_minmax`, `prob`, `switch_prob`, `mode`.
    """

    def __init__(
            self,
            num_classes: int,
            *,
            seed: int,
            rank: int = 0,
            off_epoch: int = 0,
            label_smoothing: float = 0.,
            **options: Any,
    ):
        self.seed = seed
        self.rank = rank
        self.off_epoch = off_epoch
        self._mixup = Mixup(num_classes=num_classes, label_smoothing=label_smoothing, **options)

    def __call__(
            self,
            input: torch.Tensor | Views,
            target: torch.Tensor,
            epoch: int,
            step: int,
    ) -> tuple[torch.Tensor | Views, torch.Tensor]:
        """Mix a batch; `input` may be overwritten.

        Args:
            input: Images `[B, channels, H, W]`, on any device; of two views mixup has the same draws. (The boxes of
                CutMix would be at other places of images of another size.)
            target: Class indices `[B]`.
            epoch: From 0.
            step: Of the batch in its epoch, from 0.

        Returns:
            Images as `input`, and float32 probabilities `[B, C]`.
        """
        if isinstance(input, Views):
            mixed = [self(view, target, epoch, step) for view in input]
            return Views(*(pixels for pixels, _ in mixed)), mixed[0][1]
        even = len(input) // 2 * 2
        parts = [self._mix(input[:even], target[:even], epoch, step)] if even else []
        if even < len(input):
            targets = mixup_target(target[even:], self._mixup.num_classes, smoothing=self._mixup.label_smoothing)
            parts.append((input[even:], targets))
        if len(parts) == 1:
            return parts[0]
        inputs, targets = zip(*parts, strict=True)
        return torch.cat(inputs), torch.cat(targets)

    def _mix(self, input: torch.Tensor, target: torch.Tensor, epoch: int, step: int):
        self._mixup.mixup_enabled = not self.off_epoch or epoch < self.off_epoch
        with seeded_generators(self.seed, epoch, -1, step, self.rank):  # no image's draws: none has the index -1
            return self._mixup(input, target)


def check_cutmix_minmax(minmax: Sequence[float], input_size: Sequence[int]) -> None:
    """Whether boxes can be drawn with sides from `minmax[0]` to `minmax[1]` of an image's.

    Args:
        minmax: Smallest and largest side, as a share from 0 to 1.
        input_size: (…, height, width).

    Raises:
        UserError: No number of pixels lies between.
    """
    smallest, largest = minmax
    side = min(input_size[-2:])
    if not int(side * smallest) < int(side * largest):
        raise UserError(
            f'cutmix: no box has sides from {smallest:g} to {largest:g} of {side} pixels; give a smaller and a larger '
            'share that are further apart')
