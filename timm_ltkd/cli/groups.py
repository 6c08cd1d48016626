"""The options that commands share, in groups; timm's names wherever timm has the option."""
import argparse

from .. import distill
from ..data import CLASS_SAMPLINGS, CROP_MODES, ERASE_MODES, HOLDOUT_TYPES, IMBALANCE_TYPES
from .kinds import (
    COUNT,
    NATURAL,
    NOT_NEGATIVE,
    PIXEL_MEAN,
    PIXEL_STD,
    POSITIVE,
    SEED,
    SHARE,
    AddressedKeyValues,
    FileOfOptions,
    KeyValues,
    OneOrMore,
    Parser,
    PrintLines,
    license_name,
    number,
)


def add_flag(group, name: str, help: str, default: bool | None = False) -> None:
    """An option that is on or, with `no-` before its name, off."""
    group.add_argument(name, action=argparse.BooleanOptionalAction, default=default, help=help)


def add_data(parser: Parser) -> None:
    group = parser.add_argument_group('data')
    add = group.add_argument
    add('--dataset', metavar='NAME',
        help="any name timm.data.create_dataset takes ('' or a folder reader for image folders), or lt/NAME to make "
             'its training split long-tailed; lt/digits needs no download (default: lt/digits; lt/list with a '
             '--train-list)')
    add('--data-dir', metavar='DIR', help='root folder of the data')
    add('--train-list', metavar='FILE',
        help='the training images by a list: on each line a path, of --data-dir or absolute, a blank and the index of '
             'its class')
    add('--val-list', metavar='FILE',
        help='the same of the images to measure on (default: the --val-split folder below --data-dir)')
    add('--train-split', metavar='NAME', default='train',
        help="(default: %(default)s); validate.py takes '' for none, and classes and counts from the network")
    add('--val-split', metavar='NAME', default='validation', help='(default: %(default)s)')
    add('--class-map', metavar='FILE', help='class to index map, as timm reads it; names the classes of a --train-list')
    add('--input-key', metavar='NAME',
        help='column of the images of an hfds/ or hfids/ data set (default: image); endings of image files in wds/ '
             'shards (default: jpg;png;webp)')
    add('--target-key', metavar='NAME',
        help='column of the labels (default: label); entry of the JSON files in wds/ shards (default: the .cls files)')
    add_flag(group, '--dataset-download', 'download torch/ datasets that are not there')
    add('--imbalance-factor', metavar='F', type=number(float, least=1),
        help='images of the largest class over images of the smallest, for lt/ datasets (default: no sub-selection; '
             'the data set of lt/digits has its own)')
    add('--imbalance-type', choices=IMBALANCE_TYPES, default='exp',
        help='profile over classes (default: %(default)s)')
    add('--imbalance-seed', metavar='N', type=SEED, default=0, help='selects the images (default: %(default)s)')
    add('--max-per-class', metavar='N', type=NATURAL,
        help='images of the largest class (default: the smallest class of the whole set)')
    add('--class-counts', metavar='FILE',
        help='training images per class from a file, instead of a factor; of a stream (hfids/, wds/) how many it has')
    add('--holdout', metavar='P', type=number(float, least=0, most=0.5), default=0.,
        help='hold this share of the training images out of training: it is evaluated after each epoch and chooses the '
             'best one, which is exported; the --val-split is then evaluated at the end only (default: no holdout)')
    add('--holdout-type', choices=HOLDOUT_TYPES, default='proportional',
        help='the share of each class, at least one image (proportional), or the same number of each class, at most '
             'half of it (balanced); --imbalance-seed selects the images (default: %(default)s)')
    add('--many-shot', metavar='N', type=COUNT, default=100,
        help='classes with more training images are many-shot in reports (default: %(default)s)')
    add('--few-shot', metavar='N', type=COUNT, default=20,
        help='classes with fewer are few-shot, the rest medium-shot (default: %(default)s)')
    add('--on-bad-image', choices=('error', 'skip'), default='error',
        help='an image that cannot be read ends the run, once it is met (error); or all images are read once before '
             'training, and those that cannot be are left out and listed in the report (skip) (default: %(default)s)')
    add('-j', '--workers', metavar='N', type=COUNT,
        help='loader workers per process, at most one a core (default: the data set\'s; see below)')
    add_flag(group, '--pin-mem',
             'batches in page-locked memory, which a GPU fetches while the host goes on (default: if there is one)',
             default=None)


