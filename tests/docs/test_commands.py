"""Every command of README and docs: its options exist, and it runs, shortened, on tiny data and networks.

A command is a line of a fenced block, or an inline span, that begins with the name of a program. What the page leaves
open (…, PATH) is said in `FILLED`; what cannot be run here is in `NOT_RUN`, with the reason. Any other command that
does not run as it is fails its test.
"""
import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from timm_ltkd.cli import arguments, run
from timm_ltkd.cli.config import parse

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
FENCE = re.compile(r'^( *)```(\w*)\n(.*?)^ *```', re.S | re.M)
PROGRAMS = re.compile(
    r'(?:[A-Z_]+=\S+ )*(?:python3?|accelerate|pip|hf|huggingface-cli|git|docker|ltkd-\w+|\w+\.py) +[^\s…]')

NOT_RUN = {
    'python -m pytest -n 2': 'is what runs this',
    'python train.py --device-modules timm_ltkd --data-dir DATA --dataset torch/cifar100_lt100 --num-classes 100 '
    '--model resnet32': "timm's own script, which is in no package; tests/test_plugin.py does what it does",
    'accelerate config': 'asks questions',
    'accelerate launch my_loop.py': 'run by tests/docs/test_python.py',
}
KINDS_NOT_RUN = {
    'pip install ': 'needs the network; .ci/run installs the package, and a test here looks at the extras',
    'hf ': 'needs the hub',
    'python benchmarks/': 'takes minutes; tests/benchmarks runs them shortened',
    'python results/': 'takes hours; tests/results runs them shortened',
}
STOPS = {'--push-to-hub': 'not logged in to the hub'}  # what ends a command with this option, and nothing before
FILLED = {  # what a page leaves open, or names without what it always needs
    'accelerate launch': 'accelerate launch train.py',
    'accelerate launch $(command -v ltkd-distill) …': 'accelerate launch distill.py',
    'accelerate launch --mixed_precision bf16': 'accelerate launch --mixed_precision bf16 train.py',
    'python distill.py … --teacher-checkpoint output/RUN --teacher-bank BANK --bank-views 10':
        'distill.py --teacher-checkpoint output/RUN --teacher-bank VIEWS --bank-views 10',
    'python distill.py --dataset lt/imagenet … --kd kd --teacher-bank BANK --bank-views 20 --bank-top-k 50 '
    '--bank-dtype float16':
        'distill.py --dataset lt/imagenet --data-dir IMAGENET --train-list ImageNet_LT_train.txt --kd kd '
        '--teacher-bank OTHER --bank-views 20 --bank-top-k 2 --bank-dtype float16',
    'validate.py --predict DIR': 'validate.py output/RUN --predict DATA',
    'validate.py --tau-norm': 'validate.py output/RUN --tau-norm 0.5',
    'validate.py --tau-norm TAU …': 'validate.py output/RUN --tau-norm 0.5',
    'validate.py --logit-adjust TAU …': 'validate.py output/RUN --logit-adjust 0.5',
    'python train.py --dataset lt/my_data --import my_data …':
        'train.py --dataset lt/my_data --import my_data --data-dir DATA',
    'train.py --stage crt': 'train.py --stage crt --initial-checkpoint output/RUN',
    'train.py --stage head': 'train.py --stage head --initial-checkpoint output/RUN',
    'train.py --stage lws': 'train.py --stage lws --initial-checkpoint output/RUN',
    'train.py --initial-checkpoint PATH --new-head': 'train.py --initial-checkpoint weights.safetensors --new-head',
    'train.py --model': 'train.py --model resnet20',
}
STANDS_FOR = {'hf-hub:NAME': 'output/RUN'}
RUNS_ARE = 'resnet32'  # the networks below output/


