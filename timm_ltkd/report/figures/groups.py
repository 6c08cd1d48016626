"""Figures by shot group: what is taken for what, and runs beside each other."""
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import UserError
from ..text import figure_text
from .canvas import COLOURS, GROUP_COLOURS, legend, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BARS = ('balanced', 'many', 'medium', 'few', 'worst')


def plot_group_confusion(path: str | os.PathLike, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw for each report which share of a shot group's test images is taken for classes of which group.

    Args:
        path: The PNG file to replace.
        rows: Reports with `group_confusion` (of `timm_ltkd.metrics.group_confusion`) by the name to show.
    """
    picture = new_figure(3.6)
    panels = picture.subplots(1, len(rows), squeeze=False)[0]
    for axes, (name, row) in zip(panels, rows.items(), strict=True):
        _draw_confusion(axes, row['group_confusion'])
        axes.set_title(figure_text(name), fontsize='medium', wrap=True)
    panels[0].set_ylabel('images of')
    save(picture, path)


def plot_groups(
        path: str | os.PathLike,
        rows: Mapping[str, Mapping[str, Any]],
        deviations: Mapping[str, Mapping[str, float]] | None = None,
) -> None:
    """Draw balanced accuracy, each shot group's and the worst class's as bars, a colour a report.

    Args:
        path: The PNG file to replace.
        rows: Reports by the name to show.
        deviations: Standard deviations by name and figure, as error bars; where there are any.

    Raises:
        UserError: No report to draw.
    """
    if not rows:
        raise UserError('there is no report to draw')
    figures = [key for key in _BARS if any(row.get(key) is not None for row in rows.values())]
    picture = new_figure(3.8)
    axes = picture.subplots()
    wide = 0.8 / len(rows)
    for index, (name, row) in enumerate(rows.items()):
        at = np.arange(len(figures)) + (index - (len(rows) - 1) / 2) * wide
        heights = [np.nan if row.get(key) is None else row[key] for key in figures]
        spread = (deviations or {}).get(name)
        axes.bar(
            at, heights, wide, color=COLOURS[index % len(COLOURS)], hatch=('', '//', '..', 'xx')[index // 6 % 4],
            edgecolor='white', linewidth=0.5, label=figure_text(name), capsize=2,
            yerr=spread and [spread.get(key, 0.) for key in figures])
    axes.set(xticks=range(len(figures)), xticklabels=figures, ylabel='%')
    axes.set_ylim(0, min(103., max(1., axes.get_ylim()[1])))
    axes.grid(axis='y', alpha=0.3)
    axes.set_axisbelow(True)
    legend(picture, axes)
    save(picture, path)


def _draw_confusion(axes: 'Axes', confusion: Mapping[str, Mapping[str, int]]) -> None:
    """The matrix in percent of its rows, and beside each row the images it is of."""
    true = [name for name in GROUP_COLOURS if name in confusion]  # a file read back has them in any order
    taken = [name for name in GROUP_COLOURS if name in confusion[true[0]]]
    images = np.array([[confusion[row][column] for column in taken] for row in true], dtype=np.float64)
    share = 100 * images / images.sum(1, keepdims=True)
    axes.imshow(share, cmap='Blues', vmin=0, vmax=100)
    for (i, j), value in np.ndenumerate(share):
        axes.text(j, i, f'{value:.1f} %', ha='center', va='center', color='white' if value > 55 else 'black')
    axes.set(
        xticks=range(len(taken)), xticklabels=taken, yticks=range(len(true)), xlabel='taken for a class of',
        yticklabels=[f'{name}\n{int(total):,}' for name, total in zip(true, images.sum(1), strict=True)])
