"""One class map for both splits, and the fingerprint."""
import errno
import os
import shutil
from unicodedata import normalize

import numpy as np
import pytest
import timm.data
from PIL import Image

from timm_ltkd.data import create_splits, fingerprint
from timm_ltkd.errors import UserError


def refusal(*args, **kwargs):
    with pytest.raises(UserError) as error:
        create_splits(*args, **kwargs)
    assert '\n' not in str(error.value)
    return str(error.value)


def test_a_class_without_validation_images_keeps_its_index(image_root, log):
    shutil.rmtree(image_root / 'val' / 'ant')
    (image_root / 'val/bee/other.gif').write_bytes(b'')
    splits = create_splits('lt/folder', image_root, imbalance_factor=4)
    assert len(log) == 1, 'the folder is looked through once'
    assert splits.class_names == splits.train.class_names == splits.val.class_names == ['ant', 'bee', 'cat']
    assert splits.val.class_counts.tolist() == [0, 4, 4]
    for i in range(len(splits.val)):
        assert splits.class_names[splits.val[i][1]] == splits.val.filename(i).split('/')[0]
    assert splits.train.class_counts.tolist() == [12, 6, 3]


def test_a_class_only_in_validation_is_named(image_root):
    (image_root / 'val' / 'dog').mkdir()
    Image.new('RGB', (8, 8)).save(image_root / 'val' / 'dog' / '0.png')
    assert "training does not have: 'dog'" in refusal('lt/folder', image_root)
    splits = create_splits('lt/folder', image_root, class_map={'ant': 1, 'bee': 0, 'cat': 2})
    assert splits.class_names == ['bee', 'ant', 'cat'] and splits.val.class_counts.tolist() == [4, 4, 4]


@pytest.mark.parametrize('split', ['train', 'val'])
def test_a_class_folder_that_is_a_link_to_nothing_is_named(image_root, split):
    """timm would pass over it, and the class would be missed by nobody."""
    (image_root / split / 'dog').symlink_to(image_root / 'gone')
    with pytest.raises(UserError, match=f"the link '.*{split}/dog' leads to nothing"):
        create_splits('lt/folder', image_root)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_a_folder_that_cannot_be_read_is_named(image_root, split, monkeypatch):
    scandir, closed = os.scandir, os.path.join(image_root, split, 'bee')

    def refuse(path):
        if os.fspath(path) == closed:
            raise PermissionError(errno.EACCES, 'Permission denied', closed)
        return scandir(path)
    monkeypatch.setattr(os, 'scandir', refuse)
    with pytest.raises(UserError, match=f"cannot read the folder '.*{split}/bee' .Permission denied"):
        create_splits('lt/folder', image_root)


def test_images_of_either_split_are_neither_hidden_nor_passed_over_in_silence(image_root, log):
    (image_root / 'val/ant/other.gif').write_bytes(b'')
    create_splits('lt/folder', image_root)
    assert any('val' in line and 'not read for their endings (1 .gif)' in line for line in log)
    shutil.copy(image_root / 'val/ant/000.png', image_root / 'val/ant/.000.png')
    assert 'has hidden images' in refusal('lt/folder', image_root)


@pytest.mark.parametrize('name', ['lt/folder', 'lt/torch/folder'])
def test_both_splits_may_not_be_the_same_images(image_root, name):
    assert refusal(name, image_root / 'train').endswith(f'same images would be in both; did you mean {image_root}?')
    shutil.rmtree(image_root / 'val')
    assert "no split 'validation'" in refusal(name, image_root)


def test_folders_of_splits_in_capitals(image_root):
    for name, other in ('train', 'Training'), ('val', 'Val'):
        (image_root / name).rename(image_root / other)
    assert refusal('folder', image_root).endswith("it has: Training, Val: rename them in small letters")


def test_classes_that_differ_in_capitals_are_doubted(image_root, log):
    first = sorted((image_root / 'train').iterdir())[0]
    shutil.copytree(first, first.with_name(first.name.upper()))
    create_splits('folder', image_root)
    assert f"the classes '{first.name.upper()}' and '{first.name}', capitals apart: are they one?" in ' '.join(log)


