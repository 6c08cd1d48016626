"""Second stages train a classifier, or its scales, and leave every other bit of the network alone."""
import json

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from timm_ltkd.engine.run_folder.checkpoint import checkpoint_files
from timm_ltkd.engine.stages import ScaledLinear, SecondStageTask, prepare_stage
from timm_ltkd.errors import UserError
from timm_ltkd.report.summary import read_summary


@pytest.fixture(scope='module')
def first(train_once):
    """The folder of a first stage."""
    return train_once('resnet20')


@pytest.fixture
def stage(script, options, first):
    return lambda *more: script('train', [
        *options, '--model', 'resnet20', '--epochs', '2', '--initial-checkpoint', str(first), '--experiment', 'run',
        *more])


@pytest.mark.parametrize('more', [
    [], ['--model-ema', '--model-ema-decay', '0.5'], ['--no-filter-bias-and-bn', '--weight-decay', '0.1'],
    ['--opt', 'adamw', '--clip-grad', '1', '--layer-decay', '0.9'],
], ids=['plain', 'ema', 'decay', 'adamw'])
@pytest.mark.parametrize('kind', ['crt', 'lws'])
def test_all_but_the_classifier_stays(stage, first, tmp_path, log, kind, more):
    stage('--stage', kind, *more)
    trained = 3 if kind == 'lws' else 3 * 64 + 3
    assert any(f'M parameters, {trained} of them trained, the others stay as they are, images of' in line
               for line in log)
    before, after = load_file(first / 'model.safetensors'), load_file(tmp_path / 'run/model.safetensors')
    assert before.keys() == after.keys()
    for key in before:
        assert torch.equal(before[key], after[key]) is (not key.startswith('fc.')), key
    if kind == 'lws':
        scale = after['fc.weight'] / before['fc.weight']
        torch.testing.assert_close(scale, scale[:, :1].expand_as(scale), rtol=1e-4, atol=0)
        torch.testing.assert_close(after['fc.bias'], scale[:, 0] * before['fc.bias'], rtol=1e-4, atol=1e-7)
    network = timm.create_model(f'local-dir:{tmp_path / "run"}', pretrained=True)
    assert type(network.fc) is nn.Linear and torch.equal(network.fc.weight, after['fc.weight'])
    report = json.loads((tmp_path / 'run/report.json').read_text())
    assert report['run']['args']['stage'] == kind and report['run']['args']['class_sampling'] == 'class'


@pytest.mark.parametrize('kind', ['crt', 'lws'])
def test_an_interrupted_stage_resumes(stage, tmp_path, interrupt, kind):
    stage('--stage', kind, '--experiment', 'whole')
    interrupt(1)
    with pytest.raises(SystemExit):
        stage('--stage', kind)
    assert checkpoint_files(tmp_path / 'run/last')[0].name == 'checkpoint-000001.pt'
    stage('--stage', kind, '--resume', 'auto')
    for file in ('model.safetensors', 'summary.csv'):
        assert (tmp_path / 'whole' / file).read_bytes() == (tmp_path / 'run' / file).read_bytes()


def test_a_file_of_weights_and_another_sampling(stage, first, tmp_path):
    stage('--stage', 'crt', '--initial-checkpoint', str(first / 'model.safetensors'), '--class-sampling', 'sqrt')
    assert json.loads((tmp_path / 'run/report.json').read_text())['run']['args']['class_sampling'] == 'sqrt'
    assert 'class_sampling: sqrt' in (tmp_path / 'run/args.yaml').read_text()
    assert len(read_summary(tmp_path / 'run/summary.csv')) == 2


@pytest.mark.parametrize('more, message', [
    (['--stage', 'crt', '--initial-checkpoint', ''], '--stage crt goes on from a trained network'),
    (['--stage', 'lws', '--initial-checkpoint', 'nowhere'], '--initial-checkpoint: there is no file or folder nowhere'),
    (['--stage', 'crt', '--drop', '0.1'], 'leave out --drop'),
    (['--stage', 'crt', '--loss', 'ldam'],
     '--stage crt needs a linear classifier, and that of CifarNet is CosineLinear'),
    (['--stage', 'crt2'], "argument --stage: invalid choice: 'crt2'"),
    (['--stage', 'crt', '--model', 'resnet32'], 'of another architecture'),
])
def test_what_is_refused(stage, tmp_path, capsys, more, message):
    with pytest.raises(SystemExit) as stopped:
        stage(*more)
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and message in err.splitlines()[-1]
    assert not (tmp_path / 'run').exists()


