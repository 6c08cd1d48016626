"""What the three scripts do: train a network, distil one, measure some."""
import json
import logging
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import timm
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from ..data import stop_workers
from ..distill import DistillMethod, Teacher, TeacherEnsemble, create_method, feature_dim
from ..errors import UserError, last_line
from ..files import replace_file
from ..report import data_profile, format_table
from ..report.summary import write_csv
from .build import check_recipe, create_criterion, create_full_loader, refuse_given
from .combinations import check_method, check_teachers
from .evaluate import evaluate
from .fit import Result, fit
from .folder import RunFolder, check_key, find_folder
from .launch import create_accelerator, on_main, set_up_logging
from .networks import check_model_name, check_takes_images, create_network, load_weights, resolve_input, set_input
from .posthoc import check_holdout_is_unseen, measure_fixes, wanted_fixes
from .recipe import Data, holdout_is_unseen, listed, load_data, recipe_key
from .stages import check_stage, prepare_stage

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
    data = _open_data(args, accelerator)
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
    if not args.teacher_checkpoint:
        for own in teacher_args:
            check_model_name(own.model, '--teacher')
    data = _open_data(args, accelerator)
    student = _trainable_network(args, args.student, data, accelerator, '--student')
    refuse_given('--kd-kwargs', args.kd_kwargs)
    if args.teacher_checkpoint:
        networks = [
            load_network(source, own.model, data, '--teacher-checkpoint')
            for source, own in zip(listed(args.teacher_checkpoint), teacher_args, strict=True)]
        for source in listed(args.teacher_checkpoint) if args.holdout else ():
            _warn_of_seen_holdout(source, args, data)
    else:
        networks = [
            create_network(
                own.model, data.prior.num_classes, option='--teacher', model_kwargs=own.model_kwargs,
                global_pool=own.gp)
            for own in teacher_args]
    method = _create_method(args, data, student, networks[0])
    if not args.teacher_checkpoint:
        _open_folder(args, data, accelerator, '')  # one that cannot be used is told before the teacher's hours
        networks = _train_teachers(args, teacher_args, to_yaml, accelerator, data)
    folder = _open_folder(args, data, accelerator, f'{_short(args.student)}-{args.kd}')
    for own, network in zip(teacher_args, networks, strict=True):
        _check_teacher_size(args, own.model, network)
    teachers = [Teacher(network, img_size=args.teacher_img_size) for network in networks]
    teacher = teachers[0] if len(teachers) == 1 else TeacherEnsemble(teachers)
    result = fit(args, accelerator, data, student, folder, to_yaml(args), teacher=teacher, method=method)
    names = ' + '.join(_short(own.model) for own in teacher_args)
    _tell(accelerator, {
        f'teacher {names}': result.teacher, f'student {_short(args.student)}': result.student}, folder)
    accelerator.end_training()
    return result


def _create_method(args: Namespace, data: Data, student: nn.Module, teacher: nn.Module) -> DistillMethod:
    """The method that the options name, for features of these lengths; several teachers give none."""
    lengths = {}
    for name, network in (('student_features', student), ('teacher_features', teacher)):
        with suppress(UserError):  # of no concern to a method that needs logits only
            lengths[name] = feature_dim(network)
    method = create_method(args.kd, prior=data.prior, **lengths, **args.kd_kwargs)
    check_method(args, method)
    return method


