"""Every option of the three scripts changes what it says: a tensor, a schedule, a message or a file.

Most cases go through the real front door up to the point where training (or evaluation) would begin, and look at what
would be trained. `COVERED` collects what is tested; an option without a test fails the last test here.
"""
import dataclasses
import json
import math
import shutil
from argparse import Namespace
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from PIL import Image
from timm.models import _registry
from timm.utils import unwrap_model
from torchvision.datasets import CIFAR10
from torchvision.transforms import InterpolationMode

import timm_ltkd  # noqa: F401
from timm_ltkd.cli import run
from timm_ltkd.cli.arguments import distill_parser, train_parser, validate_parser
from timm_ltkd.cli.config import dump_config, parse
from timm_ltkd.data import long_tail_indices
from timm_ltkd.distill import describe_losses, describe_methods
from timm_ltkd.engine import fit, jobs, recipe, teachers, validate
from timm_ltkd.engine.epoch.watch import LossWatch
from timm_ltkd.engine.sharing import share

PARSERS = {'train': train_parser, 'distill': distill_parser, 'validate': validate_parser}
COVERED = {script: {'help'} for script in PARSERS}
CLASSES = ('ant', 'bee', 'cat')
DIFFERS = object()  # any other value will do


def covers(scripts: str, *options: str):
    """Say which options of which scripts a test is about."""
    for script in scripts.split():
        COVERED[script].update(PARSERS[script]()._option_string_actions[option].dest for option in options)
    return lambda test: test


# ---- what would be trained -------------------------------------------------------------------------------------------

class Reached(Exception):
    """Raised where training or evaluation would begin."""


@dataclasses.dataclass
class Seen:
    """What the front door handed over."""
    args: Namespace
    accelerator: Any = None
    data: Any = None
    network: Any = None
    folder: Any = None
    teacher: Any = None
    method: Any = None
    val_loader: Any = None

    @cached_property
    def training(self) -> fit.Training:
        return fit.Training(self.args, self.accelerator, self.data, self.network, self.teacher, self.method)

    @property
    def loaders(self):
        return [self.val_loader] if self.val_loader else [self.training.train_loader, self.training.val_loader]


def reach(script: str, argv: list[str]) -> Seen:
    """Go through `script`'s door with `argv` up to training or evaluation."""
    seen = Seen(parse(PARSERS[script](), argv))

    def stop(args, accelerator, data, network, folder, config, teacher=None, method=None):
        seen.__dict__.update(
            args=args, accelerator=accelerator, data=data, network=network, folder=folder, teacher=teacher,
            method=method)
        raise Reached

    def stop_evaluation(network, loader, accelerator, prior, channels_last=False):
        seen.__dict__.update(network=network, val_loader=loader, accelerator=accelerator, channels_last=channels_last)
        raise Reached

    def note_data(args, accelerator):
        seen.data = load(args, accelerator)
        return seen.data

    load = recipe.load_data
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, 'fit', stop)
        patch.setattr(teachers, 'fit', stop)
        if script == 'validate':
            patch.setattr(validate, 'evaluate', stop_evaluation)
            patch.setattr(recipe, 'load_data', note_data)
        with pytest.raises(Reached):
            getattr(run, script)(argv)
    return seen


