"""What the three scripts do: train a network, distil one, measure some."""
import json
import logging
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from ..data import create_eval_loader, create_eval_transform
from ..distill import Teacher, create_method
from ..errors import UserError, last_line
from ..files import replace_file
from ..report import data_profile, format_table
from ..report.summary import write_csv
from .evaluate import evaluate
from .fit import Result, check_recipe, fit
from .folder import RunFolder, check_key, find_folder
from .launch import create_accelerator, on_main, set_up_logging
from .networks import (
    check_model_name, check_takes_images, create_network, load_weights, resolve_input, set_input)
from .recipe import Data, load_data, recipe_key

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
    folder = _open_folder(args, data, accelerator, f'{_short(args.model)}-{args.loss}')
    result = fit(args, accelerator, data, network, folder, config)
    _tell(accelerator, {args.model: result.student}, folder)
    accelerator.end_training()
    return result


def distill(args: Namespace, teacher_args: Namespace, to_yaml: Callable[[Namespace], str]) -> Result:
    """Train the teacher if there is none, then distil the student; what distill.py does.

    Args:
        args: Options of `distill_parser`.
        teacher_args: Options of the teacher's own training.
        to_yaml: Writes either of them; the teacher's are complete only when it is known whether its weights can be had.
    """
    accelerator = create_accelerator(args.log_with)
    set_up_logging(accelerator.is_main_process)
    check_model_name(args.student, '--student')
    if not args.teacher_checkpoint:
        check_model_name(args.teacher, '--teacher')
    data = _open_data(args, accelerator)
    student = _trainable_network(args, args.student, data, accelerator, '--student')
    method = create_method(args.kd, prior=data.prior, **args.kd_kwargs)
    if args.teacher_checkpoint:
        network = load_network(args.teacher_checkpoint, args.teacher, data, '--teacher-checkpoint')
    else:
        _open_folder(args, data, accelerator, '')  # one that cannot be used is told before the teacher's hours
        network = _train_teacher(args, teacher_args, to_yaml, accelerator, data)
    folder = _open_folder(args, data, accelerator, f'{_short(args.student)}-{args.kd}')
    _check_teacher_size(args, network)
    teacher = Teacher(network, img_size=args.teacher_img_size)
    result = fit(args, accelerator, data, student, folder, to_yaml(args), teacher=teacher, method=method)
    _tell(accelerator, {
        f'teacher {_short(args.teacher)}': result.teacher, f'student {_short(args.student)}': result.student}, folder)
    accelerator.end_training()
    return result


def validate(args: Namespace) -> dict[str, dict[str, Any]]:
    """Measure checkpoints on the validation split; what validate.py does.

    Args:
        args: Options of `validate_parser`.

    Returns:
        A report by checkpoint.
    """
    accelerator = create_accelerator()
    set_up_logging(accelerator.is_main_process)
    if not args.checkpoint and not (args.model and args.pretrained):
        raise UserError('name a checkpoint (a run\'s folder, a file of weights, hf-hub:…), or --model with --pretrained')
    suffix = Path(args.results_file).suffix if args.results_file else None
    if suffix not in (None, '.json', '.csv'):
        raise UserError(f'--results-file {args.results_file}: name a .json or a .csv file')
    if suffix is not None and not Path(args.results_file).resolve().parent.is_dir():
        raise UserError(f'--results-file {args.results_file}: there is no such folder')
    data = _open_data(args, accelerator)
    rows = {}
    for source in args.checkpoint or [args.model]:
        network = load_network(source, args.model, data, 'checkpoint', pretrained=args.pretrained)
        pixels = resolve_input(args, network.pretrained_cfg)
        check_takes_images(network, pixels['input_size'], source)
        transform = create_eval_transform(**{**pixels, 'input_size': tuple(pixels['input_size'][-2:])})
        loader = create_eval_loader(
            data.splits.val, transform, batch_size=args.validation_batch_size or args.batch_size,
            rank=accelerator.process_index, world_size=accelerator.num_processes, workers=args.workers,
            pin_memory=args.pin_mem)
        network.to(accelerator.device)
        if args.channels_last:
            network.to(memory_format=torch.channels_last)
        rows[source] = evaluate(network, loader, accelerator, data.prior, args.channels_last)
    accelerator.print(format_table(rows))
    if args.results_file and accelerator.is_main_process:
        _write_results(Path(args.results_file), rows)
    accelerator.end_training()
    return rows


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


