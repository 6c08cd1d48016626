"""Shards of a Hugging Face data set in streaming mode: the hub, or a local folder of Parquet, images and so on."""
import os
from collections.abc import Iterator
from pathlib import Path

from torch.utils.data import get_worker_info

from ...errors import UserError
from ..labels import names_by_index
from .shards import ClassIndex, Encoded, reading

_IMAGES_AT_ONCE, _LABELS_AT_ONCE = 32, 4096  # rows that are held in memory


class HuggingFaceShards:
    """See `Shards`.

    Args:
        name: Of a repository on the hub, or a folder, as `datasets.load_dataset_builder` takes it.
        root: Cache folder of `datasets`.
        split: Of the data set, by its plain name.
        class_map: Class index by name.
        input_key: Column of images.
        target_key: Column of labels.

    Raises:
        UserError: No such data set, split or column.
    """

    lengths = None

    def __init__(
            self,
            name: str,
            root: str | None,
            split: str,
            class_map: dict | None = None,
            input_key: str = 'image',
            target_key: str = 'label',
    ):
        self.name, self.split = f'hfids/{name}', split
        self.folder = Path(name) if os.path.isdir(name) else None
        self.input_key, self.target_key = input_key, target_key
        with reading(f"split '{split}' of '{self.name}'"):
            import datasets  # takes a while, and only a stream of this kind needs it
            builder = datasets.load_dataset_builder(name, cache_dir=root)
            rows = builder.as_streaming_dataset(split=split)
            labels = rows
            if builder.name == 'parquet':  # reads, and fetches, the one column alone
                options = dict(cache_dir=root, columns=[target_key])
                if rows.features is None or target_key in rows.features:
                    labels = datasets.load_dataset_builder(name, **options).as_streaming_dataset(split=split)
            self._check_columns(rows.features)
            undecoded = datasets.Image(decode=False)
            self._rows = rows.select_columns([input_key, target_key]).cast_column(input_key, undecoded)
            self._labels = labels.select_columns([target_key])
        names = getattr((rows.features or {}).get(target_key), 'names', None)
        self.class_names = names_by_index(class_map) if class_map else names
        self.labelled_by = [target_key, class_map, names]
        self._index = ClassIndex(class_map, names, f"'{self.name}'")
        listed = (getattr(builder.config, 'data_files', None) or {}).get(split, ())
        self.files = [os.path.basename(file) for file in listed]
        self.stamps = [builder.hash, *map(list, getattr(listed, 'origin_metadata', ()))]

    def _check_columns(self, features) -> None:
        for option, key in (('--input-key', self.input_key), ('--target-key', self.target_key)):
            if features is not None and key not in features:
                raise UserError(f"'{self.name}' has no column '{key}'; choose one of: {', '.join(features)} ({option})")
        images = [key for key, feature in (features or {}).items() if type(feature).__name__ == 'Image']
        if features is not None and self.input_key not in images:
            others = f'; these do: {", ".join(images)} (--input-key)' if images else ''
            raise UserError(f"column '{self.input_key}' of '{self.name}' holds no images{others}")

    def __len__(self) -> int:
        return self._rows.n_shards

    def read(self, shard: int) -> Iterator[tuple[Encoded, int]]:
        for image, label in self._iterate(self._rows, shard, _IMAGES_AT_ONCE, self.input_key, self.target_key):
            yield image and (image['bytes'] or image['path']) or b'', self._index(label)

    def labels(self, shard: int) -> Iterator[int]:
        for label, in self._iterate(self._labels, shard, _LABELS_AT_ONCE, self.target_key):
            yield self._index(label)

    def _iterate(self, stream, shard: int, at_once: int, *columns: str) -> Iterator[tuple]:
        """Rows of one shard. By batches, because row by row `datasets` would share them among the loader's workers."""
        from datasets.distributed import split_dataset_by_node
        if get_worker_info() is not None:
            from fsspec.asyn import reset_lock
            reset_lock()  # a forked process has its parent's, which nobody will ever open
        with reading(f"shard {shard} of split '{self.split}' of '{self.name}'"):
            for batch in split_dataset_by_node(stream, rank=shard, world_size=len(self)).iter(batch_size=at_once):
                yield from zip(*(batch[column] for column in columns), strict=True)
