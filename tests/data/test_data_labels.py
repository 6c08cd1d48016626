"""Labels and class names, read without decoding an image."""
import numpy as np
import pytest
import torch
from timm.data import IterableImageDataset
from torch.utils.data import Dataset, TensorDataset
from torchvision.datasets import FakeData

from timm_ltkd.data import dataset_class_names, dataset_targets
from timm_ltkd.errors import UserError


class Plain(Dataset):
    """A dataset with whatever attributes a test gives it."""

    def __init__(self, length, **attributes):
        self.length = length
        vars(self).update(attributes)

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        raise AssertionError('an image was read')


PAIRS = [('a.png', 1), ('b.png', 0), ('c.png', 2)]


@pytest.mark.parametrize('attributes', [
    dict(targets=[1, 0, 2]), dict(targets=torch.tensor([1, 0, 2])), dict(labels=np.array([1, 0, 2], dtype=np.uint8)),
    dict(_labels=(1, 0, 2)), dict(y=[1, 0, 2]), dict(samples=PAIRS), dict(_samples=PAIRS), dict(imgs=PAIRS),
    dict(targets=['a.txt'], samples=PAIRS),  # not one target per image
    dict(labels=print, y=3, _samples=len, samples=PAIRS),  # other things of these names
    dict(targets=torch.tensor([[1, 5], [0, 5], [2, 6]]), compat=True),  # as QMNIST
    dict(index=[(1, 'a'), (0, 'b'), (2, 'c')], categories_map=[{}] * 3, target_type=['full']),  # as INaturalist
    dict(index=[(0, 'a'), (1, 'b'), (2, 'c')], categories_map=[{'kind': c} for c in (1, 0, 2)], target_type=['kind']),
])
def test_targets_wherever_a_dataset_keeps_them(attributes):
    targets = dataset_targets(Plain(3, **attributes))
    assert targets.dtype == np.int64 and targets.tolist() == [1, 0, 2]


@pytest.mark.parametrize('attributes, message', [
    ({}, 'cannot be read without decoding'),
    (dict(index=[(0, 'a')] * 3, categories_map=[{}], target_type=['full', 'kind']), 'cannot be read without decoding'),
    (dict(targets=[0, -1, 0]), 'image 1 has the label -1'),
    (dict(targets=['cat', 'dog', 'cat']), "image 0 has the label 'cat'; let `targets` be class indices, and `classes`"),
    (dict(targets=[[0, 1], [1], []]), r'image 0 has the label \[0, 1\]'),
    (dict(targets=[None, 0, 1]), 'image 0 has the label None'),
    (dict(targets=[0.5, 0., 1.]), 'image 0 has the label 0.5'),
    (dict(targets=[0, 3_000_000_001, 1]), 'has the label 3000000001, which is none'),
])
def test_targets_refuse(attributes, message):
    with pytest.raises(UserError, match=message):
        dataset_targets(Plain(3, **attributes))


def test_iterable_and_unlabelled_datasets_are_refused():
    with pytest.raises(UserError, match='iterable'):
        dataset_targets(IterableImageDataset('', reader=[]))
    with pytest.raises(UserError, match='FakeData cannot be read without decoding'):
        dataset_targets(FakeData(size=5))
    with pytest.raises(UserError, match='TensorDataset'):
        dataset_targets(TensorDataset(torch.zeros(3)))


@pytest.mark.parametrize('attributes, names', [
    (dict(classes=['cat', 'dog', 'eel']), ['cat', 'dog', 'eel']),
    (dict(classes=np.array(['cat', 'dog', 'eel'])), ['cat', 'dog', 'eel']),
    (dict(classes={'eel': 2, 'cat': 0, 'dog': 1}), ['cat', 'dog', 'eel']),
    (dict(classes={2: 'eel', 0: 'cat', 1: 'dog'}), ['cat', 'dog', 'eel']),
    (dict(classes=3), ['0', '1', '2']),
    (dict(class_to_idx={'dog': 1, 'cat': 0, 'eel': 2}), ['cat', 'dog', 'eel']),
    (dict(class_to_idx={'cat': 0, 'kitten': 0, 'eel': 2}), ['cat', '1', 'eel']),
    (dict(wnids=['n1', 'n2', 'n3'], classes=[('crane',), ('crane',), ('eel',)]), ['n1', 'n2', 'n3']),
    ({}, ['0', '1', '2']),
])
def test_class_names(attributes, names):
    assert dataset_class_names(Plain(3, targets=[1, 0, 2], **attributes)) == names
