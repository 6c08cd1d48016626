"""The tables of results: that they say what the files say, and that what is run is what they name."""
import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from timm_ltkd.cli.arguments import distill_parser, train_parser, validate_parser
from timm_ltkd.cli.config import parse
from timm_ltkd.data import long_tail_counts, long_tail_indices
from timm_ltkd.distill import list_losses, list_methods

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / 'results'
sys.path.insert(0, str(RESULTS))
import prepare_data  # noqa: E402
import readme  # noqa: E402
import rows  # noqa: E402
import run  # noqa: E402

sys.path.remove(str(RESULTS))
ALL_ROWS = [row for table in rows.read_tables() for row in table.rows]
RUNS = sorted(path.parent for path in RESULTS.glob('*/*/seed*/report.json'))


def parsed(words):
    script, *options = words
    return parse({'train.py': train_parser, 'distill.py': distill_parser}[script](), options)


@pytest.mark.parametrize('row', ALL_ROWS, ids=lambda row: f'{row.table}-{row.key}')
def test_every_row_is_a_command_of_ours(row, monkeypatch):
    monkeypatch.chdir(ROOT)
    named = []

    def run_of(table, key):
        assert any((other.table, other.key) == (table, key) for other in ALL_ROWS)
        named.append((table, key))
        return 'RUN'
    args = parsed(row.words('DATA', run_of))
    folders = {'cifar100_lt50': 'lt50', 'cifar100_lt10': 'lt10', 'krdistill_ablation': 'lt100_left_out'}
    expected = ('lt/digits', None) if row.table == 'digits' else (
        'lt/folder', f'DATA/{folders.get(row.table, "lt100")}')
    assert (args.dataset, args.data_dir) == expected
    assert args.epochs == {'cifar100_lt100_short': 20, 'cifar100_lt100_strong': 400, 'digits': 20}.get(row.table, 200)
    at = [(other.table, other.key) for other in ALL_ROWS]
    assert all(at.index(each) < at.index((row.table, row.key)) for each in named), 'teachers are trained before'


def test_digits_have_every_method_and_loss_at_its_defaults():
    digits = [row for row in ALL_ROWS if row.table == 'digits']
    given = [parsed(row.words('', lambda table, key: 'RUN')) for row in digits]
    assert {args.kd for args in given if 'kd' in args} == {*list_methods()}
    assert {args.loss for args in given} == {*list_losses()} - {'logit_adjust'}, 'which is balanced softmax by default'
    for row, args in zip(digits, given, strict=True):
        default = vars(parsed([row.script, *row.data_words('')]))
        chosen = {key for key, value in vars(args).items() if value != default[key]}
        assert chosen <= {'kd', 'loss', 'model', 'student', 'teacher', 'teacher_checkpoint', 'teacher_tune'}
        assert not row.wants_data()


def test_both_readmes_are_up_to_date():
    again = 'run python results/readme.py'
    assert (RESULTS / 'README.md').read_text(encoding='utf-8') == readme.page(), again
    assert (ROOT / 'README.md').read_text(encoding='utf-8') == readme.project_readme(), again


def test_the_tables_say_what_the_files_say():
    """Each line of each table against its files, read another way."""
    page = (RESULTS / 'README.md').read_text(encoding='utf-8')
    tables = {table.title: table for table in rows.read_tables()}
    found = adjusted_runs = 0
    for title, section in re.findall(r'^## (.+?)\n(.*?)(?=^## |\Z)', page, re.M | re.S):
        section, _, adjusted = section.partition('The same networks with the log prior')
        for name, *cells in cells_of(section):
            row, = (row for row in tables[title].rows if row.name == name)
            folders = [folder for folder in RUNS if folder.parent == RESULTS / row.table / row.key]
            students = [json.loads((folder / 'report.json').read_text())['student'] for folder in folders]
            best = []
            for folder in folders:
                with open(folder / 'summary.csv', newline='') as file:
                    best.append(max(float(line['eval_top1']) for line in csv.DictReader(file) if line['eval_top1']))
            exported = [
                next(iter(json.loads((folder / 'posthoc.json').read_text()).values())) if row.posthoc else student
                for folder, student in zip(folders, students, strict=True)]
            expected = [[student['top1'] for student in students], best, *(
                [student[key] for student in students] for key in ('many', 'medium', 'few')),
                [report['ece'] for report in exported]]
            assert int(cells[6]) == len(folders)
            for cell, values in zip(cells, expected, strict=False):
                mean, *deviation = map(float, cell.split(' ± '))
                assert abs(mean - np.mean(values)) <= 0.05 + 1e-9
                assert len(deviation) == (len(values) > 1)
                assert not deviation or abs(deviation[0] - np.std(values, ddof=1)) <= 0.05 + 1e-9
            found += len(folders)
        for name, *cells in cells_of(adjusted):
            row, = (row for row in tables[title].rows if row.name == name)
            files = [folder / 'posthoc.json' for folder in RUNS if folder.parent == RESULTS / row.table / row.key]
            reports = [[*json.loads(file.read_text()).values()][1] for file in files if file.is_file()]
            assert int(cells[5]) == len(reports)
            for cell, key in zip(cells, ('top1', 'many', 'medium', 'few', 'ece'), strict=False):
                assert abs(float(cell.split(' ± ')[0]) - np.mean([report[key] for report in reports])) <= 0.05 + 1e-9
            adjusted_runs += len(reports)
    assert found == len(RUNS) and adjusted_runs == len([*RESULTS.glob('*/*/seed*/posthoc.json')])


