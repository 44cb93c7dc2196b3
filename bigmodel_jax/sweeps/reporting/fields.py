"""The fields in which arms differ, read from their JSON, so that no class of a person's own need be loaded."""

import re
from collections.abc import Mapping
from typing import Any

from bigmodel_jax import config, differences
from bigmodel_jax.sweeps import trials

ABSENT = config.MISSING


def changes(baseline: Mapping[str, Any], arm: Mapping[str, Any]) -> dict[str, tuple[object, object]]:
    """Path -> (value of the baseline, value of the arm), without what does not change the result.

    Args:
      baseline, arm: experiments as JSON.
    """
    there, here = ({name: value for name, value in each.items() if name not in trials.CIRCUMSTANCES}
                   for each in (baseline, arm))  # fmt: skip
    return {path: (before, after) for path, before, after in differences.whole(there, here)}


def value(arm: Mapping[str, Any], path: str) -> object:
    """What an arm has at a path; ABSENT where it has no such field, as a tree of JSON where there are fields below."""
    node: Any = arm
    for part in path.split('.'):
        if isinstance(node, Mapping) and part in node:
            node = node[part]
        elif isinstance(node, list) and part.isdecimal() and int(part) < len(node):
            node = node[int(part)]
        else:
            return ABSENT
    return node


def shown(found: object) -> str:
    """A value of a field for a reader: 0.001, True, PostNorm(norm=RmsNorm)."""
    if not isinstance(found, Mapping) or config.CLASS_KEY not in found:
        return str(found)
    parts = [f'{name}={shown(each)}' for name, each in found.items() if isinstance(each, Mapping)]
    name = re.split('[.:]', str(found[config.CLASS_KEY]))[-1]
    return f'{name}({", ".join(parts)})' if parts else name


def is_number(found: object) -> bool:
    """Whether a value is a number: True and False are none."""
    return isinstance(found, int | float) and not isinstance(found, bool)


def short(path: str) -> str:
    """The last part of a path that is not a number."""
    parts = [part for part in path.split('.') if not part.isdecimal()]
    return parts[-1] if parts else path
