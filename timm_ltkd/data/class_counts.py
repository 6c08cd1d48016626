"""How many images each class has, as someone gives it: numbers, or a file of them."""
import json
import os
from collections.abc import Sequence

import numpy as np

from ..errors import UserError, reason
from .selection import called, int_vector


def given_class_counts(
        given: Sequence[int] | np.ndarray | str | os.PathLike,
        class_names: Sequence[str] | None,
        what: str,
) -> np.ndarray:
    """Images per class as someone gives them, int64 [C]; a UserError if they are none, don't fit, or one is below 1.

    Args:
        given: Numbers, or a file of them (see `read_class_counts`).
        class_names: Of the data they are for, [C]; None where these are not known.
        what: What messages call the data.
    """
    counts = read_class_counts(given) if isinstance(given, str | os.PathLike) else int_vector(given, 'class counts')
    if class_names is not None and len(counts) != len(class_names):
        raise UserError(f'{len(counts)} class counts are given for the {len(class_names)} classes of {what}')
    if not counts.size:
        raise UserError(f'no class counts are given for {what}')
    c = int(counts.argmin())
    if counts[c] < 1:
        raise UserError(f'{called(c, class_names)} of {what} would have {counts[c]} images; 1 is the least')
    return counts


def read_class_counts(path: str | os.PathLike) -> np.ndarray:
    """Read images per class from a file: a JSON list of integers, or one integer a line, in class order.

    Returns:
        int64 [C], every count at least 1.

    Raises:
        UserError: No such file, no counts in it, or an entry that is no positive integer.
    """
    try:
        with open(path, encoding='utf-8-sig') as f:
            text = f.read()
    except (OSError, ValueError) as e:  # ValueError: no UTF-8, or a path that cannot be one
        raise UserError(f"cannot read class counts from '{path}': {reason(e)}") from e

    if text.lstrip().startswith('['):
        try:
            entries = list(enumerate(json.loads(text), 1))
        except (ValueError, RecursionError) as e:
            raise UserError(f"class counts in '{path}' are not a valid JSON list: {e}") from e
        place = 'entry'
    else:
        entries = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        place = 'line'
    if not entries:
        raise UserError(f"class counts in '{path}': the file has none")
    return np.array([_positive_int(value, f"class counts in '{path}', {place} {n}") for n, value in entries], np.int64)


def _positive_int(value, where: str) -> int:
    try:
        if isinstance(value, bool | float):
            raise ValueError
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if not 1 <= number < 2 ** 31:
        raise UserError(f"{where}: '{value}' is not a positive integer, or too large a one")
    return number
