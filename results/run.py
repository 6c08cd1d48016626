"""Run what the tables lack, and keep the small files of each run.

    python results/run.py --data-dir DATA [--tables T ...] [--rows R ...]

DATA is made by `prepare_data.py` (the table `digits` needs none); give it relative to the top of the project, from
where this is called, since the options of a run are kept. A run that was stopped is resumed; one whose report is in
`results/` is not run again, unless `--again` says so (and then from where `--output` has it, if it is there). Each run
is a call of `train.py` or `distill.py` as it is, in bf16, all seeds of a row at once; on a GPU with `--cuda-graph`.
Networks of a table with `posthoc` are then measured by `validate.py`.
"""
import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from rows import OUTPUT, POSTHOC, RESULTS, Row, read_tables, run_of

KEPT = ('args.yaml', 'summary.csv', 'report.json')
WEIGHTS = ('model.safetensors', 'config.json')


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog='run.py', description=__doc__.splitlines()[0])
    add = parser.add_argument
    add('--data-dir', metavar='DIR', default='', help='of prepare_data.py, relative')
    add('--tables', metavar='TABLE', nargs='+', help='(default: all)')
    add('--rows', metavar='ROW', nargs='+', help='of these tables (default: all)')
    add('--seeds', metavar='N', type=int, nargs='+', help='of these rows (default: all)')
    add('--again', action='store_true', help='run what is in results/ too, and put the new files in its place')
    add('--output', metavar='DIR', default=OUTPUT, help='where the runs themselves go (default: %(default)s)')
    add('--dry-run', action='store_true', help='print the commands')
    args = parser.parse_args(argv)
    if os.path.isabs(args.data_dir) or os.path.isabs(args.output):
        parser.error('--data-dir and --output are kept with the options of each run: give them relative')
    failed = []
    for row in _wanted(parser, args):
        done = () if args.again else row.seeds_done()
        seeds = [seed for seed in row.seeds if seed not in done and seed in (args.seeds or row.seeds)]
        if seeds and not _run(row, seeds, args) or row.posthoc and not _adjust(row, args):
            failed.append(f'{row.table}/{row.key}')
    if failed:
        sys.exit(f'run.py: failed: {" ".join(failed)}')


def _wanted(parser: argparse.ArgumentParser, args: argparse.Namespace) -> list[Row]:
    tables = read_tables()
    for option, given, known in (
            ('--tables', args.tables, {table.key for table in tables}),
            ('--rows', args.rows, {row.key for table in tables for row in table.rows})):
        if unknown := set(given or ()) - known:
            parser.error(f'{option} {min(unknown)}: there are {", ".join(sorted(known))}')
    wanted = [row for table in tables if table.key in (args.tables or [table.key])
              for row in table.rows if row.key in (args.rows or [row.key])]
    if lacking := [row.table for row in wanted if row.wants_data() and not args.data_dir]:
        parser.error(f'{lacking[0]} wants --data-dir DATA, made by results/prepare_data.py')
    return wanted


def _run(row: Row, seeds: list[int], args: argparse.Namespace) -> bool:
    """Whether it came to its end."""
    command = [
        sys.executable, *row.words(args.data_dir, partial(run_of, output=args.output)), '--seeds', *map(str, seeds),
        '--output', f'{args.output}/{row.table}', '--experiment', row.key, '--resume', 'auto',
        *(['--cuda-graph'] if torch.cuda.is_available() else [])]
    if not _call(command, 'bf16', args):
        return False
    for seed in seeds if not args.dry_run else ():
        row.folder(seed).mkdir(parents=True, exist_ok=True)
        (row.folder(seed) / POSTHOC).unlink(missing_ok=True)  # of the network before
        for name in KEPT + (WEIGHTS if row.weights and seed == row.seeds[0] else ()):
            shutil.copy(Path(args.output, row.table, f'{row.key}-seed{seed}', name), row.folder(seed) / name)
    return True


def _adjust(row: Row, args: argparse.Namespace) -> bool:
    """Measure the networks of a row that are there with the log prior taken off their logits; whether it went well."""
    well = True
    for seed in row.seeds_done():
        places = row.folder(seed), Path(args.output, row.table, f'{row.key}-seed{seed}')
        network = next((place for place in places if (place / WEIGHTS[0]).is_file()), None)
        if network and not (row.folder(seed) / POSTHOC).is_file():
            command = [
                sys.executable, 'validate.py', os.path.relpath(network), '--logit-adjust', '1',
                *row.data_words(args.data_dir), '--results-file', str(row.folder(seed) / POSTHOC)]
            well = _call(command, 'no', args) and well
    return well


def _call(command: list[str], precision: str, args: argparse.Namespace) -> bool:
    """Print a command and, unless it is a dry run, carry it out; whether it came to its end."""
    print('+', *command, flush=True)
    environment = os.environ | {'ACCELERATE_MIXED_PRECISION': precision}
    return args.dry_run or not subprocess.run(command, cwd=RESULTS.parent, env=environment).returncode


if __name__ == '__main__':
    main()
