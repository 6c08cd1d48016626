"""Runs side by side: seeds as one row, teachers once, only the options that differ, and other data refused."""
import re
import statistics

import pytest

from timm_ltkd.cli import run as scripts
from timm_ltkd.errors import UserError
from timm_ltkd.report.compare import compare_runs, comparison_text, read_run, read_runs, write_comparison

COUNTS = [500, 200, 90, 30, 9, 2]


def compare(*folders):
    return compare_runs([read_run(folder) for folder in folders])


@pytest.fixture
def runs(write_run, tmp_path):
    """Two methods with two seeds each, and a baseline without a teacher."""
    folders = [
        write_run(tmp_path / f'{kd}-seed{seed}', COUNTS, seed=seed, skill=skill, kd=kd, teacher_name='r', kd_kwargs={},
                  loss='ce', experiment=f'{kd}-seed{seed}')
        for kd, skill in (('kd', 0.4), ('bkd', 0.6)) for seed in (0, 1)]
    return [*folders, write_run(tmp_path / 'ce', COUNTS, teacher=False, skill=0.3, loss='ce')]


def test_seeds_are_one_row_and_a_shared_teacher_is_one(runs):
    comparison = compare(*runs)
    assert list(comparison.rows) == ['teacher resnet32', 'kd (2 seeds)', 'bkd (2 seeds)', 'ce']
    assert list(comparison.recipes) == ['kd (2 seeds)', 'bkd (2 seeds)', 'ce']
    few = [read_run(run).student['few'] for run in runs[:2]]
    assert comparison.rows['kd (2 seeds)']['few'] == pytest.approx(statistics.mean(few))
    assert comparison.deviations['kd (2 seeds)']['few'] == pytest.approx(statistics.stdev(few))
    per_class = zip(*(read_run(run).student['per_class'] for run in runs[:2]), strict=True)
    assert comparison.rows['kd (2 seeds)']['per_class'] == pytest.approx([statistics.mean(pair) for pair in per_class])
    assert list(comparison.deviations) == ['kd (2 seeds)', 'bkd (2 seeds)']


def test_only_options_that_differ_are_told(runs):
    grid = compare(*runs).differences
    assert list(grid.header) == ['', '--kd', '--seed']  # not what only distill.py has, nor where a run went
    assert [list(line) for line in grid.lines] == [
        ['kd (2 seeds)', 'kd', '0 1'], ['bkd (2 seeds)', 'bkd', '0 1'], ['ce', '-', '0']]
    assert compare(runs[0]).differences is None
    assert compare(*runs[:2]).differences is None  # one recipe


def test_options_that_both_scripts_have_are_told_of_a_baseline_too(write_run, tmp_path):
    distilled = write_run(tmp_path / 'bkd', COUNTS, kd='bkd', teacher_tune='none', bank_views=5)
    baseline = write_run(tmp_path / 'ce', COUNTS, aa='rand-m9', initial_checkpoint='pre', stage='crt')
    assert list(compare(distilled, baseline).differences.header) == ['', '--kd', '--aa', '--initial-checkpoint']


@pytest.mark.parametrize('options, own, rows', [
    (dict(kd='kd', teacher_tune='none'), dict(teacher_seed=42), 1),  # no teacher was trained
    (dict(kd='kd', teacher_tune='all'), dict(teacher_seed=42), 2),
    ({}, dict(teacher_bank='b', bank_features=True), 1),
    (dict(sched='cosine'), dict(val_interval=5, eval_metric='few'), 1),
    (dict(sched='plateau'), dict(val_interval=5), 2),
    (dict(holdout=0.1), dict(eval_metric='few'), 2),
])
def test_options_that_change_nothing_part_no_seeds(write_run, tmp_path, options, own, rows):
    first = write_run(tmp_path / 'a', COUNTS, seed=0, **options)
    second = write_run(tmp_path / 'b', COUNTS, seed=1, **options, **own)
    assert len(compare(first, second).recipes) == rows


