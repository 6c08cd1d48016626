"""The README: its commands, its loop and its figures are those of the project."""
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from timm_ltkd.cli import arguments
from timm_ltkd.cli.run import distill
from timm_ltkd.data import create_splits
from timm_ltkd.distill import list_losses, list_methods

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / 'README.md').read_text(encoding='utf-8')
COMMANDS = [
    line.split('#')[0].strip()
    for block in re.findall(r'```\n(.*?)```', README, re.S)
    for line in block.replace('\\\n', ' ').splitlines() if '.py ' in line
]


def options(command: str) -> tuple[str, list[str]]:
    """The script that a command line starts, and what it is given."""
    words = shlex.split(command.split('&&')[-1])
    at = next(i for i, word in enumerate(words) if word.endswith('.py'))
    return words[at].removesuffix('.py'), words[at + 1:]


@pytest.mark.parametrize('command', COMMANDS)
def test_every_command_has_options_that_exist(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    script, words = options(command)
    if '--device-modules' in words:
        pytest.skip('a command of timm\'s own script')
    args = getattr(arguments, f'{script}_parser')().parse_args(words)
    if args.config:
        assert (ROOT / args.config).is_file()


def test_first_command_runs_to_its_table(tmp_path, capfd):
    script, words = options(COMMANDS[0])
    assert script == 'distill'
    distill([*words, '--output', str(tmp_path), '--epochs', '1'])
    table = capfd.readouterr().out
    assert 'teacher resnet32' in table and 'student resnet20' in table and 'few' in table
    out = next(path for path in tmp_path.iterdir() if path.name != 'teachers')
    report = json.loads((out / 'report.json').read_text())
    assert {'top1', 'balanced', 'many', 'medium', 'few', 'worst'} <= report['student'].keys() & report['teacher'].keys()


@pytest.mark.slow
def test_first_command_puts_the_student_ahead_on_the_tail(tmp_path):
    script, words = options(COMMANDS[0])
    subprocess.run(
        [sys.executable, str(ROOT / f'{script}.py'), *words, '--output', str(tmp_path), '--experiment', 'run'],
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
    assert counts in README and f'{splits.train.class_counts.sum()} images' in README
    assert '30 images of each class' in README and set(splits.val.class_counts) == {30}


def test_methods_and_losses_are_listed():
    for name in list_methods():
        assert f'--kd {name}`' in README
    for name in list_losses():
        assert f'--loss {name}`' in README


def test_ci_runs_the_readmes_test_command():
    assert re.search(r"^pip install -e '\.\[test\]' && python -m pytest", README, re.M)
    assert 'README.md' in (ROOT / '.ci' / 'run').read_text()