def _network_of_folder(folder: Path, data: Data, what: str) -> nn.Module:
    try:
        config = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
        name, classes = config['architecture'], config.get('num_classes')
        kwargs, cfg = config.get('model_args') or {}, config.get('pretrained_cfg') or {}
        kinds = (name, str), (classes, int | None), (kwargs, dict), (cfg, dict)
        if not all(isinstance(value, kind) for value, kind in kinds):
            raise ValueError('an entry is of the wrong kind')
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise UserError(
            f'{what}: {folder} is no finished run or timm model folder (config.json: {last_line(e)})') from None
    names = config.get('label_names')
    if isinstance(names, list) and len(names) == data.prior.num_classes and names != list(data.splits.class_names):
        at = next(i for i, (a, b) in enumerate(zip(names, data.splits.class_names, strict=True)) if a != b)
        raise UserError(
            f"{what}: class {at} is '{names[at]}' for {folder} and '{data.splits.class_names[at]}' in the data; "
            'give the data the same --class-map')
    network = create_network(name, classes, option=what, model_kwargs=kwargs)
    load_weights(network, folder / 'model.safetensors', what)
    network.pretrained_cfg = {**network.pretrained_cfg, **cfg}
    return network


def _train_teacher(
        args: Namespace,
        teacher_args: Namespace,
        to_yaml: Callable[[Namespace], str],
        accelerator: Accelerator,
        data: Data,
) -> nn.Module:
    """The teacher from teachers/ under the output folder; trained there first if it is not there yet."""
    if teacher_args.pretrained is None:
        teacher_args.pretrained = on_main(accelerator, lambda: _fetch_zoo_weights(args.teacher))
    key = recipe_key(teacher_args, data, accelerator)
    path = Path(args.output) / 'teachers' / f'{_short(args.teacher)}-{key}'
    if on_main(accelerator, (path / 'report.json').is_file):
        _logger.info(f'teacher {args.teacher}: trained before, from {path}')
    else:
        network = _trainable_network(teacher_args, args.teacher, data, accelerator, '--teacher')
        _check_teacher_size(args, network)  # not after its training
        _logger.info(f'teacher {args.teacher}: training it first, in {path}')
        fit(teacher_args, accelerator, data, network, RunFolder(path, key, resume=True), to_yaml(teacher_args))
        accelerator.free_memory()
    return load_network(str(path), None, data, '--teacher')


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


def _check_teacher_size(args: Namespace, network: nn.Module) -> None:
    """Whether a teacher can be shown images of the size that the options ask for."""
    cfg = network.pretrained_cfg
    side = args.teacher_img_size or (None if cfg.get('fixed_input_size') else args.img_size)
    if side is not None:
        check_takes_images(network, (cfg['input_size'][0], side, side), f"--teacher '{args.teacher}'")


def _trainable_network(args: Namespace, name: str, data: Data, accelerator: Accelerator, option: str) -> nn.Module:
    """A network as the options describe it, seeded, that knows how its images come; the whole recipe is checked."""
    set_seed(args.seed)
    network = create_network(
        name, data.prior.num_classes, option=option, pretrained=args.pretrained, img_size=args.img_size,
        model_kwargs=args.model_kwargs, drop_rate=args.drop or None, drop_path_rate=args.drop_path,
        global_pool=args.gp)
    if args.initial_checkpoint:
        load_weights(network, args.initial_checkpoint, '--initial-checkpoint')
    set_input(network, resolve_input(args, network.pretrained_cfg))
    check_takes_images(network, network.pretrained_cfg['input_size'], f"{option} '{name}'")
    check_recipe(args, accelerator, data, network)
    return network


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
        write_csv(path, ['checkpoint', *columns], ([name, *(row.get(key) for key in columns)] for name, row in rows.items()))


def _short(model: str) -> str:
    """A model name that can be part of a file name."""
    return model.replace('/', '_').replace(':', '_')
