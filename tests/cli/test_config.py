"""Options from defaults, data set, YAML and command line: who wins, what is refused, and the way back to YAML."""
import re

import pytest
import yaml

from timm_ltkd.cli.arguments import distill_parser, train_parser, validate_parser
from timm_ltkd.cli.config import all_teacher_args, parse, teacher_args, use_run_of_stage
from timm_ltkd.cli.defaults import CIFAR, DIGITS, OTHER
from timm_ltkd.errors import UserError
from timm_ltkd.options import DATA, PLACE, dump_config

PARSERS = {'train': train_parser, 'distill': distill_parser, 'validate': validate_parser}


@pytest.fixture
def config(tmp_path):
    """A function that writes YAML text and returns the file's name."""
    def write(text, name='config.yaml'):
        path = tmp_path / name
        path.write_text(text, encoding='utf-8')
        return str(path)
    return write


def train(*argv):
    return parse(train_parser(), argv)


def distill(*argv):
    return parse(distill_parser(), argv)


class TestPrecedence:
    """defaults < data set < YAML < command line"""

    def test_an_option_no_data_set_cares_about(self, config):
        file = config('min_lr: 0.2\n')
        assert train().min_lr == 0.
        assert train('-c', file).min_lr == 0.2
        assert train('-c', file, '--min-lr', '0.3').min_lr == train('--min-lr', '0.3', '--config', file).min_lr == 0.3

    def test_an_option_of_the_data_set(self, config):
        file = config('lr: 0.2\n')
        assert train_parser().parse_args([]).lr is None
        assert train().lr == DIGITS.lr
        assert train('--dataset', 'torch/cifar10_lt100').lr == CIFAR.lr
        assert train('--dataset', 'torch/cifar10_lt100', '-c', file).lr == 0.2
        assert train('--dataset', 'torch/cifar10_lt100', '-c', file, '--lr', '0.3').lr == 0.3

    def test_the_data_set_may_come_from_the_file(self, config):
        file = config('dataset: lt/cifar100\n')
        assert (train('-c', file).epochs, train('-c', file).mean) == (CIFAR.epochs, list(CIFAR.mean))
        assert train('-c', file, '--dataset', 'lt/digits').epochs == DIGITS.epochs
        assert train('-c', file, '--dataset', '').epochs == OTHER.epochs

    @pytest.mark.parametrize('how', ['file', 'command line'])
    def test_zero_is_a_choice_not_a_gap(self, config, how):
        argv = ['-c', config('hflip: 0\nweight_decay: 0.0\nworkers: 0\n')] if how == 'file' else \
            ['--hflip', '0', '--weight-decay', '0', '--workers', '0']
        args = train('--dataset', 'torch/cifar10', *argv)
        assert (args.hflip, args.weight_decay, args.workers) == (0, 0, 0)

    def test_null_leaves_the_default(self, config):
        args = train('-c', config('lr: null\nmin_lr: ~\ncolor_jitter:\n'))
        assert (args.lr, args.min_lr, args.color_jitter) == (DIGITS.lr, 0., DIGITS.color_jitter)

    def test_a_later_parse_does_not_remember_a_file(self, config):
        train('-c', config('min_lr: 0.2\n'))
        assert train().min_lr == 0.

    def test_an_empty_file_says_nothing(self, config):
        assert vars(train('-c', config('# nothing\n'))) | {'config': None} == vars(train())


