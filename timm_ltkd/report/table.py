"""Reports side by side, as a table for the terminal or for Markdown."""
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .text import markdown_escape, printable, width

COLUMNS = ('top1', 'top5', 'balanced', 'many', 'medium', 'few', 'worst', 'ece')


class Grid(NamedTuple):
    """A table's cells: the first column are names, the others figures."""
    header: Sequence[object]
    lines: Sequence[Sequence[object]]


def format_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows as aligned plain text, without a final newline.

    Args:
        rows: Reports of `timm_ltkd.metrics.long_tail_report` by row name. A figure no row has gets no column, one
            that a row lacks is shown as `-`.
    """
    return text_grid(figures_grid(rows))


def markdown_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows of `format_table` as a Markdown table; names are escaped to show literally."""
    return markdown_grid(figures_grid(rows))


def figures_grid(
        rows: Mapping[str, Mapping[str, Any]], deviations: Mapping[str, Mapping[str, float]] | None = None) -> Grid:
    """The cells of `format_table`; with ± where there is a standard deviation by row name and figure."""
    def cell(name: str, column: str) -> str:
        deviation = (deviations or {}).get(name, {}).get(column)
        return figure(rows[name].get(column)) + ('' if deviation is None else f' ± {deviation:.2f}')

    columns = [column for column in COLUMNS if any(row.get(column) is not None for row in rows.values())]
    return Grid(['', *columns], [[name, *(cell(name, column) for column in columns)] for name in rows])


def text_grid(grid: Grid) -> str:
    """Any cells as aligned plain text, the first column to the left and the others to the right, without a final
    newline."""
    cells = [[printable(cell) for cell in line] for line in (grid.header, *grid.lines)]
    widths = [max(map(width, column)) for column in zip(*cells, strict=True)]
    lines = [_align(line, widths) for line in cells]
    return '\n'.join([lines[0], '-' * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:]])


def markdown_grid(grid: Grid) -> str:
    """Any cells as a Markdown table, aligned as in `text_grid`, without a final newline."""
    rule = ['---', *['---:'] * (len(grid.header) - 1)]
    escaped = [[markdown_escape(cell) for cell in line] for line in (grid.header, *grid.lines)]
    return '\n'.join(f"| {' | '.join(line)} |" for line in [escaped[0], rule, *escaped[1:]])


def spread(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Two more rows: mean and sample standard deviation, over two reports at least, of each figure that all have."""
    columns = [column for column in COLUMNS if all(row.get(column) is not None for row in rows)]
    return {
        name: {column: of(row[column] for row in rows) for column in columns}
        for name, of in {'mean': statistics.mean, 'standard deviation': statistics.stdev}.items()}


def mean_per_class(reports: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """Mean accuracy of each class; None where one of the reports has no test image of it."""
    return [
        None if None in values else statistics.fmean(values)
        for values in zip(*(report['per_class'] for report in reports), strict=True)]


def mean_and_deviation(values: Sequence[float | None]) -> str:
    """Mean ± sample standard deviation with a decimal, of one value itself; `-` where one is None."""
    if None in values:
        return '-'
    mean = f'{statistics.mean(values):.1f}'
    return f'{mean} ± {statistics.stdev(values):.1f}' if len(values) > 1 else mean


def figure(value: float | None, sign: bool = False) -> str:
    """A percentage with two decimals, `-` for None."""
    return '-' if value is None else f'{value:+.2f}' if sign else f'{value:.2f}'


def _align(cells: list[str], widths: list[int]) -> str:
    name, *figures = [' ' * (most - width(text)) for text, most in zip(cells, widths, strict=True)]
    padded = [cells[0] + name] + [space + text for space, text in zip(figures, cells[1:], strict=True)]
    return '  '.join(padded).rstrip()
