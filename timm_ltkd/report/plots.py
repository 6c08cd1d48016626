"""Figures of a run as PNG: images per class, accuracy against class frequency, and the curves over the epochs."""
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError
from ..files import replace_file
from ..prior import ClassPrior
from .profile import group_classes
from .text import figure_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')  # Okabe and Ito: safe for colour-blind
GROUP_COLOURS = dict(zip(('many', 'medium', 'few'), COLOURS, strict=False))
MARKERS = ('o', 's', '^', 'D', 'v', 'P')
DASHES = ('-', '--', '-.', ':')  # curves that coincide, as top-1 and balanced on a balanced test set, both show
SMOOTH_ABOVE = 20  # with more classes than this single accuracies are too noisy to join, a running mean is drawn


def plot_accuracy_by_frequency(
        path: str | os.PathLike,
        rows: Mapping[str, Mapping[str, Any]],
        prior: ClassPrior,
) -> None:
    """Draw each report's per-class accuracy over the classes sorted by training images, most first.

    Below it the training images on a log axis; the shot groups are told apart by shading.

    Args:
        path: The PNG file to replace.
        rows: Reports of `timm_ltkd.metrics.long_tail_report` by the name to show.
        prior: Counts of the training set, and the boundaries of the shot groups.

    Raises:
        UserError: A report of another number of classes than the prior.
    """
    for name, row in rows.items():
        if len(row['per_class']) != prior.num_classes:
            raise UserError(f"the report '{name}' has {len(row['per_class'])} classes, the training set "
                            f'{prior.num_classes}; they belong to different data')
    order = np.argsort(-prior.counts.numpy(), kind='stable')
    picture = _new_figure(5.5)
    upper, lower = picture.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _shade_groups((upper, lower), order, group_classes(prior))
    for index, (name, row) in enumerate(rows.items()):
        accuracy = np.array([np.nan if value is None else value for value in row['per_class']], dtype=np.float64)
        _draw_accuracy(upper, accuracy[order], figure_text(name), index)
    upper.set(ylabel='class accuracy (%)', ylim=(-3, 112), yticks=range(0, 101, 20))  # room for the groups' names
    upper.grid(axis='y', alpha=0.3)
    handles, labels = upper.get_legend_handles_labels()
    columns = 1 if len(''.join(labels)) > 90 else max(len(labels), 1)  # long model names go below each other
    picture.legend(handles, labels, loc='outside upper center', ncols=columns, frameon=False)

    lower.stairs(prior.counts.numpy()[order], _class_edges(prior), baseline=None, color='0.25', linewidth=1.5)
    for threshold in (prior.many, prior.few):
        if prior.counts.min() <= threshold <= prior.counts.max():
            lower.axhline(threshold, color='0.5', linestyle=':', linewidth=1)
    _label_classes(lower, prior)
    _save(picture, path)


def plot_class_profile(path: str | os.PathLike, prior: ClassPrior) -> None:
    """Draw the training images of every class on a log axis, most first, in the colour of its shot group.

    Args:
        path: The PNG file to replace.
        prior: Counts of the training set, and the boundaries of the shot groups.
    """
    order = np.argsort(-prior.counts.numpy(), kind='stable')
    counts, edges, floor = prior.counts.numpy()[order], _class_edges(prior), 0.7  # a class of one image shows too
    rank = np.argsort(order)
    picture = _new_figure(4.)
    axes = picture.subplots()
    for name, classes in group_classes(prior).items():
        first, last = rank[classes].min(), rank[classes].max() + 1
        images = int(counts[first:last].sum())
        axes.stairs(
            counts[first:last], edges[first:last + 1], baseline=floor, fill=True, color=GROUP_COLOURS[name],
            label=f'{name}: {len(classes):,} classes, {images:,} images')
    _label_classes(axes, prior)
    axes.set(ylim=(floor, 1.3 * counts[0]), title=(
        f'{prior.num_classes:,} classes, {prior.num_samples:,} training images, '
        f'imbalance factor {prior.imbalance_factor:.4g}'))
    picture.legend(
        loc='outside lower center', ncols=3, fontsize='small', columnspacing=1, handlelength=1, frameon=False)
    _save(picture, path)


def plot_curves(path: str | os.PathLike, history: Sequence[Mapping[str, Any]]) -> None:
    """Draw losses, accuracies (overall, balanced, few-shot) and learning rate over the epochs, as far as there are.

    Args:
        path: The PNG file to replace.
        history: Rows of the summary, one an epoch.

    Raises:
        UserError: The history has none of these.
    """
    losses = dict.fromkeys(key for row in history for key in row if key.endswith('loss'))
    panels = {
        'loss': _curves(history, losses),
        'accuracy (%)': _curves(history, ('eval_top1', 'eval_balanced', 'eval_few')),
        'learning rate': _curves(history, ('lr',)),
    }
    panels = {label: curves for label, curves in panels.items() if curves}
    if not panels:
        raise UserError('the history has no loss, accuracy or learning rate to draw; give the rows of a summary.csv')
    picture = _new_figure(0.6 + 2.3 * len(panels))
    all_axes = picture.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (label, curves) in zip(all_axes, panels.items(), strict=True):
        _draw_curves(axes, label, curves)
    all_axes[-1].set_xlabel('epoch')
    _whole_ticks(all_axes[-1])
    _save(picture, path)


