"""The YAML recipes of BKD against the published recipe, as the engine builds and steps it, for all 200 epochs."""
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import yaml
from timm.data.transforms import MaybeToTensor
from timm.utils import unwrap_model
from torchvision.datasets import CIFAR10, CIFAR100, VisionDataset
from torchvision.transforms import CenterCrop, Normalize, RandomCrop, RandomHorizontalFlip, Resize

import timm_ltkd.models  # noqa: F401
from timm_ltkd.cli.arguments import distill_parser, train_parser
from timm_ltkd.cli.config import parse, teacher_args
from timm_ltkd.data.plugin import register
from timm_ltkd.distill import Output, Teacher, create_method
from timm_ltkd.engine.epoch.loop import EpochLoop
from timm_ltkd.engine.networks.create import create_network
from timm_ltkd.engine.networks.input import resolve_input, set_input
from timm_ltkd.engine.processes.launch import create_accelerator
from timm_ltkd.engine.run_data import load_data
from timm_ltkd.engine.training import Training

FOLDER = Path(__file__).resolve().parents[2] / 'hparams'
NAMES = [f'cifar{classes}_lt{factor}_{kind}'
         for classes in (10, 100) for factor in (10, 50, 100) for kind in ('teacher', 'kd', 'bkd')]
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


class Recipe(NamedTuple):
    """What a file says, and the training that the engine makes of it."""
    classes: int
    factor: int
    kind: str
    args: Namespace
    training: Training
    rows: list[dict]  # of the 200 epochs: learning rate(s) and the method's loss


def parser_of(kind):
    return train_parser() if kind == 'teacher' else distill_parser()


def parse_file(name, *more):
    return parse(parser_of(name.split('_')[-1]), ['-c', str(FOLDER / f'{name}.yaml'), *more])


def published_lr(epoch):
    """Epochs counted from 1."""
    if epoch <= 5:
        return 0.1 * epoch / 5
    return 0.1 if epoch <= 160 else 0.1 * 0.01 if epoch <= 180 else 0.1 * 0.0001


def long_tail(classes, factor):
    """Cao et al. 2019: images of each class."""
    return np.array([int(50000 / classes * (1 / factor) ** (c / (classes - 1))) for c in range(classes)])


def published_loss(student, teacher, counts, balanced):
    """T² · KL(q' ‖ p) in NumPy, T = 2."""
    weights = (1 - 0.9999) / (1 - 0.9999 ** counts) if balanced else np.ones(len(counts))
    p, q = (np.exp(z / 2) / np.exp(z / 2).sum(1, keepdims=True) for z in (student, teacher))
    q = weights * q / (weights * q).sum(1, keepdims=True)
    return 4 * (q * np.log(q / p)).sum(1).mean()


def logits(classes):
    rng = np.random.RandomState(0)
    return 2 * rng.randn(4, classes), 2 * rng.randn(4, classes)


@pytest.fixture(scope='module')
def cifar_root(tmp_path_factory):
    """Both CIFAR sets with their real sizes and one picture, without files."""
    picture = np.random.RandomState(0).randint(0, 256, (32, 32, 3), dtype=np.uint8)

    def init(self, root, train=True, transform=None, target_transform=None, download=False):
        VisionDataset.__init__(self, root, transform=transform, target_transform=target_transform)
        classes, size = 100 if isinstance(self, CIFAR100) else 10, 50000 if train else 10000
        self.classes = [f'class{c}' for c in range(classes)]
        self.targets = np.repeat(np.arange(classes), size // classes).tolist()
        self.data = np.broadcast_to(picture, (size, 32, 32, 3))

    register()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CIFAR10, '__init__', init)
        yield str(tmp_path_factory.mktemp('cifar'))


@pytest.fixture(scope='module')
def recipe(cifar_root):
    """A function: name of a file to its `Recipe`, each made once. All but the batches is the engine's own."""
    made, data_sets = {}, {}

    def make(name):
        if name not in made:
            args = parse_file(name, '--data-dir', cifar_root, '--workers', '0')
            if args.dataset not in data_sets:
                data_sets[args.dataset] = load_data(args, create_accelerator())
            made[name] = build(name, args, data_sets[args.dataset])
        return made[name]
    return make


