"""Command line and YAML to one checked set of options, and back to YAML."""
import argparse
import json
from argparse import Namespace
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..engine.networks.described import place_of, run_options
from ..errors import UserError
from ..models import ELSEWHERE
from ..options import DATA, DEPENDENT, MANNER, VIEW, listed
from ..plain_yaml import read_yaml
from ..report.text import flag
from .defaults import fill_defaults
from .kinds import FileOfOptions, KeyValues, OneOrMore, Parser, hint
from .own_modules import import_modules
from .recipes import find_recipe

_OPTIONS_OF = {'kd': 'kd_kwargs', 'loss': 'loss_kwargs', 'opt': 'opt_kwargs'}
# of the student alone, in groups of options and single ones; its teacher's training has its own
_STUDENTS_GROUPS = ('network', 'hard-label loss', 'sharing')
_STUDENTS = {'model', 'class_sampling', 'experiment', 'resume', 'seeds', 'config'}


def parse(parser: Parser, argv: Sequence[str] | None = None, fill: Sequence[str] | None = None) -> Namespace:
    """Options from the command line over those of a `--config` file over defaults, the data set's included.

    Args:
        parser: Knows the options.
        argv: The command line; that of the process if None.
        fill: Options that take the data set's default; all that have one if None.

    Raises:
        UserError: Unknown option or key (the nearest is named), or a value of the wrong kind.
    """
    finder = Parser(add_help=False)
    finder.add_argument('-c', '--config', action='append', default=[])
    finder.add_argument('--import', nargs='+')
    first = finder.parse_known_args(argv)[0]
    if len(first.config) > 1:
        raise UserError(f'-c is given {len(first.config)} times, and is one file: put the options of all into one')
    of_file = read_config(parser, first.config[0]) if first.config else {}
    parser.set_defaults(**of_file)
    modules = [*dict.fromkeys([*(of_file.get('import') or ()), *(vars(first)['import'] or ())])] or None
    import_modules(modules)  # before --list-kd, which ends the command
    args = parser.parse_args(argv)
    others = [its for what, its in _OPTIONS_OF.items() if what in of_file and getattr(args, what) != of_file[what]]
    follow = _follow(parser, of_file, args)
    if others or follow:  # those of the file are of what the file names, and the command line names another
        parser.set_defaults(**dict.fromkeys(others, {}), **dict.fromkeys(follow))
        args = parser.parse_args(argv)
    vars(args)['import'] = modules
    fill_defaults(args, fill)
    return args


def _follow(parser: Parser, of_file: dict[str, Any], args: Namespace) -> list[str]:
    """Options of a file that are usual with what else it says, where the command line says what others are usual with:
    as the rate and the normalisation of a network from scratch, which now is to start from weights. Of a run's
    args.yaml, that is: a file that does not say what it starts from has chosen them.

    Args:
        parser: With those of the file as its defaults.
        of_file: They.
        args: With the command line.
    """
    def usual(options: Namespace) -> Namespace:
        options = Namespace(**vars(options) | dict.fromkeys(keys) | data)
        fill_defaults(options, keys)
        return options

    depend_on = {key: by for key, (by, _) in DEPENDENT.items()} | dict.fromkeys(('lr', 'mean', 'std'), 'pretrained')
    keys = [key for key, by in depend_on.items() if {key, by} <= of_file.keys()]
    if not keys:
        return []
    data = {key: of_file.get(key) for key in ('dataset', 'train_list')}  # other data alone are no reason
    there, here = usual(parser.parse_args([])), usual(args)
    return [key for key in keys if of_file[key] == getattr(there, key) != getattr(here, key)]


def use_run_of_stage(parser: Parser, argv: Sequence[str] | None) -> None:
    """Make data, input, network and augmentation of the run that a second stage begins with the defaults; before
    `parse`."""
    finder, asked = Parser(add_help=False), ('stage', 'initial_checkpoint', 'dataset', 'train_list')
    finder.add_argument('-c', '--config')
    for dest in asked:
        finder.add_argument(flag(dest))
    given = {key: value for key, value in vars(finder.parse_known_args(argv)[0]).items() if value is not None}
    if 'config' in given:
        given = read_config(parser, given['config'], only={*asked}) | given
    path = Path(given.get('initial_checkpoint') or '') / 'args.yaml'
    if not (given.get('stage') and path.is_file()):
        return
    taken = _group_options(parser, 'input') - {'validation_batch_size'} | VIEW
    taken |= {'model', 'small_image_stem', 'model_kwargs', 'gp'}
    if not (given.get('dataset') or given.get('train_list')):
        taken |= DATA
    with suppress(OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):  # told later
        cfg = json.loads(path.with_name('config.json').read_text(encoding='utf-8'))['pretrained_cfg']
        parser.set_defaults(**{key: list(cfg[key]) for key in ('mean', 'std') if cfg.get(key)})
    parser.set_defaults(**read_config(parser, path, only=taken))
    if (named := run_options(str(path.parent)).get('student')) is not None:  # it was distilled
        parser.set_defaults(model=str(named))


