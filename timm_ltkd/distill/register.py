"""Classes by the names and options that users give; methods and losses have a register each."""
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from ..errors import UserError, nearest
from ..prior import check_prior

CONTEXT = {  # what a class may ask for that is no option, and what to say where it is missing
    'prior': 'balances by class: pass prior=ClassPrior(class counts of the training set)',
    'student_features': 'compares features: pass student_features=feature_dim(student)',
    'teacher_features': 'compares features: pass teacher_features=feature_dim(teacher)',
}
Class = TypeVar('Class', bound=type)


def enter(register: dict[str, Class], what: str, name: str, base: type) -> Callable[[Class], Class]:
    """Class decorator: make a class known under a name, in the place of one that the same code made before.

    Raises:
        UserError: Another class has the name; a dot in it, which parts the name of a method from that of an option;
            something else than a subclass of `base`.
    """
    if '.' in name:
        raise UserError(f"a {what} cannot be called '{name}': choose a name without a dot")

    def add(cls: Class) -> Class:
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise UserError(f"the {what} '{name}' is no subclass of timm_ltkd.distill.{base.__name__}; make it one")
        known = register.get(name, cls)
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise UserError(f"a {what} '{name}' is registered already, by {known.__module__}: choose another name")
        register[name] = cls
        return cls
    return add


def describe(register: dict[str, Class]) -> dict[str, str]:
    """The first line of each docstring, sorted by name."""
    return {name: inspect.cleandoc(register[name].__doc__ or '').partition('\n')[0] for name in sorted(register)}


def look_up(register: dict[str, Class], name: str, unknown: str) -> Class:
    """What has the name; a UserError if nothing has, which says what is unknown, and the nearest."""
    if name not in register:
        raise UserError(f'{unknown}{nearest(name, register)}')
    return register[name]


def options_of(factory: Callable) -> list[str]:
    """Parameters of a class or function that are no context."""
    parameters = inspect.signature(factory).parameters.values()
    named = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]  # torch's own __init__
    return [name for name in named if name not in CONTEXT]


def make(
        factory: Callable,
        what: str,
        options: Mapping[str, Any],
        context: Mapping[str, Any],
        known: Sequence[str],
) -> Any:
    """Call a class or function with options, and with what is known of data and networks where it asks for that.

    Args:
        factory: Its parameters say what it takes.
        what: Its name in messages.
        options: By name.
        context: What is known, by the names of `CONTEXT`; None is not known.
        known: Which options there are; its own, see `options_of`, and those that the caller handles.

    Raises:
        UserError: Unknown option (the nearest is named), something that is needed and not known, or a prior that is no
            `ClassPrior`.
    """
    if context.get('prior') is not None:
        check_prior(context['prior'])
    for key in options:
        if key not in known:
            raise UserError(f"{what} has no option '{key}'{nearest(key, known)}")
    parameters = inspect.signature(factory).parameters
    asked = {key: context.get(key) for key in CONTEXT if key in parameters}
    for key, value in asked.items():
        if value is None and parameters[key].default is inspect.Parameter.empty:
            raise UserError(f'{what} {CONTEXT[key]}')
    needed = [key for key in options_of(factory) if parameters[key].default is inspect.Parameter.empty]
    if missing := [key for key in needed if key not in options]:
        raise UserError(f"{what} needs the option '{missing[0]}'")
    return factory(**asked, **options)
