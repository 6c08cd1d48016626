"""Options of the three scripts, and what each of them changes."""
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import timm
import torch
from front_door import covers
from timm.utils import unwrap_model
from torchvision.transforms import InterpolationMode

import timm_ltkd  # noqa: F401
from timm_ltkd.cli.arguments import train_parser
from timm_ltkd.data import Views, long_tail_indices


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


def of_teacher(figure):
    return lambda seen: [
        round(value, 6) for value in getattr(seen.training.task.teacher.pixels, figure).flatten().tolist()]


def resident_shape(seen):
    return seen.training.train_loader.images.layout[1:3]


def batch_sizes(seen):
    sampler = seen.training.train_loader.batch_sampler
    return {len(batch) for batch in sampler}


def eval_batch_size(seen):
    return seen.loaders[-1].batch_size


def eval_size(seen):
    return list(next(iter(seen.loaders[-1]))[0].shape[-2:])


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
    pixels, _ = next(iter(seen.training.train_loader))
    return [view.shape[-1] for view in (pixels if isinstance(pixels, Views) else [pixels])]


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
    return seen.training.loop.updates


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


class Case(NamedTuple):
    option: str
    values: str
    look: Callable
    expected: Any
    given: str = ''
    scripts: str = 'train distill'


ALL = 'train distill validate'
DIFFERS = object()  # any other value will do
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
    Case('--loader', 'timm', loader_kinds, ['DeviceLoader', 'DeviceLoader'], PADDED),
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
    Case('--teacher-mean', '0.1 0.2 0.3', of_teacher('mean'), [0.1, 0.2, 0.3], scripts='distill'),
    Case('--teacher-std', '0.25', of_teacher('std'), [0.25] * 3, scripts='distill'),
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


def argv_of(base, paths, script, case, with_option=True):
    """The command line of a case, or the same without the option that it is about."""
    words = f'{case.given} {case.option} {case.values}' if with_option else case.given
    return base[script] + words.format(**paths).split()


def one_per_script(cases):
    return [pytest.param(script, case, id=f'{script} {case.option} {case.values}'.strip())
            for case in cases for script in case.scripts.split()]


for _case in CASES:
    covers(_case.scripts, _case.option)
