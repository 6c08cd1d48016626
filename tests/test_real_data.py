"""The published recipe on real CIFAR-100-LT (slow; needs the shared data pack)."""
import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_two_epochs_of_the_bkd_recipe_in_bf16(shared, tmp_path):
    subprocess.run(
        [sys.executable, str(shared / 'tools' / 'unpack_cifar100_lt.py'), str(tmp_path / 'data'),
         '--imbalance-factor', '100'], check=True)
    subprocess.run(
        [sys.executable, str(ROOT / 'distill.py'), '-c', str(ROOT / 'hparams' / 'cifar100_lt100_bkd.yaml'),
         '--dataset', 'lt/folder', '--data-dir', str(tmp_path / 'data'), '--val-split', 'test', '--epochs', '2',
         '--teacher', 'resnet32',
         '--teacher-checkpoint', str(shared / 'data' / 'resnet32_cifar100_lt100_ce.safetensors'),
         '--output', str(tmp_path), '--experiment', 'run', '--workers', '2'],
        check=True, env={**os.environ, 'ACCELERATE_MIXED_PRECISION': 'bf16'})
    with open(tmp_path / 'run' / 'summary.csv') as f:
        first, second = csv.DictReader(f)
    for column in ('train_loss', 'train_task_loss', 'train_bkd_loss', 'eval_loss'):
        assert float(second[column]) < float(first[column])
    assert float(second['eval_top1']) > 3.  # chance is 1
    assert (float(first['lr']), float(second['lr'])) == pytest.approx((0.02, 0.04))
