"""Second stages: what is learnt of a trained network's classifier while its features stay as they are."""
from argparse import Namespace

import torch
import torch.nn.functional as F
from timm.task import ClassificationTask
from timm.utils import unwrap_model
from torch import nn

from ..distill import linear_classifier
from ..errors import UserError
from .networks.head import start_anew


class ScaledLinear(nn.Module):
    """Logits s_c · (w_c · f + b_c) with a learnable s_c a class; starts as the linear layer itself.

    Source: Kang et al. 2020, arXiv 1910.09217, section 4 (learnable weight scaling). That the bias is scaled too, and s
    starts from 1, is the authors' code.

    Args:
        linear: Its weights are shared, and frozen.

    Attributes:
        scale: s `[C]`.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        for frozen in (self.weight, self.bias):
            if frozen is not None:
                frozen.requires_grad_(False)
        self.scale = nn.Parameter(torch.ones_like(self.weight[:, 0]))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.scale * F.linear(features, self.weight, self.bias)

    @torch.no_grad()
    def to_linear(self) -> nn.Linear:
        """The linear layer with weights s_c · w_c and bias s_c · b_c: the same logits."""
        linear = nn.utils.skip_init(  # no draw from the global generator
            nn.Linear, self.in_features, self.out_features, bias=self.bias is not None, device=self.weight.device,
            dtype=self.weight.dtype)
        linear.weight.copy_(self.scale[:, None] * self.weight)
        if self.bias is not None:
            linear.bias.copy_(self.scale * self.bias)
        return linear


class SecondStageTask(ClassificationTask):
    """Classification on frozen features: the network stays in eval mode, batch-norm statistics included."""

    def train(self, mode: bool = True) -> 'SecondStageTask':
        super().train(mode)
        unwrap_model(self.trainable_module).eval()  # of linear layers, training mode changes nothing
        return self


def check_stage(args: Namespace) -> None:
    """Whether the other options go with `--stage`.

    Raises:
        UserError: No network to start from, or dropout, which frozen features don't have.
    """
    if not args.initial_checkpoint and not (args.stage == 'head' and args.pretrained):
        zoo = ', or take --pretrained weights' if args.stage == 'head' else ''
        raise UserError(f'--stage {args.stage} goes on from a trained network; name it with --initial-checkpoint{zoo}')
    if args.small_image_stem and not args.initial_checkpoint:
        raise UserError(f'--stage {args.stage} trains the classifier alone, and --small-image-stem needs training too')
    if args.stage == 'lws' and args.new_head:
        raise UserError('--stage lws keeps the classifier that is there; leave out --new-head')
    if args.drop or args.drop_path:
        raise UserError(
            f'--stage {args.stage} trains on frozen features, without dropout; leave out --drop and --drop-path')


def prepare_stage(network: nn.Module, stage: str, *, seed: int) -> None:
    """Freeze a network, in place, but for what the stage learns.

    Source: Kang et al. 2020, arXiv 1910.09217, section 4. `crt`: a new classifier. `lws`: a scale for each class of
    the old one. `head` is a new classifier too; it differs in the images that it is shown. Batch-norm statistics are
    frozen as well (our choice: the authors' code lets them follow the new sampling).

    Args:
        network: Trained, on the CPU.
        stage: 'crt', 'head' or 'lws'.
        seed: Of the new classifier's weights.

    Raises:
        UserError: The network has no linear classifier.
    """
    name, classifier = linear_classifier(network, f'--stage {stage} needs')
    network.requires_grad_(False)
    if stage in ('crt', 'head'):
        start_anew(classifier, seed=seed)
        classifier.requires_grad_(True)
    else:
        network.set_submodule(name, ScaledLinear(classifier))
