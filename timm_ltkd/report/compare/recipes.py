"""Runs that differ in their seed alone are one recipe; which options tell one recipe from another."""
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import UserError
from ...options import MANNER, PLACE
from ..table import Grid
from ..text import flag, words
from .runs import FinishedRun

# no reason to tell two runs apart: the seed, and what makes one fast as well
_ASIDE = PLACE | MANNER | {'seed', 'seeds', 'dataset_download', 'teacher_bank', 'bank_features'}
_CHOOSING = ('val_interval', 'eval_metric')  # which change a network where they choose its epoch or its schedule
_DISTILLS = ('kd', 'teacher', 'bank')  # how options that only distill.py has begin
_TRAINS = ('stage',)  # and those of train.py
_ALWAYS_TOLD = ('kd', 'teacher')  # also between a distilled network and one that was not


class Recipe(NamedTuple):
    """Runs with the same options but for the seed, and what to call them."""
    name: str
    runs: Sequence[FinishedRun]


def find_recipes(runs: Sequence[FinishedRun]) -> list[Recipe]:
    """The recipes in order of their first run.

    Raises:
        UserError: A folder that is named twice.
    """
    places = [os.path.realpath(run.folder) for run in runs]
    for index, place in enumerate(places):
        if place in places[:index]:
            raise UserError(f"'{runs[index].folder}' is named twice")
    found: dict[str, list[FinishedRun]] = {}
    for run in runs:
        there = {key: value for key, value in _options(run).items() if not _is_off(key, value)}
        found.setdefault(json.dumps(there, sort_keys=True), []).append(run)
    groups = list(found.values())
    return [Recipe(name, group) for name, group in zip(_names(groups), groups, strict=True)]


def differing_options(recipes: Sequence[Recipe]) -> Grid | None:
    """A line for each recipe, a column for each option that is not the same in all; None where there is none.

    Options that only train.py or only distill.py has are no difference between a run of one and a run of the other.
    """
    options = [_options(recipe.runs[0]) for recipe in recipes]
    columns = [key for key in dict.fromkeys(key for each in options for key in each) if _differs(key, options)]
    cells = [[_told(each, key) for key in columns] for each in options]
    seeds = [words(sorted({run.options.get('seed') for run in recipe.runs}, key=str)) for recipe in recipes]
    if len(set(seeds)) > 1:
        columns.append('seed')
        cells = [[*line, own] for line, own in zip(cells, seeds, strict=True)]
    heads = [key if key in ('network', 'precision', 'processes') else flag(key) for key in columns]
    lines = [[recipe.name, *line] for recipe, line in zip(recipes, cells, strict=True)]
    return Grid(['', *heads], lines) if columns else None


def _options(run: FinishedRun) -> dict[str, Any]:
    options = {'network': run.names['student']} | run.options | run.facts
    aside = {*_ASIDE, 'model', 'student'}
    if not options.get('holdout') and options.get('sched') != 'plateau':
        aside.update(_CHOOSING)
    if options.get('teacher_tune') == 'none':
        aside.add('teacher_seed')  # of a training that there was not
    return {key: value for key, value in options.items() if key not in aside}


def _differs(key: str, options: Sequence[dict[str, Any]]) -> bool:
    values = [None if _is_off(key, each.get(key)) else each[key] for each in options if _can_have(each, key)]
    return len({json.dumps(value, sort_keys=True) for value in values}) > 1


def _is_off(key: str, value: Any) -> bool:
    """As if there were no such option, as when a run was made before there was; but for those with a third value."""
    return value is None or value is False and key != 'teacher_pretrained'


def _can_have(options: dict[str, Any], key: str) -> bool:
    if key in _ALWAYS_TOLD:
        return True
    return not key.startswith(_TRAINS if 'kd' in options else _DISTILLS)


def _told(options: dict[str, Any], key: str) -> str:
    return words(options[key]) or '-' if key in options else '-'


def _names(groups: Sequence[Sequence[FinishedRun]]) -> list[str]:
    """The folder's name, without the seed where there are several; that of the folder above, if the seed is all of the
    name; with the folders above it where names clash."""
    stems = [_stem([Path(run.folder) for run in group]) for group in groups]
    short = [stem.name or str(stem) for stem in stems]
    names = [own if short.count(own) == 1 else str(stem) if len(group) > 1 else str(group[0].folder)
             for stem, own, group in zip(stems, short, groups, strict=True)]
    names = [f'{name} {index}' if names.count(name) > 1 else name for index, name in enumerate(names, start=1)]
    return [f'{name} ({_how_many(group)})' if len(group) > 1 else name
            for name, group in zip(names, groups, strict=True)]


def _how_many(group: Sequence[FinishedRun]) -> str:
    seeds = len({run.options.get('seed') for run in group})
    return f'{seeds} seeds' if seeds == len(group) else f'{len(group)} runs, {seeds} seed{"s" if seeds > 1 else ""}'


def _stem(folders: Sequence[Path]) -> Path:
    first = folders[0] if folders[0].name not in ('', '..') else folders[0].resolve()
    stems = {re.sub(r'[-_. ]*seed[-_ ]?\d+$', '', folder.name) for folder in folders}
    if stems == {''} and len(above := {folder.resolve().parent for folder in folders}) == 1:
        return above.pop()
    if len(folders) == 1:
        return first
    return first.with_name(stems.pop()) if len(stems) == 1 and '' not in stems else first
