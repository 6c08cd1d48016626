"""CIFAR wide residual networks: Zagoruyko and Komodakis 2016, https://arxiv.org/abs/1605.07146."""
import torch
from timm.models import generate_default_cfgs
from torch import nn

from .cifar_net import CifarNet, cifar_cfg, create_cifar_net
from .registry import register_new_model

__all__ = ['PreActBlock']  # timm adds the registered models


class PreActBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU.

    The shortcut is the raw input or, where the shape changes, a bare 1x1 convolution of the activated input.
    """

    def __init__(
            self,
            in_chs: int,
            out_chs: int,
            stride: int = 1,
            drop_path: nn.Module | None = None,
            device=None,
            dtype=None,
    ):
        super().__init__()
        dd = {'device': device, 'dtype': dtype}
        self.bn1 = nn.BatchNorm2d(in_chs, **dd)
        self.act1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(in_chs, out_chs, 3, stride=stride, padding=1, bias=False, **dd)
        self.bn2 = nn.BatchNorm2d(out_chs, **dd)
        self.act2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_chs, out_chs, 3, padding=1, bias=False, **dd)
        self.drop_path = nn.Identity() if drop_path is None else drop_path
        self.downsample = None
        if stride != 1 or in_chs != out_chs:
            self.downsample = nn.Conv2d(in_chs, out_chs, 1, stride=stride, bias=False, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.act1(self.bn1(x))
        shortcut = x if self.downsample is None else self.downsample(out)
        out = self.conv2(self.act2(self.bn2(self.conv1(out))))
        return self.drop_path(out) + shortcut


def _width_2(variant: str, num_blocks: int, pretrained: bool, **kwargs) -> CifarNet:
    model_args = dict(block=PreActBlock, layers=(num_blocks,) * 3, channels=(32, 64, 128), pre_activation=True)
    return create_cifar_net(variant, pretrained, **dict(model_args, **kwargs))


_CFG = cifar_cfg(
    paper_name='Wide Residual Networks', paper_ids='arXiv:1605.07146',
    origin_url='https://github.com/szagoruyko/wide-residual-networks')
default_cfgs = generate_default_cfgs({'wrn_16_2': _CFG, 'wrn_40_2': _CFG})


@register_new_model
def wrn_16_2(pretrained: bool = False, **kwargs) -> CifarNet:
    """WRN-16-2, 0.70 M parameters."""
    return _width_2('wrn_16_2', 2, pretrained, **kwargs)


@register_new_model
def wrn_40_2(pretrained: bool = False, **kwargs) -> CifarNet:
    """WRN-40-2, 2.3 M parameters."""
    return _width_2('wrn_40_2', 6, pretrained, **kwargs)
