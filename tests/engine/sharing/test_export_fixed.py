"""Networks exported with a post-hoc fix in their classifier: what validate.py measures, as a file of its own."""
import json
import shutil

import pytest
import timm
import torch
import yaml
from huggingface_hub import ModelCard
from torch import nn
from torch.nn import functional as F

import timm_ltkd  # noqa: F401
from timm_ltkd.cli import run
from timm_ltkd.engine.combinations import corrections
from timm_ltkd.engine.posthoc import build_in
from timm_ltkd.errors import UserError

COUNTS = [13, 7, 3]  # of the images


@pytest.fixture(scope='module')
def finished(train_once):
    return train_once('resnet20', '--epochs', '2', '--license', 'mit')


def load(folder):
    return timm.create_model(f'local-dir:{folder}', pretrained=True).eval()


@torch.no_grad()
def logits(network):
    return network(torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize('tau', ['1', '0.5'])
def test_the_log_prior_is_taken_off(finished, tmp_path, tau):
    run.export([str(finished), '--logit-adjust', tau, '--export-dir', str(tmp_path / 'there')])
    prior = torch.tensor(COUNTS, dtype=torch.float64) / sum(COUNTS)
    expected = logits(load(finished)).double() - float(tau) * prior.log()
    torch.testing.assert_close(logits(load(tmp_path / 'there')).double(), expected, rtol=1e-5, atol=1e-5)


def test_class_weights_are_made_even(finished, tmp_path):
    run.export([str(finished), '--tau-norm', '0.7', '--export-dir', str(tmp_path / 'there')])
    plain, fixed = load(finished), load(tmp_path / 'there')
    weight = plain.fc.weight.detach().double()
    torch.testing.assert_close(fixed.fc.weight.detach().double(), weight / weight.norm(dim=1, keepdim=True) ** 0.7)
    assert not fixed.fc.bias.any()
    state = fixed.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in plain.state_dict().items() if not key.startswith('fc.'))


@pytest.mark.parametrize('fix', ['logit-adjust', 'tau-norm'])
def test_its_figures_are_those_that_were_measured(finished, tmp_path, fix, log):
    run.export([str(finished), f'--{fix}', '1', '--export-dir', str(tmp_path / 'there')])
    run.validate([str(finished), f'--{fix}', '1', '--results-file', str(tmp_path / 'measured.json')])
    folder = json.loads((finished / 'report.json').read_text())['run']['args']['data_dir']
    again = [
        '--dataset', '', '--data-dir', folder, '--workers', '0', '--results-file', str(tmp_path / 'again.json')]
    run.validate([str(tmp_path / 'there'), *again])
    _, measured = json.loads((tmp_path / 'measured.json').read_text()).values()
    found, = json.loads((tmp_path / 'again.json').read_text()).values()
    assert found['per_class'] == measured['per_class'] and found['ece'] == pytest.approx(measured['ece'], abs=1e-4)
    log.clear()
    run.validate([str(tmp_path / 'there'), '--logit-adjust', '1', *again])
    assert f'{tmp_path / "there"} has {fix} 1 built in: a fix on top of it corrects twice' in log


def test_what_others_get_says_so_and_has_no_figures_of_the_plain_network(finished, tmp_path):
    run.export([str(finished), '--logit-adjust', '1', '--export-dir', str(tmp_path / 'there')])
    assert {path.name for path in (tmp_path / 'there').iterdir()} == {
        'model.safetensors', 'config.json', 'args.yaml', 'README.md'}
    assert 'data_dir' not in yaml.safe_load((tmp_path / 'there/args.yaml').read_text())
    config = json.loads((tmp_path / 'there/config.json').read_text())
    assert config['posthoc'] == 'logit-adjust 1' and config['class_counts'] == COUNTS
    assert config['label_names'] == ['ant', 'bee', 'cat'] and config['pretrained_cfg']['input_size'] == [3, 8, 8]
    card = ModelCard.load(tmp_path / 'there/README.md')
    assert card.data.license == 'mit' and not card.data.eval_results
    text = card.text.replace('\\', '')
    assert 'its classifier was changed after training: by python -m timm_ltkd.export --logit-adjust 1' in text
    assert '# resnet20 trained on long-tailed image folders' in text and 'options: --epochs 2' in text
    assert '## Figures' not in text and 'ece' not in text and 'top1' not in text


def test_the_fix_is_told_of_what_is_made_of_its_file(finished, tmp_path):
    run.export([str(finished), '--tau-norm', '1', '--export-dir', str(tmp_path / 'there')])
    run.export([
        str(tmp_path / 'there/model.safetensors'), '--model', 'resnet20', '--export-dir', str(tmp_path / 'again')])
    assert json.loads((tmp_path / 'again/config.json').read_text())['posthoc'] == 'tau-norm 1'


