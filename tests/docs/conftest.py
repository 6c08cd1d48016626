"""A folder in which the commands of README and docs can be run as they stand: tiny data, networks and runs."""
import dataclasses
import os
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.models import _registry

import timm_ltkd  # noqa: F401
from timm_ltkd.cli import run

ROOT = Path(__file__).resolve().parents[2]
CLASSES = {'ant': 13, 'bee': 7, 'cat': 3}
SMALL = {  # what stands for networks whose size is not the point
    'resnet18': 'test_resnet', 'resnet34': 'test_resnet', 'resnet50': 'test_resnet', 'resnet101': 'test_resnet',
    'resnet152': 'test_resnet', 'resnext50_32x4d': 'test_resnet', 'tf_efficientnet_lite0': 'test_efficientnet',
    'vit_small_patch16_224': 'test_vit'}
MODULES = {'my_method': 'add_a_method.md', 'my_network': 'models.md', 'my_data': 'data.md'}  # first program there
TINY = '--dataset folder --data-dir DATA --img-size 16 --workers 0 --epochs 1 -b 4 --warmup-epochs 0'.split()


@pytest.fixture(autouse=True)
def _fresh_accelerate(fresh_accelerate):
    yield
    fresh_accelerate()


@pytest.fixture(scope='session')
def small():
    return SMALL


@pytest.fixture(scope='session')
def modules():
    return MODULES


@pytest.fixture(scope='module')
def _patched(tmp_path_factory):
    """timm "knows" weights of the tiny networks."""
    folder = tmp_path_factory.mktemp('zoo')
    with pytest.MonkeyPatch.context() as patch:
        for name in set(SMALL.values()):
            torch.manual_seed(0)
            torch.save(timm.create_model(name).state_dict(), folder / f'{name}.pth')
            cfg = dataclasses.replace(timm.get_pretrained_cfg(name), file=str(folder / f'{name}.pth'), hf_hub_id=None)
            for known in (name, f'{name}.{cfg.tag}'):
                patch.setitem(_registry._model_pretrained_cfgs, known, cfg)
        yield


def _images(side=16):
    rng = np.random.RandomState(0)
    for label, (name, size) in enumerate(CLASSES.items()):
        for i in range(size):
            yield label, name, i, Image.fromarray(rng.randint(0, 256, (side, side, 3), dtype=np.uint8))


def _write_data(folder, write_shards):
    for label, name, i, image in _images():
        for split, size in (('train', 99), ('validation', 2), ('test', 2)):
            if i < size:
                (folder / 'DATA' / split / name).mkdir(parents=True, exist_ok=True)
                image.save(folder / 'DATA' / split / name / f'{i:02d}.png')
                for listing in (('train.txt', 'ImageNet_LT_train.txt') if split == 'train' else ('val.txt',)):
                    with open(folder / listing, 'a') as file:
                        file.write(f'{split}/{name}/{i:02d}.png {label}\n')
    labels, _, _, images = zip(*_images(), strict=True)
    for split in ('train', 'validation'):
        np.savez(folder / 'DATA' / f'{split}.npz', images=np.stack(images), labels=labels)
    for name in ('MY_IMAGES', 'BALANCED_IMAGES', 'IMAGENET', 'MORE_IMAGES', 'DIR'):
        os.symlink(folder / 'DATA', folder / name)
    for kind, place, val in (('parquet', 'my_dataset', 'validation'), ('tar', 'MY_SHARDS', 'val')):
        write_shards(kind, folder / place, 'train', images, labels, [12, 11], list(CLASSES))
        write_shards(kind, folder / place, val, images, labels, [23], list(CLASSES))


@pytest.fixture(scope='module')
def workplace(tmp_path_factory, write_shards, _patched, fresh_accelerate):
    """The folder, with what the commands name: data, lists, weights, YAML, modules, and runs below output/."""
    folder = tmp_path_factory.mktemp('workplace')
    _write_data(folder, write_shards)
    os.symlink(ROOT / 'hparams', folder / 'hparams')
    torch.manual_seed(0)
    state = timm.create_model('resnet32', num_classes=len(CLASSES)).state_dict()
    save_file(state, folder / 'weights.safetensors')
    torch.save(timm.create_model('test_resnet', num_classes=len(CLASSES)).state_dict(), folder / 'weights.pth')
    torch.save(timm.create_model('test_efficientnet').state_dict(), folder / 'lite0.pth')
    (folder / 'teacher.yaml').write_text('epochs: 1\nopt: adamw\nlr: 0.001\nbatch_size: 4\n')
    (folder / 'recipe.yaml').write_text('kd: bkd\nclip_grad: 1\n')
    for name, page in MODULES.items():
        code = re.search(r'```python\n(.*?)```', (ROOT / 'docs' / page).read_text(encoding='utf-8'), re.S)[1]
        (folder / f'{name}.py').write_text(code)
    _train_runs(folder, fresh_accelerate)
    return folder


def _train_runs(folder, fresh_accelerate):
    """What is below output/: runs by train.py, one with a holdout, and by distill.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, *words in (
                ('RUN', '--seed', '1'), ('OTHER_RUN', '--seed', '2'), ('run', '--holdout', '0.3'),
                ('kd', '--kd', 'kd'), ('bkd-seed0', '--seed', '0'), ('bkd-seed1', '--seed', '1')):
            script, network = ('distill', '--student') if 'kd' in name else ('train', '--model')
            teacher = ['--teacher-checkpoint', 'output/RUN'] if script == 'distill' else []
            getattr(run, script)([*TINY, network, 'resnet32', *teacher, *words, '--experiment', name])
            fresh_accelerate()
