"""Options that have nothing to act on are told of, and no option that acts."""
import pytest
from flag_cases import AUGMENTATION, CASES, argv_of, one_per_script
from front_door import PARSERS, reach

import timm_ltkd  # noqa: F401
from timm_ltkd.cli.arguments import train_parser
from timm_ltkd.cli.config import all_teacher_args, parse, passed_over
from timm_ltkd.cli.idle import tell_idle
from timm_ltkd.options import dump_config


def told(words, script='train'):
    args = parse(PARSERS[script](), words.split())
    others = all_teacher_args(args, train_parser()) if script == 'distill' else []
    return tell_idle(args, PARSERS[script](), others, passed_over(args, others, train_parser()) if others else [])


@pytest.mark.parametrize('words, expected', [
    ('--model-ema-decay 0.9', '--model-ema-decay (there is no --model-ema)'),
    ('--model-ema-warmup', '--model-ema-warmup (there is no --model-ema)'),
    ('--mixup-prob 0.5', '--mixup-prob (images are not mixed)'),
    ('--mixup 0.2 --mixup-switch-prob 0.3', '--mixup-switch-prob (not both --mixup and --cutmix are on)'),
    ('--cutmix 0.5 --cutmix-minmax 0.2 0.4', '--cutmix (--cutmix-minmax draws the boxes)'),
    ('--recount 3', '--recount (there is no --reprob)'),
    ('--dataset lt/folder --crop-padding 8', '--crop-padding (there is no --train-crop-mode pad)'),
    ('--aa original --color-jitter 0.3', '--color-jitter (--aa takes its place)'),
    ('--dataset lt/cifar100 --imbalance-seed 3', '--imbalance-seed (nothing is selected by it)'),
    ('--new-head', '--new-head (there is no --initial-checkpoint)'),
    ('--sched plateau --no-warmup-prefix', ''),
    ("--aa= --color-jitter 0.3", ''),
    ('--no-aug --scale 0.5 1', ''),  # which is refused
    ('--clip-mode agc', '--clip-mode (there is no --clip-grad)'),
    ('--warmup-epochs 0 --warmup-lr 0.001', '--warmup-lr (there are no --warmup-epochs)'),
    ('--holdout-type balanced', '--holdout-type (there is no --holdout)'),
    ('--dataset lt/cifar100 --imbalance-type step', '--imbalance-type (there is no --imbalance-factor)'),
    ('--no-aug --vflip 0.5', '--vflip (--no-aug leaves images as they are)'),
    ('--decay-milestones 160 180', '--decay-milestones (no part of --sched cosine)'),
    ('--sched multistep --patience-epochs 3', '--patience-epochs (no part of --sched multistep)'),
    ('--sched plateau --sched-on-updates', '--sched-on-updates (no part of --sched plateau)'),
    ('--seed 3 --seeds 0 1', '--seed (--seeds names them)'),
    ('--overwrite', '--overwrite (there is no --experiment)'),
    ('--overwrite --experiment run', ''),
    ('--sched step --min-lr 0.001', '--min-lr (no part of --sched step)'),
    ('--sched plateau --warmup-prefix', '--warmup-prefix (no part of --sched plateau)'),
    ('--opt adamw --momentum 0.5', '--momentum (no option of --opt adamw)'),
    ('--opt-betas 0.9 0.99', '--opt-betas (no option of --opt sgd)'),
    ('--opt lookahead_momentum --opt-eps 1e-6', '--opt-eps (no option of --opt lookahead_momentum)'),
    ('--mixup-mode elem --recount 2', '--mixup-mode (images are not mixed), --recount (there is no --reprob)'),
])
def test_idle_options_are_told(words, expected):
    assert told(words) == expected
    assert told(words, 'distill') == expected


