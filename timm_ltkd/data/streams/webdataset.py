"""Shards that are tar files, as webdataset has them: the files of a sample share a name and lie side by side."""
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import UserError
from ..labels import names_by_index
from .shards import ClassIndex, Encoded, reading

_SKIPPED = object()  # in place of a label of an image that is to be left out: timm takes a negative one in JSON so


class WebdatasetShards:
    """See `Shards`.

    Args:
        name: Any; the shards are named by the split.
        root: Folder or URL of the shards, and of an `_info.json` where the split is a name.
        split: Of the `_info.json`, or shards with braces, as timm takes both: 'train', 'train-{000..063}.tar'.
        class_map: Class index by name.
        input_key: Endings of image files, with semicolons between.
        target_key: 'cls' for a file with the class index, else an entry of the sample's JSON file; by default the
            split's `alt_label` if it has one, and 'cls' if not.

    Raises:
        UserError: `webdataset` is not installed; no such split or shard.
    """

    def __init__(
            self,
            name: str,
            root: str | None,
            split: str,
            class_map: dict | None = None,
            input_key: str = 'jpg;png;webp',
            target_key: str | None = None,
    ):
        self.name, self.split = f'wds/{name}', split
        if root is None:
            raise UserError(f"'{self.name}' needs a folder or URL of shards (root, --data-dir)")
        from timm.data.readers import reader_wds  # only a stream of this kind needs it
        if reader_wds.wds is None:
            raise UserError(f"'{self.name}' needs the package webdataset: pip install webdataset")
        try:
            info = reader_wds.ReaderWds(root, split=split).split_info
        except (RuntimeError, KeyError) as e:
            raise UserError(
                f"'{root}' has no _info.json with a split '{split}'; name the shards themselves, as in "
                "'train-{000..063}.tar'") from e
        self.folder = Path(root) if os.path.isdir(root) else None
        self.files = list(info.filenames)
        self.lengths = list(info.shard_lengths) or None
        self._paths = [os.path.join(root, file) for file in self.files]
        self.stamps = [path if self.folder is None else self._stamp(path) for path in self._paths]
        self.class_names = names_by_index(class_map) if class_map else None
        self._image_endings = input_key.split(';')
        self._target_key = target_key or info.alt_label or 'cls'
        self.labelled_by = [self._target_key, class_map]
        self._index = ClassIndex(class_map, None, f"'{self.name}'")

    def _stamp(self, path: str) -> list[int]:
        with reading(f"shard '{path}'"):
            status = os.stat(path)
        return [status.st_size, status.st_mtime_ns]

    def __len__(self) -> int:
        return len(self.files)

    def read(self, shard: int) -> Iterator[tuple[Encoded, int]]:
        for sample in self._samples(shard):
            image = next((sample[ending] for ending in self._image_endings if ending in sample), None)
            label = self._label(sample)
            if image is None and label is None:
                self._check_dots(sample, shard)
                continue  # a file that is no part of any sample
            if image is None or label is None:
                missing = f'image ({" ".join(self._image_endings)})' if image is None else f"label '{self._target_key}'"
                hint = f'; it has: {" ".join(key for key in sample if not key.startswith("__"))} (--input-key)' \
                    if image is None else ''
                raise UserError(f"sample '{sample['__key__']}' in shard '{self.files[shard]}' has no {missing}{hint}")
            if label is not _SKIPPED:
                yield image, self._index(label)

    def labels(self, shard: int) -> Iterator[int]:
        select = partial(_ends_with, ending='.cls' if self._target_key == 'cls' else '.json')
        for sample in self._samples(shard, select):
            label = self._label(sample)
            if label is None:
                self._check_dots(sample, shard)
            elif label is not _SKIPPED:
                yield self._index(label)

    def _check_dots(self, sample: dict, shard: int) -> None:
        """Refuse names that webdataset takes to end at their first dot."""
        endings = {*self._image_endings, 'cls', 'json'}
        for name in sample:
            stem, _, ending = name.rpartition('.')
            if stem and ending in endings:
                raise UserError(
                    f"'{sample['__key__']}.{name}' in shard '{self.files[shard]}' has a dot in its name, where "
                    'webdataset takes it to end: rename it')

    def _samples(self, shard: int, select=None) -> Iterator[dict]:
        from webdataset.tariterators import tarfile_samples
        with reading(f"shard '{self.files[shard]}' of '{self.name}'"):
            yield from tarfile_samples([{'url': self._paths[shard]}], select_files=select)

    def _label(self, sample: dict) -> Any:
        with reading(f"the label of sample '{sample['__key__']}' of '{self.name}'"):
            if self._target_key != 'cls':
                label = json.loads(sample['json']).get(self._target_key) if 'json' in sample else None
                return _SKIPPED if isinstance(label, int) and label < 0 else label
            text = sample['cls'].decode().strip() if 'cls' in sample else None
            return int(text) if text and text.lstrip('-').isdecimal() else text


def _ends_with(name: str, ending: str) -> bool:
    return name.lower().endswith(ending)
