"""The mean of a run's last checkpoints: often a better model than any one of them.

Source: Vaswani et al. (2017), arXiv:1706.03762, section 6.1, who average the last 5 checkpoints, or 20.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.checkpoints import checkpoints
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.runs import restored_model

PyTree = Any


def mean(trees: Iterable[PyTree]) -> PyTree:
    """The mean of each array over trees of one structure, in the dtype and sharding of the first.

    The sums are of float32, or of float64 where an array is; they are taken in the order of the trees.

    Args:
      trees: asked for one after the other, so that a generator need not hold them all.

    Raises:
      InputError: there is none, or an array does not hold real numbers.
    """
    total, count, dtypes = None, 0, None
    for tree in trees:
        if total is None:
            total, dtypes = _wide(_checked(tree)), jax.tree.map(lambda x: x.dtype, tree)
        else:
            total = _add(total, tree)
        count += 1
    if total is None:
        raise config.InputError('There is no checkpoint to take the mean of.')
    return jax.tree.map(lambda x, dtype: _divide(x, count, dtype=dtype), total, dtypes)


def _checked(tree: PyTree) -> PyTree:
    for name, x in checkpoints.flatten(tree).items():
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise config.InputError(
                f'{name} is {x.dtype}, whose mean is not {x.dtype}; take one checkpoint of this model.'
            )
    return tree


# Compiled, as arrays that are spread over several hosts can be computed with in no other way.
@jax.jit
def _wide(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), tree)


@functools.partial(jax.jit, donate_argnums=0)
def _add(total: PyTree, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda whole, x: whole + x.astype(whole.dtype), total, tree)


@functools.partial(jax.jit, static_argnames='dtype')
def _divide(total: jax.Array, count: int, *, dtype: jnp.dtype) -> jax.Array:
    return (total / count).astype(dtype)


def choose(path: epath.Path, steps: Sequence[int], last: int, until: int | None = None) -> list[int]:
    """The last of the checkpoints at `steps`, oldest first.

    Args:
      until: the newest of them; None: the newest there is.

    Raises:
      InputError: there are fewer.
    """
    if last < 1:
        raise config.InputError(f'The mean of {last} checkpoints: use 1 or more.')
    listed = ', '.join(map(str, steps)) or 'none'
    if until is not None and until not in steps:
        raise config.InputError(f'{path} holds no checkpoint of step {until}; there are {listed}.')
    known = [step for step in steps if until is None or step <= until]
    if len(known) < last:
        raise config.InputError(
            f'{path} holds {len(known)} checkpoints{"" if until is None else f" up to step {until}"} ({listed}), too '
            f'few for the mean of {last}. Average {len(known) or 1}, or train with checkpoints.keep_last={last}; '
            'a run may go on with another keep_last.'
        )
    return known[-last:]


def restore(
    path: epath.Path, experiment: Experiment, steps: Sequence[int], *, last: int, until: int | None = None
) -> restored_model.Trained:
    """The model of the run in `path` whose parameters are the mean of those of its last checkpoints.

    Args:
      experiment: that of the run; another mesh is fine.
      steps: of the checkpoints, oldest first.
      last, until: see choose().

    Raises:
      InputError: as choose(); or a checkpoint is damaged or of another experiment, or holds more than parameters.
    """
    chosen = choose(path, steps, last, until)

    def each() -> Iterator[PyTree]:
        for step in chosen:
            one = restored_model.restore(path, experiment, steps, step, weights='trained')
            if jax.tree.leaves(one.model_state):
                raise config.InputError(
                    f'The model of {path} keeps {", ".join(one.model_state)} beside its parameters, which no mean of '
                    'checkpoints gives; take one checkpoint.'
                )
            yield one.params

    params = mean(each())
    return restored_model.Trained(
        path, experiment, experiment.mesh.build(), chosen[-1], params, {}, averaged=tuple(chosen)
    )
