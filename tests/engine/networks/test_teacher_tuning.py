"""`--teacher-tune`: all of a teacher, a new head on frozen weights, or the weights as they are."""
import dataclasses
import json

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file
from timm.models import _registry, save_for_hf

import timm_ltkd.models  # noqa: F401  (registers resnet20)
from timm_ltkd.engine.networks.described import built_in_fix, label_names, trained_counts
from timm_ltkd.engine.networks.trained import load_network

ZOO_MEAN = (0.3, 0.4, 0.5)


@pytest.fixture
def argv(options):
    return [*options, '--epochs', '1', '--student', 'resnet20', '--kd', 'kd', '--mean', '0.5', '--std', '0.25']


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """`zoo(classes)`: timm "knows" weights of test_resnet for images of 16 pixels, with so many classes."""
    def know(classes):
        torch.manual_seed(1)
        network = timm.create_model('test_resnet', num_classes=classes)
        for key, value in network.state_dict().items():
            if 'running_' in key:
                value.uniform_(0.5, 1.5)
        torch.save(network.state_dict(), tmp_path / 'zoo.pt')
        cfg = dataclasses.replace(
            timm.get_pretrained_cfg('test_resnet'), file=str(tmp_path / 'zoo.pt'), hf_hub_id=None, num_classes=classes,
            input_size=(3, 16, 16), mean=ZOO_MEAN, interpolation='bilinear')
        for name in ('test_resnet', 'test_resnet.r160_in1k'):
            monkeypatch.setitem(_registry._model_pretrained_cfgs, name, cfg)
        return network.eval()
    return know


def only_teacher(tmp_path):
    folder, = (tmp_path / 'teachers').iterdir()
    return folder, yaml.safe_load((folder / 'args.yaml').read_text()), load_file(folder / 'model.safetensors')


def frozen(weights):
    return {key: value for key, value in weights.items() if not key.startswith('fc.')}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items())


def refused(script, capsys, argv, **where):
    with pytest.raises(SystemExit) as stopped:
        script('distill', argv, **where)
    assert stopped.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


# --- head

def test_a_head_is_trained_on_frozen_weights_that_see_what_they_were_trained_on(script, argv, tmp_path, zoo, log):
    network = zoo(7)
    script('distill', [*argv, '--teacher', 'test_resnet', '--teacher-tune', 'head', '--experiment', 'run'])
    folder, options, weights = only_teacher(tmp_path)
    assert same(frozen(weights), frozen(network.state_dict())), 'batch norm statistics too'
    assert weights['fc.weight'].shape[0] == 3
    config = json.loads((folder / 'config.json').read_text())['pretrained_cfg']
    assert config['input_size'] == [3, 16, 16] and config['mean'] == list(ZOO_MEAN)
    assert config['interpolation'] == 'bilinear'
    assert options['stage'] == 'head' and options['class_sampling'] == 'instance'
    assert 'teacher test_resnet sees images of 16 pixels, as it was trained; the student of 8' in log
    assert json.loads((tmp_path / 'run/report.json').read_text())['teacher']['num_samples'] == 11


def test_its_options_repeat_its_training(script, argv, tmp_path, zoo):
    zoo(7)
    script('distill', [*argv, '--teacher', 'test_resnet', '--teacher-tune', 'head', '--experiment', 'run'])
    folder, _, weights = only_teacher(tmp_path)
    script('train', ['-c', str(folder / 'args.yaml'), '--experiment', 'again'])
    assert same(load_file(tmp_path / 'again/model.safetensors'), weights)


def test_it_is_trained_once(script, argv, tmp_path, zoo, log):
    zoo(7)
    for name in ('one', 'two'):
        script('distill', [*argv, '--teacher', 'test_resnet', '--teacher-tune', 'head', '--experiment', name])
    assert len(list((tmp_path / 'teachers').iterdir())) == 1 and sum('trained before' in line for line in log) == 1
    script('distill', [*argv, '--teacher', 'test_resnet', '--teacher-tune', 'all', '--experiment', 'three'])
    assert len(list((tmp_path / 'teachers').iterdir())) == 2


