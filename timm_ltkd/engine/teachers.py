"""The teachers of a run: as they come, or trained on its data first; and made ready for its student."""
import gc
import hashlib
import json
import logging
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from accelerate import Accelerator
from torch import nn

from ..distill import Teacher, TeacherEnsemble
from ..models import ELSEWHERE
from ..options import listed
from .build import trainable_network
from .combinations import corrections
from .fit import fit
from .holdout import warn_of_seen_holdout
from .networks.create import check_takes_images
from .networks.described import built_in_fix, run_options
from .networks.labels import find_class_map
from .networks.trained import load_network
from .processes.launch import on_main
from .recipe import file_key, recipe_key
from .run_data import Data
from .run_folder.folder import RunFolder, short_name
from .teacher_recipe import complete_recipe

_logger = logging.getLogger(__name__)
_LOOK_AGAIN = 2.  # seconds


@dataclass
class PlannedTeacher:
    """A teacher that is found, and may have to be trained.

    Attributes:
        recipe: Options of its own training.
        network: What teaches; as long as it is to be trained, one of its shape.
        key: Tells it from others.
        folder: Where it is trained; None if it is taken as it is.
        class_map: Its index of each class of the data, where its label space is another.
    """
    recipe: Namespace
    network: nn.Module
    key: str
    folder: RunFolder | None = None
    class_map: list[int] | None = None


def plan_teachers(
        args: Namespace, recipes: Sequence[Namespace], accelerator: Accelerator, data: Data, student: nn.Module,
) -> list[PlannedTeacher]:
    """Find the teachers that the options name; nothing is trained yet.

    Args:
        args: Options of distill.py.
        recipes: Of each teacher's own training; completed in place.
        data: What is taught.
        student: What they teach, whose images they are trained on where they are trained whole.

    Raises:
        UserError: Weights that are not there or don't fit, another label space than that of the data, or images of a
            size that a teacher does not take.
    """
    sources = listed(args.teacher_checkpoint) or [None] * len(recipes)
    maps = listed(args.teacher_class_map) or [None]
    maps = maps * len(recipes) if len(maps) == 1 else maps
    if args.teacher_tune == 'none':
        return [_as_it_is(args, *each, data) for each in zip(recipes, sources, maps, strict=True)]
    return [_to_be_tuned(args, *each, accelerator, data, student) for each in zip(recipes, sources, strict=True)]


def _as_it_is(
        args: Namespace, recipe: Namespace, source: str | None, map_file: str | None, data: Data) -> PlannedTeacher:
    """A teacher with the head that it has, which takes images of the size that the options ask for."""
    options = dict(small_image_stem=recipe.small_image_stem, model_kwargs=recipe.model_kwargs,
                   normalised=(args.teacher_mean, args.teacher_std))
    if source is None:
        network = load_network(
            recipe.model, recipe.model, None, '--teacher', pretrained=True, img_size=args.teacher_img_size, **options)
        key = _zoo_key(recipe.model)
    else:
        network = load_network(source, recipe.model, None, '--teacher-checkpoint', **options)
        key = file_key(source)
        if args.holdout:
            warn_of_seen_holdout(source, args, data)
    class_map = find_class_map(network, source or recipe.model, map_file, data)
    for told in (class_map, [args.teacher_mean, args.teacher_std]):
        if told not in (None, [None, None]):
            key += ':' + hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
    channels, *size = network.pretrained_cfg['input_size']
    if args.teacher_img_size:
        size = [args.teacher_img_size] * 2
    check_takes_images(network, (channels, *size), f"--teacher '{recipe.model}'")
    return PlannedTeacher(recipe, network, key, class_map=class_map)


def _zoo_key(name: str) -> str:
    """What tells zoo weights from others: their full name."""
    if name.startswith(ELSEWHERE):
        return file_key(name)
    cfg = timm.get_pretrained_cfg(name)
    return name if cfg is None else f'{cfg.architecture}.{cfg.tag}'


def _to_be_tuned(
        args: Namespace,
        recipe: Namespace,
        source: str | None,
        accelerator: Accelerator,
        data: Data,
        student: nn.Module,
) -> PlannedTeacher:
    """A teacher with a classifier for this data, trained in a folder of its own."""
    network = complete_recipe(args, recipe, source, accelerator, data, student)
    key = recipe_key(recipe, data, accelerator, [file_key(source)] if source else ())
    folder = RunFolder(_place(args, f'{short_name(recipe.model)}-{key}'), key, resume=True)
    return PlannedTeacher(recipe, network, key, folder)


