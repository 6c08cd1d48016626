"""`--teacher-bank`: runs that read what the teacher says end as those that ask it, to the last bit."""
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from timm_ltkd.cli import run
from timm_ltkd.cli.arguments import distill_parser
from timm_ltkd.distill import DistillTask
from timm_ltkd.engine.epoch.bank import VIEW_OPTIONS
from timm_ltkd.options import VIEW
from timm_ltkd.report.summary import read_summary

EPOCHS = 3
BATCHES = 6  # five of 4 images and one of 3, which goes past the bank


@pytest.fixture(scope='module')
def teachers(train_once):
    """Two trained networks, and one of another epoch."""
    return {'one': str(train_once('resnet20')), 'two': str(train_once('wrn_16_2')),
            'three': str(train_once('resnet20', '--epochs', '2'))}


@pytest.fixture
def asked(monkeypatch):
    """How many images the teacher was asked about, by the task or for the bank, each time."""
    counts, ask = [], DistillTask.ask_teacher

    def ask_teacher(task, input, *args):
        counts.append(len(input))
        return ask(task, input, *args)
    monkeypatch.setattr(DistillTask, 'ask_teacher', ask_teacher)
    return counts


def bank(tmp_path, name='bank'):
    return ['--teacher-bank', str(tmp_path / name)]


def words(options, teachers, names='one'):
    """Options of a distillation from these teachers."""
    names = names.split()
    return [*options, '--loader', 'resident', '--color-jitter', '0', '--student', 'resnet20', '--epochs', str(EPOCHS),
            '--teacher', *('resnet20' for _ in names), '--teacher-checkpoint', *(teachers[name] for name in names)]


@pytest.fixture(scope='module')
def filled(options, teachers, tmp_path_factory, fresh_accelerate):
    """The option of a bank with the views of one epoch."""
    root = tmp_path_factory.mktemp('filled')
    run.distill([*words(options, teachers), '--epochs', '1', *bank(root), '--output', str(root), '--experiment', 'run'])
    fresh_accelerate()
    return bank(root)


@pytest.fixture
def distil(script, options, teachers, tmp_path, asked):
    """`distil('name', *options)`: train, and give what is left: weights, summary; `asked` is what this run asked."""
    def call(name, *more, teacher='one', output=tmp_path):
        asked.clear()
        script('distill', [*words(options, teachers, teacher), *more, '--experiment', name], output=output)
        return [(output / name / file).read_bytes() for file in ('model.safetensors', 'summary.csv', 'per_class.csv')]
    return call


@pytest.mark.parametrize('precision, more', [
    ('no', []), ('bf16', ['--kd', 'krdistill', 'dist']), ('bf16', ['--no-aug', '--loader', 'timm']),
    ('no', ['--kd', 'feature', '--channels-last', '--class-sampling', 'class', '--grad-accum-steps', '2']),
], ids=['plain', 'methods', 'no augmentation', 'channels_last'])
def test_online_filling_and_reading_are_the_same(distil, asked, tmp_path, monkeypatch, precision, more):
    monkeypatch.setenv('ACCELERATE_MIXED_PRECISION', precision)
    online = distil('online', *more)
    assert asked == [2] + [4, 4, 4, 4, 4, 3] * EPOCHS, 'what it says looks like, and then batches'
    assert distil('fill', *more, *bank(tmp_path)) == online
    assert asked[0] == 2 and {*asked[1:]} == {3, 4}, 'batches or parts of them'
    assert distil('read', *more, *bank(tmp_path)) == online
    assert asked == [2] + [3] * EPOCHS, 'but for the batch that is no multiple of the others'


@pytest.mark.parametrize('kd', ['kd', 'bkd feature'])
def test_several_teachers(distil, asked, tmp_path, kd):
    """They speak together, or one by one."""
    more, teachers = ['--kd', *kd.split()], 'one two'
    online = distil('online', *more, teacher=teachers)
    assert distil('fill', *more, *bank(tmp_path), teacher=teachers) == online
    assert distil('read', *more, *bank(tmp_path), teacher=teachers) == online
    assert asked == [2] + [3] * EPOCHS
    entries = json.loads((tmp_path / 'bank/bank.json').read_text())
    assert len(entries['key']['teacher']) == 2 and entries['layout']['separate'] == (kd != 'kd')


@pytest.mark.parametrize('views', [['--bank-views', '2'], ['--no-aug']], ids=' '.join)
def test_a_teacher_with_pixels_of_its_own(distil, tmp_path, views):
    more = ['--teacher-img-size', '16', '--teacher-resize', 'host', '--loader', 'timm', *views]
    first = distil('fill', *more, *bank(tmp_path))
    assert distil('read', *more, *bank(tmp_path)) == first
    assert json.loads((tmp_path / 'bank/bank.json').read_text())['key']['view']['resized']['input_size'] == [3, 16, 16]


