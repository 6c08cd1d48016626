"""The digits that come with scikit-learn, in their fixed split."""
import pickle

import numpy as np
import pytest
from sklearn.datasets import load_digits

from timm_ltkd.data import DIGITS_IMBALANCE_FACTOR, DigitsDataset, create_dataset
from timm_ltkd.errors import UserError
from timm_ltkd.prior import ClassPrior


def test_the_split_is_balanced_disjoint_and_complete():
    train, test = DigitsDataset(train=True), DigitsDataset(train=False)
    assert np.bincount(test.targets).tolist() == [30] * 10
    assert np.bincount(train.targets).tolist() == [148, 152, 147, 153, 151, 152, 151, 149, 144, 150]
    assert len(train) + len(test) == len(load_digits().target) == 1797
    kept = {image.tobytes() for image in train.images}
    assert len(kept) == len(train) and not kept & {image.tobytes() for image in test.images}


def test_images_are_the_digits_enlarged():
    digits, test = load_digits(), DigitsDataset(train=False)
    image, target = test[0]
    assert image.size == (32, 32) and image.mode == 'RGB' and isinstance(target, int)
    assert test.classes == [str(c) for c in range(10)]
    small = np.asarray(image.convert('L').resize((8, 8), 4), dtype=float) / 255 * 16  # 4: box average
    distance = np.abs(digits.images - small).mean(axis=(1, 2))
    assert digits.target[distance.argmin()] == target and distance.min() < 1
    assert test.images.min() == 0 and test.images.max() == 255


def test_transforms_and_pickling():
    dataset = DigitsDataset(train=False, transform=lambda image: image.size, target_transform=lambda target: -target)
    assert dataset[3] == ((32, 32), -dataset.targets[3]) and dataset.targets[3] > 0
    plain = DigitsDataset(train=False)
    assert np.array_equal(pickle.loads(pickle.dumps(plain)).images, plain.images)


def test_default_selection_has_all_three_groups():
    dataset = create_dataset('lt/digits')
    assert dataset.class_counts.tolist() == [144, 93, 60, 39, 25, 16, 10, 6, 4, 2]
    assert DIGITS_IMBALANCE_FACTOR == 50
    groups = ClassPrior(dataset.class_counts).shot_groups()
    assert all(groups[name].any() for name in ('many', 'medium', 'few'))
    assert create_dataset('lt/digits', imbalance_factor=1).class_counts.tolist() == [144] * 10
    assert create_dataset('lt/digits', class_counts=[9] * 10).class_counts.tolist() == [9] * 10


@pytest.mark.parametrize('split', ['validation', 'val', 'test'])
def test_evaluation_is_never_selected_from(split):
    dataset = create_dataset('LT/Digits', split=split, imbalance_factor=10, download=True)
    assert dataset.class_counts.tolist() == [30] * 10


def test_test_images_do_not_depend_on_the_imbalance_seed():
    first, second = (create_dataset('lt/digits', split='test', seed=seed) for seed in (0, 1))
    assert np.array_equal(first.base.images, second.base.images)
    first, second = (create_dataset('lt/digits', seed=seed) for seed in (0, 1))
    assert not np.array_equal(first.indices, second.indices)


def test_refusals():
    with pytest.raises(UserError, match="no split 'vall'; did you mean 'val'"):
        create_dataset('lt/digits', split='vall')
    with pytest.raises(UserError, match='class map'):
        create_dataset('lt/digits', class_map={'0': 0})
    with pytest.raises(UserError, match="class '0' .index 0. has 148 images, but 1000 are asked"):
        create_dataset('lt/digits', max_per_class=1000, imbalance_factor=20)
