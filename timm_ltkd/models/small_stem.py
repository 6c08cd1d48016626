"""timm's ResNets for small images: a first convolution of 3 × 3 with stride 1, and no pooling behind it."""
from functools import partial

import timm
from timm.models import build_model_with_cfg, generate_default_cfgs
from timm.models.resnet import ResNet
from torch import nn

from ..errors import UserError
from .registry import register_new_model

__all__ = []  # timm adds the registered model

default_cfgs = generate_default_cfgs({  # of the stem; a network brings its own
    'small_image_stem': {
        'license': 'apache-2.0', 'paper_name': 'Deep Residual Learning for Image Recognition',
        'paper_ids': 'arXiv:1512.03385', 'origin_url': 'https://github.com/KaimingHe/deep-residual-networks',
    },
})


@register_new_model
def small_image_stem(pretrained: bool = False, *, network: str, **kwargs) -> nn.Module:
    """A network of timm's ResNet class (ResNet, ResNeXt, SE-, ECA-, Res2Net, ResNeSt, …) with a stem for small images.

    Source: He et al. 2016, arXiv 1512.03385, section 4.2, has this stem for CIFAR; in ImageNet networks it is common
    practice for images of 32 and 64 pixels.

    Args:
        pretrained: With weights: all of an export of such a network, where timm reads one; else those that timm knows
            for `network`, but for the first convolution, which is new.
        network: A timm model name, perhaps with the tag of its weights.
        **kwargs: Options of the network.

    Raises:
        UserError: A network of another class.
    """
    exported = isinstance(kwargs.get('pretrained_cfg'), dict)
    if not exported:
        cfg = timm.get_pretrained_cfg(network)
        if cfg is None:
            raise UserError(f"small_image_stem: timm has no network '{network}'")
        kwargs['pretrained_cfg'] = {**cfg.to_dict(), 'architecture': 'small_image_stem', 'first_conv': 'conv1'}
    make = partial(_with_small_stem, network, pretrained and not exported)
    return build_model_with_cfg(make, 'small_image_stem', pretrained and exported, **kwargs)


def _with_small_stem(network: str, pretrained: bool, **kwargs) -> ResNet:
    model = timm.create_model(network, pretrained=pretrained, **kwargs)
    if not isinstance(model, ResNet):
        raise UserError(
            f"'{network}' has no stem that could be made smaller; timm's ResNets have: resnet*, resnext*, "
            'wide_resnet*, seresnet*, ecaresnet*, resnest*, res2net*, …')
    width = model.bn1.weight
    options = dict(padding=1, bias=False, device=width.device, dtype=width.dtype)
    model.conv1 = nn.Conv2d(model.in_chans, len(width), 3, **options)
    nn.init.kaiming_normal_(model.conv1.weight, mode='fan_out', nonlinearity='relu')  # as ResNet does
    if hasattr(model, '_traits'):  # of timm from 1.0.31 on
        model._traits = {**model._traits, 'first_conv': 'conv1'}
    model.maxpool = nn.Identity()
    for level in model.feature_info:
        level['reduction'] = max(level['reduction'] // 4, 1)
    return model
