"""The callback of a session: a function that sees the metrics as they come, and may end the session.

It is an argument of train() and not a part of the experiment, because it must not change the result: an experiment
holds everything that does, so that a run can be repeated and compared. What should change the result belongs in the
experiment; for a stop that follows from the metrics, that is watch.early_stopping.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from bigmodel_jax import config
from bigmodel_jax.hosts import processes
from bigmodel_jax.train.monitoring import hooks


class Callback(Protocol):
    """Called on the first process after each report and after the evaluations of a step."""

    def __call__(self, step: int, metrics: Mapping[str, float], /) -> bool | None:
        """Takes the metrics, as 'train/loss' or 'validation/loss'.

        Returns:
          True: the session stops with a checkpoint after the next step (of several processes, the one after that), as
          with a signal; the next call of train() resumes it. Else None or False.
        """


def check(callback: Callback | None) -> None:
    """Checks that a callback can be called with a step and metrics.

    Raises:
      InputError: it cannot.
    """
    if callback is None:
        return
    if not callable(callback):
        raise config.InputError(f'callback={callback!r} is not a function; give one that takes (step, metrics).')
    try:
        inspect.signature(callback).bind(0, {})
    except ValueError:
        return  # Some builtins do not tell what they take.
    except TypeError as error:
        raise config.InputError(
            f'The callback {_name(callback)} cannot be called as (step, metrics): {error}.'
        ) from None


class Caller(hooks.Hook):
    """Calls the callback of a session, if it has one.

    Args:
      stop: asks for the end of the session.
    """

    def __init__(self, callback: Callback | None, stop: Callable[[], None]):
        self._callback = callback if processes.is_first() else None
        self._stop = stop

    def after_metrics(self, number: int, metrics: Mapping[str, float]) -> None:
        """Gives it the metrics after step `number`, if there are any.

        Raises:
          InputError: it returned something else than None, False or True.
        """
        if self._callback is None or not metrics:
            return
        with _named(self._callback, number):
            answer = self._callback(number, dict(metrics))
        if answer is not None and not isinstance(answer, bool):
            raise config.InputError(
                f'The callback {_name(self._callback)} returned {answer!r} after step {number}. Return True to '
                'stop the run with a checkpoint, or None.'
            )
        if answer:
            self._stop()


def _name(callback: Callback) -> str:
    return getattr(callback, '__qualname__', type(callback).__qualname__)


@contextlib.contextmanager
def _named(callback: Callback, number: int) -> Iterator[None]:
    """Adds to an error which callback raised it."""
    try:
        yield
    except BaseException as error:
        error.add_note(f'Raised by the callback {_name(callback)} after step {number}.')
        raise
