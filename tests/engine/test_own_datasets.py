"""Data sets of the user's own code, by the scripts: long-tailed, resumed, measured, and refused with a reason."""
import json

import numpy as np
import pytest

import timm_ltkd
from timm_ltkd.data import register_dataset
from timm_ltkd.errors import UserError

CODE = '''
import numpy as np
from timm_ltkd import register_dataset

@register_dataset('shapes')
class Shapes:
    """Grey levels that tell the class; arrays, no transform."""
    classes = ['dark', 'grey', 'bright']

    def __init__(self, root, split):
        if split not in ('train', 'validation'):
            raise FileNotFoundError(f'{root}/{split}.npy')
        self.targets = np.arange(36 if split == 'train' else 12) % 3
        noise = np.random.RandomState(len(self.targets)).normal(0, 20, (len(self.targets), 8, 8, 3))
        self.images = (60 + 60 * self.targets[:, None, None, None] + noise).clip(0, 255).astype(np.uint8)

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return self.images[index], self.targets[index]
'''


@pytest.fixture
def shapes(own_module):
    own_module('my_data', CODE)
    return ['--dataset', 'lt/shapes', '--import', 'my_data', '--img-size', '8', '--workers', '0', '--epochs', '2', '-b',
            '4', '--warmup-epochs', '0', '--train-crop-mode', 'pad', '--crop-padding', '1', '--color-jitter', '0']


@pytest.mark.parametrize('loader', ['timm', 'resident'])
def test_it_is_trained_on_as_any_other(shapes, script, tmp_path, loader):
    argv = [*shapes, '--model', 'resnet20', '--imbalance-factor', '4', '--loader', loader, '--experiment', 'run']
    script('train', argv)
    report = json.loads((tmp_path / 'run/report.json').read_text())
    assert report['data']['class_names'] == ['dark', 'grey', 'bright'] and report['data']['class_counts'] == [12, 6, 3]
    assert report['student']['num_samples'] == 12
    script('train', [*argv, '--resume', 'auto'])  # nothing is left to do, and nothing is refused
    script('validate', [str(tmp_path / 'run'), '--import', 'my_data', '--results-file', str(tmp_path / 'again.json')])
    again = json.loads((tmp_path / 'again.json').read_text())
    assert [row['top1'] for row in again.values()] == [report['student']['top1']]


def test_without_the_import_it_is_unknown_and_that_is_said(shapes, script, capsys):
    with pytest.raises(SystemExit):
        script('train', ['--dataset', 'lt/shapes', '--model', 'resnet20'])
    assert "unknown dataset 'lt/shapes'" in capsys.readouterr().err


def test_what_it_is_asked(own_module):
    asked = []

    @register_dataset('asked')
    def make(**options):
        asked.append(options)
        return timm_ltkd.data.DigitsDataset(train=options['split'] == 'train')
    whole = timm_ltkd.create_dataset('lt/asked', 'somewhere', split='train', download=False)
    part = timm_ltkd.create_dataset('lt/asked', split='validation', download=True, transform=np.asarray)
    assert asked == [dict(root='somewhere', split='train'), dict(root=None, split='validation', download=True)]
    assert len(whole) == 1497 and len(part) == 300 and isinstance(part[0][0], np.ndarray)
    tail = timm_ltkd.create_dataset('lt/asked', imbalance_factor=12, max_per_class=60)
    assert tail.class_counts.tolist()[::9] == [60, 5] and tail.class_names == list('0123456789')


class Bad:
    targets = [0, 1]

    def __init__(self, image):
        self.image = image

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.image, self.targets[index]


@pytest.mark.parametrize('image, got', [
    (np.zeros((4, 4, 3)), 'an array of float64'), ('a.png', 'a str'), (np.zeros(4, np.uint8), 'an array of uint8'),
    (np.zeros((3, 8, 8), np.uint8), 'an array of uint8')])
def test_images_that_are_none(own_module, image, got):
    register_dataset('bad')(lambda root, split: Bad(image))
    with pytest.raises(UserError, match=f'Bad gives {got} for an image'):
        timm_ltkd.create_dataset('lt/bad')[0]


def test_samples_of_another_form(own_module):
    class Three(Bad):
        def __getitem__(self, index):
            return *super().__getitem__(index), 'more'
    register_dataset('three')(lambda root, split: Three(np.zeros((4, 4, 3), np.uint8)))
    with pytest.raises(UserError, match='Three gives something else than .image, class index. for a sample'):
        timm_ltkd.create_dataset('lt/three')[0]


@pytest.mark.parametrize('make, message', [
    (lambda root, split: open(f'/nowhere/{split}'), "'lt/own' gives no split 'train': .*No such file"),
    (lambda root: None, "gives no split 'train': .*unexpected keyword argument 'split'"),
    (lambda root, split: [(None, 0)], 'labels of list cannot be read without decoding every image; give it a list'),
])
def test_mistakes_in_it_are_one_line(own_module, make, message):
    register_dataset('own')(make)
    with pytest.raises(UserError, match=message) as error:
        timm_ltkd.create_dataset('lt/own')
    assert '\n' not in str(error.value)
    for name in ('own', 'LT/own'):
        with pytest.raises(UserError, match="lt/own|gives no|labels of"):
            timm_ltkd.create_dataset(name)
    with pytest.raises(UserError, match='choose a name without a slash'):
        register_dataset('a/b')
    register_dataset('digits')(make)
    with pytest.raises(UserError, match="'lt/digits' is the name of another data set"):
        timm_ltkd.create_dataset('lt/digits')