def test_a_folder_with_other_classes_is_refused(stage, first, make_images, tmp_path, capsys):
    data = make_images(tmp_path / 'data', dict(ant=4, bug=4, cat=4), dict(ant=1, bug=1, cat=1))
    with pytest.raises(SystemExit):
        stage('--stage', 'lws', '--data-dir', str(data))
    assert "class 1 is 'bee' for" in capsys.readouterr().err


@pytest.mark.parametrize('kind', ['crt', 'head'])
def test_a_new_classifier_needs_none_of_the_same_classes(stage, tmp_path, kind):
    weights = timm.create_model('resnet20', num_classes=1000).state_dict()
    torch.save(weights, tmp_path / 'thousand.pth')
    stage('--stage', kind, '--initial-checkpoint', str(tmp_path / 'thousand.pth'))
    after = load_file(tmp_path / 'run/model.safetensors')
    assert torch.equal(after['conv1.weight'], weights['conv1.weight']) and len(after['fc.bias']) == 3


def test_a_holdout_that_the_first_stage_has_seen_is_told(stage, log):
    stage('--stage', 'lws', '--epochs', '1', '--holdout', '0.3')
    assert any('was trained with another holdout or on other data' in line for line in log)


@pytest.mark.parametrize('classes, told', [(3, True), (1000, False)])
def test_weights_that_may_have_seen_the_holdout(script, options, tmp_path, log, classes, told):
    weights = timm.create_model('resnet20', num_classes=classes).state_dict()
    torch.save(weights, tmp_path / 'weights.pth')
    script('train', [
        *options, '--model', 'resnet20', '--initial-checkpoint', str(tmp_path / 'weights.pth'), '--holdout', '0.3',
        *['--new-head'] * (not told)])
    assert any(f'{tmp_path}/weights.pth does not say what it was trained on' in line for line in log) == told


@pytest.mark.parametrize('name', ['resnet20', 'vit_tiny_patch16_224', 'convnext_atto', 'mobilenetv3_small_050'])
@pytest.mark.parametrize('kind', ['crt', 'lws'])
def test_timm_networks(name, kind):
    kwargs = {'img_size': 32} if name.startswith('vit') else {}
    network = timm.create_model(name, num_classes=5, **kwargs)
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    old, before = network.get_classifier().weight.detach().clone(), network.eval()(image).detach()
    prepare_stage(network, kind, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    task = SecondStageTask(network, torch.nn.CrossEntropyLoss(), verbose=False)
    task.train()
    assert not any(module.training for module in network.modules())
    trainable = {key for key, p in network.named_parameters() if p.requires_grad}
    classifier = network.get_classifier()
    assert {id(p) for p in network.parameters() if p.requires_grad} == (
        {id(classifier.weight), id(classifier.bias)} if kind == 'crt' else {id(classifier.scale)}), trainable
    if kind == 'lws':
        assert torch.equal(network(image), before), 'it starts from the network itself'
    else:
        bound = classifier.in_features ** -0.5
        assert not torch.equal(classifier.weight, old) and float(classifier.weight.detach().abs().max()) <= bound
        weight = classifier.weight.detach().clone()
        prepare_stage(network, kind, seed=3)
        assert torch.equal(classifier.weight, weight)
        prepare_stage(network, kind, seed=4)
        assert not torch.equal(classifier.weight, weight)


def test_scales_are_folded_into_a_linear_layer():
    torch.manual_seed(0)
    for bias in (True, False):
        layer = ScaledLinear(nn.Linear(4, 3, bias=bias))
        with torch.no_grad():
            layer.scale.copy_(torch.tensor([0.5, 2., -1.]))
        features = torch.randn(5, 4)
        torch.testing.assert_close(layer.to_linear()(features), layer(features))
        assert (layer.to_linear().bias is not None) is bias


def test_a_network_without_a_linear_classifier():
    with pytest.raises(UserError, match='--stage crt needs a linear classifier'):
        prepare_stage(nn.Sequential(nn.Linear(2, 2)), 'crt', seed=0)


def test_other_images_than_those_of_the_first_stage_are_told(stage, log):
    stage('--stage', 'lws', '--epochs', '1', '--mean', '0.1', '0.2', '0.3')
    assert any('was trained on images made in another way (mean ' in line for line in log)
    log.clear()
    stage('--stage', 'lws', '--epochs', '1', '--experiment', 'same')
    assert not any('made in another way' in line for line in log)
