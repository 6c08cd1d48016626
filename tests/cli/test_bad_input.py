"""Every mistake is told in one line with exit code 2, before anything is trained or written where that can be."""
import logging
import multiprocessing
import os
import pickle
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from PIL import Image
from timm.models import create_model, save_for_hf

import timm_ltkd.models  # noqa: F401  (registers resnet20)
from timm_ltkd.cli import run

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ('ant', 'bee', 'cat')
SMALL = ('--teacher=resnet20', '--student=resnet20', '--img-size=8', '--epochs=1', '-b=6', '--workers=0', '--no-aug')


def write_images(folder, sizes, first_seed=0):
    """`sizes[name]` noise images of 8x8 pixels in `folder/name`."""
    for name, size in sizes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(size):
            pixels = np.random.RandomState(first_seed + i).randint(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f'{i}.png')
    return folder


def write_data(folder, train=None, val=None):
    """Image folders: 6 training and 2 validation images of each of three classes, unless told otherwise."""
    write_images(folder / 'train', train or dict.fromkeys(CLASSES, 6))
    write_images(folder / 'val', val or dict.fromkeys(CLASSES, 2), first_seed=100)
    return folder


def tree(folder):
    """Every file below a folder with its bytes; what processes lock apart."""
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob('*')
        if path.is_file() and path.name != '.lock'}


