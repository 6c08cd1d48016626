"""The networks of the long-tailed literature that timm lacks; importing this package registers them with timm."""
from .cifar_net import CifarNet
from .cifar_resnet import (
    PadShortcut,
    resnet8x4,
    resnet20,
    resnet32,
    resnet32x4,
    resnet44,
    resnet56,
    resnet110,
)
from .cifar_wrn import PreActBlock, wrn_16_2, wrn_40_2
from .imagenet_resnet import resnet10
from .origin import ELSEWHERE, HUB, model_origin, network_name, unknown_model
from .registry import register_new_model
from .small_stem import small_image_stem

__all__ = [
    'CifarNet', 'PadShortcut', 'PreActBlock', 'ELSEWHERE', 'HUB', 'model_origin', 'network_name', 'register_new_model',
    'unknown_model',
    'resnet20', 'resnet32', 'resnet44', 'resnet56', 'resnet110', 'resnet8x4', 'resnet32x4',
    'wrn_16_2', 'wrn_40_2', 'resnet10', 'small_image_stem',
]
