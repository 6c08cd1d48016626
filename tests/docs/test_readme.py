"""The README: its first command, its loop and its figures are those of the project; the rest is test_commands.py."""
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from timm_ltkd.cli.run import distill
from timm_ltkd.data import create_splits
from timm_ltkd.distill import list_losses, list_methods

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / 'README.md').read_text(encoding='utf-8')
FIRST = shlex.split(re.search(r'^pip install -e \. && python distill.py (.*)', README, re.M)[1])


def test_first_command_runs_to_its_table(tmp_path, capfd):
    distill([*FIRST, '--output', str(tmp_path), '--epochs', '1'])
    table = capfd.readouterr().out
    assert 'teacher resnet32' in table and 'student resnet20' in table and 'few' in table
    out = next(path for path in tmp_path.iterdir() if path.name != 'teachers')
    report = json.loads((out / 'report.json').read_text())
    assert {'top1', 'balanced', 'many', 'medium', 'few', 'worst'} <= report['student'].keys() & report['teacher'].keys()


@pytest.mark.slow
def test_first_command_puts_the_student_ahead_on_the_tail(tmp_path):
    subprocess.run(
        [sys.executable, str(ROOT / 'distill.py'), *FIRST, '--output', str(tmp_path), '--experiment', 'run'],
        check=True)
    report = json.loads((tmp_path / 'run' / 'report.json').read_text())
    assert report['student']['few'] > report['teacher']['few']
    assert report['student']['balanced'] > report['teacher']['balanced']


def test_loop_of_ones_own():
    code = re.search(r'```python\n(.*?)```', README, re.S).group(1)
    code = code.replace("split='train')", "split='train', imbalance_factor=144)")  # fewer images, same loop
    check = '\nassert all(p.grad is None for p in teacher.parameters())'
    subprocess.run([sys.executable, '-c', code + check], check=True, cwd=ROOT)  # a process that has imported nothing
    assert 0 < len([line for line in code.splitlines() if line.strip()]) <= 20


def test_digits_split_is_the_one_described():
    splits = create_splits('lt/digits')
    counts = ', '.join(map(str, splits.train.class_counts))
    page = (ROOT / 'docs' / 'data.md').read_text(encoding='utf-8')
    assert counts in page and f'{splits.train.class_counts.sum()} images' in page
    assert f'{splits.train.class_counts.sum()} training images' in README
    assert '30 images of each class' in page and set(splits.val.class_counts) == {30}


def test_methods_and_losses_are_listed():
    for name in list_methods():
        assert f'--kd {name}`' in README
    for name in list_losses():
        assert f'--loss {name}`' in README


def test_ci_runs_the_readmes_test_command():
    assert re.search(r"^pip install -e '\.\[test\]' && python -m pytest", README, re.M)
    assert 'README.md' in (ROOT / '.ci' / 'run').read_text()
