"""What validate.py does: measure checkpoints, and post-hoc fixes of them, in one table."""
import json
import logging
from argparse import Namespace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn

from ..data import create_val_split, fingerprint, stop_workers
from ..errors import UserError
from ..files import write_text
from ..prior import ClassPrior
from ..report import format_table
from ..report.summary import write_csv
from .evaluate import evaluate, place
from .holdout import check_holdout_is_unseen
from .loaders import create_full_loader
from .networks.described import built_in_fix, label_names, trained_counts
from .networks.trained import load_named, named_networks
from .posthoc import measure_fixes, wanted_fixes
from .processes.launch import job
from .run_data import Data, check_data_folder, open_data, same_data, warn_of_unmeasured

_logger = logging.getLogger(__name__)


def validate(args: Namespace) -> dict[str, dict[str, Any]]:
    """Measure checkpoints on the validation split; what validate.py does.

    Args:
        args: Options of `validate_parser`.

    Returns:
        A report by checkpoint, and for each post-hoc fix of one by its name and the fix.
    """
    with job() as accelerator:
        sources = named_networks(args)
        results = args.results_file and _checked_results(args.results_file)
        fixes = wanted_fixes(args)
        data = open_data(args, accelerator) if args.train_split else _open_val_data(args, sources[0])
        rows = {}
        try:
            for source in sources:
                rows |= _measure(args, source, fixes, data, accelerator)
        finally:  # what was measured before a mistake, or an interruption, is not lost
            if rows:
                accelerator.print(format_table(rows))
                if results and accelerator.is_main_process:
                    _write_results(results, rows)
    return rows


def _open_val_data(args: Namespace, source: str) -> Data:
    """The split to measure on, under the class names and training counts of a network.

    Args:
        args: Options of validate.py, whose `--train-split` is empty.
        source: The network, one of `named_networks`.

    Returns:
        Data whose training split is not to be looked at: it is the other one.

    Raises:
        UserError: A network that does not say what it was trained on, options that want training images, or what
            `create_val_split` refuses.
    """
    wanting = {
        '--train-list': args.train_list, '--val-list': args.val_list, '--holdout': args.holdout,
        '--imbalance-factor': args.imbalance_factor,
        '--max-per-class': args.max_per_class, '--class-counts': args.class_counts, '--class-map': args.class_map,
        '--on-bad-image skip': args.on_bad_image == 'skip'}
    if given := next((option for option, value in wanting.items() if value), None):
        raise UserError(f"--train-split '' is for a split that is measured as it is; leave {given} out")
    check_data_folder(args)
    network = load_named(args, source)
    names, counts = label_names(network), trained_counts(network)
    if names is None or counts is None:
        raise UserError(
            f"--train-split '': {source} does not say its classes, and how many training images each had; name data "
            'with a training split, or a run')
    splits = create_val_split(
        args.dataset, args.data_dir, args.val_split, names, input_key=args.input_key, target_key=args.target_key,
        download=args.dataset_download)
    prior = ClassPrior(counts, names, many=args.many_shot, few=args.few_shot)
    warn_of_unmeasured(splits)
    return same_data(Data(splits, prior, fingerprint(splits)), args)


def _checked_results(name: str) -> Path:
    """The file for figures, before they are measured; a UserError if they cannot be written there."""
    path = Path(name)
    if path.suffix not in ('.json', '.csv'):
        raise UserError(f'--results-file {name}: name a .json or a .csv file')
    if not path.resolve().parent.is_dir():
        raise UserError(f'--results-file {name}: there is no such folder')
    if path.is_dir():
        raise UserError(f'--results-file {name}: this is a folder, name a file in it')
    return path


def _measure(
        args: Namespace,
        source: str,
        fixes: dict[str, list[float]],
        data: Data,
        accelerator: Accelerator,
) -> dict[str, dict[str, Any]]:
    """Reports of one checkpoint, and of its post-hoc fixes, by name."""
    network = load_named(args, source, data)
    if fixes and (before := built_in_fix(network)) is not None:
        _logger.warning(f'{source} has {before} built in: a fix on top of it corrects twice')
    if 'logit-adjust' not in fixes:  # which says so of its own
        _warn_of_other_counts(source, network, data)
    loader, holdout_loader = create_full_loader(data.splits.val, args, accelerator, network.pretrained_cfg), None
    if any(len(taus) > 1 for taus in fixes.values()):
        check_holdout_is_unseen(source, args, data)
        holdout_loader = create_full_loader(data.splits.holdout, args, accelerator, network.pretrained_cfg)
    place(network, accelerator.device, args.channels_last)
    try:
        if not fixes:
            return {source: evaluate(network, loader, accelerator, data.prior, args.channels_last)}
        reports = measure_fixes(
            network, fixes, args.eval_metric, loader, holdout_loader, accelerator, data.prior, args.channels_last,
            trained=_trained_prior(source, network, data) if 'logit-adjust' in fixes else None)
        return {f'{source} {fix}'.rstrip(): report for fix, report in reports.items()}
    finally:
        stop_workers(loader)
        stop_workers(holdout_loader)


def _warn_of_other_counts(source: str, network: nn.Module, data: Data) -> None:
    """Say so if a network was trained on other numbers of images than those by which classes are grouped here."""
    counts = trained_counts(network)
    if counts not in (None, data.prior.counts.tolist()):
        _logger.warning(
            f'{source} was trained on {sum(counts)} images, and not on the {data.prior.num_samples} of this training '
            'split: many, medium and few are groups of the classes here')


def _trained_prior(source: str, network: nn.Module, data: Data) -> ClassPrior:
    """Of what a network was trained on, which need not be the data that it is measured with."""
    counts, known = trained_counts(network), data.prior.counts.tolist()
    if counts is None:
        _logger.warning(
            f'{source} does not say how many images of each class it was trained on; --logit-adjust takes the '
            'training split of --dataset for it')
    elif counts != known:
        _logger.info(f'{source} was trained on other images than those of --dataset; --logit-adjust goes by its own')
    return ClassPrior(counts or known)


def _write_results(path: Path, rows: dict[str, dict[str, Any]]) -> None:
    if path.suffix == '.json':
        write_text(path, json.dumps(rows, indent=2) + '\n')
    else:
        columns = list(dict.fromkeys(
            key for row in rows.values() for key, value in row.items() if not isinstance(value, list | dict)))
        lines = ([name, *(row.get(key) for key in columns)] for name, row in rows.items())
        write_csv(path, ['checkpoint', *columns], lines)
