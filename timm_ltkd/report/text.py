"""Text made safe to show: class and model names come from users' folders and can hold anything."""
import html
import re
import unicodedata
from collections.abc import Mapping

_MARKDOWN = re.compile(r'[\\`|*\[\]~]|(?<![^\W_])_|_(?![^\W_])')  # an underscore inside a word is left readable
_HTML = str.maketrans({'&': '&amp;', '<': '&lt;', '>': '&gt;'})


def printable(text: object) -> str:
    """The text on one line, with a space for each character that does not print (control codes, lone surrogates)."""
    text = str(text)
    return text if text.isprintable() else ''.join(char if char.isprintable() else ' ' for char in text)


def markdown_escape(text: object) -> str:
    """The text on one line, so that Markdown (also inside a table) shows it literally."""
    return _MARKDOWN.sub(r'\\\g<0>', printable(text)).translate(_HTML)


def html_escape(text: object) -> str:
    """The text on one line, so that HTML shows it literally, in an attribute's quotes too."""
    return html.escape(printable(text))


def figure_text(text: object) -> str:
    """The text on one line, so that matplotlib reads no mathematics into it and keeps it in a legend."""
    text = printable(text).replace('$', r'\$')
    return f' {text}' if text.startswith('_') else text  # a label that starts with an underscore means: no label


def words(value: object) -> str:
    """An option's value as it is given on a command line."""
    if isinstance(value, Mapping):
        return ' '.join(f'{key}={item}' for key, item in value.items())
    return ' '.join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def flag(key: str) -> str:
    """An option's name as it is given on a command line."""
    return f'--{key.replace("_", "-")}'


def width(text: str) -> int:
    """Columns the text takes in a terminal: two for a wide (East Asian) character, none for a combining one."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in 'WF' else 1 for char in text)
