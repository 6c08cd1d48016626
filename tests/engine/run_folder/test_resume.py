"""An interrupted and resumed run ends with the weights and figures of one that was not, to the last bit."""
import json
import os
from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import load_file

from timm_ltkd.distill.bkd import BKD
from timm_ltkd.engine import fit, training
from timm_ltkd.engine.processes import launch
from timm_ltkd.engine.run_folder import finished
from timm_ltkd.engine.run_folder.checkpoint import checkpoint_files
from timm_ltkd.report.summary import read_summary

TINY_VIT = '--model vit_tiny_patch16_224 --model-kwargs patch_size=4 embed_dim=16 depth=2 num_heads=2'.split()


@pytest.fixture
def same_when_interrupted(script, interrupt, tmp_path):
    """Run whole, and interrupted and resumed with other options; compare what is left; give the summary's rows."""
    def check(name, argv, after=2, resume_with=()):
        script(name, [*argv, '--experiment', 'whole'])
        interrupt(after)
        with pytest.raises(SystemExit) as stopped:
            script(name, [*argv, '--experiment', 'resumed'])
        assert stopped.value.code == 130
        assert not (tmp_path / 'resumed/model.safetensors').exists()
        script(name, [*argv, '--experiment', 'resumed', '--resume', 'auto', *resume_with])
        for file in ('model.safetensors', 'summary.csv', 'per_class.csv'):
            assert (tmp_path / 'whole' / file).read_bytes() == (tmp_path / 'resumed' / file).read_bytes(), file
        newest = (checkpoint_files(tmp_path / run / 'last')[0] for run in ('whole', 'resumed'))
        assert_same(*(torch.load(path, weights_only=True) for path in newest))
        return read_summary(tmp_path / 'whole/summary.csv')
    return check


def assert_same(first, second):
    """Nested states are equal to the last bit."""
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, list | tuple):
        assert len(first) == len(second)
        for mine, other in zip(first, second, strict=True):
            assert_same(mine, other)
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    else:
        assert first == second


@pytest.mark.parametrize('more', [
    [],
    ['--model-ema', '--model-ema-decay', '0.9', '--model-ema-warmup'],
    ['--grad-accum-steps', '4', '--sched-on-updates', '--warmup-epochs', '1', '--clip-grad', '1'],
    ['--aa', 'rand-m9-mstd0.5', '--reprob', '0.5', '--hflip', '0.5', '--train-crop-mode', 'rrc'],
    [*TINY_VIT, '--opt', 'adamw', '--lr', '0.001', '--drop', '0.2', '--drop-path', '0.2'],
    ['--loss', 'balanced_softmax', '--sched', 'multistep', '--decay-milestones', '2', '4', '--val-interval', '2'],
    ['--loss', 'ldam', '--loss-kwargs', 'deferred_epochs=3', '--model-ema', '--model-ema-decay', '0.9'],
    ['--mixup', '0.8', '--cutmix', '1', '--mixup-mode', 'elem', '--mixup-off-epoch', '3', '--smoothing', '0.1',
     '--class-sampling', 'progressive', '--aa', 'rand-m9-mstd0.5', '--reprob', '0.5'],
    ['--loader', 'resident', '--train-crop-mode', 'pad', '--color-jitter', '0', '--class-sampling', 'class'],
    ['--loader', 'resident', '--train-crop-mode', 'rrc', '--color-jitter', '0', '--reprob', '0.5', '--recount', '2'],
    ['--class-sampling', 'sqrt', '--grad-accum-steps', '2', '--model-ema', '--model-ema-decay', '0.9'],
], ids=[
    'plain', 'ema', 'accumulation', 'augmentation', 'dropout', 'multistep', 'ldam', 'mixing', 'resident', 'resized',
    'sqrt'])
def test_training(same_when_interrupted, options, more):
    rows = same_when_interrupted('train', [*options, '--model', 'resnet20', '--epochs', '4', *more])
    assert [row['epoch'] for row in rows] == [0, 1, 2, 3]


@pytest.fixture
def scaler(monkeypatch):
    """Give a run on a CPU the loss scaler that fp16 has, so restless that steps are skipped; its scales are noted."""
    create, update, scales = launch.create_accelerator, torch.amp.GradScaler.update, []

    def create_accelerator(*args):
        accelerator = create(*args)
        accelerator.scaler = torch.amp.GradScaler(
            'cpu', growth_factor=2. ** 55.5, backoff_factor=2. ** -55.5, growth_interval=3)
        return accelerator

    def noted(scaler):
        scales.append(scaler.get_scale())
        update(scaler)
    monkeypatch.setattr(launch, 'create_accelerator', create_accelerator)
    monkeypatch.setattr(torch.amp.GradScaler, 'update', noted)
    return scales


