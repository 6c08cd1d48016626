"""From the words on a command line to a job, and from a mistake to one line."""
import os
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from typing import NoReturn

from ..errors import Fault, Terminated, UserError, fault, last_line, visible
from .arguments import compare_parser, distill_parser, export_parser, train_parser, validate_parser
from .config import (
    all_teacher_args,
    check_prediction_options,
    parse,
    passed_over,
    read_config,
    teacher_config,
    use_data_of_run,
    use_run_of_stage,
)
from .idle import tell_idle
from .own_modules import import_modules
from .stop import stoppable

_GO_ON = '; the same command with --resume auto goes on from the last checkpoint, if there is one'


def train(argv: Sequence[str] | None = None) -> None:
    """train.py"""
    with one_line_errors('train.py', _GO_ON):
        parser = train_parser()
        use_run_of_stage(parser, argv)
        args = parse(parser, argv)
        from ..engine import jobs  # not before the options are right: Accelerate takes seconds to import
        jobs.train(args, tell_idle(args, train_parser()))


def distill(argv: Sequence[str] | None = None) -> None:
    """distill.py"""
    with one_line_errors('distill.py', _GO_ON):
        args, of_teachers = parse(distill_parser(), argv), train_parser()
        args.teacher_config = teacher_config(args, of_teachers) or None  # so that args.yaml has it, and no file's name
        teachers = all_teacher_args(args, of_teachers)
        idle = tell_idle(args, distill_parser(), teachers, passed_over(args, teachers, of_teachers))
        from ..engine import jobs
        jobs.distill(args, teachers, idle)


def validate(argv: Sequence[str] | None = None) -> None:
    """validate.py"""
    with one_line_errors('validate.py'):
        own = ('workers',)  # pixels as each checkpoint was trained with, not as the data set would have them
        parser, finder = validate_parser(), validate_parser()
        given = finder.parse_args(argv)
        if given.config:
            finder.set_defaults(**read_config(finder, given.config))
            given = finder.parse_args(argv)
        if given.predict:
            parser.set_defaults(dataset='folder')
        elif given.checkpoint and given.dataset is None:
            if not given.train_split:
                raise UserError("--train-split '' is for other data than a run's: add their --dataset and --data-dir")
            use_data_of_run(parser, given.checkpoint[0], given)
        args = parse(parser, argv, own)
        check_prediction_options(args, given, validate_parser())
        if args.predict:
            from ..engine.predict import predict
            if predict(args):
                sys.exit(1)  # some images could not be read
            return
        from ..engine.validate import validate as measure
        measure(args)


def export(argv: Sequence[str] | None = None) -> None:
    """python -m timm_ltkd.export"""
    with one_line_errors('timm_ltkd.export'):
        args = export_parser().parse_args(argv)
        import_modules(vars(args)['import'])
        from ..engine.export import export as write
        write(args)


def compare(argv: Sequence[str] | None = None) -> None:
    """python -m timm_ltkd.compare"""
    with one_line_errors('timm_ltkd.compare'):
        args = compare_parser().parse_args(argv)
        from ..report.compare import compare_runs, comparison_text, read_runs, write_comparison
        comparison = compare_runs(*read_runs(args.runs))
        print(comparison_text(comparison))
        if args.output:
            paths = write_comparison(args.output, comparison)
            print(f"\nin {args.output}: {', '.join(path.name for path in paths)}")


@contextmanager
def one_line_errors(script: str, go_on: str = ''):
    """Tell what ends a script in one line: a `UserError` or what the machine did (exit code 2), SIGTERM (143), Ctrl-C
    (130).

    Further processes say their number, for an image that cannot be read is met by one of them alone; that all are asked
    to stop is told by the first.

    Args:
        script: Its name.
        go_on: What to do after an interruption.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors='backslashreplace')  # names of classes have characters that a locale lacks
    with stoppable() as stop:
        try:
            yield
        except UserError as e:
            stop.ignore()
            _end(script, f'error: {last_line(e)}{go_on if isinstance(e, Fault) else ""}', 2)
        except (Exception, KeyboardInterrupt) as e:
            stop.ignore()
            if stop.signal or isinstance(e, KeyboardInterrupt):  # which may have been turned into another error
                terminated = stop.signal == 'SIGTERM' or isinstance(e, Terminated)
                how = 'stopped by SIGTERM' if terminated else 'interrupted'
                _end(script, how + go_on, 143 if terminated else 130, told=_rank() == 0)
            if (line := fault(e)) is None:
                raise
            _end(script, f'error: {line}{go_on}', 2)


def _end(script: str, line: str, code: int, told: bool = True) -> NoReturn:
    if told:
        who = f'{script}, process {_rank()}' if _rank() else script
        print(f'{who}: {visible(line)}', file=sys.stderr)
    sys.exit(code)


def _rank() -> int:
    """Of this process among several, as whatever launched them says."""
    return int(os.environ.get('RANK') or 0) if int(os.environ.get('WORLD_SIZE') or 1) > 1 else 0
