"""ResNet-10, the small ImageNet network of the long-tailed literature: Liu et al. 2019, arXiv 1904.05160.

timm has the class but no plain `resnet10` (its `resnet10t` has another stem). Everything, the start of the weights
included, is timm's ResNet.
"""
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs
from timm.models.resnet import BasicBlock, ResNet

from .registry import register_new_model

__all__ = []  # timm adds the registered model

default_cfgs = generate_default_cfgs({
    'resnet10': {
        'num_classes': 1000, 'input_size': (3, 224, 224), 'fixed_input_size': False, 'pool_size': (7, 7),
        'crop_pct': 0.875, 'interpolation': 'bilinear', 'mean': IMAGENET_DEFAULT_MEAN, 'std': IMAGENET_DEFAULT_STD,
        'first_conv': 'conv1', 'classifier': 'fc', 'license': 'apache-2.0',
        'paper_name': 'Large-Scale Long-Tailed Recognition in an Open World', 'paper_ids': 'arXiv:1904.05160',
        'origin_url': 'https://github.com/zhmiao/OpenLongTailRecognition-OLTR',
    },
})


@register_new_model
def resnet10(pretrained: bool = False, **kwargs) -> ResNet:
    """ResNet-10, one BasicBlock a stage, 5.4 M parameters."""
    model_args = dict(block=BasicBlock, layers=(1, 1, 1, 1))
    return build_model_with_cfg(ResNet, 'resnet10', pretrained, **dict(model_args, **kwargs))