def build(name, args, data):
    classes = data.prior.num_classes
    kind = name.split('_')[-1]
    network = create_network(args.model if kind == 'teacher' else args.student, classes)
    set_input(network, resolve_input(args, network.pretrained_cfg))
    learn = {} if kind == 'teacher' else dict(
        teacher=Teacher(create_network(args.teacher, classes)),
        method=create_method(args.kd, prior=data.prior, **args.kd_kwargs))
    training = Training(args, create_accelerator(), data, network, **learn)
    return Recipe(classes, int(name.split('_')[1][2:]), kind, args, training, run_without_batches(training, classes))


def run_without_batches(training, classes):
    rows = []
    student, teacher = (Output(torch.from_numpy(z)) for z in logits(classes))

    def no_batches(loop, epoch, *_):
        method = getattr(loop.task, 'method', None)
        terms = method(student, teacher, torch.zeros(4, dtype=torch.int64)) if method is not None else {}
        rows.append(dict(
            epoch=epoch + 1, rates={group['lr'] for group in loop.optimizer.param_groups}, loss=sum(terms.values()),
            order=loop.loader.batch_sampler.epoch))
        return {'loss': 0., 'seconds': 1.}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EpochLoop, 'run', no_batches)
        patch.setattr(Training, 'evaluate', lambda self, **how: {'top1': 0., 'loss': 0.})
        while training.epoch < training.epochs:
            training.run_epoch()
    return rows


def test_there_is_a_file_for_each_recipe_and_no_other():
    assert {path.stem for path in FOLDER.glob('cifar*.yaml')} == set(NAMES)


@pytest.mark.parametrize('name', NAMES)
def test_first_line_names_the_source(name):
    first = (FOLDER / f'{name}.yaml').read_text(encoding='utf-8').splitlines()[0]
    assert first.startswith('# BKD: Zhang et al. 2021, arXiv 2104.10510')


@pytest.mark.parametrize('name', NAMES)
def test_every_key_overrides_a_default(name):
    parser = parser_of(name.split('_')[-1])
    keys = set(yaml.safe_load((FOLDER / f'{name}.yaml').read_text(encoding='utf-8')))
    ours, default = vars(parse_file(name)), vars(parser.parse_args([]))  # None where the data set has a default
    no_override = {'kd'} if ours.get('kd') == default.get('kd') else set()  # but it says whose kd_kwargs are
    assert keys and keys - no_override == {key for key in ours if ours[key] != default[key]} - {
        'config', 'workers', 'class_sampling', 'eval_metric', 'teacher_tune'}


@pytest.mark.parametrize('name', NAMES)
def test_the_recipe_is_the_same_on_image_folders(name):
    parser, path = parser_of(name.split('_')[-1]), str(FOLDER / f'{name}.yaml')
    ours, folders = (vars(parse(parser, ['-c', path, *more])) for more in ([], ['--dataset', 'lt/folder']))
    assert {key for key in ours if ours[key] != folders[key]} == {'dataset'}


@pytest.mark.parametrize('name', NAMES)
def test_data_and_networks(name, recipe):
    r = recipe(name)
    assert r.training.data.prior.counts.tolist() == long_tail(r.classes, r.factor).tolist()
    assert len(r.training.data.splits.val) == 10000
    student = unwrap_model(r.training.task.get_eval_model())
    networks = [student] if r.kind == 'teacher' else [student, r.training.task.teacher.model]
    for network in networks:
        assert [len(stage) for stage in (network.layer1, network.layer2, network.layer3)] == [5, 5, 5]  # ResNet-32
        assert network.fc.out_features == r.classes
    assert r.kind == 'teacher' or r.args.kd == r.kind


@pytest.mark.parametrize('name', NAMES)
def test_learning_rate_of_all_epochs(name, recipe):
    rows = recipe(name).rows
    assert [row['epoch'] for row in rows] == list(range(1, 201)) == [row['order'] + 1 for row in rows]
    for row in rows:
        for rate in row['rates']:
            assert rate == pytest.approx(published_lr(row['epoch']), rel=1e-12, abs=0), row['epoch']
    assert [row['lr'] for row in recipe(name).training.record.history] == [max(row['rates']) for row in rows]


