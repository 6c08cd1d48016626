"""How much memory there is."""
from pathlib import Path

import psutil

_CGROUPS = Path('/sys/fs/cgroup')
_OWN_GROUPS = Path('/proc/self/cgroup')


def machine_memory() -> int:
    """Bytes of this machine, or of the container that this process is in: all there is, whatever is in use."""
    return min([psutil.virtual_memory().total, *_limits()])


def _limits() -> list[int]:
    """What the control groups of this process, and those that they are in, may use at most."""
    try:
        lines = _OWN_GROUPS.read_text(encoding='utf-8').splitlines()
    except OSError:  # not Linux
        return []
    limits = []
    for line in lines:
        _, controllers, path = line.split(':', 2)
        if not controllers:  # version 2
            top, name = _CGROUPS, 'memory.max'
        elif 'memory' in controllers.split(','):
            top, name = _CGROUPS / 'memory', 'memory.limit_in_bytes'
        else:
            continue
        group = top / path.lstrip('/')
        texts = [_read(folder / name) for folder in (group, *group.parents)]
        limits += [int(text) for text in texts if text.isdecimal()]  # it may be 'max'
    return limits


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding='utf-8').strip()
    except OSError:  # a container sees its own group as the topmost
        return ''
