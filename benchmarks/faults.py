"""A campaign of SIGKILLs: after each, what is on disk is whole, and a resume ends as a run that was never disturbed.

    python benchmarks/faults.py [--kills N] [--seed N]

A small run of distill.py (a teacher of three epochs, a student of three, a teacher bank, exports and report) is killed
while it trains, writes a checkpoint, fills the bank, writes its report, or does anything else: half of the times at a
random moment, half at a random step of writing (before a file is opened, renamed, removed, …, or in the middle of a
write to the bank). Then all files must be whole or not there, and the same command with --resume auto must end with the
same weights, figures, checkpoints and bank, to the last bit, and leave no other file.

The processes are forked from one that has imported everything, and their figures are blank: a run takes seconds.
"""
import argparse
import contextlib
import csv
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.backends.backend_agg  # noqa: F401 (as all that a run needs, before a process forks)
import matplotlib.figure
import numpy as np
import torch
import yaml
from forked import ended, fork
from PIL import Image
from safetensors import safe_open

from timm_ltkd.cli import run
from timm_ltkd.distill.bank import rows
from timm_ltkd.engine import fit, jobs  # noqa: F401
from timm_ltkd.engine.epoch.loop import EpochLoop
from timm_ltkd.files import is_aside
from timm_ltkd.report import write  # noqa: F401
from timm_ltkd.report.table import Grid, markdown_grid

PHASES = ('training', 'checkpoint', 'bank', 'report', 'anything')
_EVENTS = ('open', 'os.rename', 'os.remove', 'os.mkdir', 'os.rmdir', 'os.chmod', 'os.truncate')
_TINY = {'patch_size': 4, 'embed_dim': 16, 'depth': 1, 'num_heads': 2}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser('faults.py', description=__doc__.splitlines()[0])
    parser.add_argument('--kills', metavar='N', type=int, default=200, help='how many (%(default)s)')
    parser.add_argument('--seed', metavar='N', type=int, default=0, help='of the moments (%(default)s)')
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix='ltkd-faults-') as folder:
        campaign = Campaign(Path(folder))
        results = campaign.run(args.kills, random.Random(args.seed))
    print(f'\n{args.kills} kills in {(time.perf_counter() - begun) / 60:.1f} minutes\n')
    lines = []
    for phase in PHASES:
        of_it = [result for result in results if result['phase'] == phase]
        sums = [sum(bool(result[key]) for result in of_it) for key in ('at_a_write', 'torn', 'differs')]
        lines.append([phase, len(of_it), *sums])
    header = ['while it', 'kills', 'of these at a step of writing', 'files not whole', 'not the same after a resume']
    print(markdown_grid(Grid(header, lines)))
    if any(result['torn'] or result['differs'] for result in results):
        sys.exit(1)


