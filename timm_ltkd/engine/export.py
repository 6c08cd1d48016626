"""What a finished run leaves: weights that timm loads, and the report."""
import os
import platform
import subprocess
import tempfile
from argparse import Namespace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from timm.models import save_for_hf
from torch import nn

from ..data import published
from ..distill import plain_classifier
from ..files import replace_file
from ..report import write_report
from .folder import RunFolder
from .recipe import Data, listed

_PACKAGES = ('timm', 'torch', 'torchvision', 'accelerate', 'numpy')


def finish(
        folder: RunFolder,
        args: Namespace,
        accelerator: Accelerator,
        data: Data,
        network: nn.Module,
        report: dict[str, Any],
        teacher_report: dict[str, Any] | None,
        history: list[dict[str, Any]],
        best: dict[str, Any] | None,
        method_report: dict[str, Any],
        holdout_reports: dict[str, dict[str, Any] | None] | None = None,
) -> None:
    """Write model.safetensors, config.json and, last of all, the report; on the main process."""
    export_network(folder.path, network, data)
    run = run_facts(args, accelerator) | {'best': best, 'key': folder.key}
    if method_report:  # of the last epoch
        run['rectification'] = method_report
    student, teacher = _without_loss(report), _without_loss(teacher_report)
    holdout = {role: _without_loss(figures) for role, figures in (holdout_reports or {}).items() if figures}
    write_report(
        folder.path, student=student, teacher=teacher, holdout=holdout, prior=data.prior,
        class_names=data.splits.class_names, history=history, run=run)


def _without_loss(report: dict[str, Any] | None) -> dict[str, Any] | None:
    return report and {key: value for key, value in report.items() if key != 'loss'}


def export_network(folder: Path, network: nn.Module, data: Data) -> None:
    """model.safetensors and config.json, so that `timm.create_model('local-dir:FOLDER', pretrained=True)` loads it.

    config.json also holds the class names and the training images per class. A cosine classifier is exported as the
    plain one that predicts the same.
    """
    config = {
        'label_names': list(data.splits.class_names),
        'class_counts': [int(count) for count in data.prior.counts],
    }
    network.to(memory_format=torch.contiguous_format)  # safetensors takes no other
    model_args = {key: value for key, value in network.model_args.items() if value is not None}
    with tempfile.TemporaryDirectory(dir=folder, prefix='.export.tmp.') as aside, plain_classifier(network):
        save_for_hf(network, aside, model_config=config, model_args=model_args, safe_serialization=True)
        for name in ('model.safetensors', 'config.json'):
            with replace_file(folder / name) as path:
                os.replace(Path(aside) / name, path)


def run_facts(args: Namespace, accelerator: Accelerator) -> dict[str, Any]:
    """Options, software and hardware of a run, for its report."""
    device = accelerator.device
    cores = f'{device.type} ({os.cpu_count()} cores)'
    names = {'student': args.model} if 'model' in args else {
        'student': args.student,
        'teacher': ' + '.join(listed(args.teacher)),
        'method': ' + '.join(listed(args.kd)),
    }
    if remark := published.remark(args.dataset):
        names['data'] = remark
    return names | {
        'args': {key: value for key, value in vars(args).items() if value is not None},
        'versions': {name: version(name) for name in _PACKAGES} | {
            'timm_ltkd': version('timm_ltkd'), 'python': platform.python_version()},
        'hardware': torch.cuda.get_device_name(device) if device.type == 'cuda' else cores,
        'processes': accelerator.num_processes,
        'precision': str(accelerator.mixed_precision),
        'git_commit': _git_commit(),
    }


def _git_commit() -> str | None:
    """Commit of the checkout that this package runs from, if it is one."""
    try:
        answer = subprocess.run(
            ['git', 'rev-parse', 'HEAD'], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None
