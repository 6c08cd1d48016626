"""What is told before and while a run trains: what looks like a mistake, long epochs, errors on lines of their own."""
import logging
import re
import threading
import time
from argparse import Namespace
from functools import partial
from types import SimpleNamespace

import pytest
import timm
import torch
from front_door import PARSERS, reach

from timm_ltkd.cli import run
from timm_ltkd.cli.config import parse
from timm_ltkd.distill import create_methods
from timm_ltkd.engine import run_data
from timm_ltkd.engine.doubts import warn_of_recipe, warn_of_zero_classifier
from timm_ltkd.engine.epoch import progress
from timm_ltkd.engine.epoch.optimizer import create_schedule
from timm_ltkd.engine.epoch.watch import LossWatch
from timm_ltkd.engine.processes import launch
from timm_ltkd.engine.run_folder.folder import find_folder
from timm_ltkd.engine.seeds.asked import each_seed, warn_of_one_seed
from timm_ltkd.errors import UserError
from timm_ltkd.options import listed
from timm_ltkd.prior import ClassPrior
from timm_ltkd.progress import told_if_slow


def test_long_epochs_are_told_of_where_no_bar_is_shown(base, monkeypatch, log):
    for seconds, lines in ((60., 0), (0., 3)):
        log.clear()
        monkeypatch.setattr('timm_ltkd.progress._SILENCE', seconds)
        monkeypatch.setattr(LossWatch, 'check', lambda self, epoch: 1.5)
        reach('train', base['train']).training.run_epoch()  # 3 batches, and a look at the loss every 50
        told = [line for line in log if line.startswith('epoch') and 'batch' in line[:25]]
        assert len(told) == lines
    assert told[1].startswith('epoch 1/') and ', batch 2/3: loss 1.5000, lr ' in told[1] and ' img/s' in told[1]


def test_what_takes_long_is_told_in_the_name_of_who_waits(monkeypatch, caplog):
    caplog.set_level('INFO', 'timm_ltkd')
    logger, handler, lines = logging.getLogger('timm_ltkd'), logging.Handler(), []
    handler.setFormatter(launch._Lines('%(message)s'))
    handler.emit = lambda record: lines.append(handler.format(record))

    def work(told):
        with told_if_slow('still reading'):
            wait_for(lambda: len(lines) == told)
    logger.addHandler(handler)
    try:
        work(0)
        monkeypatch.setattr('timm_ltkd.progress._SLOW', 0.)
        work(1)
        thread = threading.Thread(target=work, args=[2], name='seed 1')
        thread.start()
        thread.join()
    finally:
        logger.removeHandler(handler)
    assert lines == ['still reading', 'seed 1: still reading']


def test_data_that_take_long_to_find_are_told_of(base, monkeypatch, log):
    def lines():
        return sum(line == 'still looking for the images and labels of lt/' for line in log)

    def slow(make, told, *args, **kwargs):
        wait_for(lambda: lines() == told)
        return make(*args, **kwargs)
    monkeypatch.setattr('timm_ltkd.progress._SLOW', 0.)
    monkeypatch.setattr(run_data, 'create_splits', partial(slow, run_data.create_splits, 1))
    monkeypatch.setattr(run_data, 'fingerprint', partial(slow, run_data.fingerprint, 2))
    reach('train', base['train'])
    assert lines() == 2


def wait_for(condition):
    """Until it holds, or ten seconds are over."""
    until = time.monotonic() + 10
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)


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


def told(log, *words, epochs=10, batches=3, **changed):
    """What is warned of with these options."""
    args = parse(PARSERS['train'](), ['--img-size', '32', *words])
    network = SimpleNamespace(pretrained_cfg={'input_size': (3, 32, 32)})
    log.clear()
    warn_of_recipe(Namespace(**{**vars(args), **changed}), network, epochs, batches)
    return '\n'.join(log)


@pytest.mark.parametrize('side, more, seen', [
    (40, {}, '8 of 40, at the right and at the bottom: give --img-size 32 or 48'), (48, {}, None),
    (40, {'dynamic_img_size': True, 'dynamic_img_pad': True}, None)])