def test_the_loss_scale_goes_on_where_it_was(scaler, same_when_interrupted, options, tmp_path):
    same_when_interrupted('train', [*options, '--model', 'resnet20', '--epochs', '4', '--opt', 'momentum'], after=2)
    whole, interrupted, resumed = scaler[:24], scaler[24:42], scaler[42:]
    assert interrupted == whole[:18] and resumed == whole[12:], 'six steps an epoch'
    assert whole[12] != 65536 and any(after < before for before, after in zip(whole, whole[1:], strict=False))
    state = torch.load(checkpoint_files(tmp_path / 'resumed/last')[0], weights_only=True)['scaler']
    assert state['scale'] not in (0, 65536) and state['growth_interval'] == 3


def test_dropout_draws_from_the_random_states_that_are_restored(script, interrupt, options, tmp_path, monkeypatch):
    """Without them the same interruption ends elsewhere: the test above does see them."""
    argv = [*options, *TINY_VIT, '--drop', '0.2']
    script('train', [*argv, '--experiment', 'whole'])
    interrupt(1)
    with pytest.raises(SystemExit):
        script('train', [*argv, '--experiment', 'resumed'])
    monkeypatch.setattr(training, 'set_rng_state', lambda state: None)
    script('train', [*argv, '--experiment', 'resumed', '--resume', 'auto'])
    whole, resumed = (load_file(tmp_path / run / 'model.safetensors') for run in ('whole', 'resumed'))
    assert not torch.equal(whole['head.weight'], resumed['head.weight'])


def test_epochs_after_the_last_checkpoint_are_trained_again(same_when_interrupted, options, log):
    rows = same_when_interrupted(
        'train', [*options, '--model', 'resnet20', '--epochs', '6', '--checkpoint-interval', '2'], after=3)
    assert [row['epoch'] for row in rows] == [*range(6)]
    assert any(line.endswith('after epoch 2 of 6') for line in log)


def test_the_report_names_the_code_that_trained(script, interrupt, options, tmp_path, monkeypatch):
    argv = [*options, '--model', 'resnet20', '--epochs', '3', '--experiment', 'run', '--resume', 'auto']
    for commit in ('first', 'first', 'second', 'third'):  # which has nothing left to train
        monkeypatch.setattr(fit, 'git_commit', lambda commit=commit: commit)
        monkeypatch.setattr(finished, 'git_commit', lambda commit=commit: commit)
        if commit == 'first':
            interrupt(1)
        with pytest.raises(SystemExit) if commit == 'first' else nullcontext():
            script('train', argv)
    run = json.loads((tmp_path / 'run/report.json').read_text())['run']
    assert (run['git_commit'], run['git_commits']) == ('third', ['first', 'second'])


def test_a_plateau_remembers_the_epochs_that_were_no_better(same_when_interrupted, options):
    rows = same_when_interrupted('train', [
        *options, *TINY_VIT, '--epochs', '6', '--lr', '1e-6', '--sched', 'plateau', '--patience-epochs', '2'], after=3)
    assert [row['lr'] for row in rows] == pytest.approx([1e-6] * 4 + [1e-7] * 2), 'the plateau spans the interruption'


def test_distillation_with_other_workers(same_when_interrupted, options, teacher, monkeypatch):
    epochs, set_epoch = [], BKD.set_epoch
    monkeypatch.setattr(BKD, 'set_epoch', lambda method, epoch: (epochs.append(epoch), set_epoch(method, epoch)))
    same_when_interrupted(
        'distill', [*options, '--student', 'resnet20', '--teacher-checkpoint', str(teacher), '--kd-kwargs',
                    'deferred_epochs=2', '--drop', '0.2'],
        after=1, resume_with=['--workers', '1'])
    assert epochs == [0, 1, 2] + [0, 1] + [1, 2], 'the whole run, the interrupted one, the resumed one'


def test_an_interrupted_teacher_resumes(script, interrupt, options, tmp_path, log):
    argv = [*options, '--student', 'resnet20', '--teacher', 'resnet20', '--experiment']
    script('distill', [*argv, 'whole'], output=tmp_path / 'a')
    interrupt(2)
    with pytest.raises(SystemExit):
        script('distill', [*argv, 'resumed'], output=tmp_path / 'b')
    assert not (tmp_path / 'b/resumed').exists()
    log.clear()
    script('distill', [*argv, 'resumed', '--resume', 'auto'], output=tmp_path / 'b')
    assert any('resuming' in line and 'after epoch 2 of 3' in line for line in log)
    assert f'nothing to resume with these settings; a new run in {tmp_path / "b/resumed"}' in log
    assert any(line.startswith('resnet20, 0.27 M parameters, images of 8×8; 3 epochs of') for line in log)
    teachers = [next((tmp_path / output / 'teachers').iterdir()) for output in 'ab']
    assert teachers[0].name == teachers[1].name
    for mine, other in (teachers, (tmp_path / 'a/whole', tmp_path / 'b/resumed')):
        for file in ('model.safetensors', 'summary.csv'):
            assert (mine / file).read_bytes() == (other / file).read_bytes()


