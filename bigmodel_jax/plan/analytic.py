"""The answer in seconds: a step is traced for devices that need not exist, and what no tracing tells is estimated.

Exact: bytes of parameters, optimizer state, batch and gradients (from shapes and rule table), FLOPs (from the traced
program), and what the layers keep for the backward pass (the residuals of jax.vjp). By formula: collectives (see
formulas.py), temporaries and HBM traffic; the compiled plan has the last word on these.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.layers import attention, moe, stacks
from bigmodel_jax.objectives import language
from bigmodel_jax.objectives.objective import Apply
from bigmodel_jax.objectives.rngs import Rngs
from bigmodel_jax.parallel import pipeline, sharding
from bigmodel_jax.plan import estimates, formulas, request
from bigmodel_jax.plan.hardware import slices
from bigmodel_jax.train import state
from bigmodel_jax.train.flops import count, one_device

PyTree = Any
Arrays = tuple[jax.ShapeDtypeStruct, ...]
# The constants below were chosen so that what was compiled with libtpu 0.0.52 comes out: GPT-2 124M on v5e:4x4, and
# Llama-2-7B on v5e:16x16 and v5p:4x4x4, the peak within 10%. Other models may be further off.
#
# Of the intermediates of the layer whose gradient is being computed, the share that is held at one time.
HELD_AT_ONCE = 0.5
# Logits, and their gradient.
LOGITS_AT_ONCE = 2
# How often an intermediate of a layer is written or read: forward, again in the backward pass, and its gradient.
PASSES_OF_ACTIVATIONS = 8


@dataclasses.dataclass(frozen=True, eq=False)
class TracedStep:
    """A step, traced: shapes of all arrays are those of the whole mesh."""

    experiment: Experiment
    on: slices.Slice
    place: sharding.ShardingContext
    spec: state.StateSpec
    work: count.Work
    kept: Arrays  # For the backward pass of the whole batch, without the parameters.
    everything: Arrays  # What would be kept if nothing were computed again.

    @property
    def rows(self) -> int:
        """Of the whole batch."""
        return self.experiment.data.batch

    @property
    def length(self) -> int:
        """Of the longest sequence of an example; 1 where the data has none, as images have."""
        fields = self.experiment.data.fields.values()
        return max((size for field in fields for size in field.sizes('length')), default=1)

    @functools.cached_property
    def weights(self) -> list[formulas.Weight]:
        return formulas.weights(self.place, self.spec.abstract.params, self.spec.axes)

    @property
    def layers(self) -> int:
        return max((weight.layers for weight in self.weights), default=1)

    @property
    def turns(self) -> int:
        """How many kinds of layers the pattern has: `layers` counts groups of so many."""
        return 1 + len(getattr(self.experiment.model, 'interleaved', ()))

    @property
    def itemsize(self) -> int:
        """Bytes of a number in the computation."""
        return np.dtype(getattr(self.experiment.model, 'dtype', 'float32')).itemsize

    @functools.cached_property
    def logical(self) -> dict[int, str]:
        """Size -> logical axis, of the sizes that only one logical axis has; what the arrays of a step are read by."""
        found: dict[int, set[str]] = {}
        for weight in self.weights:
            for size, name in zip(weight.shape, weight.axes):
                if name in ('heads', 'kv_heads', 'hidden', 'vocab', 'experts'):
                    found.setdefault(size, set()).add(name)
        # Query and key heads are cut alike, so that either name will do; tokens that went to experts lie in one row.
        return {size: sorted(names, key=lambda name: (name == 'experts', name))[0] for size, names in found.items()}


def program(experiment: Experiment, on: slices.Slice) -> estimates.Program:
    """The train step of `experiment` on a slice, without compiling it.

    Raises:
      InputError: the request is impossible; see request.check().
    """
    return of(trace(request.on_slice(experiment, on), on))


class Alone(NamedTuple):
    """A step on one device: what of it does not depend on the mesh."""

    spec: state.StateSpec
    work: count.Work
    kept: Arrays


def trace(experiment: Experiment, on: slices.Slice) -> TracedStep:
    """The step of an experiment that request.on_slice() has checked.

    Raises:
      InputError: an array does not divide over the mesh.
    """
    # The kernels of GPUs cannot be traced without one; those of TPUs can, compute the same and keep the same.
    place = experiment.mesh.abstract(on.size, 'tpu')
    alone = one_device.experiment_on_one(experiment)
    found = _alone(alone)
    everything = found.kept if remat(alone) in ('', 'none') else _alone(_keeping_all(alone)).kept
    abstract = found.spec.abstract
    shardings = state.shardings_of(place, abstract, found.spec.axes)
    spec = dataclasses.replace(found.spec, shardings=shardings)
    # The ticks in which a pipeline fills and empties compute what is thrown away.
    rows = experiment.data.batch // experiment.gradients.microbatches
    parts = pipeline.microbatches(place, rows) if place.shards('layers') > 1 else 1
    work = found.work.scaled(pipeline.ticks(place, parts) / (place.pipeline_rounds * parts))
    return TracedStep(experiment, on, place, spec, work, found.kept, everything)


@functools.lru_cache(maxsize=64)
def _alone(experiment: Experiment) -> Alone:
    traced = one_device.trace(experiment)
    with sharding.use(traced.place):
        return Alone(traced.spec, traced.work, _residuals(experiment, traced.spec, traced.batch))


def _stack(experiment: Experiment) -> stacks.Stack | None:
    return next((value for _, value in config.walk(experiment.model) if isinstance(value, stacks.Stack)), None)


def remat(experiment: Experiment) -> str:
    """What the layers keep for the backward pass: the name of the policy; '' for a model without a stack."""
    stack = _stack(experiment)
    return '' if stack is None else stack.remat if isinstance(stack.remat, str) else '+'.join(stack.remat)


def _keeping_all(experiment: Experiment) -> Experiment:
    return config.vary(experiment, {'model.stack.remat': 'none'})


def _residuals(experiment: Experiment, spec: state.StateSpec, batch: dict[str, Any]) -> Arrays:
    """What the forward pass keeps for the backward pass, without what are parameters."""

    def backward(params: PyTree, model_state: PyTree, part: PyTree, key: jax.Array) -> PyTree:
        def loss(params: PyTree) -> jax.Array:
            apply = Apply(spec.module, params, model_state)
            rngs = Rngs(key, experiment.objective.streams)
            return experiment.objective(apply, part, train=True, rngs=rngs).loss.total

        return jax.vjp(loss, params)[1]

    key = jax.eval_shape(lambda: jax.random.key(0))
    found = jax.tree.leaves(jax.eval_shape(backward, spec.abstract.params, spec.abstract.model_state, batch, key))
    params = {leaf.shape for leaf in jax.tree.leaves(spec.abstract.params)}
    return tuple(leaf for leaf in found if leaf.shape not in params and jax.numpy.issubdtype(leaf.dtype, np.number))


# ---- from what was traced to what a chip does ---------------------------------------------------------------------


def of(traced: TracedStep) -> estimates.Program:
    """The record of a traced step."""
    return estimates.Program(
        chip=traced.on.chip.name,
        slice=str(traced.on),
        mesh=traced.place.sizes,
        memory=memory(traced),
        counts=counts(traced),
        compile_seconds=None,
        compile_cpu_seconds=None,
        versions={'jax': jax.__version__},
        source='analytic',
    )


def memory(traced: TracedStep) -> estimates.Memory:
    """Bytes of one chip when most is in use: in the backward pass of the last layers."""
    abstract, placed = traced.spec.abstract, traced.spec.shardings
    parameters = _bytes(abstract.params, placed.params)
    parts = {
        'parameters': parameters,
        'optimizer': _bytes(abstract.opt_state, placed.opt_state),
        'other_state': _bytes(abstract.others, placed.others),
        'batch': _batch_bytes(traced),
        'gradients': parameters,
        'saved': round(sum(_share(traced, array) for array in _narrow(traced, traced.kept))),
        'temporaries': round(_gathered_bytes(traced) + max(_working_bytes(traced), _logits_bytes(traced))),
    }
    return estimates.Memory(**parts, peak=sum(parts.values()), limit=traced.on.chip.hbm_bytes)


def _bytes(abstract: PyTree, placed: PyTree) -> int:
    """Bytes on one chip of a tree of arrays."""
    pairs = zip(jax.tree.leaves(abstract), jax.tree.leaves(placed))
    return sum(math.prod(each.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize for leaf, each in pairs)


def _batch_bytes(traced: TracedStep) -> int:
    shards = traced.place.shards('batch')
    fields = batches.batch_fields(traced.experiment.data.fields).values()
    row = sum(math.prod(field.shape) * np.dtype(field.dtype).itemsize for field in fields)
    return row * traced.experiment.data.batch // shards


def _share(traced: TracedStep, array: jax.ShapeDtypeStruct) -> float:
    """Bytes of an activation of one microbatch on one chip; its logical axes are read from its sizes."""
    names = [_name(traced, array.shape, index) for index in range(len(array.shape))]
    if 'length' in names and not set(names) & {'heads', 'kv_heads', 'hidden', 'vocab', 'experts'}:
        names[names.index('length')] = 'residual_length'
    parts = math.prod(traced.place.sizes[axis] for cut in formulas.cuts(traced.place, tuple(names)) for axis in cut)
    size = math.prod(array.shape) * np.dtype(array.dtype).itemsize / parts
    return size / (traced.experiment.gradients.microbatches if 'batch' in names else 1)


def _name(traced: TracedStep, shape: tuple[int, ...], index: int) -> str | None:
    size, tokens = shape[index], traced.rows * traced.length
    if index == 0 and size == traced.layers and len(shape) > 2:
        return 'layers'
    if index <= 1 and ((size == traced.rows and size not in shape[:index]) or size % tokens == 0):
        return 'batch'
    # Where there are as many rows as positions, the first of the two is the batch.
    if size == traced.length > 1 and shape[:index].count(size) == (traced.length == traced.rows) and index <= 3:
        return 'length'
    return traced.logical.get(size) if size not in (traced.rows, traced.length) else None


def _working_bytes(traced: TracedStep) -> float:
    """Of the layer whose gradient is being computed: a share of its intermediates, in the dtype of the computation."""
    layers = max(traced.layers // traced.place.shards('layers'), 1)
    return HELD_AT_ONCE * sum(_share(traced, array) for array in _stacked(traced)) / layers / traced.turns


def _stacked(traced: TracedStep) -> list[jax.ShapeDtypeStruct]:
    """The intermediates of the layers."""
    return [a for a in _narrow(traced, traced.everything) if len(a.shape) > 2 and a.shape[0] == traced.layers]


def _narrow(traced: TracedStep, arrays: Arrays) -> list[jax.ShapeDtypeStruct]:
    """Without the float32 copies within norms and activations, which are fused away."""
    return [array for array in arrays if np.dtype(array.dtype).itemsize <= traced.itemsize]


def _gathered_bytes(traced: TracedStep) -> float:
    """Weights laid out whole: those of the layer at work, and those outside the layers, which stay."""
    known = setting(traced)
    in_layers = [weight for weight in traced.weights if 'layers' in weight.axes]
    others = [weight for weight in traced.weights if 'layers' not in weight.axes]
    once = sum(formulas.whole_bytes(weight, known) for weight in others)
    return once + sum(formulas.whole_bytes(weight, known) for weight in in_layers) / traced.turns


def _logits_bytes(traced: TracedStep) -> float:
    vocab = getattr(traced.experiment.model, 'vocab', 0)
    place = traced.place
    logits = (
        4
        * traced.rows
        * traced.length
        * vocab
        / (place.shards('batch') * place.shards('length') * place.shards('vocab'))
    )
    objective = traced.experiment.objective
    if isinstance(objective, language.LanguageModel):
        logits = min(logits, objective.logits_mib * 2**20)
    return LOGITS_AT_ONCE * logits


def setting(traced: TracedStep) -> formulas.FormulaInputs:
    """What the formulas of formulas.py need to know of a step."""
    experiment = traced.experiment
    inside = list(_tree(experiment.model, getattr(experiment.model, 'width', 1)))
    layers = [(value, around) for value, around in inside if isinstance(value, attention.Attention)]
    routed = [value for value, _ in inside if isinstance(value, moe.Routed)]
    # Of a model of several towers, the widest.
    width = getattr(experiment.model, 'width', None) or max((around for _, around in layers), default=1)
    heads = max(
        (2 * (each.heads + (each.kv_heads or each.heads)) * each.width_of_head(around) for each, around in layers),
        default=0,
    )
    return formulas.FormulaInputs(
        place=traced.place,
        on=traced.on,
        tokens=traced.rows * traced.length // experiment.gradients.microbatches,
        width=width,
        microbatches=experiment.gradients.microbatches,
        itemsize=traced.itemsize,
        again=traced.work.repeated > 0.1 * traced.work.matmul,
        across=experiment.mesh.across,
        # Of one group of the interleaved layers, which is what the formulas count.
        chosen=sum(each.top_k for each in routed),
        heads_width=heads * traced.turns,
    )


def _tree(node: Any, width: int) -> Iterator[tuple[Any, int]]:
    """Every value within a config, and the `width` of the nearest config around it that has one."""
    for _, value in config.walk(node):
        around = getattr(value, 'width', width) if config.is_config(value) else width
        yield value, around
        if config.is_config(value):
            yield from _tree(value, around)


def counts(traced: TracedStep) -> estimates.Counts:
    """The work of one chip: an equal share of all that was traced."""
    work, devices = traced.work, traced.on.size
    return estimates.Counts(
        flops=work.total / devices,
        matmul_flops=work.matmul / devices,
        model_flops=work.model / devices,
        hbm_bytes=_hbm_bytes(traced),
        collectives=formulas.collectives(traced.weights, setting(traced)),
    )


def _hbm_bytes(traced: TracedStep) -> float:
    """Read and written in a step: the state once each way, weights in every pass, activations."""
    known, needed = setting(traced), memory(traced)
    updated = 2.0 * (needed.parameters + needed.optimizer + needed.gradients)
    layers = {True: max(traced.layers // traced.place.shards('layers'), 1), False: 1}
    whole = sum(formulas.whole_bytes(w, known) * layers['layers' in w.axes] for w in traced.weights)
    # Each gathering writes them, each pass reads them, and their gradient is written and read.
    weights = whole * (2 + known.passes + 2)
    activations = PASSES_OF_ACTIVATIONS * sum(_share(traced, array) for array in _stacked(traced))
    return updated + traced.experiment.gradients.microbatches * (weights + activations)
