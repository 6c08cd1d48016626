"""Which options of a run are other than those that its folder was started with."""
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...options import MANNER, PLACE
from ...plain_yaml import dump_yaml, load_yaml, read_yaml
from ...report.text import flag, words

# which of the others count is for `recipe_key` to know
_NEVER_COUNT = PLACE | MANNER | {'import'}
_AT_MOST = 5
OTHERWISE = 'the options are the same, but not the images, the weights of a teacher or to start from, the precision, ' \
            'the processes, the version or the code of an --import'


def tell_changed(args: Namespace, config: Path, keys: Sequence[str]) -> str:
    """Which of some options are others than in the args.yaml of a folder; '' where none is, or it cannot be read."""
    before, now = _options_before_and_now(args, config)
    return ', '.join(_changes({key: before[key] for key in keys if key in before}, now))


def tell_differences(args: Namespace, config: Path) -> str:
    """What has changed, e.g. `--epochs was 3 and is 5, --lr was 0.1 and is 0.2`.

    Args:
        args: Options of the run that is not to go on.
        config: The args.yaml of the folder.
    """
    before, now = _options_before_and_now(args, config)
    if not before:
        return f'{config} cannot be read, or holds no options'
    changed = _changes({key: value for key, value in before.items() if key not in _NEVER_COUNT}, now)
    if not changed:
        return OTHERWISE
    more = [f'{len(changed) - _AT_MOST} more'] if len(changed) > _AT_MOST else []
    return ', '.join(changed[:_AT_MOST] + more)


def _options_before_and_now(args: Namespace, config: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        before = read_yaml(config)
    except UserError:
        before = None
    return before if isinstance(before, dict) else {}, load_yaml(dump_yaml(vars(args)), 'options')  # lists, no tuples


def _changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [
        f'{flag(key)} was {_told(before[key])} and is {_told(value)}'
        for key, value in sorted(now.items()) if key in before and value != before[key]]


def _told(value: Any) -> str:
    return 'not given' if value is None else words(value) or 'empty'
