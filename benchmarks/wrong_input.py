"""Command lines and files with mistakes in them, made at random from a seed: what fuzz.py gives to the scripts."""
import argparse
import io
import json
import random
import string
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from timm_ltkd.cli import run
from timm_ltkd.cli.arguments import distill_parser, train_parser, validate_parser
from timm_ltkd.distill import list_losses, list_methods

PARSERS = {'train': train_parser, 'distill': distill_parser, 'validate': validate_parser}
CLASSES = {'ant': 6, 'bee': 4, 'cat': 2}
NETWORK = 'resnet20'

VALUES = [  # of options
    '', ' ', '0', '-1', '1', '2', '3', '0.5', '1.5', '-0.0', '1e-400', '1e400', '1e30', 'nan', 'inf', '-inf', '1_0',
    '0x10', '9' * 12, '9' * 30, '9' * 5000, 'None', 'True', 'false', 'auto', 'sweep', 'all', 'many', 'a' * 300, 'ä',
    '日本', '\udcff', 'a\nb', '\x1b[31mred', '\t', '-', '--', '..', '.', '[1]', '[' * 300, '{', "{'a': 1}", '{[1]: 2}',
    '(' * 300, '*', '%s', '{0}', 'a=b', '=', 'lt/', 'lt/digits', 'folder', 'torch/cifar10', 'hfds/', 'hfds/.',
    'hfids/.', 'wds/', 'tfds/x', 'hf-hub:', 'hf-hub:a/b', 'local-dir:', 'local-dir:.', 'resnet32', 'resnet18.a1_in1k',
    'vit_tiny_patch16_224', 'test_resnet', 'adamw', 'lars', 'rand-m9', 'augmix-m5-w4-d2', 'bicubic', 'random',
    '/dev/null', '/proc/self', '/nowhere/at/all', 'nowhere.txt',
]
NODES = [  # of JSON, YAML and checkpoints
    None, True, False, 0, -1, 3, 1.5, -1e308, float('nan'), float('inf'), 10 ** 30, '', 'x', 'ä\n|<b>', '\x1b[2J',
    'nan', '1e400', [], {}, [1, 2], [None], [[[]]], {'a': 1}, {'': None}, ['x'] * 20, '../../x', '=1+1', 'a\0b',
]
KEYWORDS = [
    'temperature', 'alpha', 'beta', 'gamma', 'tau', 'k', 'seed', 'rrd', 'lrd', 'power', 'smoothing', 'weights',
    'scale', 'max_margin', 'deferred_epochs', 'warmup_epochs', 'standardize', 'rebalance', 'prior', 'name', 'self',
    'num_classes', 'in_chans', 'drop_rate', 'block', 'layers', 'act_layer', 'norm_layer', 'img_size', 'lr', 'momentum',
    'nesterov', 'foreach', 'eps', 'betas', 'x', 'class', 'bkd.beta', 'kd.temperature', '__class__', 'pretrained',
    'checkpoint_path', 'features_only', 'global_pool', 'sample_weights',
]
_BOMB = b'a: &a [x, x, x, x, x, x, x, x]\n' + b''.join(  # each line is eight times the one before, when written out
    b'%c: &%c [%s]\n' % (new, new, b', '.join([b'*%c' % old] * 8))
    for old, new in zip(b'abcdefgh', b'bcdefghi', strict=True)) + b'epochs: *i'
