"""report.md: what a run came to, for people."""
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..prior import ClassPrior
from .content import difference_grid, flatten, legend, mistakes_grid, told_best, unmeasured
from .profile import data_profile
from .table import markdown_grid, markdown_table
from .text import markdown_escape


def markdown_report(
        rows: Mapping[str, Mapping[str, Any]],
        prior: ClassPrior,
        class_names: Sequence[str],
        run: Mapping[str, Any],
        files: Mapping[str, str],
        holdout_rows: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """The page as Markdown text.

    Args:
        rows: Reports by row name; with two of them, teacher then student, their difference by group is shown.
        prior: Counts of the training set, and the boundaries of the shot groups.
        class_names: Names by class index, `[C]`.
        run: Facts of the run; nested ones are shown as `outer.inner`. Options and versions are left to report.json.
        files: What each file written beside the page holds, by file name.
        holdout_rows: As `rows`, on held-out training images.
    """
    sections = ['# Results', f'{markdown_table(rows)}\n\n{markdown_escape(legend(prior))}']
    *_, last = rows.values()
    if lacking := unmeasured(last, class_names):
        sections.append(markdown_escape(f'{lacking}.'))
    if run.get('best'):
        sections.append(markdown_escape(told_best(run['best'], run.get('args'))))
    if holdout_rows:
        sections += ['## On the holdout', markdown_table(holdout_rows)]
    if len(rows) == 2:
        sections += ['## Student minus teacher', markdown_grid(difference_grid(*rows.values(), prior))]
    if mistakes := mistakes_grid(last, prior, class_names):
        sections += ['## Most frequent mistakes', markdown_grid(mistakes)]
    sections += ['## Training data', bullets(data_profile(prior, class_names).splitlines())]
    told = {key: value for key, value in run.items() if key not in ('best', 'args', 'versions')}
    if told:
        sections += ['## Run', bullets(f'{key}: {value}' for key, value in flatten(told))]
    pictures = [name for name in files if name.endswith('.png')]
    sections += ['## Figures', *(f'![{markdown_escape(files[name])}]({name})' for name in pictures)] if pictures else []
    sections += ['## Files', bullets(f'{name}: {holds}' for name, holds in files.items() if name not in pictures)]
    return '\n\n'.join(sections) + '\n'


def bullets(lines: Iterable[str]) -> str:
    return '\n'.join(f'- {markdown_escape(line)}' for line in lines)
