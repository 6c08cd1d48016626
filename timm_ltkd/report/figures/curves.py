"""The curves over the epochs."""
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import UserError
from ..text import figure_text
from .canvas import COLOURS, DASHES, MARKERS, SMOOTH_ABOVE, new_figure, save, whole_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
    picture = new_figure(0.5 + 1.9 * len(panels))
    all_axes = picture.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (label, curves) in zip(all_axes, panels.items(), strict=True):
        _draw_curves(axes, label, curves)
    all_axes[-1].set_xlabel('epoch')
    whole_ticks(all_axes[-1])
    save(picture, path)


def _curves(history: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> dict[str, tuple[list, list]]:
    """Epochs, counted from 1, and values of each key that has any."""
    points = {
        key: [(row.get('epoch', index) + 1, row[key]) for index, row in enumerate(history) if row.get(key) is not None]
        for key in keys
    }
    return {key: tuple(map(list, zip(*pairs, strict=True))) for key, pairs in points.items() if pairs}


def _draw_curves(axes: 'Axes', label: str, curves: Mapping[str, tuple[list, list]]) -> None:
    """Curves that coincide, as top-1 and balanced on a balanced test set, differ in their dashes too."""
    for index, (key, (epochs, values)) in enumerate(curves.items()):
        marker = MARKERS[index % len(MARKERS)] if len(epochs) <= SMOOTH_ABOVE else ''
        axes.plot(
            epochs, values, color=COLOURS[index % len(COLOURS)], linestyle=DASHES[index % len(DASHES)], marker=marker,
            markersize=4, label=figure_text(key))
    if list(curves) != ['lr']:
        axes.legend(frameon=False, fontsize='small')
    elif min(values) > 0:
        axes.set_yscale('log')
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
