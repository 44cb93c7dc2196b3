"""The interface of models: a config that builds a Flax Linen module and checks its inputs."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, Literal

import jax
import numpy as np
from flax import errors
from flax import linen as nn

from bigmodel_jax import config
from bigmodel_jax.data import batches

ChangesState = errors.ModifyScopeVariableError  # A module changed a collection that it may only read.
# Of a computation; weights are stored in float32. Float64 is for comparing with a reference, and needs JAX_ENABLE_X64.
Dtype = Literal['float32', 'bfloat16', 'float64']


class Model:
    """Interface of the model configs.

    The module they build maps a batch (a dict of arrays) to a dict of arrays. `module.init(key, batch)` makes its
    weights. Any Flax Linen module will do. Training and evaluation are told apart by the argument `train` of its
    __call__, if it has one: `nn.Dropout(0.1, deterministic=not train)`, `nn.BatchNorm(use_running_average=not train)`.
    Another module tells them apart by the random stream 'dropout', which it has in training alone:
    `deterministic=not self.has_rng('dropout')`; the layers of this package drop out where there is that stream.
    """

    def build(self, name: str | None = None) -> nn.Module:
        """The module."""
        raise NotImplementedError

    def check(self, fields: Mapping[str, batches.Field]) -> None:
        """Raises InputError if batches with these fields do not fit the model."""


def training_mode(module: nn.Module, *, train: bool, method: str | None = None) -> dict[str, Any]:
    """{'train': train} for a method that has an argument of this name, {} for any other.

    Args:
      method: of the module; None: __call__.
    """
    function = getattr(type(module), method or '__call__')
    return {'train': train} if 'train' in inspect.signature(function).parameters else {}


def check_opened(model: Model, fields: Mapping[str, batches.Field]) -> None:
    """Model.check() of data that has been opened, whose ids must have the bounds that the model needs.

    Raises:
      InputError: it does not fit; or ids that the model looks up have no bound.
    """
    model.check(fields)
    for name, field in fields.items():
        if field.upper_bound is None and np.issubdtype(field.dtype, np.integer):
            try:
                model.check({**fields, name: dataclasses.replace(field, upper_bound=np.iinfo(np.int32).max)})
            except config.InputError as error:
                raise config.InputError(
                    f'The data gives no upper bound for the ids of {name!r}, so that an id that the model does not '
                    'have would be taken for another. Declare it: '
                    f'batches.Field({field.shape}, dtype, {field.axes}, upper_bound).'
                ) from error


def need(fields: Mapping[str, batches.Field], name: str, model: str) -> batches.Field:
    """The field called `name`.

    Raises:
      InputError: the data has none.
    """
    if name not in fields:
        raise config.InputError(f'{model} reads {name!r}, but the data gives {", ".join(sorted(fields))}.')
    return fields[name]


def check_dtype(dtype: Dtype) -> None:
    """Raises InputError if JAX would compute in another dtype."""
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise config.InputError(
            "model.dtype='float64' needs 64-bit numbers, which JAX has off; "
            'set the environment variable JAX_ENABLE_X64=1, or use float32.'
        )


def check_tokens(field: batches.Field, *, vocab: int) -> None:
    """Raises InputError if token ids of `field` can reach `vocab`."""
    if field.upper_bound is not None and field.upper_bound > vocab:
        raise config.InputError(
            f'model.vocab={vocab} is too small: the tokenizer has {field.upper_bound} tokens. '
            f'Use model.vocab={-(-field.upper_bound // 64) * 64}, the next multiple of 64, which shards well.'
        )