@pytest.mark.parametrize('splits, message', [
    (('train_lt', 'test_ball'), "there is no folder 'test_ball' in"),
    (('train_l', 'test_bal'), "there is no folder 'train_l' in"),
    (('train_lt', 'validation'), 'no folders train_lt and validation beside each other: the same images would be'),
])
def test_a_split_is_not_the_folder_that_holds_another(image_root, splits, message):
    (image_root / 'train').rename(image_root / 'train_lt')
    (image_root / 'val').rename(image_root / 'test_bal')
    assert len(create_splits('folder', image_root, 'train_lt', 'test_bal').val) == 12
    assert message in refusal('folder', image_root, train_split=splits[0], val_split=splits[1])


def test_one_split_for_both_is_warned_of(image_root, log):
    splits = create_splits('folder', image_root, train_split='train', val_split='train')
    assert len(splits.train) == len(splits.val)
    assert "'train' is trained on and measured on: figures are of images that were learnt" in ' '.join(log)


def test_names_in_other_bytes_of_the_same_letters(image_root):
    for split, form in (('train', 'NFC'), ('val', 'NFD')):
        (image_root / split / 'bee').rename(image_root / split / normalize(form, 'abeille dorée'))
    assert 'Unicode NFC and NFD: rename them' in refusal('folder', image_root)


@pytest.mark.parametrize('name, sizes', [('lt/digits', ([144, 93, 60, 39, 25, 16, 10, 6, 4, 2], [30] * 10)),
                                         ('lt/cifar10', ([20, 15, 11, 9, 7, 5, 4, 3, 2, 2], [2] * 10))])
def test_other_sources(name, sizes, cifar_root):
    splits = create_splits(name, cifar_root, imbalance_factor=50 if name == 'lt/digits' else 10)
    assert splits.train.class_counts.tolist() == sizes[0] and splits.val.class_counts.tolist() == sizes[1]
    assert len(splits.class_names) == 10


def test_torchvision_folders_that_number_classes_differently_are_refused(image_root):
    shutil.rmtree(image_root / 'val' / 'ant')
    assert 'differently' in refusal('torch/folder', image_root)
    (image_root / 'val' / 'dog').mkdir()
    Image.new('RGB', (8, 8)).save(image_root / 'val' / 'dog' / '0.png')
    assert "'dog'" in refusal('torch/folder', image_root)


def test_the_training_split_is_selected_from_whatever_its_name(image_root):
    (image_root / 'train').rename(image_root / '2021_train_mini')
    options = dict(train_split='2021_train_mini', imbalance_factor=4)
    splits = create_splits('lt/folder', image_root, **options)
    assert splits.train.class_counts.tolist() == [12, 6, 3] and splits.val.class_counts.tolist() == [4, 4, 4]
    (image_root / '2021_train_mini/dog').mkdir()
    assert "class 'dog'" in refusal('lt/folder', image_root, **options)


def test_the_split_to_measure_on_is_whole_whatever_its_name(image_root):
    (image_root / 'train').rename(image_root / 'train_a')
    (image_root / 'val').rename(image_root / 'train')
    shutil.rmtree(image_root / 'train/cat')
    (image_root / 'train/cat').mkdir()
    splits = create_splits('lt/folder', image_root, 'train_a', 'train', imbalance_factor=4)
    assert splits.train.class_counts.tolist() == [12, 6, 3] and splits.val.class_counts.tolist() == [4, 4, 0]


def test_slices_of_the_training_set_of_hugging_face(image_root, tmp_path):
    import datasets
    files = [str(f) for f in sorted((image_root / 'train').glob('*/*.png'), key=lambda f: (f.name, f))]
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=['ant', 'bee', 'cat']))
    (tmp_path / 'repo').mkdir()
    rows = {'image': files, 'label': [0, 1, 2] * 12}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / 'repo/train.parquet')
    name = f'hfds/{tmp_path}/repo'
    try:
        timm.data.create_dataset(name, tmp_path / 'cache', split='train[:75%]')
    except TypeError:
        pytest.skip('these versions of timm and datasets know no slices of files on disk')
    splits = create_splits(f'lt/{name}', tmp_path / 'cache', 'train[:75%]', 'train[75%:]', imbalance_factor=4)
    assert splits.train.class_counts.tolist() == [9, 4, 2] and splits.val.class_counts.tolist() == [3, 3, 3]


