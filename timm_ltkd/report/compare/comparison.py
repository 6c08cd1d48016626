"""What a comparison of runs comes to, before it is written."""
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ...errors import first_few
from ...prior import ClassPrior
from ..content import unmeasured
from ..table import COLUMNS, Grid, figures_grid, mean_per_class, spread
from .recipes import Recipe, differing_options, find_recipes
from .runs import FinishedRun, check_alike

_ROUNDING = 0.1  # points by which figures of one network may differ


class Comparison(NamedTuple):
    """Rows of a table, and what is to be said of them.

    Attributes:
        rows: Reports by row name: teachers, then recipes; of several seeds their means.
        deviations: Sample standard deviations by row name and figure, of rows of several seeds.
        recipes: By row name, those of `rows` that are no teachers.
        differences: The options that are not the same in all recipes; None where all are.
        notes: What the reader should know.
        prior: Counts of the training set of the first run, and the boundaries of the shot groups.
        class_names: `[C]`.
    """
    rows: Mapping[str, Mapping[str, Any]]
    deviations: Mapping[str, Mapping[str, float]]
    recipes: Mapping[str, Recipe]
    differences: Grid | None
    notes: Sequence[str]
    prior: ClassPrior
    class_names: Sequence[str]

    def students(self) -> dict[str, Mapping[str, Any]]:
        """The rows of the recipes."""
        return {name: self.rows[name] for name in self.recipes}

    def figures(self) -> Grid:
        """The table, with ± where a row is of several seeds."""
        return figures_grid(self.rows, self.deviations)


def compare_runs(runs: Sequence[FinishedRun], notes: Sequence[str] = ()) -> Comparison:
    """Put runs side by side.

    Args:
        runs: One at least, of `read_run`.
        notes: What the reader should know of them.

    Raises:
        UserError: Runs on other data, or one that is named twice.
    """
    notes = [*notes, *check_alike(runs), *filter(None, [unmeasured(runs[0].student, runs[0].class_names)])]
    recipes = find_recipes(runs)
    for recipe in recipes:
        seeds = [run.options.get('seed') for run in recipe.runs]
        notes += [f'{recipe.name}: there are several runs with seed {seed} and the same options'
                  for seed in sorted(set(seeds), key=str) if seeds.count(seed) > 1]
    groups = _teachers(recipes) | {recipe.name: [run.student for run in recipe.runs] for recipe in recipes}
    means = {name: _mean(reports) for name, reports in groups.items()}
    deviations = {
        name: spread(reports)['standard deviation'] for name, reports in groups.items() if len(reports) > 1}
    if deviations:
        notes.insert(0, '±: sample standard deviation over the runs of a row, of which the figure is the mean')
    return Comparison(
        means, deviations, {recipe.name: recipe for recipe in recipes}, differing_options(recipes), notes,
        runs[0].prior, runs[0].class_names)


def _teachers(recipes: Sequence[Recipe]) -> dict[str, list[Mapping[str, Any]]]:
    """Reports of the teachers by row name: of all recipes that share theirs, one row."""
    rows: list[tuple[str, list[str], list[Mapping[str, Any]]]] = []
    for recipe in recipes:
        reports, name = [], ''
        for run in recipe.runs:
            if run.teacher is not None and not any(_alike(run.teacher, other) for other in reports):
                reports.append(run.teacher)
                name = run.names['teacher']
        if same := [taught for _, taught, others in rows if reports and _all_alike(reports, others)]:
            same[0].append(recipe.name)
        elif reports:
            rows.append((f'teacher {name}', [recipe.name], reports))
    names = [name for name, _, _ in rows]
    return {
        f'{name} of {first_few(taught)}' if names.count(name) > 1 else name: reports for name, taught, reports in rows}


def _all_alike(reports: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> bool:
    return len(reports) == len(others) and all(map(_alike, reports, others))


def _alike(report: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two are of one network, perhaps measured on other hardware or in other batches, so that a few images of
    many change sides."""
    def close(value: Any, its: Any) -> bool:
        return value == its or None not in (value, its) and abs(value - its) <= _ROUNDING

    pairs = list(zip(report['per_class'], other['per_class'], strict=True))
    if any((one is None) != (another is None) for one, another in pairs):
        return False
    apart = statistics.fmean(abs((one or 0) - (another or 0)) for one, another in pairs)
    return apart <= _ROUNDING and all(close(report.get(key), other.get(key)) for key in COLUMNS if key != 'worst')


def _mean(reports: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    if len(reports) == 1:
        return reports[0]
    return spread(reports)['mean'] | {
        'per_class': mean_per_class(reports), 'num_samples': reports[0].get('num_samples')}
