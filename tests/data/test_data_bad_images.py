"""Images of many kinds: the odd ones are read, the broken ones are told by name, or left out and counted."""
import io
import os
import struct
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from timm_ltkd.data import (
    ResidentImages,
    count_skipped,
    create_eval_transform,
    create_splits,
    fingerprint,
    skip_bad_images,
)
from timm_ltkd.data.reading import read_image, read_sample
from timm_ltkd.errors import UserError

RNG = np.random.RandomState(0)
NOISE = Image.fromarray(RNG.randint(0, 256, (12, 16, 3), dtype=np.uint8))


def encoded(kind, image=NOISE, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(width, height, pixels=b''):
    """A PNG file that says so of its size, whatever pixels it holds."""
    def chunk(name, content):
        return struct.pack('>I', len(content)) + name + content + struct.pack('>I', zlib.crc32(name + content))
    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(pixels)) + chunk(b'IEND', b'')


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter
    return encoded('JPEG', exif=exif)


def palette_with_transparency():
    image = NOISE.convert('P')
    image.info['transparency'] = 0
    return encoded('PNG', image, transparency=0)


BROKEN = {
    'truncated.jpg': lambda: encoded('JPEG')[:200],
    'empty.png': lambda: b'',
    'text.jpg': lambda: b'this is no image\n' * 20,
    'zeros.png': lambda: b'\0' * 500,
    'chunk.png': lambda: encoded('PNG')[:60] + b'\xff\xff\xff\xff' + encoded('PNG')[64:],
    'cut.png': lambda: encoded('PNG')[:-40],
    'bomb.png': lambda: png(60_000, 60_000),
    'no_pixels.png': lambda: png(8, 8),
    'webp.png': lambda: encoded('WEBP')[:40],
    'tiff.png': lambda: encoded('TIFF')[:100],
    'gif.jpg': lambda: encoded('GIF')[:30],
    'program.jpg': lambda: b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nquit\n%%EOF\n',
}
ODD = {
    'wrong_ending.jpg': lambda: encoded('PNG'),
    'animated.png': lambda: encoded('GIF', save_all=True, append_images=[NOISE.rotate(90)]),
    'deep.png': lambda: encoded('PNG', Image.fromarray(RNG.randint(0, 65536, (12, 16)).astype(np.uint16))),
    'four_inks.jpg': lambda: encoded('JPEG', NOISE.convert('CMYK')),
    'palette.png': palette_with_transparency,
    'one_pixel.png': lambda: encoded('PNG', NOISE.resize((1, 1))),
    'bits.png': lambda: encoded('PNG', NOISE.convert('1')),
    'grey_alpha.png': lambda: encoded('PNG', NOISE.convert('LA')),
    'rotated.jpg': rotated,
    'line.png': lambda: encoded('PNG', NOISE.resize((600, 1))),
}