@pytest.mark.parametrize('more', [
    ['--student', 'resnet8x4', '--epochs', '2'], ['--seed', '7', '-b', '8'],
    ['--kd', 'kd', '--loss', 'balanced_softmax', '--drop', '0.3']], ids=lambda more: more[0])
def test_what_other_runs_share(distil, tmp_path, log, more):
    distil('fill', '--kd', 'feature', *bank(tmp_path))
    log.clear()
    distil('other', '--kd', 'feature', *more, *bank(tmp_path))
    line, = (line for line in log if 'showings' in line)
    answered, views = (int(re.search(pattern, line)[1]) for pattern in (r'answered (\d+) of', r'of (\d+) views'))
    assert answered > 2 and views == 9 * 2 * 23
    assert not any('may grow' in line for line in log), 'the disk has room'


def test_features_are_kept_for_later_runs(distil, tmp_path, log):
    """The run that keeps them, and does not need them, ends as without; one that needs them finds them."""
    plain = distil('plain')
    assert distil('fill', '--bank-features', *bank(tmp_path)) == plain
    log.clear()
    distil('other', '--kd', 'feature', *bank(tmp_path))
    line, = (line for line in log if 'showings' in line)
    answered, shown = (int(figure) for figure in re.search(r'answered (\d+) of (\d+) showings', line).groups())
    assert answered == EPOCHS * (BATCHES - 1) * 4 and shown == EPOCHS * 23


@pytest.mark.parametrize('more, difference', [
    (['--teacher-img-size', '16'], "another teacher's pixels"),
    (['--hflip', '0'], r'another views \(18 there, 9 here\)'),
    (['--crop-padding', '2'], 'another views'),
    (['--mean', '0.5'], 'another view mean'),
    (['--teacher-dtype', 'bfloat16'], 'another teacher weights'),
    (['--imbalance-factor', '2', '--dataset', 'lt/folder'], 'another data'),
    (['--bank-dtype', 'float16'], 'holds all of 3 logits in float32'),
    (['--bank-top-k', '2'], 'and 2 of 3 logits in float32'),
    (['--bank-views', '18'], 'another view seed'),
    (['--kd', 'feature'], 'holds no features'),
    (['--bank-features'], 'holds no features'),
    (['--kd', 'kd', 'dist'], None),
], ids=lambda value: ' '.join(value) if isinstance(value, list) else '')
def test_what_does_not_match_is_refused(distil, filled, tmp_path, capsys, more, difference):
    before = {path: path.read_bytes() for path in Path(filled[1]).iterdir()}
    if difference is None:
        distil('other', *more, *filled)
        return
    with pytest.raises(SystemExit) as stopped:
        distil('other', *more, *filled)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count('error:') == 1
    assert re.search(difference, error), error
    assert {path: path.read_bytes() for path in Path(filled[1]).iterdir()} == before
    assert not (tmp_path / 'other').exists()


def test_another_teacher_or_precision_is_refused(distil, filled, capsys, monkeypatch):
    for name, message in (('three', 'another teacher weights'), ('two', 'another teacher (resnet20 there, wrn_16_2')):
        with pytest.raises(SystemExit):
            distil('other', *filled, teacher=name)
        assert message in capsys.readouterr().err
    monkeypatch.setenv('ACCELERATE_MIXED_PRECISION', 'bf16')
    with pytest.raises(SystemExit):
        distil('other', *filled)
    assert 'another precision autocast (no there, bf16 here)' in capsys.readouterr().err


@pytest.mark.parametrize('loader', ['timm', 'resident'])
def test_stored_views(distil, asked, tmp_path, loader):
    """Augmentation without end, by turns: the third epoch shows what the first did, and the bank knows it."""
    more = ['--bank-views', '2', '--loader', loader]
    if loader == 'timm':
        more += ['--train-crop-mode', 'rrc', '--color-jitter', '0.4', '--reprob', '0.5']
    first = distil('fill', *more, *bank(tmp_path))
    assert asked.count(4) < (BATCHES - 1) * EPOCHS and os.path.getsize(tmp_path / 'bank/marks.bin') == 4 * 2 * 23
    assert distil('read', *more, *bank(tmp_path)) == first
    assert distil('again', *more, *bank(tmp_path, 'fresh')) == first, 'whatever the bank held before'


@pytest.mark.parametrize('more', [['--bank-dtype', 'float16'], ['--bank-top-k', '1']], ids=['float16', 'top_k'])
def test_what_is_rounded_is_rounded_always(distil, tmp_path, more, log):
    online, first = distil('online'), distil('fill', *more, *bank(tmp_path))
    warned = '--bank-top-k spreads what the teacher says of improbable classes evenly, and --kd bkd gives' in str(log)
    assert warned == ('--bank-top-k' in more)
    assert distil('read', *more, *bank(tmp_path)) == first
    losses = [read_summary(tmp_path / run / 'summary.csv')[0]['train_loss'] for run in ('online', 'fill')]
    assert first != online
    assert (losses[1] == pytest.approx(losses[0], rel=1e-3)) == ('float16' in more)


