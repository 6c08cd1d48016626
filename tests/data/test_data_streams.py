"""Streams: what they hold is counted once, and read as every other source reads it; mistakes are told in one line."""
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from timm_ltkd.data import create_dataset, create_splits, fingerprint, hold_out, streams
from timm_ltkd.data.streams.huggingface import HuggingFaceShards
from timm_ltkd.data.streams.webdataset import WebdatasetShards
from timm_ltkd.errors import UserError

SIZES = (4, 1, 6)
LABELS = (0, 2, 0, 1, 0, 0, 1, 2, 0, 0, 1)
KINDS = ('parquet', 'imagefolder', 'tar')


def pictures(number, first=0):
    """Images that say which they are: the first pixel's red."""
    return [Image.fromarray(np.full((4, 4, 3), (first + i, 100, 200), np.uint8)) for i in range(number)]


def who(image):
    return image.getpixel((0, 0))[0]


@pytest.fixture
def stream(tmp_path, write_shards):
    """`stream(kind, **options)`: the splits of a stream with 11 training and 3 validation images."""
    def make(kind, **options):
        folder = tmp_path / kind
        if not folder.exists():
            write_shards(kind, folder, 'train', pictures(11), LABELS, SIZES)
            write_shards(kind, folder, 'validation', pictures(3, 50), (0, 1, 0), (2, 1))
        if kind != 'tar':
            return create_splits(f'hfids/{folder}', **options)
        pytest.importorskip('webdataset')
        options = {'train_split': 'train-{000..002}.tar', 'val_split': 'validation-{000..001}.tar'} | options
        return create_splits('wds/any', root=folder, **options)
    return make


@pytest.mark.parametrize('kind', KINDS)
def test_counts_are_right_and_no_image_is_decoded_for_them(stream, monkeypatch, kind):
    monkeypatch.setattr(Image, 'open', lambda *args: pytest.fail('an image was decoded'))
    splits = stream(kind)
    assert splits.train.class_counts.tolist() == [6, 3, 2]
    assert splits.val.class_counts.tolist() == [2, 1, 0], 'a class may lack validation images'
    assert (len(splits.train), len(splits.val)) == (11, 3)
    assert splits.class_names == (['0', '1', '2'] if kind == 'tar' else ['ant', 'bee', 'cat'])
    if kind != 'imagefolder':
        assert splits.train.shard_lengths.tolist() == list(SIZES)


@pytest.mark.parametrize('kind', KINDS)
def test_it_is_counted_once(stream, monkeypatch, kind):
    first = stream(kind)
    for source in (HuggingFaceShards, WebdatasetShards):
        monkeypatch.setattr(source, 'labels', lambda *args: pytest.fail('counted again'))
    again = stream(kind)
    assert again.train.class_counts.tolist() == first.train.class_counts.tolist()
    assert again.val.shard_lengths.tolist() == first.val.shard_lengths.tolist()
    assert fingerprint(again) == fingerprint(first)


def test_labels_of_parquet_are_read_without_the_images(stream):
    assert list(stream('parquet').train.shards._labels.features) == ['label']


@pytest.mark.parametrize('kind', ['parquet', 'tar'])
def test_a_stream_that_changed_is_counted_anew(stream, tmp_path, write_shards, kind):
    stream(kind)
    write_shards(kind, tmp_path / kind, 'train', pictures(11), (0, 1, 2, *[1] * 8), SIZES)
    assert stream(kind).train.class_counts.tolist() == [1, 9, 1]


def test_another_column_of_labels_is_counted_by_itself(tmp_path):
    import datasets
    rows = {'image': [{'bytes': _png(image), 'path': None} for image in pictures(4)],
            'label': [0, 0, 0, 1], 'fine': [0, 1, 2, 3]}
    features = datasets.Features(
        {'image': datasets.Image(), 'label': datasets.Value('int64'), 'fine': datasets.Value('int64')})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / 'train-0.parquet')
    assert create_dataset(f'hfids/{tmp_path}').class_counts.tolist() == [3, 1]
    assert create_dataset(f'hfids/{tmp_path}', target_key='fine').class_counts.tolist() == [1, 1, 1, 1]


def _png(image):
    file = io.BytesIO()
    image.save(file, 'png')
    return file.getvalue()


