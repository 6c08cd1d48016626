"""Trained networks: loaded, and checked to belong to the data."""
import logging
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timm.models import is_model
from torch import nn

from ...distill import classifier_names
from ...errors import UserError, not_there
from ...models import ELSEWHERE, HUB
from ...options import listed
from ..holdout import warn_of_seen_holdout
from ..run_data import Data
from .create import check_takes_images, create_network
from .described import architecture, config_of, label_names, place_of, read_config_json
from .input import resolve_input, set_input, set_normalisation
from .weights import load_weights, read_weights

_logger = logging.getLogger(__name__)


def named_networks(args: Namespace) -> list[str]:
    """What validate.py and export are to load: checkpoints, or the weights that timm knows of a --model.

    Raises:
        UserError: Neither, or options that say otherwise than the checkpoints.
    """
    sources = listed(args.checkpoint)
    if not sources and not (args.model and args.pretrained):
        raise UserError('name a checkpoint (a run\'s folder, weights, hf-hub:…), or --model with --pretrained')
    if sources and args.pretrained:
        raise UserError(f'--pretrained is for the weights that timm knows, and {sources[0]} is another; leave one out')
    for source in sources:  # before any data are read
        if not source.startswith(ELSEWHERE) and not Path(source).exists():
            raise UserError(f'checkpoint: {not_there(source)}')
    folders = [source for source in sources if Path(source).is_dir()]
    if args.model_kwargs and sources and folders == sources:
        raise UserError(f'{folders[0]} says how its network is made; leave --model-kwargs out')
    if args.model and not args.model.startswith(ELSEWHERE) and folders == sources:  # a file of weights wants a name
        for folder in folders:
            if (held := architecture(folder, 'checkpoint')) not in (None, args.model.partition('.')[0]):
                raise UserError(f'{folder} holds a {held}, and --model is {args.model}; leave that out')
    return sources or [args.model]


def load_named(args: Namespace, source: str, data: Data | None = None) -> nn.Module:
    """`load_network` of one of `named_networks`, which knows how its images come and was seen to take such."""
    network = load_network(
        source, args.model, data, 'checkpoint', pretrained=args.pretrained, model_kwargs=args.model_kwargs)
    set_input(network, resolve_input(args, network.pretrained_cfg))
    check_takes_images(network, network.pretrained_cfg['input_size'], source)
    return network


def load_network(
        source: str,
        name: str | None,
        data: Data | None,
        what: str,
        pretrained: bool = False,
        normalised: tuple[Sequence[float] | None, Sequence[float] | None] = (None, None),
        **options: Any,
) -> nn.Module:
    """A trained network whose head belongs to this data's label space.

    Args:
        source: A run's folder (or any folder with timm's config.json), a file of weights, `hf-hub:…`, `local-dir:…`, or
            `name` itself with `pretrained`.
        name: Network of a file of weights.
        data: What it is to be used on; None takes any label space.
        what: Which option gave it, for messages.
        pretrained: Let `source` be a model name, with the weights that timm knows.
        normalised: Mean and standard deviation of a teacher's images, where options say them.
        **options: Of `create_network`, for a network given by name.

    Returns:
        The network; its `config_json` is what the config.json in that folder, or beside the file, says; None without.

    Raises:
        UserError: Nothing there, not safe to load, of another architecture, or of another label space.
    """
    path, from_timm = Path(source), pretrained and source == name  # which may be the name of a folder as well
    known = True  # how its images come
    if from_timm or source.startswith(ELSEWHERE):
        network = create_network(source, None, option=what, pretrained=True, **options)
        config = None if from_timm else config_of(place_of(source), network, what)
    elif path.is_dir():
        config = read_config_json(path, what)
        network = _network_of_folder(path, config, what)
    elif not path.exists():
        raise UserError(f'{what}: {not_there(source)}')
    elif name is None:
        raise UserError(f'{what}: {source} holds weights alone; say of which network with --model')
    else:
        classes = _classes_of_weights(source, name, what, options) if data is None else data.prior.num_classes
        network = create_network(name, classes, option=what, **options)
        load_weights(network, source, what)
        config = config_of(path, network, what)
        known = config is not None
        _set_input(network, config or {})
    network.config_json = config
    if any(normalised):
        set_normalisation(network, *normalised, '--teacher')
    if not known:
        cfg = network.pretrained_cfg
        _logger.info(
            f'{source} does not say what images it was trained on; taken to be of {cfg["input_size"][-1]} pixels, mean '
            f'{cfg["mean"]}, std {cfg["std"]}, unless options or a config.json of timm beside it say otherwise')
    if data is not None:
        if network.num_classes != data.prior.num_classes:
            raise UserError(
                f'{what}: the head of {source} has {network.num_classes} classes and the data '
                f'{data.prior.num_classes}; they must share one label space (validate.py measures on images of some of '
                "its classes with --dataset folder --data-dir DIR --train-split '')")
        if not from_timm:
            _check_label_names(source, label_names(network), data, what)
    return network


