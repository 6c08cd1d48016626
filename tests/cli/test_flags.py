"""Every option of the three scripts changes what it says: a tensor, a schedule, a message or a file.

Most cases go through the real front door up to the point where training (or evaluation) would begin, and look at what
would be trained (flag_cases.py). `COVERED` collects what is tested; an option without a test fails the last test here.
"""
import json
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from flag_cases import (
    AUGMENTATION,
    CASES,
    DIFFERS,
    argv_of,
    class_names,
    counts,
    num_val,
    one_per_script,
    optimizer_name,
    shown,
    stages,
    student,
)
from front_door import CLASSES, COVERED, PARSERS, covers, reach
from huggingface_hub import ModelCard
from torchvision.datasets import CIFAR10

import timm_ltkd  # noqa: F401
from timm_ltkd.cli import run
from timm_ltkd.cli.arguments import train_parser
from timm_ltkd.cli.config import all_teacher_args, parse
from timm_ltkd.distill import describe_losses, describe_methods
from timm_ltkd.engine import build, jobs
from timm_ltkd.engine.epoch.watch import LossWatch
from timm_ltkd.engine.seeds.asked import each_seed
from timm_ltkd.engine.sharing import share
from timm_ltkd.errors import UserError
from timm_ltkd.options import dump_config


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


def test_an_empty_class_map_is_none(base):
    digits = reach('train', ['--dataset', 'lt/digits', '--class-map', '', '--model', 'resnet20', '--workers', '0'])
    assert digits.training.data.splits.class_names == [str(digit) for digit in range(10)]


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


@pytest.mark.parametrize('mode, device, accumulated, refused', [
    ('reduce-overhead', 'cuda', 2, True), ('max-autotune', 'cuda', 8, True), ('max-autotune', 'cuda', 1, False),
    ('max-autotune', 'cpu', 2, False), ('max-autotune-no-cudagraphs', 'cuda', 2, False), (None, 'cuda', 2, False)])
def test_compiled_cuda_graphs_and_several_batches_an_update(mode, device, accumulated, refused):
    with pytest.raises(UserError, match='do not go with --grad-accum-steps') if refused else nullcontext():
        build.check_compile('inductor', mode, accumulated, torch.device(device))


@covers('train distill', '--cuda-graph')
@pytest.mark.parametrize('script', ['train', 'distill'])
def test_cuda_graph(script, base, monkeypatch):
    """What it does needs a GPU, or the emulation of tests/engine/epoch/test_graph.py; here, that a run steps by it."""
    assert type(reach(script, base[script]).training.loop.step).__name__ == 'TrainingStep'
    for module in (build, jobs):
        monkeypatch.setattr(module, 'check_cuda_graph', lambda args, accelerator: None)
    assert type(reach(script, [*base[script], '--cuda-graph']).training.loop.step).__name__ == 'GraphedStep'


@covers('train distill', '--seeds')
@pytest.mark.parametrize('script', ['train', 'distill'])
def test_seeds(script, base, monkeypatch):
    """What becomes of several is in tests/engine/seeds/; one is a run as any other."""
    seen = reach(script, [*base[script], '--seeds', '7', '--experiment', 'name'])
    assert (seen.args.seed, seen.args.seeds, seen.folder.path.name) == (7, None, 'name-seed7')
    alone = reach(script, [*base[script], '--seed', '7'])
    assert seen.folder.key == alone.folder.key


@covers('distill', '--teacher-seed')
def test_teacher_seed(base):
    """One for all students, and another than theirs, unless it is told."""
    def teachers(args):
        return [own.seed for own in all_teacher_args(args, train_parser())]
    parser = PARSERS['distill']
    assert teachers(parse(parser(), [])) == teachers(parse(parser(), ['--seed', '3'])) == [1042]
    assert teachers(parse(parser(), ['--seed', '3', '--teacher-seed', '5'])) == [5]
    args = parse(parser(), ['--seeds', '1', '2', '--teacher-seed', '5'])
    assert [teachers(own) for own in each_seed(args)] == [[5], [5]] == [teachers(args)] * 2
    plain, other = (reach('distill', [*base['distill'], *more]) for more in ([], ['--teacher-seed', '5']))
    assert plain.folder.key == other.folder.key, 'a teacher that is there counts by its weights'


