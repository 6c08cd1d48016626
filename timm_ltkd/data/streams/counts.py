"""How many images a stream has: of each class and in each shard, counted once and kept in a file."""
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import UserError
from ...files import write_text
from ...progress import Bar
from .shards import Shards
from .shuffle import ClassesAtOnce

_logger = logging.getLogger(__name__)


class StreamCounts(NamedTuple):
    """Images of each class, int64 [C], and of each shard, int64 [S]; how many classes are shuffled at once, see
    `ClassesAtOnce`. The last two are None where nobody has counted."""
    classes: np.ndarray
    shards: np.ndarray | None
    at_once: float | None = None


def count_images(shards: Shards) -> StreamCounts:
    """One pass over the labels of all shards; no image is decoded.

    Raises:
        UserError: A label that is no class index or has no class name; no image at all.
    """
    classes, lengths, at_once = np.zeros(len(shards.class_names or ()), np.int64), [], ClassesAtOnce()
    what = f"'{shards.name}'"
    with Bar(f'counting {what}', len(shards), 'shards') as bar:
        for shard in range(len(shards)):
            labels = np.fromiter(shards.labels(shard), np.int64)
            lengths.append(len(labels))
            at_once.add(labels)
            found = np.bincount(labels, minlength=len(classes))
            if shards.class_names is not None and len(found) > len(classes):
                raise UserError(f'{what}: label {len(found) - 1} has no class name: there are {len(classes)} classes')
            classes = found + np.pad(classes, (0, len(found) - len(classes)))
            bar.update()
    if not classes.any():
        raise UserError(f"split '{shards.split}' of {what} has no images")
    return StreamCounts(classes, np.array(lengths, np.int64), at_once.mean(classes))


def kept_counts(shards: Shards) -> tuple[StreamCounts, Path | None]:
    """`count_images`, from the file that an earlier call wrote if there is one.

    It lies where the stream does, or in the user's cache folder where that cannot be written (or is no folder of this
    machine). Its name changes with the files' sizes and times, as far as these can be told.

    Returns:
        The counts, and the file, if one could be written.
    """
    files = list(_places(shards))
    for file in files:
        if (counts := _read(file, len(shards))) is not None:
            return counts, file
    _logger.info(f"counting the images of split '{shards.split}' of '{shards.name}' in {len(shards)} shards, once")
    counts = count_images(shards)
    for file in files:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps({
                'name': shards.name, 'split': shards.split, 'classes': counts.classes.tolist(),
                'shards': counts.shards.tolist(), 'at_once': counts.at_once}) + '\n')
        except OSError:
            continue
        _logger.info(f'the counts are kept in {file}')
        return counts, file
    tried = f' (tried {files[-1]})' if files else ''
    _logger.warning(f"the counts of '{shards.name}' can be kept nowhere{tried}: each run counts anew")
    return counts, None


def _places(shards: Shards) -> Iterator[Path]:
    facts = [type(shards).__name__, shards.split, shards.labelled_by, shards.files, shards.stamps]
    key = hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:16]
    name = f'.ltkd-counts-{key}.json'  # a hidden file is no data to anyone who lists the folder
    if shards.folder is not None:
        yield shards.folder / name
    with suppress(RuntimeError):  # of a user without a home
        yield Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'timm_ltkd' / name


def _read(file: Path, num_shards: int) -> StreamCounts | None:
    try:
        kept = json.loads(file.read_text(encoding='utf-8'))
        counts = StreamCounts(
            np.array(kept['classes'], np.int64), np.array(kept['shards'], np.int64), float(kept['at_once']))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    whole = len(counts.shards) == num_shards and counts.classes.sum() == counts.shards.sum() > 0
    return counts if whole else None