def test_an_option_from_before_it_was_there_parts_no_seeds(write_run, tmp_path):
    """Off, it is as if it were not there; on, it is another recipe."""
    folders = [write_run(tmp_path / name, COUNTS, seed=seed, **own) for seed, (name, own) in enumerate({
        'a': {}, 'b': {'grad_checkpointing': False}, 'c': {'grad_checkpointing': True}}.items())]
    assert [len(recipe.runs) for recipe in compare(*folders).recipes.values()] == [2, 1]
    assert list(compare(*folders).differences.header) == ['', '--grad-checkpointing', '--seed']
    assert compare(*folders[:2]).differences is None


def test_options_that_one_run_was_not_given(write_run, tmp_path):
    plain = write_run(tmp_path / 'a', COUNTS, kd='kd', kd_kwargs={'alpha': 1.0})
    other = write_run(tmp_path / 'b', COUNTS, kd='kd', kd_kwargs={'alpha': 0.5, 'tau': 2}, holdout=0.1, lr=0.2, seed=3)
    grid = compare(plain, other).differences
    assert dict(zip(grid.header, zip(*grid.lines, strict=True), strict=True)) == {
        '': ('a', 'b'), '--lr': ('0.1', '0.2'), '--kd-kwargs': ('alpha=1.0', 'alpha=0.5 tau=2'),
        '--holdout': ('-', '0.1'), '--seed': ('0', '3')}


def test_precision_and_network_are_differences(write_run, edit_report, tmp_path):
    folders = [write_run(tmp_path / name, COUNTS, kd='kd', student='resnet20') for name in 'ab']
    edit_report(folders[1], lambda document: document['run'].update(precision='bf16', student='resnet8x4'))
    assert list(compare(*folders).differences.header) == ['', 'network', 'precision']


def test_teachers_that_differ_have_rows_of_their_own(write_run, edit_report, tmp_path):
    folders = [write_run(tmp_path / name, COUNTS, kd='kd', lr=lr) for name, lr in (('a', 1), ('b', 2))]
    edit_report(folders[1], lambda document: document['teacher'].update(few=1.25))
    comparison = compare(*folders)
    assert list(comparison.rows) == ['teacher resnet32 of a', 'teacher resnet32 of b', 'a', 'b']
    assert comparison.rows['teacher resnet32 of b']['few'] == 1.25


def test_a_teacher_that_was_measured_twice_is_one(write_run, edit_report, tmp_path):
    folders = [write_run(tmp_path / f'a-seed{seed}', COUNTS, kd='kd', seed=seed) for seed in range(2)]
    folders.append(write_run(tmp_path / 'b', COUNTS, kd='kd', lr=2))
    for folder, off in zip(folders[1:], (1e-6, -1e-6), strict=True):
        edit_report(folder, lambda document, off=off: document['teacher'].update(
            ece=document['teacher']['ece'] + off,
            per_class=[value + off for value in document['teacher']['per_class']]))
    assert list(compare(*folders).rows) == ['teacher resnet32', 'a (2 seeds)', 'b']
    edit_report(folders[2], lambda document: document['teacher']['per_class'].__setitem__(0, 0.125))
    assert list(compare(*folders).rows)[:2] == ['teacher resnet32 of a (2 seeds)', 'teacher resnet32 of b']
    folders.append(write_run(tmp_path / 'c', COUNTS, kd='bkd', lr=2))
    assert list(compare(*folders[1:]).rows)[:2] == ['teacher resnet32 of a-seed1, c', 'teacher resnet32 of b']