def save_pictures(folder: Path, sizes: dict[str, int], seed: int) -> None:
    rng = np.random.RandomState(seed)
    for name, size in sizes.items():
        (folder / name).mkdir(parents=True)
        for i in range(size):
            Image.fromarray(rng.randint(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / name / f'{i:02d}.png')


def save_table(folder: Path, images: Path) -> None:
    """Both splits as parquet files, with two columns of images and two of labels."""
    from datasets import ClassLabel, Dataset, Features, Image
    folder.mkdir()
    files = [str(images / name / f'{i:02d}.png') for name in CLASSES for i in range(2)]
    kinds = ClassLabel(names=list(CLASSES))
    columns = {'image': files, 'label': [0, 0, 1, 1, 2, 2], 'other': files[::-1], 'kind': [0, 1, 1, 2, 2, 2]}
    table = Dataset.from_dict(
        columns, features=Features(image=Image(), label=kinds, other=Image(), kind=kinds))
    for split in ('train', 'validation'):
        table.to_parquet(folder / f'{split}.parquet')


@pytest.fixture(scope='module')
def paths(tmp_path_factory):
    """Files that the cases name: data of 12 (and other) images a class, weights, a class map, YAML."""
    root = tmp_path_factory.mktemp('flags')
    data = root / 'data'
    save_pictures(data / 'train', dict.fromkeys(CLASSES, 12), seed=0)
    save_pictures(data / 'small', dict.fromkeys(CLASSES, 5), seed=1)
    save_pictures(data / 'val', dict.fromkeys(CLASSES, 3), seed=2)
    save_pictures(data / 'test', dict.fromkeys(CLASSES, 2), seed=3)
    save_pictures(root / 'other' / 'train', dict.fromkeys(('x', 'y', 'z'), 12), seed=4)
    save_pictures(root / 'other' / 'val', dict.fromkeys(('x', 'y', 'z'), 3), seed=5)
    shutil.copytree(data, root / 'spoiled')
    (root / 'spoiled' / 'train' / 'ant' / '01.png').write_bytes(b'no image')  # none of those whose pixels are looked at
    save_table(root / 'table', data / 'train')
    (root / 'train_list.txt').write_text(''.join(f'train/{CLASSES[c]}/0{i}.png {c}\n' for c, i in (
        (0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0))))
    (root / 'val_list.txt').write_text('val/cat/00.png 2\nval/ant/00.png 0\n')
    (root / 'map.txt').write_text('cat\nant\nbee\n')
    (root / 'counts.txt').write_text('9\n5\n2\n')
    for name in ('resnet20', 'test_resnet'):
        torch.manual_seed(1)
        torch.save(timm.create_model(name, num_classes=3).state_dict(), root / f'{name}.pt')
    files = {path.name.replace('.', '_'): path for path in root.iterdir() if path.is_file()}
    return dict(root=root, data=data, **files)


@pytest.fixture(scope='module')
def base(paths, tmp_path_factory):
    """A function: the options that every case of a script starts from."""
    data = ['--dataset', 'lt/', '--data-dir', str(paths['data']), '--img-size', '8', '--workers', '0', '-b', '12']
    where = ['--epochs', '4', '--output', str(tmp_path_factory.mktemp('output'))]
    return {
        'train': [*data, *where, '--model', 'resnet20'],
        'distill': [*data, *where, '--student', 'resnet20', '--teacher', 'resnet20', '--teacher-checkpoint',
                    str(paths['resnet20_pt'])],
        'validate': [str(paths['resnet20_pt']), *data, '--model', 'resnet20'],
    }


@pytest.fixture
def zoo(paths, monkeypatch):
    """timm "knows" weights of test_resnet: a local file, 3 classes."""
    cfg = dataclasses.replace(
        timm.get_pretrained_cfg('test_resnet'), file=str(paths['test_resnet_pt']), hf_hub_id=None, num_classes=3)
    for name in ('test_resnet', 'test_resnet.r160_in1k'):
        monkeypatch.setitem(_registry._model_pretrained_cfgs, name, cfg)
    return torch.load(paths['test_resnet_pt'], weights_only=True)


# ---- ways to look at it ----------------------------------------------------------------------------------------------

def student(seen):
    return unwrap_model(seen.training.task.get_eval_model())


def counts(seen):
    return seen.data.splits.train.class_counts.tolist()


def indices(seen):
    return seen.data.splits.train.indices.tolist()


def class_names(seen):
    return seen.data.splits.class_names


def groups(seen):
    return {name: mask.nonzero()[:, 0].tolist() for name, mask in seen.data.prior.shot_groups().items()}


def first_image(seen):
    return seen.data.splits.train[0][0].tobytes()


def num_val(seen):
    return len(seen.data.splits.val)


def num_watched(seen):
    return len(seen.training.val_loader.dataset)


def of_loaders(attribute):
    return lambda seen: [getattr(loader, attribute) for loader in seen.loaders]


def loader_kinds(seen):
    return [type(loader).__name__ for loader in seen.loaders]


def resident_shape(seen):
    return seen.training.train_loader.images.layout[1:3]


def batch_sizes(seen):
    sampler = seen.training.train_loader.batch_sampler
    return {len(batch) for batch in sampler}


def eval_batch_size(seen):
    return seen.loaders[-1].batch_size


def eval_image(seen):
    return seen.loaders[-1].dataset[0][0]


def eval_size(seen):
    return list(eval_image(seen).shape[-2:])


def eval_range(seen):
    """Black and white as evaluation shows them to the network, by channel."""
    normalize = eval_steps(seen)['Normalize']
    black_and_white = torch.stack([torch.zeros(3, 1, 1), torch.ones(3, 1, 1)])
    return pytest.approx(normalize(black_and_white).flatten().tolist(), abs=1e-6)


def steps_of(loader):
    dataset = loader.dataset.dataset
    return {type(step).__name__: step for step in dataset.transform.transforms}


def train_steps(seen):
    return steps_of(seen.training.train_loader)


def eval_steps(seen):
    return steps_of(seen.loaders[-1])


def step(kind: str, attribute: str) -> Callable:
    """An attribute of one step of the training transform; None without the step."""
    return lambda seen: getattr(train_steps(seen).get(kind), attribute, None)


def step_names(seen):
    return list(train_steps(seen))


def eval_interpolation(seen):
    return eval_steps(seen)['Resize'].interpolation.value


def eval_resize(seen):
    return eval_steps(seen)['Resize'].size


def view_sizes(seen):
    """Of a training image: the student's, and the teacher's where the loader makes it."""
    return [view.shape[-1] for view in seen.training.train_loader.dataset[0][0] if view.ndim == 3]


def is_random(seen):
    """Whether two training passes of one image differ: dropout, stochastic depth."""
    network = student(seen).train()
    image = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return not torch.equal(network(image), network(image))


def is_channels_last(seen):
    network = seen.network if seen.val_loader else student(seen)
    return network.conv1.weight.is_contiguous(memory_format=torch.channels_last)


def first_weights(seen):
    return student(seen).conv1.weight.flatten()[:5].tolist()


def order(seen):
    return list(seen.training.train_loader.batch_sampler)[0]


def shown(seen):
    """Images of each class in the second of four epochs."""
    sampler = seen.training.train_loader.batch_sampler
    sampler.set_epoch(1)
    targets = seen.data.splits.train.targets
    return pytest.approx(np.bincount([targets[key[1]] for keys in sampler for key in keys]), abs=1)


def mix(seen, epoch=0, step=0):
    """Share of its own label that each of four images keeps, and how it was mixed."""
    if seen.training.mixing is None:
        return [1.] * 4, 'none'
    images = torch.arange(1., 5.).view(4, 1, 1, 1).expand(4, 3, 64, 64).clone()
    mixed, labels = seen.training.mixing(images, torch.tensor([0, 1, 2, 1]), epoch, step)  # a pair: 1 and 4, 2 and 3
    shares = [float(labels[i, label]) for i, label in enumerate([0, 1, 2, 1])]
    if min(shares) == 1:
        return shares, 'none'
    return shares, 'mixup' if (mixed == mixed[:, :1, :1, :1]).all() else 'cutmix'


def mixing_by_step(seen):
    return {mix(seen, step=step)[1] for step in range(20)}


def mixing_by_epoch(seen):
    return [mix(seen, epoch)[1] for epoch in range(4)]


def mixing_draws(seen):
    """How many different shares four images have over ten batches."""
    return max(len({round(share, 5) for share in mix(seen, step=step)[0]}) for step in range(10))


def cut_shares(seen):
    """Whether all cut boxes have between 0.5 and 0.6 of the sides."""
    return all(0.49 ** 2 <= 1 - share <= 0.6 ** 2 for step in range(20) for share in mix(seen, step=step)[0])


def hard_loss(seen):
    """Of even logits by class."""
    criterion = seen.training.task.criterion
    losses = [float(criterion(torch.tensor([[2., 0., 0.]]), torch.tensor([c]))) for c in range(3)]
    return [round(loss, 4) for loss in losses]


def cross_entropy(logits, smoothing=0.):
    logits = np.array(logits)
    loss = np.log(np.exp(logits).sum()) - logits
    return [round(float(value), 4) for value in (1 - smoothing) * loss + smoothing * loss.mean()]


def focal(logits, gamma):
    loss = np.array(cross_entropy(logits))
    return [pytest.approx(float(value), abs=2e-4) for value in (1 - np.exp(-loss)) ** gamma * loss]


def group(key: str) -> Callable:
    """The values that the optimizer's groups have for `key`."""
    def look(seen):
        values = [g.get(key) for g in seen.training.optimizer.param_groups]
        return {tuple(value) if isinstance(value, list) else value for value in values}
    return look


def optimizer_name(seen):
    return type(seen.training.optimizer.optimizer).__name__


def rates(seen):
    """The learning rate of each epoch, for figures that never improve."""
    training = seen.training
    found = []
    for epoch in range(training.epochs):
        found.append(training.optimizer.param_groups[-1]['lr'])
        training.scheduler.step(epoch + 1, 50.)
    return pytest.approx(found, abs=1e-12)


def rates_within_epoch(seen):
    """The learning rate of each update of the first epoch."""
    found = []
    seen.training.optimizer.optimizer.register_step_pre_hook(
        lambda optimizer, *_: found.append(optimizer.param_groups[-1]['lr']))
    seen.training.run_epoch()
    return pytest.approx(found, abs=1e-12)


def updates(seen):
    seen.training.run_epoch()
    return seen.training.updates


def weights(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()]).double()


def clipping(seen):
    """Which bound of 0.01 the gradient of the first update keeps (its step is the gradient itself, at a rate of 1)."""
    before = [p.detach().clone() for p in student(seen).parameters()]
    seen.training.run_epoch()
    moves = [old - p.detach() for old, p in zip(before, student(seen).parameters(), strict=True)]
    if float(torch.cat([move.flatten() for move in moves]).norm()) == pytest.approx(0.01, rel=1e-3):
        return 'norm'
    if max(float(move.abs().max()) for move in moves) == pytest.approx(0.01, rel=1e-3):
        return 'value'
    norm = timm.utils.agc.unitwise_norm
    fits = [bool((norm(move) <= 0.0101 * norm(old).clamp(min=1e-3)).all())
            for move, old in zip(moves[:-2], before[:-2], strict=True)]
    return 'agc' if all(fits) else None


