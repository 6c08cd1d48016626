"""What a user can get wrong, or a machine, told in one line."""
import difflib
import errno
import glob
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

_OF_A_DISK = {
    getattr(errno, name) for name in ('ENOSPC', 'EDQUOT', 'EFBIG', 'EROFS', 'EACCES', 'EPERM', 'EIO', 'ESTALE')
    if hasattr(errno, name)}


class UserError(ValueError):
    """A mistake in what the user asked for: the message is one line that says what is wrong and what to do.

    The command lines print it without a traceback and exit with code 2.
    """


class Fault(UserError):
    """What befell a run from outside; the run can be resumed."""


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM, as by SIGINT (Ctrl-C) otherwise."""


def nearest(name: str, options: Iterable[str]) -> str:
    """The hint that ends a message about an unknown name, e.g. `; did you mean 'bkd'? Known: bkd, kd`."""
    def likeness(option: str) -> tuple[float, bool, str]:
        alike = difflib.SequenceMatcher(None, option, str(name)).ratio()
        return alike, sorted(option) == sorted(str(name)), option  # with letters swapped, of those as much alike

    options = sorted(options)
    alike, _, close = max(map(likeness, options), default=(0., False, ''))
    hint = f"; did you mean '{close}'?" if alike >= 0.4 else '.'
    return f"{hint} Known: {', '.join(options)}" if 0 < len(options) <= 40 else hint


OF_ONES_OWN = ' (what is in a module of your own, --import makes known)'


def not_there(path: str | os.PathLike, what: str = 'file or folder') -> str:
    """That there is nothing of this name; and the folders of its seeds (`NAME-seed0`), where these are there."""
    path = Path(path)
    beside = []
    with suppress(OSError):
        beside = sorted(str(folder) for folder in path.parent.glob(f'{glob.escape(path.name)}-seed*'))
    return f'there is no {what} {path}' + (f'; there are {first_few(beside)}' if beside else '')


def unknown_keyword(error: BaseException) -> str | None:
    """The keyword that a call did not take, where that is what an error says."""
    said = re.search(r"got an unexpected keyword argument '(\w+)'", str(error))
    return said and said[1]


def first_few(names: Sequence[str]) -> str:
    """The first five of many names, and how many more there are."""
    more = f' and {len(names) - 5} more' if len(names) > 5 else ''
    return ', '.join(names[:5]) + more


def last_line(error: BaseException) -> str:
    """The one line of an error that matters, also when a loader worker has wrapped it in a traceback.

    That is the last one, but of a CUDA error, which ends with advice, the one that names it.
    """
    text = str(error).strip()
    if isinstance(error, UserError):  # all of it: where it has several lines, names of files or classes have
        return text.rpartition('timm_ltkd.errors.UserError: ')[2]
    lines = [line for line in text.splitlines() if line.strip()] or [type(error).__name__]
    return next((line for line in lines if 'CUDA error:' in line), lines[-1]).strip()


def reason(error: BaseException) -> str:
    """What an error says, in one line, for a message that names the file: without the system's number, and the file."""
    if isinstance(error, UnicodeDecodeError):
        return 'it is no text (UTF-8)'
    return getattr(error, 'strerror', None) or last_line(error)


def visible(text: str, most: int = 1000) -> str:
    """A text from anywhere, made safe for a terminal: what does not print is written as an escape, and its middle is
    left out where it is longer than anyone would read.

    Args:
        text: It may hold the names of files and classes, which can be anything.
        most: Characters, before escapes.
    """
    if len(text) > most:
        text = f'{text[:most * 2 // 3]} … {text[-most // 3:]}'
    return ''.join(
        char if char.isprintable() else char.encode('unicode_escape').decode('ascii') for char in text)


def fault(error: BaseException) -> str | None:
    """What a machine did to the process, in one line: a disk that cannot be written, a killed loader worker.

    Returns:
        None for any other error, which is a mistake in the code.
    """
    if (failed := disk_error(error)) is not None:
        what = failed.filename or 'a file of this run'
        return f'{what}: {failed.strerror or failed}; make room, or see to its rights'
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:  # wherever a name is first looked at
        return f"'{error.filename}' is too long a name for a file; give a shorter one"
    worker = re.search(r'DataLoader worker \(pid(?:\(s\))? [\d, ]+\) (?:is )?(.*?)(?:\. |\.?$)', str(error))
    if worker:
        return (
            f'a loader worker {worker[1]}: there may be too little memory, or shared memory (/dev/shm); use fewer '
            '--workers, or --workers 0')
    return None


def disk_error(error: BaseException) -> OSError | None:
    """The disk's refusal behind an error: what torch and safetensors raise of it is no OSError."""
    for each in (error, error.__context__):
        if isinstance(each, OSError) and each.errno in _OF_A_DISK:
            return each
    number = re.search(r'(?:\(os error |\bOs \{ code: )(\d+)', str(error))  # safetensors, and as it was before 0.6
    if number and int(number[1]) in _OF_A_DISK:
        return OSError(int(number[1]), os.strerror(int(number[1])))
    return None
