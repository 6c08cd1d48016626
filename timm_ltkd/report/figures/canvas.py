"""What all figures share: size, colours, how they are saved, and the axis of classes by training images."""
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...files import replace_file
from ...prior import ClassPrior
from ..profile import by_images, check_report, group_classes
from ..text import figure_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')  # Okabe and Ito: safe for colour-blind
GROUP_COLOURS = dict(zip(('many', 'medium', 'few'), COLOURS, strict=False))
MARKERS = ('o', 's', '^', 'D', 'v', 'P')
DASHES = ('-', '--', '-.', ':')
_LONGEST_NAME, _BESIDE_EACH_OTHER = 24, 60  # letters: of a class, and of all where they stand upright
SMOOTH_ABOVE = 20  # with more classes than this single accuracies are too noisy to join, a running mean is drawn


def new_figure(height: float) -> 'Figure':
    """A figure of its own, without pyplot's global state; `height` in inches.

    It is narrow, so that its letters can be read on a telephone.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here, as `import timm_ltkd` should not wait for it
    from matplotlib.figure import Figure
    picture = Figure(figsize=(6.4, height), dpi=150, layout='constrained')
    picture.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
    FigureCanvasAgg(picture)
    return picture


def save(picture: 'Figure', path: str | os.PathLike) -> None:
    with replace_file(path) as aside:
        picture.savefig(aside, format='png')


def style(index: int) -> dict[str, str]:
    """Colour, marker and line of the row with this index: 24 that differ."""
    turn, index = divmod(index, len(COLOURS))
    return {'color': COLOURS[index], 'marker': MARKERS[index], 'linestyle': DASHES[turn % len(DASHES)]}


def legend(picture: 'Figure', axes: 'Axes') -> None:
    """The names of what is drawn in these axes above all, in as many columns as find room; for more than one line of
    them the figure grows."""
    handles, labels = axes.get_legend_handles_labels()
    for columns in range(max(len(labels), 1), 0, -1):
        key = picture.legend(handles, labels, loc='outside upper center', ncols=columns, frameon=False)
        if columns == 1 or key.get_window_extent().width <= picture.bbox.width:
            break
        key.remove()
    picture.set_figheight(picture.get_figheight() + 0.21 * (-(-len(labels) // columns) - 1))


def accuracies(row: Mapping, prior: ClassPrior, name: str) -> np.ndarray:
    """Per-class accuracy in percent, float64 `[C]`, NaN for classes without a test image.

    Raises:
        UserError: A report of another number of classes than the prior.
    """
    check_report(prior, row, f"the report '{name}'")
    return np.array([np.nan if value is None else value for value in row['per_class']], dtype=np.float64)


def group_spans(prior: ClassPrior) -> dict[str, slice]:
    """Where the classes of each shot group are `by_images`: sorted so, they are neighbours."""
    groups = group_classes(prior)
    ends = np.cumsum([*map(len, groups.values())]).tolist()
    return {name: slice(end - len(groups[name]), end) for name, end in zip(groups, ends, strict=True)}


def class_edges(prior: ClassPrior) -> np.ndarray:
    """Where classes begin and end on their axis, `[C + 1]`: the first is around 1."""
    return np.arange(prior.num_classes + 1) + 0.5


def label_classes(axes: 'Axes', prior: ClassPrior, names: Sequence[str] | None = None) -> None:
    """Classes by rank to the right, a few by their names, others told in whole numbers."""
    edges = class_edges(prior)
    axes.set(xlabel='class, by training images (most first)', xlim=(edges[0], edges[-1]))
    shown = [] if names is None or len(names) > SMOOTH_ABOVE else [figure_text(names[i]) for i in by_images(prior)]
    if not shown or not _in_font(shown):
        whole_ticks(axes)
        return
    shown = [name if len(name) <= _LONGEST_NAME else f'{name[:_LONGEST_NAME - 1]}…' for name in shown]
    slant = {}
    if len(''.join(shown)) > _BESIDE_EACH_OTHER:
        slant = dict(rotation=40, ha='right', rotation_mode='anchor')
        axes.figure.set_figheight(axes.figure.get_figheight() + 0.05 * max(map(len, shown)))  # what they take of it
    axes.set_xticks(edges[:-1] + 0.5, shown, fontsize='small', **slant)


def _in_font(texts: Sequence[str]) -> bool:
    """Whether matplotlib's font has all their letters; in the place of others it draws boxes, and warns of each."""
    from matplotlib.font_manager import FontProperties, findfont, get_font
    font = get_font(findfont(FontProperties()))
    return all(font.get_char_index(ord(char)) for text in texts for char in text)


def label_images(axes: 'Axes', prior: ClassPrior) -> None:
    """The images of classes on a log axis upwards, told in whole numbers."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter
    axes.set(yscale='log', ylabel='training images',
             ylim=(0.6 * float(prior.counts.min()), 1.6 * float(prior.counts.max())))
    steps = (1, 2, 5) if prior.imbalance_factor < 50 else (1,)
    axes.yaxis.set_major_locator(FixedLocator([step * 10 ** power for power in range(10) for step in steps]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:,g}'))
    axes.yaxis.set_minor_formatter(NullFormatter())


def whole_ticks(axes: 'Axes') -> None:
    """Classes and epochs are counted: no tick at 2.5, also where there is but one."""
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)


def shade_groups(all_axes: Sequence['Axes'], prior: ClassPrior) -> None:
    """Shade every other shot group, and name all."""
    for index, (name, span) in enumerate(group_spans(prior).items()):
        first, last = span.start + 0.5, span.stop + 0.5
        for axes in all_axes:
            axes.axvspan(first, last, color='0.92' if index % 2 == 0 else '1', zorder=0, linewidth=0)
        all_axes[0].annotate(
            name, ((first + last) / 2, 1), xycoords=('data', 'axes fraction'), xytext=(0, -4),
            textcoords='offset points', ha='center', va='top', color='0.4')
