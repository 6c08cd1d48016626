"""What identifies the data of a run, wherever they lie."""
import hashlib
import json
import os
from collections.abc import Iterator
from itertools import islice

import numpy as np

from .dataset import LongTailedDataset
from .folders import classes_come_from_folders
from .labels import as_utf8
from .lists import ReaderImageList
from .splits import Splits
from .streams import StreamDataset

_IMAGES_READ = 16


def fingerprint(splits: Splits) -> str:
    """What tells two data sets apart: classes, labels, selection, file names, and the pixels of a few training images.

    File names count relative to the split's folder, so that a moved data set keeps its fingerprint; the pixels tell
    a copy of another resolution from the original.

    Returns:
        SHA-256 in hexadecimal.
    """
    parts = [json.dumps(splits.class_names).encode()]
    parts += _stream_parts(splits) if isinstance(splits.train, StreamDataset) else _indexed_parts(splits)
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, 'little'))
        digest.update(part)
    return digest.hexdigest()


def _indexed_parts(splits: Splits) -> Iterator[bytes]:
    """Of sets whose labels, selection and file names are at hand."""
    held = () if splits.holdout is None else (splits.holdout.targets, splits.holdout.indices)
    for array in (splits.train.targets, splits.train.indices, splits.val.targets, *held):
        yield np.ascontiguousarray(array, dtype='<i8').tobytes()
    for dataset in (splits.train, splits.val, *(() if splits.holdout is None else (splits.holdout,))):
        yield _file_names(dataset)
    raw = splits.train.with_transform(None)
    for i in np.linspace(0, len(raw) - 1, min(len(raw), _IMAGES_READ)).astype(int):
        yield np.asarray(raw[i][0]).tobytes()


def _stream_parts(splits: Splits) -> Iterator[bytes]:
    """Of streams: counts in place of labels, names of the files that they come from, the first images."""
    for stream in (splits.train, splits.val):
        for counts in (stream.class_counts, stream.shard_lengths):
            yield b'' if counts is None else np.ascontiguousarray(counts, dtype='<i8').tobytes()
        yield json.dumps([os.path.basename(file) for file in stream.shards.files]).encode()
    for image, _ in islice(splits.train.with_transform(None), _IMAGES_READ):
        yield np.asarray(image).tobytes()


def _file_names(dataset: LongTailedDataset) -> bytes:
    """A digest of them where the dataset keeps them; a Hugging Face table would have to be read for its."""
    reader = getattr(dataset.base, 'reader', None)
    keeps_names = reader is None or isinstance(reader, ReaderImageList) or classes_come_from_folders(dataset.base)
    if not keeps_names or not len(dataset) or dataset.filename(0) is None:
        return b''
    digest = hashlib.sha256()
    for i in range(len(dataset)):
        digest.update(as_utf8(dataset.filename(i)).encode('utf-8', 'surrogateescape') + b'\0')
    return digest.digest()
