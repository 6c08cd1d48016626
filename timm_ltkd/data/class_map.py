"""Class maps: which index each class of the data has, and which of another label space's classes it is."""
import json
import os
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from pickle import Unpickler, UnpicklingError

from timm.data.readers.class_map import load_class_map as timm_class_map

from ..errors import UserError, nearest, reason

_DIGITS = 9  # of an index


def load_class_map(class_map, root) -> dict | None:
    """Class index by name of the data, as timm reads it from a dict or a file; None for None.

    Raises:
        UserError: A file that timm cannot read, or one of something else.
    """
    if class_map is None:
        return None
    try:
        given = class_map if isinstance(class_map, dict) else os.fspath(class_map)
        if isinstance(given, str) and given.lower().endswith('.pkl'):
            given = _read_pickled_map(given, root)  # older timms would run code that is in it
        loaded = timm_class_map(given, str(root or ''))
    except (AssertionError, OSError, ValueError) as e:
        raise UserError(
            f"cannot read the class map '{class_map}': {reason(e)} (a .txt file with one class name a line, or a "
            '.pkl file of a dict)') from e
    if isinstance(given, str):  # a name a line
        loaded = {name.removeprefix('\ufeff'): index for name, index in loaded.items()}
        if '' in loaded or len(loaded) <= max(loaded.values(), default=-1):
            raise UserError(f"the class map '{class_map}' has an empty line, or a name twice; each line names a class")
    if not loaded or not all(isinstance(index, Integral) and index >= 0 for index in loaded.values()):
        raise UserError('a class map must give a class index (0, 1, ...) for every name')
    return loaded


class _NoGlobals(Unpickler):
    """Reads dicts, texts and numbers; a pickle that names any class or function is refused."""

    def find_class(self, module: str, name: str):
        raise UnpicklingError(f'it holds {module}.{name}, which is not safe to load')


def _read_pickled_map(path: str, root) -> dict:
    """A pickled dict, found as timm finds it: where the path leads, or below the data folder."""
    with open(path if os.path.exists(path) else os.path.join(root or '', path), 'rb') as file:
        try:
            loaded = _NoGlobals(file).load()
        except Exception as e:  # of a file that is no pickle, the unpickler's opcodes raise whatever they like
            raise ValueError(str(e) or type(e).__name__) from e
    if not isinstance(loaded, dict):
        raise ValueError('it is no dict')
    return loaded


def read_class_map(path: str | os.PathLike, class_names: Sequence[str], num_outputs: int) -> list[int]:
    """For each class of the data its index in another label space, such as a teacher's.

    Args:
        path: JSON, a dict from class name to index or a list of indices in class order; or text with a line for each
            class, an index in class order or `name index`.
        class_names: Of the data, by class index, [C].
        num_outputs: Size of the other label space.

    Returns:
        [C].

    Raises:
        UserError: No such file or of another form, a class without an index, an index out of range, or one that two
            classes share.
    """
    entries = _read(Path(path))
    indices = _in_class_order(entries, class_names, path) if isinstance(entries, dict) else entries
    if len(indices) != len(class_names):
        raise UserError(f'{path} has {len(indices)} indices and the data {len(class_names)} classes; give one for each')
    taken: dict[int, str] = {}
    for name, index in zip(class_names, indices, strict=True):
        if not 0 <= index < num_outputs:
            raise UserError(f"{path}: the index of '{name}' is {index}; it must be from 0 to {num_outputs - 1}")
        if index in taken:
            raise UserError(f"{path}: '{taken[index]}' and '{name}' have the same index {index}; give each its own")
        taken[index] = name
    return indices


def match_class_names(class_names: Sequence[str], others: Sequence[str]) -> list[int] | None:
    """The index of each class in another label space by name, [C]; None if a name is not there, or there twice."""
    wanted = set(class_names)
    found = [name for name in others if name in wanted]
    if len(found) != len(wanted) or set(found) != wanted:
        return None
    index = {name: i for i, name in enumerate(others)}
    return [index[name] for name in class_names]


def _in_class_order(entries: dict[str, int], class_names: Sequence[str], path) -> list[int]:
    if missing := [name for name in class_names if name not in entries]:
        more = f' and {len(missing) - 1} more' if len(missing) > 1 else ''
        raise UserError(f"{path} has no index for class '{missing[0]}'{more}{nearest(missing[0], entries)}")
    return [entries[name] for name in class_names]


def _read(path: Path) -> dict[str, int] | list[int]:
    try:
        text = path.read_text(encoding='utf-8-sig')
    except (OSError, ValueError) as e:  # ValueError: no UTF-8, or a path that cannot be one
        raise UserError(f'cannot read the class map {path}: {reason(e)}') from None
    if text.lstrip()[:1] in ('{', '['):
        return _from_json(text, path)
    return _from_lines(text, path)


def _from_json(text: str, path: Path) -> dict[str, int] | list[int]:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise UserError(f'{path} is not valid JSON: {e}') from None
    for index in entries.values() if isinstance(entries, dict) else entries:
        if isinstance(index, bool) or not isinstance(index, int):
            raise UserError(f'{path}: a class index is a whole number, got {index!r}')
    return entries


def _from_lines(text: str, path: Path) -> dict[str, int] | list[int]:
    """Indices where every line is one, else `name index`; a name may have spaces."""
    named, indices = {}, []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        index = line.split()[-1]
        name = line.strip().removesuffix(index).strip()
        if not index.isdecimal() or len(index) > _DIGITS or (indices if name else named):
            raise UserError(f"{path} line {number}: '{line}' is not an index, or name and index, as on the others")
        if name in named:
            raise UserError(f"{path} line {number}: class '{name}' comes twice")
        if name:
            named[name] = int(index)
        else:
            indices.append(int(index))
    return named or indices
