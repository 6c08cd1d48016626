"""What several runs in one process have in common, made once."""
from collections.abc import Callable, Hashable
from typing import TypeVar

T = TypeVar('T')


class Shared:
    """Remembers what was made under a name; a run that is alone has one of its own."""

    def __init__(self):
        self._made: dict[Hashable, object] = {}

    def once(self, name: Hashable, make: Callable[[], T]) -> T:
        """What `make` returned when this name was first asked for."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]
