"""Trained networks: loaded, and checked to belong to the data."""
import json
import logging
from argparse import Namespace
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import UserError, last_line
from .networks import create_network, load_weights
from .recipe import Data, holdout_is_unseen

_logger = logging.getLogger(__name__)


def load_network(source: str, name: str | None, data: Data, what: str, pretrained: bool = False) -> nn.Module:
    """A trained network whose head belongs to this data's label space.

    Args:
        source: A run's folder (or any folder with timm's config.json), a file of weights, `hf-hub:…`, or `name` itself
            with `pretrained`.
        name: Network of a file of weights.
        data: What it is to be used on.
        what: Which option gave it, for messages.
        pretrained: Let `source` be a model name, with the weights that timm knows.

    Raises:
        UserError: Nothing there, not safe to load, of another architecture, or of another label space.
    """
    classes = data.prior.num_classes
    if source.startswith(('hf-hub:', 'hf_hub:')) or (pretrained and source == name):
        network = create_network(source, None, option=what, pretrained=True)
    elif Path(source).is_dir():
        network = _network_of_folder(Path(source), data, what)
    elif not Path(source).exists():
        raise UserError(f'{what}: there is no file or folder {source}')
    elif name is None:
        raise UserError(f'{what}: {source} holds weights alone; say of which network with --model')
    else:
        network = create_network(name, classes)
        load_weights(network, source, what)
        _note_input(network, Path(source), name, what)
    if network.num_classes != classes:
        raise UserError(
            f'{what}: the head of {source} has {network.num_classes} classes and the data {classes}; '
            'they must share one label space')
    return network


def _note_input(network: nn.Module, file: Path, name: str, what: str) -> None:
    """How a file's network expects its images: as the config.json beside it says, else as usual for the model."""
    if (file.parent / 'config.json').is_file():
        config = _read_config(file.parent, what)
        if config['architecture'] == name.split('.')[0]:
            _set_input(network, config)
            return
    cfg = network.pretrained_cfg
    _logger.info(f'{file} does not say how its images were normalised; taken as usual for {name}: '
                 f'mean {cfg["mean"]}, std {cfg["std"]}')


def _set_input(network: nn.Module, config: dict[str, Any]) -> None:
    """What config.json says of a network's images; `trained_size` is their height and width, for a teacher."""
    cfg = config.get('pretrained_cfg') or {}
    network.pretrained_cfg = {**network.pretrained_cfg, **cfg}
    if 'input_size' in cfg:
        network.trained_size = tuple(cfg['input_size'][-2:])


def architecture(source: str, what: str) -> str | None:
    """Which network a folder holds; None for a file of weights, which does not say."""
    return _read_config(Path(source), what)['architecture'] if Path(source).is_dir() else None


def _read_config(folder: Path, what: str) -> dict[str, Any]:
    """config.json of a run's folder, or of any that timm wrote."""
    try:
        config = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
        kinds = (
            (config['architecture'], str), (config.get('num_classes'), int | None),
            (config.get('model_args') or {}, dict), (config.get('pretrained_cfg') or {}, dict))
        if not all(isinstance(value, kind) for value, kind in kinds):
            raise ValueError('an entry is of the wrong kind')
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise UserError(
            f'{what}: {folder} is no finished run or timm model folder (config.json: {last_line(e)})') from None
    return config


def _check_label_names(folder: Path, config: dict[str, Any], data: Data, what: str) -> None:
    """Raise a UserError if a folder's network numbers the classes of the data differently."""
    names = config.get('label_names')
    if isinstance(names, list) and len(names) == data.prior.num_classes and names != list(data.splits.class_names):
        at = next(i for i, (a, b) in enumerate(zip(names, data.splits.class_names, strict=True)) if a != b)
        raise UserError(
            f"{what}: class {at} is '{names[at]}' for {folder} and '{data.splits.class_names[at]}' in the data; "
            'give the data the same --class-map')


def _network_of_folder(folder: Path, data: Data, what: str) -> nn.Module:
    config = _read_config(folder, what)
    _check_label_names(folder, config, data, what)
    network = create_network(
        config['architecture'], config.get('num_classes'), option=what, model_kwargs=config.get('model_args'))
    load_weights(network, folder / 'model.safetensors', what)
    _set_input(network, config)
    return network


def load_initial(args: Namespace, network: nn.Module, data: Data) -> None:
    """The weights to start from, of a file or of a run with the same classes."""
    path, what = Path(args.initial_checkpoint), '--initial-checkpoint'
    if path.is_dir():
        config = _read_config(path, what)
        _check_label_names(path, config, data, what)
        if args.holdout:
            warn_of_seen_holdout(str(path), args, data)
        path /= 'model.safetensors'
    load_weights(network, path, what)


def warn_of_seen_holdout(source: str, args: Namespace, data: Data) -> None:
    """Say in the log that a checkpoint may have been trained on the images that are now held out."""
    if not holdout_is_unseen(source, args, data):
        _logger.warning(
            f'{source} was not trained with this holdout, as far as one can tell: its figures may flatter what has '
            'learnt from the same images')