def _classes_of_weights(path: str, name: str, what: str, options: dict[str, Any]) -> int | None:
    """How many classes a file of weights tells apart; None if the model of this name does not say by which of them."""
    weights, network = read_weights(path, what), create_network(name, None, option=what, **options)
    found = [weights.get(f'{classifier}.weight') for classifier in _classifiers(network)]
    return None if not found or found[0] is None else len(found[0])


def _classifiers(network: nn.Module) -> tuple[str, ...]:
    """Names of the layers that give the logits, as the network's configuration has them, or as they are found."""
    names = network.pretrained_cfg.get('classifier') or classifier_names(network)
    return (names,) if isinstance(names, str) else tuple(names)


def _set_input(network: nn.Module, config: dict[str, Any]) -> None:
    """Note in a network what config.json says of its images."""
    network.pretrained_cfg = {**network.pretrained_cfg, **(config.get('pretrained_cfg') or {})}


def _check_label_names(source: str | Path, names: Sequence[str] | None, data: Data, what: str) -> None:
    """Raise a UserError if a network numbers the classes of the data differently.

    Numbers name nothing. Of weights that were made elsewhere names of another kind are no more than a warning.
    """
    classes = list(data.splits.class_names)
    numbers = [str(i) for i in range(len(classes))]
    if names is None or len(names) != len(classes) or classes == numbers or list(names) in (classes, numbers):
        return
    at = next(i for i, (a, b) in enumerate(zip(names, classes, strict=True)) if a != b)
    told = f"class {at} is '{names[at]}' for {source} and '{classes[at]}' in the data"
    if str(source).startswith(HUB) and not {*names} & {*classes}:
        _logger.warning(f'{what}: {told}: figures are right only if both number their classes in the same order')
        return
    raise UserError(f'{what}: {told}; give the data the same --class-map')


def _network_of_folder(folder: Path, config: dict[str, Any], what: str) -> nn.Module:
    if not is_model(config['architecture']):
        raise UserError(
            f"{what}: {folder} holds '{config['architecture']}', which is no model of timm or of this package; give "
            'the --import of its training')
    network = create_network(
        config['architecture'], config.get('num_classes'), option=what, model_kwargs=config.get('model_args'))
    load_weights(network, folder / 'model.safetensors', what)
    _set_input(network, config)
    return network


def load_initial(args: Namespace, network: nn.Module, data: Data, what: str) -> None:
    """The weights to start from, of a file or of a run with the same classes; of any others with --new-head, or for a
    stage that makes a new classifier anyway.

    Args:
        args: Name them.
        network: That they are loaded into.
        what: Which option gave them, for messages.
    """
    path = Path(args.initial_checkpoint)
    new_head = args.new_head or getattr(args, 'stage', None) in ('head', 'crt')
    config = read_config_json(path, what) if path.is_dir() else config_of(path, network, what)
    if config is not None and not new_head:
        _check_label_names(path, config.get('label_names'), data, what)
    if args.holdout and not (config is None and args.new_head):  # which are for other classes, and so of other images
        warn_of_seen_holdout(args.initial_checkpoint, args, data)
    if path.is_dir():
        path /= 'model.safetensors'
    load_weights(network, path, what, keep=_classifiers(network) if new_head else ())


def warn_of_other_images(source: str, network: nn.Module, what: str) -> None:
    """Say in the log that weights which stay as they are see other images than they were trained on.

    Args:
        source: A run's folder, or a file of weights.
        network: That they are loaded into, and that knows how its images come.
        what: Which option gave the weights, for messages.
    """
    config = config_of(Path(source), network, what) or {}
    before, now = config.get('pretrained_cfg') or {}, network.pretrained_cfg
    others = [key for key in ('input_size', 'mean', 'std')
              if before.get(key) is not None and list(before[key]) != list(now[key])]
    if others:
        told = '; '.join(f'{key} {list(before[key])} there, {list(now[key])} here' for key in others)
        _logger.warning(
            f'{what} {source} was trained on images made in another way ({told}): give this stage the same size, mean '
            'and standard deviation')
