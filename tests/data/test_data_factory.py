"""create_dataset: every kind of source, the same selection from each, and its refusals."""
import itertools
import json
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from timm_ltkd.data import create_dataset
from timm_ltkd.errors import UserError

CLASSES = ['ant', 'bee', 'cat']


def make_tar(image_root, tmp_path):
    (tmp_path / 'tars').mkdir(parents=True)
    for split in ('train', 'val'):
        with tarfile.open(tmp_path / 'tars' / f'{split}.tar', 'w') as archive:
            archive.add(image_root / split, arcname='.')
    return tmp_path / 'tars'


def test_image_folders_as_hugging_face_reads_them(image_root, tmp_path):
    """Their names in small letters, which every timm keeps."""
    dataset = create_dataset(f'lt/hfds/{image_root}', tmp_path / 'cache', imbalance_factor=4, seed=3)
    same = create_dataset('lt/folder', image_root, imbalance_factor=4, seed=3)
    assert dataset.class_names == CLASSES and dataset.indices.tolist() == same.indices.tolist()
    assert [dataset[i][0].tobytes() for i in range(21)] == [same[i][0].tobytes() for i in range(21)]


def test_cifar_short_names_and_timms_names(cifar_root):
    short = create_dataset('lt/cifar10', cifar_root, imbalance_factor=5, imbalance_type='step')
    full = create_dataset('LT/Torch/CIFAR10', cifar_root, imbalance_factor=5, imbalance_type='step')
    assert short.class_counts.tolist() == [20] * 5 + [4] * 5
    assert np.array_equal(short.indices, full.indices)
    assert len(create_dataset('torch/cifar10', cifar_root)) == 200
    assert create_dataset('lt/cifar100', cifar_root, split='val').class_counts.tolist() == [2] * 100


def test_selection_options(image_root, tmp_path):
    def counts(**kwargs):
        return create_dataset('lt/folder', image_root, **kwargs).class_counts.tolist()

    assert counts() == [12, 12, 12]
    assert counts(imbalance_factor=4, max_per_class=8) == [8, 4, 2]
    assert counts(imbalance_factor=1, max_per_class=5) == [5, 5, 5]
    assert counts(class_counts=[2, 7, 1]) == [2, 7, 1]
    (tmp_path / 'counts.json').write_text(json.dumps([2, 7, 1]))
    for path in (tmp_path / 'counts.json', str(tmp_path / 'counts.json')):
        assert counts(class_counts=path) == [2, 7, 1]
    assert counts(split='validation', class_counts=[2, 7, 1]) == [4, 4, 4]
    first, second = (create_dataset('lt/folder', image_root, imbalance_factor=4, seed=s).indices for s in (0, 1))
    assert not np.array_equal(first, second)


def test_the_smallest_class_is_the_largest_of_the_selection(image_root):
    for file in sorted((image_root / 'train' / 'bee').iterdir())[:3]:
        file.unlink()
    assert create_dataset('lt/', image_root, imbalance_factor=3).class_counts.tolist() == [9, 5, 3]


@pytest.mark.parametrize('kind', ['dict', 'file'])
def test_a_class_map_orders_and_chooses_classes(image_root, kind):
    class_map = {'cat': 0, 'ant': 1}
    if kind == 'file':
        class_map = image_root / 'classes.txt'
        class_map.write_text('cat\nant\n')
    dataset = create_dataset('lt/folder', image_root / 'train', class_map=class_map)
    assert dataset.class_names == ['cat', 'ant'] and dataset.class_counts.tolist() == [12, 12]
    assert dataset.filename(0).startswith('ant') and dataset.targets[0] == 1


def test_splits_are_found_by_their_synonyms(image_root):
    (image_root / 'train').rename(image_root / 'training')
    assert len(create_dataset('folder', image_root, split='train')) == 36
    assert len(create_dataset('folder', image_root, split='validation')) == 12
    assert len(create_dataset('folder', image_root / 'training', split='train')) == 36
    assert len(create_dataset('folder', image_root / 'val', split='validation')) == 12


