"""What train.py and distill.py do: train a network; train the teachers it lacks and distil a student."""
import logging
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import timm
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from ..distill import DistillMethod, Teacher, TeacherEnsemble, create_method, feature_dim
from ..errors import UserError
from ..report import format_table
from .build import check_recipe, create_criterion, refuse_given
from .combinations import check_method, check_teachers
from .fit import Result, fit
from .folder import RunFolder, check_key, find_folder
from .launch import create_accelerator, on_main, set_up_logging
from .networks import check_model_name, check_takes_images, create_network, resolve_input, set_input
from .recipe import Data, file_key, listed, open_data, recipe_key
from .stages import check_stage, prepare_stage
from .trained import architecture, load_initial, load_network, warn_of_seen_holdout

_logger = logging.getLogger(__name__)


def train(args: Namespace, config: str) -> Result:
    """Train one network; what train.py does.

    Args:
        args: Options of `train_parser`.
        config: The same as YAML.
    """
    accelerator = create_accelerator(args.log_with)
    set_up_logging(accelerator.is_main_process)
    check_model_name(args.model, '--model')
    data = open_data(args, accelerator)
    network = _trainable_network(args, args.model, data, accelerator, '--model')
    folder = _open_folder(args, data, accelerator, f'{_short(args.model)}-{args.stage or args.loss}')
    result = fit(args, accelerator, data, network, folder, config)
    _tell(accelerator, {args.model: result.student}, folder)
    accelerator.end_training()
    return result


def distill(args: Namespace, teacher_args: Sequence[Namespace], to_yaml: Callable[[Namespace], str]) -> Result:
    """Train the teachers if there are none, then distil the student; what distill.py does.

    Args:
        args: Options of `distill_parser`.
        teacher_args: Options of each teacher's own training.
        to_yaml: Writes any of them; a teacher's are complete only when it is known whether its weights can be had.
    """
    accelerator = create_accelerator(args.log_with)
    set_up_logging(accelerator.is_main_process)
    check_model_name(args.student, '--student')
    check_teachers(args)
    _name_teachers(args, teacher_args)
    if not args.teacher_checkpoint:
        for own in teacher_args:
            check_model_name(own.model, '--teacher')
    data = open_data(args, accelerator)
    student = _trainable_network(args, args.student, data, accelerator, '--student')
    refuse_given('--kd-kwargs', args.kd_kwargs)
    if args.teacher_checkpoint:
        networks = [
            load_network(source, own.model, data, '--teacher-checkpoint')
            for source, own in zip(listed(args.teacher_checkpoint), teacher_args, strict=True)]
        for source in listed(args.teacher_checkpoint) if args.holdout else ():
            warn_of_seen_holdout(source, args, data)
        keys = [file_key(source) for source in listed(args.teacher_checkpoint)]
    else:
        networks = [
            create_network(
                own.model, data.prior.num_classes, option='--teacher', model_kwargs=own.model_kwargs,
                global_pool=own.gp)
            for own in teacher_args]
        folders = [_teacher_folder(args, own, accelerator, data) for own in teacher_args]
        keys = [folder.key for folder in folders]
    method = _create_method(args, data, student, networks[0])
    name = f'{_short(args.student)}-{args.kd}'
    if not args.teacher_checkpoint:
        _open_folder(args, data, accelerator, name, keys)  # one that cannot be used is told before the teacher's hours
        networks = _train_teachers(args, teacher_args, folders, to_yaml, accelerator, data)
    folder = _open_folder(args, data, accelerator, name, keys)
    for own, network in zip(teacher_args, networks, strict=True):
        _check_teacher_size(args, own.model, network)
    teachers = [Teacher(network, img_size=_teacher_side(args, student, network)) for network in networks]
    teacher = teachers[0] if len(teachers) == 1 else TeacherEnsemble(teachers)
    result = fit(args, accelerator, data, student, folder, to_yaml(args), teacher=teacher, method=method)
    names = ' + '.join(_short(own.model) for own in teacher_args)
    _tell(accelerator, {
        f'teacher {names}': result.teacher, f'student {_short(args.student)}': result.student}, folder)
    accelerator.end_training()
    return result


def _name_teachers(args: Namespace, teacher_args: Sequence[Namespace]) -> None:
    """Call teachers that come in folders by what these hold; in place."""
    for source, own in zip(listed(args.teacher_checkpoint), teacher_args, strict=False):
        own.model = architecture(source, '--teacher-checkpoint') or own.model
    if args.teacher_checkpoint:
        names = [own.model for own in teacher_args]
        args.teacher = names if len(names) > 1 else names[0]


def _teacher_side(args: Namespace, student: nn.Module, teacher: nn.Module) -> int | None:
    """Side of the images a teacher is shown: as the options say, else as it was trained, if that is another than the
    student's; None leaves them."""
    trained, shown = getattr(teacher, 'trained_size', None), tuple(student.pretrained_cfg['input_size'][-2:])
    if args.teacher_img_size or trained in (None, shown):
        return args.teacher_img_size
    _logger.info(f'the teacher sees images of {trained[0]} pixels, as it was trained; the student of {shown[0]}')
    return trained[0]