@pytest.mark.parametrize('name', BROKEN)
def test_a_broken_image_is_one_line_with_its_name(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(BROKEN[name]())
    with pytest.raises(UserError) as told:
        read_image(str(path), 'RGB')
    assert str(told.value).startswith(f"cannot read image '{path}': ") and '\n' not in str(told.value)


@pytest.mark.parametrize('name', ODD)
def test_an_odd_image_is_read(tmp_path, name, recwarn):
    path = tmp_path / name
    path.write_bytes(ODD[name]())
    image = read_image(str(path), 'RGB')
    assert image.mode == 'RGB' and not recwarn.list
    transform = create_eval_transform(input_size=(3, 8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
    assert transform(image).shape == (3, 8, 8)


def test_what_odd_images_look_like(tmp_path):
    def read(name):
        (tmp_path / name).write_bytes(ODD[name]())
        return read_image(str(tmp_path / name), 'RGB')
    assert np.array_equal(read('wrong_ending.jpg'), NOISE)
    assert read('rotated.jpg').size == NOISE.size  # as stored, as timm has it
    first = Image.open(io.BytesIO(encoded('GIF'))).convert('RGB')
    assert np.array_equal(read('animated.png'), first)
    assert np.asarray(read('deep.png')).std() > 50  # Pillow alone makes all of it white


def write_data(folder, broken_train=(), broken_val=()):
    """Three classes with 6, 4 and 3 training and 3 validation images; the broken ones besides."""
    for split, sizes in (('train', (6, 4, 3)), ('val', (3, 3, 3))):
        for name, size in zip(('ant', 'bee', 'cat'), sizes, strict=True):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(size):
                Image.fromarray(RNG.randint(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / split / name / f'{i}.png')
    for split, names in (('train', broken_train), ('val', broken_val)):
        for name in names:
            (folder / split / name).write_bytes(BROKEN[os.path.basename(name)]())
    return folder


@pytest.fixture
def damaged(tmp_path):
    """Data with every kind of broken image in training, one in validation, and a file that vanished behind a link."""
    names = [f'{("ant", "bee", "cat")[i % 3]}/{name}' for i, name in enumerate(BROKEN)]
    write_data(tmp_path / 'data', names, ['bee/cut.png'])
    (tmp_path / 'data' / 'train' / 'ant' / 'vanished.png').symlink_to(tmp_path / 'nowhere.png')
    return tmp_path / 'data', {*names, 'ant/vanished.png'}


@pytest.mark.parametrize('workers', [0, 2])
def test_bad_images_are_left_out_and_listed(damaged, workers):
    root, names = damaged
    splits = skip_bad_images(create_splits('folder', root), workers=workers)
    assert splits.train.class_counts.tolist() == [6, 4, 3] and splits.val.class_counts.tolist() == [3, 3, 3]
    assert {image.file for image in splits.skipped if image.split == 'train'} == names
    assert [image.file for image in splits.skipped if image.split == 'val'] == ['bee/cut.png']
    assert count_skipped(splits.skipped) == {'train': len(names), 'val': 1}
    assert all(image.why and '\n' not in image.why for image in splits.skipped)
    for part in (splits.train, splits.val):
        assert len([image for image, _ in part]) == len(part)


def test_the_images_that_are_left_are_those_of_a_folder_without_the_others(damaged, tmp_path):
    root, names = damaged
    splits = skip_bad_images(create_splits('folder', root))
    for name in names:
        (root / 'train' / name).unlink()
    (root / 'val' / 'bee' / 'cut.png').unlink()
    clean = create_splits('folder', root)
    assert [splits.train.filename(i) for i in range(13)] == [clean.train.filename(i) for i in range(13)]
    assert splits.train.targets.tolist() == clean.train.targets.tolist()
    assert fingerprint(skip_bad_images(clean)) == fingerprint(clean)


def test_nothing_changes_where_nothing_is_broken(tmp_path):
    splits = create_splits('folder', write_data(tmp_path / 'data'))
    checked = skip_bad_images(splits)
    assert checked.train is splits.train and checked.val is splits.val and checked.skipped == ()


def test_processes_share_the_work_and_agree(damaged):
    root, names = damaged
    given, answers = [], []
    for rank in range(3):  # first what each gives, then what each makes of all that was given
        def note(value, rank=rank):
            given.append((rank, value))
            return [value]
        skip_bad_images(create_splits('folder', root), rank=rank, world_size=3, exchange=note)
    shares = [[value for each, value in given if each == rank] for rank in range(3)]
    assert sum(len(share[0]) for share in shares) == len(names) and all(share[0] for share in shares)
    for rank in range(3):
        rounds = iter(zip(*shares, strict=True))
        answers.append(skip_bad_images(
            create_splits('folder', root), rank=rank, world_size=3, exchange=lambda _, rounds=rounds: next(rounds)))
    alone = skip_bad_images(create_splits('folder', root))
    for answer in answers:
        assert answer.skipped == alone.skipped
        assert answer.train.indices.tolist() == alone.train.indices.tolist()


def test_a_class_of_which_nothing_is_left(tmp_path):
    root = write_data(tmp_path / 'data')
    for path in (root / 'train' / 'cat').iterdir():
        path.write_bytes(b'')
    with pytest.raises(UserError, match="no training image of class 'cat' can be read"):
        skip_bad_images(create_splits('folder', root))
    for path in (root / 'val').rglob('*.png'):
        path.write_bytes(b'')
    with pytest.raises(UserError, match='none of the images to measure on can be read|no training image'):
        skip_bad_images(create_splits('folder', root))


def test_a_selection_keeps_its_images_but_the_bad_ones(tmp_path):
    root = write_data(tmp_path / 'data', ['ant/cut.png'])
    whole = create_splits('lt/folder', root, imbalance_factor=3, max_per_class=4)
    for i in range(2):
        (root / 'train' / whole.train.filename(i)).write_bytes(b'')
    splits = skip_bad_images(whole)
    assert whole.train.class_counts.tolist() == [4, 2, 1] and splits.train.class_counts.tolist()[1:] == [2, 1]
    assert set(splits.train.indices) < set(whole.train.indices)
    assert sum(splits.train.class_counts) + count_skipped(splits.skipped)['train'] == 7


def test_resident_images_are_decoded_without_the_bad_ones(tmp_path):
    root = write_data(tmp_path / 'data', ['ant/cut.png', 'cat/empty.png'])
    splits = skip_bad_images(create_splits('folder', root))
    transform = create_eval_transform(input_size=(3, 8, 8), mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.)
    images = ResidentImages(splits.train, transform)
    assert images.images.shape[0] == 13 and images.targets.tolist() == splits.train.targets.tolist()


def test_rows_of_a_table_without_an_image(tmp_path):
    import datasets
    features = datasets.Features({'image': datasets.Image(), 'label': datasets.ClassLabel(names=['ant', 'bee'])})
    folder = tmp_path / 'table'
    folder.mkdir()
    images = [
        None, {'bytes': encoded('PNG'), 'path': None}, {'bytes': b'no image', 'path': None},
        {'bytes': encoded('PNG'), 'path': None}, {'bytes': b'', 'path': None}, {'bytes': b'no image', 'path': None}]
    for split in ('train', 'validation'):
        table = datasets.Dataset.from_dict({'image': images, 'label': [0, 0, 0, 1, 1, 1]}, features=features)
        table.to_parquet(str(folder / f'{split}.parquet'))
    splits = skip_bad_images(create_splits(f'hfds/{folder}', tmp_path / 'cache'))
    assert splits.train.indices.tolist() == splits.val.indices.tolist() == [1, 3]
    assert count_skipped(splits.skipped) == {'train': 4, 'val': 4}
    base = create_splits(f'hfds/{folder}', tmp_path / 'cache').train.base
    for i in (0, 4):
        with pytest.raises(UserError, match=f"cannot read image {i} of split 'train': it holds no image; repair"):
            read_sample(base, i)

    stream = create_splits(f'hfids/{folder}')
    with pytest.raises(UserError, match='cannot read image 0 of shard .*train.parquet.: it holds no image'):
        list(stream.train)
    splits = skip_bad_images(stream)
    assert [target for _, target in splits.train] == [0, 1]
    assert [image.why for image in splits.skipped][0].endswith('it holds no image')
    assert count_skipped(splits.skipped) == {'train': 4, 'val': 4}


@pytest.mark.parametrize('kind', ['tar', 'parquet'])
def test_bad_images_of_a_stream(write_shards, tmp_path, kind):
    pictures = [Image.fromarray(RNG.randint(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(12)]
    labels = [0, 1, 2] * 4
    folder = write_shards(kind, tmp_path / 'shards', 'train', pictures, labels, (5, 4, 3))
    write_shards(kind, tmp_path / 'shards', 'validation', pictures[:6], labels[:6], (6,))
    bad = {('train', 1): 5, ('train', 10): 11}  # (split, number of the image): its place is spoiled below
    if kind == 'tar':
        pytest.importorskip('webdataset')
        for number in (1, 10):
            _spoil_in_tar(folder, 'train', number, (5, 4, 3))
        splits = create_splits('wds/x', folder, 'train-{000..002}.tar', 'validation-000.tar')
    else:
        for number in (1, 10):
            _spoil_in_parquet(folder, 'train', number, (5, 4, 3))
        splits = create_splits(f'hfids/{folder}', train_split='train', val_split='validation')
    whole = [target for target in labels]
    assert len(splits.train) == 12
    for workers in (0, 2):
        checked = skip_bad_images(splits, workers=workers)
        assert count_skipped(checked.skipped) == {'train': len(bad), 'val': 0}
        assert checked.train.class_counts.tolist() == [4, 2, 4]
        assert checked.train.shard_lengths.tolist() == [4, 4, 2]
    seen = [target for _, target in checked.train]
    assert seen == [target for number, target in enumerate(whole) if number not in (1, 10)]
    again = [int(target) for _, target in DataLoader(checked.train.with_transform(np.asarray), batch_size=None,
                                                     num_workers=2)]
    assert sorted(again) == sorted(seen)


def _spoil_in_tar(folder, split, number, sizes):
    shard, index = _place(number, sizes)
    path = folder / f'{split}-{shard:03d}.tar'
    with tarfile.open(path) as archive:
        members = [(member, archive.extractfile(member).read()) for member in archive]
    with tarfile.open(path, 'w') as archive:
        for member, content in members:
            if member.name.endswith(f'-{index:05d}.png'):
                content = content[:40]
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def _spoil_in_parquet(folder, split, number, sizes):
    import datasets
    shard, index = _place(number, sizes)
    path = folder / f'{split}-{shard:05d}-of-{len(sizes):05d}.parquet'
    table = datasets.Dataset.from_parquet(str(path), cache_dir=str(folder.parent / 'cache'))
    features = table.features
    rows = table.cast_column('image', datasets.Image(decode=False)).to_list()
    rows[index]['image']['bytes'] = rows[index]['image']['bytes'][:40]
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(path))


def _place(number, sizes):
    for shard, size in enumerate(sizes):
        if number < size:
            return shard, number
        number -= size
    raise AssertionError(number)