def test_an_interrupted_run_resumes_with_and_without(distil, interrupt, tmp_path, capsys):
    """The folder of the bank is no part of a run: begun with it one goes on without, and the other way. A dtype is."""
    online = distil('online')
    for i, (before, after) in enumerate((
            (bank(tmp_path), bank(tmp_path)), (bank(tmp_path), []), ([], bank(tmp_path)))):
        interrupt(1)
        with pytest.raises(SystemExit):
            distil(f'run{i}', *before)
        assert distil(f'run{i}', *after, '--resume', 'auto') == online
    with pytest.raises(SystemExit):
        distil('run0', *bank(tmp_path, 'half'), '--bank-dtype', 'float16', '--resume', 'auto')
    assert '--bank-dtype' in capsys.readouterr().err.replace('_', '-')


def test_damage_is_asked_about_again(distil, asked, tmp_path):
    """As after a crash: rows cut off, rows of zeros, bits turned over, marks without a row."""
    online = distil('online', *bank(tmp_path))
    rows, marks = tmp_path / 'bank/rows.bin', tmp_path / 'bank/marks.bin'
    data = bytearray(rows.read_bytes())
    data[:len(data) // 3] = bytes(len(data) // 3)
    data[len(data) // 2] ^= 1
    rows.write_bytes(data[:-500])
    known = bytearray(marks.read_bytes())
    known[-40:] = b'\1' * 40
    marks.write_bytes(known)
    assert distil('again', *bank(tmp_path)) == online
    assert asked.count(4) > 3
    assert distil('third', *bank(tmp_path)) == online
    assert asked == [2] + [3] * EPOCHS


def test_a_full_disk(distil, tmp_path, monkeypatch, log):
    online = distil('online')

    def full(*args):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr('timm_ltkd.distill.bank.rows.write_at', full)
    monkeypatch.setattr('timm_ltkd.engine.epoch.bank.disk_usage', lambda path: SimpleNamespace(free=0))
    assert distil('run', *bank(tmp_path)) == online
    assert any('may grow by 0.0 GB, and the disk has 0.0 GB left' in line for line in log), 'told before it is full'
    told = 'cannot be written (No space left on device): what is new to it is not kept'
    assert len([line for line in log if told in line]) == 1


def test_seeds_share_one(distil, script, tmp_path):
    """Several students in threads end as each would alone."""
    alone = [distil(f'alone{seed}', '--seed', seed)[0] for seed in '01']
    distil_several = ['--seeds', '0', '1', *bank(tmp_path)]
    with pytest.raises(FileNotFoundError):  # each has a folder of its own
        distil('both', *distil_several)
    assert [(tmp_path / f'both-seed{seed}/model.safetensors').read_bytes() for seed in '01'] == alone


@pytest.mark.parametrize('more, message', [
    (['--bank-views', '2'], '--bank-views is about a --teacher-bank'),
    (['--bank-top-k', '2'], '--bank-top-k is about a --teacher-bank'),
    (['--bank-dtype', 'float16'], '--bank-dtype is about a --teacher-bank'),
    (['--bank-features'], '--bank-features is about a --teacher-bank'),
    (['--teacher-bank', 'b', '--bank-features', '--teacher', 'resnet20', 'resnet20', '--teacher-checkpoint', 'x', 'y'],
     '--bank-features: teachers that teach by one method'),
    (['--teacher-bank', 'b', '--mixup', '1'], 'not with --mixup: the teacher sees mixed images'),
    (['--teacher-bank', 'b', '--loader', 'timm'], 'cannot be numbered by --loader timm'),
    (['--teacher-bank', 'b', '--bank-top-k', '3'], '--bank-top-k 3: there are 3 logits'),
    (['--teacher-bank', 'b', '--dataset', 'hfids/x'], "not of 'hfids/x', a stream"),
    (['--teacher-bank', 'b', '--bank-views', '2', '--seeds', '1', '2'], 'each of them has other views'),
], ids=lambda value: ' '.join(value) if isinstance(value, list) else '')
def test_options_that_make_no_sense(distil, tmp_path, capsys, monkeypatch, more, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        distil('run', *more)
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'run').exists() and not (tmp_path / 'b').exists()


def test_every_option_that_makes_a_view_is_part_of_the_key():
    groups = {group.title: group for group in distill_parser()._action_groups}
    augmentation = {action.dest for action in groups['augmentation and regularisation']._group_actions}
    assert augmentation - {'smoothing'} == VIEW and VIEW <= VIEW_OPTIONS
