"""Predictions of a network, each image exactly once however many processes share the work."""
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader

from ..distill.classifier import classifiers
from ..errors import UserError
from ..metrics import calibration, group_confusion, long_tail_report, mistakes, per_sample
from ..prior import ClassPrior
from ..progress import told

TIMM_FIGURES = ('loss', 'top1', 'top5')
OUR_FIGURES = ('balanced', 'many', 'medium', 'few', 'worst')


def evaluate(
        network: nn.Module,
        loader: DataLoader,
        accelerator: Accelerator,
        prior: ClassPrior,
        channels_last: bool = False,
        as_trained: bool = False,
) -> dict[str, Any]:
    """`long_tail_report` of a network, its mean `loss` (cross-entropy), `group_confusion`, `mistakes`, `calibration`.

    In float32, unless `as_trained` has a run in bf16 answer as it trains, which is faster; but its classifier stays in
    float32, for in bf16 one image in a hundred ties, and ties go to the larger class.

    Args:
        network: Takes `[B, channels, H, W]`, returns logits `[B, C]`; put in eval mode.
        loader: Yields (input, target, index), on the device, with every index of the data set once over all processes.
        as_trained: In the run's precision; it makes a difference for bf16 only.
    """
    as_trained = as_trained and accelerator.mixed_precision == 'bf16'
    with _classifying_in_float32(network) if as_trained else nullcontext(False) as lower:
        return figures(answers(network, loader, channels_last, lower), len(loader.dataset), accelerator, prior)


@torch.no_grad()
def answers(
        network: nn.Module,
        loader: Iterable[tuple],
        channels_last: bool = False,
        lower: bool = False,
        what: str = 'evaluation',
        **options: Any,
) -> Iterator[tuple]:
    """What a network says of each batch: (answer, target, index); one pass over the images, of which the log tells if
    it is long.

    Args:
        network: Takes `[B, channels, H, W]`; put in eval mode.
        loader: Yields (input, target, index), on the device.
        lower: Autocast to bf16.
        what: What the log calls the pass.
        **options: Of the network's forward.
    """
    network.eval()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    compiled = any(module._compiled_call_impl is not None for module in network.modules())
    for input, target, index in told(loader, what):
        input = input.contiguous(memory_format=layout)
        if compiled:
            torch.compiler.cudagraph_mark_step_begin()  # or each batch records a CUDA graph of its own
        with torch.autocast(input.device.type, torch.bfloat16, enabled=lower):
            answer = network(input, **options)
        yield answer, target, index


def place(network: nn.Module, device: torch.device, channels_last: bool) -> None:
    """Put a network where the images for `answers` are, in their memory layout."""
    network.to(device)
    if channels_last:
        network.to(memory_format=torch.channels_last)


def figures(answered: Iterable[tuple], count: int, accelerator: Accelerator, prior: ClassPrior) -> dict[str, Any]:
    """The report that `evaluate` gives, of logits.

    Args:
        answered: (logits, target, index) of this process's batches, on one device.
        count: Images of all processes, each of which has to be there once.
    """
    batches = [{**per_sample(logits, target), 'target': target, 'index': index} for logits, target, index in answered]
    share = {key: torch.cat([batch[key] for batch in batches]).cpu() for key in batches[0]} if batches else {}
    shares = [share for share in gather_object([share]) if share]
    columns = {key: torch.cat([share[key] for share in shares]) for key in shares[0]}
    order = columns['index'].argsort()
    columns = {key: column[order] for key, column in columns.items()}
    if not torch.equal(columns['index'], torch.arange(count)):
        raise RuntimeError('the evaluation did not see each image exactly once')
    report = long_tail_report(columns, columns['target'], prior)
    return report | {
        'loss': float(columns['loss'].double().mean()),
        'group_confusion': group_confusion(columns['prediction'], columns['target'], prior),
        'mistakes': mistakes(columns['prediction'], columns['target'], prior.num_classes),
        'calibration': calibration(columns['confidence'], columns['prediction'] == columns['target']),
    }


@contextmanager
def _classifying_in_float32(network: nn.Module) -> Iterator[bool]:
    """Inside, a network's classifier answers in float32 whatever autocast says; gives whether it has one."""
    def again(classifier: nn.Module, inputs: tuple, named: dict[str, Any], output: torch.Tensor) -> torch.Tensor:
        inputs, named = tree_map_only(torch.Tensor, torch.Tensor.float, (inputs, named))
        with torch.autocast(output.device.type, enabled=False):
            return classifier.forward(*inputs, **named)
    try:
        parts = [part for head in classifiers(network) for part in head]
    except UserError:
        parts = []
    hooks = [part.register_forward_hook(again, with_kwargs=True) for part in parts]
    try:
        yield bool(parts)
    finally:
        for hook in hooks:
            hook.remove()


def near_chance(report: dict[str, Any], num_classes: int) -> bool:
    """Whether a network tells nothing apart: a balanced accuracy below three times that of guessing; of fewer than ten
    classes, where a weak network may be as close, below 1.2 times. The figures are our choice."""
    return report['balanced'] < (3 if num_classes >= 10 else 1.2) * 100 / num_classes
