"""Whether a teacher's head is of the data's label space, or which part of it is."""
import logging

from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import nn

from ...data import match_class_names, read_class_map
from ...errors import UserError
from ..run_data import Data
from .described import label_names

_logger = logging.getLogger(__name__)


def find_class_map(network: nn.Module, source: str, file: str | None, data: Data) -> list[int] | None:
    """The index in a network's head of each class of the data; None where they are the same, in the same order.

    Where the head's classes have names, in its config.json or because it is an ImageNet head, classes are matched by
    name. A head without names is taken to be of the data's label space if it has as many classes.

    Args:
        network: Trained, with the head that it has.
        source: Where it comes from.
        file: A class map of the user's, see `read_class_map`; without it names decide.
        data: What is to be told apart.

    Raises:
        UserError: A class map that doesn't fit, or none and another label space.
    """
    classes, head = list(data.splits.class_names), network.num_classes
    if file is not None:
        return read_class_map(file, classes, head)
    names = label_names(network)
    if names is not None and names == [str(i) for i in range(head)]:
        names = None  # numbers name nothing: those of another data set would match as well
    found = match_class_names(classes, names or _imagenet_names(network))
    if found is not None:
        if found == list(range(head)):
            return None
        _logger.info(f'{source}: its {head} classes hold the {len(classes)} of the data, found by name')
        return found
    if head != len(classes):
        raise UserError(
            f'the head of {source} has {head} classes and the data {len(classes)}; they must share one label space: '
            'say which of them the data\'s are with --teacher-class-map, or train a new head with --teacher-tune head')
    if names is not None and names != classes:
        at = next(i for i, (a, b) in enumerate(zip(names, classes, strict=True)) if a != b)
        raise UserError(
            f"class {at} is '{names[at]}' for {source} and '{classes[at]}' in the data; say which is which with "
            '--teacher-class-map, or train a new head with --teacher-tune head')
    return None


def _imagenet_names(network: nn.Module) -> list[str]:
    """WordNet's names of the classes of an ImageNet head, told by its size; empty for another."""
    subset = infer_imagenet_subset({'num_classes': network.num_classes})
    return ImageNetInfo(subset).label_names() if subset else []
