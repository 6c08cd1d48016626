"""Class maps: every form of file, every mistake, and matching by name."""
import json

import pytest

from timm_ltkd.data import match_class_names, read_class_map
from timm_ltkd.errors import UserError

CLASSES = ['ant', 'black bee', '7']


def write(tmp_path, text, name='map.txt'):
    (tmp_path / name).write_text(text if isinstance(text, str) else json.dumps(text), encoding='utf-8')
    return tmp_path / name


@pytest.mark.parametrize('text', [
    {'7': 0, 'ant': 4, 'black bee': 2, 'another': 3},
    [4, 2, 0],
    '4\n2\n\n0\n',
    '7 0\nblack bee 2\nant 4',
    'ant\t4\n  black bee   2\n7\t0\n',
])
def test_forms(tmp_path, text):
    assert read_class_map(write(tmp_path, text), CLASSES, 5) == [4, 2, 0]


@pytest.mark.parametrize('text, message', [
    ({'ant': 4, 'black-bee': 2}, r"has no index for class 'black bee' and 1 more; did you mean 'black-bee'\?"),
    ([4, 2], 'has 2 indices and the data 3 classes'),
    ('4\n2\n0\n1\n', 'has 4 indices and the data 3 classes'),
    ([4, 2, 5], "the index of '7' is 5; it must be from 0 to 4"),
    ([4, -2, 0], "the index of 'black bee' is -2"),
    ([4, 2, 4], "'ant' and '7' have the same index 4"),
    ([4, 2, '0'], "whole number, got '0'"),
    ([4, 2, True], 'whole number, got True'),
    ('{"ant": 4,', 'is not valid JSON'),
    ('4\n2\nant 0\n', "line 3: 'ant 0' is not an index"),
    ('ant 0\n2\n', "line 2: '2' is not an index"),
    ('ant\n', "line 1: 'ant' is not"),
    ('ant 0\nant 1\n', "line 2: class 'ant' comes twice"),
    ('', 'has 0 indices and the data 3'),
])
def test_mistakes(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_class_map(write(tmp_path, text), CLASSES, 5)


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match='cannot read the class map .*nowhere'):
        read_class_map(tmp_path / 'nowhere', CLASSES, 5)


@pytest.mark.parametrize('others, found', [
    (['7', 'x', 'ant', 'black bee'], [2, 3, 0]),
    (CLASSES, [0, 1, 2]),
    (['7', 'ant', 'blackbee'], None),
    (['7', 'ant', 'black bee', 'ant'], None),
    ([], None),
])
def test_matching_by_name(others, found):
    assert match_class_names(CLASSES, others) == found
