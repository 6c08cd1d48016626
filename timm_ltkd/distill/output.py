"""What a network says about a batch: its logits, and what it made of the images just before its classifier."""
from typing import Any, NamedTuple, cast

import torch
from timm.utils import unwrap_model
from torch import nn
from torch.nn.modules.conv import _ConvNd

from ..errors import UserError
from .classifier import classifiers


class Output(NamedTuple):
    """What a network says about a batch: logits `[B, C]`, and pooled features `[B, D]` where a method needs them."""
    logits: torch.Tensor
    features: torch.Tensor | None = None


def model_output(model: nn.Module, input: torch.Tensor, needs_features: bool = False) -> Output:
    """Run a network on `[B, channels, H, W]` and return its logits, with the pooled features if asked for.

    Features are what enters the classifier in the very forward that gives the logits, so that both have seen the same
    dropout and batch statistics; any network will do that has a classifier. Of a classifier that takes a map they are
    the mean over positions, of one that takes tokens the first token's. Where several classifiers judge the image (a
    distilled transformer has two), they are the mean of what enters each; where each judges a part of it (CrossViT),
    the parts one behind the other. That is what timm calls `pre_logits`.

    Raises:
        UserError: The network returns something else than logits; or features are needed and it has no classifier, or
            one that it does not call.
    """
    if not needs_features:
        return Output(check_logits(model, model(input)))
    tap_features(model)  # here and not in what may be compiled
    logits, entered = getattr(model, '_compiled_tapped_run', _tapped_run)(model, input)
    if any(part is None for parts in entered for part in parts):
        reason = (
            'it was compiled before it was asked for them; compile it after the task is made, by task.compile()'
            if is_compiled(model) else
            'it has a classifier, but nothing enters it; choose another model, or a method that needs logits only')
        raise UserError(f'{type(unwrap_model(model)).__name__} gives no features: {reason}')
    features = [
        _joined([_pooled(*pair) for pair in zip(head, parts, strict=True)])
        for head, parts in zip(classifiers(model), entered, strict=True)]
    return Output(check_logits(model, logits), features[0] if len(features) == 1 else torch.stack(features).mean(0))


def compile_output(model: nn.Module, **compile_kwargs) -> None:
    """torch.compile for a network's own call and for `model_output`; in place, so that no wrapper gets into names."""
    model.compile(**compile_kwargs)
    # features have a graph of their own: one that was compiled without taps would be used again in spite of them
    cast(Any, model)._compiled_tapped_run = torch.compile(_tapped_run, **compile_kwargs)


def is_compiled(model: nn.Module) -> bool:
    """Whether a network has been through torch.compile, in place or wrapped."""
    return model is not unwrap_model(model) or model._compiled_call_impl is not None


def _tapped_run(model: nn.Module, input: torch.Tensor) -> tuple[Any, list[list[torch.Tensor | None]]]:
    """What a network returns, and what entered its `classifiers`."""
    taps = tap_features(model)
    output = model(input)
    return output, [[tap.take() for tap in head] for head in taps]


def check_logits(model: nn.Module, output: Any) -> torch.Tensor:
    """What a network returned, if it is logits `[B, C]`; a UserError if it is anything else."""
    if isinstance(output, torch.Tensor) and output.ndim == 2:
        return output
    got = f'shape {list(output.shape)}' if isinstance(output, torch.Tensor) else f'a {type(output).__name__}'
    raise UserError(
        f'{type(unwrap_model(model)).__name__} returns {got}, not logits [batch, classes]; choose another model, or '
        'wrap it in one that returns its logits alone')


def feature_dim(model: nn.Module) -> int:
    """Length D of the pooled features `[B, D]` that `model_output` gives of a network.

    Raises:
        UserError: It has no classifier, or one that does not say how long its input is.
    """
    lengths = [_input_length(classifier) for classifier in classifiers(model)[0]]
    if all(lengths):
        return sum(length for length in lengths if length)
    model = unwrap_model(model)
    for name in ('head_hidden_size', 'num_features'):  # the first where a head has hidden layers of its own
        if isinstance(getattr(model, name, None), int):
            return getattr(model, name)
    raise UserError(
        f'{type(model).__name__} does not say how long its features are; choose another model, or a method that needs '
        'logits only')


class FeatureTap:
    """A forward pre-hook that keeps what entered a classifier last; it lives among the classifier's hooks."""

    def __init__(self):
        self.entered: torch.Tensor | None = None

    def __call__(self, classifier: nn.Module, inputs: tuple, named: dict[str, Any]) -> None:
        self.entered = inputs[0] if inputs else next(iter(named.values()), None)

    def __reduce__(self):
        return FeatureTap, ()  # a copy of the network, e.g. its moving average, has a tap of its own, and it is empty

    def take(self) -> torch.Tensor | None:
        """What entered since the last call; None if nothing did."""
        entered, self.entered = self.entered, None
        return entered


def tap_features(model: nn.Module) -> list[list[FeatureTap]]:
    """The taps of a network's `classifiers`, made where there are none yet."""
    return [[_tap(part) for part in head] for head in classifiers(model)]


def _tap(classifier: nn.Module) -> FeatureTap:
    for hook in classifier._forward_pre_hooks.values():
        if isinstance(hook, FeatureTap):
            return hook
    tap = FeatureTap()
    classifier.register_forward_pre_hook(tap, with_kwargs=True)
    return tap


def _pooled(classifier: nn.Module, entered: torch.Tensor) -> torch.Tensor:
    """Features `[B, D]` of what entered a classifier: these, tokens `[B, N, D]`, or a map with D in front or behind."""
    if entered.ndim == 2:
        return entered
    if entered.ndim == 3:
        return entered[:, 0]  # into which attention has pooled the others, as in CLIP's ResNets
    layer = _first_layer(classifier)
    channels_first = isinstance(layer, _ConvNd) or layer is not None and layer.in_features != entered.shape[-1]
    return entered.flatten(2).mean(dim=2) if channels_first else entered.flatten(1, -2).mean(dim=1)


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    """Features `[B, D]` one behind the other."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _input_length(classifier: nn.Module) -> int | None:
    """Length of what enters a classifier; None if it has no layer that says."""
    layer = _first_layer(classifier)
    return layer.in_channels if isinstance(layer, _ConvNd) else getattr(layer, 'in_features', None)


def _first_layer(classifier: nn.Module) -> nn.Module | None:
    """The first linear or convolutional layer of a classifier."""
    return next((m for m in classifier.modules() if isinstance(m, _ConvNd) or hasattr(m, 'in_features')), None)
