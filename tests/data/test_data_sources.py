"""Every source gives the same data: selection, classes, pixels; and no image is opened while labels are read."""
import pickle
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import timm
import torch
from packaging.version import Version
from PIL import Image, ImageFile

from timm_ltkd.data import create_dataset, create_splits, fingerprint, long_tail_counts, long_tail_indices
from timm_ltkd.data.reading import convert
from timm_ltkd.errors import UserError
from timm_ltkd.metrics import long_tail_report
from timm_ltkd.prior import ClassPrior
from timm_ltkd.report import data_profile, write_report

CLASSES = ['Ente', 'große Äsche', 'ζέβρα']  # with a space, and no ASCII
SPLITS = {'train': 12, 'val': 4}
needs_new_timm = pytest.mark.skipif(
    Version(timm.__version__) < Version('1.0.31'),
    reason='older timm writes names in small letters, and does not read what save_to_disk wrote')


class Source(NamedTuple):
    """What `create_splits` is given, and how an image is called there."""
    name: str
    root: Path
    options: dict = {}


@pytest.fixture(autouse=True, scope='module')
def no_plots():
    """A report comes with its figures here."""


@pytest.fixture
def images(tmp_path):
    """Image folders of three classes, each image of one colour of its own."""
    root = tmp_path / 'Bilder und mehr' / 'données'
    for split, size in SPLITS.items():
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for i in range(size):
                Image.new('RGB', (8, 8), (80 * label, 10 * i, 99)).save(root / split / name / f'{i:03d}.png')
    return root


def label_of(file):
    return CLASSES.index(file.parent.name)


def files_of(images, split):
    return sorted((images / split).glob('*/*.*'), key=lambda file: (label_of(file), file.name))


def folder(images, tmp):
    return Source('lt/folder', images)


def torchvision_folder(images, tmp):
    return Source('lt/torch/image_folder', images)


def tar(images, tmp):
    for split in SPLITS:
        with tarfile.open(tmp / f'{split}.tar', 'w') as archive:
            archive.add(images / split, arcname='.')
    return Source('lt/tar', tmp)


def lists(images, tmp):
    options = {}
    for split in SPLITS:
        options[f'{split}_list'] = tmp / f'{split} list.txt'
        lines = [f'{file.relative_to(images)} {label_of(file)}\n' for file in files_of(images, split)]
        options[f'{split}_list'].write_text(''.join(lines), encoding='utf-8')
    return Source('lt/list', images, options)


def tables(images, keys=('image', 'label')):
    import datasets
    features = datasets.Features({keys[0]: datasets.Image(), keys[1]: datasets.ClassLabel(names=CLASSES)})
    found = {'train': files_of(images, 'train'), 'validation': files_of(images, 'val')}
    return datasets.DatasetDict({
        split: datasets.Dataset.from_dict(
            {keys[0]: [str(file) for file in files], keys[1]: [label_of(file) for file in files]}, features=features)
        for split, files in found.items()})


def parquet(images, tmp):
    for split, table in tables(images, ('picture', 'fish')).items():
        (tmp / 'set').mkdir(exist_ok=True)
        table.to_parquet(tmp / 'set' / f'{split}.parquet')
    return Source(f'lt/hfds/{tmp}/set', tmp / 'cache', dict(input_key='picture', target_key='fish'))


def arrow(images, tmp):
    tables(images).save_to_disk(tmp / 'set')
    return Source(f'lt/hfds/{tmp}/set', tmp / 'cache')


def hub_folder(images, tmp):
    return Source(f'lt/hfds/{images}', tmp / 'cache')


SOURCES = [
    folder, torchvision_folder, tar, lists, parquet,
    *(pytest.param(source, marks=needs_new_timm) for source in (arrow, hub_folder))]


@pytest.fixture
def decoded(monkeypatch):
    """Grows whenever an image is opened or decoded."""
    calls = []
    for owner, name in ((Image, 'open'), (ImageFile.ImageFile, 'load')):
        original = getattr(owner, name)

        def counted(*args, _original=original, **kwargs):
            calls.append(args)
            return _original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)
    return calls


@pytest.mark.parametrize('source', SOURCES)
def test_same_selection_classes_and_pixels(source, images, tmp_path, decoded):
    (tmp_path / 'made').mkdir()
    name, root, options = source(images, tmp_path / 'made')
    decoded.clear()
    splits = create_splits(name, root, imbalance_factor=4, seed=3, **options)
    assert not decoded, 'labels are read without opening an image'

    targets = np.repeat(range(3), 12)
    counts = long_tail_counts(3, 12, 4)
    assert splits.class_names == splits.val.class_names == CLASSES
    assert splits.train.targets.tolist() == np.repeat(range(3), counts).tolist()
    assert splits.train.indices.tolist() == long_tail_indices(targets, counts, seed=3).tolist()
    assert splits.val.class_counts.tolist() == [4, 4, 4]
    for dataset, numbers in ((splits.train, splits.train.indices % 12), (splits.val, np.tile(range(4), 3))):
        for i in range(len(dataset)):
            image, label = dataset[i]
            assert label == dataset.targets[i] and isinstance(label, int)
            assert image.mode == 'RGB' and image.getpixel((3, 3)) == (80 * label, 10 * numbers[i], 99)
        assert pickle.loads(pickle.dumps(dataset))[5][0].tobytes() == dataset[5][0].tobytes()
    assert len(fingerprint(splits)) == 64