def test_hugging_face_columns_and_class_maps(image_root, tmp_path):
    import datasets
    files = sorted((image_root / 'train').glob('*/*.png'))
    rows = {'picture': [str(f) for f in files], 'kind': [0, 1, 2] * 12, 'text': ['a', 'b', 'c'] * 12}
    table = datasets.Dataset.from_dict(
        rows, features=datasets.Features(
            picture=datasets.Image(), kind=datasets.Value('int64'), text=datasets.Value('string')))
    (tmp_path / 'repo').mkdir()
    table.to_parquet(tmp_path / 'repo' / 'train.parquet')
    name, common = f'lt/hfds/{tmp_path}/repo', dict(root=tmp_path / 'cache', input_key='picture')

    dataset = create_dataset(name, target_key='kind', imbalance_factor=4, **common)
    assert dataset.class_names == ['0', '1', '2'] and dataset.class_counts.tolist() == [12, 6, 3]
    mapped = create_dataset(name, target_key='text', class_map={'c': 0, 'a': 1, 'b': 2}, **common)
    assert mapped.targets[:4].tolist() == [1, 2, 0, 1] and mapped.class_names == ['c', 'a', 'b']
    assert mapped[2][1] == 0
    for options, message in (
            (dict(target_key='text'), "image 0 has the label 'a'"),
            (dict(target_key='label'), "no label column 'label'; choose one of: kind, text"),
            (dict(target_key='kind', split='test'), "cannot read split 'test'"),
            (dict(target_key='text', class_map={'a': 0}), "no entry for the label 'b'"),
    ):
        with pytest.raises(UserError) as error:
            create_dataset(name, **common | options)
        assert message in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('name, message', [
    ('lt/digit', "unknown dataset 'lt/digit'; did you mean 'lt/digits'"),
    ('lt/cifar1000', "did you mean 'lt/cifar100'"),
    ('torch/mnst', "did you mean 'torch/mnist'"),
    ('lt/torch/mnis', "did you mean 'torch/mnist'"),
    ('foldr', "did you mean 'folder'"),
    ('hfds/', "unknown dataset 'hfds/'"),
])
def test_unknown_names(name, message, tmp_path):
    with pytest.raises(UserError) as error:
        create_dataset(name, tmp_path)
    assert message in str(error.value) and '\n' not in str(error.value)


def refusal(*args, **kwargs):
    with pytest.raises(UserError) as error:
        create_dataset(*args, **kwargs)
    assert '\n' not in str(error.value)
    return str(error.value)


def test_missing_data(tmp_path, image_root):
    assert f"'{tmp_path}/none' does not exist" in refusal('lt/folder', tmp_path / 'none')
    assert 'need a data folder' in refusal('lt/folder')
    assert 'needs a data folder' in refusal('lt/cifar10')
    assert '--dataset-download' in refusal('lt/cifar10', tmp_path / 'none')
    assert '--dataset-download' in refusal('lt/cifar10', tmp_path)
    assert "no split 'test'" in refusal('lt/folder', image_root, 'test') and 'train, val' in refusal(
        'lt/folder', image_root, 'test')
    assert "no split 'tset'; did you mean 'test'" in refusal('torch/mnist', tmp_path, 'tset')
    (tmp_path / 'file.txt').write_text('')
    assert 'neither a folder nor a tar file' in refusal('folder', tmp_path / 'file.txt')
    (tmp_path / 'bad.tar').write_text('no tar')
    assert 'bad.tar' in refusal('folder', tmp_path / 'bad.tar')


def test_missing_hugging_face_data(tmp_path):
    assert "cannot read split 'train'" in refusal(f'lt/hfds/{tmp_path}/none', tmp_path / 'cache')


