"""Networks: any timm model, made as the options say or refused with a reason."""
import inspect
import logging
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from timm.data import resolve_data_config
from torch import nn

from ...distill import check_logits, normalisation
from ...errors import OF_ONES_OWN, UserError, last_line, nearest, unknown_keyword
from ...models import ELSEWHERE, unknown_model
from ..sharing.hub import why_out_of_reach

_logger = logging.getLogger(__name__)
_NOT_KEPT = ('pretrained_cfg', 'pretrained_cfg_overlay', 'cache_dir')  # of timm.create_model: where weights come from
WEIGHTS_OF = {  # which option takes the weights of a network that another names
    '--teacher': '--teacher-checkpoint', '--student': '--initial-checkpoint', '--model': '--initial-checkpoint'}
KNOWN = ('timm', 'timm_ltkd')  # packages whose code goes by their version
_WEIGHT_FILES = ('model.safetensors', 'pytorch_model.bin')


def check_model_name(name: str, option: str) -> None:
    """Raise a UserError for a model that timm doesn't know, or not with these weights; the nearest is named."""
    if name.startswith(ELSEWHERE):
        return
    if unknown := unknown_model(name):
        if option in WEIGHTS_OF and os.path.exists(name):
            raise UserError(
                f"{option}: '{name}' is a file or folder, and no name of a model: give it as {WEIGHTS_OF[option]}")
        raise UserError(f'{option}: {unknown}{OF_ONES_OWN}')
    architecture, dot, _ = name.partition('.')
    tagged = timm.list_pretrained(f'{architecture}.*')
    if dot and name not in tagged:
        raise UserError(f"{option}: timm knows no weights '{name}'{nearest(name, tagged)}")


def of_ones_own(name: str) -> bool:
    """Whether a model is registered by neither timm nor this package."""
    return timm.is_model(name) and timm.models.model_entrypoint(name).__module__.partition('.')[0] not in KNOWN


def create_network(
        name: str,
        num_classes: int | None,
        *,
        option: str = '--model',
        pretrained: bool = False,
        img_size: int | None = None,
        small_image_stem: bool = False,
        model_kwargs: dict[str, Any] | None = None,
        **timm_kwargs,
) -> nn.Module:
    """A timm model with a head of `num_classes`; one of fixed input size is made for `img_size`.

    The options it was made with are kept as `network.model_args`, so that its export can be loaded again.

    Args:
        name: A timm model name, `hf-hub:…` or `local-dir:…`.
        num_classes: Size of the label space; None leaves the model's own.
        option: Which option named it, for messages.
        pretrained: Load the weights that timm knows.
        img_size: Side of the images in pixels.
        small_image_stem: Make the ResNet of this name with a stem for small images.
        model_kwargs: More options of the model.
        **timm_kwargs: Options of `timm.create_model`; None is left out.

    Raises:
        UserError: Unknown model, an option it doesn't take, or pretrained weights that cannot be had.
    """
    check_model_name(name, option)
    kwargs = {key: value for key, value in timm_kwargs.items() if value is not None} | (model_kwargs or {})
    cfg = None if name.startswith(ELSEWHERE) else timm.get_pretrained_cfg(name)
    if cfg is not None and cfg.fixed_input_size and img_size and cfg.input_size[-1] != img_size:
        kwargs.setdefault('img_size', img_size)
    if 'checkpoint_path' in kwargs:
        raise UserError(f'{option}: checkpoint_path is no option of a model; for its weights take --initial-checkpoint')
    if num_classes is not None:
        if kwargs.setdefault('num_classes', num_classes) != num_classes:
            raise UserError(
                f"{option}: the data have {num_classes} classes, and the model's options say {kwargs['num_classes']}; "
                'leave num_classes out')
    if pretrained and cfg is None and not name.startswith(ELSEWHERE):
        _logger.warning(f"{option} '{name}': whether it has pretrained weights, nobody knows but its own code")
    elif pretrained and cfg is not None and not _names_weights(kwargs) and (reason := why_no_zoo_weights(name)):
        file = f'; {WEIGHTS_OF[option]} takes a file of weights' if option in WEIGHTS_OF else ''
        raise UserError(f"{option}: no pretrained weights for '{name}' ({reason}){file}")
    made_by = name
    if small_image_stem:
        made_by, kwargs['network'] = 'small_image_stem', name
    try:
        network = timm.create_model(made_by, pretrained=pretrained, **kwargs)
    except UserError as e:
        raise UserError(f'{option}: {e}') from e
    except Exception as e:  # whatever a model's own code raises for options that it cannot use
        if (keyword := unknown_keyword(e)) is not None:
            hint = nearest(keyword, _model_options(name, e))
            raise UserError(f"{option} '{name}' has no option '{keyword}'{hint}") from e
        what = 'its pretrained weights cannot be had' if pretrained else 'it cannot be made with these options'
        raise UserError(f"{option} '{name}': {what} ({last_line(e)})") from e
    _complete(network, name, num_classes)
    _note_channels(network, f"{option} '{name}'")
    network.model_args = {key: value for key, value in kwargs.items() if key != 'num_classes' and key not in _NOT_KEPT}
    if small_image_stem and pretrained:
        _logger.info(f"{option} '{name}': its first convolution, of 3x3, is new; the rest is pretrained")
    return network


