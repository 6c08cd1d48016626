"""Every method on lt/digits, beside one another: one teacher, the same student, one table; --help lists the options."""
import json
import os
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from timm_ltkd.cli.defaults import DIGITS
from timm_ltkd.cli.kinds import NATURAL, Parser
from timm_ltkd.cli.run import one_line_errors
from timm_ltkd.distill import list_losses, list_methods
from timm_ltkd.errors import UserError, nearest
from timm_ltkd.files import replace_file
from timm_ltkd.report.table import Grid, markdown_grid, mean_and_deviation

ROOT = Path(__file__).resolve().parents[1]
TEACHER, STUDENT = 'resnet32', 'resnet20'
COLUMNS = ('balanced', 'many', 'medium', 'few', 'worst')
METHODS = ('ce', 'balanced_softmax', *list_methods(), 'balanced_softmax+kd')


def create_parser() -> Parser:
    parser = Parser(
        prog='methods_digits.py',
        description='Train one teacher on lt/digits and a student by each method and seed, and print one table. What '
                    'is finished is not repeated, so the command can be stopped and given again.')
    add = parser.add_argument
    add('--methods', nargs='+', metavar='NAME', default=METHODS,
        help=f'a --loss, a --kd, or LOSS+KD (default: {" ".join(METHODS)})')
    add('--seeds', metavar='N', type=NATURAL, default=3, help='students by each method (default: %(default)s)')
    add('--epochs', metavar='N', type=NATURAL, default=DIGITS.epochs, help='(default: %(default)s, those of lt/digits)')
    add('--threads', metavar='N', type=NATURAL, help="CPU threads of a run (default: torch's choice)")
    add('--output', metavar='DIR', default='output/methods_digits',
        help='where the runs and table.md go (default: %(default)s)')
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is not finished, and write and print the table."""
    with one_line_errors('methods_digits.py'):
        args = create_parser().parse_args(argv)
        commands = {name: command(name, args.output) for name in args.methods}  # all names are checked before any runs
        teacher = run(args, 'teacher', ['train.py', '--model', TEACHER])
        reports = {
            name: [run(args, f'{name}-seed{seed}', [*words, '--seed', str(seed)]) for seed in range(args.seeds)]
            for name, words in commands.items()}
        text = page(args.epochs, teacher, reports)
        with replace_file(Path(args.output) / 'table.md') as aside:
            aside.write_text(text, encoding='utf-8')
        print(text, end='')


def command(name: str, output: str) -> list[str]:
    """Script and options that train a student by a method; all else stays at its default.

    Args:
        name: A hard-label loss, a distillation method, or both joined by a plus.
        output: Folder that the teacher's run is in.

    Raises:
        UserError: No such loss or method.
    """
    loss, plus, kd = name.partition('+')
    if not plus and name in list_methods():
        loss, kd = 'ce', name
    if loss not in list_losses() or (kd or plus) and kd not in list_methods():
        known = [*list_losses(), *list_methods()]
        raise UserError(f"--methods: '{name}' is no loss, method, or LOSS+METHOD{nearest(name, known)}")
    if not kd:
        return ['train.py', '--model', STUDENT, '--loss', loss]
    return ['distill.py', '--student', STUDENT, '--teacher', TEACHER, '--teacher-checkpoint', f'{output}/teacher',
            '--kd', kd, '--loss', loss]


def run(args: Namespace, experiment: str, words: Sequence[str]) -> dict[str, Any]:
    """Figures of a finished run in the folder `experiment`, which is made (or continued) if it is not finished.

    Raises:
        UserError: The run failed, or the one that is there had another number of epochs.
    """
    folder = Path(args.output) / experiment
    if not (folder / 'report.json').is_file():
        start = time.perf_counter()
        _start(args, folder, words)
        print(f'{experiment}: {time.perf_counter() - start:.0f} s', file=sys.stderr, flush=True)
    report = json.loads((folder / 'report.json').read_text(encoding='utf-8'))
    epochs = report['run']['args']['epochs']
    if epochs != args.epochs:
        raise UserError(f'{folder} was trained with --epochs {epochs}, not {args.epochs}; choose another --output')
    return report['student']


def _start(args: Namespace, folder: Path, words: Sequence[str]) -> None:
    script, *options = words
    options += ['--dataset', 'lt/digits', '--loader', 'timm', '--epochs', str(args.epochs), '--output',
                str(folder.parent), '--experiment', folder.name, '--resume', 'auto']
    threads = {'OMP_NUM_THREADS': str(args.threads)} if args.threads else {}
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.parent / f'{folder.name}.log'
    with open(log, 'w', encoding='utf-8') as file:
        ended = subprocess.run(
            [sys.executable, str(ROOT / script), *options], env=os.environ | threads, stdout=file,
            stderr=subprocess.STDOUT)
    if ended.returncode:
        last = (log.read_text(encoding='utf-8').splitlines() or ['it said nothing'])[-1]
        raise UserError(f'{folder.name} failed, see {log}: {last}')


def page(epochs: int, teacher: Mapping[str, Any], reports: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """What was run, and the table.

    Args:
        epochs: Of every run.
        teacher: The teacher's figures.
        reports: The students' figures by method, one a seed.
    """
    lines = [['teacher (ce)', *(mean_and_deviation([teacher[column]]) for column in COLUMNS)]]
    lines += [
        [name, *(mean_and_deviation([row[column] for row in rows]) for column in COLUMNS)]
        for name, rows in reports.items()]
    seeds = max(map(len, reports.values()))
    return (
        f'Students {STUDENT} of one teacher {TEACHER} on lt/digits; --epochs {epochs} --seeds {seeds}; mean ± sample '
        'standard deviation over the seeds, percent, after the last epoch.\n\n'
        f'{markdown_grid(Grid(["", *COLUMNS], lines))}\n')


if __name__ == '__main__':
    main()
