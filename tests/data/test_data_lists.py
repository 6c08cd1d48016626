"""List files: what is read from them, and what is refused."""
import copy
import pickle
import shutil

import numpy as np
import pytest
import timm.data
from PIL import Image

from timm_ltkd.data import LongTailedDataset, create_dataset, create_splits, fingerprint, in_both
from timm_ltkd.data.lists import PackedPaths, PackedSamples, read_list
from timm_ltkd.errors import UserError

CLASSES = ['ant', 'bee', 'cat']


def write_list(path, files, root, labels=None):
    """A list of the files, labelled by their folders unless told otherwise."""
    labels = [CLASSES.index(file.parent.name) for file in files] if labels is None else labels
    path.write_text(''.join(f'{f.relative_to(root)} {label}\n' for f, label in zip(files, labels, strict=True)))
    return path


@pytest.fixture
def lists(image_root, tmp_path):
    """`train_list` and `val_list` of the images, in an order of their own."""
    found = {}
    for split in ('train', 'val'):
        files = sorted((image_root / split).glob('*/*.png'), key=lambda f: (f.name, f))
        found[f'{split}_list'] = write_list(tmp_path / f'{split}.txt', files, image_root)
    return found


def refusal(make, *args, **kwargs):
    with pytest.raises(UserError) as error:
        make(*args, **kwargs)
    assert '\n' not in str(error.value)
    return str(error.value)


def test_a_label_that_so_few_images_cannot_have(tmp_path):
    (tmp_path / 'list.txt').write_text('a.png 0\nb.png 9999999\n')
    assert "image 'b.png' is of class 9999999, and 2 images" in refusal(read_list, tmp_path / 'list.txt')
    assert 'cannot read the list' in refusal(read_list, 'a\0b')


def test_every_form_of_line(tmp_path):
    (tmp_path / 'list.txt').write_bytes(
        '\ufefftrain/a b/x 1.jpg 0\r\n\n./é/y.jpg\t 1  \n/absolute/z.jpg 1\n'.encode() + b'caf\xe9/w.jpg 2')
    paths, targets, class_names = read_list(tmp_path / 'list.txt')
    assert list(paths) == ['train/a b/x 1.jpg', './é/y.jpg', '/absolute/z.jpg', 'caf\udce9/w.jpg']
    assert targets.tolist() == [0, 1, 1, 2] and targets.dtype == np.int64
    assert class_names == ['0', '1', '2']


@pytest.mark.parametrize('line', [
    'a.jpg', 'a.jpg x', 'a.jpg -1', 'a.jpg 1.0', 'a.jpg,1', 'a.jpg, 1', 'a.jpg 123456789', '7'])
def test_a_malformed_line_is_told_by_its_number(tmp_path, line):
    (tmp_path / 'list.txt').write_text(f'a.jpg 0\n\n{line}\nb.jpg 1\n')
    message = refusal(read_list, tmp_path / 'list.txt')
    assert f"list.txt', line 3: expected the path of an image and the index of its class, got '{line}'" in message
    assert ('and no comma' in message) == (',' in line)


def test_files_that_are_no_lists(tmp_path):
    assert 'cannot read the list' in refusal(read_list, tmp_path / 'none.txt')
    assert 'cannot read the list' in refusal(read_list, tmp_path)
    (tmp_path / 'empty.txt').write_text('\n')
    assert 'names no image' in refusal(read_list, tmp_path / 'empty.txt')
    Image.new('RGB', (8, 8)).save(tmp_path / 'picture.png')
    assert 'line 1: expected' in refusal(read_list, tmp_path / 'picture.png')


