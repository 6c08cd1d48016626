"""Thousands of wrong command lines, YAML files, lists and checkpoints: each must end in one line and exit code 2.

Each case runs in a child of this process that has everything imported, with a limit of memory and time, up to the point
where training (or measuring) would begin. A case that gets there has no mistake that anyone could see.
"""
import argparse
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

os.environ |= {'HF_HUB_OFFLINE': '1', 'ACCELERATE_USE_CPU': 'true', 'CUDA_VISIBLE_DEVICES': '', 'MPLBACKEND': 'Agg'}
from forked import ended, fork  # noqa: E402
from wrong_input import Case, make_case, make_world  # noqa: E402

from timm_ltkd.cli import run  # noqa: E402
from timm_ltkd.cli.kinds import NATURAL  # noqa: E402
from timm_ltkd.engine import fit, jobs, predict, validate  # noqa: E402, F401
from timm_ltkd.engine.seeds import together  # noqa: E402

REACHED = 77  # exit code of a child
MEMORY, SECONDS = 6 * 2 ** 30, 60  # more than the process has; for a case
LONGEST = 2000  # characters of a message


class Reached(BaseException):
    """Raised where training or measuring would begin."""


class Outcome(NamedTuple):
    """How a case ended: `verdict` is 'refused', 'valid', or what is wrong with it."""
    verdict: str
    code: int
    said: str


def run_case(case: Case, folder: Path) -> Outcome:
    """Run one case in a child, in a new folder."""
    folder.mkdir(parents=True)
    for name, content in case.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    def call() -> None:
        used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        os.chdir(folder)
        stop_before_training()
        try:
            getattr(run, case.door)(case.argv)
        except Reached:
            sys.exit(REACHED)
    log = folder / 'said'
    code = ended(fork(call, log), SECONDS)
    said = log.read_text(errors='backslashreplace')
    return Outcome(_verdict(case, code, said, folder), code, said)


def stop_before_training() -> None:
    """Let the scripts of this process end where the first epoch, or the first batch that is measured, would begin."""
    def reached(*args, **kwargs):
        raise Reached
    fit.Run.begin = together.Together.fit = reached
    validate.evaluate = validate.measure_fixes = predict.predict_images = reached


def _verdict(case: Case, code: int, said: str, folder: Path) -> str:
    if code == -signal.SIGALRM:
        return 'hangs'
    if code < 0:
        return f'dies of signal {-code}'
    if 'Traceback' in said:
        return 'traceback'
    if (folder / 'pwned').exists():
        return 'code was run'
    if code in (0, REACHED):
        return 'valid'
    if code != 2:
        return f'exit code {code}'
    lines = [line for line in said.splitlines() if f'{case.door}.py: error: ' in line]
    if len(lines) != 1 or said.splitlines()[-1] != lines[0]:
        return 'not one line'
    if any(not char.isprintable() for char in lines[0]):
        return 'control characters in the message'
    return 'refused' if len(lines[0]) <= LONGEST else 'a very long line'


def campaign(first: int, cases: int, *, show: bool = False) -> tuple[Counter, list[tuple[int, Case, Outcome]]]:
    """Run so many cases: how many ended how by kind, and those that ended wrong."""
    counts, wrong = Counter(), []
    with tempfile.TemporaryDirectory() as root:
        world = Path(root) / 'world'
        fork_world(world)
        for seed in range(first, first + cases):
            case, place = make_case(world, seed), Path(root) / 'case'
            outcome = run_case(case, place / 'own')
            shutil.rmtree(place)
            counts[case.kind, outcome.verdict] += 1
            if outcome.verdict not in ('refused', 'valid'):
                wrong.append((seed, case, outcome))
            if show or outcome.verdict not in ('refused', 'valid'):
                print(_described(seed, case, outcome, root), flush=True)
    return counts, wrong


def fork_world(folder: Path) -> None:
    """`make_world` in a child, so that this process has no threads and no Accelerate when it forks again."""
    folder.mkdir()
    log = folder.with_name('said')
    if ended(fork(lambda: make_world(folder), log)):
        raise RuntimeError(f'the files without mistakes could not be made: {log.read_text()}')


def _described(seed: int, case: Case, outcome: Outcome, root: str) -> str:
    line = ' '.join(repr(word) if len(word) < 200 else repr(word[:50]) + '…' for word in case.argv).replace(root, '')
    files = ''.join(f'\n  {name}: {content[:200]!r}' for name, content in case.files.items() if len(case.files) == 1)
    said = '\n'.join(outcome.said.strip().splitlines()[-8 if outcome.verdict == 'traceback' else -1:])[:1500]
    return f'{seed} {case.kind}: {outcome.verdict}\n  {case.door}.py {line}{files}\n  {said}'


def main() -> None:
    parser = argparse.ArgumentParser(prog='fuzz.py', description=__doc__.splitlines()[0])
    parser.add_argument('--cases', type=NATURAL, default=2000, metavar='N', help='(default: %(default)s)')
    parser.add_argument(
        '--seed', type=int, default=0, metavar='N', help='number of the first case (default: %(default)s)')
    parser.add_argument('--show', action='store_true', help='print every case, not only those that end wrong')
    args = parser.parse_args()
    start = time.perf_counter()
    counts, wrong = campaign(args.seed, args.cases, show=args.show)
    for (kind, verdict), number in sorted(counts.items()):
        print(f'{kind:<12}{verdict:<36}{number:>6}')
    print(f'{args.cases} cases, {len(wrong)} wrong, {(time.perf_counter() - start) / 60:.1f} minutes')
    sys.exit(1 if wrong else 0)


if __name__ == '__main__':
    main()
