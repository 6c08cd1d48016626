"""The table of methods: what is started for it, what is not started again, and its arithmetic."""
import importlib.util
import json
import subprocess
from pathlib import Path

import pytest

from timm_ltkd.cli.arguments import distill_parser, train_parser
from timm_ltkd.distill import list_losses, list_methods

ROOT = Path(__file__).resolve().parents[2]
CANNED = {'balanced': 80., 'many': 90., 'medium': 85., 'few': 70., 'worst': 50.}


def load():
    spec = importlib.util.spec_from_file_location('methods_digits', ROOT / 'benchmarks' / 'methods_digits.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


methods_digits = load()


@pytest.fixture
def started(monkeypatch):
    """Command lines of processes; instead of running each, a report is written: balanced accuracy 80 + 2 × seed²."""
    commands = []

    def run(command, env, stdout, **kwargs):
        script, words = Path(command[1]), command[2:]
        assert script.is_file() and script.parent == ROOT
        args = {'train.py': train_parser, 'distill.py': distill_parser}[script.name]().parse_args(words)
        commands.append((script.name, args, env))
        figures = CANNED | {'balanced': CANNED['balanced'] + 2 * args.seed ** 2} if args.seed != 42 else CANNED
        folder = Path(args.output) / args.experiment
        folder.mkdir()
        report = {'student': figures, 'teacher': dict.fromkeys(figures, -1.), 'run': {'args': {'epochs': args.epochs}}}
        (folder / 'report.json').write_text(json.dumps(report))
        return subprocess.CompletedProcess(command, 0)
    monkeypatch.setattr(methods_digits.subprocess, 'run', run)
    return commands


def rows(text):
    """Cells by the first one of each row."""
    lines = [line.strip('|').split('|') for line in text.splitlines() if line.startswith('|')]
    return {name.strip().replace('\\', ''): [cell.strip() for cell in cells] for name, *cells in lines}


def test_the_table(started, tmp_path, capsys):
    methods_digits.main(['--methods', 'ce', 'balanced_softmax+kd', '--output', str(tmp_path)])
    out = capsys.readouterr().out
    table = rows(out)
    assert list(table) == ['', '---', 'teacher (ce)', 'ce', 'balanced_softmax+kd']
    assert table[''] == ['balanced', 'many', 'medium', 'few', 'worst']
    assert table['teacher (ce)'] == ['80.0', '90.0', '85.0', '70.0', '50.0']
    # 80, 82, 88: mean 83 1/3, deviations -10/3, -4/3, 14/3, whose squares 312/9 over 2 are 4.16²
    assert table['ce'] == ['83.3 ± 4.2', '90.0 ± 0.0', '85.0 ± 0.0', '70.0 ± 0.0', '50.0 ± 0.0']
    assert table['ce'] == table['balanced_softmax+kd']
    assert (tmp_path / 'table.md').read_text() == out
    assert '--epochs 20 --seeds 3' in out


def test_one_seed_has_no_spread(started, tmp_path, capsys):
    methods_digits.main(['--methods', 'kd', '--seeds', '1', '--output', str(tmp_path)])
    out = capsys.readouterr().out
    assert rows(out)['kd'] == ['80.0', '90.0', '85.0', '70.0', '50.0'] and '--seeds 1' in out


def test_every_method_is_trained_with_its_defaults_from_one_teacher(started, tmp_path):
    methods_digits.main(['--seeds', '2', '--output', str(tmp_path)])
    (script, teacher, _), *students = started
    assert (script, teacher.model, teacher.loss) == ('train.py', 'resnet32', 'ce')
    found = [(args.loss, getattr(args, 'kd', None), args.seed) for _, args, _ in students]
    pairs = [
        ('ce', None), ('balanced_softmax', None), *(('ce', kd) for kd in list_methods()), ('balanced_softmax', 'kd')]
    assert found == [(*pair, seed) for pair in pairs for seed in (0, 1)]
    own = {
        'dataset', 'loader', 'loss', 'kd', 'seed', 'model', 'student', 'teacher_checkpoint',
        'epochs', 'output', 'experiment', 'resume'}
    for script, args, _ in students:
        default = vars({'train.py': train_parser, 'distill.py': distill_parser}[script]().parse_args([]))
        assert {key: value for key, value in vars(args).items() if key not in own} == {
            key: value for key, value in default.items() if key not in own}
        assert (args.dataset, args.loader, args.epochs, args.resume) == ('lt/digits', 'timm', 20, 'auto')
        if script == 'distill.py':
            assert Path(args.teacher_checkpoint) == Path(teacher.output) / teacher.experiment
            assert (args.student, args.teacher) == ('resnet20', 'resnet32')
        else:
            assert args.model == 'resnet20'


def test_what_is_finished_is_not_repeated(started, tmp_path, capsys):
    argv = ['--methods', 'kd', 'bkd', '--output', str(tmp_path)]
    methods_digits.main([*argv, '--seeds', '2'])
    assert len(started) == 1 + 4
    first = capsys.readouterr().out
    started.clear()
    methods_digits.main([*argv, '--seeds', '2'])
    assert not started and capsys.readouterr().out == first
    (tmp_path / 'bkd-seed1' / 'report.json').unlink()
    (tmp_path / 'bkd-seed1').rmdir()
    methods_digits.main([*argv, '--seeds', '3'])
    assert [(args.kd, args.seed) for _, args, _ in started] == [('kd', 2), ('bkd', 1), ('bkd', 2)]


def test_threads(started, tmp_path, monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '7')
    for name, more, expected in (('one', ['--threads', '3'], '3'), ('two', [], '7')):
        methods_digits.main(['--methods', 'ce', '--seeds', '1', '--output', str(tmp_path / name), *more])
        assert {env['OMP_NUM_THREADS'] for _, _, env in started} == {expected}
        started.clear()


def fails(argv, capsys):
    with pytest.raises(SystemExit) as stopped:
        methods_digits.main(argv)
    assert stopped.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_runs_of_other_lengths_are_not_mixed(started, tmp_path, capsys):
    argv = ['--methods', 'ce', '--seeds', '1', '--output', str(tmp_path)]
    methods_digits.main([*argv, '--epochs', '1'])
    assert 'was trained with --epochs 1, not 20; choose another --output' in fails(argv, capsys)


@pytest.mark.parametrize('name', ['kdd', 'kd+kd', 'balanced_softmax+', '+kd', 'ce+ldam', 'kd+balanced_softmax', ''])
def test_a_name_that_is_none_is_told_before_anything_runs(started, tmp_path, capsys, name):
    message = fails(['--methods', 'ce', name, '--output', str(tmp_path)], capsys)
    assert f"'{name}' is no loss, method, or LOSS+METHOD" in message and not started
    assert 'Known: ' in message


def test_every_loss_and_method_is_a_name(tmp_path):
    for name in [*list_losses(), *list_methods(), *(f'ldam+{kd}' for kd in list_methods())]:
        assert methods_digits.command(name, str(tmp_path))[0] in ('train.py', 'distill.py')


def test_a_run_that_fails_is_told_with_its_last_line(tmp_path, capsys, monkeypatch):
    def run(command, env, stdout, **kwargs):
        stdout.write('epoch 1\ntrain.py: error: no luck\n')
        return subprocess.CompletedProcess(command, 2)
    monkeypatch.setattr(methods_digits.subprocess, 'run', run)
    message = fails(['--methods', 'ce', '--output', str(tmp_path)], capsys)
    assert 'teacher failed' in message and 'teacher.log: train.py: error: no luck' in message
    assert not (tmp_path / 'table.md').exists()