def test_train_has_the_stage_itself(script, options, tmp_path, zoo):
    network = zoo(7)
    argv = [*options, '--epochs', '1', '--model', 'test_resnet', '--stage', 'head', '--experiment', 'run']
    script('train', [*argv, '--pretrained'])
    assert same(frozen(load_file(tmp_path / 'run/model.safetensors')), frozen(network.state_dict()))


# --- all

def test_all_is_trained_at_the_students_size_unless_told_otherwise(script, argv, tmp_path, zoo, log):
    network = zoo(7)
    script('distill', [*argv, '--teacher', 'test_resnet', '--experiment', 'run'])
    folder, options, weights = only_teacher(tmp_path)
    assert not same(frozen(weights), frozen(network.state_dict()))
    assert (options['img_size'], options['crop_padding'], options['mean']) == (8, 1, list(ZOO_MEAN))
    assert any('are of images of 16 pixels, and are tuned to the student\'s of 8' in line for line in log)
    assert not any('sees images of' in line for line in log)


def test_the_teachers_size_is_that_of_its_training_too(script, argv, tmp_path):
    script('distill', [*argv, '--teacher', 'resnet20', '--teacher-img-size', '32', '--experiment', 'run'])
    folder, options, _ = only_teacher(tmp_path)
    assert (options['img_size'], options['crop_padding']) == (32, 4), 'a crop of the same share'
    assert json.loads((folder / 'config.json').read_text())['pretrained_cfg']['input_size'] == [3, 32, 32]
    assert options['mean'] == [0.5], 'from scratch: as the student'
    own = json.loads((folder / 'report.json').read_text())['student']
    assert own['num_samples'] == 11


@pytest.mark.parametrize('tune', ['all', 'head'])
def test_options_say_how_a_trained_teachers_images_are_normalised(script, argv, tmp_path, zoo, tune):
    zoo(7)
    pixels = ['--teacher-mean', '0.25', '--teacher-std', '0.125', '0.25', '0.5']
    script('distill', [*argv, '--teacher', 'test_resnet', '--teacher-tune', tune, *pixels, '--experiment', 'run'])
    folder, options, _ = only_teacher(tmp_path)
    cfg = json.loads((folder / 'config.json').read_text())['pretrained_cfg']
    assert (cfg['mean'], cfg['std']) == ([0.25] * 3, [0.125, 0.25, 0.5])
    assert (options['mean'], options['std']) == ([0.25] * 3, [0.125, 0.25, 0.5])
    assert json.loads((tmp_path / 'run/config.json').read_text())['pretrained_cfg']['mean'] == [0.5] * 3, 'the student'


# --- none

def test_options_say_how_the_images_of_weights_alone_are_normalised(script, argv, tmp_path, log):
    cfg = timm.get_pretrained_cfg('resnet20')
    torch.manual_seed(1)
    torch.save(timm.create_model('resnet20', num_classes=3).state_dict(), tmp_path / 'weights.pt')
    argv = [*argv, '--teacher', 'resnet20', '--teacher-checkpoint', str(tmp_path / 'weights.pt')]
    same_pixels = ['--teacher-mean', *map(str, cfg.mean), '--teacher-std', *map(str, cfg.std)]
    for name, more in {'usual': [], 'same': same_pixels, 'other': ['--teacher-mean', '0.25']}.items():
        script('distill', [*argv, *more, '--experiment', name])
    told = [line for line in log if 'does not say what images' in line]
    assert len(told) == 3 and 'mean (0.25, 0.25, 0.25)' in told[2]
    usual, told, other = (load_file(tmp_path / name / 'model.safetensors') for name in ('usual', 'same', 'other'))
    assert same(usual, told) and not same(usual, other)
    keys = {json.loads((tmp_path / name / 'last/run.json').read_text())['key'] for name in ('usual', 'other')}
    assert len(keys) == 2, 'another recipe'


@pytest.mark.parametrize('tune', ['all', 'none'])
def test_a_normalisation_of_other_channels_is_refused(script, argv, tmp_path, zoo, capsys, tune):
    zoo(3)
    argv = [*argv, '--teacher', 'test_resnet', '--teacher-tune', tune]
    with pytest.raises(SystemExit):
        script('distill', [*argv, '--teacher-std', '0.2', '0.3'])
    assert '--teacher-std: give 3 numbers, one a channel, or one for all' in capsys.readouterr().err


