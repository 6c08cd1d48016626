"""Small data and weights, and the options that the tests of a script start from."""
import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from front_door import CLASSES
from PIL import Image
from timm.models import _registry

import timm_ltkd  # noqa: F401


def save_pictures(folder: Path, sizes: dict[str, int], seed: int) -> None:
    rng = np.random.RandomState(seed)
    for name, size in sizes.items():
        (folder / name).mkdir(parents=True)
        for i in range(size):
            Image.fromarray(rng.randint(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / name / f'{i:02d}.png')


def save_table(folder: Path, images: Path) -> None:
    """Both splits as parquet files, with two columns of images and two of labels."""
    from datasets import ClassLabel, Dataset, Features, Image
    folder.mkdir()
    files = [str(images / name / f'{i:02d}.png') for name in CLASSES for i in range(2)]
    kinds = ClassLabel(names=list(CLASSES))
    columns = {'image': files, 'label': [0, 0, 1, 1, 2, 2], 'other': files[::-1], 'kind': [0, 1, 1, 2, 2, 2]}
    table = Dataset.from_dict(
        columns, features=Features(image=Image(), label=kinds, other=Image(), kind=kinds))
    for split in ('train', 'validation'):
        table.to_parquet(folder / f'{split}.parquet')


@pytest.fixture(scope='module')
def paths(tmp_path_factory):
    """Files that the cases name: data of 12 (and other) images a class, weights, a class map, YAML."""
    root = tmp_path_factory.mktemp('flags')
    data = root / 'data'
    save_pictures(data / 'train', dict.fromkeys(CLASSES, 12), seed=0)
    save_pictures(data / 'small', dict.fromkeys(CLASSES, 5), seed=1)
    save_pictures(data / 'val', dict.fromkeys(CLASSES, 3), seed=2)
    save_pictures(data / 'test', dict.fromkeys(CLASSES, 2), seed=3)
    save_pictures(root / 'other' / 'train', dict.fromkeys(('x', 'y', 'z'), 12), seed=4)
    save_pictures(root / 'other' / 'val', dict.fromkeys(('x', 'y', 'z'), 3), seed=5)
    shutil.copytree(data, root / 'spoiled')
    (root / 'spoiled' / 'train' / 'ant' / '01.png').write_bytes(b'no image')  # none of those whose pixels are looked at
    save_table(root / 'table', data / 'train')
    (root / 'train_list.txt').write_text(''.join(f'train/{CLASSES[c]}/0{i}.png {c}\n' for c, i in (
        (0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0))))
    (root / 'val_list.txt').write_text('val/cat/00.png 2\nval/ant/00.png 0\n')
    (root / 'map.txt').write_text('cat\nant\nbee\n')
    (root / 'counts.txt').write_text('9\n5\n2\n')
    for name in ('resnet20', 'test_resnet'):
        torch.manual_seed(1)
        torch.save(timm.create_model(name, num_classes=3).state_dict(), root / f'{name}.pt')
    files = {path.name.replace('.', '_'): path for path in root.iterdir() if path.is_file()}
    return dict(root=root, data=data, **files)


@pytest.fixture(scope='module')
def base(paths, tmp_path_factory):
    """A function: the options that every case of a script starts from."""
    data = ['--dataset', 'lt/', '--data-dir', str(paths['data']), '--img-size', '8', '--workers', '0', '-b', '12']
    where = ['--epochs', '4', '--output', str(tmp_path_factory.mktemp('output'))]
    return {
        'train': [*data, *where, '--model', 'resnet20'],
        'distill': [*data, *where, '--student', 'resnet20', '--teacher', 'resnet20', '--teacher-checkpoint',
                    str(paths['resnet20_pt'])],
        'validate': [str(paths['resnet20_pt']), *data, '--model', 'resnet20'],
    }


@pytest.fixture
def zoo(paths, monkeypatch):
    """timm "knows" weights of test_resnet: a local file, 3 classes."""
    cfg = dataclasses.replace(
        timm.get_pretrained_cfg('test_resnet'), file=str(paths['test_resnet_pt']), hf_hub_id=None, num_classes=3)
    for name in ('test_resnet', 'test_resnet.r160_in1k'):
        monkeypatch.setitem(_registry._model_pretrained_cfgs, name, cfg)
    return torch.load(paths['test_resnet_pt'], weights_only=True)
