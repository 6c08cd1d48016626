"""What train.py and distill.py do: train a network; train the teachers it lacks and distil a student."""
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from accelerate import Accelerator
from torch import nn

from ..distill import DistillMethod, create_methods, feature_dim
from ..errors import UserError
from ..report import format_table
from .build import refuse_given
from .combinations import check_method, check_teachers
from .fit import Result, fit
from .folder import RunFolder, check_key, find_folder, short_name
from .initial import trainable_network
from .launch import create_accelerator, on_main, set_up_logging
from .networks import check_model_name
from .recipe import Data, listed, open_data, recipe_key
from .teachers import check_teacher_sizes, create_teacher, plan_teachers, train_teachers
from .trained import architecture


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
    network = trainable_network(args, args.model, data, accelerator, '--model')
    folder = _open_folder(args, data, accelerator, f'{short_name(args.model)}-{args.stage or args.loss}')
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
    args.teacher_tune = args.teacher_tune or ('none' if args.teacher_checkpoint else 'all')
    data = open_data(args, accelerator)
    student = trainable_network(args, args.student, data, accelerator, '--student')
    refuse_given('--kd-kwargs', args.kd_kwargs)
    teachers = plan_teachers(args, teacher_args, accelerator, data)
    check_teacher_sizes(args, teachers)
    keys = [teacher.key for teacher in teachers]
    method = _create_method(args, data, student, [teacher.network for teacher in teachers])
    name = f'{short_name(args.student)}-{"+".join(listed(args.kd))}'
    if args.teacher_tune != 'none':
        _open_folder(args, data, accelerator, name, keys)  # one that cannot be used is told before the teacher's hours
        train_teachers(teachers, to_yaml, accelerator, data)
    folder = _open_folder(args, data, accelerator, name, keys)
    teacher = create_teacher(args, teachers, student)
    result = fit(args, accelerator, data, student, folder, to_yaml(args), teacher=teacher, method=method)
    names = ' + '.join(short_name(own.model) for own in teacher_args)
    _tell(accelerator, {
        f'teacher {names}': result.teacher, f'student {short_name(args.student)}': result.student}, folder)
    accelerator.end_training()
    return result


def _name_teachers(args: Namespace, teacher_args: Sequence[Namespace]) -> None:
    """Call teachers that come in folders by what these hold; in place."""
    for source, own in zip(listed(args.teacher_checkpoint), teacher_args, strict=False):
        own.model = architecture(source, '--teacher-checkpoint') or own.model
    if args.teacher_checkpoint:
        names = [own.model for own in teacher_args]
        args.teacher = names if len(names) > 1 else names[0]


def _create_method(
        args: Namespace, data: Data, student: nn.Module, teachers: Sequence[nn.Module]) -> DistillMethod:
    """The methods that the options name, for networks with features of these lengths."""
    def length(network: nn.Module) -> int | None:
        with suppress(UserError):  # of no concern to a method that needs logits only
            return feature_dim(network)

    try:
        method = create_methods(
            listed(args.kd), args.kd_kwargs, prior=data.prior, student_features=length(student),
            teacher_features=[length(teacher) for teacher in teachers])
    except UserError as e:
        for network in (student, *teachers) if 'feature_dim' in str(e) else ():
            feature_dim(network)  # which says why it has no features
        raise
    check_method(args, method)
    return method


def _open_folder(
        args: Namespace, data: Data, accelerator: Accelerator, name: str, teachers: Sequence[str] = ()) -> RunFolder:
    key = recipe_key(args, data, accelerator, teachers)

    def find():
        folder = find_folder(args, name, key)
        check_key(folder, args)
        return folder.path, folder.resume, folder.replace
    path, resume, replace = on_main(accelerator, find)
    return RunFolder(path, key, resume, replace)


def _tell(accelerator: Accelerator, rows: dict[str, dict[str, Any]], folder: RunFolder) -> None:
    accelerator.print(format_table(rows))
    if accelerator.is_main_process:
        names = sorted(path.name for path in folder.path.iterdir() if not path.name.startswith('.'))
        accelerator.print(f'\nin {folder.path}: {", ".join(names)}')
