"""All runs that are planned, trained to the end."""
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from itertools import zip_longest

from accelerate import Accelerator
from torch import nn

from ...distill import DistillMethod, Teacher, TeacherEnsemble, share_teacher
from ..fit import Result, Run, fit
from ..processes.launch import create_accelerator
from ..run_data import Data
from ..run_folder.folder import RunFolder
from ..shared import Shared
from .asked import SomeFailed, seed_name
from .in_turn import fit_in_turn, why_in_turn
from .together import Together

Plan = tuple[Namespace, nn.Module, RunFolder]


def fit_all(
        plans: Sequence[Plan],
        accelerator: Accelerator,
        data: Data,
        teacher: Teacher | TeacherEnsemble | None = None,
        methods: Sequence[DistillMethod] = (),
) -> tuple[Sequence[Plan], list[Result], SomeFailed | None]:
    """Train the one run that is planned, or several, at once where that is possible.

    Args:
        plans: Options, network and folder of each.
        teacher: What all learn from.
        methods: How each learns.

    Returns:
        The plans of the runs that came to their end, their results, and what was wrong with the others of several.
    """
    if len(plans) == 1:
        (own, network, folder), method = plans[0], next(iter(methods), None)
        return plans, [fit(own, accelerator, data, network, folder, teacher=teacher, method=method)], None
    if teacher is not None:
        teacher.to(accelerator.device)  # before it is shared
    shared, failed = Shared(), None
    try:
        if reason := why_in_turn(plans[0][0], accelerator):
            results = fit_in_turn({
                seed_name(own): partial(
                    fit, own, accelerator, data, network, folder, teacher=teacher, method=method, shared=shared)
                for (own, network, folder), method in zip_longest(plans, methods)}, accelerator, reason)
        else:
            results = _fit_at_once(plans, data, teacher, methods, shared)
    except SomeFailed as e:
        results, failed = e.results, e
    ended = [plan for plan in plans if seed_name(plan[0]) in results]
    return ended, [results[seed_name(own)] for own, _, _ in ended], failed


def _fit_at_once(
        plans: Sequence[Plan],
        data: Data,
        teacher: Teacher | TeacherEnsemble | None,
        methods: Sequence[DistillMethod],
        shared: Shared,
) -> dict[str, Result]:
    """Train several runs in threads; their results by name."""
    together = Together()
    with ExitStack() as stack:
        for i, ((own, network, folder), method) in enumerate(zip_longest(plans, methods)):
            run = Run(
                own, create_accelerator(own.log_with), data, network, folder,
                teacher=share_teacher(teacher) if teacher and i else teacher,  # the first makes what others share
                method=method, shared=shared)
            stack.enter_context(run.guarded())
            together.add(seed_name(own), run)
        return together.fit()
