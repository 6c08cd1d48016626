"""Mean feature of each class, as a teacher sees the training images."""
import logging

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from ..distill import Teacher, feature_dim
from .evaluate import answers

_logger = logging.getLogger(__name__)


@torch.no_grad()
def teacher_class_means(
        teacher: Teacher,
        loader: DataLoader,
        accelerator: Accelerator,
        num_classes: int,
        channels_last: bool = False,
) -> torch.Tensor:
    """One pass over the images; the same means on every process.

    Args:
        teacher: On the accelerator's device.
        loader: Yields (input, target, index), on the device, with every image of the training set once over all
            processes.
        accelerator: Device, processes.
        num_classes: C; each class has an image.
        channels_last: Memory layout of the inputs.

    Returns:
        `[C, D]`, float64 (float32 where the device has no float64).
    """
    device = accelerator.device
    dtype = torch.float32 if device.type == 'mps' else torch.float64
    _logger.info(f"class means of the teacher's features over {len(loader.dataset)} training images")
    sums = torch.zeros(num_classes, feature_dim(teacher.model) + 1, dtype=dtype, device=device)  # and the counts
    for output, target, _ in answers(teacher, loader, channels_last, needs_features=True):
        features = output.features.to(dtype)
        sums.index_add_(0, target, torch.cat([features, features.new_ones(len(features), 1)], dim=1))
    sums = accelerator.reduce(sums, 'sum')
    counts = sums[:, -1:]
    if int(counts.sum()) != len(loader.dataset):
        raise RuntimeError('the class means did not see each image exactly once')
    return sums[:, :-1] / counts
