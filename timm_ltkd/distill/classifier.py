"""What turns a network's features into logits: as timm finds it, or as its shape tells."""
from collections.abc import Sequence
from typing import Any, cast

from timm.utils import unwrap_model
from torch import nn

from ..errors import UserError


def find_classifiers(model: nn.Module) -> list[list[nn.Module]]:
    """The classifiers of a network as timm finds them, else the one linear layer with an output for each class.

    Returns:
        Those that judge an image, and of each the parts that judge a part of it; nearly always one of one. None where
        nothing is found.
    """
    model = unwrap_model(model)
    found = cast(Any, model).get_classifier() if hasattr(model, 'get_classifier') else _layer_for_classes(model)
    heads: list[list[Any]] = [
        list(head) if isinstance(head, nn.ModuleList) else [head]
        for head in (found if isinstance(found, Sequence) else [found])]
    return heads if all(isinstance(part, nn.Module) for head in heads for part in head) else []


def classifiers(model: nn.Module) -> list[list[nn.Module]]:
    """`find_classifiers`, or a UserError if nothing is found."""
    if not (heads := find_classifiers(model)):
        raise UserError(
            f'{type(unwrap_model(model)).__name__} has no get_classifier, nor one linear layer with an output for each '
            'class, so it gives no features; choose another model, or a method that needs logits only')
    return heads


def _layer_for_classes(model: nn.Module) -> nn.Module | None:
    classes = getattr(model, 'num_classes', None)
    layers = [  # or what stands in the place of one while it is trained
        m for m in model.modules()
        if (isinstance(m, nn.Linear) or hasattr(m, 'to_linear')) and getattr(m, 'out_features', None) == classes]
    return layers[0] if len(layers) == 1 else None


def classifier_names(model: nn.Module) -> list[str]:
    """What the layers of its `find_classifiers` are called in a network."""
    parts = {part for head in find_classifiers(model) for part in head}
    return [name for name, module in unwrap_model(model).named_modules() if module in parts]


def linear_classifier(network: nn.Module, needs: str) -> tuple[str, nn.Linear]:
    """The one linear layer that gives a network's logits, and its name in the network.

    Args:
        network: Not compiled.
        needs: What needs it, as the message begins: '--tau-norm needs'.

    Raises:
        UserError: Its classifier is no single linear layer.
    """
    found = [part for head in find_classifiers(network) for part in head]
    names = classifier_names(network)
    if len(found) != 1 or not isinstance(found[0], nn.Linear) or len(names) != 1:
        kind = 'not found' if not found else 'several layers' if len(found) > 1 else type(found[0]).__name__
        hint = ' (of --loss ldam)' if kind == 'CosineLinear' else ''
        other = 'choose another network' + ('' if found else ', or give it a get_classifier that returns the layer')
        raise UserError(
            f'{needs} a linear classifier, and that of {type(network).__name__} is {kind}{hint}; {other}')
    return names[0], found[0]