def test_pixels_that_no_patch_holds(log, side, more, seen):
    network = timm.create_model('vit_tiny_patch16_224', depth=1, embed_dim=8, num_heads=1, img_size=side, **more)
    image = torch.randn(1, 3, side, side)
    edge = image.clone()
    edge[..., -(side % 16 or 16):] = 0.
    with torch.inference_mode():
        assert torch.equal(network.eval()(image), network(edge)) == bool(seen)
    network.pretrained_cfg = {'input_size': (3, side, side)}
    warn_of_recipe(parse(PARSERS['train'](), ['--img-size', str(side)]), network, 10, 3)
    assert (seen in log[0]) if seen else not log


def test_patches_that_overlap_hold_all_pixels(log):
    network = timm.create_model('pvt_v2_b0')  # of 7 pixels, 4 apart
    network.pretrained_cfg = {'input_size': (3, 32, 32)}
    warn_of_recipe(parse(PARSERS['train'](), ['--img-size', '32']), network, 10, 3)
    assert not log


@pytest.mark.parametrize('words, message', [
    (['--model-ema', '--model-ema-decay', '0.99'], r'after all 30 updates (\d+) % of the moving average'),
    (['--model-ema', '--model-ema-decay', '0.3'], None),
    (['--model-ema', '--model-ema-decay', '0.99', '--model-ema-warmup'], None),
    ([], None),
])
def test_an_average_that_is_mostly_the_beginning_is_warned_of(log, words, message):
    line = told(log, *words)
    assert ('moving average' in line) == (message is not None)
    if message:
        assert int(re.match(message, line)[1]) == round(100 * 0.99 ** 30)


@pytest.mark.parametrize('words, falls_in', [
    ('--sched multistep', 90), ('--sched multistep --decay-milestones 10 20', None),
    ('--sched multistep --decay-milestones 11', 11), ('--sched step --decay-epochs 9', None),
    ('--sched step --decay-epochs 10', 11), ('--sched cosine', None),
    ('--sched multistep --decay-milestones 9 --warmup-epochs 2 --warmup-prefix', 11),
    ('--sched multistep --decay-milestones 8 --warmup-epochs 2 --warmup-prefix', None)])
def test_a_rate_that_never_falls_is_warned_of(log, words, falls_in):
    line = told(log, *words.split())
    expected = f'the learning rate never falls: --sched {words.split()[1]} lowers it in epoch {falls_in}, and the run'
    assert line.startswith(expected) if falls_in else not line
    args = parse(PARSERS['train'](), ['--epochs', '10', *words.split()])
    schedule, _ = create_schedule(args, torch.optim.SGD([torch.zeros(1)], args.lr), updates_per_epoch=3)
    assert (schedule._get_lr(9)[0] == args.lr) == (falls_in is not None), "as timm's schedule has it"


def test_updates_are_those_of_whole_windows(log):
    line = told(log, '--model-ema', '--model-ema-decay', '0.99', '--grad-accum-steps', '2', batches=5)
    assert line.startswith('after all 30 updates')


def test_the_decay_that_is_named_is_enough(log):
    for epochs in (4500, 1000, 4990, 20, 7):
        line = told(log, '--model-ema', epochs=epochs, model_ema_decay=0.99999)
        decay = float(re.search(r'--model-ema-decay of ([\d.]+) or less', line)[1])
        assert decay ** (3 * epochs) == pytest.approx(0.05, rel=0.15) and decay ** (3 * epochs) <= 0.05
        assert 'moving average' not in told(log, '--model-ema', epochs=epochs, model_ema_decay=decay)


@pytest.mark.parametrize('words, warned', [
    (['--sched', 'plateau'], True), (['--sched', 'plateau', '--holdout', '0.1'], False), ([], False)])
def test_a_schedule_that_looks_at_the_test_images_is_warned_of(log, words, warned):
    assert ('no fair estimate' in told(log, *words)) == warned


