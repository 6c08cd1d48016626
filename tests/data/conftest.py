"""Tiny data sets in the formats that timm reads."""
import hashlib
import pickle

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

CLASSES = ('ant', 'bee', 'cat')


def picture(seed, size=8):
    """A random RGB image."""
    return Image.fromarray(np.random.RandomState(seed).randint(0, 256, (size, size, 3), dtype=np.uint8))


def write_class_folders(folder, sizes, first_seed=0):
    """Write `sizes[name]` images into `folder/name` for every name; an empty folder for a size of 0."""
    seed = first_seed
    for name, size in sizes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(size):
            picture(seed).save(folder / name / f'{i:03d}.png')
            seed += 1
    return folder


@pytest.fixture
def image_root(tmp_path):
    """Image folders: 12 training and 4 validation images of each of three classes."""
    write_class_folders(tmp_path / 'images' / 'train', dict.fromkeys(CLASSES, 12))
    write_class_folders(tmp_path / 'images' / 'val', dict.fromkeys(CLASSES, 4), first_seed=1000)
    return tmp_path / 'images'


def _pickle_into(path, entry):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(entry))
    return [path.name, hashlib.md5(path.read_bytes()).hexdigest()]


@pytest.fixture
def cifar_root(tmp_path, monkeypatch):
    """Both CIFAR sets in the official pickled format, 20 (CIFAR-10) and 15 (CIFAR-100) training images a class."""
    rng = np.random.RandomState(0)
    for dataset_class, label_key, num_classes, per_class, train_files, test_file, meta_key in (
            (CIFAR10, 'labels', 10, 20, ['data_batch_1', 'data_batch_2'], 'test_batch', 'label_names'),
            (CIFAR100, 'fine_labels', 100, 15, ['train'], 'test', 'fine_label_names'),
    ):
        folder = tmp_path / dataset_class.base_folder
        train_labels = rng.permutation(np.repeat(np.arange(num_classes), per_class))
        test_labels = rng.permutation(np.repeat(np.arange(num_classes), 2))
        parts = np.split(train_labels, len(train_files))
        listing = []
        for name, labels in [*zip(train_files, parts, strict=True), (test_file, test_labels)]:
            data = rng.randint(0, 256, (len(labels), 3072), dtype=np.uint8)
            listing.append(_pickle_into(folder / name, {'data': data, label_key: labels.tolist()}))
        names = [f'name{c}' for c in range(num_classes)]
        meta = dataset_class.meta
        _, checksum = _pickle_into(folder / meta['filename'], {meta_key: names})
        monkeypatch.setattr(dataset_class, 'train_list', listing[:-1])
        monkeypatch.setattr(dataset_class, 'test_list', listing[-1:])
        monkeypatch.setattr(dataset_class, 'meta', {**meta, 'md5': checksum})
    return tmp_path
