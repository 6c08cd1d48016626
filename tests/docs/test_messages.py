"""docs/troubleshooting.md: each message that it explains is one that the code still prints."""
import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / 'docs' / 'troubleshooting.md').read_text(encoding='utf-8')
FOREIGN = {'CUDA out of memory'}
MESSAGES = [message for line in re.findall(r'^\*\*.*', PAGE, re.M) for message in re.findall(r'\*\*`(.+?)`\*\*', line)]


def template(node: ast.AST) -> str | None:
    """A string of the code as the page writes it: … for what is filled in."""
    if isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else '…' for part in node.values)
        return re.sub('…+', '…', ''.join(parts))
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


@pytest.fixture(scope='module')
def templates():
    trees = [ast.parse(path.read_text(encoding='utf-8')) for path in (ROOT / 'timm_ltkd').rglob('*.py')]
    return [text for tree in trees for node in ast.walk(tree) if (text := template(node))]


@pytest.mark.parametrize('message', MESSAGES)
def test_the_code_still_says_it(message, templates):
    if message not in FOREIGN:
        assert any(message in text for text in templates)


def test_the_page_is_about_enough():
    assert len(MESSAGES) >= 30 and FOREIGN <= set(MESSAGES)
    assert not re.search(r'^\*\*(?!`)', PAGE, re.M)