def commands_of(text: str) -> list[str]:
    """Lines of blocks without a language, and inline spans, that begin with a program and have more than its name."""
    found = []
    for _, language, block in FENCE.findall(text):
        if language in ('', 'bash', 'sh'):
            for line in block.replace('\\\n', ' ').splitlines():
                found += re.sub(r'\s#.*', '', line).split(' && ')
    for span in re.findall(r'`([^`]+)`', FENCE.sub('', text)):
        found += span.split(' && ')
    found = [' '.join(command.split()) for command in found]
    return [command for command in dict.fromkeys(found) if PROGRAMS.match(command)]


COMMANDS = {command: page for page in reversed(PAGES) for command in commands_of(page.read_text(encoding='utf-8'))}
RUN = [
    pytest.param(command, id=f'{page.name}: {command}') for command, page in COMMANDS.items()
    if command not in NOT_RUN and not command.startswith(tuple(KINDS_NOT_RUN))]


def take_apart(command: str) -> tuple[list[str], str, list[str]]:
    """Options of `accelerate launch` (or none), the program, and what it is given; names filled in, … left out."""
    words = [STANDS_FOR.get(word, word) for word in shlex.split(FILLED.get(command, command)) if word != '…']
    while re.fullmatch(r'[A-Z_]+=\S+', words[0]):
        words.pop(0)
    if words[:2] == ['accelerate', 'launch']:
        args = launch_command_parser().parse_args(words[2:])
        return words[2:-len(args.training_script_args) - 1], args.training_script, args.training_script_args
    if words[0] == 'python':
        words = words[2:] if words[1] == '-m' else words[1:]
    return [], words[0], words[1:]


def with_precision_of(launcher: list[str], monkeypatch) -> None:
    """What a launch tells the one process that runs here."""
    monkeypatch.setattr('accelerate.utils.launch.is_port_in_use', lambda port: False)
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args([*launcher, 'x.py']))
    monkeypatch.setenv('ACCELERATE_MIXED_PRECISION', args.mixed_precision)


def shortened(script: str, words: list[str], small: dict[str, str]) -> list[str]:
    """A training command for images of 32 pixels, tiny networks and one epoch."""
    words = [word for word in words if word != '--dataset-download']
    args = parse(getattr(arguments, f'{script}_parser')(), words)
    if args.dataset == 'lt/digits':
        words += '--dataset folder --data-dir DATA --train-crop-mode pad --hflip 0 --color-jitter 0'.split()
    if args.dataset.startswith(('lt/cifar', 'torch/cifar', 'lt/tiny')):
        words += ['--dataset', 'lt/folder']
    if (args.imbalance_factor or 0) > 2:
        words += ['--imbalance-factor', '2']
    for option in ('model', 'student', 'teacher'):
        names = getattr(args, option, None)
        names = names if isinstance(names, list) else [names]
        if any(name in small for name in names):
            words += [f'--{option}', *(small.get(name, name) for name in names)]
    if (args.initial_checkpoint or '').startswith('output/'):
        words += ['--model', RUNS_ARE]
    tiny = '--epochs 1 --warmup-epochs 0 --lr 0.01 --img-size 32 --workers 0 -b 4 --output new --overwrite'
    return [*words, *tiny.split()]


def reports() -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in Path('new').glob('*/report.json')}


def check_training(script: str, words: list[str]) -> None:
    before = reports()
    seeds = parse(getattr(arguments, f'{script}_parser')(), words).seeds or [0]
    getattr(run, script)(words)
    assert len(reports().items() - before.items()) == len(seeds)


def check_validation(words: list[str], capsys) -> None:
    run.validate([*words, '--workers', '0'])
    said = capsys.readouterr().out
    if '--predictions-file' in words:
        said = Path(words[words.index('--predictions-file') + 1]).read_text()
    assert ('class_1,prob_1' if '--predict' in words else 'balanced') in said


