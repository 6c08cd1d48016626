"""Published long-tailed sets: their facts, what differs from them, and ImageNet by the published counts."""
import numpy as np
import pytest
from PIL import Image

from timm_ltkd.data import create_dataset, create_splits, long_tail_indices, published
from timm_ltkd.errors import UserError
from timm_ltkd.prior import ClassPrior


def imagenet_lt():
    return published.imagenet_lt_counts([f'n{c:08d}' for c in range(1000)])


def places_lt():
    """365 counts with Places-LT's facts, not its own."""
    counts = np.repeat([374, 50, 10], [131, 163, 71])
    counts[0], counts[-1] = 4980, 5
    counts[1] += 62_500 - counts.sum()
    return counts


def test_counts_of_imagenet_lt_are_the_published_ones():
    counts = imagenet_lt()
    assert len(counts) == 1000 and counts.sum() == 115_846 and (counts.max(), counts.min()) == (1280, 5)
    groups = ClassPrior(counts).shot_groups()
    assert [int(groups[name].sum()) for name in ('many', 'medium', 'few')] == [385, 479, 136]


def test_what_agrees_with_the_publication_is_passed_over():
    assert published.mismatch('lt/imagenet', imagenet_lt()) is None
    assert published.mismatch('lt/places365', places_lt()) is None
    assert published.mismatch('LT/inat2018', np.r_[437_513 - 8141, np.ones(8141, int)]) is None
    for name in ('lt/list', 'imagenet', 'lt/torch/imagenet', 'lt/imagenet_by_counts', ''):
        assert published.mismatch(name, np.array([3, 2])) is None


def test_a_mismatch_says_what_was_found_and_what_was_published():
    counts = places_lt()
    counts[5] += 1
    assert published.mismatch('lt/places365', counts) == (
        'lt/places365: Places-LT was published with 62,500 images in 365 classes of 4,980 down to 5, 131 many-, 163 '
        'medium- and 71 few-shot; this list has 62,501 images in 365 classes of 4,980 down to 5, 131 many-, 163 '
        'medium- and 71 few-shot')
    assert 'this list has 3 images in 2 classes' in published.mismatch('lt/inat2018', np.array([2, 1]))
    counts = imagenet_lt()
    counts[[0, 1]] = counts[[1, 0]]
    assert 'not the images of each class in order' in published.mismatch('lt/imagenet', counts)


@pytest.mark.parametrize('name, hint', [
    ('lt/imagenet', '--train-list ImageNet_LT_train.txt), or lt/imagenet_by_counts'),
    ('lt/places365', '--train-list Places_LT_train.txt)'), ('lt/inat2018', '--train-list iNaturalist18_train.txt)')])
def test_a_published_set_needs_its_list(name, hint, tmp_path):
    with pytest.raises(UserError) as error:
        create_dataset(name, tmp_path)
    assert hint in str(error.value)


def test_a_published_set_is_its_list(tmp_path):
    for split in ('train', 'val'):
        (tmp_path / f'{split}.txt').write_text(f'{split}/n1/a.jpg 0\n{split}/n0/b.jpg 1\n{split}/n1/c.jpg 0\n')
    splits = create_splits('lt/imagenet', tmp_path, train_list=tmp_path / 'train.txt', val_list=tmp_path / 'val.txt')
    assert splits.class_names == ['n1', 'n0'] and splits.train.class_counts.tolist() == [2, 1]


@pytest.fixture
def imagenet(tmp_path):
    """1,000 class folders of three images each, all the same file."""
    (tmp_path / 'one').mkdir()
    Image.new('RGB', (8, 8)).save(tmp_path / 'one' / 'x.png')
    for split in ('train', 'val'):
        for c in range(1000):
            folder = tmp_path / split / f'n{2 * c:08d}'
            folder.mkdir(parents=True)
            for i in range(3 if split == 'train' else 1):
                (folder / f'{i}.png').hardlink_to(tmp_path / 'one' / 'x.png')
    return tmp_path


def test_imagenet_by_counts(imagenet, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"class 'n00000000' \(index 0\) has 3 images, but 50 are asked of it"):
        create_dataset('lt/imagenet_by_counts', imagenet)
    few = np.resize([3, 2, 1], 1000)
    monkeypatch.setattr(published, 'read_class_counts', lambda path: few)
    splits = create_splits('lt/imagenet_by_counts', imagenet, seed=1)
    assert splits.train.class_counts.tolist() == few.tolist() and splits.val.class_counts.tolist() == [1] * 1000
    assert splits.train.indices.tolist() == long_tail_indices(np.repeat(range(1000), 3), few, seed=1).tolist()
    for selection in (dict(imbalance_factor=10), dict(class_counts=[1] * 1000), dict(max_per_class=2)):
        with pytest.raises(UserError, match='has class counts of its own'):
            create_dataset('lt/imagenet_by_counts', imagenet, **selection)
    (imagenet / 'train' / 'n00000000').rename(imagenet / 'train' / 'tench')
    with pytest.raises(UserError, match='called by their WordNet ids'):
        create_dataset('lt/imagenet_by_counts', imagenet)


def test_its_figures_come_with_a_remark():
    assert 'not figures on ImageNet-LT' in published.remark('lt/imagenet_by_counts')
    assert published.remark('lt/imagenet') is published.remark('lt/folder') is published.remark('') is None