def test_what_is_no_folder_here_is_counted_into_the_cache_folder(stream, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    stream('tar')
    counted = create_dataset('wds/any', root=f'file:{tmp_path}/tar', split='train-{000..002}.tar')
    assert counted.class_counts.tolist() == [6, 3, 2]
    kept = list((tmp_path / 'cache/timm_ltkd').iterdir())
    assert [counted.kept_in] == kept
    assert json.loads(kept[0].read_text())['shards'] == list(SIZES)
    assert [who(image) for image, _ in counted] == list(range(11))


def test_a_user_without_a_home(stream, tmp_path, monkeypatch, log):
    def no_home():
        raise RuntimeError('Could not determine home directory.')
    monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
    monkeypatch.setattr(Path, 'home', no_home)
    stream('tar')
    counted = create_dataset('wds/any', root=f'file:{tmp_path}/tar', split='train-{000..002}.tar')
    assert counted.class_counts.tolist() == [6, 3, 2] and counted.kept_in is None
    assert 'can be kept nowhere: each run counts anew' in log[-1]


def test_a_damaged_file_of_counts_is_made_anew(stream):
    kept = stream('parquet').train.kept_in
    for text in ('{', '{}', '[1]', '{"classes": [6, 3, 2], "shards": [4, 1]}', '{"classes": [6], "shards": [4, 1, 6]}'):
        kept.write_text(text)
        assert stream('parquet').train.class_counts.tolist() == [6, 3, 2], text
        assert json.loads(kept.read_text())['classes'] == [6, 3, 2]


def test_all_sources_give_the_same_images_and_labels(stream, tmp_path):
    parquet, tar = stream('parquet').train, stream('tar').train
    expected = list(zip(range(11), LABELS, strict=True))
    for dataset in (parquet, tar, create_dataset(f'hfds/{tmp_path}/parquet')):
        assert [(who(image), target) for image, target in iter_of(dataset)] == expected
    folders = [(who(image), target) for image, target in stream('imagefolder').train]
    assert sorted(folders) == expected
    assert all(image.mode == 'RGB' for image, _ in parquet)


def iter_of(dataset):
    return iter(dataset) if isinstance(dataset, streams.StreamDataset) else (dataset[i] for i in range(len(dataset)))


def test_a_class_map_renumbers(stream):
    pytest.importorskip('webdataset')
    splits = stream('parquet', class_map={'cat': 0, 'ant': 1, 'bee': 2})
    assert splits.class_names == ['cat', 'ant', 'bee']
    assert splits.train.class_counts.tolist() == [2, 6, 3]
    assert [target for _, target in splits.train][:4] == [1, 0, 1, 2]
    assert stream('tar', class_map={0: 2, 1: 1, 2: 0}).train.class_counts.tolist() == [2, 3, 6]
    with pytest.raises(UserError, match='class map has no entry for the label 2'):
        stream('parquet', class_map={'ant': 0, 'bee': 1})


def test_given_counts_are_taken_for_training_alone(stream, tmp_path, monkeypatch):
    file = tmp_path / 'counts.txt'
    file.write_text('6\n3\n2\n')
    counted = []
    labels = HuggingFaceShards.labels
    monkeypatch.setattr(HuggingFaceShards, 'labels', lambda self, i: counted.append(self.split) or labels(self, i))
    splits = stream('parquet', class_counts=file)
    assert splits.train.class_counts.tolist() == [6, 3, 2] and splits.train.shard_lengths is None
    assert splits.val.class_counts.tolist() == [2, 1, 0]
    assert set(counted) == {'validation'}
    assert [who(image) for image, _ in splits.train] == list(range(11))


def test_an_info_file_tells_splits_and_lengths(stream, tmp_path):
    stream('tar')
    names = [f'train-{i:03d}.tar' for i in range(3)]
    (tmp_path / 'tar/_info.json').write_text(json.dumps({'splits': {'train': {
        'name': 'train', 'num_samples': 11, 'filenames': names, 'shard_lengths': SIZES}}}))
    given = create_dataset('wds/any', root=tmp_path / 'tar', split='train', class_counts=[6, 3, 2])
    assert given.shard_lengths.tolist() == list(SIZES)


def test_labels_in_json_files_and_images_to_leave_out(tmp_path):
    pytest.importorskip('webdataset')
    _write_tar(tmp_path / 'a.tar', {
        'README.txt': b'no sample', '0.png': _png(pictures(1)[0]), '0.json': b'{"kind": 1}',
        '1.png': _png(pictures(1, 1)[0]), '1.json': b'{"kind": -1}', '2.png': _png(pictures(1, 2)[0]),
        '2.json': b'{"kind": 0}'})
    dataset = create_dataset('wds/any', root=tmp_path, split='a.tar', target_key='kind')
    assert dataset.class_counts.tolist() == [1, 1]
    assert [(who(image), target) for image, target in dataset] == [(0, 1), (2, 0)]


@pytest.mark.parametrize('labels, message', [
    ((-1, 0, 1), '-1'),
    ((0, 99_999_999_999, 1), 'has the label 99999999999, which is none'),
    ((1, 2, 3), r"no training image for class '0' \(index 0\); .*subtract 1"),
])
def test_labels_that_are_no_class_indices_from_0(tmp_path, labels, message):
    pytest.importorskip('webdataset')
    _write_tar(tmp_path / 'a.tar', {
        f'{i}.{ending}': content for i, label in enumerate(labels)
        for ending, content in (('png', _png(pictures(1, i)[0])), ('cls', str(label).encode()))})
    with pytest.raises(UserError, match=message):
        create_dataset('wds/any', root=tmp_path, split='a.tar', training=True)


@pytest.mark.parametrize('files, message', [
    ({'v1.0.png': True, 'v1.0.cls': b'0'}, "'v1.0.cls' in shard 'a.tar' has a dot in its name"),
    ({'a.png': True, 'a.cls': b'0', 'v1.0.png': True}, "'v1.0.png' in shard 'a.tar' has a dot in its name"),
    ({'a.jpeg': True, 'a.cls': b'0'}, "has no image (jpg png webp); it has: jpeg cls (--input-key)"),
])
def test_names_that_webdataset_does_not_take_as_they_are_meant(tmp_path, files, message):
    pytest.importorskip('webdataset')
    image = _png(pictures(1)[0])
    _write_tar(tmp_path / 'a.tar', {name: image if data is True else data for name, data in files.items()})
    with pytest.raises(UserError) as error:
        list(create_dataset('wds/any', root=tmp_path, split='a.tar'))
    assert message in str(error.value)


def _write_tar(path, files):
    with tarfile.open(path, 'w') as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_the_fingerprint_tells_pixels_labels_and_not_places(stream, tmp_path, write_shards):
    prints = {fingerprint(stream('parquet'))}
    moved = tmp_path / 'moved' / 'parquet'
    moved.parent.mkdir()
    (tmp_path / 'parquet').rename(moved)
    prints.add(fingerprint(create_splits(f'hfids/{moved}')))
    assert len(prints) == 1
    write_shards('parquet', moved, 'train', pictures(11, 1), LABELS, SIZES)
    prints.add(fingerprint(create_splits(f'hfids/{moved}')))
    write_shards('parquet', moved, 'train', pictures(11), (1, *LABELS[1:]), SIZES)
    prints.add(fingerprint(create_splits(f'hfids/{moved}')))
    assert len(prints) == 3


@pytest.mark.parametrize(('kind', 'options', 'message'), [
    ('parquet', {'imbalance_factor': 10}, 'is a stream and cannot be indexed.* use hfds/.*leave the imbalance factor'),
    ('tar', {'max_per_class': 10}, 'cannot be indexed.* use image folders'),
    ('tar', {'class_counts': [6, 3, 1.5]}, 'flat list of integers'),
    ('tar', {'class_counts': [[6, 3], [2]]}, 'flat list of integers'),
    ('tar', {'class_counts': []}, "no class counts are given for '"),
    ('parquet', {'input_key': 'label'}, "column 'label' .* holds no images; these do: image"),
    ('tar', {'class_counts': [6, 3, 0]}, 'class 2 of .* would have 0 images'),
    ('parquet', {'class_counts': [6, 3]}, '2 class counts are given for the 3 classes of'),
    ('parquet', {'download': True}, 'never downloaded'),
    ('parquet', {'val_split': 'test'}, "cannot read split 'test'.*Available splits"),
    ('parquet', {'target_key': 'labl'}, "no column 'labl'; choose one of: image, label"),
    ('parquet', {'target_key': 'image'}, 'needs one class index per image'),
    ('tar', {'train_split': 'train'}, 'no _info.json with a split .train.; name the shards'),
    ('tar', {'train_split': 'train-{000..003}.tar'}, 'cannot read shard .*train-003.tar'),
    ('tar', {'target_key': 'kind'}, 'has no images'),
])
def test_refusals(stream, kind, options, message):
    stream(kind)
    with pytest.raises(UserError, match=message) as refused:
        stream(kind, **options)
    assert '\n' not in str(refused.value)


@pytest.mark.parametrize(('name', 'options', 'message'), [
    ('lt/wds/any', {'class_counts': [1]}, "select nothing from it; write 'wds/any'"),
    ('wds/any', {}, 'needs a folder or URL'),
    ('hfids/', {}, "unknown dataset 'hfids/'"),
    ('tfds/mnist', {}, 'not read here; use hfds/'),
    ('hfids/no/such/folder', {}, "cannot read split 'train' of 'hfids/no/such/folder'"),
])
def test_refused_names(name, options, message):
    with pytest.raises(UserError, match=message):
        create_dataset(name, **options)


def test_lt_may_stand_before_a_stream_that_is_used_whole(stream, tmp_path):
    stream('parquet')
    assert create_dataset(f'lt/hfids/{tmp_path}/parquet').class_counts.tolist() == [6, 3, 2]


def test_nothing_is_held_out_of_a_stream(stream):
    with pytest.raises(UserError, match='nothing can be held out of it'):
        hold_out(stream('parquet'), 0.1)


def test_validation_classes_that_training_lacks(stream, tmp_path, write_shards):
    stream('tar')
    write_shards('tar', tmp_path / 'tar', 'validation', pictures(3), (0, 3, 0), (2, 1))
    with pytest.raises(UserError, match="validation has classes that training does not have: '3'"):
        stream('tar')


def test_broken_images_and_shards_are_named(stream, tmp_path):
    pytest.importorskip('webdataset')
    _write_tar(tmp_path / 'a.tar', {'0.png': b'no image', '0.cls': b'0'})
    with pytest.raises(UserError, match="cannot read image 0 of shard 'a.tar': it is no image$"):
        list(create_dataset('wds/any', root=tmp_path, split='a.tar'))
    _write_tar(tmp_path / 'b.tar', {'0.cls': b'0'})
    with pytest.raises(UserError, match="sample '0' in shard 'b.tar' has no image"):
        list(create_dataset('wds/any', root=tmp_path, split='b.tar'))
    _write_tar(tmp_path / 'b.tar', {'0.json': b'{'})
    with pytest.raises(UserError, match="cannot read the label of sample '0' of 'wds/any': Expecting"):
        create_dataset('wds/any', root=tmp_path, split='b.tar', target_key='kind')
    (tmp_path / 'c.tar').write_bytes((tmp_path / 'a.tar').read_bytes()[:700])
    with pytest.raises(UserError, match="cannot read shard 'c.tar' of 'wds/any'"):
        create_dataset('wds/any', root=tmp_path, split='c.tar')


@pytest.mark.parametrize('sizes', [(3, 1, 6), (5, 1, 6)])
def test_a_stream_that_is_not_as_it_was_counted_is_noticed(stream, sizes):
    train = stream('parquet').train
    train.shard_lengths = np.array(sizes)
    with pytest.raises(UserError, match=rf"shard 'train-00000-of-00003.parquet' does not have the {sizes[0]} images .* "
                                        r'remove .*ltkd-counts-.*json to count anew'):
        list(train)


@pytest.mark.parametrize('counts', [[6, 3, 1], [6, 3, 3]])
def test_given_counts_that_are_wrong_are_noticed(stream, counts):
    train = stream('parquet', class_counts=counts).train
    with pytest.raises(UserError, match=f'does not have the {sum(counts)} images of the class counts given'):
        list(train)
    with pytest.raises(UserError, match='label 2 in shard .* has no class name: there are 2 classes'):
        list(stream('tar', class_counts=[6, 5]).train)
