"""A training step as a CUDA graph: recorded once, then one launch instead of thousands."""
import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.data import DataLoader

from ...data import ResidentTrainLoader
from ...distill import DistillTask
from ...errors import UserError, last_line
from .step import TrainingStep

_WARM_UP = 3  # steps before one is recorded: libraries choose their kernels, the optimizer makes its state
_PLAIN = (bool, int, float, str, type(None))
_OF_TORCH = frozenset(vars(nn.Module()))  # what every module has
RECORDING = threading.Lock()
"""Held while one of several runs records, or does what may make its device wait, which would spoil a recording."""


class _Recording:
    """Of batches of one shape: what `replay` reads and took for granted; and how many steps come before it is made."""

    def __init__(self):
        self.eager, self.constants, self.inputs, self.replay = _WARM_UP, None, None, None


class GraphedStep:
    """Calls `step(*batch)` for its effects, replaying what it recorded.

    A recording holds for batches of one shape, and as long as nothing changes that is not in tensors: a method with a
    schedule, or a weight decay, makes a new one, after a step without. (The learning rate is handed over in a tensor.)
    Smaller batches at the end of an epoch have recordings of their own.

    Args:
        step: What to do with a batch; it must not wait for the device.
        optimizer: What `step` updates by; one of torch's own, fused, whose learning rate may be a tensor.
        modules: What may change from epoch to epoch: criterion and method.
        record: As `record_cuda_graph`; tests have one for the CPU.
    """

    def __init__(
            self,
            step: Callable[..., None],
            optimizer: torch.optim.Optimizer,
            modules: list[nn.Module],
            record: Callable[..., Callable[[], None]] | None = None,
    ):
        self.step, self.optimizer, self.modules = step, optimizer, modules
        self.record = record or record_cuda_graph
        self.device = next(p.device for group in optimizer.param_groups for p in group['params'])
        on_gpu = self.device.type == 'cuda'
        # one of its own for all but replays: libraries keep a workspace for each stream that they see
        self.stream = torch.cuda.Stream(self.device) if on_gpu else None
        self.pool = torch.cuda.graph_pool_handle() if on_gpu else None  # of all recordings: one is replayed at a time
        self.rates = [torch.zeros((), device=self.device) for _ in optimizer.param_groups]
        self.recordings: dict[tuple, _Recording] = {}
        for group in optimizer.param_groups:
            if 'capturable' in group:
                group['capturable'] = True
                optimizer._warned_capturable_if_run_uncaptured = True  # the first steps are not recorded

    def __call__(self, *batch, share: float = 1., update: bool = True) -> None:
        """Step with a batch: tensors on the device, or tuples of them; each is an update of its own."""
        tensors, spec = tree_flatten(batch)
        shape = str(spec), tuple((t.shape, t.dtype, t.stride()) for t in tensors)
        one, constants = self.recordings.setdefault(shape, _Recording()), self._constants()
        if constants != one.constants:  # what is new may be done for the first time
            one.constants, one.inputs, one.replay, one.eager = constants, None, None, max(one.eager, 1)
        if one.eager:
            one.eager -= 1
            return self._eagerly(batch)
        if one.replay is None:
            one.inputs = [tensor.clone() for tensor in tensors]
            with self._rates_in_tensors(), RECORDING:
                one.replay = self.record(
                    lambda: self.step(*tree_unflatten(one.inputs, spec)), self.stream, self.pool)
        for kept, tensor in zip(one.inputs, tensors, strict=True):
            kept.copy_(tensor)
        self._hand_over_rates()
        one.replay()

    def _eagerly(self, batch: tuple) -> None:
        with self._rates_in_tensors(), RECORDING, _on(self.stream):  # what is done first may be refused beside another
            self.step(*batch)

    def _constants(self) -> list:
        """All that a recording takes for granted beside the batch: plain values, and where tensors are."""
        found = [
            _plain({key: value for key, value in group.items() if key not in ('params', 'lr')})
            for group in self.optimizer.param_groups]
        for root in self.modules:
            for module in root.modules():
                tensors = {**module._buffers, **module._parameters}
                tensors |= {key: value for key, value in vars(module).items() if isinstance(value, torch.Tensor)}
                own = {key: value for key, value in vars(module).items() if key not in _OF_TORCH}
                found.append(_plain({**own, 'training': module.training}))
                found.append({key: tensor.data_ptr() for key, tensor in tensors.items() if tensor is not None})
        return found

    def _hand_over_rates(self) -> None:
        for rate, group in zip(self.rates, self.optimizer.param_groups, strict=True):
            rate.fill_(group['lr'])

    @contextmanager
    def _rates_in_tensors(self) -> Iterator[None]:
        """Inside, the learning rates are in the tensors that recordings read; schedules know numbers only."""
        self._hand_over_rates()
        numbers = [group['lr'] for group in self.optimizer.param_groups]
        for rate, group in zip(self.rates, self.optimizer.param_groups, strict=True):
            group['lr'] = rate
        try:
            yield
        finally:
            for number, group in zip(numbers, self.optimizer.param_groups, strict=True):
                group['lr'] = number


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Those that are plain, or lists, tuples and dicts of such, as they are now."""
    return {key: copy.deepcopy(value) for key, value in values.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, (*value, *value.values())))
    return isinstance(value, _PLAIN)


def graph_step(
        step: TrainingStep, loader: DataLoader | ResidentTrainLoader) -> tuple[GraphedStep, bool]:
    """A step to be recorded; and whether it takes the `showings` of the loader, and makes the images itself."""
    task, images = step.task, getattr(loader, 'images', None)
    modules = [task.method, task.criterion] if isinstance(task, DistillTask) else [task.criterion]
    if images is None or images.images.device.type != step.accelerator.device.type:  # or too many for the device
        return GraphedStep(step, step.optimizer.optimizer, modules), False

    def step_of_rows(rows: torch.Tensor, *taught: torch.Tensor) -> None:
        step(images.batch(rows), images.targets_of(rows), *taught)
    return GraphedStep(step_of_rows, step.optimizer.optimizer, modules), True


def check_graphable(optimizer: torch.optim.Optimizer, name: str) -> None:
    """Raise a UserError for an optimizer whose update cannot be recorded once for all learning rates."""
    fused = all(group.get('fused') for group in optimizer.param_groups)
    if type(optimizer) not in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW) or not fused:
        raise UserError(
            f"--cuda-graph needs a fused optimizer of torch's own, and --opt '{name}' is none; choose sgd, momentum, "
            'adam or adamw')


def record_cuda_graph(function: Callable[[], None], stream: torch.cuda.Stream, pool: tuple) -> Callable[[], None]:
    """Record what a function does on the current CUDA device; nothing is done yet.

    Args:
        function: Called once.
        stream: To record on.
        pool: Of the memory that it takes, from `torch.cuda.graph_pool_handle`.

    Returns:
        What does it, whenever it is called, on the current stream.

    Raises:
        UserError: It does what cannot be recorded, such as waiting for the device.
        torch.OutOfMemoryError: There is no room for it.
    """
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode='thread_local'):
            function()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as e:
        why = last_line(e.__context__ or e)[:160]  # a step's own error comes before that of the recording's end
        raise UserError(f'--cuda-graph: this training step cannot be recorded ({why}); leave it out') from e
    return graph.replay


@contextmanager
def _on(stream: torch.cuda.Stream | None) -> Iterator[None]:
    """As CUDA graphs want it of the steps before: on a stream that is not the default one. None is a CPU."""
    if stream is None:
        yield
        return
    current = torch.cuda.current_stream(stream.device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        yield
    current.wait_stream(stream)