@pytest.mark.parametrize('paths, names', [
    (['t/n02/a.jpg', 't/n01/b.jpg', 't/n02/c.jpg'], ['n02', 'n01']),
    (['n02/images/a.jpg', 'n01/images/b.jpg', 'n02/images/c.jpg'], ['n02/images', 'n01/images']),
    (['t/n02/a.jpg', 't/n01/b.jpg', 't/n03/c.jpg'], ['0', '1']),  # two directories for class 0
    (['t/a.jpg', 't/b.jpg', 't/c.jpg'], ['0', '1']),  # one for both
    (['a.jpg', 'n01/b.jpg', 'c.jpg'], ['0', '1']),  # none for class 0
])
def test_class_names_come_from_directories_that_tell_classes_apart(tmp_path, paths, names):
    (tmp_path / 'list.txt').write_text(''.join(f'{p} {c}\n' for p, c in zip(paths, (0, 1, 0), strict=True)))
    assert read_list(tmp_path / 'list.txt').class_names == names


def test_packed_paths_are_a_sequence_of_strings():
    texts = ['', 'ä b', 'c' * 300]
    paths = PackedPaths()
    for text in texts:
        paths.append(text.encode())
    assert list(paths) == texts == list(pickle.loads(pickle.dumps(paths))) and len(paths) == 3
    assert paths[-1] == texts[-1]
    with pytest.raises(IndexError):
        paths[3]


def test_images_of_folders_are_packed_too(image_root):
    """Also those that are numbered anew, since validation lacks the first class."""
    shutil.rmtree(image_root / 'val' / 'ant')
    splits = create_splits('folder', root=str(image_root))
    for split, folder in ((splits.train, 'train'), (splits.val, 'val')):
        files = sorted((image_root / folder).glob('*/*.png'), key=lambda file: (file.parent.name, file.name))
        expected = [(str(file), CLASSES.index(file.parent.name)) for file in files]
        samples = split.base.reader.samples
        assert isinstance(samples, PackedSamples) and len(samples) == len(expected)
        assert sorted(samples) == sorted(expected)
        assert [samples[i] for i in range(len(samples))] == list(samples) == samples[:]
        assert samples[-1:] == [samples[-1]] == [list(samples)[-1]]
        assert split.targets.tolist() == [target for _, target in samples]
        assert [split.filename(i, absolute=True) for i in range(len(split))] == [path for path, _ in samples]
        assert list(pickle.loads(pickle.dumps(samples))) == list(samples)
        with pytest.raises(IndexError):
            samples[len(samples)]


def test_a_list_is_a_timm_dataset(image_root, lists):
    dataset = create_dataset('list', image_root, list_file=lists['train_list'])
    assert isinstance(dataset.base, timm.data.ImageDataset)
    assert dataset.class_names == CLASSES and dataset.class_counts.tolist() == [12, 12, 12]
    assert dataset.filename(1) == 'train/bee/000.png' and dataset.filename(1, basename=True) == '000.png'
    assert dataset.filename(1, absolute=True) == str(image_root / 'train/bee/000.png')
    image, target = pickle.loads(pickle.dumps(dataset))[1]
    assert image.mode == 'RGB' and target == 1
    assert image.tobytes() == Image.open(image_root / 'train/bee/000.png').tobytes()
    doubled = dataset.with_transform(lambda image: 2)
    assert doubled[0] == (2, 0) and isinstance(dataset[0][0], Image.Image)
    assert copy.copy(dataset.base).filename(0) == 'train/ant/000.png'


def test_both_splits_by_lists(image_root, lists):
    splits = create_splits('lt/list', image_root, **lists, imbalance_factor=4)
    assert splits.train.class_counts.tolist() == [12, 6, 3] and splits.val.class_counts.tolist() == [4, 4, 4]
    for dataset in (splits.train, splits.val):
        for i in range(len(dataset)):
            assert splits.class_names[dataset[i][1]] == dataset.filename(i).split('/')[-2]


