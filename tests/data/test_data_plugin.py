"""Long-tailed CIFAR through timm's own factory."""
import pickle

import numpy as np
import pytest
import timm.data
from timm.data import dataset_factory

from timm_ltkd.data import LongTailedDataset, create_dataset, long_tail_counts, long_tail_indices, register


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setattr(dataset_factory, '_TORCH_BASIC_DS', dict(dataset_factory._TORCH_BASIC_DS))
    register()


def test_all_names_are_registered_beside_timms_own():
    table = dataset_factory._TORCH_BASIC_DS
    names = {f'cifar{classes}_lt{factor}' for classes in (10, 100) for factor in (10, 20, 50, 100, 200)}
    assert names | {'cifar10', 'cifar100', 'mnist'} <= set(table)


@pytest.mark.parametrize('name, num_classes, per_class, factor', [('cifar10', 10, 20, 20), ('cifar100', 100, 15, 10)])
def test_timms_factory_gives_the_selection(cifar_root, name, num_classes, per_class, factor):
    dataset = timm.data.create_dataset(f'torch/{name}_lt{factor}', root=str(cifar_root), split='train')
    whole = timm.data.create_dataset(f'torch/{name}', root=str(cifar_root), split='train')
    assert isinstance(dataset, LongTailedDataset)
    counts = long_tail_counts(num_classes, per_class, factor)
    assert np.array_equal(dataset.class_counts, counts)
    assert np.array_equal(dataset.indices, long_tail_indices(whole.targets, counts, seed=0))
    assert dataset.class_names == [f'name{c}' for c in range(num_classes)]
    image, target = dataset[7]
    expected, label = whole[int(dataset.indices[7])]
    assert target == label == dataset.targets[7] and image.tobytes() == expected.tobytes()


def test_the_test_part_is_whole(cifar_root):
    dataset = timm.data.create_dataset('torch/cifar10_lt20', root=str(cifar_root), split='validation')
    assert dataset.class_counts.tolist() == [2] * 10


def test_our_factory_takes_the_names_too(cifar_root):
    ours = create_dataset('torch/cifar100_lt10', root=cifar_root)
    same = create_dataset('lt/cifar100', root=cifar_root, imbalance_factor=10)
    assert np.array_equal(ours.indices, same.indices)
    assert pickle.loads(pickle.dumps(ours))[3][1] == ours[3][1]


def test_a_transform_is_passed_on(cifar_root):
    def size(image):
        return image.size

    dataset = timm.data.create_dataset('torch/cifar10_lt10', root=str(cifar_root), split='train', transform=size)
    assert dataset[0][0] == (32, 32)


def test_registering_twice_changes_nothing():
    before = set(dataset_factory._TORCH_BASIC_DS)
    register()
    assert set(dataset_factory._TORCH_BASIC_DS) == before


def test_a_timm_without_the_table_gets_one_warning(monkeypatch):
    with monkeypatch.context() as patch:
        patch.delattr(dataset_factory, '_TORCH_BASIC_DS')
        with pytest.warns(UserWarning, match='not registered: torch/cifar10_lt10, .*torch/cifar100_lt200') as caught:
            register()
    assert len(caught) == 1
