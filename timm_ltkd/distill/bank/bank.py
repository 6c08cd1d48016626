"""What a teacher says of each view of each image, kept from run to run."""
import logging
import threading
from collections.abc import Callable, Sequence

import numpy as np
import torch

from ...devices import has_room, move
from ...errors import UserError
from ..output import Output
from .layout import RowLayout
from .rows import RowFile

_logger = logging.getLogger(__name__)
_MOST_PENDING = 2 ** 28  # bytes that wait for `flush`

Said = Output | tuple[Output, ...]
Images = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


class TeacherBank:
    """Answers for a teacher about the views of which it knows what it says, and asks about the others.

    What is asked is said as the bank keeps it, so that a run ends the same whatever the bank held before. Several
    threads may ask it, and several processes use its file; what others have written is seen by and by.

    On a CPU a batch of few images, or of an odd number, may go through other kernels than a large one and differ in the
    last bit. So the teacher is asked about multiples of `at_once` images, with known ones among them; a batch that is
    no such multiple (at the end of an epoch, perhaps) goes past the bank.

    Rows are kept on a GPU if a quarter of its free memory holds them; else they are read from the file, which the
    system keeps in memory as long as there is room.

    Args:
        file: Where the rows are.
        layout: What is in a row.
        needs_features: Of which teachers features are to be returned.
        device: Where batches are.
        at_once: Images that the teacher is asked about are a multiple of this.
        on_device: Keep the rows there, or don't, whatever the device.
        name: What messages call it.

    Attributes:
        shown: Images asked about, by all who share it.
        answered: Of those how many were answered without the teacher.
    """

    def __init__(
            self,
            file: RowFile,
            layout: RowLayout,
            needs_features: Sequence[bool],
            *,
            device: torch.device | str = 'cpu',
            at_once: int = 16,
            on_device: bool | None = None,
            name: str = 'teacher bank',
    ):
        self.file, self.layout, self.needs_features, self.name = file, layout, tuple(needs_features), name
        self.device, self.at_once = torch.device(device), at_once
        self.shown = self.answered = 0
        self._writable = True
        self._lock = threading.Lock()
        self._pending = _Pending()
        on_device = has_room(self.device, file.nbytes) if on_device is None else on_device
        self._table = _DeviceTable(file, self.device) if on_device else None

    def ask(
            self,
            ask_teacher: Callable[[torch.Tensor, Sequence[bool]], Said],
            input: Images | Callable[[], Images],
            views: torch.Tensor,
    ) -> Said:
        """What the teacher says of a batch; as `DistillTask.ask_teacher` returns it.

        Args:
            ask_teacher: `DistillTask.ask_teacher`: called with images and of which teachers to return features, about
                what is not known, in the autocast context that this is called in.
            input: The batch [B, channels, H, W] on `device`; or a pair, the student's and the teacher's; or what makes
                it, called only if it is needed.
            views: Number of the view that each image shows, int64 [B] on the CPU; see `epoch_views`.

        Raises:
            UserError: The teacher answers on another device than `device`.
        """
        return self.unpack(self.rows(ask_teacher, input, views))

    @torch.no_grad()
    def rows(
            self,
            ask_teacher: Callable[[torch.Tensor, Sequence[bool]], Said],
            input: Images | Callable[[], Images],
            views: torch.Tensor,
            count: Callable[[int, int], None] = lambda shown, answered: None,
    ) -> torch.Tensor:
        """The same as the bank keeps it, int32 [B, W] on the device: one tensor, for a CUDA graph that unpacks it.

        Args:
            ask_teacher, input, views: As `ask`.
            count: Told how many images these were, and how many were answered without the teacher.
        """
        def say(which: np.ndarray | None = None) -> torch.Tensor:
            images = input() if callable(input) else input
            images = images[1] if isinstance(images, tuple) else images
            if which is not None:
                images = images[self._on_device(which)].contiguous(memory_format=_memory_format(images))
            said = self.layout.pack(ask_teacher(images, self.layout.needs_features))
            if said.device.type != self.device.type:
                raise UserError(f"{self.name} is for batches on '{self.device}' and its teacher answers on "
                                f"'{said.device}': open it with device='{said.device.type}'")
            return said

        numbers = views.numpy()
        if len(numbers) % self.at_once:
            self._count(len(numbers), 0, count)
            return say()
        known, rows = self._known(numbers)
        self._count(len(numbers), int(known.sum()), count)
        return rows if known.all() else self._completed(rows, known, numbers, say)

    def unpack(self, rows: torch.Tensor) -> Said:
        """What `rows` stand for."""
        return self.layout.unpack(rows, self.needs_features)

    def flush(self) -> None:
        """Write what is new to this thread, in one copy from the device, and take up what others have written."""
        with self._lock:
            if self._pending.numbers:
                self._store(*self._pending.take())
            if self._table is not None:
                self._table.refresh()

    def _known(self, numbers: np.ndarray) -> tuple[np.ndarray, torch.Tensor]:
        """Which views are known, bool [B] on the host, and their rows [B, W] on the device; the others are anything."""
        if self._table is not None:
            return self._table.known[numbers], self._table.rows[self._on_device(numbers)]
        words, known = self.file.read(numbers)
        return known, self._on_device(words.view(np.int32))

    def _on_device(self, values: np.ndarray) -> torch.Tensor:
        return move(torch.from_numpy(values), self.device)

    def _completed(
            self,
            rows: torch.Tensor,
            known: np.ndarray,
            numbers: np.ndarray,
            say: Callable[[np.ndarray | None], torch.Tensor],
    ) -> torch.Tensor:
        """The rows of a batch where the teacher has been asked about those that are not known."""
        missing = np.flatnonzero(~known)
        beside = np.flatnonzero(known)[:-len(missing) % self.at_once]
        if len(missing) == len(numbers):
            fresh = rows = say(None)
        else:
            fresh = say(np.concatenate([missing, beside]))[:len(missing)]
            rows = rows.index_copy(0, self._on_device(missing), fresh)
        self._pending.add(numbers[missing], fresh)
        if self._pending.nbytes > _MOST_PENDING:
            self.flush()
        return rows

    def _store(self, numbers: np.ndarray, rows: torch.Tensor) -> None:
        if self._table is not None:
            self._table.add(numbers, rows)
        if not self._writable:
            return
        words = rows.cpu().numpy().view(np.uint32)
        new = ~self.file.read(numbers)[1]  # another process may have been faster
        try:
            self.file.write(numbers[new], words[new])
        except OSError as e:
            self._writable = False
            _logger.warning(f'{self.name} cannot be written ({e.strerror}): what is new to it is not kept')

    def _count(self, shown: int, answered: int, count: Callable[[int, int], None]) -> None:
        count(shown, answered)
        with self._lock:
            self.shown += shown
            self.answered += answered