def test_those_of_a_teacher(tmp_path):
    (tmp_path / 'recipe.yaml').write_text('epochs: 3')
    (tmp_path / 'w.pth').touch()
    recipe = f'--teacher-config {tmp_path}/recipe.yaml'
    untrained = '(the teacher is not trained)'
    assert told(f'--teacher-checkpoint {tmp_path} {recipe}', 'distill') == f'--teacher-config {untrained}'
    assert told(f'--teacher-checkpoint {tmp_path}/w.pth {recipe}', 'distill') == f'--teacher-config {untrained}'
    (tmp_path / 'network.yaml').write_text('mixup: 0.2\nmodel_kwargs: {drop_rate: 0.1}')
    network = f'--teacher-checkpoint {tmp_path}/w.pth --teacher-config {tmp_path}/network.yaml'
    assert told(network, 'distill') == ''  # it says how the network of the weights is made
    assert told(f'{network} --mixup-prob 0.5', 'distill') == '--mixup-prob (images are not mixed)'
    assert told(f'--teacher-checkpoint {tmp_path} --teacher-tune all {recipe} --teacher-seed 3', 'distill') == ''
    assert told(f'--teacher-checkpoint {tmp_path}/w.pth --teacher-seed 3', 'distill') == f'--teacher-seed {untrained}'
    assert told('--teacher-tune none --teacher-seed 3', 'distill') == f'--teacher-seed {untrained}'
    assert told(f'--teacher-checkpoint {tmp_path}/w.pth --no-teacher-pretrained', 'distill') == \
        '--no-teacher-pretrained (there is a --teacher-checkpoint)'
    assert told(f'--teacher-checkpoint {tmp_path} --teacher-small-image-stem', 'distill') == \
        '--teacher-small-image-stem (the folder of the --teacher-checkpoint says how it is made)'
    assert told(f'{recipe} --teacher-seed 3 --no-teacher-pretrained --teacher-small-image-stem', 'distill') == ''


def test_what_does_not_count_in_the_recipe_of_a_teacher(tmp_path):
    (tmp_path / 'recipe.yaml').write_text('epochs: 3\nmean: [0.5]\nstd: [0.25]\nholdout: 0.2\noutput: there\n'
                                           'img_size: null\nseeds: [1]\nworkers: 3\neval_metric: few')
    recipe = f'--teacher-config {tmp_path}/recipe.yaml'
    where = "in --teacher-config (a teacher has its student's data and input, and one seed)"
    assert told(recipe, 'distill') == f'holdout, seeds, std {where}'  # the mean is that of digits
    assert told(f'{recipe} --mean 0.4 --holdout 0.2', 'distill') == f'mean, seeds, std {where}'
    assert told(f'{recipe} --teacher-mean 0.5 --teacher-std 0.25 --holdout 0.2', 'distill') == f'seeds {where}'


def test_what_acts_in_the_training_of_a_teacher_is_not_idle(tmp_path):
    (tmp_path / 'recipe.yaml').write_text('mixup: 0.2')
    assert told(f'--teacher-config {tmp_path}/recipe.yaml --mixup-prob 0.5', 'distill') == ''


@pytest.mark.parametrize('script, case', [
    given for given in one_per_script([*CASES, *AUGMENTATION]) if given.values[0] != 'validate'])
def test_no_option_that_acts_is_told(script, case, base, paths):
    words = argv_of(base, paths, script, case)
    assert told(' '.join(words), script) == ''


@pytest.mark.parametrize('words', [
    [], ['--dataset', 'lt/cifar100', '--no-aug'], ['--pretrained'], ['--no-aug', '--holdout', '0.1'],
    ['--dataset', 'lt/imagenet', '--train-list', 'x'], ['--stage', 'lws', '--initial-checkpoint', 'x']])
def test_defaults_are_told_neither_at_first_nor_from_args_yaml(words, tmp_path):
    assert told(' '.join(words)) == ''
    (tmp_path / 'args.yaml').write_text(dump_config(parse(train_parser(), words)))
    assert told(f'-c {tmp_path}/args.yaml') == ''


@pytest.mark.parametrize('script', ['train', 'distill'])
def test_the_log_says_so_once(script, base, log):
    reach(script, [*base[script], '--recount', '2'])
    assert [line for line in log if 'without effect' in line] == ['without effect: --recount (there is no --reprob)']


def test_a_name_of_an_optimizer_that_nobody_knows_is_for_others_to_tell():
    assert told('--opt asgd2 --momentum 0.3') == ''