def add_loading(parser: Parser) -> None:
    group = parser.add_argument_group('loading')
    add = group.add_argument
    add('--loader', choices=('auto', 'timm', 'resident'), default='auto',
        help='decode and augment each image whenever it is shown (timm), or decode all once, keep them in memory as '
             'bytes, and crop, flip and erase whole batches (resident), with the same distribution but other draws; '
             'auto is resident where a quarter of the memory holds them, for --train-crop-mode pad or --no-aug without '
             '--aa and --color-jitter (default: %(default)s)')
    add('--resident-size', metavar='N', type=NATURAL,
        help='keep images in memory as squares of so many pixels, resized and cropped at the centre: for the other '
             '--train-crop-mode with --loader resident (default: as they are, if all have one size)')


def add_pixels(parser: Parser, without: str) -> argparse._ArgumentGroup:
    group = parser.add_argument_group('input', f'Without an option: {without}')
    add = group.add_argument
    add('--img-size', metavar='N', type=NATURAL, help='side of the images in pixels')
    add('--mean', type=PIXEL_MEAN, nargs='+', metavar='M', help='mean that inputs are normalised with')
    add('--std', type=PIXEL_STD, nargs='+', metavar='S', help='standard deviation that inputs are normalised with')
    add('--interpolation', metavar='NAME', help='resize interpolation for evaluation')
    add('--crop-pct', metavar='P', type=number(float, above=0, most=1), help='centre crop share for evaluation')
    return group


def add_input(parser: Parser) -> None:
    add_pixels(parser, 'the data set\'s own, else the model\'s').add_argument(
        '-vb', '--validation-batch-size', metavar='N', type=NATURAL, help='per process (default: the batch size)')


def add_network(parser: Parser) -> None:
    group = parser.add_argument_group('network')
    add = group.add_argument
    add_flag(group, '--pretrained', 'start from the pretrained weights that timm knows')
    add('--initial-checkpoint', metavar='FILE', help='start from these weights, or those in a run\'s folder')
    add_flag(group, '--new-head',
             'train a new classifier instead of that of the --initial-checkpoint, whatever its classes')
    add_flag(group, '--small-image-stem',
             'ResNets of timm: a first convolution of 3x3 with stride 1 and no pooling, for images of 32 or 64 pixels')
    add('--num-classes', metavar='N', type=NATURAL, help='checked against the data, which decides')
    add('--drop', metavar='P', type=SHARE, default=0., help='dropout of the classifier (default: %(default)s)')
    add('--drop-path', metavar='P', type=SHARE, help='stochastic depth (default: the model\'s)')
    add('--gp', metavar='POOL', help='global pooling type (default: the model\'s)')
    add_model_kwargs(group)
    add_flag(group, '--grad-checkpointing',
             'compute activations again instead of keeping them: less memory, more time; batch norm counts them twice')


def add_model_kwargs(group) -> None:
    group.add_argument(
        '--model-kwargs', nargs='*', action=KeyValues, default={}, metavar='K=V', help='more for the model')


def add_speed(parser: Parser) -> None:
    group = parser.add_argument_group('speed')
    add = group.add_argument
    add_flag(group, '--channels-last', 'channels_last memory layout, in which convolutions are faster', True)
    add('--torchcompile', nargs='?', const='inductor', metavar='BACKEND', help='torch.compile (backend: inductor)')
    add('--torchcompile-mode', metavar='MODE', help='mode of torch.compile')
    add_flag(group, '--cuda-graph', 'record the training step once, and replay it as one launch; on one CUDA GPU')


