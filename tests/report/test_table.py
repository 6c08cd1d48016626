"""Tables: alignment, absent figures, and names that try to break them."""
import pytest

from timm_ltkd.prior import ClassPrior
from timm_ltkd.report import format_table, markdown_table
from timm_ltkd.report.content import legend
from timm_ltkd.report.table import COLUMNS
from timm_ltkd.report.text import figure_text, markdown_escape, printable, width

ROWS = {
    'teacher resnet32': {'top1': 38.1234, 'balanced': 38.1234, 'many': 65., 'few': 7.005, 'per_class': [1.]},
    'student resnet20': {'top1': 41.7, 'top5': 70., 'balanced': 41.7, 'many': 59.1, 'few': 100., 'gmean': 3.},
}


def test_plain_table():
    assert format_table(ROWS).splitlines() == [
        '                   top1   top5  balanced   many     few',
        '-------------------------------------------------------',
        'teacher resnet32  38.12      -     38.12  65.00    7.00',
        'student resnet20  41.70  70.00     41.70  59.10  100.00',
    ]


def test_markdown_table():
    assert markdown_table(ROWS).splitlines() == [
        '|  | top1 | top5 | balanced | many | few |',
        '| --- | ---: | ---: | ---: | ---: | ---: |',
        '| teacher resnet32 | 38.12 | - | 38.12 | 65.00 | 7.00 |',
        '| student resnet20 | 41.70 | 70.00 | 41.70 | 59.10 | 100.00 |',
    ]


def test_columns_are_in_one_order_whatever_the_rows():
    row = dict(ece=1., worst=2., few=3., medium=4., many=5., balanced=6., top5=7., top1=8.)
    assert format_table({'a': row}).split()[:8] == 'top1 top5 balanced many medium few worst ece'.split()


@pytest.mark.parametrize('name', ['a|b', 'a\\|b', 'x\ny', '<img src=x>', '`rm`', '|' * 5])
def test_a_name_cannot_break_a_markdown_table(name):
    lines = markdown_table({name: {'top1': 1.}}).splitlines()
    assert len(lines) == 3
    unescaped = lines[2].replace('\\\\', '').replace('\\|', '')
    assert unescaped.count('|') == 3
    assert '<' not in unescaped and '`' not in unescaped.replace('\\`', '')


def test_the_legend_tells_of_each_column():
    told = legend(ClassPrior([9, 3, 1]))
    assert all(column in told for column in COLUMNS if column not in ('top1', 'top5'))


def test_markdown_escape():
    assert markdown_escape('a|b <c> & `d`\ne') == r'a\|b &lt;c&gt; &amp; \`d\` e'
    assert markdown_escape('wrn_40_2') == 'wrn_40_2'
    assert markdown_escape('_x_ *y* [z](u)') == r'\_x\_ \*y\* \[z\](u)'


def test_plain_table_aligns_wide_names_and_drops_control_codes():
    lines = format_table({'猫': {'top1': 1.}, 'cats': {'top1': 2.}, 'e\u0301\x1b[2J': {'top1': 3.}}).splitlines()
    assert '\x1b' not in ''.join(lines)
    assert len({width(line) for line in lines[2:]}) == 1


def test_text_for_figures_and_terminals():
    assert figure_text('$x_1$\n') == r'\$x_1\$ '
    assert printable('a\udcffb\tc') == 'a b c'