@pytest.mark.parametrize('source', SOURCES)
def test_a_class_without_validation_images_shifts_nothing(source, images, tmp_path):
    for file in (images / 'val' / CLASSES[1]).iterdir():
        file.unlink()
    (tmp_path / 'made').mkdir()
    name, root, options = source(images, tmp_path / 'made')
    if name == 'lt/torch/image_folder':  # torchvision numbers each folder by itself
        with pytest.raises(UserError, match=r"Found no valid file for the classes große Äsche|number their classes"):
            create_splits(name, root, **options)
        return
    splits = create_splits(name, root, **options)
    assert splits.class_names == CLASSES and splits.val.class_counts.tolist() == [4, 0, 4]
    assert {splits.val[i][0].getpixel((0, 0))[0] // 80 for i in range(4, 8)} == {2} == set(splits.val.targets[4:])


def unusual(folder):
    """Images of five kinds, and the grey that each shows at its left and at its right end."""
    ramp = np.tile(np.linspace(0, 1, 8), (8, 1))
    byte = Image.fromarray((ramp * 255).round().astype(np.uint8))
    palette = byte.convert('P')
    palette.save(folder / '2.png', transparency=bytes(range(256)))
    Image.fromarray((ramp * 65535).round().astype(np.uint16)).save(folder / '0.png')
    byte.save(folder / '1.png')
    byte.convert('RGB').convert('CMYK').save(folder / '3.jpg', quality=100)
    Image.merge('RGBA', [byte] * 3 + [byte]).save(folder / '4.png')
    return ramp * 255


@pytest.mark.parametrize('values, said', [
    (np.full((4, 4), 0.5, np.float32), 'floating-point numbers up to 0.5'),
    (np.full((4, 4), 300, np.float32), 'floating-point numbers up to 300'),
    (np.full((4, 4), 2 ** 20, np.int32), 'its grey values go up to 1048576'),
])
def test_grey_values_of_which_nobody_knows_what_is_white(values, said):
    with pytest.raises(OSError, match=said):
        convert(Image.fromarray(values), 'RGB')


def test_grey_values_as_floats_of_8_bits():
    assert np.array_equal(np.asarray(convert(Image.fromarray(np.float32([[0, 7], [8, 255]])), 'L')), [[0, 7], [8, 255]])
    assert not np.asarray(convert(Image.fromarray(np.zeros((2, 2), np.float32)), 'RGB')).any()


@pytest.mark.filterwarnings('error::UserWarning')
@pytest.mark.parametrize('source', SOURCES)
def test_images_of_every_kind_come_in_three_channels(source, images, tmp_path):
    for split in SPLITS:
        for file in files_of(images, split):
            file.unlink()
        for name in CLASSES:
            ramp = unusual(images / split / name)
    (tmp_path / 'made').mkdir()
    name, root, options = source(images, tmp_path / 'made')
    dataset = create_splits(name, root, **options).train
    for i, mode in enumerate(('I', 'L', 'P', 'CMYK', 'RGBA')):
        with Image.open(files_of(images, 'train')[i]) as image:
            assert image.mode.startswith(mode)
        assert dataset[i][0].mode == 'RGB'
        difference = np.abs(np.asarray(dataset[i][0]).astype(float) - ramp[..., None])
        assert difference.max() <= (6 if mode == 'CMYK' else 1), mode


def test_columns_are_for_tables(images):
    for name in ('lt/folder', 'lt/digits', 'torch/folder'):
        for key in ('input_key', 'target_key'):
            with pytest.raises(UserError, match=f'no columns to choose {key} from'):
                create_dataset(name, images, **{key: 'x'})


def test_columns_that_are_not_there(images, tmp_path):
    import datasets
    which = 'one of: picture (--input-key)' if datasets.__version__ >= '4' else 'another (--input-key)'
    name, root, options = parquet(images, tmp_path)
    for changes, message in (
            (dict(input_key='image'), "no image column 'image'; choose " + which),
            (dict(input_key='fish', target_key='fish'), "column 'fish' of"),
            (dict(target_key='label'), "no label column 'label'; choose one of: fish (--target-key)"),
            (dict(target_key='picture'), 'needs one class index per image')):
        with pytest.raises(UserError) as error:
            create_dataset(name, root, **options | changes)
        assert message in str(error.value) and '\n' not in str(error.value)


def test_one_saved_split_is_refused(images, tmp_path):
    tables(images)['train'].save_to_disk(tmp_path / 'set')
    with pytest.raises(UserError, match='save a DatasetDict of both'):
        create_dataset(f'hfds/{tmp_path}/set', tmp_path / 'cache')


def test_8142_classes_of_one_image_each(tmp_path):
    classes = 8142
    Image.new('RGB', (8, 8)).save(tmp_path / 'x.png')
    for name in ('train', 'val'):
        (tmp_path / f'{name}.txt').write_text(''.join(f'x.png {c}\n' for c in range(classes)))
    options = dict(train_list=tmp_path / 'train.txt', val_list=tmp_path / 'val.txt')
    splits = create_splits('lt/list', tmp_path, imbalance_factor=1, **options)
    assert splits.train.class_counts.tolist() == [1] * classes and splits.class_names[-1] == '8141'
    prior = ClassPrior(splits.train.class_counts, splits.class_names)
    assert prior.effective_number_weights().tolist() == [1.] * classes
    assert 'few 8142 (8142 images)' in data_profile(prior, splits.class_names)
    predictions = torch.arange(classes) // 2 * 2
    report = long_tail_report(predictions, splits.val.targets, prior)
    assert report['few'] == report['top1'] == report['balanced'] == 50. and 'many' not in report
    write_report(
        tmp_path / 'out', student=report, prior=prior, class_names=splits.class_names, history=[], run={})
    assert len((tmp_path / 'out' / 'per_class.csv').read_text().splitlines()) == 1 + classes
    assert (tmp_path / 'out' / 'class_profile.png').stat().st_size > 1000
    assert len(fingerprint(splits)) == 64