@pytest.mark.parametrize('command', RUN)
def test_command(command, workplace, modules, small, monkeypatch, capsys, own_module):
    monkeypatch.chdir(workplace)
    for name in modules:  # what they registered for another command is forgotten
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delenv('HF_TOKEN', raising=False)
    launcher, program, words = take_apart(command)
    if '--onnx' in words and torch.__version__ < (2, 9):  # compares by its parts
        pytest.skip("torch's exporter refuses some networks before 2.9, as docs/sharing.md says")
    if launcher:
        with_precision_of(launcher, monkeypatch)
    script = program.removesuffix('.py').removeprefix('ltkd-').removeprefix('timm_ltkd.')
    if script in ('train', 'distill') and not any(word.startswith('--list-') for word in words):
        words = shortened(script, words, small)
    end = next((message for option, message in STOPS.items() if option in words), None)
    if end or any(word == '--help' or word.startswith('--list-') for word in words):
        with pytest.raises(SystemExit) as stopped:
            getattr(run, script)(words)
        said = capsys.readouterr()
        assert end in said.err if end else not stopped.value.code and said.out
    elif script in ('train', 'distill'):
        check_training(script, words)
    elif script == 'validate':
        if 'MODEL' in words and not Path('MODEL').exists():  # the command that makes it may run elsewhere
            run.export(['output/run', '--export-dir', 'MODEL'])
        check_validation(words, capsys)
    elif script == '-c':
        assert subprocess.run([sys.executable, '-c', *words], capture_output=True, check=True).stdout
    else:
        assert script in ('compare', 'export'), f'say here how {program} is run, or in NOT_RUN why not'
        shutil.rmtree('MODEL', ignore_errors=True)  # of another command
        getattr(run, script)([small.get(word, word) for word in words])


def test_what_is_said_of_commands_is_about_some():
    gone = [command for command in (*NOT_RUN, *FILLED) if command not in COMMANDS]
    assert not gone
    for part in (*KINDS_NOT_RUN, *STOPS):
        assert any(part in command for command in COMMANDS), part


def test_extras_that_are_installed_exist():
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    for command in COMMANDS:
        for extra in re.findall(r"^pip install .*\[(\w+)\]", command):
            assert extra in config['options.extras_require'], command


def test_files_of_the_checkout_exist():
    for command in COMMANDS:
        for path in re.findall(r'\b(?:hparams|benchmarks|results)/[\w./]+', command):
            assert (ROOT / path).is_file(), command


# ---- options that are named anywhere ---------------------------------------------------------------------------------

ELSEWHERE = {  # of timm's scripts, docker, pip, Slurm, tensorboard, benchmarks/ and results/
    '--device-modules', '--shm-size', '--logdir', '--repeats', '--quick', '--parts', '--precision', '--most',
    '--download', '--methods', '--signal', '--threads', '--kills', '--cases', '--show', '--tables', '--rows', '--again',
    '--amp', '--amp-dtype', '--checkpoint-hist', '--index-url', '--lr-base', '--no-prefetcher', '--use-ema'}


def test_every_option_that_is_named_exists():
    known = set(ELSEWHERE)
    for name in dir(arguments):
        if name.endswith('_parser'):
            known |= getattr(arguments, name)()._option_string_actions.keys()
    known |= launch_command_parser()._option_string_actions.keys()
    for page in PAGES:
        text = FENCE.sub(lambda block: '' if block[2] else block[3], page.read_text(encoding='utf-8'))
        named = set(re.findall(r'(?<![\w-])--[a-z][\w-]*\w', text))
        unknown = sorted(name for name in named - known if f'{name}*' not in text)
        assert not unknown, page.name


def test_no_command_is_left_out():
    """The pattern sees what a reader would type."""
    block = 'A=1 accelerate launch \\\n  t.py -c z   # why\npip install x && ltkd-train -b 1\n'
    text = f'a `python x.py --y` b\n```\n{block}```\n'
    assert commands_of(text) == [
        'A=1 accelerate launch t.py -c z', 'pip install x', 'ltkd-train -b 1', 'python x.py --y']
    assert len(COMMANDS) > 50 and os.environ.get('HF_HUB_OFFLINE') == '1'