@pytest.mark.parametrize('kind', ['hfds', 'hfids'])
def test_hugging_face_data_that_cannot_be_read(tmp_path, kind):
    (tmp_path / 'set').mkdir()
    for split in ('train', 'validation'):
        (tmp_path / 'set' / f'{split}.jsonl').write_text('{"image": "a", "label": 0}\n{"image": broken\n')
    said = refusal(f'{kind}/{tmp_path}/set', tmp_path / 'cache')
    assert f"cannot read split 'train' of '{kind}/" in said and 'An error occurred' not in said


def test_a_damaged_file_of_torchvision(tmp_path):
    (tmp_path / 'train' / 'n01').mkdir(parents=True)
    (tmp_path / 'meta.bin').write_bytes(b'xx')
    assert f"cannot read 'torch/imagenet' from '{tmp_path}'" in refusal('torch/imagenet', tmp_path)


def test_sets_without_columns_or_a_class_map_are_called_as_the_user_does():
    assert "'lt/digits' has no columns to choose input_key from" in refusal('lt/digits', input_key='x')
    assert "'lt/digits' has its own classes; a class map is for" in refusal('lt/digits', class_map={'a': 0})


def test_a_folder_without_images(tmp_path):
    (tmp_path / 'train' / 'cat').mkdir(parents=True)
    (tmp_path / 'train' / 'cat' / 'notes.txt').write_text('')
    message = refusal('lt/folder', tmp_path)
    assert str(tmp_path / 'train') in message and '.png' in message


@pytest.mark.parametrize('name', ['lt/digits', 'lt/cifar10', 'lt/folder', 'wds/any'])
def test_an_unknown_option_is_told_with_the_nearest(name, image_root, cifar_root):
    root = cifar_root if name == 'lt/cifar10' else image_root
    split = 'train.tar' if name == 'wds/any' else 'train'  # which is refused before it is looked for
    message = refusal(name, root, split=split, imbalance_factr=2)
    assert message.startswith(f"'{name}' has no option 'imbalance_factr'; did you mean 'imbalance_factor'?")


@pytest.mark.parametrize('content', [[], ['notes.txt'], ['deeper/notes.txt'], ['picture.gif']])
@pytest.mark.parametrize('packed', [False, True])
def test_a_training_class_without_images_is_named(image_root, tmp_path, content, packed):
    folder = image_root / 'train' / 'bat'
    folder.mkdir()
    for file in content:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text('')
    message = refusal('lt/folder', make_tar(image_root, tmp_path) if packed else image_root, imbalance_factor=2)
    assert "class 'bat'" in message and 'no image' in message


@pytest.mark.parametrize('packed', [False, True])
def test_images_of_more_endings_than_timms_are_read(image_root, tmp_path, packed, log):
    root = make_tar(image_root, tmp_path) if packed else image_root
    before = create_dataset('folder', root)
    pixels = [before[i][0].tobytes() for i in range(36)]
    for i, ending in enumerate(('.webp', '.BMP', '.tif', '.ppm')):
        path = image_root / 'train' / 'bee' / f'00{i}.png'
        Image.open(path).save(path.with_suffix(ending), lossless=True)
        path.unlink()
    root = make_tar(image_root, tmp_path / 'again') if packed else image_root
    after = create_dataset('folder', root)
    assert after.class_counts.tolist() == [12, 12, 12] and not log
    assert [after[i][0].tobytes() for i in range(36)] == pixels


def test_images_that_are_passed_over_are_counted(image_root, log):
    for i, ending in enumerate(('.gif', '.JP2', '.gif', '.txt')):
        (image_root / 'train' / 'bee' / f'other{i}{ending}').write_text('')
    assert create_dataset('folder', image_root).class_counts.tolist() == [12, 12, 12]
    assert '(2 .gif, 1 .jp2); those that are have .png .jpg .jpeg' in '\n'.join(log)
    log.clear()
    create_dataset('folder', image_root, split='validation')
    assert not '\n'.join(log)


def test_those_inside_a_tar_file_are_counted_too(image_root, tmp_path, log):
    (image_root / 'train' / 'bee' / 'other.gif').write_text('')
    assert create_dataset('folder', make_tar(image_root, tmp_path)).class_counts.tolist() == [12, 12, 12]
    assert '(1 .gif)' in '\n'.join(log)