def use_data_of_run(parser: Parser, folder: str, given: Namespace) -> None:
    """Make the data options of a finished run the defaults, if the folder is one with an args.yaml; unless a list of
    training images is given and the run had none, for these are other data.

    Args:
        given: What command line and file say.

    Raises:
        UserError: Its data folder is not found from here, and no other one is given.
    """
    path = place_of(folder) / 'args.yaml'
    if path.is_file():
        options = read_config(parser, path, only=DATA)
        if given.train_list and not options.get('train_list'):
            return
        where = options.get('data_dir')
        if where and not (given.data_dir or given.dataset_download or Path(where).exists()):
            raise UserError(f"the data folder '{where}' of {folder} is not found from here; give it by --data-dir")
        parser.set_defaults(**options)


def check_prediction_options(args: Namespace, given: Namespace, parser: Parser) -> None:
    """Whether the options of validate.py go with `--predict`, or its absence.

    Args:
        args: All options.
        given: What command line and file say; `dataset` is None where they do not name one.
        parser: Knows the defaults.

    Raises:
        UserError: Options of predictions without `--predict`, or a data set with it.
    """
    if not args.predict:
        for option, value in {'--predictions-file': args.predictions_file, '--topk': args.topk}.items():
            if value:
                raise UserError(f'{option} goes with --predict; name the images there')
        return
    for dest in sorted(DATA):
        if getattr(given, dest) not in (None, parser.get_default(dest)):
            raise UserError(f'--predict needs no data set; leave out {flag(dest)}')


def read_config(parser: Parser, path: str | Path, only: Collection[str] | None = None) -> dict[str, Any]:
    """A YAML file's options, checked as the parser would check them.

    Args:
        parser: Knows the options.
        path: The file, see `find_recipe`.
        only: Read these and pass over all others, known or not.

    Raises:
        UserError: No such file, not YAML, an unknown key, a value of the wrong kind.
    """
    content = read_yaml(find_recipe(path))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f'{path}: a config file holds "option: value" lines')
    return _check_options(parser, content, path, only)


def _check_options(
        parser: Parser, content: dict[Any, Any], path: str | Path, only: Collection[str] | None = None,
) -> dict[str, Any]:
    """What `read_config` gives, of the content of the file."""
    actions = {  # what --help and its like do instead of a run, they do on the command line alone
        action.dest: action for action in parser._actions
        if action.dest != 'config' and action.default is not argparse.SUPPRESS}
    unknown, checked = [], {}
    for key, value in content.items():
        dest = str(key).replace('-', '_')
        if dest not in actions or only is not None and dest not in only:
            unknown += [key] if only is None and value is not None else []  # null: as if the line were not there
            continue
        try:
            checked[dest] = _convert(parser, actions[dest], value)
        except (ValueError, argparse.ArgumentTypeError, argparse.ArgumentError) as e:
            raise UserError(f"{path}: {key}: {getattr(e, 'message', None) or e}") from None
    if unknown:
        raise UserError(f'{path}: {_unknown_keys(unknown, actions)}')
    return checked


def _unknown_keys(keys: list[Any], known: Collection[str]) -> str:
    """All in one message, so that another program's file takes one round; what to do, of a few or where it is one."""
    hints = [hint(str(key), known) for key in keys]
    if len(keys) == 1:
        return f"unknown key '{keys[0]}'{hints[0]}"
    if len({*hints}) == 1:
        return f"unknown keys {', '.join(map(str, keys))}{hints[0]}"
    if len(keys) > 3:
        return (f"{len(keys)} unknown keys; leave these lines out, docs/from_timm.md has what stands here for timm's: "
                + ', '.join(map(str, keys)))
    return 'unknown keys ' + ', '.join(
        f'{key} ({its.removeprefix("; ")})' if its else str(key) for key, its in zip(keys, hints, strict=True))


def _convert(parser: Parser, action: argparse.Action, value: Any) -> Any:
    """A YAML value as the option's own type, or a ValueError that says what was expected."""
    if value is None:
        return action.default
    if isinstance(action, KeyValues):
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise ValueError(f'expected a mapping, got {value!r}')
        return value
    if isinstance(action, FileOfOptions):
        if not isinstance(value, str | dict):
            raise ValueError(f'expected the name of a file, or options, got {value!r}')
        return value  # checked with the options of what they are for
    if isinstance(action, argparse.BooleanOptionalAction) or action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError(f'expected true or false, got {value!r}')
        return value
    if isinstance(action.nargs, int):
        if not isinstance(value, list) or len(value) != action.nargs:
            raise ValueError(f'expected a list of {action.nargs}, got {value!r}')
        return [_scalar(parser, action, item) for item in value]
    if action.nargs in ('+', '*'):
        values = value if isinstance(value, list) else [value]
        if action.nargs == '+' and not values and action.default != values:
            raise ValueError('expected a value or a list of them, got an empty list; leave the line out')
        values = [_scalar(parser, action, item) for item in values]
        return action.unwrap(values) if isinstance(action, OneOrMore) else values
    return _scalar(parser, action, value)


