"""Student, teacher and method as one timm training task."""
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from timm.models import group_parameters
from timm.optim import auto_group_layers
from timm.task import TrainingTask
from timm.utils import unwrap_model
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import UserError
from .checks import check_hard_labels, check_scalar
from .ensemble import TeacherEnsemble
from .losses import CrossEntropy, HardLabelLoss
from .method import DistillMethod
from .output import Output, compile_output, model_output
from .pixels import normalisation
from .several import SeveralMethods
from .teacher import Teacher

_RESULT = ('loss', 'output', 'task_loss')


class StudentWithMethod(nn.Module):
    """The trainable part of a `DistillTask`: one forward, so that DDP and compile see all that gets gradients."""

    def __init__(self, student: nn.Module, method: DistillMethod):
        super().__init__()
        self.student = student
        self.method = method

    def forward(
            self,
            input: torch.Tensor,
            teacher: Output | tuple[Output, ...],
            target: torch.Tensor,
    ) -> tuple[torch.Tensor, dict]:
        output = model_output(self.student, input, self.method.needs_features)
        return output.logits, self.method(output, teacher, target)

    def no_weight_decay(self) -> set[str]:
        student = unwrap_model(self.student)
        names = student.no_weight_decay() if hasattr(student, 'no_weight_decay') else ()
        return {f'student.{name}' for name in names}

    def group_matcher(self, coarse: bool = False):
        """Layer of each parameter for timm's layer decay; what the method owns counts as the last layer."""
        student = unwrap_model(self.student)
        if hasattr(student, 'group_matcher'):
            layers = group_parameters(student, student.group_matcher(coarse=coarse), reverse=True)
        else:  # as timm groups a network that does not say: one layer after the other
            layers = auto_group_layers(student)
        last = max(layers.values(), default=0)
        return lambda name: layers.get(name.removeprefix('student.'), last)