class TestValues:
    @pytest.mark.parametrize('text, expected', [
        ('1e-4', 1e-4), ('1E-4', 1e-4), ('1.0e-4', 1e-4), ('.5e-3', 5e-4), ('2', 2.), ('0.5', 0.5), ("'0.5'", 0.5)])
    def test_floats(self, config, text, expected):
        lr = train('-c', config(f'lr: {text}\n')).lr
        assert lr == expected and isinstance(lr, float)

    def test_numbers_inside_mappings_and_lists(self, config):
        args = distill('-c', config('kd_kwargs: {temperature: 4, alpha: 1e-1}\nmean: [5e-1, .5, 1]\n'))
        assert args.kd_kwargs == {'temperature': 4, 'alpha': 0.1}
        assert args.mean == [0.5, 0.5, 1.]

    def test_bools(self, config):
        args = train('-c', config('model_ema: true\nfilter_bias_and_bn: no\n'))
        assert args.model_ema is True and args.filter_bias_and_bn is False
        args = train('-c', config('model_ema: true\n'), '--no-model-ema')
        assert args.model_ema is False

    def test_lists(self, config):
        file = config('decay_milestones: [3, 5]\nlog_with: [tensorboard]\nscale: [0.5, 1]\n')
        assert train('-c', file).decay_milestones == [3, 5]
        assert train('-c', file).log_with == ['tensorboard']
        assert train('-c', file).scale == [0.5, 1.]
        assert train('-c', file, '--decay-milestones', '7').decay_milestones == [7]
        one = train('-c', config('decay_milestones: 3\nlog_with: tensorboard\nmean: 0.5\nseeds: 0\n'))
        assert (one.decay_milestones, one.log_with, one.mean, one.seeds) == ([3], ['tensorboard'], [0.5], [0])

    @pytest.mark.parametrize('key, text', [
        ('seed', '010'), ('seed', '7'), ('lr', '1e-3'), ('lr', '.5'), ('experiment', '010'), ('experiment', '12:30'),
        ('experiment', '0x1F'), ('experiment', '1_0'), ('experiment', '2026-11-30')])
    def test_numbers_are_what_they_are_on_the_command_line(self, config, key, text):
        from_file = getattr(train('-c', config(f'{key}: {text}\n')), key)
        assert from_file == getattr(train(f'--{key}', text), key)

    def test_mappings_are_added_to_as_long_as_they_are_of_the_same(self, config):
        file = config('kd: kd\nkd_kwargs:\n  temperature: 2.0\n')
        assert distill('-c', file).kd_kwargs == {'temperature': 2.}
        assert distill('-c', file, '--kd-kwargs', 'alpha=0.5').kd_kwargs == {'temperature': 2., 'alpha': 0.5}
        assert distill('-c', file, '--kd-kwargs', 'temperature=3').kd_kwargs == {'temperature': 3}
        assert distill('-c', file, '--kd-kwargs', 'alpha=1', '--kd-kwargs', 'temperature=3').kd_kwargs == {
            'temperature': 3, 'alpha': 1}
        assert distill('-c', file, '--kd-kwargs').kd_kwargs == {}
        assert distill('-c', file, '--kd', 'bkd', '--kd-kwargs', 'alpha=0.5').kd_kwargs == {'alpha': 0.5}
        assert distill('-c', file, '--kd', 'bkd').kd_kwargs == {}, 'the temperature was that of kd'
        assert distill('-c', file, '--kd', 'kd').kd_kwargs == {'temperature': 2.}
        assert distill('-c', config('kd_kwargs:\n  alpha: 3\n'), '--kd', 'dkd').kd_kwargs == {'alpha': 3}
        assert distill().kd_kwargs == {}, 'the default is nobody\'s to change'

    def test_defaults_that_go_with_another_option_go_with_that_of_now(self, config):
        """A run's args.yaml has all of them; what is no default was chosen, and stays."""
        file = config('teacher_checkpoint: null\nteacher_tune: all\nholdout: 0.0\neval_metric: top1\n')
        assert (distill('-c', file).teacher_tune, distill('-c', file).eval_metric) == ('all', 'top1')
        given = distill('-c', file, '--teacher-checkpoint', 'x', '--holdout', '0.1')
        assert given.teacher_tune == 'none' and given.eval_metric == 'balanced'
        given = distill('-c', file, '--teacher-checkpoint', 'x', '--teacher-tune', 'all', '--holdout', '0.1',
                        '--eval-metric', 'few')
        assert given.teacher_tune == 'all' and given.eval_metric == 'few'
        chosen = config('teacher_checkpoint: null\nteacher_tune: head\nholdout: 0.1\neval_metric: few\n')
        given = distill('-c', chosen, '--teacher-checkpoint', 'x', '--holdout', '0')
        assert given.teacher_tune == 'head' and given.eval_metric == 'few'
        assert distill('-c', config('teacher_tune: all\n'), '--teacher-checkpoint', 'x').teacher_tune == 'all'
        file = config('stage: null\nclass_sampling: instance\n')
        assert train('-c', file, '--stage', 'crt', '--initial-checkpoint', 'x').class_sampling == 'class'
        assert train('-c', file, '--stage', 'head', '--initial-checkpoint', 'x').class_sampling == 'instance'
        assert train('-c', file, '--class-sampling', 'sqrt').class_sampling == 'sqrt'

    def test_one_file(self, config):
        with pytest.raises(UserError, match='-c is given 2 times, and is one file'):
            train('-c', config('lr: 0.1\n'), '--config', config('epochs: 3\n'))

    def test_a_second_stage_takes_data_and_network_from_its_run(self, config, tmp_path):
        run = tmp_path / 'run'
        run.mkdir()
        (run / 'args.yaml').write_text(
            'student: resnet18\ndataset: lt/folder\ndata_dir: d\nimg_size: 64\nlr: 3.0\nsmall_image_stem: true\n')

        def stage(*words):
            parser = train_parser()
            argv = ['--initial-checkpoint', str(run), *words]
            use_run_of_stage(parser, argv)
            return parse(parser, argv)
        args = stage('--stage', 'crt')
        assert (args.model, args.dataset, args.data_dir, args.img_size) == ('resnet18', 'lt/folder', 'd', 64)
        assert args.small_image_stem and args.lr == 0.1
        args = stage('--stage', 'crt', '--model', 'resnet20', '--dataset', 'lt/digits')
        assert (args.model, args.dataset, args.data_dir, args.img_size) == ('resnet20', 'lt/digits', None, 64)
        assert stage('-c', config('stage: lws\nimg_size: 32\n')).img_size == 32
        assert stage().model == 'resnet32', 'which is no second stage'
        (run / 'args.yaml').write_text('model: resnet18\nhflip: 0.0\nscale: [0.5, 1.0]\nmixup: 0.5\n')
        args = stage('--stage', 'crt')
        assert (args.hflip, args.scale, args.mixup) == (0., [0.5, 1.], 0.), 'views are as they were, mixing is not'
        assert stage('--stage', 'crt', '--hflip', '0.5').hflip == 0.5
        (run / 'args.yaml').write_text('model: resnet18\ndataset: lt/cifar100\nmean: null\npretrained: true\n')
        (run / 'config.json').write_text('{"pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.5]}}')
        args = stage('--stage', 'crt')
        assert (args.mean, args.std, args.pretrained) == ([0.1, 0.2, 0.3], [0.5], False), 'that of the weights'
        for damaged in ('[]', '{"pretrained_cfg": [1]}'):  # which is told when the network is loaded
            (run / 'config.json').write_text(damaged)
            assert stage('--stage', 'crt').model == 'resnet18'
        (run / 'args.yaml').write_text('')
        assert stage('--stage', 'crt').model == 'resnet32', 'of a run of which nothing is known'

    def test_pretrained_weights_keep_their_normalisation(self):
        given = ['--dataset', 'lt/cifar100']
        assert train(*given).mean == list(CIFAR.mean) and train(*given).img_size == 32
        args = train(*given, '--pretrained')
        assert (args.mean, args.std, args.img_size) == (None, None, 32)
        assert train(*given, '--pretrained', '--mean', '0.5').mean == [0.5]

    def test_key_values_of_the_command_line(self):
        kwargs = train('--model-kwargs', 'a=1', 'b=1e-3', 'c=True', 'd=None', 'e=text', 'f=[1,2]', 'g=x=y').model_kwargs
        assert kwargs == {'a': 1, 'b': 1e-3, 'c': True, 'd': None, 'e': 'text', 'f': [1, 2], 'g': 'x=y'}

    def test_dashes_and_underscores_are_one(self, config):
        assert train('-c', config('weight-decay: 0.25\n')).weight_decay == 0.25

    def test_null_is_as_if_the_line_were_not_there(self, config):
        args = train('-c', config("epochs: 3\nbce_target_thresh: null\nclass_map: null\ndataset: ''\n"))
        assert (args.epochs, args.class_map, args.dataset) == (3, None, '')

    def test_checkpoints_of_validate(self, config):
        file = config('checkpoint: [a, b]\n')
        assert parse(validate_parser(), ['-c', file]).checkpoint == ['a', 'b']
        assert parse(validate_parser(), ['c', '-c', file]).checkpoint == ['c']

    def test_text_that_looks_like_a_number(self, config):
        assert train('-c', config('train_split: 2018\n')).train_split == '2018'