@pytest.mark.parametrize('name, split, told', [
    ('lt/digits', 'validation', 'test'), ('lt/cifar10', 'val', 'test'), ('torch/cifar10', 'test', 'test')])
def test_sets_of_two_parts_are_measured_on_their_test_part(name, split, told, cifar_root):
    assert create_splits(name, cifar_root, val_split=split).val_name == told


def test_other_sets_are_measured_on_what_is_named(image_root):
    assert create_splits('folder', image_root).val_name == 'validation'
    assert create_splits('folder', image_root, val_split=str(image_root / 'val')).val_name == 'val', 'no path of here'


def test_an_empty_name_is_no_split(image_root):
    assert '--val-split is empty' in refusal('folder', image_root, val_split='')
    assert '--train-split is empty' in refusal('folder', image_root, train_split='')


def test_plain_integer_labels_of_hugging_face(image_root, tmp_path):
    import datasets
    reader = pytest.importorskip('timm.data.readers.reader_hfds').ReaderHfds
    if not hasattr(reader, 'iter_targets'):
        pytest.skip('this timm reads named classes only')
    files = [str(f) for f in sorted((image_root / 'train').glob('*/*.png'))]
    features = datasets.Features(image=datasets.Image(), label=datasets.Value('int64'))
    (tmp_path / 'repo').mkdir()
    for split, labels in (('train', [0, 1, 2]), ('validation', [1, 0, 1])):
        rows = {'image': files[:3], 'label': labels}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / 'repo' / f'{split}.parquet')
    splits = create_splits(f'hfds/{tmp_path}/repo', tmp_path / 'cache')
    assert splits.class_names == splits.val.class_names == ['0', '1', '2']
    assert splits.val.class_counts.tolist() == [1, 2, 0]
    assert len(fingerprint(splits)) == 64


def test_fingerprint_ignores_the_place_only(image_root, tmp_path):
    def of(root=image_root, **kwargs):
        return fingerprint(create_splits('lt/folder', root, **{'imbalance_factor': 4, **kwargs}))

    first = of()
    assert len(first) == 64 and of() == first
    shutil.copytree(image_root, tmp_path / 'moved')
    assert of(tmp_path / 'moved') == first
    assert len({first, of(seed=1), of(imbalance_factor=3), of(imbalance_factor=None),
                of(class_map={'bee': 0, 'ant': 1, 'cat': 2})}) == 5
    (tmp_path / 'moved' / 'val' / 'cat' / '003.png').rename(tmp_path / 'moved' / 'val' / 'cat' / '004.png')
    assert of(tmp_path / 'moved') != first


def test_fingerprint_tells_a_copy_of_another_resolution(image_root, tmp_path):
    shutil.copytree(image_root, tmp_path / 'small')
    for path in (tmp_path / 'small' / 'train').rglob('*.png'):
        Image.open(path).resize((5, 5)).save(path)
    assert len({fingerprint(create_splits('lt/folder', root)) for root in (image_root, tmp_path / 'small')}) == 2


def test_fingerprint_of_a_tar_file_with_names_that_the_locale_lacks(image_root, monkeypatch):
    for split in ('train', 'val'):
        (image_root / split / 'ant').rename(image_root / split / 'ä')
        shutil.make_archive(str(image_root / split), 'tar', image_root / split)
        shutil.rmtree(image_root / split)
    first = fingerprint(create_splits('lt/folder', image_root))
    monkeypatch.setattr(os, 'fsencode', lambda name: os.fspath(name).encode('ascii', 'surrogateescape'))
    splits = create_splits('lt/folder', image_root)
    assert splits.class_names == ['bee', 'cat', 'ä'] and fingerprint(splits) == first


def test_fingerprint_of_data_without_files():
    first, again = (fingerprint(create_splits('lt/digits')) for _ in range(2))
    assert first == again != fingerprint(create_splits('lt/digits', seed=1))
    assert np.array_equal(create_splits('lt/digits').val.indices, np.arange(300))
