"""report.md: what a run came to, for people."""
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..prior import ClassPrior
from .profile import data_profile, group_classes
from .table import figure, markdown_grid, markdown_table
from .text import markdown_escape


def markdown_report(
        rows: Mapping[str, Mapping[str, Any]],
        prior: ClassPrior,
        class_names: Sequence[str],
        run: Mapping[str, Any],
        files: Mapping[str, str],
        holdout_rows: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """The page as Markdown text.

    Args:
        rows: Reports by row name; with two of them, teacher then student, their difference by group is shown.
        prior: Counts of the training set, and the boundaries of the shot groups.
        class_names: Names by class index, `[C]`.
        run: Facts of the run; nested ones are shown as `outer.inner`.
        files: What each file written beside the page holds, by file name.
        holdout_rows: As `rows`, on held-out training images.
    """
    sections = ['# Results', f'{markdown_table(rows)}\n\n{_legend(prior.many, prior.few)}']
    if run.get('best'):
        sections.append(_best(run['best']))
    if holdout_rows:
        sections += ['## On the holdout', markdown_table(holdout_rows)]
    if len(rows) == 2:
        sections += ['## Student minus teacher', _difference(*rows.values(), prior)]
    sections += ['## Training data', _bullets(data_profile(prior, class_names).splitlines())]
    facts = [f'{key}: {value}' for key, value in _flatten({k: v for k, v in run.items() if k != 'best'})]
    if facts:
        sections += ['## Run', _bullets(facts)]
    sections += ['## Files', _bullets(f'{name}: {holds}' for name, holds in files.items())]
    return '\n\n'.join(sections) + '\n'


def _legend(many: int, few: int) -> str:
    return markdown_escape(
        f'Percent. balanced: mean over classes; many, medium, few: mean over the classes with more than {many}, '
        f'{few} to {many} and fewer than {few} training images; worst: lowest class; ece: expected calibration error.')


_CHOSEN = {
    True: 'The weights and the figures above are of that epoch; nothing was chosen on the split they are measured on.',
    False: 'That is the split of the figures above, and they are of the last epoch; the best is no fair estimate.',
}


def _best(best: Mapping[str, Any]) -> str:
    value, epoch = best.get('value'), best.get('epoch')
    value = f'{value:.2f}' if isinstance(value, int | float) else value
    epoch = epoch + 1 if isinstance(epoch, int) else epoch  # programs count from 0, see report.json
    return markdown_escape(f"Best {best.get('metric')}: {value} at epoch {epoch} (counted from 1), "
                           f"chosen on {best.get('chosen_on')}. {_CHOSEN[best.get('chosen_on') == 'holdout']}")


def _difference(teacher: Mapping[str, Any], student: Mapping[str, Any], prior: ClassPrior) -> str:
    """Teacher, student and their difference over all classes (balanced) and over those of each shot group."""
    groups = {'balanced': list(range(prior.num_classes)), **group_classes(prior)}
    lines = []
    for name, classes in groups.items():
        before, after = teacher.get(name), student.get(name)
        gain = None if before is None or after is None else after - before
        images = int(prior.counts[classes].sum())
        lines.append([name, len(classes), images, figure(before), figure(after), figure(gain, sign=True)])
    return markdown_grid(['', 'classes', 'training images', 'teacher', 'student', 'difference'], lines)


def _flatten(facts: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
    for key, value in facts.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', value


def _bullets(lines: Sequence[str] | Iterator[str]) -> str:
    return '\n'.join(f'- {markdown_escape(line)}' for line in lines)
