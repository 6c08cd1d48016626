"""Registers a model with timm, unless timm itself has one of that name."""
import warnings
from collections.abc import Callable
from typing import TypeVar

import timm
from timm.models import is_model, model_entrypoint, register_model

Entrypoint = TypeVar('Entrypoint', bound=Callable)


def register_new_model(fn: Entrypoint) -> Entrypoint:
    """`timm.models.register_model` for a plugin: a name that timm's own modules have stays timm's, with a warning.

    timm may add a network of one of our names in a later version. Overwriting it would change what other
    people's code gets from `timm.create_model` just because this package was imported.
    """
    name = fn.__name__
    if is_model(name) and model_entrypoint(name).__module__.split('.')[0] == 'timm':
        warnings.warn(
            f"timm {timm.__version__} has its own model '{name}', so timm_ltkd does not register the one of that "
            f"name: timm.create_model('{name}') gives timm's network.",
            stacklevel=2,
        )
        return fn
    return register_model(fn)
