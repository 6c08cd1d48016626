"""Images in memory, and what makes a batch of some of them."""
import threading
from functools import cached_property

import torch

from ...devices import has_room, move
from ...errors import UserError
from ..dataset import LongTailedDataset
from ..device import Normalise, channels_first
from ..streams import StreamDataset
from .decode import Layout, decode, find_layout
from .random_numbers import uniforms
from .shared_memory import Exchange
from .steps import take_apart


class ResidentImages:
    """All images of a data set as bytes, and what turns some of them into a batch.

    Given the same draws, a batch is what the transform makes of the images, to the last bit on a CPU. The images are
    decoded when the first batch is asked for; they stay on `device` if a quarter of its free memory holds them, else in
    that of the host, and batches then travel as bytes.

    What a batch shows is said by `rows`, whole numbers int64 `[B, K]`: the position of each image, then what is drawn
    for it; on the device that holds the images. Nothing but `rows` differs from batch to batch, and no
    value is read back from the device.

    Args:
        dataset: Read once, in order; its own transform is not used.
        transform: As `take_apart` takes it.
        side: Of images in memory, for crops that resize; see `take_apart`.
        workers: Loader processes that decode.
        device: Where batches are wanted.
        progress: Show a progress bar while decoding, on a terminal.
        exchange: Of several processes that all keep these images, and come to their first batch together; see
            `decode`.

    Raises:
        UserError: A stream; as `take_apart`; on decoding a broken image, images of different size, or more bytes than
            there is memory for.
    """

    def __init__(
            self,
            dataset: LongTailedDataset,
            transform,
            *,
            side: int | None = None,
            workers: int = 0,
            device: torch.device | str = 'cpu',
            progress: bool = False,
            exchange: Exchange | None = None,
    ):
        if isinstance(dataset, StreamDataset):
            raise UserError(f"'{dataset.shards.name}' is a stream and cannot be kept in memory; use --loader timm")
        self.steps = take_apart(transform, side=side)
        self._normalise = Normalise(self.steps.mean, self.steps.std)
        self.device = torch.device(device)
        self._dataset, self._options = dataset, dict(workers=workers, progress=progress, exchange=exchange)
        self._bytes, self._lock = None, threading.Lock()

    def __len__(self) -> int:
        return len(self._dataset)

    @cached_property
    def layout(self) -> Layout:
        """How the images lie in memory; known without decoding more than one."""
        layout = find_layout(self._dataset, self.steps.fixed, self.steps.crop.padding)
        if len(self.steps.mean) not in (1, layout.channels):
            raise UserError(
                f'images of {layout.channels} channels are normalised with {len(self.steps.mean)} means; give one for '
                'each channel')
        return layout

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images of a batch."""
        return self.steps.crop.output_size(self._stored)

    @property
    def _stored(self) -> tuple[int, int]:
        return self.layout.shape[1:3]

    @property
    def views(self) -> int | None:
        """How many different views there are of an image; None if they cannot be numbered."""
        return None if self.steps.erasing is not None else self.steps.crop.views(self._stored)

    def view_numbers(self, rows: torch.Tensor) -> torch.Tensor:
        """Which of its `views` is shown of each image, from 0, int64 `[B]`."""
        return self.steps.crop.number(rows[:, 1:], self._stored)

    @property
    def images(self) -> torch.Tensor:
        """Bytes `[N, height, width, channels]`, padded."""
        return self._decoded[0]

    @property
    def targets(self) -> torch.Tensor:
        """Class indices `[N]`, where the images are."""
        return self._decoded[1]

    @property
    def _decoded(self) -> tuple[torch.Tensor, torch.Tensor]:
        with self._lock:  # several threads may share the images
            if self._bytes is None:
                self._bytes = self._decode()
            return self._bytes

    def _decode(self) -> tuple[torch.Tensor, torch.Tensor]:
        images, targets = decode(self._dataset, self.steps.fixed, self.layout, **self._options)
        if has_room(self.device, images.nbytes):
            images, targets = images.to(self.device), targets.to(self.device)
        return images, targets

    def rows(self, index: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """What is said to `batch`, int64 `[M, K]`, on the CPU.

        Args:
            index: Positions in the data set, int64 `[M]`.
            keys: What the draws of each are a function of, int64 `[M]`; see `random_numbers`.
        """
        crop, erasing = self.steps.crop, self.steps.erasing
        numbers = uniforms(keys, crop.uniforms + (0 if erasing is None else erasing.uniforms))
        parts = [index[:, None], crop.draw(numbers[:, :crop.uniforms], self._stored)]
        if erasing is not None:
            parts.append(erasing.draw(numbers[:, crop.uniforms:], keys, self.size))
        return torch.cat(parts, 1)

    def batch(self, rows: torch.Tensor) -> torch.Tensor:
        """The images of `rows`, float32 `[B, C, H, W]`, on `device`; see `channels_first`.

        Args:
            rows: As `rows` gives them; or positions alone `[B, 1]`, for the images as they are stored.
        """
        pixels = self._cut(rows)
        values = self._normalise(pixels)
        if self.steps.erasing is not None and rows.shape[1] > 1:
            values = self.steps.erasing.erase(values, move(rows[:, 1 + self.steps.crop.width:], self.device))
        return channels_first(values)

    def targets_of(self, rows: torch.Tensor) -> torch.Tensor:
        """Class indices of the images of `rows`, int64 `[B]`, on `device`."""
        return move(self.targets[rows[:, 0]], self.device)

    def _cut(self, rows: torch.Tensor) -> torch.Tensor:
        """Bytes `[B, H, W, C]` on `device`."""
        images, index, draws, crop = self.images, rows[:, 0], rows[:, 1:1 + self.steps.crop.width], self.steps.crop
        if rows.shape[1] == 1:
            return move(images.index_select(0, index), self.device)
        if crop.resamples and images.device.type != self.device.type:  # arithmetic is for the device
            images, draws = move(images.index_select(0, index), self.device), move(draws, self.device)
            index = torch.arange(len(images), device=self.device)
        return move(crop.cut(images, index, draws), self.device)

    def place(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows, made on the CPU, where the images are."""
        return move(rows, self.images.device)
