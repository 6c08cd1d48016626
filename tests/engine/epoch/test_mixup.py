"""Mixed images and class sampling in a run: what loss and teacher get, what is refused, and what is warned of."""
import json

import numpy as np
import pytest
import torch
import yaml

from timm_ltkd.engine import fit

NETWORK = ['--model', 'resnet20']
MIXING = ['--mixup', '0.8', '--cutmix', '1']


@pytest.fixture
def seen(monkeypatch):
    """What the hard-label loss, the network in training and its teacher were given, as lists that grow."""
    given = {'targets': [], 'student': [], 'teacher': []}
    make = fit.Training.__init__

    def init(training, *args, **kwargs):
        make(training, *args, **kwargs)
        task = training.task
        task.get_eval_model().register_forward_pre_hook(
            lambda module, inputs: given['student'].append(inputs[0].clone()) if module.training else None)
        if hasattr(task, 'teacher'):
            task.teacher.register_forward_pre_hook(lambda module, inputs: given['teacher'].append(inputs[0].clone()))
        task.criterion.register_forward_pre_hook(lambda module, inputs: given['targets'].append(inputs[1]))
    monkeypatch.setattr(fit.Training, '__init__', init)
    return given


def lines(log, text):
    return [line for line in log if text in line]


def test_the_loss_gets_mixed_labels_that_are_smoothed_once(script, options, seen, tmp_path):
    script('train', [*options, *NETWORK, *MIXING, '--epochs', '2', '--mixup-off-epoch', '1', '--smoothing', '0.3',
                     '--experiment', 'run'])
    assert [len(targets) for targets in seen['targets']] == 2 * [4, 4, 4, 4, 4, 3]
    assert all(targets.shape[1:] == (3,) for targets in seen['targets'])
    targets = torch.cat(seen['targets'])
    torch.testing.assert_close(targets.sum(1), torch.ones(46))
    assert float(targets.min()) == pytest.approx(0.1) and float(targets.max()) <= 0.8 + 1e-6
    one_hot = (targets.max(1).values - 0.8).abs() < 1e-6
    assert int((~one_hot[:23]).sum()) > 5 and one_hot[23:].all()
    assert one_hot[22], 'the last of an odd batch'


def test_smoothing_is_left_to_the_loss_without_mixing(script, options, seen):
    script('train', [*options, *NETWORK, '--epochs', '1', '--smoothing', '0.3', '--experiment', 'run'])
    assert all(targets.dtype == torch.int64 for targets in seen['targets'])


def test_the_teacher_sees_the_mixed_images(script, options, teacher, seen):
    distill = [*options, '--student', 'resnet20', '--teacher-checkpoint', str(teacher), '--epochs', '1']
    looks = []
    for run, mixing in (('plain', []), ('mixed', [*MIXING, '--aa', 'rand-m9-mstd0.5', '--reprob', '0.3'])):
        seen.update(student=[], teacher=[])
        script('distill', [*distill, *mixing, '--kd', 'kd', '--experiment', run])
        shown = seen['teacher'][-len(seen['student']):]  # it was evaluated before
        assert len(shown) == 6
        for mine, other in zip(seen['student'], shown, strict=True):
            assert torch.equal(mine, other)
        looks.append(torch.cat(shown))
    assert not torch.equal(*looks)


def test_mixing_draws_from_no_global_generator(script, options, monkeypatch):
    """Dropout and the like draw the same with and without."""
    states = []
    run_epoch = fit.Training.run_epoch

    def note(training):
        np.random.seed(1)
        run_epoch(training)
        states.append((torch.get_rng_state(), np.random.get_state()[1].copy()))
    monkeypatch.setattr(fit.Training, 'run_epoch', note)
    for run, mixing in (('plain', []), ('mixed', MIXING)):
        script('train', [*options, *NETWORK, *mixing, '--epochs', '1', '--experiment', run])
    assert torch.equal(states[0][0], states[1][0]) and (states[0][1] == states[1][1]).all()


@pytest.mark.parametrize('sampling, shown', [
    ('class', 23 / 3), ('sqrt', 23 * 3 ** 0.5 / (13 ** 0.5 + 7 ** 0.5 + 3 ** 0.5))])
def test_class_sampling_reaches_the_network(script, options, seen, log, tmp_path, sampling, shown):
    script('train', [*options, *NETWORK, '-b', '23', '--class-sampling', sampling, '--experiment', 'run'])
    for targets in seen['targets']:
        assert torch.bincount(targets).tolist()[2] == pytest.approx(shown, abs=1)
    line, = lines(log, f'class sampling {sampling}: an epoch shows')
    assert line.endswith(f' images and {shown:.1f} of the class of 3')
    assert json.loads((tmp_path / 'run/report.json').read_text())['run']['args']['class_sampling'] == sampling
    assert not lines(log, 'correct them twice')


