"""summary.csv: column order, bytes, and the way back."""
import csv
import os

import numpy as np
import pytest
import torch

from timm_ltkd.errors import UserError
from timm_ltkd.report import read_summary, write_summary

HISTORY = [
    {'train_kd': 0.1 + 0.2, 'lr': 0.1, 'epoch': 0, 'train_loss': 1 / 3},
    {'epoch': 1, 'train_loss': 2e-7, 'lr': 1e-5, 'eval_top1': 50., 'best': True, 'eval_few': float('inf'),
     'note': 'a,"b"\nc', 'eval_loss': 3.},
]


def test_timm_columns_come_first_then_first_appearance(tmp_path):
    write_summary(tmp_path / 'summary.csv', HISTORY)
    with open(tmp_path / 'summary.csv', newline='') as f:
        header, first, second = csv.reader(f)
    assert header == 'epoch train_loss eval_loss eval_top1 lr train_kd best eval_few note'.split()
    assert first == ['0', '0.3333333333333333', '', '', '0.1', '0.30000000000000004', '', '', '']


def test_round_trip(tmp_path):
    write_summary(tmp_path / 'summary.csv', HISTORY)
    read = read_summary(tmp_path / 'summary.csv')
    assert read == HISTORY
    assert [type(value) for row in read for value in row.values()].count(int) == 2
    again = tmp_path / 'again.csv'
    write_summary(again, read)
    assert again.read_bytes() == (tmp_path / 'summary.csv').read_bytes()


def test_random_floats_come_back_to_the_last_bit(tmp_path):
    values = np.random.RandomState(0).standard_normal(200) * 10. ** np.random.RandomState(1).randint(-300, 300, 200)
    write_summary(tmp_path / 's.csv', [{'epoch': i, 'x': v} for i, v in enumerate(values)])
    assert [row['x'] for row in read_summary(tmp_path / 's.csv')] == values.tolist()


def test_scalars_of_other_libraries_and_none(tmp_path):
    row = {'epoch': np.int64(3), 'a': np.float64(0.1), 'b': torch.tensor(0.5), 'c': None, 'd': np.float32(0.1)}
    write_summary(tmp_path / 's.csv', [row])
    assert (tmp_path / 's.csv').read_text() == 'epoch,a,b,c,d\n3,0.1,0.5,,0.10000000149011612\n'


def test_text_that_looks_like_python_stays_text(tmp_path):
    write_summary(tmp_path / 's.csv', [{'epoch': 0, 'run': '2024_01', 'name': 'é\udcff'}])
    assert read_summary(tmp_path / 's.csv') == [{'epoch': 0, 'run': '2024_01', 'name': 'é\\udcff'}]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / 's.csv'
    write_summary(path, HISTORY)
    before = path.read_bytes()

    class Broken:
        def item(self):
            raise RuntimeError('broken')

    with pytest.raises(RuntimeError):
        write_summary(path, [*HISTORY, {'epoch': Broken()}])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ['s.csv']


def test_no_epoch(tmp_path):
    write_summary(tmp_path / 's.csv', [])
    assert read_summary(tmp_path / 's.csv') == []


def test_bad_files(tmp_path):
    with pytest.raises(UserError, match='missing.csv'):
        read_summary(tmp_path / 'missing.csv')
    (tmp_path / 's.csv').write_text('epoch,lr\n0,0.1\n1\n')
    with pytest.raises(UserError, match='row 2 of .* has 1 values for 2 columns'):
        read_summary(tmp_path / 's.csv')
    (tmp_path / 's.csv').write_bytes(b'epoch\n\xff\xfe\n')
    with pytest.raises(UserError, match='cannot read'):
        read_summary(tmp_path / 's.csv')