def test_validation_from_a_folder_goes_by_the_names_of_classes(image_root, lists, tmp_path):
    files = sorted((image_root / 'train').glob('*/*.png'))
    order = ['cat', 'ant', 'bee']  # not that of the folders
    write_list(lists['train_list'], files, image_root, [order.index(f.parent.name) for f in files])
    splits = create_splits('lt/list', image_root, train_list=lists['train_list'])
    assert splits.class_names == order == splits.val.class_names
    assert all(order[splits.val[i][1]] == splits.val.filename(i).split('/')[0] for i in range(12))
    (image_root / 'val' / 'cat').rename(image_root / 'val' / 'test')  # a class may bear the name of a split
    splits = create_splits('lt/list', image_root, train_list=lists['train_list'], class_map=dict(test=0, ant=1, bee=2))
    assert splits.val.class_counts.tolist() == [4, 4, 4]
    shutil.rmtree(image_root / 'val' / 'test')
    splits = create_splits('lt/list', image_root, train_list=lists['train_list'])
    assert splits.val.class_counts.tolist() == [0, 4, 4]
    shutil.rmtree(image_root / 'val')
    assert "no split 'validation'" in refusal(create_splits, 'list', image_root, train_list=lists['train_list'])
    assert "no folder 'validation'" in refusal(
        create_splits, 'list', image_root / 'train', train_list=lists['train_list'])


def test_classes_are_numbered_once_however_many_there_are(image_root, lists, monkeypatch):
    shutil.rmtree(image_root / 'val' / 'cat')
    calls, index = [], LongTailedDataset.class_to_idx.fget
    monkeypatch.setattr(LongTailedDataset, 'class_to_idx', property(lambda self: calls.append(1) or index(self)))
    create_splits('lt/list', image_root, train_list=lists['train_list'])
    assert len(calls) <= 1, 'once a class would be quadratic: a minute for 8,142 classes'


def test_a_class_map_names_the_classes(image_root, lists, tmp_path):
    (tmp_path / 'names.txt').write_text('Ameise\nBiene\nKatze\n')
    splits = create_splits('list', image_root, **lists, class_map=tmp_path / 'names.txt')
    assert splits.class_names == splits.val.class_names == ['Ameise', 'Biene', 'Katze']
    (tmp_path / 'names.txt').write_text('Ameise\nBiene\n')
    assert "is of class 2, but there are 2 classes (0 to 1)" in refusal(
        create_splits, 'list', image_root, **lists, class_map=tmp_path / 'names.txt')
    (tmp_path / 'names.txt').write_text('Ameise\nBiene\nKatze\nDohle\n')
    assert "no training image for class 'Dohle' (index 3)" in refusal(
        create_splits, 'list', image_root, **lists, class_map=tmp_path / 'names.txt')


def test_a_skipped_index_is_told(image_root, lists):
    files = sorted((image_root / 'train').glob('*/*.png'))
    write_list(lists['train_list'], files, image_root, [[0, 2, 4][CLASSES.index(f.parent.name)] for f in files])
    assert "class '1' (index 1), '3' (index 3)" in refusal(create_splits, 'list', image_root, **lists)


def test_a_validation_class_that_training_lacks_is_told(image_root, lists):
    with lists['val_list'].open('a') as f:
        f.write('val/ant/000.png 3\n')
    assert "image 'val/ant/000.png' is of class 3, but there are 3 classes" in refusal(
        create_splits, 'list', image_root, **lists)


def test_a_missing_image_is_told_when_it_is_read(image_root, lists):
    (image_root / 'train' / 'bee' / '000.png').unlink()
    dataset = create_dataset('list', image_root, list_file=lists['train_list'])
    assert len(dataset) == 36 and dataset[0][1] == 0
    assert f"there is no image '{image_root}/train/bee/000.png'" in refusal(dataset.__getitem__, 1)


def test_lists_that_number_the_same_directories_otherwise(image_root, lists):
    other = {'ant': '1', 'bee': '0', 'cat': '2'}
    lines = (line.split() for line in lists['val_list'].read_text().splitlines())
    lists['val_list'].write_text(''.join(f'{path} {other[path.split("/")[1]]}\n' for path, _ in lines))
    said = refusal(create_splits, 'list', image_root, **lists)
    assert said == (
        f"class 0 is 'ant', and '{lists['val_list']}' has its images in the directory of class 1, 'bee': number both "
        'alike')


