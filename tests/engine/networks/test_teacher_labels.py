"""Teachers of another label space: mapped by a file or by name, or refused; and told when they look lost."""
import json
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.data import ImageNetInfo

import timm_ltkd.models  # noqa: F401  (registers resnet20)
from timm_ltkd.engine.evaluate import near_chance
from timm_ltkd.engine.networks import create, labels
from timm_ltkd.engine.networks.labels import find_class_map
from timm_ltkd.errors import UserError

NAMES = ('bee', 'x', 'cat', 'y', 'z', 'ant', 'w')  # of the teacher; the data has ant, bee and cat
MAP = [5, 0, 2]


@pytest.fixture
def argv(options):
    return [*options, '--epochs', '1', '--student', 'resnet20', '--teacher', 'resnet20', '--kd', 'kd',
            '--teacher-img-size', '8', '--lr', '0.0001']


@pytest.fixture
def teachers(tmp_path):
    """The same network twice: with the classes of the data, and with these among seven; a file each."""
    torch.manual_seed(0)
    three, seven = (timm.create_model('resnet20', num_classes=n) for n in (3, 7))
    weights = seven.state_dict() | {key: value for key, value in three.state_dict().items() if 'fc' not in key}
    for key in ('fc.weight', 'fc.bias'):
        weights[key] = weights[key].clone()
        weights[key][MAP] = three.state_dict()[key]
    torch.save(three.state_dict(), tmp_path / 'three.pth')
    torch.save(weights, tmp_path / 'seven.pth')
    return tmp_path


def folder_of(path, weights, names):
    """A folder as timm exports it."""
    path.mkdir()
    save_file(torch.load(weights, weights_only=True), path / 'model.safetensors')
    config = {'architecture': 'resnet20', 'num_classes': len(names), 'label_names': list(names), 'pretrained_cfg': {}}
    (path / 'config.json').write_text(json.dumps(config))
    return str(path)


def outcome(folder):
    return load_file(folder / 'model.safetensors'), json.loads((folder / 'report.json').read_text())['teacher']


def alike(first, second):
    """But for the last bits, which differ between matrices of different size."""
    one, two = (
        torch.cat([value.flatten().float() for _, value in sorted(weights.items())]) for weights, _ in (first, second))
    return torch.allclose(one, two, rtol=1e-3, atol=1e-4) and first[1]['per_class'] == second[1]['per_class']


@pytest.fixture
def run(script, argv, tmp_path):
    def distil(name, *more):
        script('distill', [*argv, '--experiment', name, *map(str, more)], output=tmp_path / 'out')
        return outcome(tmp_path / 'out' / name)
    return distil


def test_a_mapped_teacher_teaches_as_one_of_this_label_space(run, teachers, log):
    (teachers / 'map.json').write_text(json.dumps(dict(zip(('ant', 'bee', 'cat'), MAP, strict=True))))
    plain = run('plain', '--teacher-checkpoint', teachers / 'three.pth')
    mapped = run('mapped', '--teacher-checkpoint', teachers / 'seven.pth', '--teacher-class-map', teachers / 'map.json')
    assert alike(mapped, plain)
    named = run('named', '--teacher-checkpoint', folder_of(teachers / 'seven', teachers / 'seven.pth', NAMES))
    assert alike(named, plain)
    assert any('its 7 classes hold the 3 of the data, found by name' in line for line in log)


def test_classes_in_another_order_are_found_by_name(run, teachers):
    plain = run('plain', '--teacher-checkpoint', teachers / 'three.pth')
    weights = torch.load(teachers / 'three.pth', weights_only=True)
    weights |= {key: weights[key][[2, 0, 1]] for key in ('fc.weight', 'fc.bias')}
    torch.save(weights, teachers / 'order.pth')
    folder = folder_of(teachers / 'order', teachers / 'order.pth', ('cat', 'ant', 'bee'))
    assert alike(run('order', '--teacher-checkpoint', folder), plain)
    (teachers / 'map.txt').write_text('0\n1\n2\n')
    given = run('given', '--teacher-checkpoint', folder, '--teacher-class-map', teachers / 'map.txt')
    assert not alike(given, plain), 'what is given wins over names'


