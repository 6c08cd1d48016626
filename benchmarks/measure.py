"""What the benchmarks share: a machine that does nothing else, repetitions in turns, medians, deviations, tables."""
import argparse
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from timm_ltkd.cli.kinds import NATURAL
from timm_ltkd.report.table import Grid, markdown_grid

BUSY, TAKEN = 20., 0.05  # percent of the processor, share of the GPU's memory
Values = Sequence[torch.Tensor]
Row = tuple[str, float, float, list[str]]  # what, seconds of the baseline, of ours, what `parity` gave
ROLE = 'BENCHMARK_ROLE'  # in the environment of the process that makes the baselines' calls
BASELINES = ('plain', 'timm')  # their names
_ASLEEP = 0.4  # seconds after which the threads of the other process no longer look for work
ASKING = ('_local_scalar_dense', 'nonzero', 'is_nonzero', 'masked_select', 'equal', '_unique2', 'unique_dim')


def create_parser(
        name: str, description: str, *, repeats: int | None = None, quick: bool = True) -> argparse.ArgumentParser:
    """With the options that all have, and `--repeats` and `--quick` where they mean something.

    Args:
        name: Of the script.
        description: Of what it does, in a line.
        repeats: The default of `--repeats`; None leaves it out.
        quick: Whether there is a `--quick`, which `parse` asks for.
    """
    parser = argparse.ArgumentParser(prog=name, description=description)
    add = parser.add_argument
    add('--device', type=torch.device, default='cuda' if torch.cuda.is_available() else 'cpu',
        help='cpu or cuda (default: %(default)s)')
    add('--precision', choices=('no', 'bf16'), default='bf16',
        help='of our networks under autocast; the baselines are float32 (default: %(default)s)')
    add('--threads', metavar='N', type=NATURAL, help="CPU threads (default: torch's choice)")
    if repeats is not None:
        add('--repeats', metavar='N', type=NATURAL, default=repeats,
            help='of which the median is taken (default: %(default)s)')
    if quick:
        add('--quick', action='store_true', help='a few seconds on tiny networks, to see that all works; no figures')
    return parser


def parse(parser: argparse.ArgumentParser, argv: list[str] | None, pair: bool = False) -> argparse.Namespace:
    """The options, once the machine is found idle.

    Args:
        parser: From `create_parser`.
        argv: The command line.
        pair: Let a second process make the baselines' calls, see `in_turns`.
    """
    args = parser.parse_args(argv)
    torch.backends.cudnn.benchmark = True  # as public code has it
    if args.threads:
        torch.set_num_threads(args.threads)
    if not args.quick:
        if args.device.type == 'cuda' and not _Pair.baselines:  # now, when nothing of ours is there
            _refuse_if_taken(args.device)
        refuse_if_busy()
        if pair:
            _Pair.start()
    return args


def _refuse_if_taken(device: torch.device) -> None:
    free, total = torch.cuda.mem_get_info(device)
    if free < (1 - TAKEN) * total:
        sys.exit(f'{100 * (1 - free / total):.0f} % of the GPU is taken by something else: figures would mean nothing')


def refuse_if_busy() -> None:
    """End with a message if other programs keep the processor busy."""
    if _Pair.baselines:  # the other process looks; what comes after the timing is for it alone
        if _Pair.other:
            _Pair.hear()
            sys.exit()
        return
    busy = psutil.cpu_percent(interval=2)
    if busy > BUSY:
        sys.exit(f'the processor is {busy:.0f} % busy with something else: figures would mean nothing')
    _Pair.tell(0.)


def machine(device: torch.device) -> str:
    """What was measured on, for the head of a table."""
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else 'CPU'
    return f'{name}, {torch.get_num_threads()} threads, torch {torch.__version__}'


class _Pair:
    """Two processes that do all the same but what is timed: the second makes the baselines' calls.

    So that what the package changes for its process (`keep_freed_memory`) is nothing that the baselines gain by. The
    processes take turns; one waits while the other works.
    """
    other = None
    baselines = ROLE in os.environ

    @classmethod
    def start(cls) -> None:
        """In the first process: start the second. In the second: be told by pipes, and print nothing."""
        if cls.baselines:
            cls.other = sys.stdin, sys.stdout
            sys.stdout = open(os.devnull, 'w')
        else:
            process = subprocess.Popen(
                [sys.executable, *sys.argv], env=os.environ | {ROLE: 'baselines'}, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            cls.other = process.stdout, process.stdin

    @classmethod
    def mine(cls, name: str) -> bool:
        return cls.other is None or cls.baselines == (name in BASELINES)

    @classmethod
    def tell(cls, seconds: float) -> None:
        if cls.other:
            print(seconds, file=cls.other[1], flush=True)

    @classmethod
    def hear(cls) -> float:
        line = cls.other[0].readline()
        return float(line) if line else sys.exit(1)  # the other has ended, and said why


def in_turns(calls: Mapping[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each call. They take turns, so that a slow minute is everybody's; the first is not counted."""
    seconds = {name: [] for name in calls}
    if _Pair.other:  # both are ready
        _Pair.tell(0.)
        _Pair.hear()
    for turn in range(repeats + 1):
        for name, call in calls.items():
            if not _Pair.mine(name):
                each = _Pair.hear()
                time.sleep(_ASLEEP)
            else:
                synchronize(device)
                start = time.perf_counter()
                call()
                synchronize(device)
                each = time.perf_counter() - start
                _Pair.tell(each)
            if turn:
                seconds[name].append(each)
    return {name: statistics.median(each) for name, each in seconds.items()}


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def parity(plain: Callable[[bool], Values], ours: Callable[[bool], Values]) -> list[str]:
    """How far results are from those of the baseline in float64: ours in float64, the baseline and ours as timed.

    Args:
        plain: Gives what is compared (loss and gradient, say), in float64 or as it is timed.
        ours: Likewise.
    """
    reference = [value.detach().double() for value in plain(True)]
    return [
        ', '.join(f'{float((value.detach().double() - of).norm() / of.norm()):.0e}'
                  for value, of in zip(values, reference, strict=True))
        for values in (ours(True), plain(False), ours(False))]


def print_ratios(unit: str, rows: list[Row], scale: float) -> None:
    """Print a row for each thing measured, its seconds times `scale`."""
    lines = [
        [what, f'{baseline * scale:,.2f}', f'{ours * scale:,.2f}', f'{baseline / ours:.2f}', *deviations]
        for what, baseline, ours, deviations in rows]
    print(markdown_grid(Grid(
        ['', f'baseline, {unit}', f'ours, {unit}', 'ratio', 'ours in float64 off by', 'baseline as timed',
         'ours as timed'], lines)) + '\n')


class _Asked(TorchDispatchMode):
    """Counts operations whose result, or its size, the host has to know."""
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in ASKING
        return func(*args, **kwargs or {})


class Uncounted:
    """A loader whose own work, which is the host's, `count_waits` leaves out on a CPU."""

    def __init__(self, loader: Iterable):
        self.loader = loader

    def __getattr__(self, name: str):
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator:
        with _disable_current_modes():
            batches = iter(self.loader)
        while True:
            with _disable_current_modes():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch


def count_waits(call: Callable[[], object], device: torch.device) -> int:
    """How often the host waits for the device within a call; on a CPU, how often it would have to for a value."""
    if device.type != 'cuda':
        with _Asked() as asked:
            call()
        return asked.count
    synchronize(device)
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        torch.cuda.set_sync_debug_mode('warn')
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    return sum('called a synchronizing' in str(each.message) for each in caught)  # not that some are not found
