"""What the value of an option can be: kinds of numbers, pairs, lists; and a parser that complains in one line."""
import argparse
import ast
import os
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import UserError, nearest

_ELSEWHERE = {  # options of timm's scripts that these lack, or have in another way, and what to do
    'amp': 'precision is Accelerate\'s: accelerate launch --mixed_precision bf16 (or ACCELERATE_MIXED_PRECISION)',
    'lr_base': '--lr is the rate as it is; timm makes it of this one, times the global batch / 256 (or its root)',
    'dr': 'did you mean \'--decay-rate\'?',
    'checkpoint_hist': 'the two newest checkpoints are kept',
    'in_chans': 'it is --model-kwargs in_chans=1; a run\'s folder says it itself',
    'use_ema': 'where there is a moving average, it is what is measured',
    'bce_loss': 'there is no binary cross-entropy; --list-losses names the losses',
    'kd_model_name': 'distill.py has --teacher',
    'kd_temperature': 'distill.py has --kd-kwargs temperature=4',
    'distill_loss_weight': 'distill.py has --kd-kwargs alpha=1',
    'drop_connect': 'it is --drop-path',
    'drop_block': 'it is --model-kwargs drop_block_rate=0.1',
    'device': 'accelerate launch chooses devices (CUDA_VISIBLE_DEVICES=0; ACCELERATE_USE_CPU=true)',
    'checkpoint': 'validate.py takes it without an option; trainings have --initial-checkpoint and --resume',
    'sync_bn': 'each process normalises its own batch, whose size is -b; running statistics are averaged (--dist-bn)',
    'input_size': '--img-size is the side of square images, and --model-kwargs in_chans=1 their channels',
    'pretrained_path': '--initial-checkpoint takes weights, with --new-head those of other classes',
    'model_ema_force_cpu': 'the moving average stays on the device',
    'no_prefetcher': 'there is no prefetcher; --loader resident keeps images in memory',
    'recovery_interval': 'a checkpoint is written every --checkpoint-interval epochs',
    'learning_rate': 'did you mean \'--lr\'?',
    'tta': 'each image is evaluated once',
}
_ELSEWHERE |= {
    'model': '--student and --teacher name the networks of distill.py',
    'stage': 'train.py has that',
}
_ELSEWHERE |= dict.fromkeys(
    ('student', 'teacher', 'kd', 'kd_kwargs', 'list_kd', 'teacher_checkpoint', 'teacher_config', 'teacher_img_size',
     'teacher_mean', 'teacher_std', 'teacher_tune', 'teacher_bank', 'bank_views', 'bank_top_k', 'bank_dtype',
     'bank_features', 'teacher_pretrained', 'teacher_dtype', 'teacher_resize', 'teacher_seed', 'teacher_class_map',
     'teacher_small_image_stem'),
    'distill.py has that')
_ELSEWHERE |= dict.fromkeys(
    ('aug_repeats', 'aug_splits', 'jsd_loss', 'color_jitter_prob', 'grayscale_prob', 'gaussian_blur_prob',
     'head_init_scale', 'head_init_bias', 'layer_decay_min_scale', 'lr_cycle_mul', 'lr_cycle_decay', 'lr_cycle_limit',
     'lr_noise', 'lr_noise_pct', 'lr_noise_std', 'lr_k_decay', 'split_bn', 'bce_sum',
     'bce_target_thresh', 'bce_pos_weight', 'task_loss_weight'), 'nothing here does that')
_ELSEWHERE |= dict.fromkeys(
    ('mixed_precision', 'num_processes', 'num_machines', 'machine_rank', 'main_process_ip', 'main_process_port',
     'num_cpu_threads_per_process', 'enable_cpu_affinity', 'multi_gpu', 'gpu_ids', 'cpu', 'config_file'),
    'accelerate launch has that, before the script')
_ELSEWHERE |= dict.fromkeys(('amp_dtype', 'amp_impl', 'model_dtype', 'apex_amp', 'native_amp'), _ELSEWHERE['amp'])


def hint(name: str, options: Iterable[str]) -> str:
    """What follows a message about an unknown option: what to do in place of one of timm's, else the nearest."""
    instead = _ELSEWHERE.get(name.lstrip('-').replace('-', '_'))
    return nearest(name, options) if instead is None else f'; {instead}'


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are one-line `UserError`s, with the nearest option for an unknown one."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def error(self, message: str):
        raise UserError(message)

    def _get_values(self, action, arg_strings):
        if action.option_strings and arg_strings == ['--']:  # which argparse would take for no value at all
            raise argparse.ArgumentError(action, "'--' is no value")
        return super()._get_values(action, arg_strings)

    def parse_args(self, args=None, namespace=None):
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            if not unknown[0].startswith('-'):
                folder = f'; the data folder is --data-dir {unknown[0]}' if os.path.isdir(unknown[0]) else ''
                raise UserError(f"unexpected argument '{unknown[0]}'{folder}")
            name = unknown[0].split('=')[0]
            raise UserError(f"unknown option '{unknown[0]}'{hint(name, self._option_string_actions)}")
        return parsed


