"""Files of weights: read safely, and loaded where they fit."""
from collections.abc import Sequence
from pathlib import Path

import torch
from timm.models import load_state_dict
from torch import nn

from ...errors import UserError, first_few, last_line, not_there


def read_weights(path: str | Path, what: str) -> dict[str, torch.Tensor]:
    """What a file of weights (safetensors, or a torch checkpoint that holds nothing but data) holds, by name.

    Raises:
        UserError: No such file; truncated; not safe to load.
    """
    try:
        if text := _begin_of_text(path):
            raise UserError(f"{what}: {path} is text and no checkpoint ('{text}…'): fetch the file itself")
        state = load_state_dict(str(path), weights_only=True)
    except FileNotFoundError:
        raise UserError(f'{what}: {not_there(path)}') from None
    except UserError:
        raise
    except AttributeError:  # something that was saved by torch, but no dict
        raise UserError(f'{what}: {path} holds no weights by name') from None
    except Exception as e:  # torch raises a dozen kinds
        if 'allowlisted' in str(e) or 'nsupported' in str(e):
            raise UserError(
                f'{what}: {path} is not safe to load (it holds more than data); save its state_dict alone') from None
        raise UserError(f'{what}: {path} is truncated or no checkpoint ({last_line(e)[:120]})') from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        entries = f', but {first_few([str(key) for key in state])}' if isinstance(state, dict) else ''
        raise UserError(f'{what}: {path} holds no weights by name{entries}')
    return state


def _begin_of_text(path: str | Path) -> str:
    """The first words of a file of text, such as a pointer of git LFS or a page of HTML; '' for others."""
    with open(path, 'rb') as file:
        begin = file.read(60)
    return ' '.join(begin.decode().split()) if begin.isascii() and b'\0' not in begin else ''


def load_weights(network: nn.Module, path: str | Path, what: str, keep: Sequence[str] = ()) -> None:
    """Load a file of weights, see `read_weights`, strictly, but for the layers named in `keep`, which stay as they are.

    Raises:
        UserError: As `read_weights`; weights of another architecture or label space.
    """
    state, own = read_weights(path, what), network.state_dict()
    kept = tuple(f'{layer}.' for layer in keep)
    if kept:
        state = {key: value for key, value in state.items() if not key.startswith(kept)}
        state |= {key: value for key, value in own.items() if key.startswith(kept)}
    name = network.pretrained_cfg['architecture']
    wrong = [key for key in own if key in state and own[key].shape != state[key].shape]
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if wrong:
        key = wrong[-1]
        head = getattr(network, 'num_classes', None)
        hint = f' (the network has {head} classes)' if list(own[key].shape)[:1] == [head] else ''
        if hint and what == '--initial-checkpoint':
            hint += '; --new-head trains another classifier on the rest'
        raise UserError(
            f'{what}: {path} does not fit {name}: {key} is {list(state[key].shape)}, '
            f'expected {list(own[key].shape)}{hint}')
    if missing or extra:
        names = ', '.join((missing + extra)[:2])
        raise UserError(
            f'{what}: {path} is of another architecture than {name}: {len(missing)} weights missing, {len(extra)} '
            f'unknown ({names}, …)' + (
                '; as many of each: if it is the same network by other names, give them those of timm'
                if len(missing) == len(extra) else ''))
    network.load_state_dict(state)
