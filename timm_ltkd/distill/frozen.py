"""Copies of a network that is not trained any more, which answer the same in less time."""
import copy
import logging
from collections import Counter
from collections.abc import Callable
from itertools import chain

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..errors import UserError, last_line
from .output import Output, model_output

_logger = logging.getLogger(__name__)

# these very types: what derives from them may treat its weights first, as weight standardisation does
_LINEAR = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, Conv2dSame)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, BatchNormAct2d)
_SAME = 1e-4  # deviation, of the largest output, beyond which folding was wrong: rounding is below, mistakes far above


def share_weights(module: nn.Module) -> nn.Module:
    """A copy of the modules, which hold state while they run, around the very parameters and buffers."""
    made = (value for each in module.modules() for value in vars(each).values()  # of parameters, and at each call anew
            if isinstance(value, torch.Tensor) and not value.is_leaf)
    return copy.deepcopy(module, {id(tensor): tensor for tensor in chain(module.parameters(), module.buffers(), made)})


@torch.no_grad()
def fold_batch_norm(network: nn.Module, example: torch.Tensor) -> nn.Module:
    """A copy of a network in eval mode with batch norm in the weights of the convolutions and linear layers before it.

    A batch norm is folded where it alone gets what one such layer gives in a forward of the example. Weights are
    computed in float64 and rounded to their own dtype.

    Args:
        network: In eval mode, its weights in float32 at least; stays as it is, and shares with the copy what is not
            folded.
        example: What it takes, on its device; two images will do.

    Returns:
        The copy; the network itself where there is nothing to fold, or the copy answers otherwise or not at all.
    """
    def fold() -> nn.Module:
        twin = share_weights(network)
        pairs = _find_pairs(twin, example)
        for layer, name, norm in pairs:
            _fold(layer, norm)
            twin.set_submodule(name, getattr(norm, 'act', nn.Identity()))
        return twin if pairs and _answer_alike(network, twin, example) else network

    with torch.autocast(example.device.type, enabled=False):
        return _unless_it_fails(fold, network, 'its batch norm cannot be folded')


@torch.no_grad()
def hold_weights(network: nn.Module, dtype: torch.dtype, example: torch.Tensor) -> nn.Module:
    """A copy of a network whose convolutions and linear layers hold their weights in the dtype of autocast.

    Autocast would make the same of them, but at every call: it remembers what it has cast only where gradients are
    wanted. The copy, which shares the rest with the network, gives the same bits there, and is for nothing else.

    Args:
        network: In eval mode.
        dtype: Of autocast.
        example: What it takes, on its device; two images will do.

    Returns:
        The copy; the network itself where the copy answers otherwise or not at all, as where a forward leaves autocast.
    """
    def hold() -> nn.Module:
        twin = share_weights(network)
        for module in twin.modules():
            if type(module) in _LINEAR and _owns_weight(module):
                for name, parameter in module.named_parameters(recurse=False):
                    setattr(module, name, nn.Parameter(parameter.to(dtype), requires_grad=False))
        return twin if all(_alike(*parts) for parts in _both(network, twin, example)) else network

    with torch.autocast(example.device.type, dtype):
        return _unless_it_fails(hold, network, f'its weights cannot be held in {dtype}')


def _unless_it_fails(make: Callable[[], nn.Module], network: nn.Module, failure: str) -> nn.Module:
    """What is made, or the network itself: its forward may ask more of a layer than to be called."""
    try:
        made = make()
        reason = 'there is nothing to change, or the copy answers otherwise'
    except Exception as e:  # whatever a forward raises
        made, reason = network, last_line(e)
    if made is network:
        _logger.debug(f'{type(network).__name__}: {failure} ({reason})')
    return made


def _owns_weight(layer: nn.Module) -> bool:
    """Whether its weight is a parameter, and not made of others before each call (as by weight norm, or pruning)."""
    return isinstance(layer._parameters.get('weight'), nn.Parameter)


class _Uses(TorchDispatchMode):
    """Counts how many operations take each of the watched tensors."""

    def __init__(self):
        super().__init__()
        self.watched: dict[int, tuple[nn.Module, torch.Tensor]] = {}  # by id; while it is kept no other has that
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts.update(id(leaf) for leaf in tree_leaves((args, kwargs)) if id(leaf) in self.watched)
        return func(*args, **kwargs or {})


def _find_pairs(network: nn.Module, example: torch.Tensor) -> list[tuple[nn.Module, str, nn.Module]]:
    """Layer, name of the batch norm, batch norm: where the one feeds the other, each once, and nothing else."""
    uses, calls, found = _Uses(), Counter(), []

    def after_layer(layer: nn.Module, _, output: torch.Tensor) -> None:
        calls[layer] += 1
        uses.watched[id(output)] = layer, output

    def before_norm(norm: nn.Module, inputs: tuple) -> None:
        calls[norm] += 1
        if inputs and id(inputs[0]) in uses.watched:
            found.append((*uses.watched[id(inputs[0])], norm))

    hooks = [module.register_forward_hook(after_layer) for module in network.modules()
             if type(module) in _LINEAR and _owns_weight(module)]
    hooks += [module.register_forward_pre_hook(before_norm) for module in network.modules() if type(module) in _NORMS]
    try:
        with uses:
            network(example)
    finally:
        for hook in hooks:
            hook.remove()
    names = {module: name for name, module in network.named_modules()}
    return [
        (layer, names[norm], norm) for layer, output, norm in found
        if calls[layer] == calls[norm] == uses.counts[id(output)] == 1 and norm.running_mean is not None
        and not (type(layer) is nn.Linear and output.ndim > 2)]  # of tokens, which the norm takes for channels


def _fold(layer: nn.Module, norm: nn.Module) -> None:
    """W' = s W and b' = s (b - μ) + β with s = γ / sqrt(σ² + ε); in place."""
    weight, bias, mean, variance, gamma, beta = (
        None if values is None else values.cpu().double()  # not every device has float64
        for values in (layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias))
    layer.weight, layer.bias = (
        nn.Parameter(values.to(layer.weight), requires_grad=False)
        for values in fuse_conv_bn_weights(weight, bias, mean, variance, norm.eps, gamma, beta))


def _answer_alike(network: nn.Module, twin: nn.Module, example: torch.Tensor) -> bool:
    """Whether two networks say the same in the full precision of a CPU: convolutions on a GPU may round their input."""
    if example.device.type != 'cpu':
        network, twin, example = copy.deepcopy(network).cpu(), copy.deepcopy(twin).cpu(), example.cpu()
    return all(_alike(*parts) for parts in _both(network, twin, example))


def _both(network: nn.Module, twin: nn.Module, example: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Logits of both, and features of both if there are any."""
    pairs = zip(*(_answers(each, example) for each in (network, twin)), strict=True)
    return [(own, its) for own, its in pairs if own is not None and its is not None]


def _answers(network: nn.Module, example: torch.Tensor) -> Output:
    try:
        return model_output(network, example, needs_features=True)
    except UserError:  # it gives no features
        return model_output(network, example)


def _alike(expected: torch.Tensor, given: torch.Tensor) -> bool:
    return float((given - expected).abs().max()) <= _SAME * float(expected.abs().max())