class DistillTask(TrainingTask):
    """Distil a frozen teacher into a student; any timm models, any `DistillMethod`.

    `task(input, target)` returns a dict: `loss` to call backward on, `output` (student logits `[B, C]`), `task_loss`
    (the hard-label criterion) and the method's terms by name; `loss` is the sum of `task_loss` and the terms. `input`
    is a batch `[B, channels, H, W]`, or a pair of them (a tuple or a list): the same images for the student and, of
    another size, for the teacher, both normalised for the student. `task(input, target, taught)` takes what the teacher
    says (see `ask_teacher`) and does not ask it.
    Optimise `task.get_trainable_module()`: the student and what the method owns, never the teacher.

    Args:
        student: The network to train.
        teacher: The network to learn from, a `Teacher`, or a `TeacherEnsemble`.
        method: How, from `create_method` or `create_methods`.
        criterion: Hard-label loss of (logits, target); None is plain cross-entropy.
        mean: Mean that inputs were normalised with; the student's own (its `pretrained_cfg`) if not given.
        std: Likewise the standard deviation.
        device: Where to put student, teacher and method; None leaves them.
        dtype: Of student, teacher and method; None leaves them. Class weights are rounded with the rest: for bfloat16
            autocast is better.
        verbose: Accepted for timm's interface.

    Raises:
        UserError: An argument of another kind; teacher and student that share parameters, or have different numbers
            of classes; methods for a teacher each, and another number of teachers; a student that the hard-label loss
            must prepare first, and has not.
    """

    def __init__(
            self,
            student: nn.Module,
            teacher: nn.Module | Teacher | TeacherEnsemble,
            method: DistillMethod,
            criterion: nn.Module | None = None,
            *,
            mean: tuple[float, ...] | None = None,
            std: tuple[float, ...] | None = None,
            device: torch.device | None = None,
            dtype: torch.dtype | None = None,
            verbose: bool = True,
    ):
        _check_kinds(student, teacher, method, criterion)
        super().__init__(device=device, dtype=dtype, verbose=verbose)
        self.teacher = teacher if isinstance(teacher, Teacher | TeacherEnsemble) else Teacher(teacher)
        raw_student = unwrap_model(student)
        _check_pairs(self.teacher, method)
        if hasattr(raw_student, 'num_classes'):
            self.teacher.check_label_space(raw_student.num_classes)
        own_mean, own_std = normalisation(raw_student)
        self._normalised = own_mean if mean is None else mean, own_std if std is None else std
        self.teacher.expect_input(*self._normalised)
        self.criterion = criterion if criterion is not None else CrossEntropy()
        if isinstance(criterion, HardLabelLoss):
            criterion.check_prepared(raw_student)
        self.trainable_module: nn.Module = StudentWithMethod(student, method)
        if device is not None or dtype is not None:
            self.to(device=device, dtype=dtype)

    @property
    def method(self) -> DistillMethod:
        return unwrap_model(self.trainable_module).method

    @property
    def lessons(self) -> list[tuple[Teacher | TeacherEnsemble, DistillMethod]]:
        """Who teaches by which method: one pair, or one for each of `SeveralMethods`."""
        if not isinstance(self.method, SeveralMethods):
            return [(self.teacher, self.method)]
        methods = cast(list[DistillMethod], list(self.method.methods.values()))
        teachers = self.teacher.members if self.method.separate else [self.teacher] * len(methods)
        return list(zip(teachers, methods, strict=True))

    def set_epoch(self, epoch: int) -> None:
        """Tell the method (and the criterion, if it has a schedule) which epoch begins, counted from 0."""
        self.method.set_epoch(epoch)
        if hasattr(self.criterion, 'set_epoch'):
            cast(Any, self.criterion).set_epoch(epoch)

    def forward(
            self,
            input: torch.Tensor | Sequence[torch.Tensor],
            target: torch.Tensor,
            taught: Output | tuple[Output, ...] | None = None,
    ) -> dict[str, torch.Tensor]:
        student_input, teacher_input = input if isinstance(input, tuple | list) else (input, input)
        if self.method.needs_hard_labels:
            needs = [part for part in self.method.modules() if getattr(part, 'needs_hard_labels', False)][-1]
            target = check_hard_labels(type(needs).__name__, target, len(student_input))  # the innermost, by its name
        taught = self.ask_teacher(teacher_input) if taught is None else taught
        logits, terms = self.trainable_module(student_input, taught, target)
        _check_terms(self.method, terms)
        task_loss = self.criterion(logits, target)
        check_scalar(type(self.criterion).__name__, 'loss', task_loss)
        loss = task_loss + sum(terms.values())
        return {'loss': loss, 'output': logits, 'task_loss': task_loss, **terms}

    def ask_teacher(
            self, input: torch.Tensor, needs_features: Sequence[bool] | None = None) -> Output | tuple[Output, ...]:
        """What the teacher says of a batch `[B, channels, H, W]`; of each of several where each has its own method.

        Args:
            input: The teacher's images.
            needs_features: Of which of them to return features, for one of them too; None as the methods need them.
        """
        self.teacher.expect_input(*self._normalised)  # if another task has told it otherwise meanwhile
        if not self.method.separate:
            return self.teacher(input, self.method.needs_features if needs_features is None else needs_features[0])
        wanted = needs_features or [method.needs_features for _, method in self.lessons]
        return tuple(teacher(input, each) for (teacher, _), each in zip(self.lessons, wanted, strict=True))

    def prepare_distributed(self, device_ids: list | None = None, **ddp_kwargs) -> 'DistillTask':
        """Wrap the trainable module, and only it, in DDP."""
        self.trainable_module = DistributedDataParallel(self.trainable_module, device_ids=device_ids, **ddp_kwargs)
        return self

    def compile(  # type: ignore[override]  # as timm's TrainingTask has it
            self, backend: str = 'inductor', mode: str | None = None, **compile_kwargs) -> nn.Module:
        """Compile student and teacher in place, so that no wrapper gets into names or checkpoints."""
        student = cast(nn.Module, self.get_eval_model())
        for module in (student, *self.teacher.networks):
            compile_output(module, backend=backend, mode=mode, **compile_kwargs)
        return student

    def compile_ema(
            self, backend: str = 'inductor', mode: str | None = None, **compile_kwargs) -> nn.Module | None:
        """The same for the moving average, if there is one."""
        if not self.has_ema():
            return None
        average = cast(nn.Module, self.get_eval_model(ema=True))
        compile_output(average, backend=backend, mode=mode, **compile_kwargs)
        return average

    def get_eval_model(self, module: nn.Module | None = None, ema: bool = False) -> nn.Module | None:
        """The student (or its moving average) alone."""
        module = module if module is not None else self.get_trainable_module(ema=ema)
        return None if module is None else unwrap_model(module).student

    def get_clip_parameters(self, exclude_head: bool = False) -> list[nn.Parameter]:
        trainable = unwrap_model(self.trainable_module)
        student = list(trainable.student.parameters())
        return (student[:-2] if exclude_head else student) + list(trainable.method.parameters())

    def get_task_state(self, module: nn.Module | None = None, ema: bool = False) -> dict[str, Any]:
        """What the method owns, beside the student's weights."""
        module = module if module is not None else self.get_trainable_module(ema=ema)
        state = {} if module is None else unwrap_model(module).method.state_dict()
        return {'method': state} if state else {}

    def load_task_state(
            self,
            state: dict[str, Any] | None,
            strict: bool = True,
            module: nn.Module | None = None,
            ema: bool = False,
    ) -> None:
        module = module if module is not None else self.get_trainable_module(ema=ema)
        if state and module is not None:
            if 'method' not in state:
                raise UserError(
                    f"this task state holds {', '.join(map(str, state))} and not 'method': it is of another task")
            unwrap_model(module).method.load_state_dict(state['method'], strict=strict)


