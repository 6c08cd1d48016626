"""The files that a finished run leaves in its folder to say how well it did."""
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import write_text
from ..prior import ClassPrior
from .content import row_name
from .markdown import markdown_report
from .page import html_report
from .pictures import plot_pictures, run_pictures
from .profile import check_names, check_report, group_classes, group_of
from .summary import write_csv

FILES = {
    'report.html': 'all of this as one page, figures included, to look at or to send',
    'report.json': 'every figure, for programs',
    'per_class.csv': 'training images and accuracy of each class',
}


def write_report(
        folder: str | os.PathLike,
        *,
        student: Mapping[str, Any],
        teacher: Mapping[str, Any] | None = None,
        holdout: Mapping[str, Mapping[str, Any]] | None = None,
        prior: ClassPrior,
        class_names: Sequence[str],
        history: Sequence[Mapping[str, Any]],
        run: Mapping[str, Any],
) -> list[Path]:
    """Write report.json, report.md, report.html, per_class.csv and the figures, each file whole or not at all.

    Args:
        folder: Where to; made if it is not there.
        student: Report of `timm_ltkd.metrics.long_tail_report` of what was trained; with `group_confusion` and
            `calibration` (of `timm_ltkd.metrics` as well) in it, they are drawn.
        teacher: The same of its teacher.
        holdout: Reports by role (`student`, `teacher`) on held-out training images, shown beside if there are any.
        prior: Counts of the training set, and the boundaries of the shot groups.
        class_names: Names by class index, `[C]`.
        history: Rows of the summary, one an epoch; without any there is no curves.png.
        run: Facts of the run, kept as they are under `run`. `student` and `teacher`, if text, name the models in
            tables and plots; `best` (metric, value, epoch, chosen_on) is also put at the top of report.json.

    Returns:
        The paths written.

    Raises:
        UserError: Names or reports of another number of classes than the prior.
    """
    reports = {'student': student} if teacher is None else {'teacher': teacher, 'student': student}
    check_names(prior, class_names)
    for role, report in reports.items():
        check_report(prior, report, f"the {role}'s report")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = {row_name(role, run): report for role, report in reports.items()}
    holdout_rows = {row_name(role, run): holdout[role] for role in reports if role in (holdout or {})}
    pictures = run_pictures(rows, prior, class_names, history, on_holdout=bool(holdout))
    files = FILES | {name: picture.holds for name, picture in pictures.items()}

    plot_pictures(folder, pictures)
    write_text(folder / 'report.md', markdown_report(rows, prior, class_names, run, files, holdout_rows))
    write_text(folder / 'report.html', html_report(
        folder, rows, prior, class_names, run, pictures, files, holdout_rows))
    _write_per_class(folder / 'per_class.csv', reports, prior, class_names)
    write_text(folder / 'report.json', _as_json(
        reports | ({'holdout': holdout} if holdout else {}), prior, class_names, run))  # last of the report
    return [folder / name for name in ('report.md', *files)]


def _as_json(
        reports: Mapping[str, Mapping[str, Any]],
        prior: ClassPrior,
        class_names: Sequence[str],
        run: Mapping[str, Any],
) -> str:
    """Strict JSON with sorted keys: equal runs give equal text, and any parser reads it."""
    document = {
        **reports,
        'data': {
            'num_classes': prior.num_classes,
            'num_train': prior.num_samples,
            'imbalance_factor': prior.imbalance_factor,
            'class_counts': prior.counts.long().tolist(),
            'class_names': [str(name) for name in class_names],
            'groups': group_classes(prior),
            'many_shot': prior.many,
            'few_shot': prior.few,
        },
        'run': run,
    }
    if run.get('best'):
        document['best'] = run['best']
    return json.dumps(_strict(document), indent=2, sort_keys=True, allow_nan=False) + '\n'


def _strict(value: Any) -> Any:
    """The value in JSON's own terms: NaN and infinities become null, what JSON has no form for becomes text."""
    if hasattr(value, 'tolist'):  # numpy and torch, scalars too
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _write_per_class(
        path: Path,
        reports: Mapping[str, Mapping[str, Any]],
        prior: ClassPrior,
        class_names: Sequence[str],
) -> None:
    roles, groups = [role for role in ('student', 'teacher') if role in reports], group_of(prior)
    write_csv(path, ['class', 'name', 'train_images', 'group', *roles], (
        [index, class_names[index], images, groups[index], *(reports[role]['per_class'][index] for role in roles)]
        for index, images in enumerate(prior.counts.long().tolist())))
