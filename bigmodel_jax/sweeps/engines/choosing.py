"""The engine that a command names, with its fields as 'name=value'."""

import dataclasses
from collections.abc import Mapping, Sequence

from bigmodel_jax import config, settings
from bigmodel_jax.sweeps.engines import engine, slurm, xpk

CLUSTERS: Mapping[str, type[slurm.Slurm] | type[xpk.Xpk]] = {'slurm': slurm.Slurm, 'xpk': xpk.Xpk}


def cluster(name: str, values: Sequence[str]) -> engine.Engine:
    """The engine for a cluster.

    Args:
      name: of CLUSTERS.
      values: 'field=value' each, as 'partition=main'.

    Raises:
      InputError: it has no such field, needs one, or a value is wrong.
    """
    made = CLUSTERS[name]
    texts = {field.name for field in dataclasses.fields(made) if field.type is str}
    given = {}
    for each in values:
        field, sign, text = each.partition('=')
        if not sign or not field:
            raise config.InputError(f'--engine-set {each!r} is not of the form field=value, such as partition=main.')
        # A text stays one that looks like a number: the project 123456.
        given[field] = text if field in texts else settings.parse_value(text, field)
    found: engine.Engine = config.build(made, given, f'--engine {name}')
    return config.check(found)
