"""Images stay in memory where they can, which the run says and knows as part of its recipe."""
import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

from timm_ltkd.data import LongTailedDataset
from timm_ltkd.engine import loaders

PLAIN = ['--color-jitter', '0']
TINY_VIT = '--model vit_tiny_patch16_224 --model-kwargs patch_size=4 embed_dim=16 depth=1 num_heads=2'.split()


@pytest.fixture
def trained(script, options, tmp_path, log):
    """Train in the folder `name`: its options as written, and the line about loading."""
    def call(name, *more, epochs=1):
        log.clear()
        script('train', [*options, *TINY_VIT, '--epochs', str(epochs), *more, '--experiment', name])
        line, = (line for line in log if 'images stay in' in line or 'images are decoded' in line)
        return yaml.safe_load((tmp_path / name / 'args.yaml').read_text()), line
    return call


def key_of(folder):
    return json.loads((folder / 'report.json').read_text())['run']['args']['loader']


def test_images_that_fit_stay_in_memory_and_the_run_is_as_if_asked_for(trained, tmp_path):
    chosen, line = trained('chosen', *PLAIN)
    assert chosen['loader'] == key_of(tmp_path / 'chosen') == 'resident'
    assert line == 'images stay in memory: 23 + 11 of 8x8, 0 MB'
    asked, _ = trained('asked', *PLAIN, '--loader', 'resident')
    assert asked == chosen
    again, _ = trained('again', '-c', str(tmp_path / 'chosen' / 'args.yaml'))
    assert again == chosen
    first, *others = (load_file(tmp_path / name / 'model.safetensors') for name in ('chosen', 'asked', 'again'))
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)


RESIZED = (
    'with --train-crop-mode rrc they stay in memory only if asked to (--loader resident --color-jitter 0, no --aa, and '
    '--resident-size N where sizes differ)')


@pytest.mark.parametrize(('more', 'reason'), [
    (['--aa', 'rand-m9'], 'images in memory cannot go through RandAugment'),
    ([], 'images in memory cannot go through ColorJitter'),
    (['--train-crop-mode', 'rrc'], RESIZED), ([*PLAIN, '--train-crop-mode', 'rrc'], RESIZED),
    ([*PLAIN, '--loader', 'timm'], 'as asked'),
])
def test_why_images_are_decoded_whenever_they_are_shown(trained, more, reason):
    args, line = trained('run', *more)
    assert args['loader'] == 'timm'
    assert line == f'--loader timm, images are decoded whenever they are shown: {reason}'


def test_images_take_no_more_than_a_quarter_of_the_memory(trained, monkeypatch):
    needed = 23 * 10 * 10 * 3 + 11 * 8 * 8 * 3  # of which the first are padded
    monkeypatch.setattr(loaders, 'machine_memory', lambda: 4 * needed)
    assert trained('fits', *PLAIN)[0]['loader'] == 'resident'
    monkeypatch.setattr(loaders, 'machine_memory', lambda: 4 * needed - 1)
    args, line = trained('large', *PLAIN)
    assert args['loader'] == 'timm' and 'more than a quarter of the 0 MB of this machine' in line


def test_no_image_is_decoded_for_the_choice_but_the_first(options, script, monkeypatch):
    opened, take = [], LongTailedDataset.__getitem__

    def get(data, index):
        opened.append(index)
        return take(data, index)

    class Reached(Exception):
        pass

    def stop(*args, **kwargs):
        raise Reached
    monkeypatch.setattr(LongTailedDataset, '__getitem__', get)
    monkeypatch.setattr('timm_ltkd.engine.seeds.fit.fit', stop)
    seen = {}
    for loader in ('timm', 'auto'):
        opened.clear()
        with pytest.raises(Reached):
            script('train', [*options, *TINY_VIT, *PLAIN, '--loader', loader])
        seen[loader] = sorted(map(int, opened))
    assert seen['auto'] == sorted([*seen['timm'], 0, 0]), 'one of each split'


@pytest.mark.parametrize(('more', 'message'), [
    (['--loader', 'resident', '--aa', 'rand-m9'], 'cannot go through RandAugment; leave it out, or use --loader timm'),
    ([*PLAIN, '--train-crop-mode', 'rrc', '--resident-size', '9'], '--resident-size is for images that stay in memory'),
    ([*PLAIN, '--loader', 'resident', '--resident-size', '9'], 'crops that resize them; leave out --resident-size'),
    ([*PLAIN, '--loader', 'resident', '--train-crop-mode', 'rrc', '--train-interpolation', 'box'], "by 'box'"),
])
def test_what_cannot_be_is_told(script, options, capsys, more, message):
    with pytest.raises(SystemExit) as e:
        script('train', [*options, *TINY_VIT, *more])
    assert e.value.code == 2 and message in capsys.readouterr().err


def test_more_images_than_memory_are_told_before_anything_is_trained(script, options, capsys, monkeypatch):
    needed = 23 * 10 * 10 * 3 + 11 * 8 * 8 * 3

    class Reached(Exception):
        pass

    def stop(*args, **kwargs):
        raise Reached
    monkeypatch.setattr('timm_ltkd.engine.seeds.fit.fit', stop)
    for memory, expected in ((needed, Reached), (needed - 1, SystemExit)):
        monkeypatch.setattr(loaders, 'machine_memory', lambda memory=memory: memory)
        with pytest.raises(expected):
            script('train', [*options, *TINY_VIT, *PLAIN, '--loader', 'resident'])
    assert 'the images take 0 MB as bytes, and this machine has 0 MB; use --loader timm' in capsys.readouterr().err


@pytest.mark.parametrize('mode', ['rrc', 'rkrc', 'rkrr'])
def test_crops_that_resize_and_erasing_are_trained_with_in_memory(trained, tmp_path, mode):
    more = [*PLAIN, '--loader', 'resident', '--train-crop-mode', mode, '--resident-size', '10', '--reprob', '0.5']
    args, line = trained('small', *more)
    assert args['resident_size'] == 10 and line.startswith('images stay in memory: 23 + 11 of 10x10')
    trained('larger', *more, '--resident-size', '11')
    small, larger = (load_file(tmp_path / name / 'model.safetensors') for name in ('small', 'larger'))
    assert not all(torch.equal(small[name], larger[name]) for name in small)


def test_a_teacher_is_trained_from_memory_and_known_by_it(script, options, tmp_path, log):
    base = [*options, *PLAIN, '--epochs', '1', '--student', 'resnet20', '--teacher', 'wrn_16_2']
    script('distill', [*base, '--experiment', 'chosen'])
    script('distill', [*base, '--experiment', 'asked', '--loader', 'resident'])
    teachers = list((tmp_path / 'teachers').iterdir())
    assert len(teachers) == 1 and yaml.safe_load((teachers[0] / 'args.yaml').read_text())['loader'] == 'resident'
    script('distill', [*base, '--experiment', 'host', '--teacher-img-size', '8', '--teacher-resize', 'host'])
    assert key_of(tmp_path / 'host') == 'timm' and len(list((tmp_path / 'teachers').iterdir())) == 1
    assert any('--teacher-resize host makes them in two sizes' in line for line in log)
    script('distill', ['-c', str(tmp_path / 'host/args.yaml'), '--output', str(tmp_path), '--experiment', 'again'])
    assert key_of(tmp_path / 'again') == 'timm' and len(list((tmp_path / 'teachers').iterdir())) == 1
    script('distill', [*base, '--experiment', 'forced', '--loader', 'timm'])  # the teacher as well
    assert sorted(key_of(folder) for folder in (tmp_path / 'teachers').iterdir()) == ['resident', 'timm']