def ema_decay(seen):
    """The decay that the moving average shows after the second update; None without one."""
    task, states = seen.training.task, []
    for _ in range(2):
        seen.training.run_epoch()
        states.append(weights(student(seen)))
    if not task.has_ema():
        return None
    average = weights(unwrap_model(task.get_eval_model(ema=True)))
    move = states[0] - states[1]
    return round(float((average - states[1]) @ move / (move @ move)), 3)


def evaluated(seen):
    seen.training.run_epoch()
    return 'eval_top1' in seen.training.record.history[0]


def best_metric(seen):
    seen.training.run_epoch()
    return seen.training.record.best['metric']


def stages(seen):
    return [len(getattr(student(seen), name)) for name in ('layer1', 'layer2', 'layer3')]


# ---- the cases -------------------------------------------------------------------------------------------------------

class Case(NamedTuple):
    option: str
    values: str
    look: Callable
    expected: Any
    given: str = ''
    scripts: str = 'train distill'


ALL = 'train distill validate'
FLAT = '--lr 1 --warmup-epochs 0 --sched step '  # a learning rate of 1 throughout
TABLE = '--dataset lt/hfds/{root}/table --data-dir {root}/cache '
COUNTED = '--class-counts {counts_txt} '
COSINE = '--lr 1 --warmup-epochs 0 --sched cosine '
PLAIN = '--opt momentum --momentum 0 --weight-decay 0 --warmup-epochs 0 --lr 1 -b 36 --sched step '  # w -= gradient
PADDED = '--train-crop-mode pad --color-jitter 0'
RRC = '--train-crop-mode rrc '
CROP = 'RandomResizedCropAndInterpolation'


def cosine(*t, least=0.):
    return [least + (1 - least) * 0.5 * (1 + math.cos(math.pi * x / 4)) for x in t]