def test_names(write_run, tmp_path):
    one, other = (write_run(tmp_path / parent / 'run', COUNTS, lr=lr) for parent, lr in (('x', 1), ('y', 2)))
    assert list(compare(one, other).recipes) == [str(one), str(other)]  # both folders are called run
    uneven = [write_run(tmp_path / name, COUNTS, seed=seed) for seed, name in enumerate(('first', 'second-seed1'))]
    assert list(compare(*uneven).recipes) == ['first (2 seeds)']
    layers = [
        write_run(tmp_path / name / f'seed{seed}', COUNTS, seed=seed, kd=name) for name in ('kd', 'bkd')
        for seed in (0, 1)]
    assert list(compare(*layers).recipes) == ['kd (2 seeds)', 'bkd (2 seeds)']
    assert list(compare(layers[0], layers[2]).recipes) == ['kd', 'bkd']
    assert list(compare(*layers[:2], layers[2]).recipes) == ['kd (2 seeds)', 'bkd']
    apart = [write_run(tmp_path / 'one' / f'seed{seed}', COUNTS, seed=seed, lr=seed + 1) for seed in (0, 1)]
    assert list(compare(*apart).recipes) == [str(folder) for folder in apart], 'no seeds of one recipe'


def test_text(runs):
    text = comparison_text(compare(*runs))
    table, options, notes = text.split('\n\n')
    assert re.search(r'^kd \(2 seeds\) +\d+\.\d\d ± \d+\.\d\d ', table, re.M)
    assert '--kd' in options and notes.startswith('±: sample standard deviation')
    assert len({len(line) for line in table.splitlines()}) == 1


def test_the_same_seed_twice_is_told(write_run, tmp_path):
    folders = [write_run(tmp_path / name, COUNTS) for name in 'ab']
    assert 'a (2 runs, 1 seed): there are several runs with seed 0 and the same options' in compare(*folders).notes


def test_other_training_images_are_told(write_run, tmp_path):
    folders = [write_run(tmp_path / name, counts, lr=lr) for lr, (name, counts) in enumerate(
        {'a': COUNTS, 'b': [450, *COUNTS[1:]]}.items())]
    assert any('781 images' in note and '831' in note for note in compare(*folders).notes)


@pytest.mark.parametrize('other, message', [
    ({'counts': COUNTS[:-1]}, '6 and 5 classes'),
    ({'counts': COUNTS, 'names': [*'abcde', 'class 5']}, "class 0 is 'class 0' and 'a'"),
    ({'counts': [500, 200, 90, 30, 9, 90]}, 'other classes are many-'),
    ({'counts': COUNTS, 'few_shot': 5}, 'other classes are many-'),
])
def test_other_data_are_refused(write_run, tmp_path, other, message):
    folders = write_run(tmp_path / 'a', COUNTS), write_run(tmp_path / 'b', **other)
    with pytest.raises(UserError, match=f'cannot be compared: {message}'):
        compare(*folders)


def test_another_test_set_is_refused(write_run, edit_report, tmp_path):
    folders = write_run(tmp_path / 'a', COUNTS), write_run(tmp_path / 'b', COUNTS)
    edit_report(folders[1], lambda document: document['student'].update(num_samples=61))
    with pytest.raises(UserError, match='measured on 60 and 61 images'):
        compare(*folders)


def test_folders_that_hold_no_finished_run(write_run, tmp_path):
    write_run(tmp_path / 'root' / 'run', COUNTS)
    (tmp_path / 'new' / 'last').mkdir(parents=True)
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'file').touch()
    for name, message in {
            'nix': 'there is no folder', 'new': 'is not finished', 'empty': 'holds no run; give the folder',
            'file': 'is a file', 'root': f'holds no run; there are runs in it: {tmp_path / "root" / "run"}'}.items():
        with pytest.raises(UserError, match=message):
            read_run(tmp_path / name)


def test_folders_without_a_finished_run_are_left_out_beside_others(write_run, tmp_path, capsys):
    run = write_run(tmp_path / 'run', COUNTS)
    (tmp_path / 'new' / 'last').mkdir(parents=True)
    (tmp_path / 'teachers').mkdir()
    scripts.compare([str(tmp_path / name) for name in ('new', 'run', 'teachers')])
    said = capsys.readouterr().out
    assert f"left out: the run in '{tmp_path / 'new'}' is not finished" in said and said.count('left out') == 2
    assert read_runs([run])[1] == []
    with pytest.raises(UserError, match='not finished'):
        read_runs([tmp_path / 'new', tmp_path / 'teachers'])
    with pytest.raises(UserError, match='there is no folder'):
        read_runs([run, tmp_path / 'typo'])