def test_progressive_sampling_starts_as_instance_sampling_and_ends_balanced(script, options, seen, log):
    script('train', [*options, *NETWORK, '-b', '23', '--class-sampling', 'progressive', '--experiment', 'run'])
    counts = [torch.bincount(targets).tolist() for targets in seen['targets']]
    assert counts[0] == [13, 7, 3] and max(counts[2]) - min(counts[2]) == 1
    assert counts[1][2] == pytest.approx((3 + 23 / 3) / 2, abs=1)
    assert lines(log, 'class sampling progressive: the last epoch shows')


@pytest.mark.parametrize('more, warned', [
    (['--loss', 'balanced_softmax'], ['--loss balanced_softmax']),
    (['--loss', 'weighted_ce', '--kd', 'bkd'], ['--loss weighted_ce', '--kd bkd']),
    (['--loss', 'logit_adjust'], ['--loss logit_adjust']), (['--loss', 'logit_adjust', '--loss-kwargs', 'tau=0'], []),
    (['--loss', 'focal'], []), (['--loss', 'ldam'], []),
    (['--loss', 'ldam', '--loss-kwargs', 'deferred_epochs=2'], ['--loss ldam']),
    (['--kd-kwargs', 'standardize=True'], []),
    (['--kd', 'bkd', '--kd-kwargs', 'standardize=True'], ['--kd bkd'])])
def test_two_corrections_of_the_class_frequencies_are_warned_of(
        script, options, log, monkeypatch, tmp_path, more, warned):
    class Reached(Exception):
        pass

    def stop(*args, **kwargs):
        raise Reached
    monkeypatch.setattr('timm_ltkd.engine.seeds.fit.fit', stop)
    argv = [*options, '--student', 'resnet20', '--teacher', 'resnet20', '--kd', 'kd', *more]
    for sampling in ('instance', 'sqrt'):
        log.clear()
        with pytest.raises(Reached):
            script('distill', [*argv, '--class-sampling', sampling])
        expected = [f'--class-sampling sqrt and {option} both' for option in warned] if sampling == 'sqrt' else []
        assert [line.partition(' make')[0] for line in lines(log, 'correct them twice')] == expected


@pytest.mark.parametrize('more, message', [
    (['--kd', 'dkd', '--mixup', '0.2'], '--mixup makes soft labels, and --kd dkd needs'),
    (['--kd', 'dkd', '--kd-kwargs', 'standardize=True', '--cutmix', '1'], '--cutmix makes soft labels, and --kd dkd'),
    (['--loss', 'ldam', '--mixup', '0.2', '--cutmix-minmax', '0.2', '0.8'],
     '--mixup --cutmix-minmax makes soft labels, and --loss ldam needs'),
    (['--cutmix', '1', '-b', '1'], '--cutmix mixes the images of a batch, and -b 1 has one'),
    (['--cutmix-minmax', '0.5', '0.6'], 'no box has sides from 0.5 to 0.6 of 8 pixels'),
    (['--cutmix-minmax', '0.5'], 'expected 2 arguments'), (['--mixup-prob', '2'], 'must be at most 1'),
    (['--mixup', '-1'], 'must be at least 0'), (['--mixup-mode', 'half'], "invalid choice: 'half'"),
    (['--class-sampling', 'balanced'], "invalid choice: 'balanced'"),
])
def test_what_cannot_be_is_refused_before_training(script, options, capsys, tmp_path, more, message):
    with pytest.raises(SystemExit) as stopped:
        script('distill', [*options, '--student', 'resnet20', '--teacher', 'resnet20', *more])
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith('distill.py: error: ') and message in error
    assert not list(tmp_path.glob('*'))


def test_the_teacher_is_trained_on_every_image_once(script, options, tmp_path):
    """Class sampling is what the student's run tries out; mixing is part of the recipe."""
    script('distill', [*options, '--student', 'resnet20', '--teacher', 'resnet20', '--epochs', '1', '--class-sampling',
                       'class', '--mixup', '0.2', '--kd', 'kd', '--experiment', 'run'])
    teacher, student = (
        yaml.safe_load(path.read_text())
        for path in (*tmp_path.glob('teachers/*/args.yaml'), tmp_path / 'run/args.yaml'))
    assert (teacher['class_sampling'], student['class_sampling']) == ('instance', 'class')
    assert teacher['mixup'] == student['mixup'] == 0.2
