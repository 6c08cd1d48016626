"""Reports side by side, as a table for the terminal or for Markdown."""
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from .text import markdown_escape, printable, width

COLUMNS = ('top1', 'top5', 'balanced', 'many', 'medium', 'few', 'worst', 'ece')


def format_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows as aligned plain text, without a final newline.

    Args:
        rows: Reports of `timm_ltkd.metrics.long_tail_report` by row name. A figure no row has gets no column, one
            that a row lacks is shown as `-`.
    """
    columns = _columns(rows)
    cells = [['', *columns]] + [[printable(name), *_figures(row, columns)] for name, row in rows.items()]
    widths = [max(map(width, column)) for column in zip(*cells, strict=True)]
    lines = [_align(line, widths) for line in cells]
    return '\n'.join([lines[0], '-' * (sum(widths) + 2 * len(columns)), *lines[1:]])


def markdown_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows of `format_table` as a Markdown table; names are escaped to show literally."""
    columns = _columns(rows)
    return markdown_grid(['', *columns], [[name, *_figures(row, columns)] for name, row in rows.items()])


def markdown_grid(header: list[object], lines: list[list[object]]) -> str:
    """Any cells as a Markdown table, the first column to the left and the others to the right, without a final
    newline."""
    rule = ['---', *['---:'] * (len(header) - 1)]
    escaped = [[markdown_escape(cell) for cell in line] for line in [header, *lines]]
    return '\n'.join(f"| {' | '.join(line)} |" for line in [escaped[0], rule, *escaped[1:]])


def spread(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Two more rows: mean and sample standard deviation, over two reports at least, of each figure that all have."""
    columns = [column for column in COLUMNS if all(row.get(column) is not None for row in rows)]
    return {
        name: {column: of(row[column] for row in rows) for column in columns}
        for name, of in {'mean': statistics.mean, 'standard deviation': statistics.stdev}.items()}


def figure(value: float | None, sign: bool = False) -> str:
    """A percentage with two decimals, `-` for None."""
    return '-' if value is None else f'{value:+.2f}' if sign else f'{value:.2f}'


def _columns(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [column for column in COLUMNS if any(row.get(column) is not None for row in rows.values())]


def _figures(row: Mapping[str, Any], columns: list[str]) -> list[str]:
    return [figure(row.get(column)) for column in columns]


def _align(cells: list[str], widths: list[int]) -> str:
    """The name to the left, the figures to the right."""
    name, *figures = cells
    padded = [name + ' ' * (widths[0] - width(name))]
    padded += [text.rjust(most) for text, most in zip(figures, widths[1:], strict=True)]
    return '  '.join(padded).rstrip()