@pytest.mark.parametrize('change', [
    lambda document: document.pop('student'),
    lambda document: document['student'].update(few='<b>'),
    lambda document: document['student']['per_class'].pop(),
    lambda document: document['student']['per_class'].__setitem__(0, 'x'),
    lambda document: document['data'].update(class_counts=['x']),
    lambda document: document['data'].update(class_counts=[0] * 6),
    lambda document: document['data'].update(class_names=None),
    lambda document: document.update(run=[]),
])
def test_a_damaged_report(write_run, edit_report, tmp_path, change):
    folder = write_run(tmp_path / 'run', COUNTS)
    edit_report(folder, change)
    with pytest.raises(UserError, match='is no report of timm_ltkd, or a damaged one'):
        read_run(folder)


@pytest.mark.parametrize('text', ['', '{', '[' * 100000, '\x00', '{"a": 1}', '[]', '3'])
def test_a_file_that_is_no_report(tmp_path, text):
    (tmp_path / 'report.json').write_text(text)
    with pytest.raises(UserError, match='cannot be read|is no report'):
        read_run(tmp_path)


def test_classes_without_a_test_image(write_run, edit_report, tmp_path):
    folders = [write_run(tmp_path / name, COUNTS, seed=seed) for seed, name in enumerate('ab')]
    for folder in folders:
        edit_report(folder, lambda document: document['student']['per_class'].__setitem__(2, None))
    comparison = compare(*folders)
    assert comparison.rows['a (2 seeds)']['per_class'][2] is None
    assert any('1 of 6 classes without a test image' in note for note in comparison.notes)
    write_comparison(tmp_path / 'out', comparison)


def test_files(runs, tmp_path):
    paths = write_comparison(tmp_path / 'new' / 'out', compare(*runs))
    assert sorted(path.name for path in paths) == [
        'compare.html', 'compare.md', 'compare_accuracy_by_frequency.png', 'compare_difference.png',
        'compare_groups.png']
    assert sorted(paths) == sorted((tmp_path / 'new' / 'out').iterdir())
    page = (tmp_path / 'new' / 'out' / 'compare.md').read_text(encoding='utf-8')
    assert '| kd (2 seeds) | kd | 0 1 |' in page and '](compare_groups.png)' in page
    html = (tmp_path / 'new' / 'out' / 'compare.html').read_text(encoding='utf-8')
    assert html.count('<img') == 3 and html.count('<tr>') == 5 + 4 + 7 + 4


def test_two_runs_have_their_difference_by_class(runs, tmp_path):
    write_comparison(tmp_path / 'out', compare(runs[0], runs[2]))
    html = (tmp_path / 'out' / 'compare.html').read_text(encoding='utf-8')
    gain = read_run(runs[2]).student['per_class'][0] - read_run(runs[0]).student['per_class'][0]
    line = re.search(r'<tr><th scope="row">class 0</th>.*', html)[0]
    assert line.endswith(f'<td>{gain:+.2f}</td></tr>')


def test_a_single_run(runs, tmp_path):
    paths = write_comparison(tmp_path / 'out', compare(runs[-1]))
    assert 'compare_difference.png' not in [path.name for path in paths]


def test_command(runs, tmp_path, capsys):
    scripts.compare([*map(str, runs), '--output', str(tmp_path / 'out')])
    said = capsys.readouterr().out
    assert 'bkd (2 seeds)' in said and 'compare.html' in said
    scripts.compare([str(runs[0])])
    assert capsys.readouterr().out.split()[:3] == ['top1', 'top5', 'balanced']


@pytest.mark.parametrize('words, message', [
    ([], 'the following arguments are required: RUN'),
    (['{0}', '{0}/../kd-seed0'], 'is named twice'),
    (['{0}', '--outptu', 'x'], "unknown option '--outptu'; did you mean '--output'"),
    (['{0}', '--output', '{0}/report.json/x'], '--output'),
])
def test_mistakes_are_one_line(runs, capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        scripts.compare([word.format(runs[0]) for word in words])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and message in said and said.count('\n') == 1
