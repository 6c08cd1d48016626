"""The plain part of YAML, which is all that a file of options needs: no tags, no anchors, no key twice."""
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from .errors import UserError, last_line, reason


class _Loader(yaml.SafeLoader):
    """YAML's safe part without what can hide a mistake, or blow a small file up to a large one."""

    def compose_node(self, parent, index):
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _mistake('anchors and aliases (& and *) are not read; write the value out, or quote it', event)
        if event.tag is not None:
            raise _mistake(f'tags (here {event.tag}) are not read; leave it out, or quote the value', event)
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise _mistake('a key is a list or a mapping; name an option', key_node)
            if key in seen:
                raise _mistake(f'the key {key!r} comes twice; keep one of them', key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads: one list in two places is written twice."""

    def ignore_aliases(self, data):
        return True


# 010 and 12:30 are no numbers in base 8 and 60, but what the option makes of them, as on the command line
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if not tag.endswith((':int', ':float'))]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver('tag:yaml.org,2002:int', re.compile(r'[-+]?(0|[1-9][0-9]*)$'), list('-+0123456789'))
_Loader.add_implicit_resolver(
    'tag:yaml.org,2002:float', re.compile(r'[-+]?([0-9]+\.[0-9]*|\.[0-9]+|\.(inf|Inf|INF))$|\.(nan|NaN|NAN)$'),
    list('-+.0123456789'))
for _each in (_Loader, _Dumper):  # 1e-4 is a number, as on the command line (YAML 1.1 wants 1.0e-4)
    _each.add_implicit_resolver(
        'tag:yaml.org,2002:float', re.compile(r'[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$'),
        list('-+.0123456789'))


def _mistake(what: str, place) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=what, problem_mark=place.start_mark)


def load_yaml(text: str, name: str) -> Any:
    """What a YAML text says.

    Args:
        text: One document.
        name: What to call it in messages.

    Raises:
        UserError: It is no YAML, or more than its plain part.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as e:
        mark = getattr(e, 'problem_mark', None)
        where = f' line {mark.line + 1}' if mark else ''
        raise UserError(f'{name}{where}: not valid YAML ({getattr(e, "problem", None) or type(e).__name__})') from None
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as e:
        # PyYAML lets through what Python says of a day 2001-13-45, of 6,000 digits, of brackets 3,000 deep
        raise UserError(f'{name}: not valid YAML ({last_line(e)})') from None


def read_yaml(path: str | Path) -> Any:
    """What a YAML file says.

    Raises:
        UserError: It cannot be read, or as `load_yaml`.
    """
    try:
        text = Path(path).read_text(encoding='utf-8')
    except (OSError, ValueError) as e:  # ValueError: no UTF-8, or a path that cannot be one
        raise UserError(f'cannot read the config file {path}: {reason(e)}') from None
    return load_yaml(text, str(path))


def dump_yaml(value: Any) -> str:
    """A value as YAML with sorted keys, which `load_yaml` reads."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=True, allow_unicode=True)
