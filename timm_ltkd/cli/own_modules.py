"""Modules of the user's own, imported before names of methods, losses and networks are looked up."""
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError, last_line, nearest


def import_modules(names: Sequence[str] | None) -> None:
    """Import modules by name, those of the working folder too, so that what they register is known.

    Args:
        names: As in an import statement: `my_method`, `my_package.losses`.

    Raises:
        UserError: There is no such module, or it fails.
    """
    if names and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that a file there hides nothing that is installed
    for name in names or ():
        if not all(part.isidentifier() for part in name.split('.')) or name.endswith('.py'):
            what = 'leave out folder and .py, as Python does'
            if os.path.isdir(name):
                what = 'a checkpoint comes before --import'
            raise UserError(f"--import: '{name}' is no name of a module; {what}")
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as e:
            if e.name and f'{name}.'.startswith(f'{e.name}.'):
                here = [file.stem for file in Path().glob('*.py')]
                raise UserError(
                    f"--import: there is no module '{name}', neither in {os.getcwd()} nor installed"
                    f'{nearest(name, here) if here else ""}') from None
            raise _failed(name, e) from e
        except Exception as e:  # whatever a stranger's module may raise
            raise _failed(name, e) from e


def _failed(name: str, error: Exception) -> UserError:
    return UserError(
        f'--import {name}: {type(error).__name__}: {last_line(error)}; python -c "import {name}" shows where')
