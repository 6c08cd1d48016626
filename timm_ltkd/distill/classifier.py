"""The linear layer that gives a network's logits."""
from typing import Any, cast

from torch import nn

from ..errors import UserError


def timm_classifier(network: nn.Module) -> Any:
    """The classifier of a network as timm finds it; None for one without that interface."""
    return cast(Any, network).get_classifier() if hasattr(network, 'get_classifier') else None


def linear_classifier(network: nn.Module, needs: str) -> tuple[str, nn.Linear]:
    """The one linear layer that gives a network's logits, and its name in the network.

    Args:
        network: A timm model.
        needs: What needs it, as the message begins: '--tau-norm needs'.

    Raises:
        UserError: Its classifier is no single linear layer.
    """
    classifier = timm_classifier(network)
    names = [name for name, module in network.named_modules() if module is classifier]
    if not isinstance(classifier, nn.Linear) or len(names) != 1:
        kind = 'one that timm does not find' if classifier is None else type(classifier).__name__
        hint = ' (of --loss ldam)' if kind == 'CosineLinear' else ''
        raise UserError(
            f'{needs} a linear classifier, and that of {type(network).__name__} is {kind}{hint}; choose another '
            'network')
    return names[0], classifier
