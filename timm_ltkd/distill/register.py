"""Classes by the names that users give; methods and losses have a register each."""
import inspect
from collections.abc import Callable
from typing import TypeVar

from ..errors import UserError, nearest

Class = TypeVar('Class', bound=type)


def enter(register: dict[str, Class], what: str, name: str) -> Callable[[Class], Class]:
    """Class decorator: make a class known under a name, in the place of one that the same code made before.

    Raises:
        UserError: Another class has the name; a dot in it, which parts the name of a method from that of an option.
    """
    if '.' in name:
        raise UserError(f"a {what} cannot be called '{name}': choose a name without a dot")

    def add(cls: Class) -> Class:
        known = register.get(name, cls)
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise UserError(f"a {what} '{name}' is registered already, by {known.__module__}: choose another name")
        register[name] = cls
        return cls
    return add


def describe(register: dict[str, Class]) -> dict[str, str]:
    """The first line of each docstring, sorted by name."""
    return {name: (inspect.getdoc(register[name]) or '').partition('\n')[0] for name in sorted(register)}


def look_up(register: dict[str, Class], name: str, unknown: str) -> Class:
    """What has the name; a UserError if nothing has, which says what is unknown, and the nearest."""
    if name not in register:
        raise UserError(f'{unknown}{nearest(name, register)}')
    return register[name]