def test_a_truncated_newest_checkpoint_is_skipped(script, interrupt, options, tmp_path, log):
    argv = [*options, '--model', 'resnet20', '--epochs', '4', '--experiment']
    script('train', [*argv, 'whole'])
    interrupt(3)
    with pytest.raises(SystemExit):
        script('train', [*argv, 'resumed'])
    newest, before = checkpoint_files(tmp_path / 'resumed/last')
    newest.write_bytes(newest.read_bytes()[:5000])
    log.clear()
    script('train', [*argv, 'resumed', '--resume', 'auto'])
    assert any(f'{newest} cannot be read' in line for line in log)
    assert any('after epoch 2 of 4' in line for line in log)
    for file in ('model.safetensors', 'summary.csv'):
        assert (tmp_path / 'whole' / file).read_bytes() == (tmp_path / 'resumed' / file).read_bytes()
    assert before.name == 'checkpoint-000002.pt' and not before.exists(), 'two newer ones have taken its place'


def test_a_finished_run_can_be_resumed(script, options, tmp_path, log):
    argv = [*options, '--model', 'resnet20', '--experiment', 'run']
    script('train', argv)
    names = ('model.safetensors', 'summary.csv', 'per_class.csv')
    files = {name: (tmp_path / 'run' / name).read_bytes() for name in names}
    log.clear()
    script('train', [*argv, '--resume', 'auto'])
    assert any('is trained to the end, and measured again' in line for line in log)
    assert not any('epoch 1/3' in line for line in log)
    assert files == {name: (tmp_path / 'run' / name).read_bytes() for name in files}


def test_a_summary_that_cannot_be_replaced_costs_no_epoch(script, options, tmp_path, capsys, monkeypatch):
    """As on Windows while a spreadsheet shows it."""
    replace = os.replace

    def refuse(source, target):
        if target.name == 'summary.csv' and target.exists():
            raise PermissionError(13, 'Access is denied', str(target))
        replace(source, target)
    argv = [*options, '--model', 'resnet20', '--epochs', '3', '--experiment', 'run']
    monkeypatch.setattr(os, 'replace', refuse)
    with pytest.raises(SystemExit) as ended:
        script('train', argv)
    assert ended.value.code == 2 and 'summary.csv: Access is denied' in capsys.readouterr().err
    assert checkpoint_files(tmp_path / 'run/last')[0].name == 'checkpoint-000002.pt'
    monkeypatch.undo()
    script('train', [*argv, '--resume', 'auto'])
    assert [row['epoch'] for row in read_summary(tmp_path / 'run/summary.csv')] == [0, 1, 2]


def test_a_card_that_was_edited_stays(script, options, tmp_path):
    argv = [*options, '--model', 'resnet20', '--epochs', '1', '--experiment', 'run']
    script('train', argv)
    card = tmp_path / 'run/README.md'
    card.write_text(card.read_text() + 'Mine.')
    script('train', [*argv, '--resume', 'auto'])
    assert card.read_text().endswith('Mine.')
    card.unlink()
    script('train', [*argv, '--resume', 'auto'])
    assert card.is_file()


def test_a_finished_run_that_is_measured_anew_tells_the_same_everywhere(script, options, tmp_path, log):
    argv = [*options, '--model', 'resnet20', '--epochs', '1', '--experiment', 'run']
    script('train', argv)
    card, resumed = tmp_path / 'run/README.md', [*argv, '--resume', 'auto', '--many-shot', '50', '--few-shot', '10']
    assert '20 to 100 ' in card.read_text()
    script('train', resumed)
    assert '10 to 50 ' in card.read_text() and '20 to 100 ' not in card.read_text()
    changed = '--few-shot was 20 and is 10, --many-shot was 100 and is 50'
    assert f'figures of the epochs before were measured otherwise: {changed}' in log
    card.write_text(card.read_text() + 'Mine.')
    log.clear()
    script('train', resumed)
    assert not [line for line in log if 'measured otherwise' in line or 'edited' in line]
    script('train', [*argv, '--resume', 'auto'])
    assert f'{card} was edited since this run wrote it, and stays as it is, with the figures of before' in log
    assert card.read_text().endswith('Mine.') and '10 to 50 ' in card.read_text()


def test_a_run_that_is_resumed_by_its_path_has_its_own_teacher(script, options, tmp_path, log, monkeypatch):
    """Wherever the command is given."""
    argv = [*options, '--student', 'resnet20', '--teacher', 'resnet20', '--epochs', '1']
    script('distill', [*argv, '--experiment', 'run'], output=tmp_path / 'first')
    log.clear()
    script('distill', [*argv, '--resume', str(tmp_path / 'first/run')], output=tmp_path / 'second')
    assert any('trained before, from' in line for line in log) and not (tmp_path / 'second').exists()