def test_links_in_a_tar_file_are_told(image_root, tmp_path, log):
    first, second, third = (image_root / 'train' / 'bee' / f'{number:03d}.png' for number in range(3))
    second.unlink()
    second.symlink_to('000.png')
    third.unlink()
    third.hardlink_to(first)
    assert create_dataset('folder', make_tar(image_root, tmp_path)).class_counts.tolist() == [12, 10, 12]
    assert "train.tar' has 2 images that are links, which are passed over: pack what they lead to" in '\n'.join(log)


@pytest.mark.parametrize('packed', [False, True])
def test_folders_that_a_class_map_leaves_out_are_told(image_root, tmp_path, packed, log):
    root = make_tar(image_root, tmp_path) if packed else image_root
    assert create_dataset('folder', root, class_map={'cat': 0, 'ant': 1}).class_names == ['cat', 'ant']
    assert "has 12 images in folders that the class map does not name, which are left out: " in '\n'.join(log)
    assert "bee'" in '\n'.join(log) and "ant'" not in '\n'.join(log)


def write_mnist(root, images, labels):
    """As it is published: a header of big-endian numbers, and bytes."""
    for part, count in (('train', len(labels)), ('t10k', 10)):
        folder = root / 'FashionMNIST' / 'raw'
        folder.mkdir(parents=True, exist_ok=True)
        header = np.array([2051, count, *images.shape[1:]], '>i4').tobytes()
        (folder / f'{part}-images-idx3-ubyte').write_bytes(header + images[:count].tobytes())
        header = np.array([2049, count], '>i4').tobytes()
        (folder / f'{part}-labels-idx1-ubyte').write_bytes(header + labels[:count].tobytes())