@covers('train distill', '--push-to-hub', '--hub-private')
@pytest.mark.parametrize('script', ['train', 'distill'])
def test_push_to_hub(script, base, monkeypatch):
    """What is asked of the hub before the training; what is pushed after it is in tests/engine/sharing/test_hub.py."""
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


@covers('train distill', '--checkpoint-interval')
@pytest.mark.parametrize('script', ['train', 'distill'])
def test_checkpoint_interval(script, base, tmp_path):
    written = []
    for words in ([], ['--checkpoint-interval', '2'], ['--checkpoint-interval', '5']):
        folder = tmp_path / str(len(written))
        getattr(run, script)([
            *base[script], *words, '--epochs', '4', '--output', str(tmp_path), '--experiment', folder.name])
        written.append(sorted(int(path.stem[-6:]) for path in (folder / 'last').glob('*.pt')))
    assert written == [[3, 4], [2, 4], [4]], 'the two newest'


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


@covers('train distill', '--grad-checkpointing')
@pytest.mark.parametrize('script, option', [('train', '--model'), ('distill', '--student')])
def test_activations_are_computed_again(script, option, base, capsys):
    words = [*base[script], option, 'test_vit', '--img-size', '32', '--lr', '0.01']
    ends = []
    for more in ([], ['--grad-checkpointing']):
        seen = reach(script, [*words, *more])
        assert seen.network.grad_checkpointing == bool(more)
        seen.training.run_epoch()
        ends.append(seen.network.state_dict())
    torch.testing.assert_close(*ends)
    with pytest.raises(SystemExit):
        reach(script, [*base[script], option, 'dla46_c', '--img-size', '64', '--grad-checkpointing'])
    assert f"--grad-checkpointing: {option} 'dla46_c' cannot do it; leave it out" in capsys.readouterr().err


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

    for words in (['--resume', 'auto'], ['--resume', str(folder)]):
        log.clear()
        getattr(run, script)([*argv, *words])
        assert f'resuming {folder}, which is trained to the end, and measured again' in log
    checkpoint = Path('last/checkpoint-000001.pt')
    assert tree(folder)[checkpoint] == before[checkpoint]

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


@covers('distill', '--teacher-bank', '--bank-views', '--bank-top-k', '--bank-dtype', '--bank-features')
def test_teacher_bank(base, tmp_path):
    argv = [*base['distill'], '--loader', 'resident', '--train-crop-mode', 'pad', '--color-jitter', '0']

    def made(name, *words):
        bank = reach('distill', [*argv, '--teacher-bank', str(tmp_path / name), *words]).training.teaching.bank.bank
        return bank.file.count // 36, bank.layout.dtype, bank.layout.top_k
    assert reach('distill', argv).training.teaching.bank is None
    assert made('exact') == (162, 'float32', None) and (tmp_path / 'exact/bank.json').is_file()
    assert made('views', '--bank-views', '5') == (5, 'float32', None)
    assert made('top', '--bank-top-k', '2') == (162, 'float32', 2)
    assert made('half', '--bank-dtype', 'float16') == (162, 'float16', None)
    seen = reach('distill', [*argv, '--teacher-bank', str(tmp_path / 'both'), '--bank-features'])
    bank = seen.training.teaching.bank.bank
    assert bank.layout.needs_features == (True,) and not reach('distill', argv).training.task.method.needs_features


class TestValidate:
    @covers('validate', '--model')
    def test_weights_of_a_network(self, base, paths, capsys):
        nameless = [word for word in base['validate'] if word not in ('--model', 'resnet20')]
        assert 'say of which network with --model' in fails(capsys, 'validate', nameless)
        seen, wanted = reach('validate', base['validate']), torch.load(paths['resnet20_pt'], weights_only=True)
        assert all(torch.equal(value, wanted[key]) for key, value in seen.network.state_dict().items())
        assert 'resnet20.pt' in fails(capsys, 'validate', [*base['validate'], '--model', 'resnet32'])

    @covers('validate', '--model-kwargs')
    def test_options_of_the_network(self, base, capsys):
        argv = [*base['validate'], '--model-kwargs']
        assert reach('validate', [*argv, 'drop_rate=0.25']).network.drop_rate == 0.25
        assert "has no option 'drop_rat'" in fails(capsys, 'validate', [*argv, 'drop_rat=0.25'])

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