def validate(args: Namespace) -> dict[str, dict[str, Any]]:
    """Measure checkpoints on the validation split; what validate.py does.

    Args:
        args: Options of `validate_parser`.

    Returns:
        A report by checkpoint, and for each post-hoc fix of one by its name and the fix.
    """
    accelerator = create_accelerator()
    set_up_logging(accelerator.is_main_process)
    if not args.checkpoint and not (args.model and args.pretrained):
        raise UserError('name a checkpoint (a run\'s folder, weights, hf-hub:…), or --model with --pretrained')
    suffix = Path(args.results_file).suffix if args.results_file else None
    if suffix not in (None, '.json', '.csv'):
        raise UserError(f'--results-file {args.results_file}: name a .json or a .csv file')
    if suffix is not None and not Path(args.results_file).resolve().parent.is_dir():
        raise UserError(f'--results-file {args.results_file}: there is no such folder')
    fixes = wanted_fixes(args)
    data = _open_data(args, accelerator)
    rows = {}
    for source in args.checkpoint or [args.model]:
        rows |= _measure(args, source, fixes, data, accelerator)
    accelerator.print(format_table(rows))
    if args.results_file and accelerator.is_main_process:
        _write_results(Path(args.results_file), rows)
    accelerator.end_training()
    return rows


def _measure(
        args: Namespace,
        source: str,
        fixes: dict[str, list[float]],
        data: Data,
        accelerator: Accelerator,
) -> dict[str, dict[str, Any]]:
    """Reports of one checkpoint, and of its post-hoc fixes, by name."""
    network = load_network(source, args.model, data, 'checkpoint', pretrained=args.pretrained)
    pixels = resolve_input(args, network.pretrained_cfg)
    check_takes_images(network, pixels['input_size'], source)
    loaders = [create_full_loader(data.splits.val, args, accelerator, pixels)]
    if any(len(taus) > 1 for taus in fixes.values()):
        check_holdout_is_unseen(source, args, data)
        loaders.append(create_full_loader(data.splits.holdout, args, accelerator, pixels))
    network.to(accelerator.device)
    if args.channels_last:
        network.to(memory_format=torch.channels_last)
    try:
        if not fixes:
            return {source: evaluate(network, loaders[0], accelerator, data.prior, args.channels_last)}
        reports = measure_fixes(
            network, fixes, args.eval_metric, loaders[0], loaders[-1], accelerator, data.prior, args.channels_last)
        return {f'{source} {fix}'.rstrip(): report for fix, report in reports.items()}
    finally:
        for loader in loaders:
            stop_workers(loader)


def load_network(source: str, name: str | None, data: Data, what: str, pretrained: bool = False) -> nn.Module:
    """A trained network whose head belongs to this data's label space.

    Args:
        source: A run's folder (or any folder with timm's config.json), a file of weights, `hf-hub:…`, or `name` itself
            with `pretrained`.
        name: Network of a file of weights.
        data: What it is to be used on.
        what: Which option gave it, for messages.
        pretrained: Let `source` be a model name, with the weights that timm knows.

    Raises:
        UserError: Nothing there, not safe to load, of another architecture, or of another label space.
    """
    classes = data.prior.num_classes
    if source.startswith(('hf-hub:', 'hf_hub:')) or (pretrained and source == name):
        network = create_network(source, None, option=what, pretrained=True)
    elif Path(source).is_dir():
        network = _network_of_folder(Path(source), data, what)
    elif not Path(source).exists():
        raise UserError(f'{what}: there is no file or folder {source}')
    elif name is None:
        raise UserError(f'{what}: {source} holds weights alone; say of which network with --model')
    else:
        network = create_network(name, classes)
        load_weights(network, source, what)
    if network.num_classes != classes:
        raise UserError(
            f'{what}: the head of {source} has {network.num_classes} classes and the data {classes}; '
            'they must share one label space')
    return network


def _read_folder_config(folder: Path, what: str) -> dict[str, Any]:
    """config.json of a run's folder, or of any that timm wrote."""
    try:
        config = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
        kinds = (
            (config['architecture'], str), (config.get('num_classes'), int | None),
            (config.get('model_args') or {}, dict), (config.get('pretrained_cfg') or {}, dict))
        if not all(isinstance(value, kind) for value, kind in kinds):
            raise ValueError('an entry is of the wrong kind')
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise UserError(
            f'{what}: {folder} is no finished run or timm model folder (config.json: {last_line(e)})') from None
    return config


