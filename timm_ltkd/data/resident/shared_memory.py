"""Memory that all processes of a machine see, with no file that could stay behind."""
import mmap
import os
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

import psutil
import torch

from ...errors import UserError
from .machine import machine_memory

Exchange = Callable[[Any], list]  # gives all processes the list of what each gives


class SharedMemory(NamedTuple):
    """Bytes, and which of how many parts of them this process is to fill."""
    memory: torch.Tensor
    part: int = 0
    parts: int = 1


class _Offer(NamedTuple):
    """Where a process can be found, and the memory that the others might use."""
    machine: tuple[str, str]
    pid: int
    file: int | None
    inode: int | None


def share_memory(nbytes: int, exchange: Exchange | None) -> SharedMemory:
    """So many zeros, uint8 `[nbytes]`, the same for all processes of a machine where that can be had.

    It can on Linux: a file without a name, which the others open through the process that made it, and which is gone
    with the last of them however they end. Elsewhere each process gets memory of its own.

    Args:
        nbytes: How many.
        exchange: See `Exchange`; None for a process that is alone.

    Raises:
        UserError: More than there is memory for; in all processes.
    """
    if exchange is None:
        raise_together(_too_much(nbytes))
        return SharedMemory(torch.zeros(nbytes, dtype=torch.uint8))
    file = _nameless_file(nbytes)
    try:
        mine = _Offer(_machine(), os.getpid(), file, None if file is None else os.fstat(file).st_ino)
        offers = [offer for offer in exchange(mine) if offer.machine == mine.machine]
        memory = _opened(offers[0], nbytes)
        together = all(exchange(memory is not None))  # which the first waits for before it closes its file
    finally:
        if file is not None:
            os.close(file)
    raise_together(_too_much(nbytes if together else nbytes * len(offers)), exchange)
    if not together:
        return SharedMemory(torch.zeros(nbytes, dtype=torch.uint8))
    return SharedMemory(memory, offers.index(mine), len(offers))


def raise_together(problem: str | None, exchange: Exchange | None = None) -> None:
    """Raise a UserError in all processes if there is a problem in one, after all have come here."""
    problems = [problem] if exchange is None else exchange(problem)
    if problem := next(filter(None, problems), None):
        raise UserError(problem)


def _too_much(nbytes: int) -> str | None:
    free = min(psutil.virtual_memory().available, machine_memory())
    if nbytes <= free:
        return None
    return (
        f'the images take {nbytes / 1e9:.1f} GB as bytes and {free / 1e9:.1f} GB of memory are free; use --loader timm')


def _machine() -> tuple[str, str]:
    """What processes have in common that see each other's numbers."""
    try:
        return socket.gethostname(), os.readlink('/proc/self/ns/pid')
    except OSError:
        return socket.gethostname(), ''


def _nameless_file(nbytes: int) -> int | None:
    try:
        file = os.memfd_create('timm_ltkd')
    except (AttributeError, OSError):  # not Linux, or not allowed
        return None
    os.truncate(file, nbytes)
    return file


def _opened(offer: _Offer, nbytes: int) -> torch.Tensor | None:
    """The memory of an offer; None if it cannot be had."""
    if offer.file is None:
        return None
    try:
        file = os.open(f'/proc/{offer.pid}/fd/{offer.file}', os.O_RDWR)
    except OSError:
        return None
    try:
        found = os.fstat(file)
        if (found.st_ino, found.st_size) != (offer.inode, nbytes):  # a process of another machine by the same name
            return None
        return torch.frombuffer(mmap.mmap(file, nbytes), dtype=torch.uint8)
    except OSError:
        return None
    finally:
        os.close(file)
