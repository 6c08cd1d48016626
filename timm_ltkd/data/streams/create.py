"""`create_stream`: from a name to a stream that knows its classes."""
import os
from collections.abc import Callable, Sequence

import numpy as np

from ...errors import UserError
from ..class_counts import given_class_counts
from ..names import plain_name
from .counts import StreamCounts, kept_counts
from .dataset import StreamDataset
from .huggingface import HuggingFaceShards
from .shards import Shards
from .webdataset import WebdatasetShards

_KINDS = {'hfids': HuggingFaceShards, 'wds': WebdatasetShards}


def is_stream_name(name: str) -> bool:
    """Whether a data set of this name, with or without `lt/`, is a stream."""
    prefix, slash, rest = plain_name(name).partition('/')
    return bool(rest or slash and prefix.lower() == 'wds') and prefix.lower() in _KINDS


def check_no_selection(name: str, imbalance_factor, max_per_class, class_counts) -> None:
    """Raise a UserError if options of `create_dataset` would select images from a stream."""
    if imbalance_factor is not None or max_per_class is not None:
        prefix, _, rest = plain_name(name).partition('/')
        indexed = f'hfds/{rest}' if prefix.lower() == 'hfids' else 'image folders'
        raise UserError(
            f"'{name}' is a stream and cannot be indexed, so no images can be selected from it; use {indexed}, or "
            'leave the imbalance factor out')
    if class_counts is not None and name != plain_name(name):
        raise UserError(
            f"class counts of a stream say what it has, and select nothing from it; write '{plain_name(name)}'")


def create_stream(
        name: str,
        root: str | os.PathLike | None = None,
        split: str = 'train',
        *,
        class_counts: Sequence[int] | np.ndarray | str | os.PathLike | None = None,
        class_map: dict | None = None,
        input_img_mode: str | None = 'RGB',
        transform: Callable | None = None,
        download: bool = False,
        **keys: str,
) -> StreamDataset:
    """A split of a stream, its images counted (once, see `kept_counts`) unless the counts are given.

    Args:
        name: 'hfids/REPO or folder', or 'wds/ANY'; with or without `lt/`.
        root: For `hfids/` the cache folder, for `wds/` the folder or URL of the shards.
        split: Of the data set; for `wds/` also shards with braces.
        class_counts: How many images of each class the split has, [C], or a file of that (see `read_class_counts`).
        class_map: Class index by name.
        input_img_mode: Pillow's mode of the images; None leaves them as they are.
        transform: From an image to the network's input.
        download: Must be False: a stream is read where it is.
        **keys: `input_key` and `target_key`, as the kind of stream has them.

    Raises:
        UserError: As `HuggingFaceShards`, `WebdatasetShards`, `count_images`; class counts that do not fit the names.
    """
    prefix, _, rest = plain_name(name).partition('/')
    if download:
        raise UserError(f"'{name}' is a stream, which is read where it is and never downloaded; hfds/ data sets are")
    shards = _KINDS[prefix.lower()](rest, None if root is None else os.fspath(root), split, class_map, **keys)
    kept_in = None
    if class_counts is None:
        counts, kept_in = kept_counts(shards)
    else:
        counts = _given_counts(class_counts, shards)
    names = shards.class_names or [str(index) for index in range(len(counts.classes))]
    return StreamDataset(
        shards, counts, class_names=names, transform=transform, image_mode=input_img_mode, kept_in=kept_in)


def _given_counts(class_counts, shards: Shards) -> StreamCounts:
    """What the user says, with the shards' lengths where the stream says these."""
    classes = given_class_counts(class_counts, shards.class_names, f"'{shards.name}'")
    lengths = shards.lengths
    fits = lengths is not None and len(lengths) == len(shards) and sum(lengths) == classes.sum()
    return StreamCounts(classes, np.array(lengths, np.int64) if fits else None)
