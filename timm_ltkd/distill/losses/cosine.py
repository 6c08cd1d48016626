"""A classifier of cosines for the time of training, and a plain one again for everybody else."""
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from ..checks import full_precision
from ..classifier import linear_classifier

MOMENTUM = 0.1  # of the running mean, as batch norm's


class CosineLinear(nn.Module):
    """Logits s · cos(f, w_c) in place of f · w_c + b_c; starts from the directions of a linear layer.

    Source: Cao et al. 2019, arXiv 1906.07413, section 3.2: features and class weights are normalised, so that margins
    are comparable. Computed in float32 at least: half precision would round away much of a margin.

    Args:
        linear: The layer that it replaces, which stays as it is.
        scale: s.

    Attributes:
        weight: w `[C, D]`; only the rows' directions matter.
        running_mean_norm: Running mean of |f| over training batches, for `to_linear`. The name is no accident: timm
            averages the buffers called running_mean… over processes.
    """
    running_mean_norm: torch.Tensor

    def __init__(self, linear: nn.Linear, scale: float):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.scale = scale
        self.has_bias = linear.bias is not None
        self.weight = nn.Parameter(F.normalize(linear.weight.detach(), dim=1))
        self.register_buffer('running_mean_norm', self.weight.new_zeros(()))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        with torch.autocast(features.device.type, enabled=False):
            features = full_precision(features)
            if self.training:
                self._track(features)
            return self.scale * F.linear(
                F.normalize(features, dim=-1), F.normalize(full_precision(self.weight), dim=1))

    @torch.no_grad()
    def _track(self, features: torch.Tensor) -> None:
        norm = features.norm(dim=-1).mean().to(self.running_mean_norm.dtype)
        old = torch.where(self.running_mean_norm == 0, norm, self.running_mean_norm)  # the first batch sets it
        self.running_mean_norm.copy_(old.lerp(norm, MOMENTUM))

    @torch.no_grad()
    def to_linear(self) -> nn.Linear:
        """The linear layer with weights k · w_c / |w_c| and bias 0 that ranks the classes in the same order.

        k = s / (running mean of |f|): the logits of an image with features of average length are the cosine
        classifier's own, so that confidences stay comparable.
        """
        linear = cast(nn.Linear, nn.utils.skip_init(  # no draw from the global generator
            nn.Linear, self.in_features, self.out_features, bias=self.has_bias, device=self.weight.device,
            dtype=self.weight.dtype))
        norm = torch.where(self.running_mean_norm == 0, 1., self.running_mean_norm)  # never trained
        linear.weight.copy_(F.normalize(self.weight, dim=1) * (self.scale / norm))
        if self.has_bias:
            linear.bias.zero_()
        return linear


def cosine_classifier(network: nn.Module, scale: float) -> None:
    """Replace the linear classifier of a timm network by a `CosineLinear`, in place.

    Raises:
        UserError: The network has none, or more than one.
    """
    name, classifier = linear_classifier(network, 'ldam normalises')
    network.set_submodule(name, CosineLinear(classifier, scale))


@contextmanager
def plain_classifier(network: nn.Module) -> Iterator[None]:
    """Inside, the network has linear layers for what has a `to_linear`: what it exports, any timm can load."""
    special = {name: cast(Any, module) for name, module in network.named_modules() if hasattr(module, 'to_linear')}
    for name, module in special.items():
        network.set_submodule(name, module.to_linear())
    try:
        yield
    finally:
        for name, module in special.items():
            network.set_submodule(name, module)
