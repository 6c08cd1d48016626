"""The reliability diagram: what a network's confidence is worth."""
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..text import figure_text
from .canvas import legend, new_figure, save, style


def plot_calibration(path: str | os.PathLike, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw accuracy over confidence in the bins of the calibration error, and below how many images each bin has.

    Args:
        path: The PNG file to replace.
        rows: Reports with `calibration` (of `timm_ltkd.metrics.calibration`) by the name to show.
    """
    picture = new_figure(5.2)
    upper, lower = picture.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot((0, 100), (0, 100), color='0.6', linewidth=1, zorder=0)
    for index, (name, row) in enumerate(rows.items()):
        bins, look = row['calibration'], style(index)
        points = [(c, a) for c, a in zip(bins['confidence'], bins['accuracy'], strict=True) if c is not None]
        ece = f" (ece {row['ece']:.2f})" if row.get('ece') is not None else ''
        upper.plot(*zip(*points, strict=True), **look, label=figure_text(name) + ece)
        lower.stairs(
            bins['images'], np.linspace(0, 100, len(bins['images']) + 1), baseline=None, color=look['color'],
            linestyle=look['linestyle'], linewidth=1.5)
    upper.set(ylabel='accuracy (%)', xlim=(0, 100), ylim=(-3, 103))
    upper.grid(alpha=0.3)
    legend(picture, upper)
    lower.set(xlabel='confidence (%)', ylabel='images')
    lower.set_yscale('symlog', linthresh=1)  # an empty bin is at 0
    lower.set_ylim(bottom=0)
    lower.minorticks_off()
    save(picture, path)