def _create_method(args: Namespace, data: Data, student: nn.Module, teacher: nn.Module) -> DistillMethod:
    """The method that the options name, for features of these lengths; several teachers give none."""
    lengths = {}
    for name, network in (('student_features', student), ('teacher_features', teacher)):
        with suppress(UserError):  # of no concern to a method that needs logits only
            lengths[name] = feature_dim(network)
    method = create_method(args.kd, prior=data.prior, **lengths, **args.kd_kwargs)
    check_method(args, method)
    return method


def _train_teachers(
        args: Namespace,
        teacher_args: Sequence[Namespace],
        folders: Sequence[RunFolder],
        to_yaml: Callable[[Namespace], str],
        accelerator: Accelerator,
        data: Data,
) -> list[nn.Module]:
    """The teachers from their folders; those that are not there yet are trained there first."""
    missing = []  # all are made, and their mistakes told, before the first is trained
    for own, folder in zip(teacher_args, folders, strict=True):
        if on_main(accelerator, (folder.path / 'report.json').is_file):
            _logger.info(f'teacher {own.model}: trained before, from {folder.path}')
        else:
            network = _trainable_network(own, own.model, data, accelerator, '--teacher')
            _check_teacher_size(args, own.model, network)
            missing.append((own, folder, network))
    while missing:
        own, folder, network = missing.pop(0)  # and so freed, once it is trained
        _logger.info(f'teacher {own.model}: training it first, in {folder.path}')
        fit(own, accelerator, data, network, folder, to_yaml(own))
        accelerator.free_memory()
    return [load_network(str(folder.path), None, data, '--teacher') for folder in folders]


def _teacher_folder(args: Namespace, own: Namespace, accelerator: Accelerator, data: Data) -> RunFolder:
    """Where a teacher of this recipe is kept."""
    if own.pretrained is None:
        own.pretrained = on_main(accelerator, lambda: _fetch_zoo_weights(own.model))
    key = recipe_key(own, data, accelerator)
    return RunFolder(Path(args.output) / 'teachers' / f'{_short(own.model)}-{key}', key, resume=True)


def _fetch_zoo_weights(name: str) -> bool:
    """Whether the weights that timm knows for a model can be had; fetches them, or warns that they can't."""
    if timm.get_pretrained_cfg(name) is None or not timm.get_pretrained_cfg(name).has_weights:
        return False
    try:
        create_network(name, None, option='--teacher', pretrained=True)
    except UserError as e:
        _logger.warning(f'{e}: the teacher starts from scratch')
        return False
    return True


def _check_teacher_size(args: Namespace, name: str, network: nn.Module) -> None:
    """Whether a teacher can be shown images of the size that the options ask for."""
    cfg = network.pretrained_cfg
    side = args.teacher_img_size or (None if cfg.get('fixed_input_size') else args.img_size)
    if side is not None:
        check_takes_images(network, (cfg['input_size'][0], side, side), f"--teacher '{name}'")


def _trainable_network(args: Namespace, name: str, data: Data, accelerator: Accelerator, option: str) -> nn.Module:
    """A network as the options describe it, seeded, that knows how its images come; the whole recipe is checked."""
    if stage := getattr(args, 'stage', None):
        check_stage(args)
    set_seed(args.seed)
    network = create_network(
        name, data.prior.num_classes, option=option, pretrained=args.pretrained, img_size=args.img_size,
        model_kwargs=args.model_kwargs, drop_rate=args.drop or None, drop_path_rate=args.drop_path,
        global_pool=args.gp)
    if args.initial_checkpoint:
        load_initial(args, network, data)
    set_input(network, resolve_input(args, network.pretrained_cfg))
    check_takes_images(network, network.pretrained_cfg['input_size'], f"{option} '{name}'")
    create_criterion(args, data).prepare(network)
    if stage:
        prepare_stage(network, stage, seed=args.seed)
    check_recipe(args, accelerator, data, network)
    return network


def _open_folder(
        args: Namespace, data: Data, accelerator: Accelerator, name: str, teachers: Sequence[str] = ()) -> RunFolder:
    key = recipe_key(args, data, accelerator, teachers)

    def find():
        folder = find_folder(args, name, key)
        check_key(folder)
        return folder.path, folder.resume, folder.replace
    path, resume, replace = on_main(accelerator, find)
    return RunFolder(path, key, resume, replace)


def _tell(accelerator: Accelerator, rows: dict[str, dict[str, Any]], folder: RunFolder) -> None:
    accelerator.print(format_table(rows))
    if accelerator.is_main_process:
        names = sorted(path.name for path in folder.path.iterdir() if not path.name.startswith('.'))
        accelerator.print(f'\nin {folder.path}: {", ".join(names)}')


def _short(model: str) -> str:
    """A model name that can be part of a file name."""
    return model.replace('/', '_').replace(':', '_')