def _check_kinds(student: Any, teacher: Any, method: Any, criterion: Any) -> None:
    """Raise a UserError for an argument that is none, and for a student that would be frozen with its teacher."""
    for what, given, fits, instead in (
        ('student', student, isinstance(student, nn.Module), 'a network'),
        ('teacher', teacher, isinstance(teacher, nn.Module | str), 'a network, a Teacher, or a TeacherEnsemble([...])'),
        ('method', method, isinstance(method, DistillMethod), "what create_method('kd') returns"),
        ('criterion', criterion, criterion is None or callable(criterion), "what create_loss('ce') returns"),
    ):
        if not fits:
            raise UserError(f'DistillTask: {what} cannot be a {type(given).__name__}: give {instead}')
    taught = {id(parameter) for parameter in student.parameters()}
    if not isinstance(teacher, str) and any(id(parameter) in taught for parameter in teacher.parameters()):
        raise UserError(
            'DistillTask: student and teacher share parameters, and those of a teacher are frozen: give it a '
            'copy.deepcopy of the network')


def _check_terms(method: DistillMethod, terms: Any) -> None:
    """Raise a UserError if what a method returns are no terms by name, or have names that the result has itself."""
    if not isinstance(terms, Mapping):
        raise UserError(f'{type(method).__name__} returns a {type(terms).__name__}: give a dict, its terms by name')
    for name, term in terms.items():
        check_scalar(type(method).__name__, f"term '{name}'", term)
    for name in _RESULT:
        if name in terms:
            raise UserError(
                f"{type(method).__name__} calls a term '{name}', which the task's result has already: rename it")


def _check_pairs(teacher: Teacher | TeacherEnsemble, method: DistillMethod) -> None:
    """Raise a UserError where each method is to have a teacher of its own, and has not."""
    if isinstance(method, SeveralMethods) and method.separate:
        methods, teachers = len(method.methods), len(teacher.members)
        if methods != teachers or not isinstance(teacher, TeacherEnsemble):
            raise UserError(f'{methods} methods that have a teacher each: give a TeacherEnsemble of {methods}, not of '
                            f'{teachers}')
