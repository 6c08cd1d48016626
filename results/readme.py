"""Make README.md and the plots from the files of the runs: `python results/readme.py`.

Every figure comes from a `report.json`, `summary.csv` or `posthoc.json` below this folder.
"""
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rows import OUTPUT, POSTHOC, RESULTS, Row, Table, read_tables, run_of

from timm_ltkd import ClassPrior
from timm_ltkd.files import replace_file
from timm_ltkd.report import plot_accuracy_by_frequency, plot_teacher_student
from timm_ltkd.report.summary import read_summary
from timm_ltkd.report.table import Grid, markdown_grid, mean_and_deviation, mean_per_class

PUBLISHED_EPOCHS = 200
PLOTTED = ('teacher', 'ce', 'kd', 'bkd', 'krdistill', 'balanced_softmax_kd')
FACING = ('kd', 'bkd', 'krdistill')  # rows whose classes are drawn against the teacher's
HEAD = """# Results

Made by `readme.py` from the files in this folder: each run has its `args.yaml`, `summary.csv` and `report.json`
(options, figures of every epoch, software, hardware, commit), some a `posthoc.json` as well (figures of the exported
network, and with adjusted logits). Test accuracies in percent, mean ± standard deviation over seeds; one over two seeds
says little, and the 10,000 test images of CIFAR-100 alone leave a standard error of half a point. *Last* is the network
after the last epoch, which is the figure to compare; *best epoch* is the highest test accuracy of any evaluated epoch,
which public code often reports and which is chosen on the test set. Many: more than 100 training images, few: fewer
than 20; these, medium and the calibration error (ECE) are of the last epoch.

To repeat a row, write the data once (`python results/prepare_data.py CIFAR DATA --download`), and give its command, or
`python results/run.py --data-dir DATA --tables TABLE --rows ROW --again`, which puts the new files in place of the old.
Without `--again` it runs all that is missing. `python results/readme.py` makes this page.
"""
NONE = 'No row is finished yet: the full-length runs want a GPU, or hours of a CPU each.\n'


class Run(NamedTuple):
    """The kept files of one seed."""
    report: dict[str, Any]
    history: list[dict[str, Any]]
    exported: dict[str, Any]  # the report of the network as others load it
    adjusted: dict[str, Any] | None  # the same with the log prior taken off the logits

    @property
    def best(self) -> float:
        return max(row['eval_top1'] for row in self.history if row.get('eval_top1') is not None)


FIGURES: dict[str, Callable[[Run], float | None]] = {
    'last': lambda run: run.report['student']['top1'],
    'best epoch': lambda run: run.best,
    **{name: lambda run, name=name: run.report['student'].get(name) for name in ('many', 'medium', 'few')},
    'ECE': lambda run: run.exported.get('ece'),
}
ADJUSTED = {'last': 'top1', 'many': 'many', 'medium': 'medium', 'few': 'few', 'ECE': 'ece'}
OF_ADJUSTED = (
    'The same networks with the log prior taken off their logits: `validate.py output/RUN --logit-adjust 1`, '
    'nothing trained, nothing chosen.')


def main() -> None:
    for path, text in (RESULTS / 'README.md', page()), (RESULTS.parent / 'README.md', project_readme()):
        with replace_file(path) as aside:
            aside.write_text(text, encoding='utf-8')
    for table in read_tables():
        if runs := runs_of(table):
            plot(table, runs)


def page() -> str:
    """The text of README.md."""
    sections = [_section(table) for table in read_tables() if runs_of(table)]
    return '\n'.join([HEAD, *(sections or [NONE])])


def runs_of(table: Table) -> dict[Row, list[Run]]:
    """The runs of each row that has any."""
    runs = {row: [_read(row.folder(seed)) for seed in row.seeds_done()] for row in table.rows}
    return {row: each for row, each in runs.items() if each}


def _read(folder: Path) -> Run:
    measured = folder / POSTHOC
    reports = json.loads(measured.read_text(encoding='utf-8')).values() if measured.is_file() else ()
    by_fix = {each.get('fix'): each for each in reports}
    report = json.loads((folder / 'report.json').read_text(encoding='utf-8'))
    return Run(
        report, read_summary(folder / 'summary.csv'), by_fix.get(None, report['student']), by_fix.get('logit-adjust'))


def grids(table: Table, runs: dict[Row, list[Run]]) -> str:
    """The figures themselves, and those of adjusted logits where there are any."""
    adjusted = {row: [run.adjusted for run in each if run.adjusted] for row, each in runs.items()}
    lines = [
        [row.name, *(mean_and_deviation([report.get(key) for report in each]) for key in ADJUSTED.values()), len(each)]
        for row, each in adjusted.items() if each and len(each) == len(runs[row])]
    about = f'{OF_ADJUSTED} {table.of_adjusted}'.strip()
    more = f'\n\n{about}\n\n{markdown_grid(Grid(["", *ADJUSTED, "seeds"], lines))}' if lines else ''
    return _grid(runs) + more


def _grid(runs: dict[Row, list[Run]]) -> str:
    return markdown_grid(Grid(['', *FIGURES, 'seeds', 'remarks'], [
        [row.name, *(mean_and_deviation([of(run) for run in each]) for of in FIGURES.values()), len(each),
         _remarks(row, each)]
        for row, each in runs.items()]))