CASES = [
    # data
    Case('--dataset', 'lt/digits --data-dir=', class_names, list('0123456789'), scripts='train'),
    Case('--data-dir', '{root}/other', class_names, ['x', 'y', 'z'], scripts=ALL),
    Case('--train-split', 'small', counts, [5, 5, 5], scripts=ALL),
    Case('--val-split', 'test', num_val, 6, scripts=ALL),
    Case('--class-map', '{map_txt}', class_names, ['cat', 'ant', 'bee'], scripts=ALL),
    Case('--train-list', '{train_list_txt} --dataset list', counts, [3, 2, 1], scripts=ALL),
    Case('--val-list', '{val_list_txt}', num_val, 2, '--dataset lt/list --train-list {train_list_txt}', ALL),
    Case('--input-key', 'other', first_image, DIFFERS, TABLE, ALL),
    Case('--target-key', 'kind', counts, [1, 2, 3], TABLE, ALL),
    Case('--many-shot', '8', groups, {'many': [0], 'medium': [1, 2], 'few': []}, COUNTED + '--few-shot 1', ALL),
    Case('--few-shot', '3', groups, {'many': [], 'medium': [0, 1], 'few': [2]}, COUNTED, ALL),
    Case('--imbalance-factor', '4', counts, [12, 6, 3], scripts=ALL),
    Case('--imbalance-type', 'step', counts, [12, 3, 3], '--imbalance-factor 4', ALL),
    Case('--imbalance-seed', '1', indices,
         long_tail_indices(np.repeat(range(3), 12), [12, 6, 3], 1).tolist(), '--imbalance-factor 4', ALL),
    Case('--max-per-class', '8', counts, [8, 4, 2], '--imbalance-factor 4', ALL),
    Case('--class-counts', '{counts_txt}', counts, [9, 5, 2], scripts=ALL),
    Case('--holdout', '0.5', counts, [6, 3, 1], '--imbalance-factor 4', ALL),
    Case('--holdout', '0.5', num_watched, 11, '--imbalance-factor 4'),
    Case('--holdout-type', 'balanced', counts, [6, 3, 2], '--imbalance-factor 4 --holdout 0.5', ALL),
    Case('--on-bad-image', 'skip', counts, [11, 12, 12], '--data-dir {root}/spoiled', ALL),
    Case('--workers', '1', of_loaders('num_workers'), [1, 1]),
    Case('--workers', '1', of_loaders('num_workers'), [1], scripts='validate'),
    Case('--pin-mem', '', of_loaders('pin_memory'), [True, True]),
    Case('--pin-mem', '', of_loaders('pin_memory'), [True], scripts='validate'),
    Case('--loader', 'resident', loader_kinds, ['ResidentTrainLoader', 'ResidentEvalLoader'], RRC + '--color-jitter 0'),
    Case('--loader', 'timm', loader_kinds, ['DataLoader', 'DataLoader'], PADDED),
    Case('--resident-size', '40', resident_shape, (40, 40), RRC + '--color-jitter 0 --loader resident'),
    # input
    Case('--img-size', '12', eval_size, [12, 12], scripts=ALL),
    Case('--mean', '0.1 0.2 0.4', eval_range, [-0.1, -0.2, -0.4, 0.9, 0.8, 0.6], '--std 1', ALL),
    Case('--std', '0.5 0.2 0.1', eval_range, [0., 0., 0., 2., 5., 10.], '--mean 0', ALL),
    Case('--interpolation', 'nearest', eval_interpolation, 'nearest', scripts=ALL),
    Case('--crop-pct', '0.5', eval_resize, 16, scripts=ALL),
    Case('--validation-batch-size', '7', eval_batch_size, 7, scripts=ALL),
    # network
    Case('--model', 'resnet32', stages, [5, 5, 5], scripts='train'),
    Case('--student', 'resnet32', stages, [5, 5, 5], scripts='distill'),
    Case('--drop', '0.5', is_random, True),
    Case('--drop-path', '0.5', is_random, True),
    Case('--gp', 'max', lambda seen: student(seen).global_pool.pool_type, 'max'),
    Case('--model-kwargs', 'channels=(8,8,8)', lambda seen: student(seen).fc.in_features, 8),
    Case('--no-channels-last', '', is_channels_last, False, scripts=ALL),
    # hard-label loss, of logits 2 0 0
    Case('--loss', 'balanced_softmax', hard_loss,
         cross_entropy([2 + math.log(12), math.log(6), math.log(3)]), '--imbalance-factor 4'),
    Case('--loss', 'focal', hard_loss, focal([2, 0, 0], 2)),
    Case('--loss', 'weighted_ce', lambda seen: type(seen.training.task.criterion).__name__, 'WeightedCrossEntropy'),
    Case('--loss', 'ldam', lambda seen: type(student(seen).fc).__name__, 'CosineLinear'),
    Case('--loss-kwargs', 'tau=0.5', hard_loss,
         cross_entropy([2 + 0.5 * math.log(12), 0.5 * math.log(6), 0.5 * math.log(3)]),
         '--imbalance-factor 4 --loss logit_adjust'),
    Case('--loss-kwargs', 'scale=5', lambda seen: student(seen).fc.scale, 5, '--loss ldam'),
    Case('--loss-kwargs', 'smoothing=0.3', hard_loss, cross_entropy([2, 0, 0], 0.3)),
    Case('--smoothing', '0.6', hard_loss, cross_entropy([2, 0, 0], 0.6)),
    # optimisation
    Case('--epochs', '7', lambda seen: seen.training.epochs, 7),
    Case('--batch-size', '9', batch_sizes, {9}),
    Case('--batch-size', '9', eval_batch_size, 9, scripts='validate'),
    Case('--class-sampling', 'class', shown, [7, 7, 7], '--imbalance-factor 4'),
    Case('--class-sampling', 'sqrt', shown, [9.1, 5.3, 2.6], '--imbalance-factor 9'),
    Case('--class-sampling', 'progressive', shown, [10.3, 6.3, 4.3], '--imbalance-factor 4'),
    Case('--lr', '0.25', rates, [0.25] * 4, '--warmup-epochs 0 --sched step'),
    Case('--weight-decay', '0.25', group('weight_decay'), {0., 0.25}),
    Case('--grad-accum-steps', '3', updates, 1),
    Case('--grad-accum-steps', '2', updates, 2),
    Case('--opt', 'adamw', optimizer_name, 'AdamW'),
    Case('--opt', 'momentum', group('nesterov'), {False}),
    Case('--momentum', '0.5', group('momentum'), {0.5}),
    Case('--opt-eps', '0.01', group('eps'), {0.01}, '--opt adamw'),
    Case('--opt-betas', '0.5 0.6', group('betas'), {(0.5, 0.6)}, '--opt adamw'),
    Case('--opt-kwargs', 'maximize=True', group('maximize'), {True}),
    Case('--no-filter-bias-and-bn', '', group('weight_decay'), {0.25}, '--weight-decay 0.25'),
    Case('--layer-decay', '0.5', group('lr_scale'), {0.5 ** k for k in range(11)}),  # stem, 9 blocks, head
    Case('--clip-grad', '0.01', clipping, 'norm', PLAIN),
    Case('--clip-mode', 'value', clipping, 'value', PLAIN + '--clip-grad 0.01'),
    Case('--clip-mode', 'agc', clipping, 'agc', PLAIN + '--clip-grad 0.01'),
    Case('--sched', 'cosine', rates, cosine(0, 1, 2, 3), FLAT),
    Case('--sched', 'tanh', rates, [1, *(0.5 * (1 - math.tanh(-7 + 10 * t / 4)) for t in range(1, 4))], FLAT),
    Case('--sched', 'multistep', rates, [1, 0.1, 0.1, 0.01], FLAT + '--decay-milestones 2 4'),
    Case('--sched', 'poly', rates, [(1 - t / 4) ** 0.5 for t in range(4)], FLAT + '--decay-rate 0.5'),
    Case('--sched', 'plateau', rates, [1, 1, 1, 0.1], FLAT + '--patience-epochs 1'),
    Case('--sched-on-updates', '', rates_within_epoch, cosine(0, 1 / 3, 2 / 3), COSINE),
    Case('--warmup-epochs', '2', rates, [0.5, 0.75, 1, 1], FLAT + '--warmup-lr 0.5'),
    Case('--warmup-lr', '0.2', rates, [0.2, 0.6, 1, 1], FLAT + '--warmup-epochs 2'),
    Case('--warmup-prefix', '', rates, [0.5, 0.75, *cosine(0, 1, 2, 3)], COSINE + '--warmup-epochs 2 --warmup-lr 0.5'),
    Case('--min-lr', '0.5', rates, cosine(0, 1, 2, 3, least=0.5), COSINE),
    Case('--decay-milestones', '3', rates, [1, 1, 0.1, 0.1], FLAT + '--sched multistep'),
    Case('--decay-epochs', '2', rates, [1, 1, 0.1, 0.1], FLAT),
    Case('--decay-rate', '0.5', rates, [1, 1, 0.5, 0.5], FLAT + '--decay-epochs 2'),
    Case('--cooldown-epochs', '2', rates, [*cosine(0, 1, 2, 3, least=0.1), 0.1, 0.1], COSINE + '--min-lr 0.1'),
    Case('--patience-epochs', '0', rates, [1, 1, 0.1, 0.01], FLAT + '--sched plateau'),
    Case('--model-ema', '', ema_decay, 0.9, PLAIN + '--lr 0.01 --model-ema-decay 0.9'),
    Case('--model-ema-decay', '0.5', ema_decay, 0.5, PLAIN + '--lr 0.01 --model-ema'),
    Case('--model-ema-warmup', '', ema_decay, round(1 - 2 ** (-2 / 3), 3), PLAIN + '--lr 0.01 --model-ema'),
    Case('--seed', '7', first_weights, DIFFERS),
    Case('--seed', '7', order, DIFFERS),
    # augmentation
    Case('--no-aug', '', step_names, ['Resize', 'CenterCrop', 'MaybeToTensor', 'Normalize'], '--loader timm'),
    Case('--train-crop-mode', 'pad', step('RandomCrop', 'padding'), 4),
    Case('--train-crop-mode', 'rkrc', lambda seen: step_names(seen)[:2], ['ResizeKeepRatio', 'CenterCropOrPad']),
    Case('--train-crop-mode', 'rkrr', lambda seen: step_names(seen)[:2], ['ResizeKeepRatio', 'RandomCropOrPad']),
    Case('--train-crop-mode', 'rrc', lambda seen: step_names(seen)[0], CROP, '--train-crop-mode pad'),
    Case('--crop-padding', '2', step('RandomCrop', 'padding'), 2, '--train-crop-mode pad'),
    Case('--scale', '0.5 0.6', step(CROP, 'scale'), (0.5, 0.6)),
    Case('--ratio', '1 2', step(CROP, 'ratio'), (1., 2.)),
    Case('--hflip', '0.25', step('RandomHorizontalFlip', 'p'), 0.25),
    Case('--vflip', '0.25', step('RandomVerticalFlip', 'p'), 0.25),
    Case('--color-jitter', '0.25', step('ColorJitter', 'contrast'), (0.75, 1.25)),
    Case('--aa', 'rand-m9', lambda seen: 'RandAugment' in step_names(seen), True),
    Case('--aa', 'original', lambda seen: 'AutoAugment' in step_names(seen), True),
    Case('--train-interpolation', 'nearest', step(CROP, 'interpolation'), InterpolationMode.NEAREST),
    Case('--reprob', '0.5', step('RandomErasing', 'probability'), 0.5),
    Case('--remode', 'const', step('RandomErasing', 'per_pixel'), False, '--reprob 1'),
    Case('--remode', 'rand', step('RandomErasing', 'rand_color'), True, '--reprob 1'),
    Case('--recount', '3', step('RandomErasing', 'max_count'), 3, '--reprob 1'),
    # mixup and cutmix
    Case('--mixup', '0.8', mixing_by_step, {'mixup'}),
    Case('--cutmix', '1', mixing_by_step, {'cutmix'}),
    Case('--cutmix-minmax', '0.5 0.6', cut_shares, True, '--img-size 32'),
    Case('--mixup-prob', '0.5', mixing_by_step, {'none', 'mixup'}, '--mixup 1'),
    Case('--mixup-switch-prob', '1', mixing_by_step, {'cutmix'}, '--mixup 1 --cutmix 1'),
    Case('--mixup-mode', 'pair', mixing_draws, 2, '--mixup 1'),
    Case('--mixup-mode', 'elem', mixing_draws, 4, '--mixup 1'),
    Case('--mixup-off-epoch', '2', mixing_by_epoch, ['mixup', 'mixup', 'none', 'none'], '--mixup 1'),
    Case('--smoothing', '0.3', lambda seen: round(max(mix(seen)[0]), 4), 0.8, '--mixup 1 --mixup-prob 0'),
    # distillation
    Case('--kd', 'kd', lambda seen: type(seen.method).__name__, 'KD', scripts='distill'),
    Case('--kd', 'kd dist', lambda seen: [type(method).__name__ for _, method in seen.training.task.lessons],
         ['KD', 'DIST'], scripts='distill'),
    Case('--kd-kwargs', 'bkd.temperature=3 temperature=5',
         lambda seen: [method.temperature for _, method in seen.training.task.lessons], [5, 3], '--kd kd bkd',
         scripts='distill'),
    Case('--kd-kwargs', 'temperature=3', lambda seen: seen.method.temperature, 3, scripts='distill'),
    Case('--teacher-dtype', 'bfloat16', lambda seen: seen.training.task.teacher.dtype, torch.bfloat16,
         scripts='distill'),
    Case('--teacher-resize', 'host', view_sizes, [8, 16], '--teacher-img-size 16 ', scripts='distill'),
    Case('--teacher-img-size', '16', lambda seen: seen.training.task.teacher.img_size, (16, 16), scripts='distill'),
    # run
    Case('--output', 'elsewhere', lambda seen: str(seen.folder.path.parent), 'elsewhere'),
    Case('--experiment', 'name', lambda seen: seen.folder.path.name, 'name'),
    Case('--val-interval', '2', evaluated, False),
    Case('--eval-metric', 'balanced', best_metric, 'balanced'),
    Case('--eval-metric', 'few', best_metric, 'few'),
]
AUGMENTATION = [case for case in CASES if case.option in {
    name for action_group in train_parser()._action_groups if action_group.title.startswith('augmentation')
    for action in action_group._group_actions for name in action.option_strings} - {'--smoothing'}]


