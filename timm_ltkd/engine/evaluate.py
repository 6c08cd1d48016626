"""Predictions of a network, each image exactly once however many processes share the work."""
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from ..metrics import long_tail_report, per_sample
from ..prior import ClassPrior


@torch.no_grad()
def evaluate(
        network: nn.Module,
        loader: DataLoader,
        accelerator: Accelerator,
        prior: ClassPrior,
        channels_last: bool = False,
) -> dict[str, Any]:
    """`long_tail_report` of a network, and its mean `loss` (cross-entropy).

    Args:
        network: Takes `[B, 3, H, W]`, returns logits `[B, C]`; put in eval mode.
        loader: Yields (input, target, index) with every index of the data set once over all processes.
        accelerator: Device, processes.
        prior: Class prior of the training set.
        channels_last: Memory layout of the inputs.
    """
    network.eval()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    batches = []
    for input, target, index in loader:
        input = input.to(accelerator.device, non_blocking=True).contiguous(memory_format=layout)
        target = target.to(accelerator.device, non_blocking=True)
        logits = network(input)  # in float32: in bf16 one image in a hundred ties, and ties go to the larger class
        batches.append({
            **per_sample(logits, target), 'target': target, 'index': index.to(accelerator.device, non_blocking=True)})
    columns = {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]} if batches else {}
    if accelerator.num_processes > 1:
        columns = _gather(columns, accelerator, prior.num_classes)
    columns = {key: column.cpu() for key, column in columns.items()}
    order = columns['index'].argsort()
    columns = {key: column[order] for key, column in columns.items()}
    if not torch.equal(columns['index'], torch.arange(len(loader.dataset))):
        raise RuntimeError('the evaluation did not see each image exactly once')
    report = long_tail_report(columns, columns['target'], prior)
    report['loss'] = float(columns['loss'].double().mean())
    return report


def _gather(columns: dict[str, torch.Tensor], accelerator: Accelerator, num_classes: int) -> dict[str, torch.Tensor]:
    """The columns of all processes, which may differ in length; padding is told by index -1 and dropped."""
    kinds = {'prediction': torch.int64, 'confidence': torch.float32, 'loss': torch.float32, 'target': torch.int64,
             'index': torch.int64}
    if num_classes > 5:
        kinds['top5'] = torch.uint8
    gathered = {}
    for key, kind in kinds.items():  # the same order on every process, also on one that had no image
        column = columns[key].to(kind) if columns else torch.empty(0, dtype=kind, device=accelerator.device)
        padded = accelerator.pad_across_processes(column, pad_index=255 if kind == torch.uint8 else -1)
        gathered[key] = accelerator.gather(padded)
    real = gathered['index'] >= 0
    return {key: column[real] for key, column in gathered.items()}