@pytest.mark.parametrize('words, warned', [
    (['--lr', '0.1'], 'trained already'), (['--lr', '0.01'], ''),
    (['--lr', '0.1', '--opt', 'momentum'], 'trained already'), (['--lr', '0.01', '--opt', 'AdamW'], 'is one for SGD'),
    *((['--lr', '0.1', '--opt', opt], 'is one for SGD') for opt in ('lamb', 'fusedlamb', 'muon', 'rmsproptf')),
    *((['--lr', '0.05', '--opt', opt], '') for opt in ('lamb', 'muon', 'rmsprop')),
    *((['--lr', '0.01', '--opt', opt], 'is one for SGD') for opt in ('lookahead_adamw', 'clion', 'laprop')),
    *((['--lr', '1', '--opt', opt], '') for opt in ('sgdw', 'nlars', 'adadelta')),
    (['--lr', '0.001', '--opt', 'adamw'], '')])
def test_a_rate_that_ruins_weights_is_warned_of(log, words, warned):
    there = 'trained already'
    for changed, counts in (
            ({}, warned != there), ({'pretrained': True}, True), ({'initial_checkpoint': 'x'}, True),
            ({'pretrained': True, 'stage': 'head'}, warned != there)):
        line = told(log, *words, **changed)
        assert (warned in line and line != '') if warned and counts else line == ''


@pytest.mark.parametrize('asked', [False, True])
def test_small_images_that_nobody_asked_for_are_warned_of(base, log, asked):
    """A network for CIFAR is the default of the scripts."""
    words = base['train']
    at = words.index('--img-size')
    log.clear()
    reach('train', words if asked else [*words[:at], *words[at + 2:]])
    assert ('resnet20 is made for images of 32 pixels, and nothing says' in '\n'.join(log)) != asked


@pytest.mark.parametrize('student, words, warned', [
    ('mixer_s16_224', [], False), ('mixer_s16_224', ['--kd', 'dist'], True), ('test_resnet', ['--kd', 'dist'], False),
    ('mixer_s16_224', ['--kd-kwargs', 'standardize=True'], True),
    ('mixer_s16_224', ['--kd', 'kd', '--kd-kwargs', 'standardize=True'], True),
    ('mixer_s16_224', ['--kd', 'kd', 'dist'], True), ('mixer_s16_224', ['--kd', 'dist', '--clip-grad', '1'], False),
])
def test_a_student_of_equal_logits_is_warned_of(student, words, warned, log):
    args = parse(PARSERS['distill'](), ['--student', student, *words])
    methods = create_methods(listed(args.kd), args.kd_kwargs, prior=ClassPrior([3, 2, 1]), student_features=64,
                             teacher_features=[64])
    network = timm.create_model(student, num_classes=3)
    warn_of_zero_classifier(args, network, methods)
    assert [line.startswith(f'the classifier of {student} starts with zeros') for line in log] == [True] * warned


def test_what_looks_like_a_mistake_is_told_once_of_all_seeds(base, log):
    log.clear()
    run.train([*base['train'], '--seeds', '0', '1', '2', '--lr', '0.1', '--opt', 'adamw', '--epochs', '1'])
    assert '\n'.join(log).count('is one for SGD') == 1


@pytest.mark.parametrize('seed, student, warned', [
    (3, 'resnet20', True), (4, 'resnet20', False), (3, 'resnet32', False)])
def test_a_student_with_its_teachers_seed_is_warned_of(tmp_path, log, seed, student, warned):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run/args.yaml').write_text('seed: 3\n')
    (tmp_path / 'run/config.json').write_text(f'{{"architecture": "{student}"}}')
    args = parse(PARSERS['distill'](), [
        '--seeds', '1', str(seed), '--teacher-checkpoint', str(tmp_path / 'run'), 'weights.pth', '--teacher', 'a', 'b'])
    warn_of_one_seed(args, each_seed(args))
    assert ('was trained with --seed 3, as a student' in '\n'.join(log)) == warned
