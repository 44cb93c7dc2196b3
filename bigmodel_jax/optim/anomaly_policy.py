"""Anomaly policies: what a run does when a loss or gradient is not finite, or is a spike.

The step is judged on the devices, so that every host comes to the same verdict.
"""

import dataclasses
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from bigmodel_jax import bounds, config

PyTree = Any

OK, NOT_FINITE, SPIKE = 0, 1, 2  # Verdicts.
WORDS = {NOT_FINITE: 'not finite', SPIKE: 'a spike'}
DEFAULT_WINDOW = 100

Times = Annotated[config.AboveOne, bounds.Advice('It is how many times its mean a spike is. Use None to leave it out.')]


class RunningStats(NamedTuple):
    """Running means of the loss and the gradient norm; a part of the training state, called `levels` in checkpoints."""

    loss: jax.Array  # [] float32: running mean.
    grad_norm: jax.Array  # [] float32: running mean.
    seen: jax.Array  # [] int32: steps in them.

    @classmethod
    def initial(cls) -> 'RunningStats':
        return cls(jnp.float32(0), jnp.float32(0), jnp.int32(0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spikes:
    """A step is a spike where its loss or the norm of its gradient is more than so many times its running mean.

    Of a negative mean its size counts.
    """

    loss: Times | None = 2.0
    grad_norm: Times | None = 10.0
    window: config.Positive = DEFAULT_WINDOW  # Steps of the running mean; before so many there are no spikes.


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnomalyPolicy:
    """Interface of the configs that say what is done when a step goes wrong."""

    spikes: Spikes | None = None  # None: only numbers that are not finite are wrong.

    def judge(self, levels: RunningStats, loss: jax.Array, grad_norm: jax.Array) -> tuple[jax.Array, RunningStats]:
        """The verdict on a step, [] int32, and the levels after it; steps that went wrong do not enter these.

        Args:
          loss, grad_norm: [] float32, of this step.
        """
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        spike = jnp.bool_(False)
        if self.spikes is not None:
            for value, usual, times in (
                (loss, levels.loss, self.spikes.loss),
                (grad_norm, levels.grad_norm, self.spikes.grad_norm),
            ):
                if times is not None:
                    spike |= value > times * jnp.abs(usual)  # A loss may be negative.
            spike &= levels.seen >= self.spikes.window
        verdict = jnp.where(finite, jnp.where(spike, SPIKE, OK), NOT_FINITE).astype(jnp.int32)
        window = DEFAULT_WINDOW if self.spikes is None else self.spikes.window
        moved = _follow(levels, loss, grad_norm, window)
        return verdict, jax.tree.map(lambda new, old: jnp.where(verdict == OK, new, old), moved, levels)

    def settle(self, verdict: jax.Array, before: PyTree, after: PyTree) -> PyTree:
        """What the step leaves behind: the state `after` it; or for a guard that skips, the one `before`."""
        return after


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stop(AnomalyPolicy):
    """The run stops with an error; the newest checkpoint is from before the step."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skip(AnomalyPolicy):
    """The step leaves parameters and optimizer as they were and is counted; so many in a row stop the run.

    The learning-rate schedule advances all the same: a run of `steps` steps ends at the end of its schedule, and each
    update has the rate that the log and the schedule give for its step, however many steps before it were skipped.
    """

    limit: config.Positive = 10

    def settle(self, verdict: jax.Array, before: PyTree, after: PyTree) -> PyTree:
        def one(old: PyTree, new: PyTree) -> PyTree:
            return new if _is_of_schedule(new) else jnp.where(verdict == OK, new, old)

        return jax.tree.map(one, before, after, is_leaf=_is_of_schedule)


def _is_of_schedule(node: PyTree) -> bool:
    """Whether a part of Optax's state counts the steps of a schedule: it holds a count and nothing else.

    Counts beside moments are those of the updates that the moments have seen, and stay with them.
    """
    return isinstance(node, tuple) and getattr(node, '_fields', None) == ('count',)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RollBack(AnomalyPolicy):
    """The run goes back to its last regular checkpoint and leaves out the batches from there to that of the step.

    After `limit` times the run stops. A regular checkpoint is one of `every_steps`, not one of time or of a stop, so
    that a run that was interrupted takes the same way; it is kept for as long as it may be needed, besides those of
    `keep_last`. Source: Chowdhery et al. (2022), PaLM, arXiv:2204.02311, section 5.1.
    """

    limit: config.Positive = 10


def _follow(levels: RunningStats, loss: jax.Array, grad_norm: jax.Array, window: int) -> RunningStats:
    """The running means with one step more: of all steps at first, then exponential."""
    rate = 1 / jnp.minimum(levels.seen + 1, window).astype(jnp.float32)
    return RunningStats(
        levels.loss + rate * (loss - levels.loss),
        levels.grad_norm + rate * (grad_norm - levels.grad_norm),
        levels.seen + 1,
    )
