"""summary.csv: a row per epoch, timm's columns first."""
import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from ..errors import UserError, reason
from ..files import replace_file

_FORMULA = ('=', '+', '-', '@', '\t', '\r')
TIMM_COLUMNS = ('epoch', 'train_loss', 'eval_loss', 'eval_top1', 'eval_top5', 'lr')  # as timm.utils.update_summary


def write_summary(path: str | os.PathLike, history: Sequence[Mapping[str, Any]]) -> None:
    """Write all epochs anew, whole or not at all; equal histories give equal bytes.

    Args:
        path: The CSV file to replace.
        history: One mapping an epoch. timm's columns come first, the others in order of first appearance; a value
            that is missing or None is left blank. Numbers are written so that they read back to the last bit.
    """
    seen = dict.fromkeys(key for row in history for key in row)
    columns = [key for key in TIMM_COLUMNS if key in seen] + [key for key in seen if key not in TIMM_COLUMNS]
    write_csv(path, columns, ([row.get(key) for key in columns] for row in history))


def read_summary(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The history that `write_summary` wrote: int, float, bool or text by the look of it, blanks left out.

    Raises:
        UserError: The file is not there, or not a CSV with one value for each column.
    """
    try:
        with open(path, newline='', encoding='utf-8') as f:
            header, *lines = [line for line in csv.reader(f, strict=True) if line] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read the summary '{path}': {reason(error)}; give the summary.csv of a run") from error
    for number, line in enumerate(lines, start=1):
        if len(line) != len(header):
            raise UserError(f"row {number} of '{path}' has {len(line)} values for {len(header)} columns; "
                            'restore or remove the file')
    return [{key: _parse(text) for key, text in zip(header, line, strict=True) if text} for line in lines]


def write_csv(path: str | os.PathLike, header: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    """Write a CSV, whole or not at all, as `write_rows` does; characters that UTF-8 lacks are written as escapes."""
    with replace_file(path) as aside, open(aside, 'w', newline='', encoding='utf-8', errors='backslashreplace') as f:
        write_rows(f, header, lines)


def write_rows(file: TextIO, header: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    """Write the lines of a CSV; None is blank.

    A text that a spreadsheet would take for a formula (`=`, `+`, `-`, `@` first) gets an apostrophe before it: names of
    classes and files may be a stranger's.
    """
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(header)
    writer.writerows([_plain(value) for value in line] for line in lines)


def _plain(value: Any) -> Any:
    """Numpy and torch scalars as Python's own, which CSV writes with all their digits; no formulas."""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) and isinstance(_parse(value), str) else value
    return value.item() if hasattr(value, 'item') else value


def _parse(text: str) -> Any:
    if text in ('True', 'False'):
        return text == 'True'
    for kind in (int, float):
        try:
            return kind(text) if '_' not in text else text  # Python would read 1_000 as a number
        except ValueError:
            continue
    return text
