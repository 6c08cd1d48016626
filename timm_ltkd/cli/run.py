"""From the words on a command line to a job, and from a mistake to one line."""
import sys
from collections.abc import Sequence
from contextlib import contextmanager

from ..errors import UserError, last_line
from .arguments import distill_parser, train_parser, validate_parser
from .config import all_teacher_args, check_prediction_options, dump_config, parse, use_data_of_run


def train(argv: Sequence[str] | None = None) -> None:
    """train.py"""
    with one_line_errors('train.py'):
        args = parse(train_parser(), argv)
        from ..engine import jobs  # not before the options are right: Accelerate takes seconds to import
        jobs.train(args, dump_config)


def distill(argv: Sequence[str] | None = None) -> None:
    """distill.py"""
    with one_line_errors('distill.py'):
        args = parse(distill_parser(), argv)
        teachers = all_teacher_args(args, train_parser())
        from ..engine import jobs
        jobs.distill(args, teachers, dump_config)


def validate(argv: Sequence[str] | None = None) -> None:
    """validate.py"""
    with one_line_errors('validate.py'):
        own = ('workers',)  # pixels as each checkpoint was trained with, not as the data set would have them
        parser, given = validate_parser(), validate_parser()
        given.set_defaults(dataset=None)
        given = given.parse_args(argv)
        if given.predict:
            parser.set_defaults(dataset='folder')
        elif given.checkpoint and given.dataset is None:
            use_data_of_run(parser, given.checkpoint[0])
        args = parse(parser, argv, own)
        check_prediction_options(args, given, validate_parser())
        if args.predict:
            from ..engine.predict import predict
            if predict(args):
                sys.exit(1)  # some images could not be read
            return
        from ..engine.validate import validate as measure
        measure(args)


@contextmanager
def one_line_errors(script: str):
    """Tell a `UserError` in one line and exit with 2; exit with 130 on Ctrl-C.

    Further processes say their number: an image that cannot be read is met by one of them alone.
    """
    try:
        yield
    except UserError as e:
        from accelerate import PartialState
        rank = PartialState().process_index if PartialState._shared_state else 0
        who = f'{script}, process {rank}' if rank else script
        print(f'{who}: error: {last_line(e)}', file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f'{script}: interrupted; the checkpoint of the last whole epoch stands', file=sys.stderr)
        sys.exit(130)