class TestRefusals:
    @pytest.mark.parametrize('line, message', [
        ('epoch: 3', "unknown key 'epoch'; did you mean 'epochs'"),
        ('wieght-decay: 3', "unknown key 'wieght-decay'; did you mean 'weight_decay'"),
        ('config: other.yaml', "unknown key 'config'"),
        ('amp_dtype: bfloat16', "unknown key 'amp_dtype'; precision is Accelerate's"),
        ('help: true', "unknown key 'help'"),
        ('student: resnet20', "unknown key 'student'; distill.py has that"),
        ('teacher_dtype: float16', "unknown key 'teacher_dtype'; distill.py has that"),
        ('lr_base: 0.1', "unknown key 'lr_base'; --lr is the rate as it is"),
        ('epoch: 3\namp: true', "unknown keys epoch (did you mean 'epochs'?), amp (precision is Accelerate's"),
        ('kd: bkd\nteacher: resnet32\nteacher_tune: all\nbank_views: 3',
         "unknown keys kd, teacher, teacher_tune, bank_views; distill.py has that"),
        ('epoch: 3\namp: true\nmodel: resnet20\ntta: 0\nlog_wandb: false',
         "4 unknown keys; leave these lines out, docs/from_timm.md has what stands here for timm's: epoch, amp, tta, "),
        ('epochs: many', "epochs: invalid int value: 'many'"),
        ('epochs: 2.5', "epochs: invalid int value: '2.5'"),
        ('epochs: 0', 'epochs: must be at least 1, got 0'),
        ('epochs: true', 'epochs: expected a single value, got True'),
        ('epochs: [3]', 'epochs: expected a single value, got [3]'),
        ('lr: -1', 'lr: must be above 0, got -1'),
        ('lr: .nan', 'lr: nan is not a finite number'),
        ('lr: .inf', 'lr: inf is not a finite number'),
        ('hflip: 1.5', 'hflip: must be at most 1, got 1.5'),
        ('sched: cosin', "sched: invalid choice: 'cosin'"),
        ('model_ema: 1', 'model_ema: expected true or false, got 1'),
        ("model_ema: 'yes'", "model_ema: expected true or false, got 'yes'"),
        ('scale: [1]', 'scale: expected a list of 2, got [1]'),
        ('decay_milestones: []', 'decay_milestones: expected a value or a list of them, got an empty list'),
        ('mean: [a]', "mean: invalid float value: 'a'"),
        ('mean: [[1]]', 'mean: expected a single value, got [1]'),
        ('model_kwargs: [a]', "model_kwargs: expected a mapping, got ['a']"),
        ('model_kwargs: {1: 2}', 'model_kwargs: expected a mapping, got {1: 2}'),
    ])
    def test_a_bad_line(self, config, line, message):
        file = config(f'seed: 1\n{line}\n')
        with pytest.raises(UserError, match=re.escape(f'{file}: {message}')) as e:
            train('-c', file)
        assert '\n' not in str(e.value)

    @pytest.mark.parametrize('tag', [
        '!!python/object/apply:os.system ["echo > {}"]', '!!python/name:os.system', '!!python/tuple [1, 2]', '!mine 3'])
    def test_tags_are_not_obeyed(self, config, tmp_path, tag):
        proof = tmp_path / 'proof'
        with pytest.raises(UserError, match='line 1: not valid YAML'):
            train('-c', config(f'epochs: {tag.format(proof)}\n'))
        assert not proof.exists()

    @pytest.mark.parametrize('argv, message', [
        (['--epochs', '0'], 'argument --epochs: must be at least 1'),
        (['--epochs', 'x'], "argument --epochs: invalid int value: 'x'"),
        (['--epoch', '3'], "unknown option '--epoch'; did you mean '--epochs'"),
        (['--amp'], "unknown option '--amp'; precision is Accelerate's: accelerate launch --mixed_precision bf16"),
        (['--mixed_precision', 'bf16'],
         "unknown option '--mixed_precision'; accelerate launch has that, before the script"),
        (['--num-processes=2'], "unknown option '--num-processes=2'; accelerate launch has that"),
        (['--sync-bn'], "unknown option '--sync-bn'; each process normalises its own batch"),
        (['--seeds', '0,1'], "argument --seeds: '0,1' is no number (blanks part several, a point decimals)"),
        (['--tta', '2'], "unknown option '--tta'; each image is evaluated once"),
        (['--recovery-interval', '5'],
         "unknown option '--recovery-interval'; a checkpoint is written every --checkpoint-interval epochs"),
        (['--lr-base', '0.5'], 'times the global batch / 256'), (['--dr', '0.1'], "did you mean '--decay-rate'"),
        (['--wieght-decay=3'], "unknown option '--wieght-decay=3'; did you mean '--weight-decay'"),
        (['--model-kwargs', 'a'], "'a' is not of the form key=value"),
        (['--model-kwargs', '1a=3'], "'1a=3' is not of the form key=value"),
        (['--lr', 'nan'], 'nan is not a finite number'),
    ])
    def test_the_command_line(self, argv, message):
        with pytest.raises(UserError, match=re.escape(message)):
            train(*argv)


