"""How images reach a network: as options, the data set and its own configuration say."""
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from timm.data import resolve_data_config
from torch import nn

from ...errors import UserError

_TEST_INPUT = ('test_input_size', 'test_crop_pct')  # of the zoo's weights, by which timm's validate.py would measure
INPUT = ('input_size', 'mean', 'std', 'interpolation', 'crop_pct', 'crop_mode')


def resolve_input(args: Namespace, cfg: dict[str, Any]) -> dict[str, Any]:
    """How images reach a network: what timm calls the things in `INPUT`.

    The options win (they hold the data set's defaults already), then the network's own configuration.
    """
    channels = cfg.get('input_size', (3,))[0]
    given = {key: getattr(args, key) for key in ('img_size', 'mean', 'std', 'interpolation', 'crop_pct')}
    for name in ('mean', 'std'):
        given[name] = _for_channels(given[name], channels, f'--{name}')
    given['in_chans'] = channels
    config = resolve_data_config({k: v for k, v in given.items() if v is not None}, pretrained_cfg=cfg)
    return {key: config[key] for key in INPUT}


def _for_channels(value: Sequence[float] | None, channels: int, option: str) -> Sequence[float] | None:
    """A mean or standard deviation for a network of so many channels, or a UserError."""
    if value is not None and len(value) == 3 and channels == 1:  # those of coloured images, perhaps the data set's
        return [sum(value) / 3]
    if value is not None and len(value) not in (1, channels):
        raise UserError(f'{option}: give {channels} numbers, one a channel, or one for all')
    return value


def set_normalisation(
        network: nn.Module, mean: Sequence[float] | None, std: Sequence[float] | None, option: str) -> None:
    """Let a network expect images normalised by these values, in place; None leaves its own.

    Args:
        network: Has a `pretrained_cfg`.
        mean, std: Per channel, or one for all.
        option: Of which these are the `-mean` and `-std`, for messages.

    Raises:
        UserError: Another number of values than of channels.
    """
    cfg = network.pretrained_cfg
    channels = cfg['input_size'][0]
    for name, value in (('mean', mean), ('std', std)):
        if (value := _for_channels(value, channels, f'{option}-{name}')) is not None:
            cfg = {**cfg, name: tuple(value) if len(value) == channels else tuple(value) * channels}
    network.pretrained_cfg = network.default_cfg = cfg


def set_input(network: nn.Module, config: dict[str, Any]) -> None:
    """Write the input configuration a network is trained with into it, so that its export says so."""
    kept = {key: value for key, value in network.pretrained_cfg.items() if key not in _TEST_INPUT}
    network.pretrained_cfg = {**kept, **config, 'num_classes': network.num_classes}
    network.default_cfg = network.pretrained_cfg
