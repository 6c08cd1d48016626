"""Counts and indices of the long-tailed selection, against the published ones and a re-derivation."""
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from timm_ltkd.data import long_tail_counts, long_tail_indices, read_class_counts
from timm_ltkd.errors import UserError

GOLDEN = json.loads((Path(__file__).parent.parent / 'golden' / 'cifar_lt_indices.json').read_text())
CASES = [(name, case) for name in GOLDEN for case in GOLDEN[name]]
IDS = [f"{name}-{case['imb_type']}-{case['imb_factor']}" for name, case in CASES]


@pytest.mark.parametrize('name, case', CASES, ids=IDS)
def test_counts_are_those_of_cifar_lt(name, case):
    num_classes, largest = (10, 5000) if name == 'cifar10' else (100, 500)
    counts = long_tail_counts(num_classes, largest, 1 / case['imb_factor'], case['imb_type'])
    assert counts.dtype == np.int64
    assert counts.tolist() == case['counts']


@pytest.mark.parametrize('largest, factor', [(147, 49), (49, 49), (4980, 249), (500, 100), (90, 2.5)])
def test_the_smallest_class_has_its_share_to_the_image(largest, factor):
    """49 ** -1 is a little less than 1 / 49."""
    for imbalance_type in ('exp', 'step'):
        assert long_tail_counts(10, largest, factor, imbalance_type)[-1] == largest / factor


@pytest.mark.parametrize('name, case', CASES, ids=IDS)
def test_indices_are_those_of_cifar_lt(name, case, shared):
    labels = np.load(shared / 'golden' / 'cifar_train_labels.npz')
    targets = labels[name if name in labels.files else f'{name}_train']
    indices = long_tail_indices(targets, case['counts'], seed=case['seed'])
    assert indices.dtype == np.int64 and len(indices) == case['num_samples']
    assert indices[:10].tolist() == case['first10'] and indices[-10:].tolist() == case['last10']
    assert hashlib.sha256(indices.astype('<i8').tobytes()).hexdigest() == case['sha256']


@pytest.mark.parametrize('seed', [0, 7])
def test_indices_follow_the_algorithm_written_out(seed):
    targets = np.random.RandomState(3).randint(0, 6, 400)
    counts = [40, 30, 20, 10, 5, 1]
    stream = np.random.RandomState(seed)
    expected = []
    for c in range(6):
        of_class = [i for i, target in enumerate(targets) if target == c]
        array = np.array(of_class)
        stream.shuffle(array)
        expected += array[:counts[c]].tolist()
    assert long_tail_indices(targets.tolist(), counts, seed).tolist() == expected


def test_selection_touches_no_global_generator_and_is_nested():
    targets = np.arange(500) % 5
    np.random.seed(11)
    before = np.random.get_state()[1].copy()
    large = long_tail_indices(targets, long_tail_counts(5, 100, 5))
    small = long_tail_indices(targets, long_tail_counts(5, 100, 50))
    assert (np.random.get_state()[1] == before).all()
    assert set(small) < set(large)
    assert not np.array_equal(large, long_tail_indices(targets, long_tail_counts(5, 100, 5), seed=1))


def test_counts_of_small_cases():
    assert long_tail_counts(3, 100, 100).tolist() == [100, 10, 1]
    assert long_tail_counts(5, 10, 5, 'step').tolist() == [10, 10, 2, 2, 2]
    assert long_tail_counts(4, 9, 1).tolist() == [9] * 4
    assert long_tail_counts(1, 9, 1).tolist() == long_tail_counts(1, 9, 1, 'step').tolist() == [9]


@pytest.mark.parametrize('args, message', [
    ((10, 100, 0.5), '>= 1, got 0.5'),
    ((10, 100, float('nan')), '>= 1, got nan'),
    ((10, 100, float('inf')), '>= 1, got inf'),
    ((10, 100, 'ten'), '>= 1, got ten'),
    ((10, 100, 200), 'leaves class 8 with 0 images'),
    ((10, 100, 200, 'step'), 'leaves class 5 with 0 images'),
    ((10, 100, 10, 'stepp'), "did you mean 'step'"),
    ((1, 100, 10), 'at least 2 classes'),
    ((10, 0, 10), 'at least 1 image'),
])
def test_counts_refuse(args, message):
    with pytest.raises(UserError) as error:
        long_tail_counts(*args)
    assert message in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('targets, counts, kwargs, message', [
    ([0, 0, 1], [2, 2], {}, 'class 1 has 1 images, but 2 are asked'),
    ([0, 0, 1], [2, 2], {'class_names': ['cat', 'dog']}, "class 'dog' (index 1) has 1 images"),
    ([0, 0, 1], [2], {}, 'labels run from 0 to 1'),
    ([0, -1], [1, 1], {}, 'labels run from -1'),
    ([[0, 1]], [1, 1], {}, 'flat list of integers'),
    ([0., 1.], [1, 1], {}, 'flat list of integers'),
    ([0, 1], [1, 1], {'seed': -1}, 'seed'),
    ([0, 1], [1, 1], {'seed': 2 ** 32}, 'seed'),
])
def test_indices_refuse(targets, counts, kwargs, message):
    with pytest.raises(UserError) as error:
        long_tail_indices(targets, counts, **kwargs)
    assert message in str(error.value)


@pytest.mark.parametrize('text', ['5\n3\n1\n', '\n5\n 3 \n\n1', '[5, 3, 1]', '[\n5,\n3,\n1\n]\n'])
def test_class_counts_are_read(tmp_path, text):
    path = tmp_path / 'counts'
    path.write_text(text)
    counts = read_class_counts(path)
    assert counts.dtype == np.int64 and counts.tolist() == [5, 3, 1]


@pytest.mark.parametrize('text, message', [
    ('5\n3.5\n', "line 2: '3.5'"), ('5\n0\n', "line 2: '0'"), ('5\nmany\n', "line 2: 'many'"), ('', 'has none'),
    ('[5, 3.0]', "entry 2: '3.0'"), ('[5, -1]', "entry 2: '-1'"), ('[5, ', 'not a valid JSON list'), ('[]', 'has none'),
])
def test_class_counts_refuse(tmp_path, text, message):
    path = tmp_path / 'counts'
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_class_counts(path)
    assert message in str(error.value) and '\n' not in str(error.value)


def test_class_counts_name_a_missing_file(tmp_path):
    with pytest.raises(UserError, match='none.txt.*No such file'):
        read_class_counts(tmp_path / 'none.txt')
