"""The labels and class names of any map-style dataset timm makes, without decoding an image."""
import os
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

import numpy as np
from torch.utils.data import Dataset, IterableDataset

from ..errors import UserError
from .names import called

MOST_CLASSES = 10_000_000  # more are a mistake


def too_large(name: str, label: int) -> UserError:
    """Of a label that is some number of an image, and would be millions of classes."""
    return UserError(f'{name} needs one class index per image, but has the label {label}, which is none')


def dataset_targets(dataset: Dataset) -> np.ndarray:
    """The class index of every image, read from what the dataset already knows.

    Understood: timm's `ImageDataset` over a folder, tar, list or Hugging Face reader, torchvision's classification
    datasets, and anything with `targets` or `labels`. A `target_transform` is not applied.

    Returns:
        int64 [N].

    Raises:
        UserError: An iterable dataset; labels that cannot be read without decoding images; labels that are no class
            indices (missing, negative, text, or several for one image).
    """
    name = called(dataset)
    if isinstance(dataset, IterableDataset):
        raise UserError(f'{name} is an iterable dataset, its labels cannot be read ahead; use a map-style one')
    source = getattr(dataset, 'reader', dataset)
    if _is_hfds(source):
        labels = _hfds_labels(source)
    else:
        labels = _stored_labels(source, len(dataset))
    if labels is None:
        raise UserError(f'the labels of {name} cannot be read without decoding every image; give it a list `targets`')
    return _as_class_indices(labels, name, mapped=_is_hfds(source))


def dataset_class_names(dataset: Dataset) -> list[str]:
    """The name of every class, by class index; the index itself where the dataset knows no name."""
    source = getattr(dataset, 'reader', dataset)
    if _is_hfds(source) and not source.remap_class:
        names = getattr(_hfds_feature(source), 'names', None)
    else:
        names = _stored_names(source)
    if names:
        return [as_utf8(name) for name in names]
    targets = dataset_targets(dataset)
    return [str(c) for c in range(targets.max() + 1)] if targets.size else []


def as_utf8(name: str) -> str:
    """A name that may be a file's or folder's, as it is written on disk, whatever characters the locale takes the bytes
    for; one from inside a tar file, which may have characters that the locale lacks, as it is."""
    try:
        return os.fsencode(name).decode('utf-8')
    except UnicodeError:
        return name


def _stored_labels(source, length: int) -> Iterable | None:
    """Labels kept as a list: `targets` and its synonyms, or (file, label) pairs as timm and torchvision keep them."""
    for attribute in ('targets', 'labels', '_labels', 'y'):
        values = getattr(source, attribute, None)
        if is_of_length(values, length):
            if getattr(values, 'ndim', 1) == 2 and getattr(source, 'compat', False):
                values = values[:, 0]  # QMNIST keeps the writer and more beside the class
            return values
    for attribute in ('samples', '_samples', 'imgs'):
        pairs = getattr(source, attribute, None)
        if is_of_length(pairs, length) and all(len(pair) == 2 for pair in pairs[:1]):
            return [pair[1] for pair in pairs]
    if hasattr(source, 'categories_map') and hasattr(source, 'index'):
        return _inaturalist_labels(source)
    return None


def is_of_length(values: Any, length: int) -> bool:
    """Whether an attribute that a dataset may have, or use for something else, is a list of something of each image."""
    return not callable(values) and hasattr(values, '__len__') and len(values) == length


def _inaturalist_labels(source) -> list | None:
    if len(source.target_type) != 1:
        return None
    kind = source.target_type[0]
    return [category if kind == 'full' else source.categories_map[category][kind] for category, _ in source.index]


def _as_class_indices(labels: Iterable, name: str, mapped: bool) -> np.ndarray:
    try:
        array = np.asarray(labels)
    except ValueError:  # rows of different lengths
        array = np.empty(0, dtype=object)
    if array.size == 0 and len(labels) == 0:
        return np.empty(0, dtype=np.int64)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        at, example = next(
            ((i, label) for i, label in enumerate(labels) if not isinstance(label, Integral)), (0, next(iter(labels))))
        hint = '' if not isinstance(example, str) else (
            '; number them with a class map, a file with one label a line (--class-map FILE.txt)' if mapped else
            '; let `targets` be class indices, and `classes` their names')
        raise UserError(f'{name} needs one class index per image, but image {at} has the label {example!r}{hint}')
    if array.min() < 0:
        at = int(array.argmin())
        raise UserError(f'{name} has images without a class: image {at} has the label {array[at]}')
    if array.max() >= MOST_CLASSES:
        raise too_large(name, array.max())
    return array.astype(np.int64)


def _stored_names(source) -> list[str] | None:
    for attribute in ('class_names', 'wnids', 'classes', 'all_categories'):
        names = getattr(source, attribute, None)
        if isinstance(names, Mapping) and names:  # either way round
            named = all(isinstance(index, Integral) for index in names.values())
            return names_by_index(names if named else {name: index for index, name in names.items()})
        if hasattr(names, '__len__') and len(names) and not (
                attribute == 'all_categories' and source.target_type != ['full']):
            return [str(name) for name in names]
    for attribute in ('class_to_idx', 'class_name_to_idx'):
        class_to_idx = getattr(source, attribute, None)
        if class_to_idx:
            return names_by_index(class_to_idx)
    return None


def names_by_index(class_to_idx: dict) -> list[str]:
    """A map may skip an index, or give one to several names: the index itself, or the first of the names, then."""
    names = {}
    for name, index in class_to_idx.items():
        names.setdefault(int(index), str(name))
    return [names.get(index, str(index)) for index in range(max(names) + 1)]


def _is_hfds(source) -> bool:
    """Whether this is timm's reader of Hugging Face datasets (told by its name, to import `datasets` only if used)."""
    return type(source).__name__ == 'ReaderHfds'


def _hfds_feature(reader):
    columns = reader.dataset.features
    if reader.label_key not in columns:
        images = [name for name, feature in columns.items() if type(feature).__name__ == 'Image']
        others = ', '.join(name for name in columns if name not in images)
        raise UserError(
            f"the data set has no label column '{reader.label_key}'; choose one of: {others} (--target-key)")
    return columns[reader.label_key]


def _hfds_labels(reader) -> list:
    _hfds_feature(reader)
    labels = reader.dataset.select_columns([reader.label_key])[:][reader.label_key]
    if not reader.remap_class:
        return labels
    source_names = getattr(reader, '_source_names', {})
    try:
        return [reader.class_to_idx[label if label in reader.class_to_idx else source_names[label]] for label in labels]
    except KeyError as e:
        hint = ' (that of a number has to be a .pkl map)' if isinstance(e.args[0], int) else ''
        raise UserError(f'the class map has no entry for the label {e.args[0]!r}{hint}') from e
