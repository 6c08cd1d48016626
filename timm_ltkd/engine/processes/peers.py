"""The processes of a run end together: where one dies, the others stop as well, and say why."""
import json
import logging
import os
import secrets
import socket
import sys
import threading
from _thread import interrupt_main
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import NamedTuple

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from ...errors import Fault, Terminated, UserError, fault, last_line

_logger = logging.getLogger(__name__)
GRACE = 10.  # seconds in which a process may end by itself of what has ended another one, and then may clean up
_CONNECT, _INTRODUCTION = 60., 5.  # seconds
_KEEP_ALIVE = {'TCP_KEEPIDLE': 10, 'TCP_KEEPINTVL': 5, 'TCP_KEEPCNT': 4}  # a machine that is off is noticed in 30 s


class Word(NamedTuple):
    """What is known of a process that ended before its work was done.

    Attributes:
        rank: Its number.
        line: Why; empty where it died without a word.
        signal: 'SIGTERM' or 'SIGINT' where it was asked to.
    """
    rank: int
    line: str = ''
    signal: str = ''


@contextmanager
def share_fate(accelerator: Accelerator) -> Iterator[None]:
    """Inside, a process stops when another one has died or failed, also while it waits for that one.

    Each of the others has a connection to the first process, which the system closes when a process dies, however it
    does. So a process may be slow, or busy for hours: only one that is gone is taken for gone.

    Args:
        accelerator: Of the processes; all come here together.

    Raises:
        UserError: Another process has died or failed, and this one has done nothing wrong.
    """
    if accelerator.num_processes == 1:
        yield
        return
    watch = _Watch(accelerator)
    try:
        yield
    except UserError as e:
        watch.leave(last_line(e))
        raise
    except KeyboardInterrupt as e:
        word = watch.heard()
        if word is not None and (watch.interrupted or not word.signal):
            raise watch.error(word) from e
        watch.leave('it was stopped', 'SIGTERM' if isinstance(e, Terminated) else 'SIGINT')
        raise
    except Exception as e:
        if (word := watch.heard(GRACE / 2)) is not None:  # it may be no more than what waiting for the other one raised
            raise watch.error(word) from e
        watch.leave(fault(e) or f'{type(e).__name__}: {last_line(e)}')
        raise
    finally:
        watch.leave()


class _Watch:
    """Listens to the other processes, in threads of its own.

    Attributes:
        interrupted: Whether the main thread was, because of what was heard.
    """

    def __init__(self, accelerator: Accelerator):
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self.interrupted = False
        self._word: Word | None = None
        self._lock, self._heard, self._left = threading.Lock(), threading.Event(), threading.Event()
        self._links = _connect(self.rank, self.world)
        if hasattr(os, 'register_at_fork'):  # a loader worker's copies would outlive the process
            os.register_at_fork(after_in_child=self._hang_up)
        for rank, link in self._links.items():
            threading.Thread(target=self._listen, args=(rank, link), daemon=True).start()

    def heard(self, patience: float = 0.) -> Word | None:
        """What became of another process, if that is known in so many seconds."""
        return self._word if self._heard.wait(patience) else None

    def error(self, word: Word) -> BaseException:
        """What this process is to raise for what became of another."""
        if word.signal:
            return Terminated() if word.signal == 'SIGTERM' else KeyboardInterrupt()
        who = f'process {word.rank} of {self.world}'
        if word.line:
            return UserError(f'{who} failed: {word.line}')
        return Fault(f'{who} has died (killed, perhaps for want of memory)')

    def leave(self, line: str = '', signal: str = '') -> None:
        """Say why this process ends, or that all is done; only what is said first counts."""
        if not self._left.is_set():
            self._left.set()
            self._say(Word(self.rank, line, signal) if line else None)
            for link in self._links.values():
                with suppress(OSError):
                    link.shutdown(socket.SHUT_RD)  # which wakes the listener
            self._hang_up()

    def _listen(self, rank: int, link: socket.socket) -> None:
        said = b''
        with suppress(OSError):  # a connection that breaks says no more
            while part := link.recv(4096):
                said += part
        try:
            word = json.loads(said)
        except ValueError:  # nothing, or half of it
            word = [rank]
        with self._lock:
            if word is None or self._left.is_set() or self._heard.is_set():
                return
            self._word = Word(*word)
            self._heard.set()
        if self.rank == 0:
            self._say(self._word)
        self._see_to_it()

    def _see_to_it(self) -> None:
        """End this process, unless it does so by itself: what ended another may have befallen it as well."""
        if self._left.wait(GRACE):
            return
        self.interrupted = True
        interrupt_main()
        if not self._left.wait(GRACE):  # the main thread waits for what will not come
            print(f'{last_line(self.error(self._word))}; process {self.rank} ends', file=sys.stderr, flush=True)
            os._exit(2)

    def _say(self, word: Word | None) -> None:
        for link in self._links.values():
            with suppress(OSError):
                link.sendall(json.dumps(word).encode())
                link.shutdown(socket.SHUT_WR)

    def _hang_up(self) -> None:
        for link in self._links.values():
            link.close()


def _connect(rank: int, world: int) -> dict[int, socket.socket]:
    """Connections by the number of the process at the other end: of the first to all others, of these to the first.

    None at all, and a warning, where one of them cannot be made.
    """
    links, server, place = {}, None, [0, secrets.token_hex(8)]
    with suppress(OSError):
        if rank == 0:
            both = socket.has_dualstack_ipv6()
            server = socket.create_server(
                ('', 0), family=socket.AF_INET6 if both else socket.AF_INET, backlog=world, dualstack_ipv6=both)
            place[0] = server.getsockname()[1]
    broadcast_object_list(place)
    with suppress(OSError), server or nullcontext():
        links = _call(*place, rank) if server is None else _called(server, place[1], world)
    if all(gather_object([bool(links)])):
        for link in links.values():
            _keep_alive(link)
        return links
    _logger.warning(
        'the processes cannot connect to the first one besides what Accelerate does: if one dies, the others may wait '
        'for it until they are stopped')
    return {}


def _called(server: socket.socket, token: str, world: int) -> dict[int, socket.socket]:
    """Wait for the others, each of which says the token and its number."""
    links = {}
    server.settimeout(_CONNECT)
    while len(links) < world - 1:
        link, _ = server.accept()
        if (other := _number_of(link, token)) is None:
            link.close()  # a stranger
        else:
            links[other] = link
    return links


def _number_of(link: socket.socket, token: str) -> int | None:
    """Of the process that says the token; None if that is not what is said."""
    link.settimeout(_INTRODUCTION)
    with suppress(OSError), link.makefile('rb') as said:
        word, _, number = said.readline(100).strip().partition(b' ')
        if secrets.compare_digest(word, token.encode()) and number.isdigit():
            return int(number)
    return None


def _call(port: int, token: str, rank: int) -> dict[int, socket.socket]:
    link = socket.create_connection((os.environ.get('MASTER_ADDR', 'localhost'), port), timeout=_CONNECT)
    link.sendall(f'{token} {rank}\n'.encode())
    return {0: link}


def _keep_alive(link: socket.socket) -> None:
    """Wait for words without end, but not for a machine that is gone."""
    link.settimeout(None)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        if hasattr(socket, name):
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
