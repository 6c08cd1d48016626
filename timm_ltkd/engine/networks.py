"""Networks and their weights: any timm model, loaded safely or refused with a reason."""
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import constants as hub_constants
from huggingface_hub.utils import get_session
from safetensors import SafetensorError
from timm.data import resolve_data_config
from timm.models import load_state_dict
from torch import nn

from ..errors import UserError, last_line, nearest

_logger = logging.getLogger(__name__)
HUB_PATIENCE = 5.  # seconds


def check_model_name(name: str, option: str) -> None:
    """Raise a UserError for a model that timm doesn't know; the nearest is named."""
    if not name.startswith(('hf-hub:', 'hf_hub:', 'local-dir:')) and not timm.is_model(name.split('.')[0]):
        raise UserError(f"{option}: unknown model '{name}'{nearest(name.split('.')[0], timm.list_models())}")


def create_network(
        name: str,
        num_classes: int | None,
        *,
        option: str = '--model',
        pretrained: bool = False,
        img_size: int | None = None,
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
        model_kwargs: More options of the model.
        **timm_kwargs: Options of `timm.create_model`; None is left out.

    Raises:
        UserError: Unknown model, an option it doesn't take, or pretrained weights that cannot be had.
    """
    check_model_name(name, option)
    kwargs = {key: value for key, value in timm_kwargs.items() if value is not None} | (model_kwargs or {})
    cfg = None if name.startswith(('hf-hub:', 'hf_hub:', 'local-dir:')) else timm.get_pretrained_cfg(name)
    if cfg is not None and cfg.fixed_input_size and img_size and cfg.input_size[-1] != img_size:
        kwargs.setdefault('img_size', img_size)
    if num_classes is not None:
        kwargs['num_classes'] = num_classes
    if pretrained and cfg is not None and not (cfg.has_weights or cfg.file):
        raise UserError(f"{option}: timm knows no pretrained weights for '{name}'; leave pretrained out")
    try:
        network = timm.create_model(name, pretrained=pretrained, **kwargs)
    except (TypeError, AssertionError, ValueError, RuntimeError, OSError) as e:
        what = 'its pretrained weights cannot be had' if pretrained else 'it cannot be made with these options'
        raise UserError(f"{option} '{name}': {what} ({last_line(e)})") from e
    network.model_args = {key: value for key, value in kwargs.items() if key != 'num_classes'}
    return network


def zoo_weights_within_reach(name: str) -> bool:
    """Whether timm has weights for this model and they can be fetched; says in the log why not.

    An unreachable hub costs `HUB_PATIENCE` seconds here, not the minute of the hub client's retries.
    """
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None or not (cfg.has_weights or cfg.file):
        return False
    if cfg.file:
        return os.path.exists(cfg.file)
    try:
        if hub_constants.HF_HUB_OFFLINE:
            raise OSError('HF_HUB_OFFLINE is set')
        get_session().head(hub_constants.ENDPOINT, timeout=HUB_PATIENCE)
    except Exception as e:  # whatever the hub's HTTP client raises, it is out of reach
        _logger.warning(
            f"no pretrained weights for '{name}': the hub cannot be reached ({last_line(e)}); starting from scratch")
        return False
    return True


def load_weights(network: nn.Module, path: str | Path, what: str) -> None:
    """Load a file of weights (safetensors, or a torch checkpoint that holds nothing but data), strictly.

    Raises:
        UserError: No such file; truncated; not safe to load; of another architecture or label space.
    """
    try:
        state = load_state_dict(str(path), weights_only=True)
    except FileNotFoundError:
        raise UserError(f'{what}: there is no file {path}') from None
    except pickle.UnpicklingError as e:
        raise UserError(
            f'{what}: {path} is not safe to load or no checkpoint (it holds more than weights: '
            f'{str(e).splitlines()[0][:80]}); save its state_dict alone') from None
    except (RuntimeError, SafetensorError, EOFError, OSError, KeyError, ValueError) as e:
        raise UserError(f'{what}: {path} is truncated or no checkpoint ({last_line(e)[:120]})') from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f'{what}: {path} holds no weights by name')
    own = network.state_dict()
    wrong = [key for key in own if key in state and own[key].shape != state[key].shape]
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if wrong:
        key = wrong[-1]
        head = getattr(network, 'num_classes', None)
        hint = f' (the network has {head} classes)' if list(own[key].shape)[:1] == [head] else ''
        raise UserError(
            f'{what}: {path} does not fit {type(network).__name__}: {key} is {list(state[key].shape)}, '
            f'expected {list(own[key].shape)}{hint}')
    if missing or extra:
        names = ', '.join((missing + extra)[:2])
        raise UserError(
            f'{what}: {path} is of another architecture: {len(missing)} weights missing, {len(extra)} unknown ({names}, …)')
    network.load_state_dict(state)


def resolve_input(args, cfg: dict[str, Any]) -> dict[str, Any]:
    """How images reach a network: `input_size`, `mean`, `std`, `interpolation`, `crop_pct`.

    The options win (they hold the data set's defaults already), then the network's own configuration.
    """
    channels = cfg.get('input_size', (3,))[0]
    for name in ('mean', 'std'):
        value = getattr(args, name)
        if value is not None and len(value) not in (1, channels):
            raise UserError(f'--{name}: give {channels} numbers, one a channel, or one for all')
    given = {key: getattr(args, key) for key in ('img_size', 'mean', 'std', 'interpolation', 'crop_pct')}
    config = resolve_data_config({k: v for k, v in given.items() if v is not None}, pretrained_cfg=cfg)
    return {key: config[key] for key in ('input_size', 'mean', 'std', 'interpolation', 'crop_pct')}


def set_input(network: nn.Module, config: dict[str, Any]) -> None:
    """Write the input configuration a network is trained with into it, so that its export says so."""
    network.pretrained_cfg = {**network.pretrained_cfg, **config, 'num_classes': network.num_classes}
    network.default_cfg = network.pretrained_cfg
