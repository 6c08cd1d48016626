"""From the words on a command line to a job, and from a mistake to one line."""
import sys
from collections.abc import Sequence
from contextlib import contextmanager

from ..errors import UserError, last_line
from .arguments import distill_parser, train_parser, validate_parser
from .config import dump_config, parse, teacher_args


def train(argv: Sequence[str] | None = None) -> None:
    """train.py"""
    with one_line_errors('train.py'):
        args = parse(train_parser(), argv)
        from ..engine import jobs  # not before the options are right: Accelerate takes seconds to import
        jobs.train(args, dump_config(args))


def distill(argv: Sequence[str] | None = None) -> None:
    """distill.py"""
    with one_line_errors('distill.py'):
        args = parse(distill_parser(), argv)
        teacher = teacher_args(args, train_parser())
        from ..engine import jobs
        jobs.distill(args, teacher, dump_config(args), dump_config(teacher))


def validate(argv: Sequence[str] | None = None) -> None:
    """validate.py"""
    with one_line_errors('validate.py'):
        args = parse(validate_parser(), argv)
        from ..engine import jobs
        jobs.validate(args)


@contextmanager
def one_line_errors(script: str):
    """Tell a `UserError` in one line, from the main process, and exit with 2; exit with 130 on Ctrl-C."""
    try:
        yield
    except UserError as e:
        from accelerate import PartialState
        if not PartialState._shared_state or PartialState().is_main_process:
            print(f'{script}: error: {last_line(e)}', file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f'{script}: interrupted; the checkpoint of the last whole epoch stands', file=sys.stderr)
        sys.exit(130)
