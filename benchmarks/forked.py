"""Functions called in processes of their own, forked from one that has imported all they need."""
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

LONGEST = 600.  # seconds


def fork(function: Callable[[], None], log: Path) -> int:
    """Call a function in a new process, and end that with what a SystemExit says, or 1 after any other exception.

    Args:
        function: What to call.
        log: Where what it prints goes, and a traceback.

    Returns:
        The number of the process, which is the first of its group.
    """
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        function()
        status = 0
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def ended(child: int, seconds: float = LONGEST) -> int:
    """Wait for a process; its exit status, or minus the signal that ended it: SIGALRM where it took longer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGALRM
