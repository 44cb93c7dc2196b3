"""trace.jsonl: by what a step can be told apart from the same step of another run, without running either again.

Records, of the form of run_directory/event_log.py:
  start, resume, rollback: the step at which a session begins, or to which the run went back. The first two also have
    `fields`: the names of the arrays of a batch, which `content` depends on.
  certificates: `ids` and `content`, 16 hexadecimal digits for each of the steps that end at `step`, in order: the hash
    of the ids of the examples in the batch, and the checksum of all its bits; `skipped`: batches left out before them.
  fingerprint: `names` of the pieces of the parameters, their `checksums` after `step`, the `norms` of their gradients
    in it (null where the step was not run), `optimizer`, the checksum of the optimizer's state, and `key`, from which
    all that was random in the step follows. Written at the start, every `watch.fingerprints_every` steps, at the end.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from bigmodel_jax.hosts import processes
from bigmodel_jax.parallel import sharding
from bigmodel_jax.run_directory import digest, event_log, fingerprints, locking
from bigmodel_jax.storage import appending, durable_files
from bigmodel_jax.train import state, step


class TakenFingerprint(NamedTuple):
    """A fingerprint that is still on the devices."""

    step: int
    fingerprint: fingerprints.Fingerprint
    norms: jax.Array | None
    key: jax.Array


class Tracer:
    """Writes trace.jsonl on the first process, as a context manager; every process makes the same calls.

    Args:
      workdir: the run's directory.
      seed: of the experiment.
      start: the step at which the session begins.
      fields: the names of the arrays of a batch.
      guard: called before anything is written; raises if this process must not write any more.
    """

    def __init__(
        self,
        workdir: epath.Path,
        spec: state.StateSpec,
        *,
        place: sharding.ShardingContext,
        seed: int,
        start: int,
        fields: Iterable[str],
        guard: Callable[[], None] = appending.nothing,
    ):
        self._seed = seed
        self.lost: list[str] = []  # What could not be written to the end, a sentence each.
        self._names = fingerprints.pieces(spec.abstract.params, fingerprints.stacked(spec.axes))
        self._take = fingerprints.compiled(place, fingerprints.stacked(spec.axes))
        self._taken: list[TakenFingerprint] = []
        self._records = (
            event_log.EventWriter(workdir / durable_files.TRACE, guard=guard) if processes.is_first() else None
        )
        self._event('resume' if start else 'start', start, fields=sorted(fields))

    def __enter__(self) -> 'Tracer':
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._records is None:
            return
        if kind is not None and issubclass(kind, locking.DirectoryInUse):
            self._records.abandon()
            return
        lost = self._records.close()
        self.lost += [] if lost is None else [lost]
        if lost is not None and kind is not None:  # There will be no result that says it.
            appending.say(f'{lost}.')

    def sync(self) -> None:
        """Returns when what was written is on disk."""
        if self._records is not None:
            self._records.sync()

    def take(self, number: int, current: state.TrainState, norms: jax.Array | None) -> None:
        """Takes the fingerprint of the state after step `number`, without waiting for it.

        Args:
          norms: [N] float32: of the gradient of that step; None if it was not run.
        """
        fingerprint = self._take(current.params, current.opt_state)
        key = jax.random.key_data(step.key(self._seed, max(number - 1, 0)))
        self._taken.append(TakenFingerprint(number, fingerprint, norms, key))

    def write(self, last: int, certificates: Sequence[np.ndarray], skipped: int) -> None:
        """Writes the certificates [4] uint32 of the steps that end at `last`, and the fingerprints taken so far."""
        if certificates:
            self._event(
                'certificates',
                last,
                skipped=skipped,
                ids=digest.texts([each[:2] for each in certificates]),
                content=digest.texts([each[2:] for each in certificates]),
            )
        for each in jax.device_get(self._taken):
            self._event(
                'fingerprint',
                each.step,
                key=bytes(each.key.astype('>u4')).hex(),
                names=self._names,
                checksums=digest.texts(each.fingerprint.checksums),
                norms=None if each.norms is None else [event_log.number(norm) for norm in each.norms],
                optimizer=digest.texts([each.fingerprint.optimizer])[0],
            )
        self._taken = []

    def rolled_back(self, to: int) -> None:
        """What was written of the steps after `to` no longer holds."""
        self._taken = [each for each in self._taken if each.step <= to]
        self._event('rollback', to)

    def _event(self, kind: str, number: int, **fields: Any) -> None:
        if self._records is not None:
            self._records.append({'kind': kind, 'step': number, **fields})