TEXTS = [  # of files
    b'', b'\n\n', b'\0' * 100, b'\xff\xfe\x00\x80', 'ä'.encode('latin-1'), 'a: 1'.encode('utf-16'),
    b'\xef\xbb\xbfepochs: 2', b'no', b'3', b'null', b'-', b'- a\n- b', b'epochs: [1, 2', b'a: b: c', b'{' * 3000,
    b'[' * 3000, b'? {}\n: 1', b'1: 2', b'~: 3', b'[1]: 2', b'epochs: 1\nepochs: 2', b'epochs: &a [*a]',
    b'a: &a [1]\nb: *a', b'<<: {epochs: 2}', b'<<: 3', b'epochs: *nobody',
    b'epochs: !!python/object/apply:os.system ["touch pwned"]', b'epochs: !!python/name:os.system', b'epochs: !x 3',
    b'epochs: !!binary 3', b'epochs: !!int abc', b'epochs: !!timestamp x', b'epochs: 2001-13-45',
    b'epochs: 2001-01-01', b'--- 1\n--- 2', b'%YAML 9.9\n---\na: 1', b'\tepochs: 2', b'epochs:\n\t2', b'"\\ud800": 1',
    b'lr: 1:30', b'epochs: 0o17', b'kd-kwargs: []', b'kd_kwargs: {1: 2}', b'kd_kwargs: {a: {b: [c]}}',
    b'decay-milestones: [[1]]', b'mean: [a, b, c]', b'mean: {a: 1}', b'help: true', b'list-kd: true',
    b'config: x.yaml', b'seeds: []', b'seeds: [1, 1]', b'teacher: []', b'teacher: [a, [b]]', b'kd: {}', b'log-with: x',
    _BOMB,
    b'1 2\n', b'train/ant/0.png 0\n', b'train/ant/0.png -1\n', b'train/ant/0.png 99999999999\n', b'../x.png 0\n',
    b'/etc/passwd 0\n', b'train/ant/0.png zero\n', b'train/ant/0.png\n', b'0\n', b'5\n-1\n2\n', b'5\n3\n2\n1\n',
    b'1e3\n', b'9999999999999999999999\n1\n1\n', b'[1, 2, 3]', b'[1, 2, "3"]', b'[NaN, 1, 1]', b'[1e999]',
    b'{"ant": 0, "bee": 1, "cat": 2}', b'{"ant": 0, "bee": 0, "cat": 0}', b'{"ant": 0.5}', b'ant 0\nant 1\n',
    b'ant\nbee\ncat\n', b'ant\nant\n', b'[[1]]', b'{"a": {"b": 1}}', b'9' * 6000,
]
FILE_OPTIONS = {
    'config': 'recipe.yaml', 'teacher-config': 'teacher.yaml', 'class-counts': 'counts.txt', 'class-map': 'map.txt',
    'train-list': 'train.txt', 'val-list': 'val.txt', 'teacher-class-map': 'classes.json',
    'initial-checkpoint': 'weights.pth', 'teacher-checkpoint': 'weights.pth', 'data-dir': 'data'}


@dataclass
class Case:
    """One wrong (or, by chance, right) call of a script.

    Attributes:
        kind: What was done to it.
        door: Which script.
        argv: Its command line; paths are relative to the folder of `files`, or lie in the world.
        files: Written first, by relative path.
    """
    kind: str
    door: str
    argv: list[str]
    files: dict[str, bytes] = field(default_factory=dict)