def forget_state():
    """A process has one Accelerator and one log; each command line is to find it as a new process would."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    PartialState._reset_state()
    logging.getLogger('timm_ltkd').handlers.clear()


@pytest.fixture(autouse=True)
def _new_process():
    forget_state()
    yield
    forget_state()


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def finished(tmp_path_factory, data):
    """The folder of a resnet20 that train.py trained on `data` for an epoch."""
    forget_state()
    root = tmp_path_factory.mktemp('finished')
    options = [option for option in SMALL if not option.startswith(('--teacher', '--student'))]
    run.train(['--model=resnet20', '--dataset=folder', f'--data-dir={data}', f'--output={root}', '--experiment=run',
               *options])
    return root / 'run'


@pytest.fixture
def refuse(tmp_path, capfd):
    """Call a script with more options than `SMALL`; gives the message, and asserts all that each refusal promises."""
    def call(*argv, door=run.distill, small=SMALL, new_files=False):
        before = tree(tmp_path)
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            options = [*small, f'--output={tmp_path / "out"}'] if door is run.distill else []
            door([*options, *map(str, argv)])
        err = capfd.readouterr().err
        *log, last = err.splitlines()
        assert stop.value.code == 2, err
        assert 'Traceback' not in err, err
        assert last.startswith(f'{door.__name__}.py: error: '), err
        assert not any(' error: ' in line for line in log), err
        if not new_files:
            assert tree(tmp_path) == before
        assert not [path for path in tmp_path.rglob('.*') if path.name != '.lock'], 'something half-written is left'
        assert not multiprocessing.active_children(), 'a loader process is left'
        return last.removeprefix(f'{door.__name__}.py: error: ')
    return call


@pytest.fixture
def refuse_on(refuse, data):
    """`refuse` on the image folders."""
    return lambda *argv, **kwargs: refuse('--dataset=folder', f'--data-dir={data}', *argv, **kwargs)


# --- names

@pytest.mark.parametrize('options, message', [
    (['--kd=bkdd'], "unknown distillation method 'bkdd'; did you mean 'bkd'?"),
    (['--kd=bdk'], "unknown distillation method 'bdk'; did you mean 'bkd'?"),
    (['--teacher=resnet21'], "--teacher: unknown model 'resnet21'; did you mean 'resnet32'?"),
    (['--student=vit_tiny_patch15_224'], "unknown model 'vit_tiny_patch15_224'; did you mean 'vit_tiny_patch16_224'?"),
    (['--student=resnet18.a9_in1k'], "--student: timm knows no weights 'resnet18.a9_in1k'; did you mean 'resnet18.a"),
    (['--dataset=lt/digts'], "unknown dataset 'lt/digts'; did you mean 'lt/digits'?"),
    (['--dataset=torch/cifar1'], "unknown dataset 'torch/cifar1'; did you mean 'torch/cifar10'?"),
    (['--kd-kwargs', 'temprature=2'], "method 'bkd' has no option 'temprature'; did you mean 'temperature'?"),
    (['--loss-kwargs', 'smoothin=0.1'], "loss 'ce' has no option 'smoothin'; did you mean 'smoothing'?"),
    (['--model-kwargs', 'drop_rat=0.1'], "--student 'resnet20' has no option 'drop_rat'; did you mean 'drop_rate'?"),
    (['--student=vit_tiny_patch16_224', '--model-kwargs', 'embed_di=96'],
     "--student 'vit_tiny_patch16_224' has no option 'embed_di'; did you mean 'embed_dim'?"),
    (['--opt-kwargs', 'nestrov=True'], "--opt 'sgd' has no option 'nestrov'; did you mean 'nesterov'?"),
    (['--opt=adamq'], "--opt: unknown optimizer 'adamq'; did you mean 'adam"),
    (['--loss=balanced_sofmax'], "unknown loss 'balanced_sofmax'; did you mean 'balanced_softmax'?"),
    (['--log-with=tensorbord'], "unknown tracker 'tensorbord'; did you mean 'tensorboard'?"),
    (['--aa=randm9'], "timm cannot read the auto-augment string 'randm9'"),
    (['--interpolation=bicubc'], "unknown interpolation 'bicubc'; did you mean 'bicubic'?"),
    (['--torchcompile-mode=reduce-overhead'], '--torchcompile-mode is about --torchcompile; give that too'),
    (['--model-kwargs', 'num_classes=5'], "--student: the data have 10 classes, and the model's options say 5"),
    (['--opt=fusedadamw'], "--opt 'fusedadamw': "),
    (['--torchcompile=inductr'], "--torchcompile: unknown backend 'inductr'; did you mean 'inductor'?"),
])
def test_an_unknown_name(refuse, options, message):
    options = [option for option in SMALL if option != '--no-aug'] + options
    assert message in refuse(*options, small=())


def test_an_unknown_option_names_the_nearest_and_is_all_that_is_said(refuse, capfd):
    assert refuse('--teecher=resnet20') == "unknown option '--teecher=resnet20'; did you mean '--teacher'?"


@pytest.mark.parametrize('options, message', [
    (['--epochs=0'], 'argument --epochs: must be at least 1'),
    (['--holdout=0.6'], 'argument --holdout: must be at most 0.5'),
    (['--smoothing=1.5'], 'argument --smoothing: must be at most 1'),
    (['--sched=cosin'], "argument --sched: invalid choice: 'cosin'"),
    (['--kd-kwargs', 'temperature=hot'], "temperature must be a number, got 'hot'"),
    (['--kd-kwargs', 'temperature=0'], 'temperature must be above 0'),
    (['--kd-kwargs', 'prior=1'], "--kd-kwargs: 'prior' comes from the run"),
    (['--loss-kwargs', 'name=ce'], "--loss-kwargs: 'name' comes from the run"),
    (['--sched=plateau', '--sched-on-updates'], "--sched 'plateau': "),
    (['--seed=99999999999'], 'argument --seed: must be at most 2147483647'),
    (['--opt=adamw', '--opt-betas', '0.9', '1'], "--opt 'adamw': Invalid beta"),
    (['--opt=adamw', '--opt-betas', '0.9'], '--opt-betas: give as many numbers as the optimizer has betas, two for'),
    (['--sched=multistep', '--decay-milestones', '9', '3'], '--decay-milestones 9 3: list the epochs in ascending'),
    (['--kd', 'bkd', 'kd', 'bkd'], "--kd: 'bkd' twice for one teacher; name it once, and give it a larger weight"),
    (['--kd', 'bkd', 'kd', '--kd-kwargs', 'bta=1'],
     "none of the methods bkd, kd has an option 'bta'; did you mean 'beta'?"),
    (['--kd', 'bkd', 'kd', '--kd-kwargs', 'dkd.beta=1'], "'dkd.beta': 'dkd' is not among the methods"),
    (['--kd', 'bkd', 'kd', '--kd-kwargs', 'kd.prior=1'], "--kd-kwargs: 'kd.prior' comes from the run"),
    (['--kd-kwargs', '.beta=1'], "'.beta=1' is not of the form key=value or name.key=value"),
    (['--model-kwargs', 'a.b=1'], "'a.b=1' is not of the form key=value"),
    (['--gp=best'], "--student 'resnet20': it cannot be made with these options (Invalid pool type: best)"),
    (['--torchcompile', '--torchcompile-mode=fast'], "--torchcompile-mode 'fast': "),
    (['--kd-kwargs', 'beta=1'], 'beta must be in [0, 1)'),
    (['--loss-kwargs', 'smoothing=a'], "smoothing must be a number, got 'a'"),
    (['--opt-kwargs', 'lr=1'], '--opt-kwargs lr: it has an option of its own'),
    (['--opt-kwargs', 'dampening=1'], "--opt 'sgd': Nesterov momentum requires"),
    (['--mean', '0.5', '0.5'], '--mean: give 3 numbers'),
    (['--teacher-mean', '123.7'], 'argument --teacher-mean: pixels go from 0 to 1, got 123.7 (divide by 255?)'),
    (['--std', '58'], '--std: pixels go from 0 to 1, got 58 (divide by 255?)'),
    (['--std', '0.5', '0.5', '0.5', '0.5'], '--std: give 3 numbers'),
    (['--num-classes=11'], '--num-classes 11: the data have 10 classes'),
    (['--imbalance-factor=0.5'], 'argument --imbalance-factor: must be at least 1'),
    (['--imbalance-factor=200'], 'leaves class 9'),
    (['--imbalance-factor=5', '--max-per-class=150'], "class '0' (index 0) has 148 images, but 150 are asked of it"),
    (['--max-per-class=0'], 'argument --max-per-class: must be at least 1'),
    (['--class-counts=nowhere.txt'], "cannot read class counts from 'nowhere.txt'"),
    (['--pretrained'], "--student: no pretrained weights for 'resnet20' (timm knows none)"),
    (['--student=resnet18', '--pretrained'],
     "--student: no pretrained weights for 'resnet18' (the hub cannot be reached"),
    (['--teacher=resnet18', '--teacher-pretrained'], "no pretrained weights for 'resnet18' (the hub cannot be reached"),
    (['--teacher-pretrained'], "no pretrained weights for 'resnet20' (timm knows none)"),
    (['--student=hf-hub:nobody/nothing'], "--student 'hf-hub:nobody/nothing'"),
    (['--student=vgg11', '--img-size=8'], "--student 'vgg11' takes no images of 8x8 pixels"),
    (['--teacher=vgg11', '--img-size=8'], "--teacher 'vgg11' takes no images of 8x8 pixels"),
    (['--student=vit_tiny_patch16_224', '--img-size=8'], "--student 'vit_tiny_patch16_224'"),
    (['--teacher=vgg11', '--teacher-img-size=8', '--img-size=32'], "--teacher 'vgg11' takes no images of 8x8 pixels"),
])
def test_a_value_that_cannot_be(refuse, options, message):
    assert message in refuse(*options)


def test_a_tracker_that_is_not_installed(refuse, monkeypatch):
    from timm_ltkd.engine.processes import launch
    monkeypatch.setattr(launch, 'get_available_trackers', lambda: ['tensorboard'])
    assert refuse('--log-with', 'wandb') == \
        "--log-with: the tracker 'wandb' is not installed; pip install it, or leave it out"


# --- YAML

@pytest.mark.parametrize('content, message', [
    ('epoch: 3', "unknown key 'epoch'; did you mean 'epochs'?"),
    ('epochs: [1, 2', 'line 1: not valid YAML'),
    ('a: b: c', 'line 1: not valid YAML'),
    ('- epochs', 'holds "option: value" lines'),
    ('imbalance_factor: 0.5', 'imbalance_factor: must be at least 1'),
    ('kd-kwargs: temperature=2', 'kd-kwargs: expected a mapping'),
    ('kd-kwargs: {temprature: 2}', "has no option 'temprature'; did you mean 'temperature'?"),
    ('kd: bkdd', "unknown distillation method 'bkdd'"),
    ('epochs: !!python/object/apply:os.system ["touch pwned"]', 'line 1: not valid YAML'),
])
@pytest.mark.parametrize('option', ['--config', '--teacher-config'])
def test_a_bad_yaml(refuse, tmp_path, monkeypatch, option, content, message):
    monkeypatch.chdir(tmp_path)
    if option == '--teacher-config':
        content, message = content.replace('kd-kwargs', 'loss-kwargs'), message.replace('kd-kwargs', 'loss-kwargs')
        content, message = content.replace('temprature', 'smoothin'), message.replace('temprature', 'smoothin')
        content, message = content.replace('kd: bkdd', 'loss: bkdd'), message.replace('distillation method', 'loss')
        message = message.replace("mean 'temperature'", "mean 'smoothing'")
    path = tmp_path / 'recipe.yaml'
    path.write_text(content)
    assert message in refuse(option, path)
    assert not (tmp_path / 'pwned').exists()


@pytest.mark.parametrize('option', ['--config', '--teacher-config'])
def test_a_yaml_that_cannot_be_read(refuse, tmp_path, option):
    assert f'cannot read the config file {tmp_path}/none.yaml' in refuse(option, tmp_path / 'none.yaml')
    assert f'cannot read the config file {tmp_path}' in refuse(option, tmp_path)
    (tmp_path / 'binary.yaml').write_bytes(b'\xff\xfe\x00\x80')
    assert 'binary.yaml' in refuse(option, tmp_path / 'binary.yaml')


def test_a_teacher_config_for_another_network(refuse, tmp_path):
    (tmp_path / 't.yaml').write_text('model: resnet56')
    said = refuse('--teacher-config', tmp_path / 't.yaml')
    assert said == "--teacher-config trains 'resnet56' but --teacher is 'resnet20'; make them agree"


def test_a_mistake_of_the_student_is_told_before_its_teacher_is_trained(refuse, tmp_path):
    (tmp_path / 't.yaml').write_text('opt: sgd\naa: rand-m1\n')
    assert "unknown optimizer 'adamq'" in refuse('--teacher-config', tmp_path / 't.yaml', '--opt=adamq')


# --- data

@pytest.mark.parametrize('options, message', [
    (['--data-dir=nowhere'], "the data folder 'nowhere' does not exist"),
    ([], 'image folders need a data folder'),
    (['--data-dir=nowhere', '--dataset=torch/cifar10'], "the data folder 'nowhere' does not exist"),
    (['--data-dir={data}', '--dataset=torch/cifar10'], "cannot read 'torch/cifar10'"),
    (['--data-dir={data}', '--imbalance-factor=2'], "to make 'folder' long-tailed, write 'lt/folder'"),
    (['--data-dir={data}', '--dataset=lt/folder', '--imbalance-factor=20'], 'leaves class 2 with 0 images'),
    (['--data-dir={data}', '--dataset=lt/folder', '--imbalance-factor=2', '--max-per-class=7'],
     "class 'ant' (index 0) has 6 images, but 7 are asked of it"),
    (['--data-dir={data}', '--class-map=none.txt'], "cannot read the class map 'none.txt'"),
    (['--data-dir={data}', '--val-split=test'], "there is no split 'test'"),
    (['--data-dir={data}', '--eval-metric=many'], "invalid choice: 'many'"),
])
def test_data_that_cannot_be_used(refuse, data, options, message):
    assert message in refuse('--dataset=folder', *(option.format(data=data) for option in options))


@pytest.mark.parametrize('train, val, message', [
    ({'ant': 0, 'bee': 0}, None, 'no images'),
    ({'ant': 3, 'bee': 0, 'cat': 3}, None, "class 'bee' in "),
    ({'ant': 3, 'cat': 3}, {'ant': 2, 'bee': 2}, "validation has classes that training does not have: 'bee'"),
    (None, {'ant': 0}, 'no images'),
])
def test_classes_without_images(refuse, tmp_path, train, val, message):
    write_data(tmp_path / 'images', train, val)
    assert message in refuse('--dataset=folder', '--data-dir', tmp_path / 'images')


def test_a_metric_that_the_data_cannot_have_is_told_before_training(refuse, tmp_path):
    write_data(tmp_path / 'images', {'ant': 25, 'bee': 22}, {'ant': 2, 'bee': 2})
    message = refuse('--dataset=folder', '--data-dir', tmp_path / 'images', '--eval-metric=few')
    assert message.startswith('--eval-metric few: ') and 'balanced' in message


@pytest.mark.parametrize('workers, damage', [
    (0, 'truncated'), (2, 'truncated'), (0, 'garbage'), (2, 'garbage'), (0, 'empty')])
@pytest.mark.parametrize('split', ['train', 'val'])
def test_a_broken_image_is_named(refuse, tmp_path, finished, split, workers, damage):
    path = write_data(tmp_path / 'images') / split / 'bee' / '1.png'
    whole = path.read_bytes()
    path.write_bytes({'truncated': whole[:len(whole) // 2], 'garbage': b'no image at all', 'empty': b''}[damage])
    message = refuse('--dataset=folder', '--data-dir', tmp_path / 'images', '--teacher-checkpoint', finished,
                     f'--workers={workers}')
    assert message.startswith(f"cannot read image '{path}': ") and message.endswith('; repair or remove it')


# --- weights

class Payload:
    """Touches a file when a careless reader unpickles it."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def save_resnet20(folder, num_classes=3, name='resnet20', label_names=CLASSES):
    """A folder as timm writes it for a hub, and the same weights as a torch file in it."""
    folder.mkdir(exist_ok=True)
    network = create_model(name, num_classes=num_classes)
    torch.save(network.state_dict(), folder / 'weights.pth')
    save_for_hf(network, folder, model_config={'label_names': list(label_names)}, safe_serialization=True)
    return folder


