"""What is told before and while a run trains: what looks like a mistake, long epochs, errors on lines of their own."""
import re

import pytest
from front_door import PARSERS, reach

from timm_ltkd.cli.config import parse
from timm_ltkd.engine.epoch import progress
from timm_ltkd.engine.epoch.watch import LossWatch
from timm_ltkd.engine.plan import log_plan
from timm_ltkd.engine.run_folder.folder import find_folder
from timm_ltkd.engine.seeds import each_seed, warn_of_one_seed
from timm_ltkd.errors import UserError


def test_long_epochs_are_told_of_where_no_bar_is_shown(base, monkeypatch, log):
    for seconds, lines in ((60., 0), (0., 3)):
        log.clear()
        monkeypatch.setattr(progress, '_SILENCE', seconds)
        monkeypatch.setattr(LossWatch, 'check', lambda self, epoch: 1.5)
        reach('train', [*base['train'], '--log-interval', '1']).training.run_epoch()
        told = [line for line in log if 'batch' in line[:25]]
        assert len(told) == lines
    assert told[1].startswith('epoch 1/') and ', batch 2/3: loss 1.5000, lr ' in told[1] and ' img/s' in told[1]


def test_the_bar_is_gone_before_an_error_is_told(base, monkeypatch):
    bars = []

    class Bar(progress.tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.closed = False
            bars.append(self)

        def close(self):
            self.closed = True
            super().close()

    def fail(self, epoch):
        raise UserError('the loss became NaN')
    monkeypatch.setattr(progress, 'tqdm', Bar)
    monkeypatch.setattr(LossWatch, 'check', fail)
    with pytest.raises(UserError, match='became NaN'):
        reach('train', base['train']).training.run_epoch()
    assert [bar.closed for bar in bars] == [True]


@pytest.mark.parametrize('words, message', [
    (['--experiment', 'a', '--resume', 'output/b'], '--resume output/b and --experiment name different folders'),
    (['--overwrite', '--experiment', 'a', '--resume', 'auto'], '--overwrite begins anew, and --resume goes on'),
])
def test_options_of_folders_that_do_not_go_together(words, message):
    args = parse(PARSERS['train'](), words)
    with pytest.raises(UserError, match=message):
        find_folder(args, 'net-ce', '0' * 16)


@pytest.mark.parametrize('words, message', [
    (['--model-ema', '--model-ema-decay', '0.99'], r'after all (\d+) updates (\d+) % of the moving average'),
    (['--model-ema', '--model-ema-decay', '0.3'], None),
    (['--model-ema', '--model-ema-decay', '0.99', '--model-ema-warmup'], None),
    ([], None),
])
def test_an_average_that_is_mostly_the_beginning_is_warned_of(base, log, words, message):
    training = reach('train', [*base['train'], *words]).training
    log.clear()
    log_plan(training)
    told = [line for line in log if 'moving average' in line]
    assert len(told) == (message is not None)
    if message:
        updates, share = map(int, re.match(message, told[0]).groups())
        assert updates == training.epochs * 3 and share == round(100 * 0.99 ** updates)
        decay = float(re.search(r'--model-ema-decay of ([\d.]+) or less', told[0])[1])
        assert decay ** updates == pytest.approx(0.05, rel=0.01)
        training.args.model_ema_decay = decay
        log.clear()
        log_plan(training)
        assert 'moving average' not in '\n'.join(log)


def test_the_decay_that_is_named_is_enough(base, log):
    training = reach('train', [*base['train'], '--model-ema']).training
    for training.epochs in (4500, 1000, 4990, 2):
        training.args.model_ema_decay = 0.99999
        log.clear()
        log_plan(training)
        training.args.model_ema_decay = float(re.search(r'--model-ema-decay of ([\d.]+) or less', '\n'.join(log))[1])
        log.clear()
        log_plan(training)
        assert 'moving average' not in '\n'.join(log)


@pytest.mark.parametrize('words, warned', [
    (['--lr', '0.1'], True), (['--lr', '0.01'], False), (['--lr', '0.1', '--opt', 'lamb'], False)])
def test_a_rate_that_ruins_pretrained_weights_is_warned_of(base, log, words, warned):
    training = reach('train', [*base['train'], *words]).training
    for pretrained, stage in ((False, None), (True, None), (True, 'head')):
        training.args.pretrained, training.args.stage = pretrained, stage
        log.clear()
        log_plan(training)
        assert ('the weights are pretrained' in '\n'.join(log)) == (pretrained and stage is None and warned)


@pytest.mark.parametrize('seed, warned', [(3, True), (4, False)])
def test_a_student_with_its_teachers_seed_is_warned_of(tmp_path, log, seed, warned):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run/args.yaml').write_text('seed: 3\n')
    args = parse(PARSERS['distill'](), [
        '--seeds', '1', str(seed), '--teacher-checkpoint', str(tmp_path / 'run'), 'weights.pth', '--teacher', 'a', 'b'])
    warn_of_one_seed(args, each_seed(args))
    assert ('was trained with --seed 3, as a student' in '\n'.join(log)) == warned
