"""Which figures a run's reports allow, what each shows, and how it is read."""
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ..prior import ClassPrior
from .figures import (
    plot_accuracy_by_frequency,
    plot_calibration,
    plot_class_profile,
    plot_curves,
    plot_group_confusion,
    plot_teacher_student,
)
from .profile import group_classes, in_short
from .table import figure

_TOLD = ('balanced', 'many', 'medium', 'few')
Rows = Mapping[str, Mapping[str, Any]]


class Picture(NamedTuple):
    """A figure that is yet to be drawn.

    Attributes:
        holds: What it shows, in a few words.
        reading: How it is read, in a sentence or two.
        told: What it says, for who cannot see it.
        draw: Replaces the PNG file at a path.
    """
    holds: str
    reading: str
    told: str
    draw: Callable[[Path], None]


def run_pictures(
        rows: Rows,
        prior: ClassPrior,
        class_names: Sequence[str],
        history: Sequence[Mapping[str, Any]],
        on_holdout: bool = False,
) -> dict[str, Picture]:
    """The figures of one run by file name, in the order to look at them.

    Args:
        rows: Reports by row name: of the student, or of teacher and student.
        prior: Counts of the training set, and the boundaries of the shot groups.
        class_names: Names by class index, `[C]`.
        history: Rows of the summary, one an epoch.
        on_holdout: The accuracies of `history` are of held-out training images.
    """
    pictures = {'accuracy_by_frequency.png': by_frequency(rows, prior, class_names)}
    if len(rows) == 2:
        pictures['teacher_student.png'] = _teacher_student(rows, prior)
    confused = {name: row for name, row in rows.items() if row.get('group_confusion')}
    if confused and len(group_classes(prior)) > 1:
        pictures['group_confusion.png'] = _group_confusion(confused)
    if calibrated := {name: row for name, row in rows.items() if row.get('calibration')}:
        pictures['calibration.png'] = _calibration(calibrated)
    if history:
        pictures['curves.png'] = _curves(history, on_holdout)
    pictures['class_profile.png'] = _class_profile(prior, class_names)
    return pictures


def plot_pictures(folder: Path, pictures: Mapping[str, Picture]) -> None:
    """Draw the figures into a folder."""
    for name, picture in pictures.items():
        picture.draw(folder / name)


def by_frequency(rows: Rows, prior: ClassPrior, class_names: Sequence[str] | None) -> Picture:
    """Accuracy of each class of any number of reports, classes by training images."""
    return Picture(
        'accuracy of each class against its training images',
        'Classes from left to right by their training images, whose number is below. A line that falls to the right '
        'is the bias of long-tailed training. Of more than 20 classes with test images the line is a running mean, and '
        'a faint mark is one class.',
        f'Accuracy by shot group. {told_groups(rows)}',
        partial(plot_accuracy_by_frequency, rows=rows, prior=prior, names=class_names))


def told_groups(rows: Rows) -> str:
    """The figures by shot group of each report, in a sentence each."""
    return ' '.join(
        f"{name}: {', '.join(f'{key} {figure(row[key])}' for key in _TOLD if row.get(key) is not None)}."
        for name, row in rows.items())


def _teacher_student(rows: Rows, prior: ClassPrior) -> Picture:
    (teacher, before), (student, after) = rows.items()
    pairs = list(zip(before['per_class'], after['per_class'], strict=True))
    told = []
    for group, classes in group_classes(prior).items():
        gains = [pairs[index][1] - pairs[index][0] for index in classes if None not in pairs[index]]
        told.append(f'{group}: {sum(gain > 0 for gain in gains)} classes better, '
                    f'{sum(gain == 0 for gain in gains)} alike, {sum(gain < 0 for gain in gains)} worse.')
    return Picture(
        'accuracy of each class by the student against that by the teacher',
        'A mark above the diagonal is a class that the student knows better than its teacher. Classes at the same '
        'place are one mark, the larger the more they are.',
        f"The student beside its teacher. {' '.join(told)}",
        partial(plot_teacher_student, teacher=before, student=after, prior=prior, names=(teacher, student)))


def _group_confusion(rows: Rows) -> Picture:
    def told(confusion: Mapping[str, Mapping[str, int]]) -> str:
        return ', '.join(
            f'of {true} {100 * images / max(1, sum(row.values())):.1f} % for {taken}'
            for true, row in confusion.items() for taken, images in row.items())
    return Picture(
        'which share of each shot group is taken for classes of which group',
        'Each row sums to 100 %. Off the diagonal to the left: images of rare classes that are taken for frequent '
        'ones. On the diagonal the class may still be the wrong one of its group.',
        ' '.join(f"{name}: {told(row['group_confusion'])}." for name, row in rows.items()),
        partial(plot_group_confusion, rows=rows))


def _calibration(rows: Rows) -> Picture:
    return Picture(
        'accuracy against confidence, and the images of each bin',
        'On the diagonal a network is right as often as it says it is; below it is too sure of itself. The 15 bins are '
        'those of the calibration error (ece), and the lower panel counts their images: a bin of a few says little.',
        'Expected calibration error. '
        + ' '.join(f"{name}: {figure(row.get('ece'))}." for name, row in rows.items()),
        partial(plot_calibration, rows=rows))


def _curves(history: Sequence[Mapping[str, Any]], on_holdout: bool) -> Picture:
    last = ', '.join(
        f'{key} {value:.4g}' for key, value in history[-1].items() if key != 'epoch' and isinstance(value, float))
    return Picture(
        'losses, accuracies and learning rate over the epochs',
        'Overall and balanced accuracy that part in the course of training show a bias to frequent classes.'
        + (' They are of the holdout.' if on_holdout else ''),
        f'{len(history)} epochs; at the end {last}.',
        partial(plot_curves, history=history))


def _class_profile(prior: ClassPrior, class_names: Sequence[str]) -> Picture:
    sizes = ', '.join(f'{len(classes):,} {name}-shot' for name, classes in group_classes(prior).items())
    return Picture(
        'training images of each class, most first',
        'The shape of the long tail, on a log axis, by shot group.',
        f'{in_short(prior)}; {sizes}.',
        partial(plot_class_profile, prior=prior, names=class_names))
