"""timm_ltkd as a plugin of timm, in processes that know nothing else of it."""
import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import timm.optim
import torch
from timm.data import create_dataset, create_loader
from timm.models import is_model
from timm.task import ClassificationTask
from torchvision.datasets import CIFAR100

import timm_ltkd  # noqa: F401  (what is tested: this line registers everything)
from timm_ltkd.models.cifar_net import CifarNet

ROOT = Path(__file__).resolve().parents[1]
SHIM = '''"""Checksums of the files that the test wrote, then the plugin."""
from torchvision.datasets import CIFAR100

CIFAR100.train_list, CIFAR100.test_list, CIFAR100.meta = {lists!r}

import timm_ltkd  # noqa: E402, F401
'''


def write_cifar100(root, per_class=10):
    """CIFAR-100 in the official pickled format with random pixels; gives `train_list`, `test_list` and `meta` of it."""
    rng = np.random.RandomState(0)
    folder = root / CIFAR100.base_folder
    folder.mkdir(parents=True)

    def write(name, entry):
        (folder / name).write_bytes(pickle.dumps(entry))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def part(name, images):
        labels = rng.permutation(np.repeat(np.arange(100), images))
        return write(name, {
            'data': rng.randint(0, 256, (len(labels), 3072), dtype=np.uint8), 'fine_labels': labels.tolist()})

    lists = [part('train', per_class)], [part('test', 1)]
    meta = write('meta', {'fine_label_names': [f'name{c}' for c in range(100)]})
    return *lists, {**CIFAR100.meta, 'md5': meta[1]}


def run_python(*command, **environment):
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT), **environment}
    return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, env=environment)


def test_the_import_registers_and_stays_light_and_pyplot_is_never_loaded(tmp_path):
    done = run_python('-c', '''
import logging, sys, timm, timm_ltkd
from timm.data import dataset_factory
print(timm.is_model('resnet32'), 'cifar100_lt100' in dataset_factory._TORCH_BASIC_DS)
print([name for name in ('datasets', 'matplotlib', 'accelerate') if name in sys.modules])
from timm_ltkd import report
print('matplotlib' in sys.modules)
logging.disable()  # at its first time on a machine, matplotlib tells that it looks at all fonts
report.plot_curves(sys.argv[1], [{'lr': 0.1}])
print('matplotlib.figure' in sys.modules, 'matplotlib.pyplot' in sys.modules)
''', tmp_path / 'c.png')
    assert done.stdout.splitlines() == ['True True', '[]', 'False', 'True False'], done.stderr
    assert done.stderr == ''


def test_a_flow_like_timms_train_script(tmp_path, monkeypatch):
    train_list, test_list, meta = write_cifar100(tmp_path)
    for name, value in (('train_list', train_list), ('test_list', test_list), ('meta', meta)):
        monkeypatch.setattr(CIFAR100, name, value)
    torch.manual_seed(0)
    model = timm.create_model('resnet32', num_classes=100)
    assert isinstance(model, CifarNet) and is_model('resnet32')
    assert sum(parameter.numel() for parameter in model.parameters()) == 464_154 + 90 * 65

    config = timm.data.resolve_data_config({}, model=model)
    assert config['input_size'] == (3, 32, 32) and config['mean'] == (0.4914, 0.4822, 0.4465)
    loaders = []
    for split in ('train', 'validation'):
        dataset = create_dataset('torch/cifar100_lt10', root=str(tmp_path), split=split, batch_size=64)
        loaders.append(create_loader(
            dataset, config['input_size'], batch_size=64, is_training=split == 'train', mean=config['mean'],
            std=config['std'], num_workers=0, use_prefetcher=False, persistent_workers=False))
    train_loader, val_loader = loaders
    counts = [int(10 * 10 ** (-c / 99)) for c in range(100)]
    assert train_loader.dataset.class_counts.tolist() == counts and len(train_loader.dataset) == sum(counts)
    assert len(val_loader.dataset) == 100

    task = ClassificationTask(model, torch.nn.CrossEntropyLoss(), verbose=False)
    optimizer = timm.optim.create_optimizer_v2(model, opt='sgd', lr=0.05)
    task.train()
    before = model.fc.weight.clone()
    for input, target in train_loader:
        loss = task(input, target)['loss']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.isfinite() and not torch.equal(model.fc.weight, before)
    model.eval()
    with torch.no_grad():
        assert sum(len(model(input)) for input, _ in val_loader) == 100


@pytest.mark.skipif('TIMM_TRAIN_SCRIPT' not in os.environ, reason="TIMM_TRAIN_SCRIPT names no copy of timm's train.py")
def test_timms_own_train_script(tmp_path):
    (tmp_path / 'patched_ltkd.py').write_text(SHIM.format(lists=write_cifar100(tmp_path / 'data', per_class=100)))
    done = run_python(
        os.environ['TIMM_TRAIN_SCRIPT'], '--device-modules', 'patched_ltkd', '--data-dir', tmp_path / 'data',
        '--dataset', 'torch/cifar100_lt100', '--num-classes', 100, '--model', 'resnet32', '--epochs', 1,
        '--device', 'cpu', '--workers', 0, '-b', 128, '--lr', 0.01, '--warmup-epochs', 0,
        '--output', tmp_path / 'out', '--experiment', 'run',
        PYTHONPATH=f'{tmp_path}{os.pathsep}{ROOT}')
    assert done.returncode == 0, done.stderr
    summary = (tmp_path / 'out' / 'run' / 'summary.csv').read_text().splitlines()
    assert len(summary) == 2 and summary[0].startswith('epoch,train_loss')
    assert float(summary[1].split(',')[1]) > 0
    state = torch.load(tmp_path / 'out' / 'run' / 'last.pth.tar', weights_only=False)
    assert state['state_dict'].keys() == timm.create_model('resnet32', num_classes=100).state_dict().keys()