class _Pending(threading.local):
    """Rows that wait for being written; each thread, which may have a stream of its own on a GPU, has its own."""

    def __init__(self):
        self.numbers: list[np.ndarray] = []
        self.rows: list[torch.Tensor] = []
        self.nbytes = 0

    def add(self, numbers: np.ndarray, rows: torch.Tensor) -> None:
        self.numbers.append(numbers)
        self.rows.append(rows.clone())  # a compiled teacher may overwrite what it has said
        self.nbytes += rows.nbytes

    def take(self) -> tuple[np.ndarray, torch.Tensor]:
        """All that waits, and then waits no more: numbers [M] and rows [M, W]."""
        numbers, rows = np.concatenate(self.numbers), torch.cat(self.rows)
        self.__init__()
        return numbers, rows


class _DeviceTable:
    """The rows of a file on a device, and on the host which of them are there."""

    def __init__(self, file: RowFile, device: torch.device):
        self.file = file
        self.rows = torch.zeros(file.count, file.words, dtype=torch.int32, device=device)
        self.known = np.zeros(file.count, dtype=bool)
        self.refresh()

    def add(self, numbers: np.ndarray, rows: torch.Tensor) -> None:
        self.rows.index_copy_(0, torch.from_numpy(numbers).to(self.rows.device), rows)
        if self.rows.is_cuda:
            torch.cuda.current_stream(self.rows.device).synchronize()  # other threads may read on other streams
        self.known[numbers] = True

    def refresh(self) -> None:
        """Take up what the file has and this has not."""
        if not self.known.all():
            for numbers, words in self.file.all_but(self.known):
                self.add(numbers, torch.from_numpy(words.view(np.int32)).to(self.rows.device))


def _memory_format(images: torch.Tensor) -> torch.memory_format:
    last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
