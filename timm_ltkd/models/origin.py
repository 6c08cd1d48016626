"""Where a network comes from: the package that defines it, its paper, its page, the weights it began with."""
from collections.abc import Mapping
from typing import Any

import timm
from timm.models import PretrainedCfg, is_model, list_models, model_entrypoint

from ..errors import nearest

HUB = ('hf-hub:', 'hf_hub:')
ELSEWHERE = (*HUB, 'local-dir:')  # how names of models begin that are not in timm's list
_ARXIV = 'arXiv:'
_PAGES = 'https://huggingface.co'


def model_origin(name: str, pretrained: bool = False) -> dict[str, str]:
    """What timm's registry says of a network, for people; what it does not say is left out.

    Args:
        name: A timm model name, perhaps with the tag of its weights.
        pretrained: Whether it began with these weights (or the default ones).

    Returns:
        `package` (first part of the module that registers it), `page`, `paper` (its name, or its number), `paper_url`;
        of pretrained weights `weights` (their id on the hub) and their `license`. Papers in timm's own registry are
        those of the weights, so a network of timm's without weights has none.
    """
    architecture, _, tag = name.partition('.')
    if not is_model(architecture):
        return {}
    cfg = _config(architecture, tag)
    package = model_entrypoint(architecture).__module__.split('.')[0]
    origin: dict[str, str | None] = {'package': package, 'page': cfg.origin_url}
    if package == 'timm' and cfg.hf_hub_id:
        origin['page'] = f'{_PAGES}/{cfg.hf_hub_id}'  # which names the papers of network and weights
    if package != 'timm' or pretrained:
        origin |= _paper(cfg)
    if pretrained and cfg.hf_hub_id:
        origin |= {'weights': cfg.hf_hub_id, 'license': cfg.license}
    return {key: value for key, value in origin.items() if value}


def _config(architecture: str, tag: str) -> PretrainedCfg:
    try:
        cfg = timm.get_pretrained_cfg(f'{architecture}.{tag}' if tag else architecture)
    except RuntimeError:  # another version of timm had weights of this tag
        cfg = timm.get_pretrained_cfg(architecture)
    return cfg or PretrainedCfg()


def _paper(cfg: PretrainedCfg) -> dict[str, str | None]:
    ids = [cfg.paper_ids] if isinstance(cfg.paper_ids, str) else list(cfg.paper_ids or ())
    first = ids[0] if ids else None
    url = f'https://arxiv.org/abs/{first.removeprefix(_ARXIV)}' if first and first.startswith(_ARXIV) else None
    return {'paper': cfg.paper_name or first, 'paper_url': url}


def unknown_model(name: str) -> str | None:
    """Why there is no model of a name that is to be in timm's list, the nearest named; None if there is one."""
    architecture = name.partition('.')[0]
    return None if is_model(architecture) else f"unknown model '{name}'{nearest(architecture, list_models())}"


def network_name(config: Mapping[str, Any]) -> str:
    """The name by which options and reports call the network of a config.json, whatever builds it.

    Args:
        config: As timm writes it.
    """
    return str((config.get('model_args') or {}).get('network') or config['architecture'])
