"""What train.py and distill.py do: train a network; train the teachers it lacks and distil a student."""
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from accelerate import Accelerator
from torch import nn

from ..data import seeded_generators
from ..distill import DistillMethod, create_methods, feature_dim, loss_class
from ..errors import UserError
from ..options import listed
from ..report import format_table, spread
from .build import refuse_given, trainable_network
from .combinations import check_cuda_graph, check_method, check_names, check_teachers, warn_of_corrected_teachers
from .doubts import told_once, warn_of_deferral, warn_of_zero_classifier
from .epoch.optimizer import run_epochs
from .fit import Result
from .networks.create import check_model_name
from .networks.described import architecture
from .processes.launch import job, on_main
from .recipe import recipe_key
from .run_data import Data, open_data
from .run_folder.folder import RunFolder, check_key, find_folder, short_name
from .seeds.asked import SomeFailed, check_seeds, each_seed, seed_name, warn_of_one_seed
from .seeds.fit import Plan, fit_all
from .sharing.share import check_sharing, share_runs
from .teachers import create_teacher, plan_teachers, teacher_corrections, train_teachers

_METHOD_DRAWS = -3  # no image's index, so that these draws are nobody else's


def train(args: Namespace, idle: str = '') -> list[Result]:
    """Train one network, or one for each of --seeds; what train.py does.

    Args:
        args: Options of `train_parser`.
        idle: Which of them change nothing, to be told.

    Returns:
        Of each seed.
    """
    with job(args.log_with, idle) as accelerator:
        check_model_name(args.model, '--model')
        loss_class(args.loss)
        check_cuda_graph(args, accelerator)
        check_seeds(args)
        data = open_data(args, accelerator)
        name, plans, each = f'{short_name(args.model)}-{args.stage or args.loss}', [], each_seed(args)
        for own in each:  # their mistakes are told before the first is trained
            with told_once(first=not plans):
                network = trainable_network(own, own.model, data, accelerator, '--model')
            plans.append((own, network, _open_folder(own, data, accelerator, name, several=args.seeds is not None)))
        check_sharing([own for own, _, _ in plans], accelerator)
        plans, results, failed = fit_all(plans, accelerator, data)
        _tell(accelerator, {}, args.model, plans, results, several=len(each) > 1)
    _end(plans, failed, accelerator)
    return results


def distill(args: Namespace, teacher_args: Sequence[Namespace], idle: str = '') -> list[Result]:
    """Train the teachers if there are none, then distil the student, or one for each of --seeds; what distill.py does.

    Args:
        args: Options of `distill_parser`.
        teacher_args: Options of each teacher's own training.
        idle: Which of `args` change nothing, to be told.

    Returns:
        Of each seed.
    """
    with job(args.log_with, idle) as accelerator:
        check_model_name(args.student, '--student')
        check_teachers(args)
        refuse_given('--kd-kwargs', args.kd_kwargs)
        check_names(args)
        _name_teachers(args, teacher_args)
        if not args.teacher_checkpoint:
            for own in teacher_args:
                check_model_name(own.model, '--teacher')
        check_cuda_graph(args, accelerator)
        check_seeds(args)
        data = open_data(args, accelerator)
        each, students = each_seed(args), []
        warn_of_one_seed(args, each)
        for own in each:
            with told_once(first=not students):
                students.append((own, trainable_network(own, own.student, data, accelerator, '--student')))
        teachers = plan_teachers(args, teacher_args, accelerator, data, students[0][1])
        keys, networks = [teacher.key for teacher in teachers], [teacher.network for teacher in teachers]
        methods = []
        for own, student in students:
            with told_once(first=not methods):
                methods.append(_create_method(own, data, student, networks))
        warn_of_corrected_teachers(args, methods[0], teacher_corrections(args, teachers))
        name, several = f'{short_name(args.student)}-{"+".join(listed(args.kd))}', args.seeds is not None
        for own, _ in students:  # a folder that cannot be used is told before the teacher's hours
            _open_folder(own, data, accelerator, name, keys, several)
        check_sharing([own for own, _ in students], accelerator)  # last, as it makes the repository
        if args.teacher_tune != 'none':
            train_teachers(teachers, accelerator, data)
        plans = [(own, student, _open_folder(own, data, accelerator, name, keys, several)) for own, student in students]
        teacher = create_teacher(args, teachers, students[0][1])
        plans, results, failed = fit_all(plans, accelerator, data, teacher, methods)
        names = ' + '.join(short_name(own.model) for own in teacher_args)
        rows = {f'teacher {names}': result.teacher for result in results[:1]}
        _tell(accelerator, rows, f'student {short_name(args.student)}', plans, results, several=len(each) > 1)
    _end(plans, failed, accelerator)
    return results


def _end(plans: Sequence[Plan], failed: SomeFailed | None, accelerator: Accelerator) -> None:
    """Share the runs that came to their end, as far as their options ask for it; then tell of those that did not."""
    wrong = [] if failed is None else [str(failed)]
    try:
        share_runs([(own, folder.path) for own, _, folder in plans], accelerator.is_main_process)
    except UserError as e:
        wrong.append(str(e))
    if wrong:
        raise UserError('; '.join(wrong))


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
        with seeded_generators(args.seed, _METHOD_DRAWS):  # whatever was drawn for the teachers
            method = create_methods(
                listed(args.kd), args.kd_kwargs, prior=data.prior, student_features=length(student),
                teacher_features=[length(teacher) for teacher in teachers])
    except UserError as e:
        for network in (student, *teachers) if 'feature_dim' in str(e) else ():
            feature_dim(network)  # which says why it has no features
        raise
    check_method(args, method)
    warn_of_deferral(method, '--kd-kwargs', run_epochs(args))
    warn_of_zero_classifier(args, student, method)
    return method


def _open_folder(
        args: Namespace,
        data: Data,
        accelerator: Accelerator,
        name: str,
        teachers: Sequence[str] = (),
        several: bool = False,
) -> RunFolder:
    key = recipe_key(args, data, accelerator, teachers)
    name = f'{name}-seed{args.seed}' if several else name  # those of one minute would have one name

    def find() -> RunFolder:
        folder = find_folder(args, name, key)
        check_key(folder, args)
        return folder
    return on_main(accelerator, find)


def _tell(
        accelerator: Accelerator,
        rows: dict[str, dict[str, Any]],
        name: str,
        plans: Sequence[Plan],
        results: Sequence[Result],
        several: bool,
) -> None:
    """Print a table of what was trained, below other rows, and where all of it is."""
    if not plans:
        return
    reports = [result.student for result in results]
    for (own, _, _), report in zip(plans, reports, strict=True):
        rows[f'{name}, {seed_name(own)}' if several else name] = report
    if len(reports) > 1:
        rows |= spread(reports)
    accelerator.print(format_table(rows) + '\n')
    if accelerator.is_main_process:
        for _, _, folder in plans:
            names = sorted(path.name for path in folder.path.iterdir() if not path.name.startswith('.'))
            accelerator.print(f'in {folder.path}: {", ".join(names)}')
