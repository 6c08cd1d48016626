"""What validate.py --predict does: the classes of a user's own images, as CSV."""
import logging
import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import DataLoader

from ..data import create_image_loader, find_images, stop_workers
from ..errors import UserError
from ..report.summary import write_csv, write_rows
from .evaluate import answers, place
from .loaders import eval_transform
from .networks.described import label_names
from .networks.trained import load_named, named_networks
from .processes.launch import job, loader_workers, pins_memory

_logger = logging.getLogger(__name__)
TOPK = 5


class Predictions(NamedTuple):
    """The likeliest classes of the images that could be read, the likeliest first.

    Attributes:
        index: Position of each image among the files, int64 `[N]`, ascending.
        classes: int64 `[N, K]`.
        probabilities: float32 `[N, K]`.
        broken: How many images could not be read.
    """
    index: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray
    broken: int


def predict(args: Namespace) -> int:
    """Tell the classes of images; what validate.py --predict does.

    Args:
        args: Options of `validate_parser`.

    Returns:
        How many images could not be read; the log names them.
    """
    with job() as accelerator:
        source = _checked_source(args)
        network = load_named(args, source)
        names = label_names(network) or [str(index) for index in range(network.num_classes)]
        files = find_images(args.predict)
        loader = create_image_loader(
            files, eval_transform(network.pretrained_cfg), batch_size=args.validation_batch_size or args.batch_size,
            rank=accelerator.process_index, world_size=accelerator.num_processes, workers=loader_workers(args.workers),
            pin_memory=pins_memory(args, accelerator))
        place(network, accelerator.device, args.channels_last)
        try:
            found = predict_images(network, loader, accelerator, args.topk or TOPK, args.channels_last)
        finally:
            stop_workers(loader)
        if accelerator.is_main_process:
            _write(args, [_shown_name(file, args.predict) for file in files], names, found)
    return found.broken


def predict_images(
        network: nn.Module,
        loader: DataLoader,
        accelerator: Accelerator,
        topk: int,
        channels_last: bool = False,
) -> Predictions:
    """One pass over the images; the same predictions on every process. A message for each broken image is logged.

    Args:
        network: Takes `[B, channels, H, W]`, returns logits `[B, C]`; put in eval mode.
        loader: From `create_image_loader`.
        topk: How many classes of each image, at most all.
    """
    topk, broken, device = min(topk, network.num_classes), 0, accelerator.device

    def readable() -> Iterator[tuple]:
        nonlocal broken
        for batch in loader:
            for message in batch.broken:
                _logger.error(message)
            broken += len(batch.broken)
            if batch.pixels is not None:
                yield batch.pixels.to(device, non_blocking=device.type == 'cuda'), None, batch.index

    none = torch.empty(0, topk, device=device)
    columns = [(torch.empty(0, dtype=torch.int64), none.long(), none)]
    for logits, _, index in answers(network, readable(), channels_last, what='predictions'):
        top = logits.float().softmax(dim=1).topk(topk, dim=1)
        columns.append((index, top.indices, top.values))  # they stay on the device: to copy them is to wait for it
    shares = gather_object([([torch.cat(column).cpu() for column in zip(*columns, strict=True)], broken)])
    index, classes, probabilities = (
        torch.cat(column).numpy() for column in zip(*(columns for columns, _ in shares), strict=True))
    order = index.argsort()
    return Predictions(index[order], classes[order], probabilities[order], sum(count for _, count in shares))


def _checked_source(args: Namespace) -> str:
    """The one network that the options name.

    Raises:
        UserError: None or several; options that say something about figures; nowhere to write to.
    """
    source, *more = named_networks(args)
    if more:
        raise UserError(f'--predict is about one network, and these are {1 + len(more)}; name one checkpoint')
    if args.results_file:
        raise UserError('--results-file is about figures, and --predict gives none; leave one of them out')
    for option, value in {'--tau-norm': args.tau_norm, '--logit-adjust': args.logit_adjust}.items():
        if value:
            raise UserError(
                f'--predict takes a network as it is: build {option} into one first (python -m timm_ltkd.export '
                f'{source} {option} TAU --export-dir FOLDER), and predict by that')
    if args.predictions_file:
        file = Path(args.predictions_file).resolve()
        if not file.parent.is_dir() or file.is_dir():
            what = 'this is a folder, name a file in it' if file.is_dir() else 'there is no such folder'
            raise UserError(f'--predictions-file {args.predictions_file}: {what}')
    return source


def _shown_name(file: str, root: str) -> str:
    """A file's name below the folder that was given; of the one file, what was given."""
    name = file if file == root else Path(os.path.relpath(file, root)).as_posix()
    return os.fsencode(name).decode('utf-8', 'backslashreplace')  # a name on disk need not be UTF-8


def _write(args: Namespace, files: Sequence[str], names: Sequence[str], found: Predictions) -> None:
    pairs = [f'{kind}_{k + 1}' for k in range(found.classes.shape[1]) for kind in ('class', 'prob')]
    header, lines = ['file', 'class', 'probability', *pairs], _lines(files, names, found)
    if args.predictions_file:
        try:
            write_csv(args.predictions_file, header, lines)
        except OSError as e:
            raise UserError(f'--predictions-file {args.predictions_file} cannot be written ({e.strerror})') from e
        _logger.info(f'{len(found.index)} predictions in {args.predictions_file}')
    else:
        try:
            write_rows(sys.stdout, header, lines)
            sys.stdout.flush()
        except BrokenPipeError:  # who reads them, e.g. `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it ends


def _lines(files: Sequence[str], names: Sequence[str], found: Predictions) -> Iterator[list[str]]:
    """A line of the CSV for each image; probabilities are written so that they read back as the same float32."""
    for index, classes, probabilities in zip(*found[:3], strict=True):
        pairs = [text for c, p in zip(classes, probabilities, strict=True) for text in (names[c], str(p))]
        yield [files[index], *pairs[:2], *pairs]
