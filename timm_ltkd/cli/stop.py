"""SIGTERM and Ctrl-C: a script stops at once, cleans up, and ends in good time."""
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ..errors import Terminated

CLEAN_UP = 20.  # seconds; launchers and schedulers kill after 30
_EXIT_CODES = {'SIGTERM': 143, 'SIGINT': 130}


class Stop:
    """Which signal asked this process to stop.

    Attributes:
        signal: Its name; None until then.
    """

    def __init__(self):
        self.signal: str | None = None
        self._process, self._ignores = os.getpid(), False
        self._insist: threading.Timer | None = None

    def ignore(self) -> None:
        """From now on signals change nothing: the process ends anyway."""
        self._ignores = True

    def cleaned_up(self) -> None:
        """All has ended in good time."""
        if self._insist is not None:
            self._insist.cancel()

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Raise `Terminated` or KeyboardInterrupt, once; a launcher passes on what a terminal has sent already."""
        name = signal.Signals(number).name
        if os.getpid() == self._process:  # and not a loader worker
            if self._ignores:
                return
            self.signal, self._ignores = name, True
            self._insist = threading.Timer(CLEAN_UP, os._exit, [_EXIT_CODES[name]])
            self._insist.daemon = True
            self._insist.start()
        raise Terminated if name == 'SIGTERM' else KeyboardInterrupt


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Inside, SIGTERM raises `Terminated` as Ctrl-C raises KeyboardInterrupt; later ones change nothing.

    What cannot be ended within `CLEAN_UP` seconds is cut off. A signal that is ignored, as under nohup, stays so.
    """
    stop, before = Stop(), {}
    if threading.current_thread() is threading.main_thread():  # no other is told of signals
        for name in _EXIT_CODES:
            number = getattr(signal, name)
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, stop.handle)
    try:
        yield stop
    finally:
        stop.cleaned_up()
        for number, handler in before.items():
            signal.signal(number, handler)