def _check_label_names(folder: Path, config: dict[str, Any], data: Data, what: str) -> None:
    """Raise a UserError if a folder's network numbers the classes of the data differently."""
    names = config.get('label_names')
    if isinstance(names, list) and len(names) == data.prior.num_classes and names != list(data.splits.class_names):
        at = next(i for i, (a, b) in enumerate(zip(names, data.splits.class_names, strict=True)) if a != b)
        raise UserError(
            f"{what}: class {at} is '{names[at]}' for {folder} and '{data.splits.class_names[at]}' in the data; "
            'give the data the same --class-map')


def _network_of_folder(folder: Path, data: Data, what: str) -> nn.Module:
    config = _read_folder_config(folder, what)
    _check_label_names(folder, config, data, what)
    network = create_network(
        config['architecture'], config.get('num_classes'), option=what, model_kwargs=config.get('model_args'))
    load_weights(network, folder / 'model.safetensors', what)
    network.pretrained_cfg = {**network.pretrained_cfg, **(config.get('pretrained_cfg') or {})}
    return network


def _train_teachers(
        args: Namespace,
        teacher_args: Sequence[Namespace],
        to_yaml: Callable[[Namespace], str],
        accelerator: Accelerator,
        data: Data,
) -> list[nn.Module]:
    """The teachers from teachers/ under the output folder; those that are not there yet are trained there first."""
    folders = [_teacher_folder(args, own, accelerator, data) for own in teacher_args]
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


def _open_data(args: Namespace, accelerator: Accelerator) -> Data:
    data = load_data(args, accelerator)
    classes = data.prior.num_classes
    if getattr(args, 'num_classes', None) not in (None, classes):
        raise UserError(f'--num-classes {args.num_classes}: the data have {classes} classes; leave it out')
    _logger.info(f'{args.dataset or "folder"}: {data_profile(data.prior, data.splits.class_names)}')
    return data


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
        _load_initial(args, network, data)
    set_input(network, resolve_input(args, network.pretrained_cfg))
    check_takes_images(network, network.pretrained_cfg['input_size'], f"{option} '{name}'")
    create_criterion(args, data).prepare(network)
    if stage:
        prepare_stage(network, stage, seed=args.seed)
    check_recipe(args, accelerator, data, network)
    return network


def _load_initial(args: Namespace, network: nn.Module, data: Data) -> None:
    """The weights to start from, of a file or of a run with the same classes."""
    path, what = Path(args.initial_checkpoint), '--initial-checkpoint'
    if path.is_dir():
        config = _read_folder_config(path, what)
        _check_label_names(path, config, data, what)
        if args.holdout:
            _warn_of_seen_holdout(str(path), args, data)
        path /= 'model.safetensors'
    load_weights(network, path, what)


def _warn_of_seen_holdout(source: str, args: Namespace, data: Data) -> None:
    if not holdout_is_unseen(source, args, data):
        _logger.warning(
            f'{source} was not trained with this holdout, as far as one can tell: its figures may flatter what has '
            'learnt from the same images')


def _open_folder(args: Namespace, data: Data, accelerator: Accelerator, name: str) -> RunFolder:
    key = recipe_key(args, data, accelerator)

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


def _write_results(path: Path, rows: dict[str, dict[str, Any]]) -> None:
    if path.suffix == '.json':
        with replace_file(path) as aside:
            aside.write_text(json.dumps(rows, indent=2) + '\n', encoding='utf-8')
    else:
        columns = list(dict.fromkeys(key for row in rows.values() for key in row if key != 'per_class'))
        lines = ([name, *(row.get(key) for key in columns)] for name, row in rows.items())
        write_csv(path, ['checkpoint', *columns], lines)


def _short(model: str) -> str:
    """A model name that can be part of a file name."""
    return model.replace('/', '_').replace(':', '_')
