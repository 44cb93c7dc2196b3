"""The programs of an exported model, as StableHLO for CPU, CUDA and TPU with open sizes.

forward(weights, inputs) -> outputs                 every model
encode(weights, inputs) -> outputs                  a language model with an encoder
prefill(weights, inputs, cache) -> (outputs, cache) a language model: reads whole prompts into an empty cache
decode(weights, inputs, cache) -> (outputs, cache)  a language model: reads one more token of each row

Every argument and result is a flat dict of arrays. The mathematics is the plain one on every platform: fused kernels
(cuDNN, Splash) are custom calls of one platform, and are left out.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from bigmodel_jax import config
from bigmodel_jax.checkpoints import checkpoints
from bigmodel_jax.data import batches
from bigmodel_jax.evaluate import predictor
from bigmodel_jax.evaluate.text import decoding_model
from bigmodel_jax.export import dimensions, named_arrays
from bigmodel_jax.export.dimensions import LENGTH, ROWS, SLOTS, SOURCE_LENGTH
from bigmodel_jax.layers import attention
from bigmodel_jax.models import model as models
from bigmodel_jax.objectives import objective

PLATFORMS = ('cpu', 'cuda', 'tpu')
INT = np.dtype(np.int32)
Arrays = Mapping[str, Any]
Shape = tuple[str | int, ...]


class Described(NamedTuple):
    """An argument or a result of a program.

    Attributes:
      shape: sizes, and the names of open dimensions.
      below: of integers: each is at least 0 and less than this; None where nothing is known.
    """

    shape: Shape
    dtype: str
    axes: tuple[str, ...]
    units: str = ''
    below: int | None = None


class ExportedProgram(NamedTuple):
    """A program, and what its arguments and results are."""

    exported: jax_export.Exported
    inputs: dict[str, Described]
    outputs: dict[str, Described]
    cache: dict[str, Described]


@dataclasses.dataclass(frozen=True)
class ModelToExport:
    """What programs are made from.

    Attributes:
      fields: of a batch of its data, without those that a prediction does not need.
      weights: path -> array, or its shape and dtype.
      collections: of the model state among them.
      longest: tokens that the model reads at most; None if nothing limits them.
    """

    model: models.Model
    fields: Mapping[str, batches.Field]
    weights: Mapping[str, Any]
    collections: tuple[str, ...]
    fixed: dimensions.FixedSizes
    longest: int | None

    def apply(self, weights: Arrays) -> objective.Apply:
        """The model with weights, which may be traced."""
        return objective.Apply(self.model.build(), *named_arrays.split(weights, self.collections))

    @property
    def generative(self) -> bool:
        """Whether it is a language model that decodes with a cache."""
        return isinstance(self.model, decoding_model.Generative)


def portable(model: models.Model) -> tuple[models.Model, bool]:
    """The model without kernels that the experiment forces, and whether there was one."""

    def plain(node: Any) -> Any:
        if isinstance(node, attention.Attention) and node.kernel is not None:
            node = dataclasses.replace(node, kernel=None)
        return config.with_children(node, plain)

    found = plain(model)
    return found, found != model


def longest_input(model: models.Model) -> int | None:
    """How many tokens a model reads at most, by its learned positions and its cache; None if nothing limits them."""
    known = getattr(getattr(model, 'positions', None), 'length', None)
    own = getattr(model, 'length', None)
    bounds = (known, own if isinstance(own, int) else None, decoding_model.cache_length(model))
    return next((each for each in bounds if each is not None), None)


def read_fields(model: models.Model, fields: Mapping[str, batches.Field]) -> dict[str, batches.Field]:
    """The fields of a batch that a prediction may need; of a language model without data, the token ids."""
    found = {name: field for name, field in fields.items() if name not in predictor.TARGETS}
    if isinstance(model, decoding_model.Generative):
        found.setdefault('inputs', batches.Field((1,), INT, (LENGTH,), model.vocab))
    return found


def make(of: ModelToExport) -> dict[str, ExportedProgram]:
    """Every program of a model, by name.

    Raises:
      InputError: it has none for all sizes; it says which sizes to fix.
    """
    dimensions.check(of.fixed, of.longest)
    found = {'forward': _forward(of)}
    if of.generative:
        found |= _decoding(of)
    return found


# ---- forward ------------------------------------------------------------------------------------------------------


def _forward(of: ModelToExport) -> ExportedProgram:
    fields = _used(of)
    inputs = {
        name: Described(
            dimensions.shape_of(name, field), field.dtype.name, ('batch', *field.axes), UNITS.get(name, ''),
            field.upper_bound,
        )
        for name, field in fields.items()
    }  # fmt: skip

    def forward(weights: Arrays, batch: Arrays) -> dict[str, jax.Array]:
        return _outputs(of, weights, batch)

    return _export('forward', of, forward, inputs)


def _outputs(of: ModelToExport, weights: Arrays, batch: Arrays) -> dict[str, jax.Array]:
    """The arrays that the model returns, and the probabilities of labels where its Predictor gives them."""
    outputs, _ = of.apply(weights)(dict(batch))
    found = {name: each for name, each in outputs.items() if isinstance(each, jax.Array)}
    logits = found.get('logits')
    if logits is not None and logits.ndim == 2 and not of.generative:
        found['probabilities'] = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    return found


def _used(of: ModelToExport) -> dict[str, batches.Field]:
    """The fields that the model reads."""
    arrays = {name: jax.ShapeDtypeStruct((1, *field.shape), field.dtype) for name, field in of.fields.items()}
    weights = {name: jax.ShapeDtypeStruct(each.shape, each.dtype) for name, each in of.weights.items()}
    traced = jax.make_jaxpr(lambda batch, weights: _outputs(of, weights, batch))(arrays, weights).jaxpr
    read = {id(each) for equation in traced.eqns for each in equation.invars} | set(map(id, traced.outvars))
    names = sorted(arrays)  # As jax flattens a dict.
    return {name: of.fields[name] for name, each in zip(names, traced.invars) if id(each) in read}


# ---- decoding -----------------------------------------------------------------------------------------------------


def _decoding(of: ModelToExport) -> dict[str, ExportedProgram]:
    tokens = Described((ROWS, LENGTH), 'int32', ('batch', 'length'), UNITS['inputs'], of.model.vocab)  # type: ignore[attr-defined]
    lengths = Described((ROWS,), 'int32', ('batch',), 'tokens of each row')
    memory: dict[str, Described] = {}
    found: dict[str, ExportedProgram] = {}
    if decoding_model.reads_source(of.model):  # type: ignore[arg-type]
        shape = (ROWS, SOURCE_LENGTH)
        source = {'source': tokens._replace(shape=shape), 'source_lengths': lengths}
        found['encode'] = _export('encode', of, lambda *arguments: _encode(of, *arguments), source)
        memory = {
            name: each._replace(units=units)
            for (name, each), units in zip(
                found['encode'].outputs.items(), ("the encoder's output", '1 for a token of the source, 0 for padding')
            )
        }
    prompt = {'inputs': tokens, 'lengths': lengths, **memory}
    one = {
        'inputs': tokens._replace(shape=(ROWS,), axes=('batch',)),
        'positions': Described((ROWS,), 'int32', ('batch',), UNITS['positions'], of.longest),
        **memory,
    }
    for name, call, inputs in (('prefill', _prefill, prompt), ('decode', _decode, one)):
        found[name] = _export(name, of, lambda *arguments, call=call: call(of, *arguments), inputs, cache=_cache(of))
    return found


def _encode(of: ModelToExport, weights: Arrays, batch: Arrays) -> dict[str, jax.Array]:
    source_BS = batch['source']
    here_1S = jnp.arange(source_BS.shape[1])[None]
    segments_BS = (here_1S < batch['source_lengths'][:, None]).astype(jnp.int32)
    read = {'source': source_BS, 'source_positions': here_1S, 'source_segments': segments_BS}
    return {'memory': of.apply(weights)(read, method='encode')[0], 'source_segments': segments_BS}


def _prefill(of: ModelToExport, weights: Arrays, batch: Arrays, cache: Arrays) -> tuple[Arrays, Arrays]:
    prompts = decoding_model.Prompts(batch['inputs'], batch['lengths'])
    logits_BV, state = _reading(of, weights, batch).read(prompts, _state(of, cache))
    return {'logits': logits_BV}, checkpoints.flatten(state)


def _decode(of: ModelToExport, weights: Arrays, batch: Arrays, cache: Arrays) -> tuple[Arrays, Arrays]:
    logits_BV, state = _reading(of, weights, batch).next(batch['inputs'], batch['positions'], _state(of, cache))
    return {'logits': logits_BV}, checkpoints.flatten(state)


def _reading(of: ModelToExport, weights: Arrays, batch: Arrays) -> decoding_model.Cached:
    fixed = {name: batch[name] for name in ('memory', 'source_segments') if name in batch}
    return decoding_model.Cached(of.model, of.apply(weights), fixed)  # type: ignore[arg-type]


def _state(of: ModelToExport, cache: Arrays) -> Any:
    """The state of the layers as the model has it, from the flat dict."""
    model: Any = of.model
    form = jax.eval_shape(lambda: model.initial_state(1, 1))
    return jax.tree.unflatten(jax.tree.structure(form), [cache[name] for name in checkpoints.flatten(form)])


def _cache(of: ModelToExport) -> dict[str, Described]:
    """The arrays of the cache: where two sizes of the arguments change a dimension, it is open.

    Raises:
      InputError: the state before the first token is not all zeros, as the loader makes it.
    """
    model: Any = of.model
    one, other = (checkpoints.flatten(model.initial_state(*sizes)) for sizes in ((2, 3), (5, 7)))
    found = {}
    for name, leaf in one.items():
        if np.any(np.asarray(leaf)):
            raise config.InputError(
                f'{type(of.model).__name__} begins decoding with a state that is not zeros: {name}.'
            )
        pairs = zip(leaf.shape, other[name].shape)
        shape = tuple({(2, 5): ROWS, (3, 7): SLOTS}.get((a, b), a) for a, b in pairs)
        axes = tuple('batch' if each == ROWS else each if isinstance(each, str) else '' for each in shape)
        found[name] = Described(shape, leaf.dtype.name, ('layers', *axes[1:]))
    return found


# ---- one program --------------------------------------------------------------------------------------------------


def _export(
    name: str,
    of: ModelToExport,
    call: Callable[..., Any],
    inputs: dict[str, Described],
    *,
    cache: dict[str, Described] | None = None,
) -> ExportedProgram:
    arguments = inputs | (cache or {})
    names = dimensions.names_in({key: each.shape for key, each in arguments.items()})
    sizes = dimensions.OpenSizes(names, of.fixed, of.longest)
    weights = {path: jax.ShapeDtypeStruct(each.shape, each.dtype) for path, each in of.weights.items()}
    given = [weights, *(_abstract(each, sizes) for each in (inputs, cache) if each is not None)]
    try:
        exported = jax_export.export(jax.jit(call), platforms=PLATFORMS)(*given)
    except (jax.errors.InconclusiveDimensionOperation, TypeError, ValueError, NotImplementedError) as error:
        if not sizes.open:
            raise
        raise config.InputError(_refusal(name, of, sizes, error)) from error
    results = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    outputs = results if cache is None else results[0]
    described = {key: _of_output(key, each) for key, each in outputs.items()}
    return ExportedProgram(exported, inputs, described, cache or {})


def _abstract(arrays: dict[str, Described], sizes: dimensions.OpenSizes) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: sizes.array(each.shape, each.dtype) for name, each in arrays.items()}


def _of_output(name: str, aval: Any) -> Described:
    shape = tuple(each if isinstance(each, int) else str(each) for each in aval.shape)
    axes = ('batch', *(each if isinstance(each, str) else '' for each in shape[1:]))
    return Described(shape, aval.dtype.name, axes, UNITS.get(name, ''))


def _refusal(name: str, of: ModelToExport, sizes: dimensions.OpenSizes, error: Exception) -> str:
    lengths = [each for each in sizes.open if each != ROWS]
    why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    fix = '--length 128, or whatever one length it is to read' if lengths else '--rows 8, or as many as it is to read'
    return (
        f'{type(of.model).__name__} has no program {name} for every number of {" and ".join(sizes.open)}: {why} '
        f'Export it for one size: {fix}.'
    )


# What the numbers are, where the name of a field or an output says it.
UNITS = {
    'inputs': 'token ids',
    'source': 'token ids',
    'positions': 'from 0 within a document',
    'source_positions': 'from 0 within a document',
    'segments': 'number of the document in its row, from 1; 0 is padding',
    'source_segments': 'number of the document in its row, from 1; 0 is padding',
    'types': '0 in the first sentence, 1 in the second',
    'masked_positions': 'positions in the row that are predicted',
    'image': 'as the transforms of the data give them; see origin.json',
    'features': 'as the data gives them, standardised; see origin.json',
    'logits': 'unnormalised log-probabilities (nats)',
    'mlm_logits': 'unnormalised log-probabilities (nats)',
    'nsp_logits': 'unnormalised log-probabilities (nats); class 0: the second sentence follows',
    'probabilities': 'probabilities, float32',
    'values': 'in the units of the target',
}
