"""What an epoch's losses add up to, without making the host wait for the device."""
from collections.abc import Callable, Iterable, Mapping

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from ...errors import UserError

_IMAGES, _STEPS, _GOOD = range(-3, 0)  # the last of the totals: images, steps, and the steps before the first bad loss


class LossWatch:
    """Sums of the losses of an epoch and its first step with one that is not finite, kept on the device.

    They are updated in place and nothing is waited for but in `read`, once an epoch, so that `add` may be part of a
    CUDA graph. (The tensor is made by the first call, which a capture must not be: call it once before, then `start`.)

    Args:
        also: What else `read` shall read: gives tensors by name, to be added up over the processes.
        first_checkpoint: The epoch after which there is one, from 1, for messages.

    Attributes:
        sums: What `also` gave at the last `read`, added up over the processes, on the CPU.
    """

    def __init__(
            self,
            accelerator: Accelerator,
            also: Callable[[], Mapping[str, torch.Tensor]] = dict,
            first_checkpoint: int = 1,
    ):
        self.accelerator = accelerator
        self.also = also
        self.first_checkpoint = first_checkpoint
        self.sums: dict[str, torch.Tensor] = {}
        self.names: list[str] = []
        dtype = torch.float32 if accelerator.device.type == 'mps' else torch.float64  # mps has no float64
        self.totals = torch.zeros(3, dtype=dtype, device=accelerator.device)  # a sum for each name, then the counts
        self.start()

    def start(self) -> None:
        """Begin an epoch."""
        self.totals.zero_()
        self._copy = _LaggedCopy(self.totals)
        self._seen = 0., 0.

    def add(self, losses: Mapping[str, torch.Tensor], size: int) -> None:
        """Add the mean losses of a step by name, `loss` among them, that had `size` images."""
        if not losses.keys() <= set(self.names):
            self._make_room(name for name in losses if name not in self.names)
        nothing = self.totals.new_zeros(()) if len(losses) < len(self.names) else None
        values = torch.stack([losses[name].detach() if name in losses else nothing for name in self.names])
        self.totals[:_IMAGES].add_(values, alpha=size)
        self.totals[_IMAGES].add_(size)
        self.totals[_STEPS].add_(1)
        self.totals[_GOOD].add_(self._loss(self.totals).abs() < torch.inf)  # NaN and infinity stay in a sum

    def check(self, epoch: int) -> float | None:
        """Look at what has come back by now, a few steps late, and ask for more; nobody waits.

        Args:
            epoch: For the message, from 1.

        Returns:
            Mean loss over the images since the last look; None where nothing new has come back.

        Raises:
            UserError: A loss was NaN or infinite. Only from a process alone: others would wait for one that stops.
        """
        totals = self._copy.look()
        if totals is None:
            return None
        if self.accelerator.num_processes == 1:
            self._check_finite(epoch, totals)
        before, self._seen = self._seen, (self._loss(totals), totals[_IMAGES])
        loss, images = (now - then for now, then in zip(self._seen, before, strict=True))
        return loss / images if images else None

    def read(self, epoch: int) -> dict[str, float]:
        """Mean of each loss over the epoch's images of all processes; sets `sums`. Waits for device and processes.

        Raises:
            UserError: A loss of any process was NaN or infinite: on all of them.
        """
        self._agree()
        also = {name: tensor.detach() for name, tensor in self.also().items()}
        parts = [self.totals, *(tensor.to(self.totals).flatten() for tensor in also.values())]
        rows = self.accelerator.gather(torch.cat(parts)[None]).cpu()  # one of each process
        totals, *sums = rows.split([len(part) for part in parts], dim=1)
        self._check_finite(epoch, min(totals.tolist(), key=lambda row: row[_GOOD]))
        shaped = zip(also.items(), sums, strict=True)
        self.sums = {name: values.sum(dim=0).view(tensor.shape) for (name, tensor), values in shaped}
        added = totals.sum(dim=0).tolist()
        return {name: total / added[_IMAGES] for name, total in zip(self.names, added, strict=False)}

    def not_finite(self, what: str, epoch: int, step: int) -> UserError:
        """The error that says so.

        Args:
            what: That it is not finite, and when.
            epoch, step: Counted from 1.
        """
        stands = '; the last checkpoint stands' if epoch > self.first_checkpoint else ''
        return UserError(
            f'{what} epoch {epoch}, step {step}{stands}. Lower --lr, raise --warmup-epochs, or set --clip-grad')

    def _check_finite(self, epoch: int, totals: list[float]) -> None:
        if totals[_GOOD] < totals[_STEPS]:
            raise self.not_finite('the loss became NaN or infinite in', epoch, int(totals[_GOOD]) + 1)

    def _loss(self, totals: torch.Tensor | list[float]) -> torch.Tensor | float:
        return totals[self.names.index('loss')]

    def _agree(self) -> None:
        """Give each loss one place on all processes: where a batch decides which there are, they have met others."""
        if self.accelerator.num_processes == 1:
            return
        names = [*dict.fromkeys(name for own in gather_object([self.names]) for name in own)]
        self._make_room(name for name in names if name not in self.names)
        order = [self.names.index(name) for name in names]
        self.totals[:_IMAGES] = self.totals[:_IMAGES][order]
        self.names = names

    def _make_room(self, names: Iterable[str]) -> None:
        new = list(names)
        self.totals = torch.cat([self.totals[:_IMAGES], self.totals.new_zeros(len(new)), self.totals[_IMAGES:]])
        self.names = [*self.names, *new]
        self._copy = _LaggedCopy(self.totals)


class _LaggedCopy:
    """What a tensor held a while ago, for a host that does not wait for its device."""

    def __init__(self, source: torch.Tensor):
        self.source = source
        self.arrival = torch.cuda.Event() if source.is_cuda else None
        self.host = torch.empty_like(source, device='cpu', pin_memory=True) if source.is_cuda else None
        self.under_way = False

    def look(self) -> list[float] | None:
        """The values at an earlier look, if they have come, and a copy of those of now sets out.

        Of a device that is not CUDA: the values of now.
        """
        if self.arrival is None:
            return self.source.tolist()
        if self.under_way and not self.arrival.query():
            return None
        values = self.host.tolist() if self.under_way else None
        self.host.copy_(self.source, non_blocking=True)
        self.arrival.record()
        self.under_way = True
        return values