def one_per_script(cases):
    return [pytest.param(script, case, id=f'{script} {case.option} {case.values}'.strip())
            for case in cases for script in case.scripts.split()]


for _case in CASES:
    covers(_case.scripts, _case.option)


# ---- the tests -------------------------------------------------------------------------------------------------------

def argv_of(base, paths, script, case, with_option=True):
    words = f'{case.given} {case.option} {case.values}' if with_option else case.given
    return base[script] + words.format(**paths).split()


@pytest.mark.parametrize('script, case', one_per_script(CASES))
def test_option(script, case, base, paths):
    argv = argv_of(base, paths, script, case)
    seen, without = case.look(reach(script, argv)), case.look(reach(script, argv_of(base, paths, script, case, False)))
    if case.expected is not DIFFERS:
        assert seen == case.expected
    assert without != seen if case.expected is DIFFERS else without != case.expected


@pytest.mark.parametrize('script, case', one_per_script(CASES))
def test_option_from_yaml(script, case, base, paths, tmp_path):
    args = parse(PARSERS[script](), argv_of(base, paths, script, case))
    (tmp_path / 'args.yaml').write_text(dump_config(args))
    assert dump_config(parse(PARSERS[script](), ['-c', str(tmp_path / 'args.yaml')])) == dump_config(args)


@pytest.mark.parametrize('script, case', [c for c in one_per_script(AUGMENTATION) if c.values[0] == 'train'])
def test_augmentation_changes_pixels(script, case, base, paths):
    def pixels(with_option):
        dataset = reach(script, argv_of(base, paths, script, case, with_option)).training.train_loader.dataset
        return torch.stack([dataset[0, i][0] for i in range(len(dataset))])
    assert not torch.equal(pixels(True), pixels(False))
    assert torch.equal(pixels(True), pixels(True))


