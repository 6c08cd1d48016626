"""The folder of a run: found, claimed, and never mixed with another run's files."""
import json
import os
import re
import shlex
import shutil
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object

from ...errors import UserError, visible
from ...files import is_aside, remove_asides, try_lock, write_text
from .checkpoint import checkpoint_files, remove_old
from .differences import OTHERWISE, tell_differences

MARK = 'run.json'  # in last/; says which settings the folder belongs to
LOCK = '.lock'  # in last/; held by the process that trains
_SEEN_WITHIN = 10.  # seconds; a file system of several machines may remember for a while what was not there
PATIENCE = 10.  # seconds; loader workers of a killed run, which hold what it held, end by then


class RunFolder:
    """Paths of a run's files, and which settings it belongs to.

    Args:
        path: The folder.
        key: `recipe_key` of the settings.
        resume: Whether to continue what is there.
        replace: Whether to remove what is there.
        fresh: Whether any other name would do as well, because the user gave none.
    """

    def __init__(self, path: Path, key: str, resume: bool, replace: bool = False, fresh: bool = False):
        self.key, self.resume, self.replace, self.fresh = key, resume, replace, fresh
        self.made = False
        self._lock = None
        self.place(path)

    def place(self, path: Path) -> None:
        """Say where it is."""
        self.path, self.last, self.summary = path, path / 'last', path / 'summary.csv'

    @property
    def finished(self) -> bool:
        """Whether a run has come to its end here: the model card is written last."""
        return all((self.path / name).is_file() for name in ('report.json', 'README.md'))

    def hold(self, patience: float | None = None) -> bool:
        """Whether no other process trains here from now on, until `release`; call on the main process.

        Args:
            patience: Seconds to wait for one that does; `PATIENCE` if None.
        """
        if self._lock is None:
            with self._writable():
                try:
                    self.path.mkdir(parents=True)
                    self.made = True
                except FileExistsError:
                    self.made = False
                self.last.mkdir(parents=True, exist_ok=True)
                self._lock = try_lock(self.last / LOCK, PATIENCE if patience is None else patience)
        return self._lock is not None

    def reserve(self) -> None:
        """`hold`, or a UserError that another process trains here."""
        if not self.hold():
            raise UserError(
                f'{self.path} is being trained by another process; wait until it has ended, or choose another '
                '--experiment')

    def release(self) -> None:
        """Let others train here; a folder that was made for nothing goes."""
        lock, self._lock = self._lock, None
        if lock is not None:
            if self.made and not (self.last / MARK).exists():
                shutil.rmtree(self.path, ignore_errors=True)
            lock.release()

    def claim(self, config: str) -> tuple[bool, Path]:
        """Make the folder this run's and write args.yaml and the mark into it; call on the main process, when all is
        checked. What killed processes left half-written, or did not come to remove, goes.

        Returns:
            Whether the folder is new, and where it is: a name that is `fresh` may have been taken meanwhile.

        Raises:
            UserError: Another process trains here, or did since this run chose the folder; or nothing can be written.
        """
        if self.fresh:
            self._find_free()
        self.reserve()
        if not (self.resume or self.replace) and (self.last / MARK).exists():  # it was not when this run chose it
            raise UserError(f'{self.path} has become the folder of another run; choose another --experiment')
        with self._writable():
            if self.replace:
                _clear(self.path, keep=self.last / LOCK)
            for folder in (self.path, self.last):
                remove_asides(folder)
            remove_old(self.last)
            write_text(self.last / MARK, json.dumps({'key': self.key}))  # first: without it it'd be a stranger's folder
            write_text(self.path / 'args.yaml', config)
        return self.made, self.path

    def _find_free(self) -> None:
        """Go to the next name if another run, started in the same second, was faster."""
        first, count = self.path, 1
        while not self.hold(patience=0) or (self.last / MARK).exists():
            self.release()
            count += 1
            self.place(first.with_name(f'{first.name}-{count}'))

    @contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise UserError(f'{self.path} cannot be written ({e.strerror}); choose another --output') from e

    def abandon(self) -> None:
        """Remove the folder if this run made it, and failed before there was anything to resume."""
        if self.made and not checkpoint_files(self.last):
            shutil.rmtree(self.path, ignore_errors=True)


