"""Tiny ImageNet as it is distributed."""
import shutil

import pytest
from PIL import Image

from timm_ltkd.data import create_dataset, create_splits
from timm_ltkd.errors import UserError

WNIDS = ['n02', 'n01', 'n03']  # the classes are sorted


@pytest.fixture
def tiny(tmp_path):
    root = tmp_path / 'tiny-imagenet-200'
    for label, name in enumerate(WNIDS):
        (root / 'train' / name / 'images').mkdir(parents=True)
        for i in range(12):
            Image.new('RGB', (8, 8), (label, i, 0)).save(root / 'train' / name / 'images' / f'{name}_{i}.JPEG', 'PNG')
        (root / 'train' / name / f'{name}_boxes.txt').write_text(f'{name}_0.JPEG\t0\t0\t7\t7\n')
    (root / 'val' / 'images').mkdir(parents=True)
    lines = []
    for i in range(6):
        Image.new('RGB', (8, 8), (i % 3, i, 1)).save(root / 'val' / 'images' / f'val_{i}.JPEG', 'PNG')
        lines.append(f'val_{i}.JPEG\t{WNIDS[i % 3]}\t0\t0\t7\t7\n')
    (root / 'val' / 'val_annotations.txt').write_text(''.join(lines))
    (root / 'test' / 'images').mkdir(parents=True)
    return root


def test_both_splits(tiny):
    splits = create_splits('lt/tinyimagenet', tiny, imbalance_factor=4)
    assert splits.class_names == splits.val.class_names == ['n01', 'n02', 'n03']
    assert splits.train.class_counts.tolist() == [12, 6, 3] and splits.val.class_counts.tolist() == [2, 2, 2]
    for dataset, last in ((splits.train, 0), (splits.val, 1)):
        for i in range(len(dataset)):
            image, label = dataset[i]
            assert WNIDS[image.getpixel((0, 0))[0]] == splits.class_names[label] and image.getpixel((0, 0))[2] == last
    assert splits.val.filename(0) == 'val/images/val_0.JPEG'


def test_the_selection_is_that_of_torchvisions_folder(tiny):
    ours = create_dataset('lt/tinyimagenet', tiny, imbalance_factor=4, seed=2)
    theirs = create_dataset('lt/torch/image_folder', tiny, imbalance_factor=4, seed=2)
    assert [ours.filename(i, absolute=True) for i in range(len(ours))] == [
        theirs.filename(i, absolute=True) for i in range(len(theirs))]


def test_validation_images_sorted_into_class_folders(tiny):
    for i in range(6):
        folder = tiny / 'val' / WNIDS[i % 3]
        folder.mkdir(exist_ok=True)
        (tiny / 'val' / 'images' / f'val_{i}.JPEG').rename(folder / f'val_{i}.JPEG')
    for left in (tiny / 'val' / 'images', None, tiny / 'val' / 'val_annotations.txt'):  # as whoever sorts them may
        val = create_dataset('lt/tinyimagenet', tiny, split='val')
        assert val.class_counts.tolist() == [2, 2, 2] and val.filename(0) == 'val/n01/val_1.JPEG'
        if left is not None:
            left.rmdir() if left.is_dir() else left.unlink()


def test_refusals(tiny, tmp_path):
    def refusal(root, **options):
        with pytest.raises(UserError) as error:
            create_dataset('lt/tinyimagenet', root, **options)
        return str(error.value)

    assert 'give the folder tiny-imagenet-200' in refusal(tmp_path)
    assert 'does not exist' in refusal(tmp_path / 'none')
    assert "not for 'test'" in refusal(tiny, split='test')
    assert 'has its own classes' in refusal(tiny, class_map={'n01': 0})
    with (tiny / 'val' / 'val_annotations.txt').open('a') as f:
        f.write('val_9.JPEG\tn09\t0\t0\t7\t7\n')
    assert "val_annotations.txt', line 7: no class 'n09'" in refusal(tiny, split='val')
    for content, message in ((b'val_0.JPEG\tn\xff\n', 'is no text'), (b'', 'lists no image')):
        (tiny / 'val' / 'val_annotations.txt').write_bytes(content)
        assert f"val_annotations.txt' {message}" in refusal(tiny, split='val')
    shutil.rmtree(tiny / 'train' / 'n02' / 'images')
    assert "no training image for class 'n02' (index 1)" in refusal(tiny)