def test_the_projects_readme_says_what_the_page_says():
    """Its table has the columns of two of the page's."""
    first = (RESULTS / 'README.md').read_text(encoding='utf-8').split('\n## ')[1]
    plain, adjusted = ({name: cells for name, *cells in cells_of(part)}
                       for part in first.split('The same networks with the log prior'))
    shown = cells_of((ROOT / 'README.md').read_text(encoding='utf-8').split('<!-- results -->')[1].split('<!-- end')[0])
    assert [name for name, *_ in shown] == list(plain)
    for name, *cells in shown:
        last, best, many, medium, few, _, seeds, *_ = plain[name]
        assert cells == [last, many, medium, few, best, adjusted[name][0], adjusted[name][3], f'{seeds} of 3'], name
        assert adjusted[name][5] == seeds, name


def cells_of(section):
    lines = [[cell.strip() for cell in line.split('|')[1:-1]] for line in section.splitlines() if line[:2] == '| ']
    return lines[2:]


def test_the_networks_that_were_adjusted_are_those_of_the_runs():
    for file in RESULTS.glob('*/*/seed*/posthoc.json'):
        plain, adjusted = json.loads(file.read_text()).values()
        student = json.loads((file.parent / 'report.json').read_text())['student']
        assert plain['per_class'] == student['per_class'] and plain['num_samples'] == student['num_samples']
        assert (adjusted['fix'], adjusted['tau'], adjusted['chosen_on']) == ('logit-adjust', 1., None)


