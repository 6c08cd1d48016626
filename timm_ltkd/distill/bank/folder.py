"""The folder of a teacher bank: made whole, and opened only for what it was filled with."""
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch

from ...errors import UserError, last_line
from ...files import is_aside, remove_asides, try_lock, write_text
from .bank import TeacherBank
from .layout import RowLayout
from .rows import RowFile

_KEY, _LOCK = 'bank.json', '.lock'
_PATIENCE = 30.  # seconds
_FORMAT = 1


def open_bank(
        path: str | os.PathLike,
        key: dict[str, Any],
        layout: RowLayout,
        *,
        count: int,
        device: torch.device | str = 'cpu',
        at_once: int = 16,
) -> TeacherBank:
    """The bank in a folder, which is made if it is not there.

    Args:
        path: The folder.
        key: All that what is said depends on, by name, as JSON has it; dicts in it are compared entry by entry.
        layout: What this run needs of what is said; a bank that holds features as well will do.
        count: Rows: images times views.
        device: As for `TeacherBank`.
        at_once: As for `TeacherBank`.

    Raises:
        UserError: It was filled with something else (the difference is named), is no bank, or cannot be made.
    """
    path, key = Path(path), json.loads(json.dumps(key))
    try:
        if not (path / _KEY).is_file():
            _make(path, {'key': key, 'layout': layout.to_json(), 'count': count})
    except OSError as e:
        size = f'{count * (layout.words + 1) * 4 / 1e6:,.1f} MB'
        raise UserError(
            f'a teacher bank of up to {size} cannot be made in {path} ({e.strerror}); name another folder') from e
    entries = _read(path)
    if difference := _difference(entries['key'], key):
        raise UserError(
            f'the teacher bank {path} was filled with another {difference}; name another folder, or remove this one')
    if entries['count'] != count:
        raise UserError(f'the teacher bank {path} has {entries["count"]} rows (images times views), and this run '
                        f'{count}; name another folder, or remove this one')
    kept = RowLayout.from_json(entries['layout'])
    if any(asked and not there for asked, there in zip(layout.needs_features, kept.needs_features, strict=False)):
        raise UserError(
            f'the teacher bank {path} holds no features, and this run wants them; name another folder')
    if not kept.holds(layout):
        raise UserError(
            f'the teacher bank {path} holds {_described(kept)}, and {_described(layout)} are asked for; name another '
            'folder, or remove this one')
    salt = int.from_bytes(hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).digest()[:8], 'little')
    try:
        file = RowFile(path, count, kept.words, salt=salt)
    except OSError as e:
        raise UserError(f'the teacher bank {path} is damaged ({last_line(e)}); remove it') from e
    name = f'the teacher bank {path}'
    return TeacherBank(file, kept, layout.needs_features, device=device, at_once=at_once, name=name)


def _make(path: Path, entries: dict[str, Any]) -> None:
    """Make an empty bank; of two processes one does, and the other finds it."""
    if path.is_file() or path.is_dir() and not all(_is_part(entry) for entry in path.iterdir()):
        raise UserError(f'{path} is no teacher bank, and not empty; name another folder')
    path.mkdir(parents=True, exist_ok=True)
    lock = try_lock(path / _LOCK, _PATIENCE)
    if lock is None:
        raise UserError(f'another process has been making the teacher bank {path} for {_PATIENCE:.0f} seconds')
    try:
        if not (path / _KEY).is_file():
            remove_asides(path)  # of a process that was killed here
            RowFile.make(path, entries['count'], RowLayout.from_json(entries['layout']).words)
            key = json.dumps({'format': _FORMAT, **entries}, indent=2, sort_keys=True)
            write_text(path / _KEY, key)  # last: now there is a bank
    except OSError:
        for name in RowFile.FILES:
            (path / name).unlink(missing_ok=True)
        raise
    finally:
        lock.release()


def _is_part(path: Path) -> bool:
    """Whether a file may be that of a bank which another process is making, or was killed while it did."""
    return is_aside(path) or path.name in (_KEY, _LOCK, *RowFile.FILES)


def _read(path: Path) -> dict[str, Any]:
    try:
        entries = json.loads((path / _KEY).read_text(encoding='utf-8'))
        if entries['format'] != _FORMAT:
            raise ValueError(f'format {entries["format"]}')
        RowLayout.from_json(entries['layout'])  # or it is none
        return {name: entries[name] for name in ('key', 'layout', 'count')}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
        raise UserError(f'{path} is no teacher bank that can be read ({_KEY}: {last_line(e)}); remove it') from e


def _difference(filled: dict[str, Any], asked: dict[str, Any]) -> str:
    """What differs between two keys, in words; empty if nothing does."""
    filled, asked = _flat(filled), _flat(asked)
    for name in dict.fromkeys((*asked, *filled)):
        if filled.get(name) != asked.get(name):
            there, here = (_short(entries.get(name)) for entries in (filled, asked))
            return f'{name} ({there} there, {here} here)'
    return ''


def _flat(entries: dict[str, Any], prefix: str = '') -> dict[str, Any]:
    flat = {}
    for name, value in entries.items():
        flat |= _flat(value, f'{prefix}{name} ') if isinstance(value, dict) else {f'{prefix}{name}': value}
    return flat


def _short(value: Any) -> str:
    text = ', '.join(map(_short, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 40 else f'{text[:12]}…'


def _described(layout: RowLayout) -> str:
    """What a row holds, in words."""
    each = [
        (f'{"all" if layout.top_k is None else layout.top_k} of {teacher.classes} logits')
        + (f' and {teacher.features} features' if teacher.features else '') for teacher in layout.teachers]
    kinds = sorted({teacher.dtype for teacher in layout.teachers})
    return f'{"; ".join(each)} in {layout.dtype} of {", ".join(kinds)}'