class TestRoundTrip:
    ARGV = ['--dataset', 'torch/cifar10', '--lr', '1e-05', '--mean', '0.1', '0.2', '1e-3', '--no-filter-bias-and-bn',
            '--model-ema', '--model-kwargs', 'a=1', "b='1'", 'c=True', 'd=None', 'e=[1, 2]', 'f=1e-7', '--aa', 'rand',
            '--decay-milestones', '3', '5', '--log-with', 'tensorboard', '--sched', 'multistep', '--torchcompile',
            '--class-map', 'no', '--data-dir', '2018', '--hflip', '0']

    @pytest.mark.parametrize('script, argv', [
        ('train', []), ('distill', []), ('validate', []), ('train', ARGV), ('distill', ARGV),
        ('distill', ['--teacher-pretrained', '--kd', 'kd', '--kd-kwargs', 'temperature=3', '--teacher-img-size', '8']),
        ('distill', ['--no-teacher-pretrained']),
        ('distill', ['--teacher', 'a', 'b', '--teacher-checkpoint', 'c', 'd']),
        ('validate', ['a', 'b', '--pretrained', '--std', '1', '--crop-pct', '0.9']),
    ])
    def test_the_same_options_come_back(self, config, script, argv):
        args = parse(PARSERS[script](), argv)
        again = parse(PARSERS[script](), ['-c', config(dump_config(args))])
        assert vars(again) | {'config': None} == vars(args)

    def test_where_a_run_goes_is_not_in_it(self):
        args = distill('--output', 'o', '--experiment', 'e', '--resume', 'auto', '--overwrite')
        written = yaml.safe_load(dump_config(args))
        assert written.keys() == vars(args).keys() - PLACE
        assert PLACE == {
            'config', 'output', 'experiment', 'resume', 'overwrite', 'push_to_hub', 'hub_private'}

    @pytest.mark.parametrize('words', [
        ['--pretrained'], ['--initial-checkpoint', 'x'], ['--lr', '0.3', '--pretrained']])
    @pytest.mark.parametrize('dataset', ['lt/digits', 'lt/cifar100', 'folder'])
    def test_weights_to_start_from_bring_their_rate_and_normalisation(self, config, words, dataset):
        """As without the file of a run from scratch; and the other way round."""
        words, data = ['--model', 'resnet18', *words], ['--dataset', dataset]
        scratch = train('-c', config(dump_config(train(*data))), *words)
        assert dump_config(scratch) == dump_config(train(*data, *words))
        if '--pretrained' in words:
            again = train('-c', config(dump_config(train(*data, *words))), '--no-pretrained')
            assert dump_config(again) == dump_config(train(*data, *words, '--no-pretrained'))

    def test_what_was_chosen_stays_where_weights_come_in(self, config):
        file = config(dump_config(train('--dataset', 'folder', '--lr', '0.3', '--mean', '0.4')))
        args = train('-c', file, '--pretrained')
        assert (args.lr, args.mean) == (0.3, [0.4])
        file = config(dump_config(train('--dataset', 'lt/cifar100')))
        assert train('-c', file, '--dataset', 'lt/digits').lr == 0.1, 'other data are no reason'

    def test_augmentation_that_a_file_leaves_out_comes_back(self, config):
        file = config('no_aug: true\n')
        assert (train('-c', file).no_aug, train('-c', file, '--aug').no_aug, train().no_aug) == (True, False, False)

    def test_the_command_line_still_wins(self, config):
        file = config(dump_config(train('--epochs', '7', '--lr', '0.3')))
        args = train('-c', file, '--lr', '0.4')
        assert (args.epochs, args.lr) == (7, 0.4)