def headline(runs: dict[Row, list[Run]]) -> str:
    """The figures to compare, plain and adjusted."""
    plain = {key: FIGURES[key] for key in ('last', 'many', 'medium', 'few', 'best epoch')}
    adjusted = {f'{key}, adjusted': ADJUSTED[key] for key in ('last', 'few')}
    return markdown_grid(Grid(['', *plain, *adjusted, 'seeds'], [
        [row.name, *(mean_and_deviation([of(run) for run in each]) for of in plain.values()),
         *(mean_and_deviation([(run.adjusted or {}).get(key) for run in each]) for key in adjusted.values()),
         f'{len(each)} of {len(row.seeds)}']
        for row, each in runs.items()]))


def _remarks(row: Row, runs: list[Run]) -> str:
    """What a reader must know of a row: that it is shorter than published, or lacks seeds."""
    epochs = {len(run.history) for run in runs}
    shortened = [f'{min(epochs)} epochs'] if min(epochs) < PUBLISHED_EPOCHS else []
    left = sorted({*row.seeds} - {*row.seeds_done()})
    lacks = [f'seed{"s" if len(left) > 1 else ""} {", ".join(map(str, left))} missing']
    return '; '.join(shortened + (lacks if len(runs) < len(row.seeds) else []) + ([row.note] if row.note else []))


def _section(table: Table) -> str:
    runs = runs_of(table)
    missing = [row.name for row in table.rows if row not in runs]
    return '\n'.join([
        f'## {table.title}', '', table.about, '', grids(table, runs), '', *_teacher(runs),
        *([f'Not run yet: {", ".join(missing)}.', ''] if missing else []),
        f'![accuracy against training images of a class]({table.key}.png)', '',
        *(f'<img src="{table.key}-{row.key}.png" width="32%" alt="classes of {row.name} against its teacher">'
          for row in _facing(runs)), '',
        '<details><summary>Commands, and what they ran on</summary>', '', '```',
        *(f'{command(row)}' for row in runs), '```', '', *_weights(runs), *_origins(runs), '', '</details>', ''])


def _weights(runs: dict[Row, list[Run]]) -> list[str]:
    """Which networks are kept here."""
    kept = [row for row in runs if row.weights and row.folder(row.seeds[0]).joinpath('model.safetensors').is_file()]
    load = "`timm.create_model('local-dir:results/{}/{}/seed{}', pretrained=True)` after `import timm_ltkd`"
    return [f'Networks of these are here: {", ".join(row.name for row in kept)}; '
            f'{load.format(kept[0].table, kept[0].key, kept[0].seeds[0])} loads one.', ''] if kept else []


def _teacher(runs: dict[Row, list[Run]]) -> list[str]:
    """The figures of the teacher, which the reports of its students tell."""
    reports = [run.report['teacher'] for each in runs.values() for run in each if run.report.get('teacher')]
    figures = ', '.join(f'{key} {reports[0][key]:.1f}' for key in ('many', 'medium', 'few')) if reports else ''
    return [f'The teacher: {reports[0]["top1"]:.1f} ({figures}).', ''] if reports else []


def command(row: Row) -> str:
    """What repeats a row."""
    words = row.words('DATA', run_of)
    launch = 'accelerate launch --num_processes 1 --mixed_precision bf16'
    place = ['--output', f'{OUTPUT}/{row.table}', '--experiment', row.key]
    return ' '.join([launch, *words, '--seeds', *map(str, row.seeds), *place])


def _origins(runs: dict[Row, list[Run]]) -> list[str]:
    """Hardware, software and commits of the runs, each combination once."""
    found: dict[str, list[str]] = {}
    for row, each in runs.items():
        for run in each:
            facts = run.report['run']
            versions = ', '.join(f'{name} {number}' for name, number in facts['versions'].items())
            commits = ', then '.join(facts.get('git_commits', [facts['git_commit']]))
            text = f'{facts["hardware"]}, {facts["precision"]}, {versions}, commit {commits}'
            found.setdefault(text, []).append(f'{row.key} {run.report["run"]["args"]["seed"]}')
    return [f'- {text}: {", ".join(names)}' for text, names in found.items()]


def plot(table: Table, runs: dict[Row, list[Run]]) -> None:
    """Means over seeds: the rows that matter most against training images, and students against their teacher."""
    data = next(iter(runs.values()))[0].report['data']
    prior = ClassPrior(data['class_counts'])
    means = {row: {'per_class': mean_per_class([run.report['student'] for run in each])} for row, each in runs.items()}
    if shown := {row.name: mean for key in PLOTTED for row, mean in means.items() if row.key == key}:
        plot_accuracy_by_frequency(RESULTS / f'{table.key}.png', shown, prior, data.get('class_names'))
    for row in _facing(runs):
        teacher = runs[row][0].report['teacher']
        plot_teacher_student(
            RESULTS / f'{table.key}-{row.key}.png', teacher, means[row], prior, ('teacher', row.name))


def _facing(runs: dict[Row, list[Run]]) -> list[Row]:
    return [row for row in runs if row.key in FACING]


def project_readme() -> str:
    """The project's README with the headline tables between its marks."""
    begin, end = '<!-- results -->\n', '<!-- end of results -->'
    text = (RESULTS.parent / 'README.md').read_text(encoding='utf-8')
    before, rest = text.split(begin)
    after = rest.split(end)[1]
    shown = '\n'.join(f'{table.title}:\n\n{headline(runs_of(table))}\n' for table in read_tables()
                      if table.headline and runs_of(table)) or NONE
    return f'{before}{begin}{shown}{end}{after}'


if __name__ == '__main__':
    main()