def add_optimisation(parser: Parser) -> None:
    group = parser.add_argument_group('optimisation')
    add = group.add_argument
    add('--epochs', metavar='N', type=NATURAL, help='(default: the data set\'s; see below)')
    add('-b', '--batch-size', metavar='N', type=NATURAL, help='per process (default: the data set\'s)')
    add('--lr', metavar='LR', type=POSITIVE, help='learning rate of the global batch (default: the data set\'s)')
    add('--weight-decay', metavar='W', type=NOT_NEGATIVE, help='(default: the data set\'s)')
    add('--class-sampling', choices=CLASS_SAMPLINGS,
        help='an epoch shows each image once (instance), all classes equally often (class), classes by the square root '
             'of their size (sqrt), or goes from the first to the second over the epochs (default: instance; class in '
             'the stages crt and lws of train.py)')
    add('--grad-accum-steps', metavar='N', type=NATURAL, default=1, help='batches per update (default: %(default)s)')
    add('--opt', metavar='NAME', default='sgd', help='any timm optimizer; sgd is Nesterov, momentum is not '
                                                     '(default: %(default)s)')
    add('--momentum', metavar='M', type=SHARE, default=0.9, help='(default: %(default)s)')
    add('--opt-eps', metavar='EPS', type=POSITIVE, help='(default: the optimizer\'s)')
    add('--opt-betas', metavar='B', type=SHARE, nargs='+', help='(default: the optimizer\'s)')
    add('--opt-kwargs', nargs='*', action=KeyValues, default={}, metavar='K=V', help='more for the optimizer')
    add_flag(group, '--filter-bias-and-bn', 'no weight decay on biases and norm layers', default=True)
    add('--layer-decay', metavar='D', type=number(float, above=0, most=1), help='layer-wise learning rate decay')
    add('--clip-grad', metavar='V', type=POSITIVE, help='clip gradients (default: no)')
    add('--clip-mode', choices=('norm', 'value', 'agc'), default='norm', help='(default: %(default)s)')
    add('--sched', metavar='NAME', default='cosine', choices=('cosine', 'tanh', 'step', 'multistep', 'plateau', 'poly'),
        help='timm schedule: %(choices)s (default: %(default)s)')
    add_flag(group, '--sched-on-updates', 'step the schedule after each update, not each epoch')
    add('--warmup-epochs', metavar='N', type=COUNT, default=5, help='(default: %(default)s)')
    add('--warmup-lr', metavar='LR', type=NOT_NEGATIVE, default=1e-5, help='(default: %(default)s)')
    add_flag(group, '--warmup-prefix', 'the schedule starts after the warm-up')
    add('--min-lr', metavar='LR', type=NOT_NEGATIVE, default=0., help='(default: %(default)s)')
    add('--decay-milestones', metavar='N', type=COUNT, nargs='+', default=[90, 180, 270],
        help='of multistep: N lowers the rate from epoch N on, counted from 1 (default: %(default)s)')
    add('--decay-epochs', metavar='N', type=POSITIVE, default=90., help='of step (default: %(default)s)')
    add('--decay-rate', metavar='R', type=POSITIVE, default=0.1,
        help='of step, multistep, plateau; the power of poly (default: %(default)s)')
    add('--cooldown-epochs', metavar='N', type=COUNT, default=0, help='at the end, at min-lr (default: %(default)s)')
    add('--patience-epochs', metavar='N', type=COUNT, default=10, help='of plateau (default: %(default)s)')
    add_flag(group, '--model-ema', 'keep a moving average of the weights; it is what is evaluated and exported')
    add('--model-ema-decay', metavar='D', type=SHARE, default=0.9998, help='(default: %(default)s)')
    add_flag(group, '--model-ema-warmup', 'let the decay rise from 0')
    add('--dist-bn', choices=('reduce', 'broadcast'), default='reduce',
        help='several processes: average batch-norm statistics before evaluation, or take the first\'s '
             '(default: %(default)s)')
    add('--seed', metavar='N', type=SEED, default=42,
        help='initial weights, order, augmentation (default: %(default)s)')
    add('--seeds', metavar='N', type=SEED, nargs='+',
        help='train a network for each of these seeds, several at once where that is possible, each in a folder of its '
             'own and as by --seed')