def find_folder(args: Namespace, name: str, key: str) -> RunFolder:
    """Where this run goes, by --output, --experiment, --resume and --overwrite; nothing is written or removed yet.

    Args:
        name: What to call it without --experiment, after date and time.
        key: `recipe_key` of the settings.

    Raises:
        UserError: The folder holds another run or foreign files, or there is nothing to resume.
    """
    root = Path(args.output)
    try:
        os.fsencode(root / (args.experiment or args.resume or ''))
    except UnicodeEncodeError as e:
        raise UserError(
            f'the folder {visible(str(e.object))} has characters that this locale cannot write; choose another name, '
            'or LC_ALL=C.UTF-8') from e
    if root.exists() and not root.is_dir():
        raise UserError(f'--output {root} is a file; name a folder')
    if args.overwrite and args.resume:
        raise UserError('--overwrite begins anew, and --resume goes on; leave one of them out')
    if args.resume == 'auto' and not args.experiment:
        found = _newest_run(root, key)
        return RunFolder(found, key, True) if found else RunFolder(_fresh(root, name), key, False, fresh=True)
    if args.resume and args.resume != 'auto':
        path = Path(args.resume)
        if path.suffix == '.pt':
            raise UserError(f'--resume {path}: name the folder of the run; its newest good checkpoint is taken')
        path = path.parent if path.name == 'last' else path
        if args.experiment and os.path.realpath(path) != os.path.realpath(root / args.experiment):
            raise UserError(f'--resume {args.resume} and --experiment name different folders; leave --experiment out')
        if not checkpoint_files(path / 'last'):
            raise UserError(f'--resume {args.resume}: no checkpoint there; name the folder of a run, or use auto')
        return RunFolder(path, key, True)
    if not args.experiment:
        return RunFolder(_fresh(root, name), key, False, fresh=True)
    path = _below(root, args.experiment)
    if path.is_file():
        raise UserError(f'{path} is a file; choose another --experiment')
    if _is_empty(path):
        return RunFolder(path, key, False)
    mark = _read_mark(path)
    if args.resume == 'auto' and mark is not None:
        return RunFolder(path, key, True)
    if args.overwrite and mark is not None:
        return RunFolder(path, key, False, replace=True)
    what = 'a run' if mark is not None else 'files that are no run of ours'
    hint = '--resume auto continues it, --overwrite replaces it' if mark is not None else 'nothing there is touched'
    raise UserError(f'{path} holds {what}; choose another --experiment ({hint})')


def check_key(folder: RunFolder, args: Namespace) -> None:
    """Raise a UserError if the folder to resume belongs to other settings, and say which."""
    mark = _read_mark(folder.path)
    if folder.resume and mark is not None and mark != folder.key:
        config = folder.path / 'args.yaml'
        changed = tell_differences(args, config)
        again = '' if changed == OTHERWISE else f'repeat them with -c {shlex.quote(str(config))}, or '
        raise UserError(
            f'{folder.path} was started with other settings or data: {changed}; {again}choose another --experiment')


def check_shared(folder: RunFolder, accelerator: Accelerator) -> None:
    """Raise a UserError, in all processes, unless all see the folder that the first one has made."""
    if accelerator.num_processes == 1:
        return
    until = time.monotonic() + _SEEN_WITHIN
    while not (there := (folder.last / MARK).exists()) and time.monotonic() < until:
        time.sleep(0.5)
    if not all(seen := gather_object([there])):
        folder.abandon()
        raise UserError(
            f'process {seen.index(False)} does not see {folder.path}, which process 0 has made: --output must be a '
            'folder that all machines share')


def short_name(model: str) -> str:
    """A model name that can be part of a file name."""
    return re.sub(r'[\\/:*?"<>|]', '_', model)  # what no name may have on Windows


def _below(root: Path, name: str) -> Path:
    """The folder of that name, without the '..' that would lead elsewhere once what they follow is made."""
    path = root / name
    real, above = (Path(os.path.realpath(each)) for each in (path, root))
    if real == above or real in above.parents:
        raise UserError(f'--experiment {name}: {real} is the folder of all runs, or one around it; name one inside it')
    return real if '..' in path.parts else path


def _fresh(root: Path, name: str) -> Path:
    stamp = datetime.now().strftime('%Y%m%d-%H%M%S')
    path, count = root / f'{stamp}-{name}', 1
    while path.exists():
        count += 1
        path = root / f'{stamp}-{name}-{count}'
    return path


def _newest_run(root: Path, key: str) -> Path | None:
    """The run under `root` with these settings that has come furthest, whatever clocks say; of several the newest."""
    def progress(run: Path) -> tuple[str, float]:
        newest = checkpoint_files(run / 'last')[0]
        return newest.name, newest.stat().st_mtime

    runs = [mark.parent.parent for mark in root.glob(f'*/last/{MARK}') if _read_mark(mark.parent.parent) == key]
    return max((run for run in runs if checkpoint_files(run / 'last')), key=progress, default=None)


def _clear(folder: Path, keep: Path) -> None:
    """Remove all files below a folder but one, which is locked."""
    for path in sorted(folder.rglob('*'), reverse=True):  # what is in a folder before the folder
        if path.is_dir() and not path.is_symlink():
            if path not in keep.parents:
                path.rmdir()
        elif path != keep:
            path.unlink()


def _is_empty(path: Path) -> bool:
    """Whether there is no file, or only what a run that was killed at its very start left half-written."""
    return all(is_aside(entry) or entry.is_dir() or entry.name == LOCK for entry in path.rglob('*'))


def _read_mark(path: Path) -> str | None:
    try:
        return json.loads((path / 'last' / MARK).read_text())['key']
    except (OSError, ValueError, KeyError, TypeError):
        return None
