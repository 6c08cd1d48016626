"""What `rows.yaml` says: tables, their rows, and the command of each."""
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

RESULTS = Path(__file__).resolve().parent
OUTPUT = 'output/results'  # where the runs themselves go
POSTHOC = 'posthoc.json'  # beside the files of a run: what validate.py measured


class Row(NamedTuple):
    """A line of a table: one command, run for several seeds."""
    table: str
    key: str
    name: str
    script: str  # `train.py` or `distill.py`
    options: str  # of the recipe and the method, with what stands in braces as it is
    data: str  # options that name the data, likewise
    seeds: tuple[int, ...]
    weights: bool  # whether the network of the first seed is kept
    posthoc: bool  # whether it is also measured with the log prior taken off its logits
    note: str = ''  # a remark in the table

    def folder(self, seed: int) -> Path:
        """Where the files of a run are kept."""
        return RESULTS / self.table / self.key / f'seed{seed}'

    def seeds_done(self) -> list[int]:
        return [seed for seed in self.seeds if (self.folder(seed) / 'report.json').is_file()]

    def words(self, data_dir: str, run_of: Callable[[str, str], str]) -> list[str]:
        """The command as words, its script first.

        Args:
            data_dir: What {data} stands for.
            run_of: Gives what stands for another row, by its table and key (`run_of` of below).
        """
        def fill(match: re.Match) -> str:
            *table, key = match[1].split('/')
            return run_of(*(table or [self.table]), key)
        options = re.sub(r'\{(.+?)\}', fill, self.options.replace('{data}', data_dir)).split()
        return [self.script, *options, *self.data_words(data_dir)]

    def data_words(self, data_dir: str) -> list[str]:
        """The options that name the data."""
        return self.data.replace('{data}', data_dir).split()

    def wants_data(self) -> bool:
        return '{data}' in self.options + self.data


class Table(NamedTuple):
    """Rows that may be compared."""
    key: str
    title: str
    about: str
    headline: bool  # whether the project's README shows it
    of_adjusted: str  # what is to be said of its figures with the log prior taken off
    rows: tuple[Row, ...]


def read_tables() -> list[Table]:
    """All tables, in the order in which they are run."""
    content = yaml.safe_load((RESULTS / 'rows.yaml').read_text(encoding='utf-8'))['tables']
    return [
        Table(key, table['title'], table['about'], table.get('headline', False), table.get('posthoc', ''),
              tuple(_rows(key, table)))
        for key, table in content.items()]


def run_of(table: str, key: str, output: str = OUTPUT) -> str:
    """Where the network of a row's first seed lies: among these files if it is kept, else where it was trained."""
    row, = (row for each in read_tables() for row in each.rows if (row.table, row.key) == (table, key))
    seed = row.seeds[0]
    return f'results/{table}/{key}/seed{seed}' if row.weights else f'{output}/{table}/{key}-seed{seed}'


def _rows(key: str, table: dict) -> Iterator[Row]:
    for name, row in table['rows'].items():
        job = 'train' if 'train' in row else 'distill'
        yield Row(key, name, row['name'], f'{job}.py', f'{table[job]} {row[job]}'.strip(), table['data'],
                  tuple(table['seeds']), row.get('weights', False), 'posthoc' in table, row.get('note', ''))
