"""An experiment as it will run: one field a line, as a tree, with where each value that is not a default came from."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
from rich import text

from bigmodel_jax import config, sharding
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.kernels import paths
from bigmodel_jax.objectives import objective
from bigmodel_jax.train import state

FILE = 'experiment file'
INDENT = '  '
# Origins start in this column at the least, so that those of short lines stand below one another.
ORIGIN_COLUMN = 56


class Row(NamedTuple):
    """One field of an experiment."""

    path: str
    depth: int
    name: str
    value: str  # As in an experiment file; of a part that has fields only its class, as its fields follow.
    origin: str | None  # Where it was set: 'arms.py:12', '--set ...' or FILE. None: the default.
    has_fields: bool


def rows(experiment: Any) -> list[Row]:
    """Every field of the tree, in the order of declaration, each part before its own fields."""
    return list(_rows(experiment, experiment, path='', default=dataclasses.MISSING))


def _rows(root: Any, node: Any, *, path: str, default: Any) -> Iterator[Row]:
    for name, value, standard in _children(node, default):
        place = config.join(path, name)
        is_default = type(value) is type(standard) and value == standard
        origin = None if is_default else config.origin_of(root, place) or FILE
        inner = _has_fields(value)
        shown = _heading(value) if inner else config.format_value(value)
        yield Row(place, place.count('.'), name, shown, origin, inner)
        if inner:
            yield from _rows(root, value, path=place, default=standard)


def _children(node: Any, default: Any) -> Iterator[tuple[str, Any, Any]]:
    """Name, value and default of each direct child.

    A part that stands by default in its parent is compared with that one, whose fields may differ from its class's.
    """
    if not config.is_config(node):
        items = node.items() if isinstance(node, Mapping) else enumerate(node)
        same = isinstance(default, tuple) and isinstance(node, tuple) and len(default) == len(node)
        for key, value in items:
            yield str(key), value, default[key] if same else dataclasses.MISSING
        return
    for field in dataclasses.fields(node):
        standard = getattr(default, field.name) if type(default) is type(node) else config.default_of(field)
        yield field.name, getattr(node, field.name), standard


def _has_fields(value: Any) -> bool:
    """Whether the value takes more than one line: a part with fields, or several things of which one is a part."""
    if config.is_config(value):
        return bool(dataclasses.fields(value))
    return any(config.is_config(inner) for _, inner in config.walk(value))


def _heading(value: Any) -> str:
    return type(value).__name__ if config.is_config(value) else ''


def render(experiment: Any, only_changed: bool = False) -> text.Text:
    """The experiment for rich.console.Console.print(..., soft_wrap=True): coloured on a terminal, plain elsewhere.

    Args:
      only_changed: leave out what stands at its default.
    """
    shown = text.Text(f'{type(experiment).__name__}\n', style='bold')
    for row in rows(experiment):
        if row.origin is None and only_changed:
            continue
        style = 'dim' if row.origin is None else ''
        line = text.Text(INDENT * (row.depth + 1))
        line.append(row.name, style=style or 'cyan')
        line.append(f' = {row.value}' if row.value else '', style=style or ('bold' if row.has_fields else ''))
        if row.origin is not None and not (row.has_fields and row.origin == FILE):
            line.append(' ' * max(ORIGIN_COLUMN - len(line), 2))
            line.append(row.origin, style='green' if row.origin == FILE else 'yellow')
        shown.append(line).append('\n')
    shown.rstrip()
    return shown


# ---- how attention is computed ----------------------------------------------------------------------------------


def attention(experiment: Experiment) -> list[str]:
    """Which way each attention of the model is computed when it trains on the experiment's mesh here, and why.

    One line if all go the same way, none without attention.
    """
    try:
        taken = _attention_paths(experiment, experiment.mesh.build())
    except config.InputError as error:
        return [f'attention: it cannot run here, since {error}']
    if len(set(taken.values())) == 1:
        return [f'attention: {way}' for way in set(taken.values())]
    return [f'attention of {name}: {way}' for name, way in taken.items()]


def _attention_paths(experiment: Experiment, place: sharding.Place) -> dict[str, str]:
    """Layer -> way, by tracing a step; nothing is computed."""
    rows = experiment.data.batch // experiment.microbatches
    batch = {
        name: jax.ShapeDtypeStruct((rows, *field.shape), field.dtype) for name, field in experiment.data.fields.items()
    }
    with sharding.use(place):
        blueprint = state.blueprint(experiment, place)

        def loss(params: Any, model_state: Any, batch: dict[str, jax.Array]) -> Any:
            apply = objective.Apply(blueprint.module, params, model_state)
            return experiment.objective(apply, batch, jax.random.key(0))

        with paths.noted() as taken:
            jax.eval_shape(loss, blueprint.abstract.params, blueprint.abstract.model_state, batch)
    return taken
