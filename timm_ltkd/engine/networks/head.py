"""New classifiers of networks whose other weights are trained already."""
import torch
from torch import nn

from ...distill.classifier import find_classifiers


@torch.no_grad()
def start_anew(linear: nn.Linear, *, seed: int) -> None:
    """Uniform weights as torch's linear layers have at their start, from a generator of their own; in place."""
    generator = torch.Generator().manual_seed(seed)
    bound = linear.in_features ** -0.5
    for values in (linear.weight, linear.bias):
        if values is not None:
            values.uniform_(-bound, bound, generator=generator)


def calm_new_head(network: nn.Module, *, seed: int) -> None:
    """Start linear classifiers anew that start with far larger weights than torch's linear layers do; in place.

    timm draws those of its EfficientNets, MobileNets and their kin with a deviation of (3 C)^-½ for C classes. That is
    little for 1,000, but of ten or a hundred classes the first gradients spoil what the features know (our choice).
    """
    parts = [part for head in find_classifiers(network) for part in head]
    for number, part in enumerate(parts):
        if isinstance(part, nn.Linear) and float(part.weight.detach().std()) > part.in_features ** -0.5:
            start_anew(part, seed=seed + number)