class TestTeacherArgs:
    def test_the_students_recipe_with_plain_cross_entropy(self):
        args = distill(
            '--student', 'resnet20', '--teacher', 'resnet56', '--loss', 'balanced_softmax', '--loss-kwargs',
            'smoothing=0.1', '--drop', '0.1', '--drop-path', '0.1', '--gp', 'max', '--model-kwargs', 'a=1',
            '--pretrained', '--initial-checkpoint', 'x', '--epochs', '7', '--lr', '0.3', '--seed', '5',
            '--imbalance-factor', '9', '--mean', '0.5',
            '--opt-kwargs', 'nesterov=False', '--experiment', 'e', '--resume', 'auto', '--output', 'o')
        teacher, default = teacher_args(args, train_parser()), train()
        assert teacher.model == 'resnet56'
        for key in ('loss', 'loss_kwargs', 'drop', 'drop_path', 'gp', 'model_kwargs', 'initial_checkpoint',
                    'experiment', 'resume'):
            assert getattr(teacher, key) == getattr(default, key), key
        assert teacher.lr is None  # of the student's, once it is known what the teacher starts from
        for key in ('epochs', 'imbalance_factor', 'mean', 'opt_kwargs', 'output', 'batch_size'):
            assert getattr(teacher, key) == getattr(args, key), key
        assert teacher.seed != args.seed
        assert vars(teacher).keys() == vars(default).keys()

    def test_folders_name_their_networks(self, tmp_path):
        sources = [str(tmp_path), 'hf-hub:someone/net']
        args = distill('--teacher-checkpoint', *sources)
        assert [own.model for own in all_teacher_args(args, train_parser())] == args.teacher == sources
        args = distill('--teacher-checkpoint', *sources, 'weights.pt')
        assert len(all_teacher_args(args, train_parser())) == 1, 'weights alone have no name'

    def test_its_own_file_wins_over_the_students_recipe(self, config):
        file = config('model: resnet56\nepochs: 3\nloss: balanced_softmax\nlr: 1e-2\ndrop: 0.2\nmodel_kwargs: {a: 1}\n')
        args = distill('--teacher', 'resnet56', '--teacher-config', file, '--epochs', '7', '--momentum', '0.8')
        teacher = teacher_args(args, train_parser())
        assert (teacher.epochs, teacher.loss, teacher.lr, teacher.drop) == (3, 'balanced_softmax', 0.01, 0.2)
        assert teacher.model_kwargs == {'a': 1}
        assert teacher.momentum == 0.8  # not in the file
        assert args.epochs == 7

    def test_data_input_and_run_stay_the_students(self, config):
        file = config('dataset: torch/cifar10\nmean: [0.1]\noutput: elsewhere\neval_metric: few\n')
        args = distill('--teacher-config', file, '--output', 'o')
        teacher = teacher_args(args, train_parser())
        for key in ('dataset', 'mean', 'img_size', 'output', 'eval_metric'):
            assert getattr(teacher, key) == getattr(args, key), key

    @pytest.mark.parametrize('words, refused', [
        ([], True), (['--img-size', '64'], False), (['--img-size', '32'], True), (['--teacher-img-size', '64'], False)])
    def test_a_size_that_would_not_count_is_refused(self, config, words, refused):
        args = distill('--teacher-config', config('img_size: 64\n'), *words)
        if refused:
            with pytest.raises(UserError, match='img_size does not count there.*; give --teacher-img-size 64'):
                teacher_args(args, train_parser())
        else:
            assert teacher_args(args, train_parser()).img_size == 64

    @pytest.mark.parametrize('text, argv, expected', [
        ('', [], None), ('', ['--teacher-pretrained'], True), ('', ['--no-teacher-pretrained'], False),
        ('pretrained: true', [], True), ('pretrained: false', [], False),
        ('pretrained: true', ['--no-teacher-pretrained'], False)])
    def test_pretrained(self, config, text, argv, expected):
        args = distill('--pretrained', '--teacher-config', config(text), *argv)  # --pretrained is the student's
        assert teacher_args(args, train_parser()).pretrained is expected

    def test_each_of_several_has_the_same_recipe(self, config):
        args = distill('--teacher', 'resnet20', 'resnet56', '--teacher-config', config('lr: 1e-2'), '--epochs', '7')
        one, two = all_teacher_args(args, train_parser())
        assert (one.model, two.model) == ('resnet20', 'resnet56')
        assert vars(one) | {'model': None} == vars(two) | {'model': None}
        assert (one.lr, one.epochs) == (0.01, 7)
        assert all_teacher_args(distill('--teacher', 'resnet56'), train_parser())[0].model == 'resnet56'
        with pytest.raises(UserError, match="trains 'resnet20' but --teacher is 'resnet56'"):
            all_teacher_args(
                distill('--teacher', 'resnet20', 'resnet56', '--teacher-config', config('model: resnet20')),
                train_parser())

    def test_a_config_file_may_hold_its_recipe_in_place_of_a_file(self, config):
        args = distill('-c', config('teacher_config: {lr: 1e-2, mixup: 0.2, import: null}'))
        own = teacher_args(args, train_parser())
        assert (own.lr, own.mixup, args.mixup) == (0.01, 0.2, 0)
        for wrong, message in (('{epoch: 1}', "teacher_config: unknown key 'epoch'; did you mean 'epochs'"),
                               ('{epochs: a}', "teacher_config: epochs: invalid int value: 'a'")):
            with pytest.raises(UserError, match=message):
                teacher_args(distill('-c', config(f'teacher_config: {wrong}')), train_parser())
        with pytest.raises(UserError, match='teacher_config: expected the name of a file, or options, got'):
            distill('-c', config('teacher_config: [a.yaml, b.yaml]'))
        with pytest.raises(UserError, match='cannot read the config file a.yaml: No such file or directory$'):
            teacher_args(distill('-c', config('teacher_config: a.yaml')), train_parser())

    def test_a_file_for_another_network_or_with_a_bad_key(self, config):
        with pytest.raises(UserError, match="trains 'resnet44' but --teacher is 'resnet56'; make them agree"):
            args = distill('--teacher', 'resnet56', '--teacher-config', config('model: resnet44'))
            teacher_args(args, train_parser())
        with pytest.raises(UserError, match="unknown key 'epoch'; did you mean 'epochs'"):
            teacher_args(distill('--teacher-config', config('epoch: 1')), train_parser())


