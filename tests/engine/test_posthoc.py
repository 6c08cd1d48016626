"""validate.py's post-hoc fixes: right figures, and a strength that is chosen on the holdout alone."""
import json
import shutil
from argparse import Namespace

import pytest
import timm
import torch
import torch.nn.functional as F
import yaml
from accelerate import Accelerator
from timm.models import save_for_hf
from torch import nn

from timm_ltkd.cli import run
from timm_ltkd.data import create_eval_loader
from timm_ltkd.engine import holdout, posthoc
from timm_ltkd.engine.evaluate import evaluate
from timm_ltkd.engine.networks.described import trained_counts
from timm_ltkd.engine.networks.trained import load_network
from timm_ltkd.errors import UserError
from timm_ltkd.metrics import long_tail_report
from timm_ltkd.posthoc import adjust_logits, tau_normalise
from timm_ltkd.prior import ClassPrior

PRIOR = ClassPrior([900, 90, 10])


class Points(torch.utils.data.Dataset):
    """`[3, 2, 2]` images of noise around a mean that tells the class a little."""
    class_names = classes = ['a', 'b', 'c']
    transform = None

    def __init__(self, seed):
        generator = torch.Generator().manual_seed(seed)
        self.targets = [0, 1, 2] * 12
        means = torch.tensor(self.targets)[:, None, None, None] - 1.
        self.images = torch.randn(36, 3, 2, 2, generator=generator) + means

    def __len__(self):
        return 36

    def __getitem__(self, index):
        return self.images[index], self.targets[index]


class Net(nn.Module):
    def __init__(self, bias=True):
        super().__init__()
        self.body, self.fc = nn.Linear(12, 6), nn.Linear(6, 3, bias=bias)
        with torch.no_grad():
            self.fc.weight.mul_(torch.tensor([[4.], [1.], [0.3]]))

    def get_classifier(self):
        return self.fc

    def forward(self, input):
        return self.fc(F.relu(self.body(input.flatten(1))))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Net()


def loader(seed):
    return create_eval_loader(Points(seed), None, batch_size=7)


def logits_of(network, seed, head=None):
    data = Points(seed)
    network.eval()
    features = F.relu(network.body(data.images.flatten(1)))
    return (head or network.fc)(features).detach(), torch.tensor(data.targets)


def measure(network, fixes, metric='balanced', holdout=1):
    return posthoc.measure_fixes(
        network, fixes, metric, loader(0), None if holdout is None else loader(holdout), Accelerator(), PRIOR)


def test_reports_are_those_of_the_fixed_networks(network):
    rows = measure(network, {'tau-norm': [0.7], 'logit-adjust': [0.5]}, holdout=None)
    assert list(rows) == ['', 'tau-norm 0.7', 'logit-adjust 0.5']
    assert rows[''] == evaluate(network, loader(0), Accelerator(), PRIOR)
    logits, target = logits_of(network, 0)
    bent, _ = logits_of(network, 0, lambda features: F.linear(features, tau_normalise(network.fc.weight, 0.7)))
    for name, expected in (('tau-norm 0.7', bent), ('logit-adjust 0.5', adjust_logits(logits, PRIOR.log_prior(), 0.5))):
        report = long_tail_report(expected, target, PRIOR)
        assert rows[name]['per_class'] == report['per_class'] and rows[name]['ece'] == pytest.approx(report['ece'])
        assert rows[name]['loss'] == pytest.approx(float(F.cross_entropy(expected, target)), rel=1e-5)
        assert rows[name]['chosen_on'] is None
    assert rows['tau-norm 0.7']['per_class'] != rows['']['per_class'] != rows['logit-adjust 0.5']['per_class']


@pytest.mark.parametrize('metric', ['balanced', 'top1', 'few'])
def test_the_strength_is_the_best_on_the_holdout(network, metric):
    taus = [0., 0.25, 0.5, 1., 2.]
    rows = measure(network, {'tau-norm': taus, 'logit-adjust': taus}, metric)
    logits, target = logits_of(network, 1)
    adjusted = {tau: adjust_logits(logits, PRIOR.log_prior(), tau) for tau in taus}
    normed = {
        tau: logits_of(network, 1, lambda f, tau=tau: F.linear(f, tau_normalise(network.fc.weight, tau)))[0]
        for tau in taus}
    for name, found in (('tau-norm', normed), ('logit-adjust', adjusted)):
        figures = {tau: long_tail_report(z, target, PRIOR)[metric] for tau, z in found.items()}
        best = min(tau for tau in taus if figures[tau] == max(figures.values()))
        assert len(set(figures.values())) > 1
        assert rows[f'{name} {best:g}']['tau'] == best and rows[f'{name} {best:g}']['chosen_on'] == 'holdout'


def test_the_test_images_do_not_choose(network, monkeypatch):
    """Other test images, the same choice; other held-out images, another one."""
    def chosen(test, holdout):
        rows = posthoc.measure_fixes(
            network, {'logit-adjust': [0., 0.5, 1., 2.]}, 'few', loader(test), loader(holdout), Accelerator(), PRIOR)
        return [row['tau'] for row in rows.values() if 'tau' in row]
    assert chosen(0, 1) == chosen(5, 1) == chosen(6, 1)