class KeyValues(argparse.Action):
    """`k=v k2=v2` as a dict, added to what a config file or an earlier one says, or empty without any.

    Values are read as Python literals where they are one.
    """
    form = 'key=value'

    @staticmethod
    def is_key(text: str) -> bool:
        return text.isidentifier()

    def __call__(self, parser, namespace, values, option_string=None):
        pairs = {}
        for pair in values:
            key, equals, value = pair.partition('=')
            if not equals or not self.is_key(key):
                raise argparse.ArgumentError(self, f"'{pair}' is not of the form {self.form}")
            pairs[key] = _literal(value)
        setattr(namespace, self.dest, {**getattr(namespace, self.dest), **pairs} if pairs else {})


def _literal(text: str) -> Any:
    """The Python literal that a text is, if YAML has its like; else the text."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # the last three: {[]: 1}, ((((…
        return text
    return value if _is_plain(value) else text


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return value is None or isinstance(value, bool | int | float | str)


class AddressedKeyValues(KeyValues):
    """The same, where `name.k=v` is for one of several alone."""
    form = 'key=value or name.key=value'

    @staticmethod
    def is_key(text: str) -> bool:
        name, dot, key = text.rpartition('.')
        return key.isidentifier() and bool(name) == bool(dot)


class FileOfOptions(argparse.Action):
    """The name of a YAML; a config file may hold its content in place of a name."""

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, values)


class OneOrMore(argparse.Action):
    """One value as itself, several as a list."""

    def __init__(self, option_strings, dest, **kwargs):
        super().__init__(option_strings, dest, nargs='+', **kwargs)

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, self.unwrap(values))

    @staticmethod
    def unwrap(values: list):
        return values[0] if len(values) == 1 else values


class PrintLines(argparse.Action):
    """Print a name and a line about it for each entry of a dict, and exit; like --help it is part of no run."""

    def __init__(self, option_strings, dest, describe: Callable[[], dict[str, str]], help: str):
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)
        self.describe = describe

    def __call__(self, parser, namespace, values, option_string=None):
        lines = self.describe()
        width = max(map(len, lines))
        text = ''.join(f'{name:<{width}}  {line}\n' for name, line in lines.items())
        parser._print_message(text, sys.stdout)  # as --help does, which minds no closed pipe
        parser.exit()


_LARGEST = 2 ** 31 - 1  # whole number; what counts images, pixels or epochs is never larger


def number(kind: type, least=None, above=None, most=None):
    """An argparse type: an int or float within bounds."""
    def convert(text: str):
        if ',' in text:
            raise argparse.ArgumentTypeError(f"'{text}' is no number (blanks part several, a point decimals)")
        value = kind(text)
        if kind is int and abs(value) > _LARGEST:
            raise argparse.ArgumentTypeError(f'must be at most {_LARGEST}, got {text}')
        if value != value or value in (float('inf'), -float('inf')):
            raise argparse.ArgumentTypeError(f'{text} is not a finite number')
        if least is not None and value < least:
            raise argparse.ArgumentTypeError(f'must be at least {least}, got {text}')
        if above is not None and value <= above:
            raise argparse.ArgumentTypeError(f'must be above {above}, got {text}')
        if most is not None and value > most:
            raise argparse.ArgumentTypeError(f'must be at most {most}, got {text}')
        return value
    convert.__name__ = kind.__name__
    return convert


COUNT, NATURAL = number(int, least=0), number(int, least=1)
SEED = COUNT
POSITIVE, NOT_NEGATIVE = number(float, above=0), number(float, least=0)
SHARE = number(float, least=0, most=1)


def of_pixels(kind: Callable[[str], float]) -> Callable[[str], float]:
    """An argparse type: a mean or standard deviation of pixels, which go from 0 to 1."""
    def convert(text: str) -> float:
        value = kind(text)
        if value > 1:
            raise argparse.ArgumentTypeError(f'pixels go from 0 to 1, got {text} (divide by 255?)')
        return value
    convert.__name__ = kind.__name__
    return convert


PIXEL_MEAN, PIXEL_STD = of_pixels(NOT_NEGATIVE), of_pixels(POSITIVE)


def tau(text: str) -> float | str:
    """An argparse type: strength of a post-hoc fix, or the word for trying many."""
    return text if text == 'sweep' else NOT_NEGATIVE(text)


tau.__name__ = 'number (or sweep)'


def license_name(text: str) -> str:
    """An argparse type: how the hub names licenses."""
    if not re.fullmatch(r'[a-z0-9][a-z0-9.+-]*', text):
        raise argparse.ArgumentTypeError(f"'{text}' is no license of the hub, such as apache-2.0, mit or other")
    return text


license_name.__name__ = 'license'
