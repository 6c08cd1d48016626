"""LongTailedDataset: samples, labels, transforms and file names of a selection."""
import pickle
import tarfile

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image
from torch.utils.data import TensorDataset
from torchvision.datasets import ImageFolder, VisionDataset

from timm_ltkd.data import DigitsDataset, LongTailedDataset, create_dataset
from timm_ltkd.errors import UserError


@pytest.fixture(scope='module')
def digits():
    return DigitsDataset(train=False)


def test_a_selection_gives_the_bases_samples(digits):
    indices = [5, 3, 250, 3]
    dataset = LongTailedDataset(digits, indices)
    assert len(dataset) == 4 and dataset.base is digits
    assert dataset.indices.dtype == dataset.targets.dtype == dataset.class_counts.dtype == np.int64
    assert dataset.indices.tolist() == indices
    assert dataset.targets.tolist() == digits.targets[indices].tolist()
    assert dataset.class_counts.tolist() == np.bincount(digits.targets[indices], minlength=10).tolist()
    assert dataset.class_names == digits.classes and dataset.class_to_idx['7'] == 7
    for i, index in enumerate(indices):
        image, target = dataset[i]
        assert image.tobytes() == digits[index][0].tobytes() and target == digits[index][1] == dataset.targets[i]
    assert dataset.filename(0) is None


def test_a_subset_of_a_selection_points_into_the_base(digits):
    part = LongTailedDataset(digits, [5, 3, 250]).subset([2, 0])
    assert part.indices.tolist() == [250, 5] and part.targets.tolist() == digits.targets[[250, 5]].tolist()
    assert len(part.class_counts) == 10


def test_transforms_are_the_bases():
    base = DigitsDataset(train=False)
    dataset = LongTailedDataset(base)
    dataset.transform = lambda image: image.size
    dataset.target_transform = lambda target: -target
    assert base.transform is dataset.transform and dataset[0] == ((32, 32), -dataset.targets[0])
    other = dataset.with_transform(None)
    assert other.transform is None and dataset.transform is not None
    assert isinstance(other[0][0], Image.Image) and other.targets is dataset.targets


class Pairs(VisionDataset):
    """As torchvision's Places365 and others: what is applied is a pair of transforms that the constructor makes."""
    targets = [1, 0]

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.transforms(index, self.targets[index])


def test_transforms_that_torchvision_has_as_a_pair():
    dataset = LongTailedDataset(Pairs('', transform=str))
    other = dataset.with_transform(lambda image: image + 5)
    assert other[1] == (6, 0) and dataset[1] == ('1', 0)
    dataset.target_transform = lambda target: -target
    dataset.transform = None
    assert dataset[0] == (0, -1) and other[0] == (5, 1)


def test_with_transform_reaches_through_a_selection_of_a_selection(digits):
    outer = LongTailedDataset(LongTailedDataset(digits, range(10, 20)), [1, 2])
    view = outer.with_transform(lambda image: 'seen')
    assert view[0] == ('seen', digits.targets[11])
    assert digits.transform is None and isinstance(outer[0][0], Image.Image)


@pytest.mark.parametrize('kwargs, message', [
    (dict(indices=[300]), 'from 0 to 299'),
    (dict(indices=[-1]), 'from 0 to 299'),
    (dict(indices=[0.5]), 'flat list of integers'),
    (dict(indices=[[1]]), 'flat list of integers'),
    (dict(indices=[[1], [1, 2]]), 'flat list of integers'),
    (dict(class_names=['0', '1']), 'label 9 has no class name'),
])
def test_refusals(digits, kwargs, message):
    with pytest.raises(UserError, match=message):
        LongTailedDataset(digits, **kwargs)


def test_a_base_without_a_transform_takes_none():
    base = TensorDataset(torch.arange(3), torch.arange(3))
    base.targets = [0, 1, 1]
    dataset = LongTailedDataset(base)
    dataset.transform = None
    with pytest.raises(UserError, match='TensorDataset takes no transform'):
        dataset.transform = torch.neg


def test_file_names(image_root):
    dataset = create_dataset('folder', image_root).subset([12])
    assert dataset.filename(0) == 'bee/000.png' and dataset.filename(0, basename=True) == '000.png'
    assert dataset.filename(0, absolute=True) == str(image_root / 'train' / 'bee' / '000.png')
    torchvision = LongTailedDataset(ImageFolder(image_root / 'train'), [12])
    assert torchvision.filename(0) == 'bee/000.png' and torchvision.filename(0, basename=True) == '000.png'
    assert torchvision.filename(0, absolute=True) == str(image_root / 'train' / 'bee' / '000.png')
    own = TensorDataset(torch.zeros(2), torch.zeros(2))
    own.targets, own.samples, own._image_files = [0, 1], 2, ['a.png', 'b.png']  # it may call anything `samples`
    assert LongTailedDataset(own).filename(1) == 'b.png'


@pytest.mark.parametrize('name', ['folder', 'torch/folder'])
@pytest.mark.parametrize('damage', ['truncated', 'no image', 'missing'])
def test_a_broken_image_is_named_and_never_replaced(image_root, name, damage):
    dataset = create_dataset(name, image_root)
    victim = image_root / 'train' / 'bee' / '000.png'
    if damage == 'truncated':
        victim.write_bytes(victim.read_bytes()[:-30])
    elif damage == 'no image':
        victim.write_text('nothing to see')
    else:
        victim.unlink()
    with pytest.raises(UserError) as error:
        dataset[12]
    assert str(victim) in str(error.value) and '\n' not in str(error.value)
    assert dataset[13][1] == 1


def test_a_broken_image_in_a_tar_is_named(tmp_path):
    (tmp_path / 'broken.png').write_text('nothing to see')
    with tarfile.open(tmp_path / 'train.tar', 'w') as archive:
        for name in ('cat', 'dog'):
            archive.add(tmp_path / 'broken.png', arcname=f'{name}/broken.png')
    with pytest.raises(UserError, match="cannot read image 'dog/broken.png'"):
        create_dataset('folder', tmp_path)[1]


def test_image_modes_and_bytes_are_as_in_timm(image_root):
    grey = create_dataset('folder', image_root, input_img_mode='L')
    assert grey[0][0].mode == 'L'
    raw = create_dataset('folder', image_root, load_bytes=True)
    assert raw[0][0] == (image_root / 'train' / 'ant' / '000.png').read_bytes()


def test_a_dataset_pickles_after_use(image_root):
    dataset = create_dataset('lt/folder', image_root, imbalance_factor=4)
    first = dataset[0]
    again = pickle.loads(pickle.dumps(dataset))
    assert again.targets.tolist() == dataset.targets.tolist()
    assert again[0][0].tobytes() == first[0].tobytes()


def test_timms_own_loader_takes_the_dataset(image_root):
    dataset = create_dataset('lt/folder', image_root, imbalance_factor=2)
    for use_prefetcher in (False, True):
        loader = timm.data.create_loader(
            dataset, input_size=(3, 16, 16), batch_size=8, is_training=True, use_prefetcher=use_prefetcher,
            num_workers=0, persistent_workers=False, device=torch.device('cpu'))
        batches = [batch for batch, _ in zip(loader, range(2), strict=False)]
        assert len(batches) == 2
        assert batches[0][0].shape == (8, 3, 16, 16) and batches[0][0].dtype == torch.float32
        assert set(batches[0][1].tolist()) <= {0, 1, 2}
