"""Whether a trained network has seen the images that are now held out."""
import logging
from argparse import Namespace

from ..errors import UserError
from ..options import listed
from .networks.described import place_of, read_config_json, run_options
from .run_data import Data

_logger = logging.getLogger(__name__)
# options that say which training images are held out
_SELECTION = (
    'train_split', 'imbalance_factor', 'imbalance_type', 'imbalance_seed', 'max_per_class', 'holdout', 'holdout_type')


def seen_by(source: str, args: Namespace, data: Data) -> tuple[str, bool] | None:
    """Which run may have been trained on the images that are held out: this one, or the one whose weights it began with
    (if it was a second stage), and so on.

    Args:
        source: Its folder, or a file in it.
        args: What selects the images.
        data: All that are not held out.

    Returns:
        None if each of them was trained on these. Else the first that was not, and whether that is certain: it is a
        finished run of ours that says so, and not something that tells nobody.
    """
    looked_at = set()
    while source and source not in looked_at:
        looked_at.add(source)
        place = place_of(source)
        folder = place if place.is_dir() else place.parent
        try:
            counts = read_config_json(folder, source)['class_counts']
        except (UserError, KeyError):
            return source, False
        options = run_options(str(folder))
        if 'initial_checkpoint' not in options:  # no run, or an export, which names no files
            return source, False
        if counts != data.prior.counts.tolist() or any(
                options.get(key) != getattr(args, key) for key in _SELECTION):
            return source, True
        source = options['initial_checkpoint']
    return None


def check_holdout_is_unseen(source: str, args: Namespace, data: Data) -> None:
    """Whether a checkpoint was trained without the images that are to choose for it; a warning if it doesn't say, or
    learnt from a teacher of which this is not known.

    Raises:
        UserError: It is a run of ours that was trained on other images, perhaps on these.
    """
    seen = seen_by(source, args, data)
    if seen is not None:
        if seen[1]:
            raise UserError(
                f'{_told(source, seen)}, perhaps on the very images that would choose its τ; give one value, or train '
                'with this holdout')
        _logger.warning(f'{_told(source, seen)}: its τ is only fair if the holdout was no part of that')
    for teacher in listed(run_options(source).get('teacher_checkpoint')):
        warn_of_seen_holdout(teacher, args, data)


def warn_of_seen_holdout(source: str, args: Namespace, data: Data) -> None:
    """Say in the log that a checkpoint may have been trained on the images that are now held out."""
    seen = seen_by(source, args, data)
    if seen is not None:
        _logger.warning(
            f'{_told(source, seen)}: if the images that are held out here were among them, their figures flatter it '
            'and what learns from it')


def _told(source: str, seen: tuple[str, bool]) -> str:
    """What `seen_by` found, in words."""
    who = source if seen[0] == source else f'{source} began with {seen[0]}, which'
    return f'{who} was trained with another holdout or on other data' if seen[1] else (
        f'{who} does not say what it was trained on')