def test_a_validation_list_that_lacks_a_class_is_numbered_alike(image_root, lists):
    lines = [line.split() for line in lists['val_list'].read_text().splitlines()]
    left = [(path, int(label)) for path, label in lines if '/ant/' not in path]
    lists['val_list'].write_text(''.join(f'{path} {label}\n' for path, label in left))
    assert create_splits('list', image_root, **lists).val.class_counts.tolist() == [0, 4, 4]
    lists['val_list'].write_text(''.join(f'{path} {label - 1}\n' for path, label in left))
    said = refusal(create_splits, 'list', image_root, **lists)
    assert said.startswith("class 0 is 'ant', and '") and "in the directory of class 1, 'bee'" in said
    lists['val_list'].write_text(''.join(f'{path} {2 if label == 1 else 0}\n' for path, label in left))  # no class 1
    assert "in the directory of class 2, 'cat'" in refusal(create_splits, 'list', image_root, **lists)


def test_a_class_map_that_numbers_the_directories_otherwise(image_root, lists, tmp_path):
    (tmp_path / 'names.txt').write_text('bee\nant\ncat\n')
    said = refusal(create_splits, 'list', image_root, **lists, class_map=tmp_path / 'names.txt')
    assert f"class 0 is 'bee', and '{lists['train_list']}' has its images in the directory of class 1, 'ant'" in said
    for names in ('ant\nbee\ncat\n', 'ant\nbee\nno bee\n'):
        (tmp_path / 'names.txt').write_text(names)
        assert len(create_splits('list', image_root, **lists, class_map=tmp_path / 'names.txt').class_names) == 3


def test_one_directory_may_have_the_name_of_another_class(image_root, lists, tmp_path, log):
    (tmp_path / 'names.txt').write_text('cat\nbee\nno cat\n')
    create_splits('list', image_root, **lists, class_map=tmp_path / 'names.txt')
    assert "class 2 is 'no cat', and" in log[0] and 'are both numbered alike?' in log[0] and len(log) == 2


def test_images_in_both_are_found_below_a_relative_folder(image_root, lists, monkeypatch):
    monkeypatch.chdir(image_root.parent)
    lines = lists['val_list'].read_text().splitlines()
    lists['train_list'].write_text('\n'.join(f'{image_root}/{line}' for line in lines))
    assert len(in_both(create_splits('list', image_root.name, **lists))) == 12


def test_directories_that_are_numbers_are_not_those_of_the_labels(image_root, tmp_path):
    """Class 0 has images in two places, so that classes have no names; 0 and 1 are those of nothing but the list."""
    lines = ['1/a.png 0', '7/b.png 0', '0/c.png 1']
    for line in lines:
        path = tmp_path / line.split()[0]
        path.parent.mkdir()
        shutil.copy(image_root / 'train/ant/000.png', path)
    (tmp_path / 'train.txt').write_text('\n'.join(lines))
    (tmp_path / 'val.txt').write_text('\n'.join(lines[::2]))
    splits = create_splits('list', tmp_path, train_list=tmp_path / 'train.txt', val_list=tmp_path / 'val.txt')
    assert splits.class_names == ['0', '1']


def test_directories_that_are_numbers_say_nothing_of_a_flat_list(image_root, tmp_path):
    names = sorted(map(str, range(11)))  # 0, 1, 10, 2, …
    for split, place in (('train', '{name}/{i}.png'), ('val', '{name}-{i}.png')):
        with open(tmp_path / f'{split}.txt', 'w') as file:
            for label, name in enumerate(names):
                for i in range(2):
                    path = tmp_path / split / place.format(name=name, i=i)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(image_root / 'train/ant/000.png', path)
                    print(path.relative_to(tmp_path), label, file=file)
    splits = create_splits('list', tmp_path, train_list=tmp_path / 'train.txt', val_list=tmp_path / 'val.txt')
    assert splits.class_names == names and splits.val.class_counts.tolist() == [2] * 11


