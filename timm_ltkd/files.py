"""Files that are written whole or not at all, and folders that belong to one process at a time."""
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import disk_error

ASIDE = '.*.tmp*'  # what `replace_file` writes to
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # of file systems without locks


@contextmanager
def replace_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it is flushed to disk and renamed onto `path`.

    A reader (or a crash) sees the old file or the new one, never half of one; on an error `path` is untouched.

    Raises:
        OSError: Whatever writes raised for want of room or rights, this names `path`.
    """
    path = Path(path)
    aside = path.with_name(f'.{path.name}.{secrets.token_hex(4)}.tmp{path.suffix}')
    open(aside, 'xb').close()  # not by tempfile, whose files are private
    try:
        yield aside
        with open(aside, 'rb+') as f:
            os.fsync(f.fileno())
        os.replace(aside, path)
    except BaseException as e:
        with suppress(OSError):
            os.unlink(aside)
        if isinstance(e, Exception) and (refused := disk_error(e)) is not None:
            raise OSError(refused.errno, refused.strerror, str(path)) from e
        raise


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file as `replace_file` does; characters that UTF-8 lacks are written as escapes."""
    with replace_file(path) as aside:
        aside.write_text(text, encoding='utf-8', errors='backslashreplace', newline='\n')


def is_aside(path: Path) -> bool:
    """Whether a path is what `replace_file` (or an export) writes to before it renames."""
    return path.match(ASIDE)


def remove_asides(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder, where nobody else writes; not in those below it."""
    for path in folder.glob(ASIDE):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _can_lock(folder: Path) -> bool:
    """Whether a file that nobody holds can be locked there; some releases of filelock tell no one that it can't."""
    probe = folder / f'.lock.{secrets.token_hex(4)}.tmp'
    try:
        with FileLock(probe, timeout=0):
            return True
    except Timeout:
        return False
    finally:
        probe.unlink(missing_ok=True)


def try_lock(path: Path, patience: float = 0.) -> FileLock | None:
    """Hold a file, which is made if need be, against all other processes of all machines that see it.

    The lock ends with its process, however that ends; the file stays. Where the file system cannot lock, the lock is
    one that everybody gets.

    Args:
        path: Of the file.
        patience: Seconds to wait for one that holds it: loader workers of a killed process may do so for a while.

    Returns:
        To `release` when all is done; None if another holds it.

    Raises:
        OSError: The file cannot be made.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        # more than once, since who holds it may remove what lies aside, the file of a try too
        return None if any(_can_lock(path.parent) for _ in range(3)) else lock
    except NotImplementedError:
        pass
    except OSError as e:
        if e.errno not in _NO_LOCKS:
            raise
    return lock
