"""Several runs that differ in their seed, trained at once in one process."""
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext

import torch

from ...data import GENERATORS
from ...errors import UserError
from ..fit import Result, Run
from ..plan import log_plan
from ..processes.launch import no_autocast_cache
from ..run_folder.checkpoint import equal_rng_states, rng_state, set_rng_state
from .asked import MOST_AT_ONCE, SomeFailed

_logger = logging.getLogger(__name__)


class Stopped(Exception):
    """Another run failed, or the user stopped all of them."""


class Turn:
    """Around each training step of one of several runs: it draws what it would draw alone, and can be stopped.

    The random generators belong to the process. A network that draws while it trains (dropout, stochastic depth) takes
    turns with the others for its whole step, the generators as its own last step left them; nearly none does, and these
    run freely. Which it is shows in the first step of each epoch.

    Args:
        stop: Once set, the next step raises `Stopped`.
    """

    def __init__(self, stop: threading.Event):
        self.rng = rng_state()
        self._stop = stop
        self._alone = True

    def new_epoch(self) -> None:
        """The next step shows anew whether it draws: methods have schedules."""
        self._alone = True

    def __enter__(self) -> None:
        if self._stop.is_set():
            raise Stopped
        if self._alone:
            GENERATORS.acquire()
            set_rng_state(self.rng)

    def __exit__(self, *error) -> None:
        if self._alone:
            try:
                before, self.rng = self.rng, rng_state()
                self._alone = not equal_rng_states(before, self.rng)
                if self._alone and torch.cuda.is_initialized():
                    torch.cuda.current_stream().synchronize()  # a replay reads the generator's state on the device
            finally:
                GENERATORS.release()


class Together:
    """Several runs, each of which ends as it would alone on as many CPU threads as it gets here.

    On a CPU as many train at a time as it has threads to give, one each; on a GPU up to 16, each on a stream of its
    own; on other devices one.
    """

    def __init__(self):
        self._runs: dict[str, Run] = {}
        self._stop = threading.Event()

    def add(self, name: str, run: Run) -> None:
        """A run that was made just now: the random generators are as its first step is to find them.

        Args:
            name: What the log calls it.
            run: In one process, guarded; of the same data as the others.
        """
        run.training.turn = Turn(self._stop)
        self._runs[name] = run

    def fit(self) -> dict[str, Result]:
        """Train all of them to the end; their results by name.

        Raises:
            SomeFailed: A run failed; the others were trained to the end.
        """
        runs = list(self._runs.values())
        device = runs[0].accelerator.device
        log_plan(runs[0].training)
        _logger.info(f'{len(runs)} seeds, {at_once(len(runs), device)} at a time')
        for run in runs:
            run.begin()
            run.training.decode()  # here, and not by several threads at once
        failures = in_threads({name: run.train for name, run in self._runs.items()}, device, self._stop)
        results = {name: run.finish() for name, run in self._runs.items() if name not in failures}
        if failures:
            raise SomeFailed(results, failures)
        return results


def at_once(count: int, device: torch.device) -> int:
    """How many of so many runs are trained at a time."""
    if device.type not in ('cpu', 'cuda'):  # mps does not bear two threads
        return 1
    return min(count, MOST_AT_ONCE if device.type == 'cuda' else torch.get_num_threads())


def in_threads(
        calls: Mapping[str, Callable[[], None]], device: torch.device, stop: threading.Event) -> dict[str, UserError]:
    """Make the calls, `at_once` of them, in threads that bear their names and share this thread's share of a CPU.

    Args:
        calls: By name; they end by `Stopped` once `stop` is set.
        device: What they work on.
        stop: Set where a call fails otherwise than by a UserError, or the user interrupts this thread.

    Returns:
        What was wrong with those that failed, by name.
    """
    workers = at_once(len(calls), device)
    if device.type == 'cuda':  # of one process Accelerate does not say which
        device = torch.device('cuda', torch.cuda.current_device())
    threads, failures = torch.get_num_threads(), {}

    def work(name: str, call: Callable[[], None]) -> None:
        if stop.is_set():
            return
        threading.current_thread().name = name
        try:
            with _own_stream(device):
                call()
        except UserError as e:
            _logger.error(str(e))
            failures[name] = e
        except Stopped:
            pass
        except BaseException:
            stop.set()
            raise

    def begin() -> None:
        torch.set_num_threads(max(1, threads // workers))
        no_autocast_cache()

    try:
        with ThreadPoolExecutor(workers, initializer=begin) as pool:
            made = [pool.submit(work, name, call) for name, call in calls.items()]
            try:
                wait(made)
            except BaseException:  # Ctrl-C
                stop.set()
                raise
    finally:
        torch.set_num_threads(threads)
    for each in made:
        each.result()  # raises what was raised there
    return failures


def _own_stream(device: torch.device):
    """Inside, this thread's work goes to a stream of its own on a GPU, after all that was asked of it before."""
    if device.type != 'cuda':
        return nullcontext()
    torch.cuda.set_device(device)  # a thread begins with the first
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.default_stream(device))
    return torch.cuda.stream(stream)