def test_one_pass_over_the_images_however_many_values(network, monkeypatch):
    calls = []
    network.body.register_forward_hook(lambda *args: calls.append(1))
    measure(network, {'tau-norm': [0., 0.5, 1.], 'logit-adjust': [0., 1., 2.]})
    assert len(calls) == 2 * 6  # 36 images in batches of 7, of each split


def test_the_network_stays_as_it_is(network):
    before = {key: value.clone() for key, value in network.state_dict().items()}
    measure(network, {'tau-norm': [0.5, 1.]})
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not network.fc._forward_pre_hooks


@pytest.mark.parametrize('name', ['vit_tiny_patch16_224', 'resnet20', 'convnext_atto', 'mobilenetv3_small_050'])
def test_timm_networks(name):
    size = {'img_size': 32} if name.startswith('vit') else {}
    network = timm.create_model(name, num_classes=3, **size).eval()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    batches = [(images, torch.tensor([0, 1, 2, 0]), torch.arange(4))]
    batch, = posthoc.record(network, batches, network.get_classifier())
    expected = network(images).detach() - network.get_classifier().bias.detach()
    logits = F.linear(batch.features, tau_normalise(network.get_classifier().weight, 0.))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_logits_that_the_classifier_does_not_give_are_refused(network):
    forward = network.forward
    network.forward = lambda input: forward(input) * 3 + 1
    with pytest.raises(UserError, match='--tau-norm needs a network whose logits'):
        measure(network, {'tau-norm': [1.]}, holdout=None)
    assert measure(network, {'logit-adjust': [1.]}, holdout=None)


def test_a_classifier_that_is_not_linear_is_refused(network):
    network.get_classifier = lambda: (nn.Linear(2, 3), nn.Linear(2, 3))
    with pytest.raises(UserError, match='--tau-norm needs a linear classifier, and that of Net is several layers'):
        measure(network, {'tau-norm': [1.]}, holdout=None)


# --- through validate.py

@pytest.fixture(scope='module')
def runs(tmp_path_factory, images):
    """Runs on the same images: with a holdout, with another, without one."""
    root = tmp_path_factory.mktemp('runs')
    for name, more in (('held', ['--holdout', '0.3']), ('other', ['--holdout', '0.2']), ('whole', [])):
        run.train([
            '--dataset', '', '--data-dir', str(images), '--img-size', '8', '--workers', '0', '--epochs', '1', '-b', '4',
            '--lr', '0.05', '--model', 'resnet20', '--output', str(root), '--experiment', name, *more])
    return root


def test_validate_reads_the_holdout_of_the_run(runs, script, tmp_path, capsys, monkeypatch):
    seen, record = [], posthoc.record

    def note(network, loader, *args):
        seen.append(len(loader.dataset))
        return record(network, loader, *args)
    monkeypatch.setattr(posthoc, 'record', note)
    folder = str(runs / 'held')
    script('validate', [
        folder, '--tau-norm', 'sweep', '--logit-adjust', '1', '--workers', '0', '--results-file',
        str(tmp_path / 'r.json')])
    assert seen == [7, 11]
    figures = json.loads((tmp_path / 'r.json').read_text())
    first, normed, adjusted = figures
    assert first == folder and normed.startswith(f'{folder} tau-norm ') and adjusted == f'{folder} logit-adjust 1'
    assert figures[normed]['chosen_on'] == 'holdout' and figures[adjusted]['chosen_on'] is None
    assert figures[folder]['num_samples'] == 11 and normed in capsys.readouterr().out
    report = json.loads((runs / 'held/report.json').read_text())['student']
    assert {key: figures[folder][key] for key in ('top1', 'per_class')} == {
        key: report[key] for key in ('top1', 'per_class')}


def test_what_was_measured_before_a_mistake_is_not_lost(runs, script, tmp_path, capsys):
    (tmp_path / 'empty').mkdir()
    argv = [str(runs / 'whole'), str(tmp_path / 'empty'), '--workers', '0', '--results-file', str(tmp_path / 'r.json')]
    with pytest.raises(SystemExit):
        script('validate', argv)
    told = capsys.readouterr()
    assert str(tmp_path / 'empty') in told.err and f'\n{runs / "whole"} ' in told.out
    assert list(json.loads((tmp_path / 'r.json').read_text())) == [str(runs / 'whole')]