def make_world(world: Path) -> None:
    """Fill a folder with files without mistakes: images, lists, maps, YAML, weights, and a run of an epoch."""
    rng = np.random.RandomState(0)
    for split, share in (('train', 1), ('val', 2)):
        lines = []
        for label, (name, size) in enumerate(CLASSES.items()):
            (world / 'data' / split / name).mkdir(parents=True)
            for i in range(size // share):
                pixels = rng.randint(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(world / 'data' / split / name / f'{i}.png')
                lines.append(f'{split}/{name}/{i}.png {label}\n')
        (world / f'{split}.txt').write_text(''.join(lines))
    (world / 'map.txt').write_text('ant\nbee\ncat\n')
    (world / 'counts.txt').write_text('5\n3\n2\n')
    (world / 'classes.json').write_text('{"ant": 0, "bee": 1, "cat": 2}')
    (world / 'recipe.yaml').write_text(
        'lr: 0.05\nsched: step\nmodel-ema: true\nmean: [0.5, 0.5, 0.5]\nloss-kwargs: {smoothing: 0.1}\n')
    (world / 'teacher.yaml').write_text(f'model: {NETWORK}\nlr: 0.05\nloss: focal\n')
    run.train([*_options(world, 'train'), f'--output={world}', '--experiment=run'])
    state = torch.load(next((world / 'run' / 'last').glob('*.pt')), weights_only=True)
    torch.save(state['model'], world / 'weights.pth')


def make_case(world: Path, seed: int) -> Case:
    """The case of this number: the same whenever it is asked for."""
    rng = random.Random(seed)
    kinds, weights = zip(*KINDS.items(), strict=True)
    make = rng.choices(kinds, weights)[0]
    door = rng.choice(list(PARSERS))
    case = make(world, rng, door)
    if rng.random() < 0.25 and case.kind != 'typo':  # mistakes come in company
        case.argv += _value(None, rng, case.door).argv[-2:]  # one option
    return case


def _options(world: Path, door: str, *, teacher: bool = True) -> list[str]:
    """A command line without a mistake."""
    if door == 'validate':
        return [str(world / 'run'), '--workers=0']
    networks = [f'--model={NETWORK}'] if door == 'train' else [
        f'--student={NETWORK}', f'--teacher={NETWORK}', *([f'--teacher-checkpoint={world / "run"}'] if teacher else [])]
    return [
        *networks, '--dataset=folder', f'--data-dir={world / "data"}', '--img-size=8', '--epochs=1', '-b=4',
        '--workers=0', '--output=out']


def _actions(door: str) -> list[argparse.Action]:
    return [action for action in PARSERS[door]()._actions if action.option_strings]


def _typo(world: Path, rng: random.Random, door: str) -> Case:
    """A slip in the name of an option."""
    name = rng.choice(_actions(door)).option_strings[-1]
    at = rng.randrange(len(name))
    slips: list[Callable[[], str]] = [
        lambda: name[:at] + name[at + 1:],
        lambda: name[:at] + rng.choice(string.printable) + name[at:],
        lambda: name[:at] + name[at:at + 2][::-1] + name[at + 2:],
        lambda: name.replace('-', '_'),
        lambda: name[1:],
        lambda: name.upper(),
        lambda: '—' + name.lstrip('-'),
        lambda: name[:max(3, at)],
        lambda: name + name,
    ]
    value = rng.choice([[], ['1'], [rng.choice(VALUES)]])
    return Case('typo', door, [*_base(world, rng, door), rng.choice(slips)(), *value])


def _base(world: Path | None, rng: random.Random, door: str) -> list[str]:
    return [] if world is None else _options(world, door, teacher=rng.random() < 0.8)


def _value(world: Path | None, rng: random.Random, door: str) -> Case:
    """One option (or up to three) with wrong values, or with too few or too many."""
    argv = _base(world, rng, door)
    for _ in range(rng.choice([1, 1, 1, 2, 3]) if world else 1):
        action = rng.choice(_actions(door))
        values = [rng.choice(VALUES) for _ in range(rng.choice([0, 1, 1, 1, 1, 2, 3]))]
        if action.choices and rng.random() < 0.3:
            values = [rng.choice(sorted(action.choices))]
        name = rng.choice(action.option_strings)
        argv += [f'{name}={values[0]}'] if len(values) == 1 and rng.random() < 0.5 else [name, *values]
    return Case('value', door, argv)


def _keywords(world: Path, rng: random.Random, door: str) -> Case:
    """Options of a loss, a method, a network or an optimizer."""
    door = 'distill' if door == 'validate' else door
    options = ['--loss-kwargs', '--model-kwargs', '--opt-kwargs', *(['--kd-kwargs'] * 3 if door == 'distill' else [])]
    option = rng.choice(options)
    argv = [*_base(world, rng, door), f'--loss={rng.choice(list_losses())}']
    if door == 'distill':
        argv += ['--kd', *rng.sample(list_methods(), rng.choice([1, 1, 1, 2]))]
    values = [
        *VALUES, '1e-3', '(0.9, 0.99)', '[1, 2]', 'None', "'text'", '1j', '...', 'b"x"', '1 if 1 else 2',
        '__import__("os")']
    pairs = [
        rng.choice(values) if rng.random() < 0.1 else f'{rng.choice(KEYWORDS)}={rng.choice(values)}'
        for _ in range(rng.choice([1, 1, 2, 3]))]
    return Case('keywords', door, [*argv, option, *pairs])


def _yaml(world: Path, rng: random.Random, door: str) -> Case:
    """A YAML file of another shape, or with other keys or values."""
    text = rng.choice(TEXTS)
    if rng.random() < 0.6:
        names = [action.dest for action in _actions(door)]
        keys = [
            rng.choice([rng.choice(names), rng.choice(names).replace('_', '-'), rng.choice(KEYWORDS)])
            for _ in range(rng.choice([1, 1, 2]))]
        options = {key: rng.choice([*NODES, *VALUES]) for key in keys}
        text = yaml.safe_dump(options, allow_unicode=rng.random() < 0.5).encode(errors='replace')
    option = rng.choice(['--config', '-c', '--teacher-config']) if door == 'distill' else '--config'
    argv = _options(world, door, teacher=option != '--teacher-config')
    return Case('yaml', door, [*argv, option, 'own.yaml'], {'own.yaml': text})


def _file(world: Path, rng: random.Random, door: str) -> Case:
    """A file that an option names: damaged, of something else, missing, or a folder."""
    known = PARSERS[door]()._option_string_actions
    option, file = rng.choice([(option, file) for option, file in FILE_OPTIONS.items() if f'--{option}' in known])
    original = world / file
    argv = _options(world, door, teacher=option not in ('teacher-config', 'teacher-checkpoint'))
    if option in ('train-list', 'val-list'):
        argv += ['--dataset=lt/list', f'--train-list={world / "train.txt"}', f'--val-list={world / "val.txt"}']
    if option == 'class-counts':
        argv += ['--dataset=lt/folder']
    if door == 'validate' and option == 'class-map':
        argv += [f'--data-dir={world / "data"}', '--dataset=folder']
    how = rng.choice(['damaged', 'damaged', 'damaged', 'other', 'other', 'missing', 'folder'])
    if how == 'missing':
        return Case('file', door, [*argv, f'--{option}', 'missing.' + file])
    if how == 'folder' or not original.is_file():
        folders = [world, '.', world / 'data' / 'train', world / 'run']
        return Case('file', door, [*argv, f'--{option}', str(rng.choice(folders))])
    if how == 'other':
        others = ['map.txt', 'train.txt', 'weights.pth', 'data/train/ant/0.png']
        own = rng.choice([rng.choice(TEXTS), (world / rng.choice(others)).read_bytes()])
    else:
        own = _damaged(original.read_bytes(), rng)
    suffix = rng.choice([Path(file).suffix] * 4 + ['.pkl', '.json', '.txt', '.pth', '.safetensors', ''])
    return Case('file', door, [*argv, f'--{option}', 'own' + suffix], {'own' + suffix: own})


def _checkpoint(world: Path, rng: random.Random, door: str) -> Case:
    """A run's folder in which one file is damaged, or says something else."""
    files = {str(path.relative_to(world / 'run')): path.read_bytes()
             for path in (world / 'run').rglob('*') if path.suffix in ('.json', '.safetensors', '.pt', '.yaml', '.csv')}
    resumed = door == 'train' and rng.random() < 0.6
    wanted = [name for name in files if ('last' in name or name == 'args.yaml') == resumed and name != 'per_class.csv']
    name = rng.choice(wanted)
    files[name] = _changed(files[name], Path(name).suffix, rng)
    if resumed and rng.random() < 0.5:
        files.pop('last/run.json')  # else the damage may never be looked at
    if rng.random() < 0.1:
        files.pop(name, None)
    option = {'train': '--resume' if resumed else '--initial-checkpoint', 'distill': '--teacher-checkpoint'}.get(door)
    argv = _options(world, door, teacher=False)
    if option:
        argv += [option, 'own']
    else:
        argv[0] = 'own'
        if rng.random() < 0.4:
            argv += ['--predict', str(world / 'data' / 'val')]
    return Case('checkpoint', door, argv, {f'own/{path}': content for path, content in files.items()})


def _changed(content: bytes, suffix: str, rng: random.Random) -> bytes:
    if rng.random() < 0.4:
        return _damaged(content, rng)
    if suffix == '.json':
        return json.dumps(_node_changed(json.loads(content), rng)).encode()
    if suffix == '.yaml':
        return yaml.safe_dump(_node_changed(yaml.safe_load(content), rng)).encode()
    if suffix == '.pt':
        file = io.BytesIO()
        torch.save(_node_changed(torch.load(io.BytesIO(content), weights_only=True), rng), file)
        return file.getvalue()
    if suffix == '.safetensors':
        size = struct.unpack('<Q', content[:8])[0]
        header = json.dumps(_node_changed(json.loads(content[8:8 + size]), rng)).encode()
        told = rng.choice([len(header)] * 3 + [0, 2 ** 40, 2 ** 64 - 1])
        return struct.pack('<Q', told) + header + content[8 + size:]
    return _damaged(content, rng)


def _node_changed(tree: Any, rng: random.Random) -> Any:
    """The same tree with one node replaced, renamed or taken away; deep ones as well."""
    if isinstance(tree, dict | list) and tree and rng.random() < 0.9:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        key = rng.choice(keys)
        if rng.random() < 0.15:
            tree.pop(key)
        elif isinstance(tree, dict) and rng.random() < 0.1:
            tree[rng.choice(['x', '', 'ä'])] = tree.pop(key)
        else:
            tree[key] = _node_changed(tree[key], rng)
        return tree
    tensors = [torch.zeros(0), torch.full((3,), float('nan'))] if isinstance(tree, torch.Tensor) else []
    return rng.choice([*NODES, *tensors])


def _damaged(content: bytes, rng: random.Random) -> bytes:
    """A file after something went wrong with the disk or the copy of it."""
    at = rng.randrange(len(content) + 1)
    how = rng.randrange(7)
    if how == 0:
        return content[:at]
    if how == 1:
        return content[at:]
    if how == 2:
        return content[:at] + bytes(rng.randrange(256) for _ in range(rng.choice([1, 20]))) + content[at:]
    if how == 3:
        return b'\0' * len(content)
    if how == 4:
        return content + content
    damaged = bytearray(content)
    for _ in range(rng.choice([1, 3, 30])):
        if damaged:
            at = rng.choice([rng.randrange(len(damaged)), rng.randrange(min(300, len(damaged)))])
            damaged[at] = rng.randrange(256)
    return bytes(damaged)


KINDS = {_typo: 3, _value: 8, _keywords: 4, _yaml: 5, _file: 5, _checkpoint: 5}
