"""Methods, losses and networks that are no part of timm or timm_ltkd: their code counts in a run's key."""
import hashlib
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import timm
from timm.models import model_entrypoint

from ..distill import loss_class, method_class
from ..options import trained_network

_KNOWN = ('timm', 'timm_ltkd')  # whose versions are the user's affair


def own_code(args: Namespace, methods: list[str]) -> dict[str, str]:
    """SHA-256 of each file outside timm and timm_ltkd that defines what a run names.

    Args:
        args: Options of the run.
        methods: Names of its distillation methods.

    Raises:
        UserError: A loss or method that nobody has registered.
    """
    found = {}
    for definition in _definitions(args, methods):
        module = definition.__module__
        file = getattr(sys.modules.get(module), '__file__', None)
        if module.partition('.')[0] not in _KNOWN and file:
            found[module] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return found


def _definitions(args: Namespace, methods: list[str]) -> Iterator:
    """What the run's names stand for."""
    yield loss_class(args.loss)
    yield from map(method_class, methods)
    name = trained_network(args)
    if timm.is_model(name):
        yield model_entrypoint(name)
