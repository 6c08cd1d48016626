"""A key that tells equal runs from different ones."""
import hashlib
import json
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

import timm
from accelerate import Accelerator
from timm.models import model_entrypoint

from ..distill import loss_class, method_class
from ..options import DATA, MANNER, PLACE, listed, trained_network
from .networks.create import KNOWN
from .networks.described import place_of
from .run_data import Data

# options that do not change the weights that come out, but by data and teachers (whose fingerprint and keys count)
NO_PART = PLACE | MANNER | DATA | {
    'import', 'seeds', 'val_interval', 'eval_metric', 'crop_pct', 'interpolation', 'batch_size', 'grad_accum_steps',
    'teacher_checkpoint', 'teacher_config', 'teacher_pretrained', 'teacher_seed', 'teacher_tune', 'teacher_class_map',
    'teacher_mean', 'teacher_std', 'teacher_small_image_stem', 'teacher_bank', 'bank_features',
}


def recipe_key(args: Namespace, data: Data, accelerator: Accelerator, teachers: Sequence[str] = ()) -> str:
    """16 hex digits that are equal for runs that give the same weights, and differ otherwise.

    The same global batch from more processes or accumulation counts as the same recipe.

    Args:
        teachers: What identifies each teacher: its own recipe key, or `file_key` of its weights.
    """
    recipe = {key: value for key, value in vars(args).items() if key not in NO_PART}
    if not recipe.get('grad_checkpointing'):  # as any new option, or runs from before there was one would not go on
        recipe.pop('grad_checkpointing', None)
    recipe['teachers'] = list(teachers)
    if code := own_code(args, listed(getattr(args, 'kd', None))):
        recipe['own_code'] = code
    recipe |= {key: _by_content(recipe[key]) for key in ('model', 'student', 'teacher') if key in recipe}
    if recipe.get('initial_checkpoint'):
        recipe['initial_checkpoint'] = file_key(recipe['initial_checkpoint'])
    if args.holdout or args.sched == 'plateau':  # evaluation chooses the epoch, or the learning rate
        recipe |= {'chosen_by': args.eval_metric, 'chosen_every': args.val_interval}
        if args.eval_metric == 'few':
            recipe['few_shot'] = args.few_shot
    if args.holdout or args.sched == 'plateau' or teachers:  # which class means are taken with as well
        recipe['evaluated_as'] = [args.crop_pct, args.interpolation]
    recipe['global_batch'] = global_batch(args, accelerator)
    recipe['precision'] = str(accelerator.mixed_precision)
    recipe['data'] = data.fingerprint
    text = json.dumps(recipe, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def own_code(args: Namespace, methods: list[str]) -> dict[str, str]:
    """SHA-256 of each file outside timm and timm_ltkd that defines what a run names.

    Args:
        methods: Names of its distillation methods.

    Raises:
        UserError: A loss or method that nobody has registered.
    """
    found = {}
    for definition in _definitions(args, methods):
        module = definition.__module__
        file = getattr(sys.modules.get(module), '__file__', None)
        if module.partition('.')[0] not in KNOWN and file:
            found[module] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return found


def _definitions(args: Namespace, methods: list[str]) -> Iterator:
    """What the run's names stand for."""
    yield loss_class(args.loss)
    yield from map(method_class, methods)
    name = trained_network(args)
    if timm.is_model(name):
        yield model_entrypoint(name)


def _by_content(name: str | list[str]) -> str | list[str]:
    """Names of networks, where those of a folder count by its weights, wherever it lies."""
    if isinstance(name, list):
        return [_by_content(one) for one in name]
    return file_key(name) if name.startswith('local-dir:') else name


def file_key(source: str) -> str:
    """SHA-256 of a file of weights, or of those in a run's folder; the name itself of weights on the hub."""
    path = place_of(source)
    path = path / 'model.safetensors' if path.is_dir() else path
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else source


def global_batch(args: Namespace, accelerator: Accelerator) -> int:
    """Images of one update over all processes."""
    return args.batch_size * args.grad_accum_steps * accelerator.num_processes