@pytest.mark.parametrize('folder', RUNS, ids=['-'.join(folder.parts[-3:]) for folder in RUNS])
def test_files_of_a_run_agree(folder):
    report = json.loads((folder / 'report.json').read_text())
    args = yaml.safe_load((folder / 'args.yaml').read_text())
    with open(folder / 'summary.csv', newline='') as file:
        history = list(csv.DictReader(file))
    student, seed = report['student'], int(folder.name.removeprefix('seed'))
    assert args['seed'] == seed == report['run']['args']['seed']
    assert [int(line['epoch']) for line in history] == [*range(args['epochs'])]
    assert np.mean(student['per_class']) == pytest.approx(student['balanced'])
    assert float(history[-1]['eval_top1']) == pytest.approx(student['top1'])
    test_images = 300 if args['dataset'] == 'lt/digits' else 10_000
    assert student['num_samples'] == test_images or 'left_out' in args['data_dir']
    assert report['run']['git_commit'] and report['run']['versions']['torch'] and report['run']['hardware']
    assert not [value for value in args.values() if isinstance(value, str) and value.startswith('/')], 'a path of here'
    row, = (row for row in ALL_ROWS if row.folder(seed) == folder)
    said = parsed(row.words('DATA', lambda table, key: 'RUN'))
    for option in ('epochs', 'kd', 'kd_kwargs', 'loss', 'loss_kwargs', 'lr', 'decay_milestones', 'batch_size'):
        assert args.get(option) == getattr(said, option, None), option


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Two rows, whose runs go to an empty folder; and the commands that were started, none of which runs."""
    (tmp_path / 'rows.yaml').write_text('''
tables:
  t:
    title: A table
    headline: true
    posthoc: It is about something.
    about: It is about nothing.
    data: --dataset lt/folder --data-dir {data}/lt100 --val-split test
    seeds: [0, 1]
    train: --model resnet20
    distill: --student resnet20 --teacher-checkpoint {a}
    rows:
      a: {name: first, train: '', weights: true}
      b: {name: second, distill: --kd bkd}
''')
    for module in (rows, run, readme):
        monkeypatch.setattr(module, 'RESULTS', tmp_path)
    monkeypatch.chdir(tmp_path)
    commands, failing, measured = [], set(), []

    def start(command, cwd, env):
        if command[1] == 'validate.py':
            args = validate_parser().parse_args(command[2:])
            assert args.logit_adjust == [1.] and env['ACCELERATE_MIXED_PRECISION'] == 'no'
            assert (args.dataset, args.data_dir, args.val_split) == ('lt/folder', 'DATA/lt100', 'test')
            seed = int(args.checkpoint[0][-1])
            report = {'top1': 43. + 2 * seed, 'many': 55., 'medium': 41., 'few': 30., 'ece': 4.}
            Path(args.results_file).write_text(json.dumps({'x': {'ece': 5.5}, 'y': report | {'fix': 'logit-adjust'}}))
            measured.append(args.checkpoint[0])
            return subprocess.CompletedProcess(command, 0)
        args = parsed([command[1], *command[2:]])
        commands.append((Path(command[1]).name, args))
        for seed in args.seeds:
            folder = tmp_path / args.output / f'{args.experiment}-seed{seed}'
            folder.mkdir(parents=True, exist_ok=True)
            facts = {'args': {'seed': seed}, 'versions': {'torch': '2'}, 'hardware': 'x', 'precision': 'bf16',
                     'git_commit': 'c'}
            student = {'top1': 40. + 2 * seed, 'many': 60., 'medium': 40., 'few': 10., 'ece': 5.}
            student['per_class'] = [50., 30.]
            teacher = student | {'top1': 47., 'few': 20.} if 'distill.py' in command[1] else None
            (folder / 'report.json').write_text(json.dumps(
                {'student': student, 'teacher': teacher, 'run': facts, 'data': {'class_counts': [200, 10]}}))
            for name in ('args.yaml', 'model.safetensors', 'config.json'):
                (folder / name).write_text('')
            (folder / 'summary.csv').write_text('epoch,eval_top1\n' + ''.join(f'{i},{45 - i % 3}\n' for i in range(20)))
        return subprocess.CompletedProcess(command, int(args.experiment in failing))
    monkeypatch.setattr(run.subprocess, 'run', start)
    return commands, failing, measured


def test_runs_what_is_missing(elsewhere):
    commands, failing, _ = elsewhere
    failing.add('a')
    with pytest.raises(SystemExit) as ended:
        run.main(['--data-dir', 'DATA'])
    assert 't/a' in str(ended.value) and len(commands) == 2, 'the others run'
    failing.clear()
    commands.clear()
    run.main(['--data-dir', 'DATA', '--seeds', '1'])
    (script, args), = commands
    assert script == 'train.py' and args.seeds == [1] and args.resume == 'auto' and args.data_dir == 'DATA/lt100'
    commands.clear()
    run.main(['--data-dir', 'DATA'])
    assert [(script, args.seeds) for script, args in commands] == [('train.py', [0])]
    commands.clear()
    run.main(['--data-dir', 'DATA'])
    assert not commands
    run.main(['--data-dir', 'DATA', '--rows', 'b', '--again'])
    assert [args.seeds for _, args in commands] == [[0, 1]]


def test_keeps_the_network_that_teaches(elsewhere, tmp_path):
    commands, *_ = elsewhere
    run.main(['--data-dir', 'DATA'])
    assert [path.relative_to(tmp_path / 't') for path in tmp_path.glob('t/*/*/model.safetensors')] == [
        Path('a/seed0/model.safetensors')]
    assert commands[1][1].teacher_checkpoint == 'results/t/a/seed0'
    assert rows.run_of('t', 'b') == 'output/results/t/b-seed0'
    page = readme.page()
    assert 'Networks of these are here: first;' in page and 'local-dir:results/t/a/seed0' in page


def test_the_page_of_them(elsewhere):
    run.main(['--data-dir', 'DATA', '--rows', 'b', '--seeds', '0'])
    assert '| second | 40.0 | 45.0 | 60.0 | 40.0 | 10.0 | 5.5 | 1 | 20 epochs; seed 1 missing |' in readme.page()
    assert 'Not run yet: first.' in readme.page()
    assert 'The teacher: 47.0 (many 60.0, medium 40.0, few 20.0).' in readme.page()
    run.main(['--data-dir', 'DATA'])
    page = readme.page()
    assert '| second | 41.0 ± 1.4 | 45.0 ± 0.0 | 60.0 ± 0.0 ' in page and 'missing |' not in page
    command = ('distill.py --student resnet20 --teacher-checkpoint results/t/a/seed0 --kd bkd '
               '--dataset lt/folder --data-dir DATA/lt100 --val-split test --seeds 0 1 --output output/results/t '
               '--experiment b')
    assert f'accelerate launch --num_processes 1 --mixed_precision bf16 {command}\n' in page


def test_networks_are_measured_once_with_the_log_prior_taken_off(elsewhere):
    *_, measured = elsewhere
    run.main(['--data-dir', 'DATA', '--rows', 'a', '--seeds', '0'])
    assert measured == ['t/a/seed0'], 'where it is kept'
    run.main(['--data-dir', 'DATA'])
    trained = [f'output/results/t/{name}' for name in ('a-seed1', 'b-seed0', 'b-seed1')]
    assert measured[1:] == trained, 'where they were trained'
    run.main(['--data-dir', 'DATA'])
    assert len(measured) == 4
    page = readme.page()
    assert '| first | 44.0 ± 1.4 | 55.0 ± 0.0 | 41.0 ± 0.0 | 30.0 ± 0.0 | 4.0 ± 0.0 | 2 |' in page
    assert '`validate.py output/RUN --logit-adjust 1`' in page and 'nothing chosen. It is about something.\n' in page


def test_a_network_that_was_not_adjusted_leaves_a_gap(elsewhere, tmp_path):
    run.main(['--data-dir', 'DATA'])
    (tmp_path / 't/a/seed1/posthoc.json').unlink()
    table, = rows.read_tables()
    assert '| first | 41.0 ± 1.4 | 60.0 ± 0.0 | 40.0 ± 0.0 | 10.0 ± 0.0 | 45.0 ± 0.0 | - | - | 2 of 2 |' in \
        readme.headline(readme.runs_of(table))
    assert readme.page().count('| first |') == 1, 'not among the adjusted ones'


def test_the_plots_of_them(elsewhere, monkeypatch, tmp_path):
    run.main(['--data-dir', 'DATA'])
    monkeypatch.setattr(readme, 'PLOTTED', ('a',))
    monkeypatch.setattr(readme, 'FACING', ('b',))
    table, = rows.read_tables()
    readme.plot(table, readme.runs_of(table))
    assert {path.name for path in tmp_path.glob('*.png')} == {'t.png', 't-b.png'} == images(readme.page())


def images(page):
    return set(re.findall(r'(?:\]\(|src=")([^")]+[.]png)', page))


def test_every_plot_is_there():
    assert images((RESULTS / 'README.md').read_text(encoding='utf-8')) == {path.name for path in RESULTS.glob('*.png')}


@pytest.mark.parametrize('argv, said', [
    (['--data-dir', '/DATA'], 'relative'), (['--data-dir', 'D', '--tables', 'x'], '--tables x: there are t'),
    (['--data-dir', 'D', '--rows', 'x'], '--rows x: there are a, b'), ([], 't wants --data-dir DATA'),
])
def test_wrong_words(elsewhere, capsys, argv, said):
    with pytest.raises(SystemExit) as ended:
        run.main(argv)
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_data_are_the_selection_of_everybody(tmp_path, monkeypatch):
    per_class, classes = 100, [f'name{c}' for c in range(100)]

    class Fake:
        def __init__(self, root, train, download):
            rng = np.random.RandomState(train)
            self.targets = rng.permutation(np.repeat(np.arange(100), per_class if train else 2)).tolist()
            self.classes, self.train = classes, train

        def __len__(self):
            return len(self.targets)

        def __getitem__(self, index):
            return Image.fromarray(np.full((2, 2, 3), (index // 256, index % 256, self.train), np.uint8)), \
                self.targets[index]
    monkeypatch.setattr(prepare_data, 'CIFAR100', Fake)
    prepare_data.main([str(tmp_path / 'cifar'), str(tmp_path / 'data')])

    def indices(folder):
        files = sorted((tmp_path / 'data' / folder).rglob('*.png'))
        pixels = [np.asarray(Image.open(file))[0, 0] for file in files]
        return [int(high) * 256 + int(low) for high, low, _ in pixels]
    targets, chosen = Fake('', True, False).targets, {}
    for factor in (100, 50, 10):
        counts = long_tail_counts(100, per_class, factor, 'exp')
        chosen[factor] = long_tail_indices(targets, counts, seed=0).tolist()
        assert indices(f'lt{factor}/train') == chosen[factor]
        assert len(indices(f'lt{factor}/test')) == 200
    left_out = indices('lt100_left_out/left_out')
    assert (tmp_path / 'data/lt100_left_out/train').resolve() == (tmp_path / 'data/lt100/train').resolve()
    assert set(left_out) == set(chosen[10]) - set(chosen[100]) and len(left_out) == len(set(left_out))
