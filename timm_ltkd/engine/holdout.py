"""Whether a trained network has seen the images that are now held out."""
import json
import logging
from argparse import Namespace
from pathlib import Path

from ..errors import UserError
from .networks.described import run_options
from .run_data import Data

_logger = logging.getLogger(__name__)
# options that say which training images are held out
_SELECTION = (
    'train_split', 'imbalance_factor', 'imbalance_type', 'imbalance_seed', 'max_per_class', 'holdout', 'holdout_type')


def holdout_is_unseen(source: str, args: Namespace, data: Data) -> bool | None:
    """Whether a run was trained on the same training images as these, without the held-out ones.

    And the run whose weights it began with, if it was a second stage, and so on.

    Args:
        source: Its folder, or a file in it.
        args: What selects the images.
        data: These.

    Returns:
        None where one of them is no finished run of ours, and nobody can tell.
    """
    looked_at = set()
    while source and source not in looked_at:
        looked_at.add(source)
        folder = Path(source) if Path(source).is_dir() else Path(source).parent
        try:
            counts = json.loads((folder / 'config.json').read_text(encoding='utf-8'))['class_counts']
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        options = run_options(str(folder))
        if 'initial_checkpoint' not in options:  # no run, or an export, which names no files
            return None
        if counts != [int(count) for count in data.prior.counts] or any(
                options.get(key) != getattr(args, key) for key in _SELECTION):
            return False
        source = options['initial_checkpoint']
    return True


def check_holdout_is_unseen(source: str, args: Namespace, data: Data) -> None:
    """Whether a checkpoint was trained without the images that are to choose for it; a warning if it doesn't say.

    Raises:
        UserError: It is a run of ours that was trained on other images, perhaps on these.
    """
    unseen = holdout_is_unseen(source, args, data)
    if unseen is None:
        _logger.warning(
            f'{source} does not say what it was trained on: its τ is only fair if the holdout was no part of that')
    elif not unseen:
        raise UserError(
            f'{source} was trained with another holdout or on other data, perhaps on the very images that would choose '
            'its τ; measure it alone, or give one value')


def warn_of_seen_holdout(source: str, args: Namespace, data: Data) -> None:
    """Say in the log that a checkpoint may have been trained on the images that are now held out."""
    if not holdout_is_unseen(source, args, data):
        _logger.warning(
            f'{source} was not trained with this holdout, as far as one can tell: its figures may flatter what has '
            'learnt from the same images')