def _new_figure(height: float) -> 'Figure':
    """A figure of its own, without pyplot's global state; `height` in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here, as `import timm_ltkd` should not wait for it
    from matplotlib.figure import Figure
    picture = Figure(figsize=(8, height), dpi=120, layout='constrained')
    FigureCanvasAgg(picture)
    return picture


def _save(picture: 'Figure', path: str | os.PathLike) -> None:
    with replace_file(path) as aside:
        picture.savefig(aside, format='png')


def _class_edges(prior: ClassPrior) -> np.ndarray:
    """Where classes begin and end on their axis, `[C + 1]`: the first is around 1."""
    return np.arange(prior.num_classes + 1) + 0.5


def _label_classes(axes: 'Axes', prior: ClassPrior) -> None:
    """Classes by rank to the right, their images on a log axis upwards; both are counted, and told in whole numbers."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter
    edges = _class_edges(prior)
    axes.set(yscale='log', ylabel='training images', xlabel='class, by training images (most first)',
             xlim=(edges[0], edges[-1]), ylim=(0.6 * float(prior.counts.min()), 1.6 * float(prior.counts.max())))
    steps = (1, 2, 5) if prior.imbalance_factor < 50 else (1,)
    axes.yaxis.set_major_locator(FixedLocator([step * 10 ** power for power in range(10) for step in steps]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:,g}'))
    axes.yaxis.set_minor_formatter(NullFormatter())
    _whole_ticks(axes)


def _whole_ticks(axes: 'Axes') -> None:
    """Classes and epochs are counted: no tick at 2.5, also where there is but one."""
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)


def _shade_groups(all_axes: Sequence['Axes'], order: np.ndarray, groups: Mapping[str, Sequence[int]]) -> None:
    """Shade every other group and name it; sorted by images, a group's classes are neighbours."""
    rank = np.argsort(order)
    for index, (name, classes) in enumerate(groups.items()):
        first, last = rank[classes].min() + 0.5, rank[classes].max() + 1.5
        for axes in all_axes:
            axes.axvspan(first, last, color='0.92' if index % 2 == 0 else '1', zorder=0, linewidth=0)
        all_axes[0].annotate(
            name, ((first + last) / 2, 1), xycoords=('data', 'axes fraction'), xytext=(0, -4),
            textcoords='offset points', ha='center', va='top', color='0.4')


def _draw_accuracy(axes: 'Axes', accuracy: np.ndarray, name: str, index: int) -> None:
    """One report's line; with many classes its running mean, and the classes themselves as faint marks."""
    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    ranks = np.flatnonzero(~np.isnan(accuracy))
    accuracy = accuracy[ranks]
    if len(ranks) <= SMOOTH_ABOVE:
        axes.plot(ranks + 1, accuracy, color=colour, marker=marker, label=name)
        return
    window = np.ones(2 * (len(ranks) // 20) + 1)
    mean = np.convolve(accuracy, window, 'same') / np.convolve(np.ones_like(accuracy), window, 'same')
    alpha = min(0.35, 60 / len(ranks))  # thousands of marks would hide the mean
    axes.plot(ranks + 1, accuracy, color=colour, marker=marker, linestyle='', markersize=3, alpha=alpha)
    axes.plot(ranks + 1, mean, color=colour, linewidth=2, label=f'{name} (mean of {len(window)} neighbours)')


def _curves(history: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> dict[str, tuple[list, list]]:
    """Epochs and values of each key that has any."""
    points = {
        key: [(row.get('epoch', index), row[key]) for index, row in enumerate(history) if row.get(key) is not None]
        for key in keys
    }
    return {key: tuple(map(list, zip(*pairs, strict=True))) for key, pairs in points.items() if pairs}


def _draw_curves(axes: 'Axes', label: str, curves: Mapping[str, tuple[list, list]]) -> None:
    for index, (key, (epochs, values)) in enumerate(curves.items()):
        marker = MARKERS[index % len(MARKERS)] if len(epochs) <= SMOOTH_ABOVE else ''
        axes.plot(
            epochs, values, color=COLOURS[index % len(COLOURS)], linestyle=DASHES[index % len(DASHES)], marker=marker,
            markersize=4, label=figure_text(key))
    if list(curves) != ['lr']:
        axes.legend(frameon=False)
    elif min(values) > 0:
        axes.set_yscale('log')
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