@pytest.mark.parametrize('text, expected', [
    ('teacher: a', 'a'), ('teacher: [a]', 'a'), ('teacher: [a, b]', ['a', 'b']), ('teacher:\n- a\n- b', ['a', 'b'])])
def test_one_or_more_in_a_file(config, text, expected):
    assert distill('-c', config(text)).teacher == expected
    assert distill('-c', config(text), '--teacher', 'c').teacher == 'c'


@pytest.mark.parametrize('text', ['teacher: []', 'teacher: {a: b}', 'teacher: [a, [b]]', 'teacher: true'])
def test_neither_one_nor_more(config, text):
    with pytest.raises(UserError, match='teacher: expected a'):
        distill('-c', config(text))


@pytest.mark.parametrize('make', PARSERS.values())
def test_help_names_every_option(make):
    text = make().format_help()
    for action in make()._actions:
        names = action.option_strings or [action.metavar]
        assert any(name in text for name in names)
        assert action.help, names


@pytest.mark.parametrize('make', PARSERS.values())
def test_the_data_options_are_those_of_the_group(make):
    (group,) = (group for group in make()._action_groups if group.title == 'data')
    assert {action.dest for action in group._group_actions} == DATA | {'workers', 'pin_mem'}


def test_help_shows_the_defaults_of_every_data_set():
    text = train_parser().format_help()
    for defaults in (DIGITS, CIFAR, OTHER):
        for key, value in defaults._asdict().items():
            assert value is None or f'{key} {value}' in text


