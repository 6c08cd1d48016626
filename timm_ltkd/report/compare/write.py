"""A comparison for the terminal, and as compare.md, compare.html and figures."""
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from ...errors import UserError
from ...files import write_text
from ..content import legend, per_class_grid
from ..figures import plot_difference, plot_groups
from ..html import bullets, note, page, section, table
from ..markdown import bullets as markdown_bullets
from ..page import figures_section, per_class_section
from ..pictures import Picture, by_frequency, plot_pictures, told_groups
from ..profile import in_short
from ..table import Grid, markdown_grid, text_grid
from ..text import markdown_escape, printable, words
from .comparison import Comparison

_PANELS = 5  # differences that one figure shows


def comparison_text(comparison: Comparison) -> str:
    """The table, which options differ, and notes; as plain text."""
    parts = [text_grid(comparison.figures())]
    if comparison.differences is not None:
        parts.append(text_grid(comparison.differences))
    if comparison.notes:
        parts.append('\n'.join(map(printable, comparison.notes)))
    return '\n\n'.join(parts)


def write_comparison(folder: str | os.PathLike, comparison: Comparison) -> list[Path]:
    """Write compare.md, compare.html and the figures, each file whole or not at all.

    Args:
        folder: Where to; made if it is not there.
        comparison: Of `compare_runs`.

    Returns:
        The paths written.

    Raises:
        UserError: The folder cannot be written.
    """
    folder = Path(folder)
    pictures = _pictures(comparison)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        plot_pictures(folder, pictures)
        write_text(folder / 'compare.md', _markdown(comparison, pictures))
        write_text(folder / 'compare.html', _html(folder, comparison, pictures))
    except OSError as e:
        raise UserError(f"--output '{folder}' cannot be written ({e.strerror}); choose another") from e
    return [folder / name for name in ('compare.md', 'compare.html', *pictures)]


def _pictures(comparison: Comparison) -> dict[str, Picture]:
    students = comparison.students()
    pictures = {
        'compare_groups.png': Picture(
            'accuracy by shot group',
            'A whisker is the standard deviation over the seeds. balanced is the mean over all classes, worst the '
            'lowest class.',
            told_groups(comparison.rows),
            partial(plot_groups, rows=comparison.rows, deviations=comparison.deviations)),
        'compare_accuracy_by_frequency.png': by_frequency(
            comparison.rows, comparison.prior, comparison.class_names),
    }
    if len(students) > 1:
        first, *others = students
        shown = {name: students[name] for name in (first, *others[:_PANELS])}
        left_out = f' The first {_PANELS} of {len(others)} are drawn.' if len(others) > _PANELS else ''
        pictures['compare_difference.png'] = Picture(
            f'what each class gains against {first}',
            'Above 0 the class is known better than by the first run. Of more than 100 classes the line is a running '
            f'mean.{left_out}',
            told_groups(shown),
            partial(plot_difference, rows=shown, prior=comparison.prior, names=comparison.class_names))
    return pictures


def _markdown(comparison: Comparison, pictures: Mapping[str, Picture]) -> str:
    sections = ['# Runs side by side', markdown_escape(in_short(comparison.prior)),
                markdown_grid(comparison.figures()), markdown_escape(legend(comparison.prior))]
    sections += [markdown_bullets(comparison.notes)] if comparison.notes else []
    if comparison.differences is not None:
        sections += ['## Options that differ', markdown_grid(comparison.differences)]
    sections += ['## Figures']
    sections += [
        f'![{markdown_escape(picture.holds)}]({name})\n\n{markdown_escape(_sentence(picture))}'
        for name, picture in pictures.items()]
    return '\n\n'.join([*sections, '## Runs', markdown_grid(_folders(comparison))]) + '\n'


def _html(folder: Path, comparison: Comparison, pictures: Mapping[str, Picture]) -> str:
    students = list(comparison.recipes)
    return page('Runs side by side', *filter(None, [
        note(in_short(comparison.prior)),
        section(
            'Results', table(comparison.figures(), 'Each row is a run, or the seeds of one recipe'),
            note(legend(comparison.prior)), bullets(comparison.notes)),
        comparison.differences and section(
            'Options that differ', table(comparison.differences, 'All other options that they have are the same')),
        figures_section(folder, pictures),
        per_class_section(per_class_grid(
            comparison.rows, comparison.prior, comparison.class_names,
            difference=tuple(students) if len(students) == 2 else None)),
        section('Runs', table(_folders(comparison), 'Folders', texts=2)),
    ]))


def _folders(comparison: Comparison) -> Grid:
    return Grid(['row', 'folders'], [
        [name, words([run.folder for run in recipe.runs])] for name, recipe in comparison.recipes.items()])


def _sentence(picture: Picture) -> str:
    return f'{picture.holds[0].upper()}{picture.holds[1:]}. {picture.reading}'