@pytest.mark.parametrize('argv, message', [
    (['whole', '--tau-norm', 'sweep'], '--tau-norm: 21 values to choose from, and no holdout'),
    (['whole', '--logit-adjust', '0.5', '1'], '--logit-adjust: 2 values to choose from, and no holdout'),
    (['whole', '--tau-norm', 'sweep', '--holdout', '0.3'], 'was trained with another holdout or on other data'),
    (['held', 'other', '--tau-norm', 'sweep'], 'other was trained with another holdout'),
    (['held', '--tau-norm', 'sweep', '1'], '--tau-norm: give values, or sweep alone'),
    (['held', '--tau-norm', '-1'], 'argument --tau-norm: must be at least 0'),
    (['held', '--tau-norm', 'sweeep'], "argument --tau-norm: invalid number (or sweep) value: 'sweeep'"),
])
def test_what_is_refused(runs, script, capsys, argv, message):
    names = [str(runs / word) if word in ('held', 'other', 'whole') else word for word in argv]
    with pytest.raises(SystemExit) as stopped:
        script('validate', [*names, '--workers', '0'])
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and message in err.splitlines()[-1]


@pytest.mark.parametrize('first, certain', [('held', None), ('whole', True), (None, False)])
def test_a_second_stage_has_seen_what_its_first_has_seen(first, certain, runs, tmp_path, log):
    again = shutil.copytree(runs / 'held', tmp_path / 'second')
    options = yaml.safe_load((again / 'args.yaml').read_text())
    begun_with = tmp_path / 'elsewhere.safetensors' if first is None else runs / first / 'model.safetensors'

    def told(**begin):
        (again / 'args.yaml').write_text(yaml.safe_dump(options | begin))
        return holdout.seen_by(str(again), args, data)

    data = Namespace(prior=ClassPrior(json.loads((again / 'config.json').read_text())['class_counts']))
    args = Namespace(**{key: options.get(key) for key in holdout._SELECTION})
    assert told(initial_checkpoint=str(begun_with)) == (None if certain is None else (str(begun_with), certain))
    if certain:
        with pytest.raises(UserError, match=f'{again} began with {begun_with}, which was trained with another holdout'):
            holdout.check_holdout_is_unseen(str(again), args, data)
    assert told(initial_checkpoint=str(again)) is None  # a run that began with the one that it took the place of
    holdout.check_holdout_is_unseen(str(again), args, data)
    holdout.warn_of_seen_holdout(f'local-dir:{again}', args, data)
    assert not log
    told(initial_checkpoint=str(begun_with))
    holdout.warn_of_seen_holdout(str(again), args, data)
    if certain is None:
        assert not log
    else:
        what = 'was trained with another holdout or on other data' if certain else 'does not say what it was trained on'
        assert log.pop(0).startswith(f'{again} began with {begun_with}, which {what}: if')
    (again / 'args.yaml').write_text(yaml.safe_dump(options | {'teacher_checkpoint': str(runs / 'whole')}))
    holdout.check_holdout_is_unseen(str(again), args, data)
    assert log[0].startswith(f'{runs / "whole"} was trained with another holdout or on other data: if the images')
    del options['initial_checkpoint']  # as an export of it has none
    assert told() == (str(again), False)


def test_one_value_needs_no_holdout(runs, script, capsys):
    script('validate', [str(runs / 'whole'), '--tau-norm', '0.5', '0.5', '--workers', '0'])
    assert 'tau-norm 0.5' in capsys.readouterr().out


def test_weights_alone_are_measured_with_a_warning(runs, script, log, capsys, tmp_path):
    shutil.copy(runs / 'held/model.safetensors', tmp_path)
    argv = [str(tmp_path / 'model.safetensors'), '--model', 'resnet20', '--dataset', '', '--workers', '0']
    data = json.loads((runs / 'held/report.json').read_text())['run']['args']['data_dir']
    script('validate', [*argv, '--data-dir', data, '--img-size', '8', '--holdout', '0.3', '--tau-norm', '0', '1'])
    assert any('does not say what it was trained on' in line for line in log)
    assert 'tau-norm' in capsys.readouterr().out


def test_logits_are_adjusted_by_what_the_network_was_trained_on(network):
    """Shot groups are those of the data all the same."""
    trained = ClassPrior([float(count) for count in PRIOR.counts.flip(0)])
    rows = posthoc.measure_fixes(
        network, {'logit-adjust': [1.]}, 'balanced', loader(0), None, Accelerator(), PRIOR, trained=trained)
    logits, target = logits_of(network, 0)
    expected = long_tail_report(adjust_logits(logits, trained.log_prior(), 1.), target, PRIOR)
    assert rows['logit-adjust 1']['per_class'] == expected['per_class']
    assert rows['logit-adjust 1']['few'] == expected['few']


def test_a_run_says_what_it_was_trained_on(tmp_path):
    network = timm.create_model('resnet20', num_classes=3)
    save_for_hf(network, tmp_path, model_config={'class_counts': [9, 4, 1]}, safe_serialization=True)
    torch.save(timm.create_model('resnet32', num_classes=3).state_dict(), tmp_path / 'other.pt')
    for source in (str(tmp_path), f'local-dir:{tmp_path}', str(tmp_path / 'model.safetensors')):
        assert trained_counts(load_network(source, 'resnet20', None, 'checkpoint')) == [9, 4, 1]
    assert trained_counts(load_network(str(tmp_path / 'other.pt'), 'resnet32', None, 'checkpoint')) is None