class Campaign:
    """Kills runs and looks at what they leave.

    Args:
        folder: For images, and the output of the runs.
    """

    def __init__(self, folder: Path):
        self.folder, self.images = folder, folder / 'images'
        write_images(self.images)
        (folder / 'teacher.yaml').write_text(yaml.safe_dump({'model_kwargs': _TINY}))
        self.whole = folder / 'whole'
        self.times, self.steps = self._measure()
        self.expected = contents(self.whole)

    def command(self, output: Path) -> list[str]:
        """The words after distill.py."""
        return [
            '--dataset', '', '--data-dir', str(self.images), '--img-size', '8', '--workers', '0', '--epochs', '3',
            '-b', '4', '--lr', '0.05', '--warmup-epochs', '0', '--train-crop-mode', 'pad', '--crop-padding', '1',
            '--color-jitter', '0', '--loader', 'resident', '--student', 'vit_tiny_patch16_224', '--model-kwargs',
            *(f'{key}={value}' for key, value in _TINY.items()), '--drop', '0.2',
            '--model-ema', '--model-ema-decay', '0.9', '--teacher', 'vit_tiny_patch16_224',
            '--teacher-config', str(self.folder / 'teacher.yaml'), '--teacher-bank', str(output / 'bank'),
            '--output', str(output), '--experiment', 'run', '--resume', 'auto']

    def run(self, kills: int, rng: random.Random) -> list[dict]:
        """Kill so many runs; what became of each."""
        results = []
        while len(results) < kills:
            phase = PHASES[len(results) % len(PHASES)]
            at_a_write = bool(self.steps[phase] and len(results) // len(PHASES) % 2)  # training alone writes nothing
            result = self.kill_one(phase, at_a_write, rng)
            if result is not None:
                results.append(result)
                said = ', '.join(filter(None, [result['torn'], result['differs']])) or 'good'
                print(f'{len(results)}: {phase}, {result["when"]}: {said}', flush=True)
        return results

    def kill_one(self, phase: str, at_a_write: bool, rng: random.Random) -> dict | None:
        """Kill a run, look, resume it, and look again; None where it had ended before it could be killed."""
        output = self.folder / 'killed'
        shutil.rmtree(output, ignore_errors=True)
        if at_a_write:
            step = rng.randrange(self.steps[phase])
            when = f'at step {step + 1} of {self.steps[phase]}'
            status = self._start(output, phase, step=step)
        else:
            begin, seconds = rng.choice(self.times[phase])
            delay = rng.uniform(0, seconds)
            when = f'{delay:.3f} s into time {begin + 1}'
            status = self._start(output, phase, time_number=begin, delay=delay)
        if status != -signal.SIGKILL:
            if status:
                raise RuntimeError(f'the run ended with {status} by itself: {self._last_words()}')
            return None
        torn = ', '.join(not_whole(output))
        status = self._start(output)
        differs = difference(self.expected, contents(output))
        if status:
            differs = f'the resume ended with {status}: {self._last_words()}'
        return {'phase': phase, 'at_a_write': at_a_write, 'when': when, 'torn': torn, 'differs': differs}

    def _measure(self) -> tuple[dict[str, list[tuple[int, float]]], dict[str, int]]:
        """An undisturbed run: when each phase began and how long it took, and the steps of writing in each."""
        read, told = os.pipe()
        begun = time.perf_counter()
        child = fork(lambda: self._distill(self.whole, Watch(told)), self.folder / 'log')
        os.close(told)
        with open(read) as lines:
            events = [line.split() for line in lines]
        if status := ended(child):
            raise RuntimeError(f'the undisturbed run ended with {status}: {self._last_words()}')
        times = {phase: [] for phase in PHASES}
        steps = Counter()
        for kind, phase, seconds in events:
            if kind == 'time':
                times[phase].append((len(times[phase]), float(seconds)))
            else:
                steps.update({phase, 'anything'})
        times['anything'] = [(0, time.perf_counter() - begun)]
        return times, steps

    def _last_words(self) -> str:
        return (self.folder / 'log').read_text().strip().rpartition('\n')[2]

    def _start(
            self,
            output: Path,
            phase: str = '',
            *,
            step: int | None = None,
            time_number: int | None = None,
            delay: float | None = None,
    ) -> int:
        """Run to the end, or until it is killed; as for `Watch`, or so many seconds after the phase has begun."""
        read, told = os.pipe()
        child = fork(lambda: self._distill(output, Watch(told, phase, step, time_number)), self.folder / 'log')
        os.close(told)
        with open(read) as lines:
            if delay is not None and (phase == 'anything' or any(line.startswith('now') for line in lines)):
                time.sleep(delay)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            return ended(child)

    def _distill(self, output: Path, watch: 'Watch') -> None:
        watch.install(output)
        run.distill(self.command(output))


class Watch:
    """In a run: tells its parent of phases and of steps of writing, and dies at one of these.

    Args:
        told: Where to tell.
        phase: In which it is to die.
        step: At which step of writing in it.
        time_number: Or: to tell when it begins for this time.
    """

    def __init__(self, told: int, phase: str = '', step: int | None = None, time_number: int | None = None):
        self.told, self.phase, self.step, self.time_number = told, phase, step, time_number
        self.inside: list[str] = []
        self.steps, self.times = 0, Counter()

    def install(self, output: Path) -> None:
        """Put it around what a run does, for the rest of this process."""
        for phase, place, name in (
                ('training', EpochLoop, 'run'), ('checkpoint', fit, 'save_checkpoint'),
                ('report', fit, 'finish'), ('bank', rows.RowFile, 'write'), ('bank', rows.RowFile, 'make')):
            function = getattr(place, name)
            wrapped = self._around(phase, function)
            setattr(place, name, staticmethod(wrapped) if name == 'make' else wrapped)
        matplotlib.figure.Figure.savefig = lambda figure, path, **_: Image.new('L', (8, 8)).save(path, 'PNG')
        write_at = rows.write_at

        def torn_write(handle, values, offset):
            if self._dies_here():
                write_at(handle, values[:len(values) // 2], offset)
                self._die()
            return write_at(handle, values, offset)
        rows.write_at = torn_write
        sys.addaudithook(lambda event, args: self._note(event, args, str(output)))

    def _around(self, phase: str, function: Callable) -> Callable:
        def call(*args, **kwargs):
            if phase == self.phase and self.times[phase] == self.time_number:
                self._tell('now', phase)
            self.times[phase] += 1
            self.inside.append(phase)
            begun = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.inside.pop()
                self._tell('time', phase, time.perf_counter() - begun)
        return call

    def _note(self, event: str, args: tuple, output: str) -> None:
        if event in _EVENTS and isinstance(args[0], str | os.PathLike) and os.fspath(args[0]).startswith(output):
            if self._dies_here():
                self._die()

    def _dies_here(self) -> bool:
        phase = self.inside[-1] if self.inside else 'anything'
        self._tell('step', phase)
        if self.step is None or self.phase not in (phase, 'anything'):
            return False
        self.steps += 1
        return self.steps > self.step

    def _tell(self, *words) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(self.told, (' '.join(map(str, [*words, 0][:3])) + '\n').encode())

    @staticmethod
    def _die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def write_images(folder: Path) -> None:
    """Image folders train/ and val/ of three classes: noise around a grey level that tells the class."""
    rng = np.random.RandomState(0)
    for split, sizes in (('train', (13, 7, 3)), ('val', (3, 3, 3))):
        for label, size in enumerate(sizes):
            (folder / split / f'class{label}').mkdir(parents=True)
            for i in range(size):
                pixels = rng.normal(60 + 60 * label, 40, (8, 8, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / f'class{label}' / f'{i:03d}.png')


def not_whole(output: Path) -> list[str]:
    """The files below a folder that cannot be read as what they are; those that were never given their name apart."""
    bad = []
    for path in files_below(output):
        try:
            parse(path)
        except Exception as e:
            bad.append(f'{path.relative_to(output)} ({e})')
    return bad


def parse(path: Path) -> None:
    """Read a file as its name says; any error if it is not whole."""
    if path.suffix == '.json':
        json.loads(path.read_text(encoding='utf-8'))
    elif path.suffix in ('.yaml', '.yml'):
        yaml.safe_load(path.read_text(encoding='utf-8'))
    elif path.suffix == '.csv':
        with open(path, newline='', encoding='utf-8') as file:
            lengths = {len(line) for line in csv.reader(file, strict=True)}
        if len(lengths) != 1 or not path.read_text(encoding='utf-8').endswith('\n'):
            raise ValueError('rows of different length')
    elif path.suffix == '.png':
        with Image.open(path) as image:
            image.load()
    elif path.suffix == '.pt':
        torch.load(path, weights_only=True)
    elif path.suffix == '.safetensors':
        with safe_open(path, 'pt') as weights:
            [weights.get_tensor(key) for key in weights.keys()]
    elif path.suffix == '.html':
        text = path.read_text(encoding='utf-8')
        HTMLParser().feed(text)
        if not text.rstrip().endswith('</html>'):
            raise ValueError('it has no end')
    elif path.suffix == '.md' and not path.read_text(encoding='utf-8').endswith('\n'):
        raise ValueError('it has no end')


def files_below(output: Path) -> list[Path]:
    """Files that have their names."""
    return sorted(
        path for path in output.rglob('*') if path.is_file()
        and not any(is_aside(part) for part in (path, *path.parents)))


def contents(output: Path) -> dict[str, object]:
    """What a finished run left, by file; of those that name times or paths only that they are there."""
    found = {}
    for path in sorted(output.rglob('*')):
        name = str(path.relative_to(output))
        if path.suffix in ('.csv', '.safetensors', '.bin'):
            found[name] = path.read_bytes()
        elif path.suffix == '.pt':
            found[name] = flat(torch.load(path, weights_only=True))
        else:
            found[name] = None
    return found


def flat(state: object) -> list:
    """A nested state as a list in which equal states are equal, to the last bit."""
    if isinstance(state, dict):
        state = [part for item in state.items() for part in item]
    if isinstance(state, list | tuple):
        return [part for item in state for part in flat(item)]
    if isinstance(state, torch.Tensor):
        return [str(state.dtype), *state.shape, state.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()]
    return [state]


def difference(expected: dict[str, object], found: dict[str, object]) -> str:
    """Names of the files that are not the same."""
    names = [name for name in sorted({*expected, *found}) if name not in expected or name not in found]
    names += [name for name in expected if name in found and expected[name] != found[name]]
    return ', '.join(names)


if __name__ == '__main__':
    main()