def _place(args: Namespace, name: str) -> Path:
    """The folder of a teacher's training; of a run that is resumed by its path, where that run had it."""
    if args.resume not in (None, 'auto'):
        for parent in Path(args.resume).resolve().parents:
            if (parent / 'teachers' / name).is_dir():
                return parent / 'teachers' / name
    return Path(args.output) / 'teachers' / name


def teacher_corrections(args: Namespace, plans: Sequence[PlannedTeacher]) -> list[str]:
    """What of the teachers' own training makes up for the class frequencies, as far as that is known."""
    if args.teacher_tune != 'none':
        return [told for plan in plans for told in corrections(vars(plan.recipe))]
    found = []
    for folder, plan in zip(listed(args.teacher_checkpoint), plans, strict=False):
        fix = built_in_fix(plan.network)
        found += ([f'built-in {fix}'] if fix else []) + corrections(run_options(folder))
    return found


def train_teachers(
        plans: Sequence[PlannedTeacher],
        accelerator: Accelerator,
        data: Data,
) -> None:
    """Put the trained network into each plan; those that are not in their folders yet are trained there first."""
    tuned, missing = [plan for plan in plans if plan.folder], []
    for plan in tuned:  # all are made, and their mistakes told, before the first is trained
        recipe = plan.recipe
        if on_main(accelerator, lambda folder=plan.folder: folder.finished):
            _logger.info(f'teacher {recipe.model}: trained before, from {plan.folder.path}')
        else:
            missing.append((plan, trainable_network(recipe, recipe.model, data, accelerator, '--teacher')))
    while missing:
        plan, network = missing.pop(0)  # and so freed, once it is trained
        if not _is_ours_to_train(plan, accelerator):
            continue
        _logger.info(f'teacher {plan.recipe.model}: training it first, in {plan.folder.path}')
        try:
            fit(plan.recipe, accelerator, data, network, plan.folder)
        finally:
            plan.folder.release()  # for this process too, which may try again
        accelerator.free_memory()
        gc.collect()  # it lets go of its optimizers last, and under fp16 they refer to themselves
    for plan in tuned:
        plan.network = load_network(str(plan.folder.path), None, data, '--teacher')


def _is_ours_to_train(plan: PlannedTeacher, accelerator: Accelerator) -> bool:
    """Whether a teacher is still to be trained, once no other run trains it; its folder is then held."""
    folder, told = plan.folder, False
    while not on_main(accelerator, lambda: folder.hold(patience=0)):  # each asks anew: no process waits for long
        if not told:
            _logger.info(f'teacher {plan.recipe.model}: another run trains it in {folder.path}; waiting for that')
            told = True
        time.sleep(_LOOK_AGAIN)
    if on_main(accelerator, lambda: folder.finished):
        folder.release()
        return False
    return True


def create_teacher(
        args: Namespace, plans: Sequence[PlannedTeacher], student: nn.Module) -> Teacher | TeacherEnsemble:
    """The teacher of a student, of trained networks; several as one."""
    teachers = [
        Teacher(
            plan.network, img_size=_shown_size(args, plan, student), dtype=getattr(torch, args.teacher_dtype),
            class_map=plan.class_map, fast=True)
        for plan in plans]
    return teachers[0] if len(teachers) == 1 else TeacherEnsemble(teachers)


def _shown_size(args: Namespace, plan: PlannedTeacher, student: nn.Module) -> tuple[int, int] | None:
    """(height, width) of the images that a teacher is shown: as the options say, else as it was trained; None if they
    are the student's."""
    trained, shown = (tuple(n.pretrained_cfg['input_size'][-2:]) for n in (plan.network, student))
    size = (args.teacher_img_size,) * 2 if args.teacher_img_size else trained
    if size == shown:
        return None
    if not args.teacher_img_size:
        _logger.info(
            f'teacher {plan.recipe.model} sees images of {size[0]} pixels, as it was trained; the student of '
            f'{shown[0]}')
    return size
