"""The interface of models: a config that builds a Flax Linen module and checks its inputs."""

import dataclasses
import functools
import inspect
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import errors
from flax import linen as nn

from bigmodel_jax import config, precision
from bigmodel_jax.data import batches
from bigmodel_jax.layers.base import intermediates

PyTree = Any
ChangesState = errors.ModifyScopeVariableError  # A module changed a collection that it may only read.
# Collections of a Flax module that belong to one batch and are no state of the model.
OF_A_BATCH = (intermediates.LOSSES, 'intermediates', 'perturbations')
# Of a computation; weights are stored in float32. Float64 is for comparing with a reference, and needs JAX_ENABLE_X64.
Dtype = Literal['float32', 'bfloat16', 'float64']


class Output(NamedTuple):
    """One array that a model returns for one example, hence without the batch axis."""

    shape: tuple[int, ...]
    axes: tuple[str, ...] | None  # What each dimension is: ('length', 'vocab'); None where the model does not say.
    dtype: np.dtype

    def __str__(self) -> str:
        """'[128 length, 50,257 vocab]'."""
        return sizes(self.shape, self.axes)


def sizes(shape: tuple[int, ...], axes: tuple[str, ...] | None) -> str:
    """A shape in words: '[128 length, 50,257 vocab]'."""
    names = ('',) * len(shape) if axes is None else tuple(f' {axis}' for axis in axes)
    return f'[{", ".join(f"{size:,}{name}" for size, name in zip(shape, names))}]'


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

    def outputs(self, fields: Mapping[str, batches.Field]) -> Mapping[str, Output]:
        """The arrays that the module returns for batches with these fields, by name.

        A model that does not define this is traced: nothing is computed or compiled.

        Raises:
          InputError: the module reads a field that is not there, or does not return a dict of arrays.
        """
        return traced_outputs(self, fields)

    def first_filters(self, params: PyTree) -> jax.Array | None:
        """[Y, X, Z, F]: the filters that a model of images applies to the pixels; None: it has none."""
        return None


ROWS = 2  # Of the batch with which a module is traced.


def traced_outputs(model: Model, fields: Mapping[str, batches.Field]) -> Mapping[str, Output]:
    """Model.outputs() by tracing the module; outputs whose first axis is not the batch are left out."""
    module = model.build()
    mode = training_mode(module, train=False)
    batch = {name: jax.ShapeDtypeStruct((ROWS, *field.shape), field.dtype) for name, field in fields.items()}
    initialize = functools.partial(module.init_with_output, **mode)
    try:
        found, _ = jax.eval_shape(initialize, jax.eval_shape(lambda: jax.random.key(0)), batch)
    except KeyError as error:
        if error.args[0] in fields:
            raise
        raise config.InputError(
            f'model={type(model).__name__}: {type(module).__name__} asks for {error.args[0]!r}, but the data gives '
            f'{", ".join(sorted(fields))}.'
        ) from error
    if not isinstance(found, Mapping):
        raise config.InputError(
            f'model={type(model).__name__}: {type(module).__name__} returns a {_kind(found)}, but the module of a '
            "model returns its outputs as a dict by name: return {'logits': ...}."
        )
    arrays = {name: array for name, array in found.items() if isinstance(array, jax.ShapeDtypeStruct)}
    return {
        name: Output(array.shape[1:], None, np.dtype(array.dtype))
        for name, array in arrays.items()
        if array.shape[:1] == (ROWS,)
    }


def _kind(found: Any) -> str:
    return 'jax.Array' if isinstance(found, jax.ShapeDtypeStruct) else type(found).__name__


def training_mode(module: nn.Module, *, train: bool, method: str | None = None) -> dict[str, Any]:
    """{'train': train} for a method that has an argument of this name, {} for any other.

    Args:
      method: of the module; None: __call__.
    """
    function = getattr(type(module), method or '__call__')
    return {'train': train} if 'train' in inspect.signature(function).parameters else {}


def changed_in_evaluation(module: nn.Module, collections: Iterable[str]) -> config.InputError:
    """The error of a module whose outputs would depend on which examples happen to be in a batch."""
    return config.InputError(
        f'{type(module).__name__} changes {", ".join(collections)} in evaluation. Give its __call__ an argument '
        '`train: bool`, which it gets, and pass to the layer (nn.BatchNorm, nn.Dropout ...): '
        'use_running_average=not train, or deterministic=not train.'
    )


def initialize(module: nn.Module, key: jax.Array, batch: Mapping[str, jax.Array]) -> tuple[Any, dict[str, Any]]:
    """The parameters of a module, and its other collections that are state of the model."""
    collections = dict(nn.meta.unbox(module.init(key, batch, **training_mode(module, train=False))))
    params = collections.pop('params', {})
    return params, {name: value for name, value in collections.items() if name not in OF_A_BATCH}


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


def token_logits(tokens: batches.Field, *, vocab: int, dtype: Dtype) -> Output:
    """The output of a model that gives a logit for each token of the vocabulary at each position of `tokens`."""
    return Output((*tokens.shape, vocab), ('length', 'vocab'), np.dtype(precision.sums(jnp.dtype(dtype))))


def check_tokens(field: batches.Field, *, vocab: int) -> None:
    """Raises InputError if token ids of `field` can reach `vocab`."""
    if field.upper_bound is not None and field.upper_bound > vocab:
        raise config.InputError(
            f'model.vocab={vocab} is too small: the tokenizer has {field.upper_bound} tokens. '
            f'Use model.vocab={-(-field.upper_bound // 64) * 64}, the next multiple of 64, which shards well.'
        )
