"""Hooks: what a session of training does at every step beside training. They change no result."""

from collections.abc import Mapping, Sequence

from bigmodel_jax.train.state import TrainState
from bigmodel_jax.train.step import Batch, Trace


class Hook:
    """Interface of the hooks; each method does nothing by default. Every process makes the same calls."""

    def at_start(self, number: int, current: TrainState) -> None:
        """Called before the first step, with the step and state that the session starts from."""

    def before_batch(self, number: int, current: TrainState) -> None:
        """Called before the batch of step `number` is read."""

    def before_step(self, number: int, current: TrainState, batch: Batch) -> None:
        """Called before step `number`, whose batch is `batch`."""

    def after_step(self, number: int, current: TrainState, trace: Trace) -> None:
        """Called when step `number` was given to the devices, which may not have finished it."""

    def after_metrics(self, number: int, metrics: Mapping[str, float]) -> None:
        """Called with each report and with what evaluations found, as 'train/loss' or 'validation/loss'."""


class Hooks(Hook):
    """Several hooks, called in their order."""

    def __init__(self, hooks: Sequence[Hook]):
        self._hooks = tuple(hooks)

    def at_start(self, number: int, current: TrainState) -> None:
        for hook in self._hooks:
            hook.at_start(number, current)

    def before_batch(self, number: int, current: TrainState) -> None:
        for hook in self._hooks:
            hook.before_batch(number, current)

    def before_step(self, number: int, current: TrainState, batch: Batch) -> None:
        for hook in self._hooks:
            hook.before_step(number, current, batch)

    def after_step(self, number: int, current: TrainState, trace: Trace) -> None:
        for hook in self._hooks:
            hook.after_step(number, current, trace)

    def after_metrics(self, number: int, metrics: Mapping[str, float]) -> None:
        for hook in self._hooks:
            hook.after_metrics(number, metrics)