def test_zoo_weights_as_they_are(script, argv, tmp_path, zoo):
    zoo(3)
    script('distill', [*argv, '--teacher', 'test_resnet', '--teacher-tune', 'none', '--experiment', 'zoo'])
    assert not (tmp_path / 'teachers').exists()
    script('distill', [
        *argv, '--teacher', 'test_resnet', '--teacher-checkpoint', str(tmp_path / 'zoo.pt'), '--experiment', 'file'])
    for file in ('model.safetensors', 'summary.csv'):
        assert (tmp_path / 'zoo' / file).read_bytes() == (tmp_path / 'file' / file).read_bytes()


def test_a_folder_of_the_same_name_says_nothing_of_zoo_weights(zoo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = {'label_names': list('abc'), 'class_counts': [9, 4, 1], 'posthoc': 'tau-norm 1'}
    save_for_hf(zoo(3), 'test_resnet', model_config=told, safe_serialization=True)
    for pretrained in (False, True):
        network = load_network('test_resnet', 'test_resnet', None, 'checkpoint', pretrained=pretrained)
        said = label_names(network), trained_counts(network), built_in_fix(network)
        assert said == ((None,) * 3 if pretrained else (*told.values(),))


def test_another_label_space_is_refused_before_anything_is_made(script, argv, tmp_path, zoo, capsys):
    zoo(7)
    argv = [*argv, '--teacher', 'test_resnet', '--teacher-tune', 'none']
    said = refused(script, capsys, argv, output=tmp_path / 'out')
    assert 'the head of test_resnet has 7 classes and the data 3' in said
    assert '--teacher-tune head' in said and '--teacher-class-map' in said
    (tmp_path / 'map.txt').write_text('6\n0\n2\n')
    script('distill', [*argv, '--teacher-class-map', str(tmp_path / 'map.txt'), '--experiment', 'run'])


@pytest.mark.parametrize('words, message', [
    ('--teacher resnet20 --teacher-tune none', "no pretrained weights for 'resnet20' (timm knows none)"),
    ('--teacher resnet20 --teacher-tune head', "--teacher-tune head trains a classifier on weights that are there"),
    ('--teacher resnet20 --teacher-tune head --no-teacher-pretrained', 'leave out --no-teacher-pretrained'),
    ('--teacher resnet20 --teacher-tune none --no-teacher-pretrained', 'leave out --no-teacher-pretrained'),
    ('--teacher resnet10 --teacher-tune head --teacher-small-image-stem', 'and --teacher-tune head does not train it'),
    ('--teacher vgg11 --teacher-small-image-stem', "'vgg11' has no stem that could be made smaller"),
    ('--student vgg11 --small-image-stem --img-size 32', "'vgg11' has no stem that could be made smaller"),
])
def test_mistakes(script, argv, tmp_path, capsys, words, message):
    assert message in refused(script, capsys, [*argv, *words.split()], output=tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


# --- a checkpoint to start from

@pytest.fixture
def five(tmp_path):
    """A network for five classes and images of 16 pixels: a file, and a folder."""
    torch.manual_seed(2)
    network = timm.create_model('resnet20', num_classes=5)
    torch.save(network.state_dict(), tmp_path / 'five.pth')
    network.pretrained_cfg = {**network.pretrained_cfg, 'num_classes': 5, 'input_size': (3, 16, 16), 'mean': ZOO_MEAN}
    save_for_hf(network, tmp_path / 'five', model_config={'label_names': list('abcde')}, safe_serialization=True)
    return network.state_dict()


@pytest.mark.parametrize('source, side, mean', [
    ('five', 16, list(ZOO_MEAN)), ('five.pth', 32, [0.4914, 0.4822, 0.4465]), ('local-dir:five', 16, list(ZOO_MEAN))])
def test_a_head_on_a_checkpoint_of_another_label_space(script, argv, tmp_path, five, monkeypatch, source, side, mean):
    monkeypatch.chdir(tmp_path)
    script('distill', [
        *argv, '--teacher', 'resnet20', '--teacher-checkpoint', source, '--teacher-tune', 'head', '--experiment',
        'run'])
    _, options, weights = only_teacher(tmp_path)
    assert same(frozen(weights), frozen(five)) and len(weights['fc.bias']) == 3
    assert options['img_size'] == side and options['mean'] == pytest.approx(mean)
    assert yaml.safe_load((tmp_path / 'run/args.yaml').read_text())['teacher_checkpoint'] == source


def test_all_of_a_checkpoint(script, argv, tmp_path, five):
    script('distill', [
        *argv, '--teacher', 'resnet20', '--teacher-checkpoint', str(tmp_path / 'five'), '--teacher-tune', 'all',
        '--experiment', 'run', '--lr', '1e-6'])
    _, options, weights = only_teacher(tmp_path)
    assert options['new_head'] and not options['pretrained']
    moved = float((weights['layer1.0.conv1.weight'] - five['layer1.0.conv1.weight']).abs().max())
    assert 0 < moved < 1e-3, 'it started from there'


@pytest.mark.parametrize('option', ['--teacher', '--teacher-checkpoint'])
def test_a_local_directory_as_it_is(script, argv, tmp_path, option):
    torch.manual_seed(3)
    network = timm.create_model('resnet20', num_classes=3)
    network.pretrained_cfg = {**network.pretrained_cfg, 'num_classes': 3, 'input_size': (3, 16, 16)}
    save_for_hf(network, tmp_path / 'three', safe_serialization=True)
    more = ['--teacher-tune', 'none'] if option == '--teacher' else []
    script('distill', [*argv, option, f'local-dir:{tmp_path / "three"}', *more, '--experiment', 'prefixed'])
    script('distill', [*argv, '--teacher-checkpoint', str(tmp_path / 'three'), '--experiment', 'folder'])
    for file in ('model.safetensors', 'summary.csv'):
        assert (tmp_path / 'prefixed' / file).read_bytes() == (tmp_path / 'folder' / file).read_bytes()


def test_a_local_directory_to_start_from(script, argv, tmp_path, five):
    script('distill', [
        *argv, '--teacher', f'local-dir:{tmp_path / "five"}', '--teacher-tune', 'head', '--experiment', 'run'])
    _, options, weights = only_teacher(tmp_path)
    assert same(frozen(weights), frozen(five)) and options['img_size'] == 16


def test_train_takes_a_new_head(script, options, tmp_path, five):
    argv = [*options, '--epochs', '1', '--lr', '1e-6', '--initial-checkpoint', str(tmp_path / 'five')]
    script('train', [*argv, '--model', 'resnet20', '--new-head', '--experiment', 'run'])
    weights = load_file(tmp_path / 'run/model.safetensors')
    assert len(weights['fc.bias']) == 3
    assert torch.allclose(weights['conv1.weight'], five['conv1.weight'], atol=1e-3)


# --- small images

def test_a_small_image_stem_for_both(script, argv, tmp_path, capsys):
    argv = [*argv, '--student', 'resnet10', '--teacher', 'resnet10', '--small-image-stem', '--epochs', '1']
    script('distill', [*argv, '--teacher-small-image-stem', '--experiment', 'run'])
    folder, options, weights = only_teacher(tmp_path)
    assert options['small_image_stem'] and weights['conv1.weight'].shape == (64, 3, 3, 3)
    for path in (folder, tmp_path / 'run'):
        loaded = timm.create_model(f'local-dir:{path}', pretrained=True)
        assert same(loaded.state_dict(), load_file(path / 'model.safetensors'))
        assert loaded.pretrained_cfg['input_size'][-1] == 8
    capsys.readouterr()
    script('validate', [str(tmp_path / 'run')])
    own = json.loads((tmp_path / 'run/report.json').read_text())
    assert f'{own["student"]["top1"]:.2f}' in capsys.readouterr().out
    for name, source in (('folder', folder), ('file', folder / 'model.safetensors')):
        script('distill', [
            *argv, '--teacher-checkpoint', str(source), '--experiment', name,
            *(['--teacher-small-image-stem'] if name == 'file' else [])])
        assert json.loads((tmp_path / name / 'report.json').read_text())['teacher'] == own['teacher']
        assert json.loads((tmp_path / name / 'report.json').read_text())['run']['teacher'] == 'resnet10'