def fails(capsys, script, argv):
    """The one line with which a script ends."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as e:
        getattr(run, script)(argv)
    assert e.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


@covers('train distill validate', '--config')
@pytest.mark.parametrize('script', PARSERS)
def test_config_file(script, base, paths, tmp_path):
    (tmp_path / 'config.yaml').write_text('val_split: test\n')
    assert num_val(reach(script, base[script])) == 9
    assert num_val(reach(script, [*base[script], '-c', str(tmp_path / 'config.yaml')])) == 6


@covers('train distill validate', '--import')
@pytest.mark.parametrize('script, name', [('train', '--model'), ('distill', '--student'), ('validate', '--model')])
def test_import(script, name, base, own_module, capsys):
    own_module('my_networks', '''
import timm

@timm.models.register_model
def my_network(pretrained=False, **kwargs):
    return timm.create_model('resnet20', **kwargs)
''')
    argv = [*base[script], name, 'my_network']
    assert 'my_network' in fails(capsys, script, argv)
    assert reach(script, [*argv, '--import', 'my_networks']).network.num_features == 64
    assert "no module 'my_network'" in fails(capsys, script, [*argv, '--import', 'my_network'])


@covers('distill validate', '--dataset')
def test_dataset_of_distill_and_validate(base, tmp_path):
    digits = ['--dataset', 'lt/digits', '--data-dir', '']
    assert class_names(reach('distill', [*base['distill'], *digits, '--teacher-checkpoint', ''])) == list('0123456789')
    torch.save(timm.create_model('resnet20', num_classes=10).state_dict(), tmp_path / 'ten.pt')
    seen = reach('validate', [str(tmp_path / 'ten.pt'), '--model', 'resnet20', *digits])
    assert class_names(seen) == list('0123456789') and seen.data.prior.num_classes == 10


@covers('train distill validate', '--dataset-download')
@pytest.mark.parametrize('script', PARSERS)
def test_dataset_download(script, base, monkeypatch, capsys, tmp_path):
    fetched = []

    def init(self, root, train=True, download=False, **kwargs):
        if download:
            fetched.append(root)
        elif not fetched:
            raise RuntimeError('Dataset not found or corrupted.')
        self.classes, self.targets = list(CLASSES), [0, 1, 2] * 4
        self.data, self.transform, self.target_transform = np.zeros((12, 8, 8, 3), np.uint8), None, None

    monkeypatch.setattr(CIFAR10, '__init__', init)
    argv = [*base[script], '--dataset', 'torch/cifar10', '--data-dir', str(tmp_path), '--train-split', 'train']
    assert '--dataset-download' in fails(capsys, script, argv)
    assert class_names(reach(script, [*argv, '--dataset-download'])) == list(CLASSES)
    assert set(fetched) == {str(tmp_path)}


@covers('train distill', '--num-classes')
@pytest.mark.parametrize('script', ['train', 'distill'])
def test_num_classes_is_checked(script, base, capsys):
    assert '--num-classes 4: the data have 3 classes' in fails(capsys, script, [*base[script], '--num-classes', '4'])
    assert reach(script, [*base[script], '--num-classes', '3']).network.num_classes == 3


@covers('train distill', '--initial-checkpoint')
@pytest.mark.parametrize('script', ['train', 'distill'])
def test_initial_checkpoint(script, base, paths):
    wanted = torch.load(paths['resnet20_pt'], weights_only=True)
    seen = reach(script, [*base[script], '--initial-checkpoint', str(paths['resnet20_pt'])])
    assert all(torch.equal(value, wanted[key]) for key, value in student(seen).state_dict().items())
    assert not torch.equal(reach(script, base[script]).network.conv1.weight, wanted['conv1.weight'])


@covers('train distill', '--new-head')
@pytest.mark.parametrize('script', ['train', 'distill'])
def test_new_head(script, base, tmp_path):
    torch.save(timm.create_model('resnet20', num_classes=5).state_dict(), tmp_path / 'five.pt')
    seen = reach(script, [*base[script], '--initial-checkpoint', str(tmp_path / 'five.pt'), '--new-head'])
    wanted = torch.load(tmp_path / 'five.pt', weights_only=True)
    for key, value in student(seen).state_dict().items():
        assert torch.equal(value, wanted[key]) != key.startswith('fc.')


@covers('train distill', '--small-image-stem')
@pytest.mark.parametrize('script, name', [('train', '--model'), ('distill', '--student')])
def test_small_image_stem(script, name, base):
    argv = [*base[script], name, 'resnet10']
    for words, side in ([], 7), (['--small-image-stem'], 3):
        assert student(reach(script, [*argv, *words])).conv1.kernel_size == (side, side)


@covers('train', '--stage')
@pytest.mark.parametrize('stage, trained', [('crt', ['fc.weight', 'fc.bias']), ('lws', ['fc.scale']), ('', None),
                                            ('head', ['fc.weight', 'fc.bias'])])
def test_stage(base, paths, stage, trained):
    argv = [*base['train'], '--imbalance-factor', '4', '--initial-checkpoint', str(paths['resnet20_pt'])]
    seen = reach('train', [*argv, *(['--stage', stage] if stage else [])])
    found = [name for name, p in student(seen).named_parameters() if p.requires_grad]
    assert found == trained if stage else len(found) == len(list(seen.network.parameters())) > 2
    assert shown(seen) == ([7, 7, 7] if stage in ('crt', 'lws') else [12, 6, 3])  # of 21 images
    argv = ['-c', str(paths['root'] / 'stage.yaml')]
    (paths['root'] / 'stage.yaml').write_text(dump_config(seen.args))
    assert dump_config(parse(train_parser(), argv)) == dump_config(seen.args)


@covers('train distill', '--pretrained')
@pytest.mark.parametrize('script, name', [('train', '--model'), ('distill', '--student')])
def test_pretrained(script, name, base, zoo):
    argv = [*base[script], name, 'test_resnet']
    key = 'layer1.0.conv1.weight'
    assert torch.equal(reach(script, [*argv, '--pretrained']).network.state_dict()[key], zoo[key])
    assert not torch.equal(reach(script, argv).network.state_dict()[key], zoo[key])


@covers('train distill', '--torchcompile', '--torchcompile-mode')
@pytest.mark.parametrize('script, networks', [('train', 1), ('distill', 2)])
def test_torchcompile(script, networks, base, monkeypatch):
    calls = []
    monkeypatch.setattr(torch.nn.Module, 'compile', lambda self, **kwargs: calls.append(kwargs))
    for words, expected in (
            ([], []),
            (['--torchcompile'], [dict(backend='inductor', mode=None)]),
            (['--torchcompile', 'eager'], [dict(backend='eager', mode=None)]),
            (['--torchcompile', '--torchcompile-mode', 'default'], [dict(backend='inductor', mode='default')]),
    ):
        calls.clear()
        assert reach(script, [*base[script], *words]).training and calls == expected * networks


@covers('train distill', '--cuda-graph')
@pytest.mark.parametrize('script', ['train', 'distill'])
def test_cuda_graph(script, base, monkeypatch):
    """What it does needs a GPU, or the emulation of tests/engine/test_graph.py; here, that a run steps by it."""
    assert type(reach(script, base[script]).training.step).__name__ == 'TrainingStep'
    monkeypatch.setattr(jobs, 'check_cuda_graph', lambda args, accelerator: None)
    assert type(reach(script, [*base[script], '--cuda-graph']).training.step).__name__ == 'GraphedStep'


@covers('train distill', '--seeds')
@pytest.mark.parametrize('script', ['train', 'distill'])
def test_seeds(script, base, monkeypatch):
    """What becomes of several is in tests/engine/test_together.py; one is a run as any other."""
    seen = reach(script, [*base[script], '--seeds', '7', '--experiment', 'name'])
    assert (seen.args.seed, seen.args.seeds, seen.folder.path.name) == (7, None, 'name-seed7')
    alone = reach(script, [*base[script], '--seed', '7'])
    assert seen.folder.key == alone.folder.key


@covers('train distill', '--push-to-hub', '--hub-private')
@pytest.mark.parametrize('script', ['train', 'distill'])
def test_push_to_hub(script, base, monkeypatch):
    """What is asked of the hub before the training; what is pushed after it is in tests/engine/test_hub.py."""
    asked = []
    monkeypatch.setattr(share, 'open_repository', lambda *wanted: asked.append(wanted))
    for words in ([], ['--push-to-hub'], ['--push-to-hub', 'me/net'], ['--push-to-hub', 'net', '--hub-private']):
        args = reach(script, [*base[script], *words]).args
        assert {'push_to_hub', 'hub_private'} <= vars(args).keys() and 'push_to_hub' not in dump_config(args)
    assert asked == [('auto', False), ('me/net', False), ('net', True)]


@covers('train distill', '--license')
@pytest.mark.parametrize('script', ['train', 'distill'])
def test_license(script, base, tmp_path, capsys):
    argv = [*base[script], '--epochs', '1', '--output', str(tmp_path)]
    for words, expected in ([], None), (['--license', 'cc-by-4.0'], 'cc-by-4.0'):
        getattr(run, script)([*argv, '--experiment', str(expected), *words])
        folder = tmp_path / str(expected)
        assert json.loads((folder / 'config.json').read_text())['pretrained_cfg'].get('license') == expected
        assert ModelCard.load(folder / 'README.md').data.license == expected
    assert "'CC BY' is no license" in fails(capsys, script, [*argv, '--license', 'CC BY'])


@covers('train distill', '--dist-bn')
@pytest.mark.parametrize('script', ['train', 'distill'])
def test_dist_bn(script, base, monkeypatch):
    calls = []
    monkeypatch.setattr(
        'timm_ltkd.engine.training.distribute_bn', lambda module, processes, reduce: calls.append((processes, reduce)))
    for words in ([], ['--dist-bn', 'reduce'], ['--dist-bn', 'broadcast']):
        training = reach(script, [*base[script], *words]).training
        training.accelerator = Namespace(num_processes=2)
        training._share_batch_norm()
    assert calls == [(2, True), (2, True), (2, False)]


@covers('train distill', '--log-interval')
@pytest.mark.parametrize('script', ['train', 'distill'])
def test_log_interval(script, base, monkeypatch):
    checks = []
    monkeypatch.setattr(LossWatch, 'check', lambda self, epoch: checks.append(epoch))
    counts = []
    for words in ([], ['--log-interval', '2'], ['--log-interval', '1']):  # of 3 batches
        checks.clear()
        reach(script, [*base[script], *words]).training.run_epoch()
        counts.append(len(checks))
    assert counts == [1, 2, 3]


@covers('train distill', '--list-losses')
@covers('distill', '--list-kd')
@pytest.mark.parametrize('script, option, lines', [
    ('train', '--list-losses', describe_losses()), ('distill', '--list-losses', describe_losses()),
    ('distill', '--list-kd', describe_methods())])
def test_lists(script, option, lines, tmp_path, capsys):
    for argv in ([option], ['--epochs', '3', option]):
        with pytest.raises(SystemExit) as stopped:
            getattr(run, script)(argv)
        out, err = capsys.readouterr()
        assert not stopped.value.code and not err
        assert dict(line.split(maxsplit=1) for line in out.splitlines()) == lines
    (tmp_path / 'config.yaml').write_text(f'{option[2:]}: true')  # no part of a run
    assert 'unknown key' in fails(capsys, script, ['-c', str(tmp_path / 'config.yaml')])
    assert option[2:].replace('-', '_') not in parse(PARSERS[script](), [])


def tree(folder):
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.rglob('*') if path.is_file()}


@covers('train distill', '--resume', '--overwrite', '--log-with')
@pytest.mark.parametrize('script', ['train', 'distill'])
def test_resume_overwrite_and_trackers(script, base, tmp_path, capsys, log):
    folder = tmp_path / 'run'
    argv = [*base[script], '--epochs', '1', '--output', str(tmp_path), '--experiment', 'run']
    getattr(run, script)([*argv, '--log-with', 'tensorboard'])
    assert list(folder.rglob('events.out.tfevents*'))
    before = tree(folder)
    assert '--resume auto continues it, --overwrite replaces it' in fails(capsys, script, argv)
    assert tree(folder) == before

    for words in (['--resume', 'auto'], ['--experiment', 'other', '--resume', str(folder)]):
        log.clear()
        getattr(run, script)([*argv, *words])
        assert f'resuming {folder} after epoch 1 of 1' in log
    checkpoint = Path('last/checkpoint-000001.pt')
    assert tree(folder)[checkpoint] == before[checkpoint] and not (tmp_path / 'other').exists()

    (folder / 'of the old run').touch()
    getattr(run, script)([*argv, '--overwrite'])
    assert not (folder / 'of the old run').exists() and not list(folder.rglob('events.out*'))
    assert (folder / 'report.json').is_file() and tree(folder)[checkpoint] != before[checkpoint]


@pytest.mark.parametrize('script', ['train', 'distill'])
def test_args_yaml_repeats_the_run(script, base, tmp_path):
    argv = [*base[script], '--epochs', '1', '--output', str(tmp_path), '--lr', '1e-5', '--loss-kwargs', 'smoothing=0.1']
    getattr(run, script)([*argv, '--experiment', 'one'])
    getattr(run, script)(['-c', str(tmp_path / 'one' / 'args.yaml'), '--output', str(tmp_path), '--experiment', 'two'])
    for name in ('args.yaml', 'summary.csv', 'model.safetensors', 'per_class.csv'):
        assert (tmp_path / 'one' / name).read_bytes() == (tmp_path / 'two' / name).read_bytes(), name


class TestTeacher:
    """What `distill` trains first, or loads."""

    @pytest.fixture
    def argv(self, base):
        return [*base['distill'], '--teacher-checkpoint', '']

    @covers('distill', '--teacher')
    def test_teacher(self, argv):
        stage = reach('distill', [*argv, '--teacher', 'resnet32', '--no-teacher-pretrained'])
        assert stage.method is None and stages(stage) == [5, 5, 5]
        assert stages(reach('distill', argv)) == [3, 3, 3]

    @covers('distill', '--teacher-checkpoint')
    def test_teacher_checkpoint(self, base, argv, paths):
        seen = reach('distill', base['distill'])
        wanted = torch.load(paths['resnet20_pt'], weights_only=True)
        assert all(torch.equal(value, wanted[key]) for key, value in seen.teacher.model.state_dict().items())
        assert reach('distill', argv).teacher is None  # the teacher itself is trained

    @covers('distill', '--teacher', '--teacher-checkpoint')
    def test_several_teachers(self, base, argv, paths):
        checkpoints = [str(paths['resnet20_pt']), str(paths['test_resnet_pt'])]
        seen = reach('distill', [
            *argv, '--teacher', 'resnet20', 'test_resnet', '--teacher-checkpoint', *checkpoints, '--kd', 'kd'])
        for teacher, path in zip(seen.teacher.teachers, checkpoints, strict=True):
            wanted = torch.load(path, weights_only=True)
            assert all(torch.equal(value, wanted[key]) for key, value in teacher.model.state_dict().items())

    @covers('distill', '--teacher-tune')
    def test_teacher_tune(self, argv, zoo):
        argv = [*argv, '--teacher', 'test_resnet']
        assert reach('distill', argv).args.stage is None
        assert reach('distill', [*argv, '--teacher-tune', 'all']).args.stage is None
        assert reach('distill', [*argv, '--teacher-tune', 'head']).args.stage == 'head'
        seen = reach('distill', [*argv, '--teacher-tune', 'none'])  # the student's training
        assert all(torch.equal(value, zoo[key]) for key, value in seen.teacher.model.state_dict().items())

    @covers('distill', '--teacher-class-map')
    def test_teacher_class_map(self, base, tmp_path):
        (tmp_path / 'map.txt').write_text('2\n0\n1\n')
        assert reach('distill', base['distill']).teacher.class_map is None
        seen = reach('distill', [*base['distill'], '--teacher-class-map', str(tmp_path / 'map.txt')])
        assert seen.teacher.class_map.tolist() == [2, 0, 1]

    @covers('distill', '--teacher-small-image-stem')
    def test_teacher_small_image_stem(self, argv):
        argv = [*argv, '--teacher', 'resnet10', '--no-teacher-pretrained']
        for words, side in ([], 7), (['--teacher-small-image-stem'], 3):
            assert student(reach('distill', [*argv, *words])).conv1.kernel_size == (side, side)

    @covers('distill', '--teacher-config')
    def test_teacher_config(self, argv, tmp_path):
        (tmp_path / 'teacher.yaml').write_text('epochs: 9\nopt: adamw\n')
        stage = reach('distill', [*argv, '--teacher-config', str(tmp_path / 'teacher.yaml')])
        assert stage.training.epochs == 9 and optimizer_name(stage) == 'AdamW'
        stage = reach('distill', argv)
        assert stage.training.epochs == 4 and optimizer_name(stage) == 'SGD'

    @covers('distill', '--teacher-pretrained')
    def test_teacher_pretrained(self, argv, zoo):
        key = 'layer1.0.conv1.weight'
        for words, expected in (([], True), (['--teacher-pretrained'], True), (['--no-teacher-pretrained'], False)):
            stage = reach('distill', [*argv, '--teacher', 'test_resnet', *words])
            assert torch.equal(stage.network.state_dict()[key], zoo[key]) is expected, words

    def test_teacher_pretrained_where_there_are_no_weights(self, argv, capsys):
        assert reach('distill', argv).method is None
        assert "no pretrained weights for 'resnet20'" in fails(capsys, 'distill', [*argv, '--teacher-pretrained'])

    def test_its_args_yaml_says_what_it_started_from(self, argv, zoo, tmp_path):
        argv = [*argv, '--teacher', 'test_resnet', '--epochs', '1', '--output', str(tmp_path)]
        for words, expected in (([], True), (['--no-teacher-pretrained'], False)):
            run.distill([*argv, *words, '--experiment', 'run', '--overwrite'])
            newest = max(tmp_path.glob('teachers/*/args.yaml'), key=lambda path: path.stat().st_mtime_ns)
            assert parse(train_parser(), ['-c', str(newest)]).pretrained is expected

    def test_its_folder_tells_recipes_apart(self, argv):
        names = [reach('distill', [*argv, *words]).folder.path.name for words in (
            [], ['--epochs', '5'], ['--student', 'resnet32'], ['--workers', '1'], ['--no-teacher-pretrained'])]
        assert names[1] != names[0] == names[2] == names[3] == names[4]


@covers('distill', '--teacher-bank', '--bank-views', '--bank-top-k', '--bank-dtype')
def test_teacher_bank(base, tmp_path):
    argv = [*base['distill'], '--loader', 'resident', '--train-crop-mode', 'pad', '--color-jitter', '0']

    def made(name, *words):
        bank = reach('distill', [*argv, '--teacher-bank', str(tmp_path / name), *words]).training.bank.bank
        return bank.file.count // 36, bank.layout.dtype, bank.layout.top_k
    assert reach('distill', argv).training.bank is None
    assert made('exact') == (162, 'float32', None) and (tmp_path / 'exact/bank.json').is_file()
    assert made('views', '--bank-views', '5') == (5, 'float32', None)
    assert made('top', '--bank-top-k', '2') == (162, 'float32', 2)
    assert made('half', '--bank-dtype', 'float16') == (162, 'float16', None)


class TestValidate:
    @covers('validate', '--model')
    def test_weights_of_a_network(self, base, paths, capsys):
        nameless = [word for word in base['validate'] if word not in ('--model', 'resnet20')]
        assert 'say of which network with --model' in fails(capsys, 'validate', nameless)
        seen, wanted = reach('validate', base['validate']), torch.load(paths['resnet20_pt'], weights_only=True)
        assert all(torch.equal(value, wanted[key]) for key, value in seen.network.state_dict().items())
        assert 'resnet20.pt' in fails(capsys, 'validate', [*base['validate'], '--model', 'resnet32'])

    @covers('validate', '--pretrained')
    def test_pretrained(self, base, zoo, capsys):
        argv = [*base['validate'][1:], '--model', 'test_resnet']
        assert 'name a checkpoint' in fails(capsys, 'validate', argv)
        seen = reach('validate', [*argv, '--pretrained'])
        assert torch.equal(seen.network.state_dict()['layer1.0.conv1.weight'], zoo['layer1.0.conv1.weight'])

    @covers('validate', '--results-file')
    def test_results_file_and_checkpoints(self, base, tmp_path, monkeypatch, capsys):
        torch.manual_seed(2)
        torch.save(timm.create_model('resnet20', num_classes=3).state_dict(), tmp_path / 'b.pt')
        argv = [str(tmp_path / 'b.pt'), *base['validate']]
        monkeypatch.chdir(tmp_path)
        run.validate(argv)
        out = capsys.readouterr().out
        assert [path.name for path in tmp_path.iterdir()] == ['b.pt']
        assert all(f'\n{path} ' in out for path in argv[:2])
        run.validate([*argv, '--results-file', 'r.json'])
        figures = json.loads((tmp_path / 'r.json').read_text())
        assert list(figures) == argv[:2] and {'top1', 'balanced', 'few', 'per_class'} <= figures[argv[0]].keys()
        assert figures[argv[0]]['loss'] != figures[argv[1]]['loss']
        run.validate([*argv, '--results-file', 'r.csv'])
        header, *rows = (tmp_path / 'r.csv').read_text().splitlines()
        assert header.startswith('checkpoint,top1') and [row.split(',')[0] for row in rows] == argv[:2]

    @covers('validate', '--predict', '--predictions-file', '--topk')
    def test_predictions(self, base, paths, tmp_path, capsys):
        weights, pictures = base['validate'][0], str(paths['data'] / 'val' / 'ant')
        argv = [weights, '--model', 'resnet20', '--img-size', '8', '--workers', '0', '--predict', pictures]
        run.validate(argv)
        header, *rows = capsys.readouterr().out.splitlines()
        assert len(rows) == 3 and header.endswith('class_3,prob_3')
        run.validate([*argv, '--topk', '1', '--predictions-file', str(tmp_path / 'p.csv')])
        assert capsys.readouterr().out == ''
        header, *some = (tmp_path / 'p.csv').read_text().splitlines()
        assert header == 'file,class,probability,class_1,prob_1'
        assert [row.split(',')[:2] for row in some] == [row.split(',')[:2] for row in rows]

    def test_predictions_from_yaml(self, base, paths, tmp_path, capsys):
        pictures = paths['data'] / 'val' / 'bee'
        (tmp_path / 'p.yaml').write_text(f'predict: {pictures}\ntopk: 2\nworkers: 0\nimg-size: 8\nmodel: resnet20')
        run.validate([base['validate'][0], '-c', str(tmp_path / 'p.yaml')])
        header, *rows = capsys.readouterr().out.splitlines()
        assert len(rows) == 3 and header.endswith('class_2,prob_2')

    @covers('validate', '--tau-norm', '--logit-adjust', '--eval-metric')
    def test_posthoc_fixes(self, base, tmp_path, capsys, log):
        def rows(*words):
            run.validate([*base['validate'], *words, '--results-file', str(tmp_path / 'r.json')])
            return {name.partition('.pt')[2].strip(): row
                    for name, row in json.loads((tmp_path / 'r.json').read_text()).items()}
        assert list(rows('--tau-norm', '0.5', '--logit-adjust', '2')) == ['', 'tau-norm 0.5', 'logit-adjust 2']
        assert 'no holdout to choose on' in fails(capsys, 'validate', [*base['validate'], '--tau-norm', 'sweep'])
        held_out = ['--imbalance-factor', '4', '--holdout', '0.5', '--logit-adjust', '999', '1000']
        for words, metric, figure in (
                ([], 'balanced', 33.33), (['--eval-metric', 'balanced'], 'balanced', 33.33),
                (['--eval-metric', 'top1'], 'top1', 18.18), (['--eval-metric', 'few'], 'few', 33.33)):
            log.clear()
            rows(*held_out, *words)  # all of 6, 3 and 2 held-out images are taken for the rarest class
            figures = f'999: {figure}, 1000: {figure}; τ = 999'
            assert f'--logit-adjust: {metric} on the holdout by τ: {figures}' in log

    def test_a_run_brings_its_data(self, base, paths, tmp_path):
        where = ['--output', str(tmp_path), '--experiment', 'run']
        run.train([*base['train'], '--epochs', '1', '--imbalance-factor', '4', *where])
        argv = [str(tmp_path / 'run'), '--workers', '0']
        assert counts(reach('validate', argv)) == [12, 6, 3]
        assert num_val(reach('validate', [*argv, '--val-split', 'test'])) == 6


def test_every_option_is_covered():
    COVERED['validate'].add('checkpoint')  # TestValidate.test_results_file_and_checkpoints
    for script, parser in PARSERS.items():
        assert {action.dest for action in parser()._actions} == COVERED[script], script