@pytest.mark.parametrize('words, lr', [
    ([], 0.1), (['--pretrained'], 0.01), (['--initial-checkpoint', 'x'], 0.01), (['--pretrained', '--lr', '0.3'], 0.3),
    (['--pretrained', '--stage', 'head'], 0.1), (['--initial-checkpoint', 'x', '--stage', 'crt'], 0.1)])
def test_weights_that_are_there_take_a_tenth_of_the_rate(words, lr):
    assert train('--dataset', 'folder', *words).lr == lr


@pytest.mark.parametrize('words, metric', [
    ([], 'top1'), (['--holdout', '0.1'], 'balanced'), (['--holdout', '0.1', '--eval-metric', 'top1'], 'top1')])
def test_a_holdout_chooses_by_balanced_accuracy(words, metric):
    assert train(*words).eval_metric == distill(*words).eval_metric == metric


@pytest.mark.parametrize('words, seed', [([], 7), (['--teacher-seed', '5'], 5)])
def test_the_teachers_seed_on_the_command_line_wins(config, words, seed):
    args = distill('--seed', '3', '--teacher-config', config('seed: 7\nseeds: [1, 2]\n'), *words)
    own = teacher_args(args, train_parser())
    assert own.seed == seed and own.seeds is None


@pytest.mark.parametrize('recipe, its', [
    ('lr: 0.1', {'amsgrad': True}), ('opt: momentum', {}), ('opt: adamw', {'amsgrad': True}),
    ('opt: momentum\nopt_kwargs: {dampening: 0.1}', {'dampening': 0.1})])
def test_another_optimizer_of_the_teacher_has_none_of_the_students_options(config, recipe, its):
    args = distill('--opt', 'adamw', '--opt-kwargs', 'amsgrad=True', '--teacher-config', config(recipe))
    assert teacher_args(args, train_parser()).opt_kwargs == its


@pytest.mark.parametrize('words, sampling', [
    ([], 'instance'), (['--stage', 'crt'], 'class'), (['--stage', 'lws'], 'class'), (['--stage', 'head'], 'instance'),
    (['--stage', 'crt', '--class-sampling', 'instance'], 'instance'),
    (['--stage', 'lws', '--class-sampling', 'sqrt'], 'sqrt')])
def test_class_sampling_is_that_of_the_stage_unless_it_is_named(words, sampling):
    assert train(*words).class_sampling == sampling
