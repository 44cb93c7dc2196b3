"""Where two JSON values differ, such as two experiments of which one need not load."""

from typing import Any

from bigmodel_jax import config

# Fields of an experiment that say where and how often, not what: they may change within a run.
CIRCUMSTANCES = ('mesh', 'checkpoints', 'watch', 'workers', 'claims', 'requires')


def between(left: Any, right: Any, path: str = '') -> list[config.Difference]:
    """Every place where two JSON values differ, with configs as text; those of different classes differ as a whole."""
    return [config.Difference(where, _short(a), _short(b)) for where, a, b in whole(left, right, path)]


def whole(left: Any, right: Any, path: str = '') -> list[config.Difference]:
    """between() with the configs as they are in JSON."""
    if isinstance(left, dict) and isinstance(right, dict) and left.get('class') == right.get('class'):
        names = list(dict.fromkeys([*left, *right]))
        pairs = [(name, left.get(name, config.MISSING), right.get(name, config.MISSING)) for name in names]
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        pairs = [(str(i), a, b) for i, (a, b) in enumerate(zip(left, right))]
    else:
        return [] if left == right else [config.Difference(path, left, right)]
    return [found for name, a, b in pairs for found in whole(a, b, config.join(path, name))]


def _short(value: Any) -> Any:
    """A config in JSON as its class's name and fields."""
    if not isinstance(value, dict) or 'class' not in value:
        return value
    fields = ', '.join(f'{name}={_short(item)!r}' for name, item in value.items() if name != 'class')
    return f'{str(value["class"]).rpartition(":")[2]}({fields})'
