"""README and docs as pages: links lead somewhere, the index is whole, and figures are those of the project."""
import re
from pathlib import Path

import pytest
import yaml

from timm_ltkd.cli import arguments
from timm_ltkd.cli.config import read_config

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
FENCE = re.compile(r'^ *```.*?^ *```', re.S | re.M)


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r'^#+ (.*)', FENCE.sub('', page.read_text(encoding='utf-8')), re.M)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = FENCE.sub('', page.read_text(encoding='utf-8'))
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        if re.match(r'https?://', target):
            continue
        path, _, anchor = target.partition('#')
        linked = page.parent / path if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_tables_have_as_many_cells_in_every_row(page):
    text = FENCE.sub('', page.read_text(encoding='utf-8'))
    for table in re.findall(r'(?:^ *\|.*\n)+', text, re.M):
        rows = [re.sub(r'`[^`]*`', '', row).replace(r'\|', '') for row in table.splitlines()]
        assert len({row.count('|') for row in rows}) == 1, table


def test_the_index_names_every_page():
    index = (ROOT / 'docs' / 'README.md').read_text(encoding='utf-8')
    for page in (ROOT / 'docs').glob('*.md'):
        assert page.name == 'README.md' or f'({page.name})' in index, page.name


def test_figures_that_help_to_choose_are_measured_ones():
    """Each with a decimal point stands in the table of all methods on digits, the ablation, or the results."""
    known = '\n'.join((ROOT / name).read_text(encoding='utf-8') for name in (
        'benchmarks/README.md', 'docs/krdistill.md', 'results/README.md'))
    figures = re.findall(r'\d+\.\d+(?: ± \d+\.\d+)?', (ROOT / 'docs' / 'choose.md').read_text(encoding='utf-8'))
    assert len(figures) > 20
    for figure in figures:
        assert re.search(rf'(?<![\d.]){re.escape(figure)}(?![\d.])', known), figure


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_yaml_is_of_options_that_exist(page, tmp_path):
    for block in re.findall(r'```ya?ml\n(.*?)```', page.read_text(encoding='utf-8'), re.S):
        yaml.safe_load(block)
        (tmp_path / 'x.yaml').write_text(block)
        read_config(arguments.distill_parser(), str(tmp_path / 'x.yaml'))


def test_notes_on_shot_groups_are_those_of_the_published_counts():
    """docs/pitfalls.md, on the boundaries and on the noise of figures."""
    from timm_ltkd import ClassPrior
    from timm_ltkd.data import long_tail_counts

    def sizes(classes, largest, factor):
        groups = ClassPrior(long_tail_counts(classes, largest, factor, 'exp')).shot_groups()
        return [int(groups[name].sum()) for name in ('many', 'medium', 'few')]
    assert sizes(100, 500, 100) == [35, 35, 30]
    assert sizes(100, 500, 10)[2] == 0 and sizes(10, 5000, 100) == [8, 2, 0]
    page = (ROOT / 'docs' / 'pitfalls.md').read_text(encoding='utf-8')
    for share, images, error in ((0.8, 150, '3.3'), (0.1, 3000, '0.55'), (0.8, 30, '7.3')):
        assert f'{100 * (share * (1 - share) / images) ** 0.5:.2g}' == error and error in page
