"""Several methods at once: of several teachers each its own, or all from the same one."""
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from ..errors import UserError, nearest
from ..prior import ClassPrior
from .method import DistillMethod, create_method, method_options
from .output import Output
from .register import CONTEXT


class SeveralMethods(DistillMethod):
    """Methods side by side: the mean over the teachers of the terms that each of them is taught by.

    With a method for each teacher (`separate`) a term so weighs 1/N of N teachers, and the loss has the scale of a
    single one's, however many there are. Of methods that share a teacher the terms are added, as if their formulas were
    written one behind the other. Both are our choice.

    Terms and statistics are named after their method, so that those of two methods can be told apart.

    Args:
        methods: By name: `teacher1`, `teacher2`, … or what else they are to be called.
        separate: `forward` takes a tuple with one teacher's output for each method, in order; else the one output that
            all learn from.

    Attributes:
        methods: The methods by name, a `ModuleDict`.

    Raises:
        UserError: No method.
    """

    def __init__(self, methods: Mapping[str, DistillMethod], *, separate: bool):
        super().__init__()
        if not methods:
            raise UserError('several methods are one at least, and there is none')
        self.methods = nn.ModuleDict(methods)
        self.separate = separate
        for what in ('needs_features', 'uses_logits', 'needs_hard_labels', 'corrects_prior', 'needs_class_means',
                     'by_spread'):
            setattr(self, what, any(getattr(method, what) for method in methods.values()))

    @property
    def _each(self) -> dict[str, DistillMethod]:
        return cast(dict[str, DistillMethod], dict(self.methods.items()))

    def set_epoch(self, epoch: int) -> None:
        for method in self._each.values():
            method.set_epoch(epoch)

    def set_class_means(self, means: torch.Tensor) -> None:
        """Tell the methods of a shared teacher its class means `[C, D]`; separate ones are told one by one."""
        if self.separate:
            raise UserError('each of these methods has a teacher of its own: give each of `methods` its class means')
        for method in self._each.values():
            if method.needs_class_means:
                method.set_class_means(means)

    def statistics(self) -> dict[str, torch.Tensor]:
        return {
            f'{name}.{key}': value for name, method in self._each.items()
            for key, value in method.statistics().items()}

    def reset_statistics(self) -> None:
        for method in self._each.values():
            method.reset_statistics()

    def describe_statistics(self, sums: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        report: dict[str, Any] = {}
        inert: list[str] = []
        for name, method in self._each.items():
            own = method.describe_statistics({
                key.removeprefix(f'{name}.'): value for key, value in sums.items() if key.startswith(f'{name}.')})
            inert += [f'{name} {part}' for part in own.pop('inert', ())]
            report |= {f'{name}_{figure}': value for figure, value in own.items()}
        return report | {'inert': inert} if report else {}

    def forward(
            self,
            student: Output,
            teacher: Output | tuple[Output, ...],
            target: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        teachers = teacher if self.separate else (teacher,) * len(self.methods)
        share = 1. / len(self.methods) if self.separate else 1.
        terms: dict[str, torch.Tensor] = {}
        for (name, method), output in zip(self.methods.items(), teachers, strict=True):
            for term, value in method(student, output, target).items():
                key = f'{name}_{term.removeprefix(f"{name}_")}'
                if key in terms:
                    raise UserError(f"two methods return a term that would be called '{key}': rename one of them")
                terms[key] = share * value
        return terms


def create_methods(
        names: str | Sequence[str],
        options: Mapping[str, Any] | None = None,
        *,
        prior: ClassPrior | None = None,
        student_features: int | None = None,
        teacher_features: int | None | Sequence[int | None] = (None,),
) -> DistillMethod:
    """One method, for however many teachers; a method for each of several teachers; or several for one.

    Args:
        names: One of `list_methods()`, or as many as there are teachers, or for one teacher as many as wanted.
        options: Of the methods, see `share_options`.
        prior: Class prior of the training set.
        student_features: Length of the student's pooled features, see `feature_dim`.
        teacher_features: The same of each teacher, None where it is not known; says how many teachers there are. A
            number is that of one teacher.

    Raises:
        UserError: Numbers that don't match, a name that a teacher has twice, or what `create_method` refuses.
    """
    names = [names] if isinstance(names, str) else list(names)
    teachers = list(teacher_features) if isinstance(teacher_features, Iterable) else [teacher_features]
    check_method_count(names, len(teachers))
    separate = len(names) > 1 and len(teachers) > 1
    if len(teachers) == 1:
        teachers *= len(names)
    methods = [
        create_method(name, prior=prior, student_features=student_features, teacher_features=features, **own)
        for name, features, own in zip(names, teachers, share_options(names, options or {}), strict=False)]
    if len(methods) == 1:
        return methods[0]
    labels = [f'teacher{i}' for i in range(1, len(methods) + 1)] if separate else names
    return SeveralMethods(dict(zip(labels, methods, strict=True)), separate=separate)


def check_method_count(names: Sequence[str], teachers: int, option: str = 'methods') -> None:
    """Whether so many teachers can teach by these methods.

    Args:
        names: Of the methods.
        teachers: How many there are.
        option: What to call the names in messages.

    Raises:
        UserError: Neither one method nor one for each, or one teacher that is to teach twice by the same.
    """
    if len(names) not in (1, teachers) and teachers != 1 or not names:
        raise UserError(
            f'{option}: {len(names)} for {teachers} teachers; name one for all, or one for each in the same order')
    if teachers == 1 and (twice := [name for name in names if names.count(name) > 1]):
        raise UserError(f"{option}: '{twice[0]}' twice for one teacher; name it once, and give it a larger weight")


def share_options(names: Sequence[str], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The options of each of several methods.

    Args:
        names: Of the methods.
        options: `key: value` is for every method that has this option, `name.key: value` for that method alone, where
            it wins.

    Raises:
        UserError: An option that none has, one for a method that is not there (the nearest is named), or what is
            known of data and networks, which is no option.
    """
    shared = {key: value for key, value in options.items() if '.' not in key}
    addressed = {tuple(key.split('.', 1)): value for key, value in options.items() if '.' in key}
    for key in options:
        if key.rpartition('.')[2] in CONTEXT:
            raise UserError(f"'{key}' is no option: it is an argument of its own, see create_methods")
    for name, key in addressed:
        if name not in names:
            raise UserError(f"'{name}.{key}': '{name}' is not among the methods{nearest(name, names)}")
    known = [method_options(name) for name in names]
    if len(names) == 1:  # which itself says what is wrong with its options
        known = [list(shared)]
    for key in shared:
        if not any(key in own for own in known):
            raise UserError(
                f"none of the methods {', '.join(names)} has an option '{key}'{nearest(key, set().union(*known))}")
    return [
        {key: value for key, value in shared.items() if key in own}
        | {key: value for (to, key), value in addressed.items() if to == name}
        for name, own in zip(names, known, strict=True)]
