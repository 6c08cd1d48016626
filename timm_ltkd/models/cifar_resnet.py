"""CIFAR ResNets: the thin ones of He et al. 2016 and the wider `x4` ones of the distillation literature.

Thin: Deep Residual Learning for Image Recognition, section 4.2, https://arxiv.org/abs/1512.03385 (option A shortcuts).
Wide: Contrastive Representation Distillation, https://arxiv.org/abs/1910.10699 (1x1 convolution shortcuts).
"""
from functools import partial

import torch
import torch.nn.functional as F
from timm.models import generate_default_cfgs
from timm.models.resnet import BasicBlock, downsample_conv
from torch import nn

from .cifar_net import CifarNet, cifar_cfg, create_cifar_net
from .registry import register_new_model

__all__ = ['PadShortcut']  # timm adds the registered models


class PadShortcut(nn.Module):
    """Option A shortcut, without parameters: every stride-th pixel, and the new channels are zeros.

    Half of the zeros come before the old channels and half after, as in the public CIFAR code.
    """

    def __init__(self, in_chs: int, out_chs: int, stride: int):
        super().__init__()
        self.stride = stride
        self.before = (out_chs - in_chs) // 2
        self.after = out_chs - in_chs - self.before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, self.before, self.after))

    def extra_repr(self) -> str:
        return f'stride={self.stride}, before={self.before}, after={self.after}'


def basic_block(in_chs: int, out_chs: int, stride: int, option: str, **kwargs) -> BasicBlock:
    """timm's BasicBlock with the shortcut of He et al. 2016 where the shape changes.

    Args:
        option: 'A' pads with zeros, 'B' projects with a 1x1 convolution and batch norm.
        **kwargs: `drop_path`, `device` and `dtype`, as BasicBlock takes them.
    """
    shortcut = None
    if stride != 1 or in_chs != out_chs:
        if option == 'A':
            shortcut = PadShortcut(in_chs, out_chs, stride)
        else:
            dd = {'device': kwargs.get('device'), 'dtype': kwargs.get('dtype')}
            shortcut = downsample_conv(in_chs, out_chs, 1, stride, **dd)
    return BasicBlock(in_chs, out_chs, stride=stride, downsample=shortcut, **kwargs)


def _thin(variant: str, num_blocks: int, pretrained: bool, **kwargs) -> CifarNet:
    model_args = dict(block=partial(basic_block, option='A'), layers=(num_blocks,) * 3)
    return create_cifar_net(variant, pretrained, **dict(model_args, **kwargs))


def _wide(variant: str, num_blocks: int, pretrained: bool, **kwargs) -> CifarNet:
    model_args = dict(
        block=partial(basic_block, option='B'), layers=(num_blocks,) * 3, channels=(64, 128, 256), stem_width=32)
    return create_cifar_net(variant, pretrained, **dict(model_args, **kwargs))


_THIN = cifar_cfg(
    paper_name='Deep Residual Learning for Image Recognition', paper_ids='arXiv:1512.03385',
    origin_url='https://github.com/akamaster/pytorch_resnet_cifar10')
_WIDE = cifar_cfg(
    paper_name='Contrastive Representation Distillation', paper_ids='arXiv:1910.10699',
    origin_url='https://github.com/HobbitLong/RepDistiller')
default_cfgs = generate_default_cfgs({
    **{f'resnet{depth}': _THIN for depth in (20, 32, 44, 56, 110)},
    **{f'resnet{depth}x4': _WIDE for depth in (8, 32)},
})


@register_new_model
def resnet20(pretrained: bool = False, **kwargs) -> CifarNet:
    """CIFAR ResNet-20, 0.27 M parameters."""
    return _thin('resnet20', 3, pretrained, **kwargs)


@register_new_model
def resnet32(pretrained: bool = False, **kwargs) -> CifarNet:
    """CIFAR ResNet-32, 0.46 M parameters: the network of most CIFAR-LT papers."""
    return _thin('resnet32', 5, pretrained, **kwargs)


@register_new_model
def resnet44(pretrained: bool = False, **kwargs) -> CifarNet:
    """CIFAR ResNet-44, 0.66 M parameters."""
    return _thin('resnet44', 7, pretrained, **kwargs)


@register_new_model
def resnet56(pretrained: bool = False, **kwargs) -> CifarNet:
    """CIFAR ResNet-56, 0.85 M parameters."""
    return _thin('resnet56', 9, pretrained, **kwargs)


@register_new_model
def resnet110(pretrained: bool = False, **kwargs) -> CifarNet:
    """CIFAR ResNet-110, 1.7 M parameters."""
    return _thin('resnet110', 18, pretrained, **kwargs)


@register_new_model
def resnet8x4(pretrained: bool = False, **kwargs) -> CifarNet:
    """CIFAR ResNet-8 four times as wide, 1.2 M parameters."""
    return _wide('resnet8x4', 1, pretrained, **kwargs)


@register_new_model
def resnet32x4(pretrained: bool = False, **kwargs) -> CifarNet:
    """CIFAR ResNet-32 four times as wide, 7.4 M parameters."""
    return _wide('resnet32x4', 5, pretrained, **kwargs)