def _scalar(parser: Parser, action: argparse.Action, value: Any) -> Any:
    if isinstance(value, (bool, dict, list)):
        raise ValueError(f'expected a single value, got {value!r}')
    if '\0' in str(value):
        raise ValueError(f'{value!r} holds a zero byte, which no name can have')
    value = parser._get_value(action, str(value))  # the option's own type and its message
    parser._check_value(action, value)
    return value


def all_teacher_args(args: Namespace, parser: Parser) -> list[Namespace]:
    """`teacher_args` of each of the teachers; of several checkpoints that name their networks, which have no need of
    `--teacher`, in place."""
    names, sources = listed(args.teacher), listed(args.teacher_checkpoint)
    if len(names) < len(sources) and all(Path(each).is_dir() or each.startswith(ELSEWHERE) for each in sources):
        names = args.teacher = sources
    return [teacher_args(Namespace(**{**vars(args), 'teacher': name}), parser) for name in names]


TEACHER_SEED = 1042
"""Of a teacher that is trained here, whatever its students have, so that all share it. Another than theirs: with the
same one a network of the same kind would start from the same weights, and see the same views in the same order. Our
choice."""


def teacher_config(args: Namespace, parser: Parser) -> dict[str, Any]:
    """What the file of `--teacher-config` says, or a config file in its place; empty without any.

    Args:
        args: Options of distill.py.
        parser: `train_parser()`.

    Raises:
        UserError: As `read_config`.
    """
    given = args.teacher_config
    if isinstance(given, dict):
        return _check_options(parser, given, 'teacher_config')
    return read_config(parser, given) if given else {}


def teacher_args(args: Namespace, parser: Parser) -> Namespace:
    """Options of the teacher's own training: the student's recipe with plain cross-entropy, or its own file.

    What is about the student's network or the run stays behind; data and input come from the student's run whatever
    the file says, since both learn from the same images. The student's `--loader` comes later, where it is none that
    `auto` would have chosen.

    Args:
        args: Options of distill.py, with one teacher.
        parser: `train_parser()`.

    Raises:
        UserError: Bad `--teacher-config`, or one for another network.
    """
    own = parser.parse_args([])
    students = _STUDENTS.union(*(_group_options(parser, group) for group in _STUDENTS_GROUPS))
    for key in vars(own).keys() & vars(args).keys() - students:
        setattr(own, key, getattr(args, key))
    own.model, own.pretrained = args.teacher, None  # None: if the weights can be had
    own.img_size = args.teacher_img_size or args.img_size
    own.mean, own.std = args.teacher_mean or args.mean, args.teacher_std or args.std
    own.seed, own.loader = TEACHER_SEED, 'auto'
    recipe = teacher_config(args, parser)
    import_modules(recipe.get('import'))
    if recipe.get('model', args.teacher) != args.teacher:
        raise UserError(
            f"--teacher-config trains '{recipe['model']}' but --teacher is '{args.teacher}'; make them agree")
    if recipe.get('img_size') not in (None, own.img_size):
        raise UserError(
            "--teacher-config: img_size does not count there, since the images are the student's; give "
            f"--teacher-img-size {recipe['img_size']}")
    vars(own).update({key: value for key, value in recipe.items() if key not in _shared(parser)})
    if own.opt != args.opt and 'opt_kwargs' not in recipe:
        own.opt_kwargs = {}  # the student's are of its own
    if args.teacher_seed is not None:
        own.seed = args.teacher_seed
    if args.teacher_pretrained is not None:
        own.pretrained = args.teacher_pretrained
    own.small_image_stem = own.small_image_stem or args.teacher_small_image_stem
    fill_defaults(own)  # of what the file leaves empty
    if recipe.get('lr') is None:
        own.lr = None  # of the student's, once it is known what the teacher starts from
    return own


def passed_over(args: Namespace, teachers: Sequence[Namespace], parser: Parser) -> list[str]:
    """Options about images in a `--teacher-config`, which do not count there, and are other than those that do.

    Args:
        args: Options of distill.py.
        teachers: Of `all_teacher_args`.
        parser: `train_parser()`.
    """
    recipe = teacher_config(args, parser)
    looked_at = (_group_options(parser, 'data') | _group_options(parser, 'input') | {'seeds'}) - MANNER
    return sorted(
        key for key in recipe.keys() & looked_at
        if recipe[key] is not None and any(_other(recipe[key], getattr(own, key)) for own in teachers))


def _other(value: Any, its: Any) -> bool:
    """Whether two values differ; a number may stand for a list of it."""
    if isinstance(value, list) and isinstance(its, list) and 1 in (len(value), len(its)):
        return {*value} != {*its}
    return value != its


def _shared(parser: Parser) -> set[str]:
    """Options that a teacher's training has of its student's, whatever its own recipe says."""
    return {'seeds'}.union(*(_group_options(parser, group) for group in ('data', 'input', 'run')))


def _group_options(parser: Parser, title: str) -> set[str]:
    return {action.dest for group in parser._action_groups if group.title == title for action in group._group_actions}