def _names_weights(kwargs: dict[str, Any]) -> bool:
    """Whether options of a model say where its pretrained weights are, as timm takes them."""
    overlay = kwargs.get('pretrained_cfg_overlay') or {}
    return 'pretrained_cfg' in kwargs or not {'file', 'url', 'hf_hub_id', 'state_dict'}.isdisjoint(overlay)


def _note_channels(network: nn.Module, what: str) -> None:
    """Let the configuration of a network that was made for grey images say so; in place."""
    cfg, channels = network.pretrained_cfg, getattr(network, 'in_chans', 3)
    if channels not in (1, 3):
        raise UserError(f'{what} takes images of {channels} channels; those of the data have 3, or are made grey for 1')
    if cfg.get('input_size') and cfg['input_size'][0] != channels:
        mean, std = normalisation(network)
        network.pretrained_cfg = network.default_cfg = {
            **cfg, 'input_size': (channels, *cfg['input_size'][1:]), 'mean': mean, 'std': std}


def _complete(network: nn.Module, name: str, num_classes: int | None) -> None:
    """Give a network what timm's own have and one that was registered by hand may lack; in place."""
    if not hasattr(network, 'num_classes') and num_classes is not None:
        network.num_classes = num_classes
    if not hasattr(network, 'num_features'):
        network.num_features = None  # which timm writes into config.json, for information
    named = {'architecture': name, 'num_classes': num_classes}
    cfg = getattr(network, 'pretrained_cfg', named)
    usual = named | resolve_data_config(pretrained_cfg=cfg)
    if lacking := {key: value for key, value in usual.items() if cfg.get(key) is None}:
        network.pretrained_cfg = network.default_cfg = {**cfg, **lacking}


def _model_options(name: str, error: Exception) -> list[str]:
    """Options of the class that refused one; the error names the class, which lives where the model is defined."""
    said = re.search(r'(\w+)\.__init__\(\)', str(error))
    if said is None or not timm.is_model(name):
        return []
    module = sys.modules[timm.models.model_entrypoint(name).__module__]
    return [key for key in inspect.signature(getattr(module, said[1], object)).parameters if key != 'self']


@torch.no_grad()
def check_takes_images(network: nn.Module, input_size: Sequence[int], what: str) -> None:
    """Raise a UserError if a network makes no logits of one image of `input_size` (channels, height, width)."""
    training = network.training
    try:
        output = network.eval()(torch.zeros(1, *input_size))
    except Exception as e:  # a convolution, a pooling or an assertion somewhere inside
        height, width = input_size[-2:]
        raise UserError(f'{what} takes no images of {height}x{width} pixels ({last_line(e)[:120]})') from e
    network.train(training)
    check_logits(network, output)


def why_no_zoo_weights(name: str) -> str | None:
    """Why the weights that timm knows for a model cannot be had, or None if they can (as far as one sees).

    An unreachable hub costs seconds here, see `why_out_of_reach`.
    """
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None or not (cfg.has_weights or cfg.file):
        return 'timm knows none'
    if cfg.file or not cfg.hf_hub_id:
        return None
    if any(isinstance(try_to_load_from_cache(cfg.hf_hub_id, file), str) for file in _WEIGHT_FILES):
        return None
    reason = why_out_of_reach()
    return reason and f'the hub cannot be reached: {reason}'


def checkpoint_activations(network: nn.Module, what: str) -> None:
    """Let a network compute activations again in the backward pass, as timm's networks can.

    Raises:
        UserError: It cannot.
    """
    try:
        network.set_grad_checkpointing(True)
    except (AttributeError, AssertionError, NotImplementedError, TypeError) as e:
        raise UserError(f'--grad-checkpointing: {what} cannot do it; leave it out') from e