def test_several_teachers_share_a_map_or_have_one_each(run, teachers):
    (teachers / 'map.txt').write_text('\n'.join(map(str, MAP)))
    (teachers / 'same.txt').write_text('0\n1\n2\n')
    two = ('--teacher', 'resnet20', 'resnet20', '--teacher-checkpoint')
    plain = run('plain', *two, teachers / 'three.pth', teachers / 'three.pth')
    seven = teachers / 'seven.pth'
    assert alike(run('shared', *two, seven, seven, '--teacher-class-map', teachers / 'map.txt'), plain)
    maps = teachers / 'map.txt', teachers / 'same.txt'
    assert alike(run('each', *two, seven, teachers / 'three.pth', '--teacher-class-map', *maps), plain)


def test_another_map_is_another_run(run, teachers, capsys):
    argv = ('--teacher-checkpoint', teachers / 'seven.pth', '--resume', 'auto', '--teacher-class-map')
    (teachers / 'map.txt').write_text('5\n0\n2\n')
    first = run('run', *argv, teachers / 'map.txt')
    (teachers / 'copy.txt').write_text('5\n0\n2')
    assert alike(run('run', *argv, teachers / 'copy.txt'), first), 'the file may have moved'
    (teachers / 'map.txt').write_text('5\n0\n3\n')
    with pytest.raises(SystemExit):
        run('run', *argv, teachers / 'map.txt')
    assert 'was started with other settings' in capsys.readouterr().err


@pytest.mark.parametrize('words, message', [
    ('', 'the head of {t}/seven.pth has 7 classes and the data 3; they must share one label space: say which of them '
         "the data's are with --teacher-class-map, or train a new head with --teacher-tune head"),
    ('--teacher-class-map {t}/short.txt', '{t}/short.txt has 2 indices and the data 3 classes'),
    ('--teacher-class-map {t}/far.txt', "the index of 'cat' is 7; it must be from 0 to 6"),
    ('--teacher-class-map {t}/nowhere', 'cannot read the class map {t}/nowhere'),
    ('--teacher-class-map {t}/map.txt --teacher-tune head', 'is for a teacher with the head it has'),
    ('--teacher-class-map {t}/map.txt {t}/map.txt', '--teacher-class-map: 2 given for 1 of --teacher'),
])
def test_mistakes(script, argv, teachers, tmp_path, capsys, words, message):
    for name, text in (('short', '1\n2\n'), ('far', '0\n1\n7\n'), ('map', '0\n1\n2\n')):
        (teachers / f'{name}.txt').write_text(text)
    with pytest.raises(SystemExit) as stopped:
        argv = [*argv, '--teacher-checkpoint', str(teachers / 'seven.pth'), *words.format(t=teachers).split()]
        script('distill', argv, output=tmp_path / 'out')
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2 and message.format(t=teachers) in said
    assert not (tmp_path / 'out').exists()


def test_names_that_do_not_match_are_told(script, argv, teachers, capsys):
    folder = folder_of(teachers / 'other', teachers / 'three.pth', ('ant', 'dog', 'cat'))
    with pytest.raises(SystemExit):
        script('distill', [*argv, '--teacher-checkpoint', folder])
    assert f"class 1 is 'dog' for {folder} and 'bee' in the data; say which is which" in capsys.readouterr().err


def data_of(names):
    return SimpleNamespace(splits=SimpleNamespace(class_names=names))


def test_classes_of_imagenet_are_found_by_their_wordnet_names():
    names = ImageNetInfo('imagenet-1k').label_names()
    head = SimpleNamespace(num_classes=1000, pretrained_cfg={}, config_json=None)
    assert find_class_map(head, 'resnet50', None, data_of(names)) is None
    chosen = [names[i] for i in (999, 3, 500)]
    assert find_class_map(head, 'resnet50', None, data_of(chosen)) == [999, 3, 500]
    with pytest.raises(UserError, match='has 1000 classes and the data 3'):
        find_class_map(head, 'resnet50', None, data_of(['n00000000', *chosen[:2]]))
    assert find_class_map(head, 'resnet50', None, data_of([str(i) for i in range(1000)])) is None


