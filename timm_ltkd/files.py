"""Files that are written whole or not at all."""
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ASIDE = '.*.tmp*'  # what `replace_file` writes to


@contextmanager
def replace_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it is flushed to disk and renamed onto `path`.

    A reader (or a crash) sees the old file or the new one, never half of one; on an error `path` is untouched.
    """
    path = Path(path)
    handle, aside = tempfile.mkstemp(prefix=f'.{path.name}.', suffix=f'.tmp{path.suffix}', dir=path.parent)
    os.close(handle)
    try:
        yield Path(aside)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(aside, 0o666 & ~mask)  # mkstemp makes private files
        with open(aside, 'rb+') as f:
            os.fsync(f.fileno())
        os.replace(aside, path)
    except BaseException:
        if os.path.exists(aside):
            os.unlink(aside)
        raise


def is_aside(path: Path) -> bool:
    """Whether a path is what `replace_file` (or an export) writes to before it renames."""
    return path.match(ASIDE)


def remove_asides(folder: Path, older_than: float) -> None:
    """Remove what a killed process left half-written in a folder.

    Args:
        folder: The folder, not those below it.
        older_than: Modification time in seconds; younger ones may belong to a process that still writes.
    """
    for path in folder.glob(ASIDE):
        with suppress(FileNotFoundError):  # just renamed by the process that wrote it
            if path.stat().st_mtime < older_than:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
