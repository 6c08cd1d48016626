"""A finished run, read back from its folder."""
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import UserError, last_line, not_there, reason
from ...prior import ClassPrior
from ..profile import group_classes
from ..table import COLUMNS

_WANTED = 'give the folder of a finished run'


class FinishedRun(NamedTuple):
    """What `report.json` in a run's folder says.

    Attributes:
        folder: As it was named.
        student, teacher: Reports; teacher is None where there was none.
        names: What the two networks are.
        prior: Counts of the training set, and the boundaries of the shot groups.
        class_names: `[C]`.
        options: By name without dashes, those that were not given left out.
        facts: Precision and processes.
    """
    folder: str
    student: Mapping[str, Any]
    teacher: Mapping[str, Any] | None
    names: Mapping[str, str]
    prior: ClassPrior
    class_names: Sequence[str]
    options: Mapping[str, Any]
    facts: Mapping[str, Any]


class NoRun(UserError):
    """A folder that holds no finished run."""


def read_runs(folders: Sequence[str | os.PathLike]) -> tuple[list[FinishedRun], list[str]]:
    """`read_run` of each of several; folders without a finished run are left out, as long as there are others.

    Returns:
        The runs, and what was wrong with folders that are left out.

    Raises:
        UserError: As `read_run`; no folder with a finished run.
    """
    runs, without = [], []
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except NoRun as e:
            without.append(e)
    if not runs:
        raise without[0]
    return runs, [f'left out: {last_line(e)}' for e in without]


def read_run(folder: str | os.PathLike) -> FinishedRun:
    """Read the report of a run.

    Raises:
        UserError: No folder, no run in it, one that is not finished, or a report that is not ours.
    """
    path = Path(folder)
    try:
        document = json.loads((path / 'report.json').read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise (NoRun if path.is_dir() else UserError)(_nothing_there(path)) from None
    except NotADirectoryError:
        raise UserError(f"'{path}' is a file; {_WANTED}") from None
    except (OSError, ValueError, RecursionError) as e:
        raise UserError(f"'{path / 'report.json'}' cannot be read: {reason(e)}") from e
    try:
        return _parse(str(folder), document)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as e:
        raise UserError(f"'{path / 'report.json'}' is no report of timm_ltkd, or a damaged one; {_WANTED}") from e


def check_alike(runs: Sequence[FinishedRun]) -> list[str]:
    """Refuse runs whose figures are not of the same classes and test images.

    Returns:
        What the reader should know of runs that can be compared.

    Raises:
        UserError: Other classes, another number of test images, or other shot groups.
    """
    first, notes = runs[0], []
    for run in runs[1:]:
        both = f"'{first.folder}' and '{run.folder}' cannot be compared"
        if run.prior.num_classes != first.prior.num_classes:
            raise UserError(f'{both}: {first.prior.num_classes} and {run.prior.num_classes} classes')
        if list(run.class_names) != list(first.class_names):
            at = next(i for i, names in enumerate(zip(first.class_names, run.class_names, strict=True))
                      if names[0] != names[1])
            raise UserError(f"{both}: class {at} is '{first.class_names[at]}' and '{run.class_names[at]}'")
        images = [each.student.get('num_samples') for each in (first, run)]
        if images[0] != images[1]:
            raise UserError(f'{both}: measured on {images[0]} and {images[1]} images')
        if group_classes(run.prior) != group_classes(first.prior):
            raise UserError(f'{both}: other classes are many-, medium- or few-shot (other training images, '
                            '--many-shot or --few-shot)')
        if not run.prior.counts.equal(first.prior.counts):
            notes.append(f"'{run.folder}' was trained on {run.prior.num_samples:,} images, '{first.folder}' on "
                         f'{first.prior.num_samples:,}: figures by class go by those of the latter')
    return notes


def _nothing_there(path: Path) -> str:
    if not path.is_dir():
        return f'{not_there(path, "folder")}; {_WANTED}'
    if (path / 'last').is_dir() or (path / 'args.yaml').is_file():
        return f"the run in '{path}' is not finished: it has no report.json yet; --resume {path} continues it"
    inside = sorted(str(report.parent) for report in path.glob('*/report.json'))
    hint = f"; there are runs in it: {' '.join(inside[:5])}{' …' if len(inside) > 5 else ''}" if inside else ''
    return f"'{path}' holds no run{hint or f'; {_WANTED}'}"


def _parse(folder: str, document: Mapping[str, Any]) -> FinishedRun:
    data, run = document['data'], document['run']
    prior = ClassPrior(data['class_counts'], many=data['many_shot'], few=data['few_shot'])
    names = [str(name) for name in data['class_names']]
    reports = {role: _check(document[role], prior) for role in ('student', 'teacher') if document.get(role)}
    if len(names) != prior.num_classes:
        raise ValueError('another number of names than of classes')
    return FinishedRun(
        folder, reports['student'], reports.get('teacher'),
        {role: str(run.get(role, role)) for role in ('student', 'teacher')}, prior, names,
        dict(run.get('args') or {}), {key: run[key] for key in ('precision', 'processes') if key in run})


def _check(report: Mapping[str, Any], prior: ClassPrior) -> Mapping[str, Any]:
    figures = [report['top1'], report['balanced'], *(report[key] for key in COLUMNS if key in report)]
    figures += [value for value in report['per_class'] if value is not None]
    if len(report['per_class']) != prior.num_classes or not all(isinstance(value, int | float) for value in figures):
        raise ValueError('not a report of these classes')
    return report
