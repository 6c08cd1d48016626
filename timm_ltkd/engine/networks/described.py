"""What the folder of a network says of it: in config.json, as timm writes it, and in a run's args.yaml."""
import json
from pathlib import Path
from typing import Any

from torch import nn

from ...errors import UserError, reason
from ...models import ELSEWHERE, network_name
from ...plain_yaml import read_yaml

_WRITTEN_AT_THE_END = ('config.json', 'model.safetensors')  # of a run


def place_of(source: str) -> Path:
    """The file or folder that a source of weights names, also by `local-dir:`."""
    return Path(source.removeprefix('local-dir:'))


def read_config_json(folder: Path, what: str) -> dict[str, Any]:
    """config.json of a run's folder, or of any that timm wrote."""
    if (folder / 'args.yaml').is_file() and not any((folder / name).is_file() for name in _WRITTEN_AT_THE_END):
        raise UserError(f'{what}: the run in {folder} is not finished; --resume {folder} continues it')
    try:
        config = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
        kinds = (
            (config['architecture'], str), (config.get('num_classes'), int | None),
            (config.get('model_args') or {}, dict), (config.get('pretrained_cfg') or {}, dict))
        if not all(isinstance(value, kind) for value, kind in kinds):
            raise ValueError('an entry is of the wrong kind')
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise UserError(
            f'{what}: {folder} is no finished run or timm model folder (config.json: {reason(e)})') from None
    return config


def config_of(path: Path, network: nn.Module, what: str) -> dict[str, Any] | None:
    """config.json in a folder, or beside a file of weights if it is of this network; None if there is none."""
    folder = path if path.is_dir() else path.parent
    if not path.exists() or not (folder / 'config.json').is_file():
        return None
    config = read_config_json(folder, what)
    return config if path.is_dir() or config['architecture'] == network.pretrained_cfg.get('architecture') else None


def label_names(network: nn.Module) -> list[str] | None:
    """Class names by index of a network from `load_network`, as its config.json or the hub has them; None for one
    without."""
    told = network.pretrained_cfg if network.config_json is None else network.config_json
    names = told.get('label_names')
    if not isinstance(names, list | tuple) or len(names) != network.num_classes:
        return None
    return [str(name) for name in names]


def trained_counts(network: nn.Module) -> list[int] | None:
    """Training images of each class of what a network from `load_network` was trained on; None where nothing says."""
    counts = (network.config_json or {}).get('class_counts')
    right = isinstance(counts, list) and len(counts) == network.num_classes and all(
        isinstance(count, int) and count > 0 for count in counts)
    return counts if right else None


def built_in_fix(network: nn.Module) -> str | None:
    """The post-hoc fix that a network from `load_network` was exported with, such as 'logit-adjust 1'."""
    return (network.config_json or {}).get('posthoc')


def architecture(source: str, what: str) -> str | None:
    """Which network a source of weights holds, of the hub its address; None for a file, which does not say."""
    folder = place_of(source)
    if folder.is_dir():
        return network_name(read_config_json(folder, what))
    return source if source.startswith(ELSEWHERE) else None


def network_options(source: str, what: str) -> dict[str, Any]:
    """The options of train.py that make the network of a folder anew; none for a file of weights."""
    if not Path(source).is_dir():
        return {}
    config = read_config_json(Path(source), what)
    return {
        'model': network_name(config),
        'small_image_stem': config['architecture'] == 'small_image_stem',
        'model_kwargs': {
            key: value for key, value in (config.get('model_args') or {}).items()
            if key not in ('num_classes', 'network')},
    }


def run_options(source: str) -> dict[str, Any]:
    """What args.yaml in a run's folder holds; nothing for other sources of weights."""
    file = place_of(source) / 'args.yaml'
    kept = read_yaml(file) if file.is_file() else None
    return kept if isinstance(kept, dict) else {}
