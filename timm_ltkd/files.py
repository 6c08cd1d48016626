"""Files that are written whole or not at all."""
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
