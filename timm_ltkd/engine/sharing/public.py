"""What of a run's options others may see: nothing that tells of the files and folders of the machine."""
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...models import HUB
from ...options import PLACE

# options that name files or folders (or where the run goes); of these only names on the hub are of use to others
PRIVATE = PLACE | {
    'data_dir', 'train_list', 'val_list', 'class_map', 'class_counts', 'initial_checkpoint', 'teacher_checkpoint',
    'teacher_config', 'teacher_class_map', 'teacher_bank',
}
_NEVER_MISSED = PLACE | {'teacher_bank'}
_LOOKS_LIKE_A_PATH = re.compile(r'[/~\\]|\.{1,2}([/\\]|$)|[A-Za-z]:[/\\]|file:')
_PREFIXES = re.compile(r'local-dir:|(lt/)?((hfds|hfids|wds|torch|tfds)/)?', re.IGNORECASE)


def public_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The options without those that name files or folders; names of models and data lose the folders in them.

    Args:
        options: By name.

    Returns:
        What may be seen, and the names of the options that others have to give themselves.
    """
    seen, hidden = {}, []
    for key, value in options.items():
        if key in ('model', 'student', 'teacher', 'dataset'):
            value = [public_name(name) for name in value] if isinstance(value, list) else public_name(value)
        elif not _is_public(key, value):
            if value and key not in _NEVER_MISSED:
                hidden.append(key)
            continue
        seen[key] = value
    return seen, hidden


def public_name(name: str | None) -> str | None:
    """A model's or data set's name; of one that is a path, the last part.

    `local-dir:/home/me/runs/a` becomes `local-dir:a`, `lt/hfds//data/birds` becomes `lt/hfds/birds`.
    """
    if not name or name.startswith(HUB):
        return name
    prefix = _PREFIXES.match(name)[0]
    rest = name[len(prefix):]
    is_path = prefix == 'local-dir:' or _LOOKS_LIKE_A_PATH.match(rest) or rest.count('/') > 1 or '\\' in rest or (
        '/' in rest and Path(rest).exists())
    return prefix + (re.split(r'[/\\]', rest.rstrip('/\\'))[-1] if is_path else rest)


def _is_public(key: str, value: Any) -> bool:
    if key in PRIVATE and not isinstance(value, Mapping):
        texts = list(_texts(value))
        return bool(texts) and all(text.startswith(HUB) for text in texts)
    return not any(_LOOKS_LIKE_A_PATH.match(text) or os.path.isabs(text) for text in _texts(value))


def _texts(value: Any) -> Iterable[str]:
    """All text in a value, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