def damage_weights(path, how):
    if how == 'truncated':
        path.write_bytes(path.read_bytes()[:len(path.read_bytes()) // 2])
    elif how == 'text':
        path.write_text('these are not the weights\n')
    elif how == 'empty':
        path.write_bytes(b'')
    elif how == 'list':
        torch.save([1, 2, 3], path)
    elif how == 'numbers':
        torch.save({'epoch': 3, 'lr': 0.1}, path)
    elif how == 'nested':
        torch.save({'state_dict': {'conv1.weight': 'three'}}, path)
    elif how == 'gone':
        path.unlink()
    else:
        raise ValueError(how)


@pytest.mark.parametrize('option', ['--teacher-checkpoint', '--initial-checkpoint'])
@pytest.mark.parametrize('how, message', [
    ('truncated', 'is truncated or no checkpoint'),
    ('text', 'no checkpoint'),
    ('empty', 'is truncated or no checkpoint'),
    ('list', 'holds no weights by name'),
    ('numbers', 'holds no weights by name'),
    ('nested', 'holds no weights by name'),
    ('gone', 'there is no file'),
])
def test_a_file_that_holds_no_weights(refuse_on, tmp_path, option, how, message):
    path = save_resnet20(tmp_path / 'weights') / 'weights.pth'
    damage_weights(path, how)
    said = refuse_on(option, path)
    assert said.startswith(option) and message in said and str(path) in said


@pytest.mark.parametrize('option', ['--teacher-checkpoint', '--initial-checkpoint'])
@pytest.mark.parametrize('model, num_classes, message', [
    ('resnet32', 3, 'is of another architecture than resnet20: '),
    ('resnet8x4', 3, 'does not fit resnet20: '),
])
def test_weights_of_another_network(refuse_on, tmp_path, option, model, num_classes, message):
    folder = save_resnet20(tmp_path / 'weights', num_classes, model)
    for name in ('weights.pth', 'model.safetensors'):
        assert message in refuse_on(option, folder / name)


@pytest.mark.parametrize('option, message', [
    ('--initial-checkpoint', 'fc.bias is [5], expected [3] (the network has 3 classes); --new-head'),
    ('--teacher-checkpoint', 'has 5 classes and the data 3; they must share one label space'),
])
def test_weights_with_another_head(refuse_on, tmp_path, option, message):
    assert message in refuse_on(option, save_resnet20(tmp_path / 'weights', 5) / 'weights.pth')


@pytest.mark.parametrize('option', ['--teacher-checkpoint', '--initial-checkpoint'])
@pytest.mark.parametrize('kind', ['zip', 'pickle', 'hidden'])
def test_code_in_a_checkpoint_is_not_run(refuse_on, tmp_path, option, kind):
    path, touched = tmp_path / 'weights.pth', tmp_path / 'touched'
    if kind == 'zip':
        torch.save(Payload(touched), path)
    elif kind == 'pickle':
        path.write_bytes(pickle.dumps({'state_dict': Payload(touched)}, protocol=2))
    else:
        torch.save({'state_dict': create_model('resnet20', num_classes=3).state_dict(), 'args': Payload(touched)}, path)
    said = refuse_on(option, path)
    assert f'{path} is not safe to load' in said
    assert not touched.exists()
    with suppress(RuntimeError):  # a plain pickle is read, and its code run, before torch finds it is none of its own
        torch.load(path, weights_only=False)
    assert touched.exists(), 'the payload is a dud'


@pytest.mark.parametrize('file, content, message', [
    ('model.safetensors', 'half', 'is truncated or no checkpoint'),
    ('model.safetensors', None, 'there is no file'),
    ('config.json', 'half', 'is no finished run or timm model folder'),
    ('config.json', None, 'is no finished run or timm model folder'),
    ('model.safetensors', 'version https://git-lfs.github.com/spec/v1', "is text and no checkpoint ('version https:"),
    ('config.json', '[1, 2]', 'is no finished run or timm model folder'),
    ('config.json', '{"architecture": 3}', 'is no finished run or timm model folder'),
    ('config.json', '{"architecture": "resnet20", "model_args": [1]}', 'is no finished run or timm model folder'),
    ('config.json', '{"architecture": "resnet20", "pretrained_cfg": 1}', 'is no finished run or timm model folder'),
    ('config.json', '{"architecture": "resnet21"}', "holds 'resnet21', which is no model of timm"),
    ('config.json', '{"architecture": "resnet20", "num_classes": "many"}', 'is no finished run or timm model folder'),
    ('config.json', '{"architecture": "resnet20", "num_classes": 3, "model_args": {"widht": 2}}', "no option 'widht'"),
])
def test_a_teacher_folder_that_is_damaged(refuse_on, tmp_path, file, content, message):
    path = save_resnet20(tmp_path / 'teacher') / file
    whole = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(whole[:len(whole) // 2] if content == 'half' else content.encode())
    said = refuse_on('--teacher-checkpoint', tmp_path / 'teacher')
    assert said.startswith('--teacher-checkpoint') and message in said


def test_a_teacher_folder_whose_options_are_no_text(refuse_on, tmp_path):
    folder = save_resnet20(tmp_path / 'teacher')
    (folder / 'args.yaml').write_bytes(b'seed: \xff')
    assert f'cannot read the config file {folder / "args.yaml"}' in refuse_on('--teacher-checkpoint', folder)


def test_a_run_that_is_not_finished(refuse_on, tmp_path):
    folder = save_resnet20(tmp_path / 'teacher')
    for name in ('config.json', 'model.safetensors'):
        (folder / name).unlink()
    (folder / 'args.yaml').write_text('seed: 3')
    assert f'the run in {folder} is not finished; --resume {folder} continues it' in refuse_on(
        '--teacher-checkpoint', folder)


def test_a_folder_is_no_name_of_a_network(refuse_on, tmp_path):
    folder = save_resnet20(tmp_path / 'teacher')
    assert 'no name of a model: give it as --teacher-checkpoint' in refuse_on('--teacher', folder)
    assert 'no name of a model: give it as --initial-checkpoint' in refuse_on('--student', folder)


def test_a_teacher_of_another_label_space(refuse_on, tmp_path):
    folder = save_resnet20(tmp_path / 'five', 5, label_names='abcde')
    assert 'has 5 classes and the data 3' in refuse_on('--teacher-checkpoint', folder)
    folder = save_resnet20(tmp_path / 'order', label_names=('ant', 'cat', 'dog'))
    assert "class 1 is 'cat' for" in refuse_on('--teacher-checkpoint', folder)
    assert 'there is no file or folder' in refuse_on('--teacher-checkpoint', tmp_path / 'none')


# --- resuming, and the folder of a run

@pytest.fixture
def own_run(finished, tmp_path):
    """A copy of the finished run's checkpoints, marked as another kind of run."""
    folder = tmp_path / 'out' / 'run'
    (folder / 'last').mkdir(parents=True)
    for name in ('run.json', 'checkpoint-000001.pt'):
        (folder / 'last' / name).write_bytes((finished / 'last' / name).read_bytes())
    return folder


def test_a_folder_with_other_files_is_left_alone(refuse_on, own_run):
    assert f'{own_run} holds a run; choose another --experiment' in refuse_on('--experiment=run')
    assert 'was started with other settings or data' in refuse_on('--experiment=run', '--resume=auto')
    assert 'was started with other settings or data' in refuse_on('--resume', own_run)
    (own_run / 'last' / 'run.json').unlink()
    for option in ([], ['--resume=auto'], ['--overwrite']):
        assert f'{own_run} holds files that are no run of ours' in refuse_on('--experiment=run', *option)


def test_output_that_is_no_folder(refuse_on, tmp_path):
    (tmp_path / 'file').write_text('mine')
    assert f'--output {tmp_path}/file is a file' in refuse_on('--output', tmp_path / 'file')
    assert 'cannot be written' in refuse_on('--output', tmp_path / 'file' / 'below')
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'run').write_text('mine')
    assert 'is a file; choose another --experiment' in refuse_on('--experiment=run')


@pytest.mark.skipif(os.name != 'posix' or os.geteuid() == 0, reason='root may write anywhere')
def test_output_that_is_read_only(refuse_on, tmp_path):
    (tmp_path / 'locked').mkdir(mode=0o500)
    assert 'cannot be written' in refuse_on('--output', tmp_path / 'locked')


def test_a_mistake_with_overwrite_does_not_cost_the_old_run(refuse_on, own_run):
    assert 'unknown optimizer' in refuse_on('--experiment=run', '--overwrite', '--opt=adamq')


@pytest.mark.parametrize('how', ['truncated', 'unsafe', 'other', 'list'])
def test_a_checkpoint_that_cannot_be_resumed(refuse_on, own_run, tmp_path, monkeypatch, how):
    path, touched = own_run / 'last' / 'checkpoint-000001.pt', tmp_path / 'touched'
    (own_run / 'last' / 'run.json').unlink()  # else the settings are found to differ first
    if how == 'truncated':
        path.write_bytes(path.read_bytes()[:5000])
    elif how == 'list':
        torch.save([1, 2], path)
    elif how == 'unsafe':
        torch.save({**torch.load(path, weights_only=True), 'args': Payload(touched)}, path)
    else:
        state = torch.load(path, weights_only=True)
        torch.save({**state, 'model': create_model('resnet32', num_classes=3).state_dict()}, path)
    teacher = save_resnet20(tmp_path / 'teacher')
    said = refuse_on('--resume', own_run, '--teacher-checkpoint', teacher)
    other = how == 'other'
    assert ('is of another architecture or recipe' if other else f'no checkpoint in {own_run}/last can be read') in said
    assert not touched.exists()


# --- precision and training

def test_fp16_on_a_cpu(refuse_on, monkeypatch):
    monkeypatch.setenv('ACCELERATE_MIXED_PRECISION', 'fp16')
    assert refuse_on().startswith('fp16 needs a GPU')


def test_an_unknown_precision(refuse_on, monkeypatch):
    monkeypatch.setenv('ACCELERATE_MIXED_PRECISION', 'fp17')
    assert refuse_on() == "unknown precision 'fp17'; did you mean 'fp16'? Known: bf16, fp16, no"


def test_a_loss_that_explodes_at_once_leaves_no_checkpoint_to_speak_of(refuse_on, finished):
    said = refuse_on('--teacher-checkpoint', finished, '--lr=1e20', '--warmup-epochs=0', '--experiment=run')
    assert 'NaN or infinite' in said and 'epoch 1, ' in said and 'checkpoint stands' not in said


def test_a_loss_that_explodes_keeps_the_last_good_checkpoint(refuse_on, tmp_path, finished):
    said = refuse_on('--teacher-checkpoint', finished, '--lr=1e20', '--warmup-epochs=1', '--warmup-lr=1e-5',
                     '--epochs=3', '--experiment=run', '--log-interval=1', new_files=True)
    assert 'NaN or infinite' in said and 'epoch 2, step' in said and 'the last checkpoint stands' in said
    folder = tmp_path / 'out' / 'run'
    state = torch.load(folder / 'last' / 'checkpoint-000001.pt', weights_only=True)
    assert [path.name for path in (folder / 'last').glob('*.pt')] == ['checkpoint-000001.pt']
    assert all(value.isfinite().all() for value in state['model'].values())
    assert len((folder / 'summary.csv').read_text().splitlines()) == 2
    assert not (folder / 'model.safetensors').exists()


@pytest.mark.parametrize('options', [
    ['-b=3', '--lr=1e20'],
    ['-b=18', '--lr=1e30'],  # one step an epoch: the loss was fine, what is wrong shows in the evaluation
    ['-b=18', '--lr=1e38', '--kd-kwargs', 'alpha=1e6', '--val-interval=2'],  # or in the weights, without one
], ids=' '.join)
def test_a_loss_that_explodes_at_once_leaves_nothing(refuse_on, finished, options):
    said = refuse_on('--teacher-checkpoint', finished, '--warmup-epochs=0', '--epochs=2', *options)
    assert 'NaN or infinite' in said and 'epoch 1, step' in said


# --- the other door, and real processes

def test_validate_refuses_too(refuse, data, finished, tmp_path):
    def said(*argv, checkpoint=finished):
        return refuse(checkpoint, '--dataset=folder', f'--data-dir={data}', '--img-size=8', *argv, door=run.validate)
    assert 'name a .json or a .csv file' in said('--results-file=figures.txt')
    assert 'there is no such folder' in said('--results-file', tmp_path / 'none' / 'figures.json')
    assert '--mean: give 3 numbers' in said('--mean', '0.1', '0.2')
    assert 'there is no file or folder' in said(checkpoint=tmp_path / 'none')
    gone = tmp_path / 'ru[n'
    for seed in '01':
        Path(f'{gone}-seed{seed}').mkdir()
    assert said(checkpoint=gone) == (
        f'checkpoint: there is no file or folder {gone}; there are {gone}-seed0, {gone}-seed1')
    assert 'say of which network with --model' in said(checkpoint=save_resnet20(tmp_path / 'w') / 'weights.pth')
    assert "unknown model 'resnet21'" in said('--model=resnet21', checkpoint=tmp_path / 'w' / 'weights.pth')
    assert "unexpected argument 'again'" in said('again')
    assert f"unexpected argument '{data}'; the data folder is --data-dir {data}" in refuse(data, door=run.train)
    assert "unknown option '--model=x'; --student and --teacher name the networks" in refuse('--model=x')
    assert 'name a checkpoint' in refuse(door=run.validate)
    assert 'has 3 classes and the data 10' in refuse(finished, '--dataset=lt/digits', door=run.validate)


def python(*command, **environment):
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT), **environment}
    return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, env=environment)


def test_the_script_itself_says_one_line():
    done = python(ROOT / 'distill.py', '--kd', 'bkd', '--epoch', '3')
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr == "distill.py: error: unknown option '--epoch'; did you mean '--epochs'?\n"


def test_fp16_under_the_launcher(tmp_path):
    done = python('-m', 'accelerate.commands.launch', '--mixed_precision=fp16', '--num_processes=1', '--cpu',
                  ROOT / 'distill.py', '--output', tmp_path / 'out')
    assert done.returncode != 0
    ours = [line for line in done.stderr.splitlines() if line.startswith('distill.py')]
    assert len(ours) == 1 and 'fp16 needs a GPU' in ours[0]
    assert not (tmp_path / 'out').exists()