@pytest.mark.parametrize('balanced, classes, is_lost', [
    (29.9, 10, True), (30., 10, False), (2.9, 100, True), (3.1, 100, False), (39., 3, True), (41., 3, False),
    (0.1, 1000, True)])
def test_near_chance(balanced, classes, is_lost):
    assert near_chance({'balanced': balanced}, classes) == is_lost


def test_a_teacher_near_chance_is_told(script, tmp_path, log):
    torch.manual_seed(0)
    torch.save(timm.create_model('resnet20', num_classes=10).state_dict(), tmp_path / 'untrained.pth')
    script('distill', [
        '--dataset', 'lt/digits', '--img-size', '8', '--epochs', '1', '-b', '64', '--teacher', 'resnet20', '--student',
        'resnet20', '--teacher-checkpoint', str(tmp_path / 'untrained.pth'), '--teacher-img-size', '8'])
    doubt = 'teacher is near chance (guessing has 10 %): was it trained long enough, is its label space that of'
    assert any(doubt in line for line in log)


def test_numbers_name_nothing(monkeypatch):
    """Those of a head with a hundred classes would hold the ten digits."""
    monkeypatch.setattr(labels, 'label_names', lambda network: [str(i) for i in range(100)])
    data = SimpleNamespace(splits=SimpleNamespace(class_names=[str(i) for i in range(10)]))
    with pytest.raises(UserError, match='has 100 classes and the data 10'):
        find_class_map(SimpleNamespace(num_classes=100), 'run', None, data)


def test_classes_in_another_order_are_refused_wherever_they_lie(script, options, teachers, tmp_path, capsys):
    folder = folder_of(tmp_path / 'net', teachers / 'three.pth', ['cat', 'bee', 'ant'])
    for source in (folder, f'local-dir:{folder}', f'{folder}/model.safetensors'):
        with pytest.raises(SystemExit):
            script('validate', [*options[:6], source, '--model', 'resnet20', '--workers', '0'])
        assert "class 0 is 'cat' for" in capsys.readouterr().err
    for source in (folder, f'{folder}/model.safetensors'):
        with pytest.raises(SystemExit):
            script('train', [*options, '--model', 'resnet20', '--stage', 'lws', '--initial-checkpoint', source])
        assert "class 0 is 'cat' for" in capsys.readouterr().err


def test_numbers_name_no_class(script, options, teachers, tmp_path):
    folder = folder_of(tmp_path / 'net', teachers / 'three.pth', ['0', '1', '2'])
    script('validate', [*options[:6], folder, '--workers', '0'])


def test_a_teacher_is_called_by_what_its_folder_holds(script, options, teachers, tmp_path):
    folder = folder_of(tmp_path / 'net', teachers / 'three.pth', ['ant', 'bee', 'cat'])
    script('distill', [
        *options, '--epochs', '1', '--student', 'resnet20', '--teacher-checkpoint', f'local-dir:{folder}',
        '--experiment', 'run'])
    report = json.loads((tmp_path / 'run/report.json').read_text())
    assert report['run']['teacher'] == 'resnet20' and 'resnet32' not in (tmp_path / 'run/README.md').read_text()


def test_a_folder_may_bear_the_name_of_a_model(script, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'test_resnet').mkdir()
    monkeypatch.setattr(create, 'why_no_zoo_weights', lambda name: None)
    monkeypatch.setattr(create.timm, 'create_model', lambda name, pretrained, make=timm.create_model, **kwargs: make(
        name, **{**kwargs, 'num_classes': 3}))
    script('validate', [*options[:6], '--model', 'test_resnet', '--pretrained', '--workers', '0'])