def add_augmentation(parser: Parser) -> None:
    group = parser.add_argument_group('augmentation and regularisation')
    add = group.add_argument
    add('--no-aug', action='store_true', help='no augmentation of single images')  # add_flag takes no- for a negation
    add('--aug', action='store_false', dest='no_aug', default=False, help='the opposite, where a file says no_aug')
    add('--train-crop-mode', choices=CROP_MODES,
        help='pad: pad and crop, as usual for CIFAR; the others are timm\'s (default: the data set\'s)')
    add('--crop-padding', metavar='N', type=COUNT, default=4, help='pixels, of pad (default: %(default)s)')
    add('--scale', metavar='S', type=POSITIVE, nargs=2,
        help='area of random resized crops (default: 0.08 1; of rkrc and rkrr 0.8 1)')
    add('--ratio', metavar='R', type=POSITIVE, nargs=2,
        help='aspect of random resized crops (default: 0.75 1.33; of rkrc and rkrr 0.9 1.11)')
    add('--hflip', metavar='P', type=SHARE, help='horizontal flip (default: the data set\'s)')
    add('--vflip', metavar='P', type=SHARE, default=0., help='vertical flip (default: %(default)s)')
    add('--color-jitter', metavar='V', type=NOT_NEGATIVE, help='(default: the data set\'s)')
    add('--aa', metavar='NAME', help='AutoAugment/RandAugment policy, e.g. original or rand-m9-mstd0.5')
    add('--train-interpolation', metavar='NAME', default='random', help='(default: %(default)s)')
    add('--reprob', metavar='P', type=SHARE, default=0., help='random erasing (default: %(default)s)')
    add('--remode', choices=ERASE_MODES, default='pixel', help='(default: %(default)s)')
    add('--recount', metavar='N', type=NATURAL, default=1, help='(default: %(default)s)')
    add('--smoothing', metavar='S', type=SHARE, default=0., help='label smoothing (default: %(default)s)')


def add_mixing(parser: Parser) -> None:
    group = parser.add_argument_group('mixup and cutmix', 'timm\'s; the teacher sees the mixed images too')
    add = group.add_argument
    add('--mixup', metavar='A', type=NOT_NEGATIVE, default=0., help='alpha of mixup; 0 for none (default: %(default)s)')
    add('--cutmix', metavar='A', type=NOT_NEGATIVE, default=0., help='the same of cutmix (default: %(default)s)')
    add('--cutmix-minmax', metavar='S', type=SHARE, nargs=2,
        help='cutmix with boxes whose sides are between these shares of the image\'s, instead of by alpha')
    add('--mixup-prob', metavar='P', type=SHARE, default=1.,
        help='share of batches (pairs, images) that are mixed (default: %(default)s)')
    add('--mixup-switch-prob', metavar='P', type=SHARE, default=0.5,
        help='share of cutmix where both are on (default: %(default)s)')
    add('--mixup-mode', choices=('batch', 'pair', 'elem'), default='batch',
        help='draw anew for each batch, pair of images, or image (default: %(default)s)')
    add('--mixup-off-epoch', metavar='N', type=COUNT, default=0,
        help='mix no more from epoch N on, counted from 0; 0 for never (default: %(default)s)')


def add_loss(parser: Parser) -> None:
    group = parser.add_argument_group('hard-label loss')
    group.add_argument('--loss', metavar='NAME', default='ce',
                       help=f'{", ".join(distill.list_losses())} (default: %(default)s)')
    group.add_argument('--loss-kwargs', nargs='*', action=KeyValues, default={}, metavar='K=V', help='its options')
    group.add_argument('--list-losses', action=PrintLines, describe=distill.describe_losses,
                       help='print the losses with their papers, and exit')


