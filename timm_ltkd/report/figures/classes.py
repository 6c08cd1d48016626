"""Figures with a mark for each class: its images, its accuracy, and how two networks differ on it."""
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...prior import ClassPrior
from ..profile import by_images, in_short
from ..text import figure_text
from .canvas import (
    GROUP_COLOURS,
    SMOOTH_ABOVE,
    accuracies,
    class_edges,
    group_spans,
    label_classes,
    label_images,
    legend,
    new_figure,
    save,
    shade_groups,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_class_profile(path: str | os.PathLike, prior: ClassPrior, names: Sequence[str] | None = None) -> None:
    """Draw the training images of every class on a log axis, most first, in the colour of its shot group.

    Args:
        path: The PNG file to replace.
        prior: Counts of the training set, and the boundaries of the shot groups.
        names: Of the classes, for the axis where they are no more than 20.
    """
    order = by_images(prior)
    counts, edges, floor = prior.counts.numpy()[order], class_edges(prior), 0.7  # a class of one image shows too
    picture = new_figure(3.4)
    axes = picture.subplots()
    for name, span in group_spans(prior).items():
        axes.stairs(
            counts[span], edges[span.start:span.stop + 1], baseline=floor, fill=True, color=GROUP_COLOURS[name],
            label=f'{name}: {len(counts[span]):,} classes, {int(counts[span].sum()):,} images')
    label_classes(axes, prior, names)
    label_images(axes, prior)
    axes.set_ylim(floor, 1.3 * counts[0])
    axes.set_title(in_short(prior), fontsize='medium')
    axes.legend(loc='upper right', handlelength=1)
    save(picture, path)


def plot_accuracy_by_frequency(
        path: str | os.PathLike,
        rows: Mapping[str, Mapping[str, Any]],
        prior: ClassPrior,
        names: Sequence[str] | None = None,
) -> None:
    """Draw each report's per-class accuracy over the classes sorted by training images, most first.

    Below it the training images on a log axis; the shot groups are told apart by shading.

    Args:
        path: The PNG file to replace.
        rows: Reports of `timm_ltkd.metrics.long_tail_report` by the name to show.
        prior: Counts of the training set, and the boundaries of the shot groups.
        names: Of the classes, for the axis where they are no more than 20.

    Raises:
        UserError: A report of another number of classes than the prior.
    """
    lines = {name: accuracies(row, prior, name) for name, row in rows.items()}
    order = by_images(prior)
    picture = new_figure(4.6)
    upper, lower = picture.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    shade_groups((upper, lower), prior)
    widths = [_draw_line(upper, accuracy[order], figure_text(name), index)
              for index, (name, accuracy) in enumerate(lines.items())]
    smooth = f', mean of {max(widths)}' if max(widths, default=1) > 1 else ''
    upper.set(  # with room for the groups' names
        ylabel=f'class accuracy (%){smooth}', ylim=(-3, 112), yticks=range(0, 101, 20))
    upper.grid(axis='y', alpha=0.3)
    legend(picture, upper)

    lower.stairs(prior.counts.numpy()[order], class_edges(prior), baseline=None, color='0.25', linewidth=1.5)
    for threshold in (prior.many, prior.few):
        if prior.counts.min() <= threshold <= prior.counts.max():
            lower.axhline(threshold, color='0.5', linestyle=':', linewidth=1)
    label_classes(lower, prior, names)
    label_images(lower, prior)
    save(picture, path)


def plot_teacher_student(
        path: str | os.PathLike,
        teacher: Mapping[str, Any],
        student: Mapping[str, Any],
        prior: ClassPrior,
        names: tuple[str, str] = ('teacher', 'student'),
) -> None:
    """Draw a student's accuracy on each class over its teacher's, in the colour of the shot group.

    Classes at the same place are one mark, the larger the more they are, in rings by group; the legend counts the
    classes above, on and below the diagonal.

    Args:
        path: The PNG file to replace.
        teacher: Report of `timm_ltkd.metrics.long_tail_report`.
        student: The same of the student.
        prior: Counts of the training set, and the boundaries of the shot groups.
        names: What the axes call the two.

    Raises:
        UserError: A report of another number of classes than the prior.
    """
    before, after = accuracies(teacher, prior, names[0]), accuracies(student, prior, names[1])
    picture = new_figure(6.2)
    axes = picture.subplots()
    axes.plot((0, 100), (0, 100), color='0.6', linewidth=1, zorder=0)
    shown = ~np.isnan(before + after)
    groups = {name: np.flatnonzero(mask.numpy() & shown) for name, mask in prior.shot_groups().items() if mask.any()}
    places, areas = _rings(before, after, list(groups.values()))
    for (name, classes), area in zip(groups.items(), areas, strict=True):
        gain = after[classes] - before[classes]
        axes.scatter(
            *places[area > 0].T, s=area[area > 0], color=GROUP_COLOURS[name], linewidths=0.4, edgecolors='white',
            label=f'{name}: {(gain > 0).sum():,} above, {(gain == 0).sum():,} on, {(gain < 0).sum():,} below')
    axes.set(
        xlabel=f'class accuracy of {figure_text(names[0]).strip()} (%)', xlim=(-6, 106), ylim=(-6, 106),
        ylabel=f'class accuracy of {figure_text(names[1]).strip()} (%)', aspect='equal')
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    key = picture.legend(*axes.get_legend_handles_labels(), loc='outside lower center', ncols=1, frameon=False)
    for handle in key.legend_handles:
        handle.set_sizes([40.])
    save(picture, path)


def plot_difference(
        path: str | os.PathLike,
        rows: Mapping[str, Mapping[str, Any]],
        prior: ClassPrior,
        names: Sequence[str] | None = None,
) -> None:
    """Draw how much each other report's per-class accuracy is above the first's, classes by training images.

    Args:
        path: The PNG file to replace.
        rows: Two reports at least, by the name to show.
        prior: Counts of the training set, and the boundaries of the shot groups.
        names: Of the classes, for the axis where they are no more than 20.

    Raises:
        UserError: A report of another number of classes than the prior.
    """
    (first, base), *others = [(name, accuracies(row, prior, name)) for name, row in rows.items()]
    order = by_images(prior)
    picture = new_figure(1.2 + 2.1 * len(others))
    all_axes = picture.subplots(len(others), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, (name, accuracy) in zip(all_axes, others, strict=True):
        shade_groups([axes], prior)
        _draw_gain(axes, (accuracy - base)[order], prior)
        axes.set_title(figure_text(name), fontsize='medium', loc='left', wrap=True)
        axes.set_ylabel('points')
    picture.suptitle(f'class accuracy minus that of {figure_text(first)}', fontsize='medium', wrap=True)
    low, high = all_axes[0].get_ylim()
    all_axes[0].set_ylim(low, high + 0.14 * (high - low))  # room for the groups' names
    label_classes(all_axes[-1], prior, names)
    save(picture, path)


def _draw_line(axes: 'Axes', accuracy: np.ndarray, name: str, index: int) -> int:
    """One report's line; with many classes its running mean, and the classes themselves as faint marks. Of how many
    classes it is the mean."""
    look = style(index)
    ranks = np.flatnonzero(~np.isnan(accuracy))
    accuracy = accuracy[ranks]
    if len(ranks) <= SMOOTH_ABOVE:
        axes.plot(ranks + 1, accuracy, **look, label=name)
        return 1
    mean, width = _running_mean(accuracy)
    alpha = min(0.35, 60 / len(ranks))  # thousands of marks would hide the mean
    axes.plot(ranks + 1, accuracy, **(look | {'linestyle': ''}), markersize=3, alpha=alpha)
    axes.plot(ranks + 1, mean, **(look | {'marker': ''}), linewidth=2, label=name)
    return width


def _draw_gain(axes: 'Axes', gain: np.ndarray, prior: ClassPrior) -> None:
    """A bar for each class in its group's colour, and over many of them their running mean."""
    axes.axhline(0, color='0.25', linewidth=1)
    many = prior.num_classes > 5 * SMOOTH_ABOVE
    for name, span in group_spans(prior).items():
        axes.stairs(
            np.nan_to_num(gain[span]), class_edges(prior)[span.start:span.stop + 1], fill=True,
            color=GROUP_COLOURS[name], alpha=0.4 if many else 1.)
    ranks = np.flatnonzero(~np.isnan(gain))
    if many and len(ranks):
        mean, width = _running_mean(gain[ranks])
        axes.plot(ranks + 1, mean, color='black', linewidth=1.5, label=f'mean of {width} neighbours')
        axes.legend(frameon=False, loc='lower left', fontsize='small')
    axes.grid(axis='y', alpha=0.3)


def _running_mean(values: np.ndarray) -> tuple[np.ndarray, int]:
    """The mean of each value and its neighbours, and of how many."""
    window = np.ones(2 * (len(values) // 20) + 1)
    return np.convolve(values, window, 'same') / np.convolve(np.ones_like(values), window, 'same'), len(window)


def _rings(x: np.ndarray, y: np.ndarray, groups: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The places `[P, 2]` that have any class, and for each group the area `[P]` of its mark there, in points².

    A mark has the area of the classes of its group and of those drawn after it, which leave a ring of it to be seen; it
    is 0 where the group has no class.
    """
    shown = np.concatenate(groups)
    places, at = np.unique(np.stack([x, y], axis=1)[shown].round(6), axis=0, return_inverse=True)
    group = np.repeat(np.arange(len(groups)), [len(classes) for classes in groups])
    counts = np.zeros((len(groups), len(places)))
    np.add.at(counts, (group, at.reshape(-1)), 1)
    sums = counts[::-1].cumsum(0)[::-1]
    each = min(60., 12000 / max(1, len(shown)), 900 / sums.max(initial=1))  # together an eighth of the axes at most
    return places, [np.where(own > 0, np.maximum(each * all_, 8.), 0.) for own, all_ in zip(counts, sums, strict=True)]
