"""What can be done to the weights of a trained run: fewer bits, zeros, or fewer heads and units."""

import dataclasses
import functools
import math
from typing import Any

import jax

from bigmodel_jax import config
from bigmodel_jax.compression import structures
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.optim import pruning
from bigmodel_jax.quantization.quantization import Inputs, PostTraining
from bigmodel_jax.runs import restored_model
from bigmodel_jax.train import state

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Compressed:
    """A smaller model: its experiment, and its parameters as that experiment stores them."""

    experiment: Experiment
    params: PyTree


class CompressionMethod:
    """Interface of what makes a trained model smaller."""

    def apply(self, trained: restored_model.Trained, spec: state.StateSpec) -> Compressed:
        """The smaller model.

        Raises:
          InputError: it does not fit the model.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantize(CompressionMethod):
    """Weights in few bits, and activations if the quantization says so."""

    quantization: PostTraining

    def apply(self, trained: restored_model.Trained, spec: state.StateSpec) -> Compressed:
        how = self.quantization
        how.check({path: each.shape for path, each in spec.storage.shapes.items()}, spec.storage.inputs)
        params = jax.jit(lambda params: how.store(params, spec.storage.inputs))(trained.params)
        return Compressed(config.vary(trained.experiment, {'quantization': how}), params)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruneMagnitude(CompressionMethod):
    """The smallest weights of each matrix of each layer become zeros. Source: Han et al. (2015), arXiv:1506.02626."""

    sparsity: config.Probability

    def apply(self, trained: restored_model.Trained, spec: state.StateSpec) -> Compressed:
        def zeroed(params: PyTree) -> PyTree:
            masks = pruning.masks(params, spec.storage.axes, self.sparsity)
            return pruning.masked(params, masks)

        return Compressed(_kept_sparse(trained.experiment), jax.jit(zeroed)(trained.params))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruneBlocks(CompressionMethod):
    """Of every `block` neighbours along the inputs of a matrix the `kept` largest stay: 2 of 4 is what sparse tensor
    cores multiply. Source: Mishra et al. (2021), arXiv:2104.08378."""

    kept: config.Positive
    block: config.Positive

    def apply(self, trained: restored_model.Trained, spec: state.StateSpec) -> Compressed:
        if self.kept >= self.block:
            raise config.InputError(f'{self.kept} of {self.block} leaves nothing out; use fewer, such as 2 of 4.')
        inputs = _divisible(spec.storage.inputs, spec.storage.shapes, self.block)

        def zeroed(params: PyTree) -> PyTree:
            return pruning.masked(params, pruning.block_masks(params, inputs, kept=self.kept, block=self.block))

        return Compressed(_kept_sparse(trained.experiment), jax.jit(zeroed)(trained.params))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruneStructures(CompressionMethod):
    """Whole attention heads and feed-forward units are removed, those of the smallest weights in each layer: the model
    is really smaller. Source: Michel et al. (2019), arXiv:1905.10650; Li et al. (2016), arXiv:1608.08710 (by norms).

    heads, hidden: how many stay in each layer; None: all.
    """

    heads: config.Positive | None = None
    hidden: config.Positive | None = None

    def apply(self, trained: restored_model.Trained, spec: state.StateSpec) -> Compressed:
        if self.heads is None and self.hidden is None:
            raise config.InputError('Nothing is to be removed; say how many heads or hidden units stay.')
        model = structures.smaller(trained.experiment.model, heads=self.heads, hidden=self.hidden)
        keep = functools.partial(structures.kept, axes=spec.storage.axes, heads=self.heads, hidden=self.hidden)
        return Compressed(config.vary(trained.experiment, {'model': model}), jax.jit(keep)(trained.params))


def _kept_sparse(experiment: Experiment) -> Experiment:
    """The experiment with an optimizer that keeps zeros zero, for who trains the pruned model further."""
    if isinstance(experiment.optimizer, pruning.Pruned):
        return experiment
    return config.vary(experiment, {'optimizer': pruning.Pruned(optimizer=experiment.optimizer)})


def _divisible(inputs: Inputs, shapes: Any, block: int) -> Inputs:
    """The matrices, if the inputs of each divide into blocks."""
    for path, axes in inputs.items():
        size = math.prod(shapes[path].shape[axis] for axis in axes)
        if size % block:
            raise config.InputError(f'The {size} inputs of {path} do not divide into blocks of {block}.')
    return inputs
