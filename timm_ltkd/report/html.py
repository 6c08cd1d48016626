"""HTML pages in one file that ask nothing of any other: escaped text, tables, embedded figures, style and script."""
import base64
import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from .table import Grid
from .text import html_escape


class Html(str):
    """Text that is HTML already; all other text is escaped."""


def element(tag: str, *children: object, **attributes: object) -> Html:
    """An element with its content; a trailing underscore of an attribute is dropped (`class_`), others are
    hyphens."""
    names = ''.join(
        f' {name.rstrip("_").replace("_", "-")}="{html_escape(value)}"' for name, value in attributes.items())
    return Html(f'<{tag}{names}>{join(children)}</{tag}>')


def join(children: Iterable[object], between: str = '') -> Html:
    """Elements and text, which is escaped, one after the other."""
    return Html(between.join(child if isinstance(child, Html) else html_escape(child) for child in children))


def note(text: str) -> Html:
    return element('p', text, class_='note')


def section(heading: str, *children: object) -> Html:
    return element('section', element('h2', heading), *children)


def table(grid: Grid, caption: str, *, texts: int = 1, sortable: bool = False) -> Html:
    """A table in a frame of its own that scrolls, on narrow screens, instead of the page.

    Args:
        grid: The cells.
        caption: What the table is of.
        texts: How many columns at the left are text; the others are figures, aligned right.
        sortable: Whether its script, where scripts run, sorts it by the column whose head is clicked.
    """
    def cells(line: Iterable[object]) -> Html:
        name, *rest = line
        return element('tr', element('th', name, scope='row'), *(element('td', cell) for cell in rest))

    head = element('tr', *(element('th', cell, scope='col') for cell in grid.header))
    look = f'texts{texts} sortable' if sortable else f'texts{texts}'
    inside = element(
        'table', element('caption', caption), element('thead', head),
        element('tbody', join(map(cells, grid.lines), '\n')), class_=look)
    return element('div', inside, class_='scroll', tabindex=0, role='region', aria_label=caption)


def picture(path: Path, title: str, reading: str, told: str) -> Html:
    """A PNG file, embedded.

    Args:
        path: The file.
        title: What it shows.
        reading: How it is read.
        told: What it says, for who cannot see it.
    """
    data = base64.b64encode(path.read_bytes()).decode()
    image = Html(f'<img alt="{html_escape(told)}" src="data:image/png;base64,{data}">')
    return element('figure', image, element('figcaption', element('strong', title), ' ', reading))


def bullets(lines: Sequence[object]) -> Html:
    return element('ul', *(element('li', line) for line in lines)) if lines else Html()


def code(text: str) -> Html:
    """Text as it is typed, its line breaks kept."""
    return element('pre', element('code', join(text.split('\n'), '\n')), tabindex=0)


def folded(summary: str, *children: object) -> Html:
    """What is shown on demand, without a script."""
    return element('details', element('summary', summary), *children)


def page(title: str, *body: object) -> str:
    """A whole page. Its policy forbids the browser any request, and any script but ours."""
    style, script = _resource('page.css'), _resource('page.js')
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; " \
             "base-uri 'none'; form-action 'none'"
    return '\n'.join([
        '<!DOCTYPE html>',
        '<html lang="en">',
        '<head>',
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        element('title', title),
        f'<style>\n{style}</style>',
        '</head>',
        '<body>',
        element('main', element('h1', title), Html('\n'), join(body, '\n')),
        f'<script>{script}</script>',
        '</body>',
        '</html>\n',
    ])


@cache
def _resource(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding='utf-8')