def test_grey_sets_of_torchvision_come_in_colours(tmp_path):
    rng = np.random.RandomState(0)
    images, labels = rng.randint(0, 256, (40, 28, 28), np.uint8), np.arange(40, dtype=np.uint8) % 10
    write_mnist(tmp_path, images, labels)
    dataset = create_dataset('lt/torch/fashion_mnist', tmp_path, imbalance_factor=4)
    assert dataset.class_counts.tolist() == [4, 3, 2, 2, 2, 1, 1, 1, 1, 1] and dataset.class_names[9] == 'Ankle boot'
    image, label = dataset[0]
    assert image.mode == 'RGB' and label == dataset.targets[0]
    assert np.array_equal(np.asarray(image), images[dataset.indices[0], :, :, None].repeat(3, 2))
    flipped = dataset.with_transform(lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert np.array_equal(np.asarray(flipped[0][0]), np.asarray(image)[:, ::-1])
    assert np.array_equal(np.asarray(dataset[0][0]), np.asarray(image)), 'which has its own'


def test_folders_that_are_no_classes_do_no_harm(image_root):
    for name in ('.cache/thumbnails', '__MACOSX', 'ant/empty'):
        (image_root / 'train' / name).mkdir(parents=True)
    assert create_dataset('folder', image_root).class_names == CLASSES


def test_classes_in_nested_folders(tmp_path, image_root):
    (image_root / 'train').rename(image_root / 'insects')
    (image_root / 'train').mkdir()
    (image_root / 'insects').rename(image_root / 'train' / 'insects')
    assert create_dataset('folder', image_root).class_names == CLASSES
    (image_root / 'train' / 'insects' / 'dragonfly').mkdir()
    assert "class 'insects/dragonfly'" in refusal('folder', image_root)


@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('moved, message', [
    ({'ant': 'church/indoor', 'bee': 'pub/indoor'}, "'church/indoor' and 'pub/indoor' in"),
    ({'ant': 'bee/series1'}, "has images in 'bee' and in 'bee/series1' inside it"),
    ({'ant': 'bee/.ipynb_checkpoints'}, "has images in the hidden folder 'bee/.ipynb_checkpoints'"),
    ({'ant': '@eaDir'}, "has images in the hidden folder '@eaDir'"),
    ({'ant/000.png': 'bee/._000.png'}, 'has hidden images, which nobody sees: remove '),
])
def test_folders_that_timm_would_take_for_other_classes_are_refused(image_root, moved, message, packed):
    for source, target in moved.items():
        (image_root / 'train' / target).parent.mkdir(exist_ok=True)
        (image_root / 'train' / source).rename(image_root / 'train' / target)
    if packed:
        with tarfile.open(image_root / 'train.tar', 'w') as archive:
            for file in sorted((image_root / 'train').rglob('*.png')):
                archive.add(file, file.relative_to(image_root / 'train'))
        shutil.rmtree(image_root / 'train')
    assert message in refusal('folder', image_root)


def test_a_link_that_leads_back_is_refused(image_root, monkeypatch):
    monkeypatch.setattr('timm.data.create_dataset', None)  # which would follow it
    (image_root / 'train' / 'ant' / 'loop').symlink_to(image_root / 'train')
    assert "ant/loop' leads back" in refusal('folder', image_root)


def test_classes_have_one_order_in_every_process(tmp_path):
    """timm sorts a set, which each process has in an order of its own, and takes these names for alike: only by a rare
    chance it finds this order."""
    names = ['001', '01', '1', *itertools.chain(*zip('ABCDEFGHIJ', 'abcdefghij', strict=True))]
    for name in names:
        (tmp_path / 'train' / name).mkdir(parents=True)
        Image.new('RGB', (8, 8)).save(tmp_path / 'train' / name / '0.png')
    assert create_dataset('folder', tmp_path).class_names == names


def test_images_have_one_order_in_every_copy(tmp_path):
    """timm takes these names for alike too, and leaves them as the file system has them."""
    names = ['01.png', '001.png', '1.png', 'A1.PNG', 'a1.png', 'b.png']
    for place, order in (('x', names), ('y', names[::-1])):
        (tmp_path / place / 'train/cat').mkdir(parents=True)
        for name in order:
            Image.new('RGB', (8, 8)).save(tmp_path / place / 'train/cat' / name)
    both = [create_dataset('folder', tmp_path / place) for place in 'xy']
    assert [[dataset.filename(i, basename=True) for i in range(6)] for dataset in both] == [
        ['001.png', '01.png', '1.png', 'A1.PNG', 'a1.png', 'b.png']] * 2


def test_images_outside_class_folders_are_refused(image_root):
    (image_root / 'train' / 'ant' / '000.png').rename(image_root / 'train' / 'stray.png')
    assert 'must lie in the folder of its class' in refusal('folder', image_root)
    images = sorted((image_root / 'val').glob('*/*.png'))
    for i, image in enumerate(images):
        image.rename(image_root / 'val' / f'{i}.png')
    assert f"images in '{image_root / 'val'}' itself" in refusal('folder', image_root, split='val')


def test_an_image_to_measure_on_in_two_classes_at_once_is_refused(image_root):
    (image_root / 'val/bee/more/ant').mkdir(parents=True)
    next((image_root / 'val/bee').glob('*.png')).rename(image_root / 'val/bee/more/ant/1.png')
    message = refusal('folder', image_root, split='validation')
    assert "images in 'bee' and in 'bee/more/ant' inside it" in message and '--val-list' in message
    (image_root / 'val/bee/more/ant/1.png').rename(image_root / 'val/bee/1.png')
    (image_root / 'val/here').mkdir()
    (image_root / 'val/ant').rename(image_root / 'val/here/ant')  # in groups, to measure on
    (image_root / 'val/there/ant').mkdir(parents=True)
    shutil.copy(image_root / 'val/bee/1.png', image_root / 'val/there/ant/1.png')
    (image_root / 'val/empty').mkdir()
    dataset = create_dataset('folder', image_root, split='validation')
    assert dataset.class_names == CLASSES and dataset.class_counts[0] == dataset.class_counts[2] + 1


def test_digits_that_timm_cannot_sort_by(image_root):
    (image_root / 'train/bee').rename(image_root / 'train/²')
    assert "timm cannot sort by, such as ² or ① (invalid literal for int() with base 10: '²')" in refusal(
        'lt/folder', image_root)


@pytest.mark.parametrize('split, training, counts', [
    ('other', True, [12, 8, 6]), ('other', False, [12] * 3), ('training', None, [12, 8, 6])])
def test_what_is_made_long_tailed_is_what_is_trained_on(image_root, split, training, counts):
    (image_root / 'train').rename(image_root / split)
    dataset = create_dataset('lt/folder', image_root, split=split, imbalance_factor=2, training=training)
    assert dataset.class_counts.tolist() == counts
    if training is None:
        return
    assert "the name 'other' does not tell" in refusal('lt/folder', image_root, split=split, imbalance_factor=2)
    assert create_dataset('lt/folder', image_root, split=split).class_counts.tolist() == [12] * 3


def test_impossible_selections(image_root, cifar_root):
    assert "write 'lt/folder'" in refusal('folder', image_root, imbalance_factor=2)
    assert "write 'lt/folder'" in refusal('folder', image_root, class_counts=[1, 1, 1])
    assert '>= 1, got 0.1' in refusal('lt/folder', image_root, imbalance_factor=0.1)
    assert 'leaves class 2 with 0 images' in refusal('lt/folder', image_root, imbalance_factor=13)
    assert "class 'ant' (index 0) has 12 images, but 13" in refusal(
        'lt/folder', image_root, imbalance_factor=2, max_per_class=13)
    assert 'goes with an imbalance factor' in refusal('lt/folder', image_root, max_per_class=13)
    assert 'not both' in refusal('lt/folder', image_root, imbalance_factor=2, class_counts=[1, 1, 1])
    assert "did you mean 'exp'" in refusal('lt/folder', image_root, imbalance_factor=2, imbalance_type='exq')
    assert 'class map' in refusal('lt/cifar10', cifar_root, class_map={'a': 0})


@pytest.mark.parametrize(('counts', 'message'), [
    ([1, 1], "2 class counts are given for the 3 classes of 'lt/folder'"),
    ([1, 0, 1], "class 'bee' (index 1) of 'lt/folder' would have 0 images"),
    ([1, 1, 99], "class 'cat' (index 2) has 12 images, but 99"),
    ([[1, 2], [3]], 'class counts must be a flat list of integers, got lists in a list'),
    ([[1, 2, 3]], 'class counts must be a flat list of integers, got int64 of shape (1, 3)'),
    (['1', '2', 'many'], 'class counts must be a flat list of integers, got <U4 of shape (3,)'),
    ([1, 1, 1.5], 'class counts must be a flat list of integers, got float64'),
])
def test_impossible_class_counts(image_root, counts, message):
    assert message in refusal('lt/folder', image_root, class_counts=counts)


def test_bad_class_maps(image_root):
    assert "for class 'dog' (index 1)" in refusal('lt/folder', image_root, class_map={'ant': 0, 'dog': 1})
    assert 'none.txt' in refusal('lt/folder', image_root, class_map='none.txt')
    assert 'a class index' in refusal('lt/folder', image_root, class_map={'ant': 'first'})
    assert 'no images' in refusal('lt/folder', image_root, class_map={'dog': 0})
    file = image_root / 'map.txt'
    for text in ('ant\nbee\ncat\n\n', 'ant\nbee\nant\ncat\n'):
        file.write_text(text)
        assert 'has an empty line, or a name twice' in refusal('lt/folder', image_root, class_map=file)
    file.write_text('cat\nbee\nant\n', encoding='utf-8-sig')
    assert create_dataset('lt/folder', image_root, class_map=file).class_names == ['cat', 'bee', 'ant']


def test_damaged_torchvision_files(cifar_root):
    for file in (cifar_root / 'cifar-10-batches-py').iterdir():
        file.write_bytes(file.read_bytes()[:100])
    assert 'cifar10' in refusal('lt/cifar10', cifar_root)