@pytest.mark.parametrize('name', [name for name in NAMES if not name.endswith('teacher')])
def test_class_weights_of_all_epochs(name, recipe):
    r = recipe(name)
    counts = long_tail(r.classes, r.factor)
    for row in r.rows:
        balanced = r.kind == 'bkd' and (r.classes == 100 or row['epoch'] > 160)
        assert float(row['loss']) == pytest.approx(published_loss(*logits(r.classes), counts, balanced), rel=1e-10)


@pytest.mark.parametrize('name', NAMES)
def test_optimizer(name, recipe):
    training = recipe(name).training
    assert type(training.optimizer.optimizer) is torch.optim.SGD
    for group in training.optimizer.param_groups:
        assert (group['weight_decay'], group['momentum']) == (2e-4, 0.9)
        assert (group['nesterov'], group['dampening']) == (False, 0)
    optimised = {id(p) for group in training.optimizer.param_groups for p in group['params']}
    assert optimised == {id(p) for p in training.task.get_eval_model().parameters()}
    assert training.args.clip_grad is None and not training.args.model_ema and training.args.grad_accum_steps == 1


@pytest.mark.parametrize('name', NAMES)
def test_batches(name, recipe):
    training = recipe(name).training
    batches = list(training.train_loader.batch_sampler)
    assert {len(batch) for batch in batches[:-1]} == {128}
    seen = {index for batch in batches for _, index in batch}
    assert seen == set(range(len(training.data.splits.train)))


@pytest.mark.parametrize('name', NAMES)
def test_augmentation(name, recipe):
    training = recipe(name).training
    transform = training.train_loader.dataset.dataset.transform
    resize, square, crop, flip, to_tensor, normalize = transform.transforms  # and nothing else
    image = training.data.splits.train[0][0]
    assert type(resize) is Resize and resize(image) is image
    assert type(square) is CenterCrop and square.size == (32, 32)
    assert type(crop) is RandomCrop and (crop.size, crop.padding, crop.fill, crop.padding_mode) == (
        (32, 32), 4, 0, 'constant')
    assert type(flip) is RandomHorizontalFlip and flip.p == 0.5
    assert type(to_tensor) is MaybeToTensor
    assert type(normalize) is Normalize
    for values, expected in ((normalize.mean, MEAN), (normalize.std, STD)):
        assert torch.as_tensor(values).tolist() == pytest.approx(expected, abs=1e-7)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).double() / 255
    expected = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    shown = next(iter(training.val_loader))[0][0]
    assert torch.allclose(shown.double(), expected, atol=1e-6)  # evaluation only normalises


@pytest.mark.parametrize('name', NAMES)
def test_hard_label_loss_is_plain_cross_entropy(name, recipe):
    criterion = recipe(name).training.task.criterion
    z, _ = logits(recipe(name).classes)
    target = np.arange(4)
    expected = (np.log(np.exp(z).sum(1)) - z[np.arange(4), target]).mean()
    assert float(criterion(torch.from_numpy(z), torch.from_numpy(target))) == pytest.approx(expected, rel=1e-12)
    assert recipe(name).args.loss == 'ce' and recipe(name).args.smoothing == 0


@pytest.mark.parametrize('name', [name for name in NAMES if not name.endswith('teacher')])
def test_teacher_of_distill_is_the_teacher_recipe(name):
    stage = vars(teacher_args(parse_file(name), train_parser()))
    recipe = vars(parse_file(name.rsplit('_', 1)[0] + '_teacher'))
    assert stage.pop('pretrained') is None and recipe.pop('pretrained') is False  # no weights of it are known
    assert stage.pop('seed') != recipe.pop('seed')  # the student's own is that of the file
    assert stage.pop('lr') is None and recipe.pop('lr') == parse_file(name).lr  # it is the student's
    assert {**stage, 'config': None} == {**recipe, 'config': None}