def add_distillation(parser: Parser) -> None:
    group = parser.add_argument_group('distillation')
    add = group.add_argument
    add('--student', metavar='MODEL', default='resnet20', help='any timm model (default: %(default)s)')
    add('--teacher', metavar='MODEL', action=OneOrMore, default='resnet32',
        help='any timm model; several teach the mean of their logits (default: %(default)s)')
    add('--teacher-checkpoint', metavar='PATH', action=OneOrMore,
        help='a run\'s folder, hf-hub:NAME or a file of weights, for each teacher; without it the teacher is trained '
             'first, on the same data, and kept in teachers/ under the output folder for the next run')
    add('--teacher-seed', metavar='N', type=SEED, help='of its own training (default: 1042, whatever the --seed)')
    add('--teacher-config', metavar='FILE', action=FileOfOptions,
        help='YAML: how to train the teacher, where that differs from the student')
    add_flag(group, '--teacher-pretrained', 'start the teacher from pretrained weights (default: if to be had)', None)
    add('--teacher-tune', choices=('all', 'head', 'none'),
        help='train all of the teacher on this data first, or only a new head on frozen weights that are there, or '
             'take them with the head they have (default: all; none with a --teacher-checkpoint)')
    add('--teacher-class-map', metavar='FILE', action=OneOrMore,
        help='for a teacher of another label space that is taken as it is: its index of each class of the data, as '
             'JSON (a dict by name, or a list) or lines (an index, or name and index); one for all teachers, or each')
    add('--teacher-img-size', metavar='N', type=NATURAL,
        help='the teacher is trained on and sees images of this side (default: the student\'s where it is trained '
             'whole, else that of its weights)')
    add('--teacher-mean', metavar='M', type=PIXEL_MEAN, nargs='+',
        help='mean that the teacher\'s inputs are normalised with (default: as its weights say, else as is usual for '
             'the model; of a teacher from scratch the student\'s)')
    add('--teacher-std', metavar='S', type=PIXEL_STD, nargs='+', help='the same of the standard deviation')
    add('--teacher-resize', choices=('device', 'host'), default='device',
        help='make the teacher\'s pixels of the student\'s, on the device, or of the image itself, by Pillow in the '
             'loader (default: %(default)s)')
    add('--teacher-dtype', choices=('float32', 'bfloat16', 'float16'), default='float32',
        help='precision of the teacher\'s weights (default: %(default)s)')
    add_flag(group, '--teacher-small-image-stem', 'train the teacher with --small-image-stem')
    add('--teacher-bank', metavar='DIR',
        help='keep what the teacher says of each view of each image in this folder, and do not ask it again, in this '
             'run or in others with the same teacher, data and augmentation')
    add('--bank-views', metavar='N', type=NATURAL,
        help='show each image in so many views, by turns: for augmentation with more than a bank can hold (default: '
             'all that there are, of --train-crop-mode pad and flips with --loader resident, or of --no-aug)')
    add('--bank-top-k', metavar='K', type=NATURAL,
        help='keep the K largest logits of an image, and spread the rest of the mass evenly (default: keep all)')
    add('--bank-dtype', choices=distill.BANK_DTYPES, default='float32',
        help='in which the bank keeps them; float16 takes half the room and rounds (default: %(default)s)')
    add_flag(group, '--bank-features', 'keep the teacher\'s features too, for later runs whose methods need them')
    add('--kd', metavar='NAME', action=OneOrMore, default='bkd',
        help=f'{", ".join(distill.list_methods())}; several teachers teach the mean of their logits by one method, or '
             'each by its own of as many, averaged; one teacher by several methods, added (default: %(default)s)')
    add('--kd-kwargs', nargs='*', action=AddressedKeyValues, default={}, metavar='K=V',
        help='its options; of several methods K=V is for all that have this option, NAME.K=V for one')
    add('--list-kd', action=PrintLines, describe=distill.describe_methods,
        help='print the methods with their papers, and exit')


def add_run(parser: Parser) -> None:
    group = parser.add_argument_group('run')
    add = group.add_argument
    add('--output', metavar='DIR', default='output', help='where runs go (default: %(default)s)')
    add('--experiment', metavar='NAME', help='this run\'s folder in it (default: date, time and names)')
    add('--resume', metavar='PATH', help="continue the run in this folder; 'auto' finds the run with these settings "
                                         'that came furthest, and starts one if there is none')
    add_flag(group, '--overwrite', 'replace the run that is in the folder')
    add('--val-interval', metavar='N', type=NATURAL, default=1,
        help='epochs between evaluations (default: %(default)s)')
    add('--eval-metric', choices=('top1', 'balanced', 'few'),
        help='figure that names the best epoch (default: top1; with a --holdout, which chooses by it, balanced)')
    add('--checkpoint-interval', metavar='N', type=NATURAL, default=1,
        help='epochs between checkpoints, with which summary.csv is written; the last epoch always is one '
             '(default: %(default)s)')
    add('--log-interval', metavar='N', type=NATURAL, default=50,
        help='batches between looks at the loss; where no bar is shown, once a minute at least (default: %(default)s)')
    add('--log-with', nargs='+', default=[], metavar='TRACKER', help='Accelerate\'s trackers: tensorboard, wandb, …')


def add_sharing(parser: Parser) -> None:
    group = parser.add_argument_group('sharing')
    add = group.add_argument
    add('--push-to-hub', metavar='REPO', nargs='?', const='auto',
        help='upload the finished network with its model card to this repository of the Hugging Face hub (OWNER/NAME, '
             'or NAME; without one: the name of the folder). The login is that of `hf auth login` or HF_TOKEN, and is '
             'checked first')
    add_flag(group, '--hub-private', 'nobody else is to see the repository')
    add('--license', metavar='NAME', type=license_name,
        help='of the weights, for the model card: apache-2.0, mit, other, … (default: none is named)')
