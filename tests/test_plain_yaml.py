"""The YAML that options are read from: its plain part, and one line for all else."""
import math

import pytest
import yaml

from timm_ltkd.errors import UserError
from timm_ltkd.plain_yaml import dump_yaml, load_yaml


@pytest.mark.parametrize('text, value', [
    ('', None), ('a: 1', {'a': 1}), ('a: 1e-4', {'a': 1e-4}), ('a: 1.0e-4', {'a': 1e-4}), ('a: -2E+3', {'a': -2000.}),
    ('a: [1, x, null, true]', {'a': [1, 'x', None, True]}), ('a: {b: c}', {'a': {'b': 'c'}}),
    ('a: "& *x !y"', {'a': '& *x !y'}),
    ('a: 010', {'a': '010'}), ('a: -12:30', {'a': '-12:30'}), ('a: 1:30.5', {'a': '1:30.5'}), ('a: 0', {'a': 0}),
    ('a: -7', {'a': -7}), ('a: 0.5', {'a': 0.5}), ('a: -.inf', {'a': -math.inf}), ('a: 5.', {'a': 5.}),
    ('a: 1e', {'a': '1e'}), ('a: e5', {'a': 'e5'}), ('# nothing', None),
])
def test_plain_yaml_is_read(text, value):
    read = load_yaml(text, 'f')
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize('text, message', [
    ('a: !!python/object/apply:os.getcwd []', 'f line 1: not valid YAML (tags'),
    ('a: !!int 3', 'tags (here tag:yaml.org,2002:int) are not read'),
    ('a: ! x', 'tags'),
    ('a: &x 1', 'anchors and aliases'),
    ('a: &x 1\nb: *x', 'f line 1: not valid YAML (anchors'),
    ('a: *x', 'anchors and aliases'),
    ('x: 1\na: 1\na: 2', "f line 3: not valid YAML (the key 'a' comes twice"),
    ('? [1]\n: 2', 'a key is a list or a mapping'),
    ('a: [', 'f line 1: not valid YAML'),
    ('[' * 3000, 'f: not valid YAML'),
    ('9' * 6000, 'f: not valid YAML'),
    ('a: 2001-13-45', 'f: not valid YAML (month'),
    ('a: 1\n--- 2', 'not valid YAML'),
])
def test_what_is_not_plain_is_told_in_one_line(text, message):
    with pytest.raises(UserError) as told:
        load_yaml(text, 'f')
    assert message in str(told.value) and '\n' not in str(told.value)


def test_what_is_written_can_be_read():
    shared = [1, 2]
    value = {'b': shared, 'a': shared, 'c': 'ä', 'd': 1e-5, 'e': None, 'f': {'g': '1e-5', 'h': 'yes', 'j': '010'},
             'i': '*x', 'k': '1:30', 'l': [-3, 0.25, math.inf]}
    text = dump_yaml(value)
    assert load_yaml(text, 'f') == value == yaml.safe_load(text)
    assert text.index('a:') < text.index('b:') and 'ä' in text