def test_images_in_both_lists_are_found(image_root, lists):
    assert in_both(create_splits('list', image_root, **lists)) == []
    text, shared = lists['val_list'].read_text(), lists['train_list'].read_text().splitlines()
    lists['val_list'].write_text('\n'.join([text.rstrip('\n'), shared[0], shared[-1]]))
    both = sorted(f"{image_root}/{line.rpartition(' ')[0]}" for line in (shared[0], shared[-1]))
    assert in_both(create_splits('list', image_root, **lists)) == both
    splits = create_splits('lt/list', image_root, **lists, class_counts=[1, 1, 1])
    selected = {splits.train.filename(i, absolute=True) for i in range(len(splits.train))}
    assert in_both(splits) == sorted(selected.intersection(both))
    lists['val_list'].write_text('\n'.join([f'./{shared[0]}', f'{image_root}/train/../{shared[-1]}']))
    assert in_both(create_splits('list', image_root, **lists)) == both
    lists['train_list'].write_text(text)  # of images in the folder that is measured on
    assert len(in_both(create_splits('list', image_root, train_list=lists['train_list']))) == 12


def test_lists_and_names_must_fit(image_root, lists, tmp_path):
    train = lists['train_list']
    assert 'needs a list file: --train-list' in refusal(create_dataset, 'lt/list', image_root)
    for name in ('lt/folder', 'lt/digits', 'lt/tinyimagenet', 'lt/imagenet_by_counts', 'imagenet', 'hfids/x'):
        assert 'takes no list file; these do: list, lt/list, lt/imagenet' in refusal(
            create_dataset, name, image_root, list_file=train)
    assert "write 'lt/list'" in refusal(create_dataset, 'list', image_root, list_file=train, imbalance_factor=2)
    assert 'needs a data folder' in refusal(create_dataset, 'list', list_file=train)
    assert 'does not exist' in refusal(create_dataset, 'list', tmp_path / 'none', list_file=train)
    assert 'goes with a --train-list' in refusal(create_splits, 'lt/folder', image_root, val_list=train)
    assert 'both the --train-list and the --val-list' in refusal(
        create_splits, 'list', image_root, train_list=train, val_list=str(train))
    assert "--train-split 'small'" in refusal(create_splits, 'list', image_root, 'small', **lists)
    assert "--val-split 'test'" in refusal(create_splits, 'list', image_root, val_split='test', **lists)


def test_absolute_paths_need_no_data_folder(image_root, lists, tmp_path):
    for file in lists.values():
        lines = [f'{image_root}/{line}' for line in file.read_text().splitlines()]
        file.write_text('\n'.join(lines))
    splits = create_splits('list', **lists)
    np.testing.assert_array_equal(splits.train[0][0], create_splits('list', image_root, **lists).train[0][0])
    assert 'give a --val-list, or a --data-dir' in refusal(create_splits, 'list', train_list=lists['train_list'])
    lists['train_list'].write_text('\n'.join([*lists['train_list'].read_text().splitlines(), 'relative.png 0']))
    assert 'needs a data folder' in refusal(create_splits, 'list', **lists)


def test_fingerprint_knows_the_order_and_the_names(image_root, lists, tmp_path):
    def of(root=image_root):
        return fingerprint(create_splits('list', root, **lists))

    first = of()
    shutil.copytree(image_root, tmp_path / 'moved')
    assert first == of() == of(tmp_path / 'moved')
    lines = lists['val_list'].read_text().splitlines()
    lists['val_list'].write_text('\n'.join([lines[3], *lines[1:3], lines[0], *lines[4:]]))  # two of one class
    assert of() != first
