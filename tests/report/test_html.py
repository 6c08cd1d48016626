"""report.html: well-formed, escaped, of one piece, and whole however odd the data."""
import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from timm_ltkd.report.html import Html, element, page, table
from timm_ltkd.report.table import Grid

HOSTILE = [
    '<script>alert(1)</script>', '"><img src=x onerror=alert(2)>', "' onload='x", '&amp; </td></table>', 'naïve 猫',
    'a\nb\x1b[2J\udcff', '\u202egnp.exe', '{{7*7}} ${1} %s', '', '=1+1']
EMPTY = {'meta', 'img'}


class Reader(HTMLParser):
    """Checks that elements are nested, and keeps what they are and say."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.attributes, self.cells = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag not in EMPTY:
            self.open.append(tag)
        if tag in ('td', 'th'):
            self.cells.append('')

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ('td', 'th'):
            self.cells[-1] += data


def test_children_are_escaped_unless_they_are_html():
    assert element('p', 'a<b', Html('<b>'), class_='"x"', aria_label='&') == (
        '<p class="&quot;x&quot;" aria-label="&amp;">a&lt;b<b></p>')


def test_a_table_has_heads_for_its_rows_and_columns():
    reader = Reader(table(Grid(['', 'x'], [['a', 1], ['b', 2]]), 'A <caption>'))
    assert reader.cells == ['', 'x', 'a', '1', 'b', '2']
    assert [value for _, name, value in reader.attributes if name == 'scope'] == ['col', 'col', 'row', 'row']


def test_the_policy_allows_the_pages_own_script_and_no_request():
    text = page('t')
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    script = re.search(r'<script>(.*?)</script>', text, re.S)[1]
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert 'unsafe-inline' not in policy.split('script-src')[1]


def test_hostile_names_are_text(write_run, tmp_path):
    folder = write_run(tmp_path / 'a" onclick="<b>', [200, 150, 120, 90, 60, 40, 20, 10, 5, 3], HOSTILE,
                       data_dir='<iframe src=//evil>', kd_kwargs={'<u>': ['<i>']})
    text = (folder / 'report.html').read_text(encoding='utf-8')
    reader = Reader(text)
    assert reader.elements.count('script') == 1 and not {'iframe', 'b', 'u', 'i'} & set(reader.elements)
    assert not [name for _, name, _ in reader.attributes if name.startswith('on')]
    for name in HOSTILE[:5]:
        assert name in reader.cells
    assert '<iframe src=//evil>' in reader.cells
    assert '\u202e' not in text and '\x1b' not in text


def test_nothing_is_fetched(write_run, tmp_path):
    folder = write_run(tmp_path, [200, 50, 5], ['http://a.example/x.png', 'b', 'c'], figures=True)
    reader = Reader((folder / 'report.html').read_text(encoding='utf-8'))
    assert not {'link', 'iframe', 'object', 'embed', 'base', 'a'} & set(reader.elements)
    assert all(tag == 'img' and value.startswith('data:image/png;base64,')
               for tag, name, value in reader.attributes if name in ('src', 'href', 'srcset', 'action', 'data'))


def test_the_figures_are_those_beside_the_page(write_run, tmp_path):
    folder = write_run(tmp_path, [200, 50, 5], figures=True)
    reader = Reader((folder / 'report.html').read_text(encoding='utf-8'))
    inside = {base64.b64decode(value.split(',')[1]) for _, name, value in reader.attributes if name == 'src'}
    assert inside == {path.read_bytes() for path in folder.glob('*.png')} and len(inside) == 5
    told = [value for _, name, value in reader.attributes if name == 'alt']
    assert len(told) == 5 and all(len(text) > 30 for text in told)


def test_how_to_use_it_is_said_where_it_can_be_used(write_run, tmp_path):
    folder = tmp_path / "it's here"
    folder.mkdir()
    (folder / 'config.json').touch()
    (folder / 'args.yaml').touch()
    text = (write_run(folder, [200, 50]) / 'report.html').read_text(encoding='utf-8')
    shown = re.sub('&#x27;', "'", re.sub('&quot;', '"', text))
    assert f'''timm.create_model("local-dir:{folder}", pretrained=True)''' in shown
    launch = 'accelerate launch --mixed_precision no --num_processes 1'
    assert f'''{launch} distill.py -c '{str(folder).replace("'", """'"'"'""")}/args.yaml\'''' in shown
    alone = write_run(tmp_path / 'alone', [200, 50], teacher=False) / 'report.html'
    assert 'create_model' not in alone.read_text() and 'taught by' not in alone.read_text()


@pytest.mark.parametrize('counts, teacher, figures', [
    ([5] * 3, True, 4), ([200], False, 3), ([30, 3], False, 4)])  # of one group no confusion
def test_odd_data(write_run, tmp_path, counts, teacher, figures):
    folder = write_run(tmp_path, counts, teacher=teacher, figures=True)
    reader = Reader((folder / 'report.html').read_text(encoding='utf-8'))
    assert reader.elements.count('img') == figures
    assert f'class {len(counts) - 1}' in reader.cells


def test_thousands_of_classes_are_folded_and_light(write_run, tmp_path):
    counts = [max(2, int(1000 * 0.9992 ** index)) for index in range(8142)]
    folder = write_run(tmp_path, counts)
    text = (folder / 'report.html').read_text(encoding='utf-8')
    reader = Reader(text)
    assert '<summary>All 8,142 classes</summary>' in text and reader.elements.count('tr') > 8142
    assert len(text) < 1.5e6
    assert len((folder / 'report.md').read_text()) < 5000
