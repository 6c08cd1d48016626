"""What a report says in words and tables, whatever it is written in."""
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import first_few
from ..prior import ClassPrior
from .profile import by_images, group_classes, group_of
from .table import Grid, figure


def legend(prior: ClassPrior) -> str:
    """What the columns of the table of figures are."""
    return (
        f'Percent. balanced: mean over classes; many, medium, few: mean over the classes with more than {prior.many}, '
        f'{prior.few} to {prior.many} and fewer than {prior.few} training images; worst: lowest class; '
        'ece: expected calibration error.')


_CHOSEN = {
    True: 'The weights and the figures above are of that epoch; nothing was chosen on the split they are measured on.',
    False: 'That is the split of the figures above, and they are of the last epoch; the best is no fair estimate.',
}
_STEERED = (
    'That is the split of the figures above, which are of the last epoch; it steered the learning rate too '
    '(--sched plateau), so they are no fair estimate either.')


def unmeasured(report: Mapping[str, Any], class_names: Sequence[str] | None) -> str:
    """That classes without a test image are in no figure, and which; empty if there are none.

    Args:
        report: Of one network.
        class_names: Names by class index, `[C]`; the index alone is told without them.
    """
    lacking = [c for c, accuracy in enumerate(report['per_class']) if accuracy is None]
    if not lacking:
        return ''
    names = first_few([str(class_names[c]) if class_names else str(c) for c in lacking])
    return f"{len(lacking)} of {len(report['per_class'])} classes without a test image are in no figure: {names}"


def told_best(best: Mapping[str, Any], options: Mapping[str, Any] | None = None) -> str:
    """Which epoch was the best one, and what that means for the figures.

    Args:
        best: As report.json has it.
        options: Of the run.
    """
    value, epoch = best.get('value'), best.get('epoch')
    value = f'{value:.2f}' if isinstance(value, int | float) else value
    epoch = epoch + 1 if isinstance(epoch, int) else epoch  # programs count from 0, see report.json
    held_out = best.get('chosen_on') == 'holdout'
    told = _STEERED if not held_out and (options or {}).get('sched') == 'plateau' else _CHOSEN[held_out]
    return (f"Best {best.get('metric')}: {value} at epoch {epoch} (counted from 1), chosen on "
            f"{best.get('chosen_on')}. {told}")


def difference_grid(teacher: Mapping[str, Any], student: Mapping[str, Any], prior: ClassPrior) -> Grid:
    """Teacher, student and their difference over all classes (balanced) and over those of each shot group."""
    groups = {'balanced': list(range(prior.num_classes)), **group_classes(prior)}
    lines = []
    for name, classes in groups.items():
        before, after = teacher.get(name), student.get(name)
        figures = [figure(before), figure(after), figure(gain(before, after), sign=True)]
        measured = len(classes) - sum(student['per_class'][c] is None for c in classes)
        size = len(classes) if measured == len(classes) else f'{measured} of {len(classes)}'
        lines.append([name, size, int(prior.counts[classes].sum()), *figures])
    return Grid(['', 'classes', 'training images', 'teacher', 'student', 'difference'], lines)


def per_class_grid(
        reports: Mapping[str, Mapping[str, Any]],
        prior: ClassPrior,
        class_names: Sequence[str],
        difference: tuple[str, str] | None = None,
) -> Grid:
    """A line for each class, most training images first.

    Args:
        reports: By the name of their column.
        prior: Counts of the training set, and the boundaries of the shot groups.
        class_names: Names by class index, `[C]`.
        difference: Two of the reports: a last column says how much the second is above the first.
    """
    groups, images = group_of(prior), prior.counts.long().tolist()
    pair = [reports[name]['per_class'] for name in difference or ()]
    lines = []
    for index in by_images(prior).tolist():
        line = [class_names[index], index, images[index], groups[index]]
        line += [figure(report['per_class'][index]) for report in reports.values()]
        line += [figure(gain(pair[0][index], pair[1][index]), sign=True)] if pair else []
        lines.append(line)
    return Grid(['class', 'index', 'training images', 'group', *reports, *(['difference'] if pair else [])], lines)


def mistakes_grid(report: Mapping[str, Any], prior: ClassPrior, class_names: Sequence[str]) -> Grid | None:
    """Which class is taken for which other one most often; None where the report does not say, or there is none.

    Args:
        report: With `mistakes` of `timm_ltkd.metrics`, perhaps.
        prior: Counts of the training set.
        class_names: Names by class index, `[C]`.
    """
    images = prior.counts.long().tolist()
    lines = [
        [class_names[pair['class']], class_names[pair['taken_for']], images[pair['class']], images[pair['taken_for']],
         f'{pair["images"]} of {pair["of"]}'] for pair in report.get('mistakes') or ()]
    header = ['class', 'taken for', 'training images', 'training images of that', 'images']
    return Grid(header, lines) if lines else None


def row_name(role: str, run: Mapping[str, Any]) -> str:
    """What the rows of a role, `student` or `teacher`, are called."""
    return f'{role} {run[role]}' if isinstance(run.get(role), str) else role


def gain(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def flatten(facts: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Facts of facts as `outer.inner`."""
    for key, value in facts.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', value


def loading_code(folder: str) -> str:
    """Python that loads the network of a run's folder."""
    return f"import timm, timm_ltkd\n\nnetwork = timm.create_model({f'local-dir:{folder}'!r}, pretrained=True)"


def repeating_command(config: str, run: Mapping[str, Any]) -> str:
    """The command that repeats a run; for a POSIX shell.

    Args:
        config: Its args.yaml.
        run: Facts of the run.
    """
    words = ['accelerate', 'launch']
    if run.get('precision') in ('no', 'bf16', 'fp16'):
        words += ['--mixed_precision', run['precision']]
    processes = run.get('processes')
    on_cpus = False
    if isinstance(processes, int):  # told always, as Accelerate otherwise starts one a GPU
        on_cpus = processes > 1 and str(run.get('hardware')).startswith('cpu')
        words += [*(['--multi_gpu'] if on_cpus else []), '--num_processes', str(processes)]
    command = shlex.join([*words, 'distill.py' if run.get('method') else 'train.py', '-c', config])
    return f'ACCELERATE_USE_CPU=true {command}' if on_cpus else command
