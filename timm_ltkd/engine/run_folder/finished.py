"""What a finished run leaves: weights that timm loads, the report, and the card."""
import logging
import os
import platform
import subprocess
from argparse import Namespace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from ...data import SkippedImage, count_skipped, published
from ...options import listed, trained_network
from ...report import write_report
from ...report.summary import write_csv
from ...version import __version__
from ..networks.export import export_network
from ..record import Record
from ..run_data import Data
from ..sharing.public import public_name
from ..sharing.share import CARD, card_of, write_card
from .folder import RunFolder

_logger = logging.getLogger(__name__)
_PACKAGES = ('timm', 'torch', 'torchvision', 'accelerate', 'numpy')


def finish(
        folder: RunFolder,
        args: Namespace,
        accelerator: Accelerator,
        data: Data,
        network: nn.Module,
        report: dict[str, Any],
        teacher_report: dict[str, Any] | None,
        record: Record,
        holdout_reports: dict[str, dict[str, Any] | None] | None = None,
) -> None:
    """Write model.safetensors, config.json, the report and the model card; on the main process."""
    card = folder.path / CARD
    told = card_of(folder.path) if card.is_file() else None  # of a finished run: what it said if nobody edited it
    export_network(folder.path, network, data.splits.class_names, data.prior.counts.tolist(), args.license)
    run = run_facts(args, accelerator) | {'best': record.best, 'key': folder.key, 'val_split': data.splits.val_name}
    if record.commits not in ([], [run['git_commit']]):
        run['git_commits'] = record.commits
    if record.method_report:  # of the last epoch
        run['rectification'] = record.method_report
    if skipped := data.splits.skipped:
        write_csv(folder.path / 'skipped_images.csv', SkippedImage._fields, skipped)
        run['skipped_images'] = count_skipped(skipped) | {'listed_in': 'skipped_images.csv'}
    student, teacher = _without_loss(report), _without_loss(teacher_report)
    holdout = {role: _without_loss(figures) for role, figures in (holdout_reports or {}).items() if figures}
    write_report(
        folder.path, student=student, teacher=teacher, holdout=holdout, prior=data.prior,
        class_names=data.splits.class_names, history=record.history, run=run)
    if not card.is_file() or card.read_bytes() == told:
        write_card(folder.path)  # last: the run is finished
    elif card_of(folder.path) != told:
        _logger.warning(f'{card} was edited since this run wrote it, and stays as it is, with the figures of before')


def _without_loss(report: dict[str, Any] | None) -> dict[str, Any] | None:
    return report and {key: value for key, value in report.items() if key != 'loss'}


def run_facts(args: Namespace, accelerator: Accelerator) -> dict[str, Any]:
    """Options, software and hardware of a run, for its report."""
    device = accelerator.device
    cores = f'{device.type} ({os.cpu_count()} cores)'
    names = {'student': public_name(trained_network(args))}
    if 'teacher' in args:
        names |= {
            'teacher': ' + '.join(public_name(name) for name in listed(args.teacher)),
            'method': ' + '.join(listed(args.kd)),
        }
    if remark := published.remark(args.dataset):
        names['data'] = remark
    return names | {
        'args': {key: value for key, value in vars(args).items() if value is not None},
        'versions': {name: version(name) for name in _PACKAGES} | {
            'timm_ltkd': __version__, 'python': platform.python_version()},
        'hardware': torch.cuda.get_device_name(device) if device.type == 'cuda' else cores,
        'processes': accelerator.num_processes,
        'precision': str(accelerator.mixed_precision),
        'git_commit': git_commit(),
    }


def git_commit() -> str | None:
    """Commit of the checkout that this package runs from, if it is one."""
    checkout = Path(__file__).parents[3]
    if not (checkout / '.git').exists():  # as installed, perhaps within a checkout of something else
        return None
    try:
        answer = subprocess.run(
            ['git', 'rev-parse', 'HEAD'], cwd=checkout, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None