def test_what_corrected_the_prior_already_is_warned_of(finished, tmp_path, log):
    run.export([str(finished), '--logit-adjust', '1', '--export-dir', str(tmp_path / 'plain')])
    assert not any('already' in line for line in log)
    assert 'logit-adjust 1 is built into the classifier; the report of a run stays behind' in log
    twice = shutil.copytree(finished, tmp_path / 'run')
    options = yaml.safe_load((twice / 'args.yaml').read_text())
    (twice / 'args.yaml').write_text(yaml.safe_dump(options | {'loss': 'balanced_softmax', 'class_sampling': 'sqrt'}))
    run.export([str(twice), '--tau-norm', '1', '--export-dir', str(tmp_path / 'twice')])
    assert f'{twice} was trained with --loss balanced_softmax and --class-sampling sqrt, to make up' in '\n'.join(log)


@pytest.mark.parametrize('options, expected', [
    ({}, []), ({'loss': 'ce', 'kd': 'kd'}, []), ({'loss': 'unknown', 'kd': ['unknown']}, []),
    ({'kd': 'bkd', 'kd_kwargs': {'temperature': 1.}, 'teacher': 'resnet20'}, ['--kd bkd']),
    ({'kd': ['kd', 'krdistill'], 'teacher': ['a', 'b'], 'loss': 'balanced_softmax'},
     ['--kd kd krdistill', '--loss balanced_softmax']),
    ({'kd': 'ltkd', 'kd_kwargs': {'rebalance': False}}, []), ({'loss': 'logit_adjust', 'loss_kwargs': {'tau': 0.}}, []),
    ({'class_sampling': 'class'}, ['--class-sampling class']),
])
def test_what_of_a_run_corrects_the_prior(options, expected):
    assert corrections(options) == expected


def test_a_teacher_with_a_fix_is_one_that_was_corrected(finished, tmp_path, log):
    run.export([str(finished), '--logit-adjust', '1', '--export-dir', str(tmp_path / 'there')])
    folder = json.loads((finished / 'report.json').read_text())['run']['args']['data_dir']
    run.distill([
        '--dataset', '', '--data-dir', folder, '--img-size', '8', '--workers', '0', '--epochs', '1', '-b', '4',
        '--warmup-epochs', '0', '--train-crop-mode', 'pad', '--crop-padding', '1', '--student', 'resnet20',
        '--teacher-checkpoint', str(tmp_path / 'there'), '--output', str(tmp_path), '--experiment', 'student'])
    assert any(
        "the teacher's built-in logit-adjust 1 and --kd bkd both make up for" in line for line in log)


def test_the_folder_itself_stays_as_it_is(finished, tmp_path):
    before = {path.name: path.read_bytes() for path in finished.iterdir() if path.is_file()}
    run.export([str(finished), '--logit-adjust', '1', '--export-dir', str(tmp_path / 'there')])
    assert before == {path.name: path.read_bytes() for path in finished.iterdir() if path.is_file()}


@pytest.mark.parametrize('words, message', [
    (['--logit-adjust', '1', '--tau-norm', '1'], '--logit-adjust and --tau-norm are two cures of one thing'),
    (['--logit-adjust', '-1'], 'must be at least 0'),
])
def test_wrong_words(finished, tmp_path, capsys, words, message):
    with pytest.raises(SystemExit):
        run.export([str(finished), *words, '--export-dir', str(tmp_path / 'there')])
    assert message in capsys.readouterr().err and not (tmp_path / 'there').exists()


def test_a_second_fix_and_weights_of_unknown_images_are_refused(finished, tmp_path, capsys):
    run.export([str(finished), '--tau-norm', '1', '--export-dir', str(tmp_path / 'there')])
    torch.save(load(finished).state_dict(), tmp_path / 'weights.pt')
    for words, message in (
            ([str(tmp_path / 'there')], 'has tau-norm 1 built in; export the network that it was made of'),
            ([str(tmp_path / 'weights.pt'), '--model', 'resnet20'], 'does not say how many images of each class')):
        with pytest.raises(SystemExit):
            run.export([*words, '--logit-adjust', '1', '--export-dir', str(tmp_path / 'new')])
        assert message in capsys.readouterr().err and not (tmp_path / 'new').exists()


class Net(nn.Module):
    """Two images' logits from one linear layer, times a factor that comes after it."""
    pretrained_cfg = {'input_size': (3, 2, 2)}

    def __init__(self, bias=True, factor=1.):
        super().__init__()
        self.fc, self.factor = nn.Linear(12, 3, bias=bias), factor

    def get_classifier(self):
        return self.fc

    def forward(self, input):
        return self.factor * self.fc(F.relu(input.flatten(1)))


def test_classifiers_that_cannot_take_it():
    log_prior = torch.tensor(COUNTS, dtype=torch.float64).log()
    with pytest.raises(UserError, match='--logit-adjust: the classifier of Net has no bias to take the log prior off'):
        build_in(Net(bias=False), 'logit-adjust', 1., log_prior)
    build_in(Net(bias=False), 'tau-norm', 1.)
    for fix in ('logit-adjust', 'tau-norm'):
        with pytest.raises(UserError, match=f'--{fix} needs a network whose logits are what its one linear'):
            build_in(Net(factor=3.), fix, 1., log_prior)
