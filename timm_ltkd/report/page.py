"""report.html: what a run came to, as one page with its figures in it."""
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..prior import ClassPrior
from . import html
from .content import (
    difference_grid,
    flatten,
    legend,
    loading_code,
    mistakes_grid,
    per_class_grid,
    repeating_command,
    told_best,
    unmeasured,
)
from .pictures import Picture
from .profile import data_profile, in_short
from .table import Grid, figures_grid
from .text import words

OPEN_UP_TO = 100  # a longer table of classes is shown on demand


def html_report(
        folder: Path,
        rows: Mapping[str, Mapping[str, Any]],
        prior: ClassPrior,
        class_names: Sequence[str],
        run: Mapping[str, Any],
        pictures: Mapping[str, Picture],
        files: Mapping[str, str],
        holdout_rows: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """The page as text.

    Args:
        folder: The run's, with the figures drawn in it.
        rows, prior, class_names, run, files, holdout_rows: As for `timm_ltkd.report.markdown.markdown_report`.
        pictures: Figures by file name; those that are not there are left out.
    """
    return html.page(_title(run, taught=len(rows) == 2), *filter(None, [
        html.note(in_short(prior)),
        _results(rows, prior, class_names, run, holdout_rows),
        figures_section(folder, pictures),
        per_class_section(per_class_grid(
            _columns(rows), prior, class_names, difference=('teacher', 'student') if len(rows) == 2 else None)),
        _mistakes(mistakes_grid([*rows.values()][-1], prior, class_names)),
        html.section('Training data', html.bullets(data_profile(prior, class_names).splitlines())),
        _use(folder, run),
        _run(run),
        html.section('Files beside this page', html.bullets([f'{name}: {holds}' for name, holds in files.items()])),
    ]))


def figures_section(folder: Path, pictures: Mapping[str, Picture]) -> html.Html | None:
    """The figures that are in the folder, if any."""
    drawn = [
        html.picture(folder / name, picture.holds, picture.reading, picture.told)
        for name, picture in pictures.items() if (folder / name).is_file()]
    return html.section('Figures', html.element('div', *drawn, class_='figures')) if drawn else None


def per_class_section(grid: Grid) -> html.Html:
    """A line for each class; of many classes folded away."""
    whole = html.table(grid, f'{len(grid.lines):,} classes, most training images first', sortable=True)
    if len(grid.lines) > OPEN_UP_TO:
        whole = html.folded(f'All {len(grid.lines):,} classes', whole)
    return html.section('Accuracy of each class', whole)


def facts_table(facts: Mapping[str, Any], caption: str) -> html.Html:
    """Facts and their values, side by side."""
    lines = [(name, words(value)) for name, value in flatten(facts)]
    return html.table(Grid(['name', 'value'], lines), caption, texts=2)


def _columns(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Short names for the columns of a wide table: the page says which network each is."""
    return dict(zip(('teacher', 'student')[-len(rows):], rows.values(), strict=True))


def _results(
        rows: Mapping[str, Mapping[str, Any]],
        prior: ClassPrior,
        class_names: Sequence[str],
        run: Mapping[str, Any],
        holdout_rows: Mapping[str, Mapping[str, Any]] | None,
) -> html.Html:
    parts = [html.table(figures_grid(rows), _measured_on(rows, 'images')), html.note(legend(prior))]
    *_, last = rows.values()
    if lacking := unmeasured(last, class_names):
        parts.append(html.note(f'{lacking}.'))
    if run.get('best'):
        parts.append(html.note(told_best(run['best'], run.get('args'))))
    if holdout_rows:
        parts.append(html.table(figures_grid(holdout_rows), _measured_on(holdout_rows, 'held-out training images')))
    if len(rows) == 2:
        parts.append(html.table(difference_grid(*rows.values(), prior), 'Student minus teacher'))
    return html.section('Results', *parts)


def _mistakes(grid: Grid | None) -> html.Html | None:
    if grid is None:
        return None
    table = html.table(grid, 'Which class is taken for which other one most often', texts=2, sortable=True)
    return html.section('Most frequent mistakes', table)


def _title(run: Mapping[str, Any], taught: bool) -> str:
    student = run.get('student', 'student')
    if not taught:
        return str(student)
    method = f" ({run['method']})" if 'method' in run else ''
    return f"{student}, taught by {run.get('teacher', 'its teacher')}{method}"


def _measured_on(rows: Mapping[str, Mapping[str, Any]], what: str) -> str:
    images = next(iter(rows.values())).get('num_samples')
    return f'Measured on {what}' if images is None else f'Measured on {images:,} {what}'


def _use(folder: Path, run: Mapping[str, Any]) -> html.Html | None:
    """How to load the network and repeat the run; as far as there is what that needs."""
    parts = []
    if (folder / 'config.json').is_file():
        parts += [html.element('p', 'Load the network:'), html.code(loading_code(str(folder)))]
    if (folder / 'args.yaml').is_file():
        parts += [html.element('p', 'Repeat the run:'), html.code(repeating_command(str(folder / 'args.yaml'), run))]
    return html.section('Use it again', *parts) if parts else None


def _run(run: Mapping[str, Any]) -> html.Html | None:
    facts = {key: value for key, value in run.items() if key not in ('best', 'args', 'versions')}
    parts = [facts_table(facts, 'The run')] if facts else []
    if run.get('versions'):
        parts.append(html.folded('Versions', facts_table(run['versions'], 'Versions')))
    if run.get('args'):
        parts.append(html.folded('Options', facts_table(run['args'], 'Options')))
    return html.section('Run', *parts) if parts else None
