"""The three scripts up to where training or evaluation would begin, and which of their options are tested."""
import dataclasses
from argparse import Namespace
from functools import cached_property
from typing import Any

import pytest

import timm_ltkd  # noqa: F401
from timm_ltkd.cli import run
from timm_ltkd.cli.arguments import distill_parser, train_parser, validate_parser
from timm_ltkd.cli.config import parse
from timm_ltkd.engine import fit, run_data, teachers, validate

PARSERS = {'train': train_parser, 'distill': distill_parser, 'validate': validate_parser}
COVERED = {script: {'help'} for script in PARSERS}
CLASSES = ('ant', 'bee', 'cat')


def covers(scripts: str, *options: str):
    """Say which options of which scripts a test is about."""
    for script in scripts.split():
        COVERED[script].update(PARSERS[script]()._option_string_actions[option].dest for option in options)
    return lambda test: test


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

    def stop(args, accelerator, data, network, folder, teacher=None, method=None):
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

    load = run_data.load_data
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('timm_ltkd.engine.seeds.fit.fit', stop)
        patch.setattr(teachers, 'fit', stop)
        if script == 'validate':
            patch.setattr(validate, 'evaluate', stop_evaluation)
            patch.setattr(run_data, 'load_data', note_data)
        with pytest.raises(Reached):
            getattr(run, script)(argv)
    return seen
