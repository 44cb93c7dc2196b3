"""One step of a run once more, bit for bit: which examples were in its batch, and what each of them lost."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.checkpoints.checkpoints import Checkpointer
from bigmodel_jax.data import batches
from bigmodel_jax.objectives import rngs
from bigmodel_jax.objectives.objective import Apply
from bigmodel_jax.optim.gradients import FixedOrder, Gradients
from bigmodel_jax.parallel import sharding
from bigmodel_jax.reproduce import conditions, diff, repeat, results
from bigmodel_jax.reproduce.sections import Section
from bigmodel_jax.run_directory import code, digest, event_log, fingerprints, identity
from bigmodel_jax.runs import directory, traces
from bigmodel_jax.train import metrics, prefetch, preparation, step
from bigmodel_jax.train.state import TrainState

CHARACTERS = 200  # Of the text of an example.


@dataclasses.dataclass(frozen=True)
class Replay:
    """What a step was."""

    run: directory.Run
    step: int
    restored: int  # The checkpoint from which it was reached; 0: the initial state.
    skipped: int  # Batches that were left out before it: its batch is step - 1 + skipped.
    metrics: Mapping[str, float]  # Of this step alone.
    ids: np.ndarray  # [n] int64: the examples of its batch, in order.
    losses: np.ndarray  # [n] float32: of each, with the dropout that it had; nan where the objective gives none.
    texts: tuple[str, ...]  # What they say; () if the run is not on text.
    conditions: tuple[Section, ...]  # Of then, and of now.
    sections: tuple[Section, ...]  # What the run recorded of this step, and what came of it now.

    @property
    def events(self) -> list[str]:
        """What is damaged in the run; what it said went wrong in this step, and of how it rolled back before."""
        return self.run.damage + [
            record['text']
            for record in self.run.records
            if (record['kind'], record['step']) == ('skipped', self.step)
            or (record['kind'] == 'rollback' and record['step'] < self.step)
        ]

    @property
    def worst(self) -> np.ndarray:
        """[n] int64: the rows of the batch, those whose loss is not finite first, then by falling loss."""
        finite = np.isfinite(self.losses)
        return np.lexsort((-np.where(finite, self.losses, 0), finite))

    @property
    def identical(self) -> bool | None:
        """Whether it is what the run recorded of it, bit for bit; None if the run recorded nothing."""
        if not any(section.compared for section in self.sections):
            return None
        return not any(section.findings for section in self.sections)

    def to_json(self) -> dict[str, Any]:
        """All of it, JSON-ready."""
        parts = {
            part: {each.title: each.to_json() for each in getattr(self, part)} for part in ('conditions', 'sections')
        }
        examples = [
            {'row': int(row), 'id': int(self.ids[row]), 'loss': event_log.number(self.losses[row])}
            for row in self.worst
        ]
        return {
            'run': str(self.run.path),
            'step': self.step,
            'restored': self.restored,
            'skipped': self.skipped,
            'identical': self.identical,
            'metrics': {name: event_log.number(value) for name, value in self.metrics.items()},
            'examples': examples,
            **parts,
        }


def replay(
    run: directory.Run, number: int, *, skipped: int | None = None, experiment_file: str | None = None
) -> Replay:
    """Runs step `number` again, from the newest good checkpoint before it.

    Args:
      run: it is only read.
      skipped: batches left out before it, to see what it was before the run rolled back; None: as it holds.
      experiment_file: needed only if it defines parts of the experiment; see repeat.experiment_of().

    Raises:
      InputError: there is no such step, or there are too few devices.
    """
    asked = repeat.experiment_of(run, experiment_file)
    if not 0 < number <= asked.steps:
        raise config.InputError(f'--step {number}: the experiment has steps 1 to {asked.steps}.')
    recorded = run.trace or traces.RunTrace({}, {})
    session = repeat.sessions_of(run, number - 1, number)[-1][1]
    asked = repeat.made(run, number)
    built = preparation.prepare(repeat.on_mesh(asked, session), run.path)
    identity.check(built.identity, run.path, asked, session=session)
    with sharding.use(built.place):
        current, position = _before(run, built, number, skipped)
        start = position['step']
        index = functools.partial(_skipped, recorded, position.get('skipped', 0), skipped)
        step_fn = step.compile_step(built.experiment, built.spec, built.place)
        for at in range(start + 1, number):
            current, _ = step_fn(current, _batch(built, at - 1 + index(at)))
        own = number - 1 + index(number)
        rows = prefetch.read(built.data, own, built.place.local_rows(built.data.rows))
        losses = _losses(built, current, step.given(rows, built.experiment.objective), number)
        current, traced = step_fn(current, _batch(built, own))
        now = _traced(built, current, traced, number=number, skipped=index(number))
    means = metrics.mean([metrics.read([traced], number)[0].metrics])
    here, contents = repeat.here(asked, {**session, 'mesh': built.place.sizes})
    then = repeat.sessions_of(run, start, number)
    around = conditions.compare(then, [(start, here)], code.Contents(contents, [run.path]))
    return Replay(
        run=run,
        step=number,
        restored=start,
        skipped=index(number),
        metrics=means,
        ids=built.data.ids(own),
        losses=losses,
        texts=_texts(run, rows),
        conditions=tuple(around),
        sections=tuple(_compared(run, recorded, now, number=number, means=means)),
    )


def _before(
    run: directory.Run, built: preparation.PreparedRun, number: int, skipped: int | None
) -> tuple[TrainState, dict[str, Any]]:
    """The newest good state before a step, and its position."""
    spec = built.spec
    with Checkpointer(run.path, None) as checkpoints:
        among = [saved for saved in checkpoints.steps if saved < number]
        while among:
            found = checkpoints.restore_newest(spec.abstract, spec.shardings, among)
            # One that was saved after the run had left out more is of another past.
            if found is None or skipped is None or found[1].get('skipped', 0) <= skipped:
                break
            among = [saved for saved in among if saved < found[1]['step']]
    return found if among and found is not None else (spec.init(), {'step': 0})


def _skipped(recorded: traces.RunTrace, at_start: int, asked: int | None, number: int) -> int:
    """Batches left out before a step: as asked, or as recorded of it or the last one before it."""
    if asked is not None:
        return asked
    known = [at for at in recorded.certificates if at <= number]
    return recorded.certificates[max(known)].skipped if known else at_start


def _batch(built: preparation.PreparedRun, index: int) -> step.Batch:
    rows = prefetch.read(built.data, index, built.place.local_rows(built.data.rows))
    return built.place.put_batch(rows, built.data.rows)


# ---- the examples -----------------------------------------------------------------------------------------------


def _losses(built: preparation.PreparedRun, current: TrainState, rows: batches.Batch, number: int) -> np.ndarray:
    """[n] float32: the loss of each row of the batch, with the dropout of the step; nan where it has no such losses.

    Nor does a part of a fixed order that does not divide over the devices.
    """
    experiment, data = built.experiment, built.data
    compute = _compiled_losses(built)
    key, losses = step.key(experiment.seed, number - 1), np.full(data.rows, np.nan, np.float32)
    for own, own_key in _cut(experiment.gradients, data.rows, key):
        if len(own) % built.place.shards('batch'):
            continue  # A part that one device computes cannot be laid over several.
        microbatch = {name: value[own] for name, value in rows.items()}
        batch = built.place.put_batch(_of_this_process(built, microbatch, len(own)), len(own))
        found = compute(current.params, current.model_state, batch, (own_key, key))
        if found is not None:
            losses[own] = jax.device_get(found)
    return losses


def _cut(method: Gradients, rows: int, key: jax.Array) -> Iterator[tuple[np.ndarray, jax.Array]]:
    """The rows [n] of each microbatch of a step, and its key, as train/step.py cuts them."""
    fixed, parts = isinstance(method, FixedOrder), method.microbatches
    for number, part in enumerate(np.split(np.arange(rows), method.parts if isinstance(method, FixedOrder) else 1)):
        of_part = jax.random.fold_in(key, number) if fixed else key
        for microbatch in range(parts):
            yield part[microbatch::parts], of_part if parts == 1 else jax.random.fold_in(of_part, microbatch)


def _of_this_process(built: preparation.PreparedRun, rows: batches.Batch, count: int) -> batches.Batch:
    mine = built.place.local_rows(count)
    return {name: value[mine] for name, value in rows.items()}


def _compiled_losses(built: preparation.PreparedRun) -> Callable[..., jax.Array | None]:
    objective, spec = built.experiment.objective, built.spec

    def losses(params: Any, model_state: Any, batch: step.Batch, keys: tuple[jax.Array, jax.Array]) -> Any:
        apply = Apply(spec.module, spec.storage.read(params), model_state)
        own, streams = rngs.of_training(batch, *keys, objective.streams)
        return objective.per_example(apply, own, train=True, rngs=streams)

    return jax.jit(losses, out_shardings=built.place.replicated)


def _texts(run: directory.Run, rows: batches.Batch) -> tuple[str, ...]:
    """How each example begins, if the run has a tokenizer."""
    tokenizer = identity.tokenizer_of(run.path)
    if tokenizer is None or 'targets' not in rows:
        return ()
    return tuple(tokenizer.decode(ids[:CHARACTERS].tolist())[:CHARACTERS] for ids in rows['targets'])


# ---- what was recorded ------------------------------------------------------------------------------------------


def _traced(
    built: preparation.PreparedRun, current: TrainState, traced: step.Trace, *, number: int, skipped: int
) -> traces.RunTrace:
    """The certificate and the fingerprint of the step just done."""
    stacked = fingerprints.stacked(built.spec.axes)
    take = fingerprints.compiled(built.place, stacked)
    taken, norms, certificate = jax.device_get(
        (take(current.params, current.opt_state), traced.norms, traced.certificate)
    )
    names = fingerprints.pieces(built.spec.abstract.params, stacked)
    key = jax.device_get(jax.random.key_data(step.key(built.experiment.seed, number - 1)))
    fingerprint = traces.RecordedFingerprint(
        key=bytes(key.astype('>u4')).hex(),
        checksums=dict(zip(names, digest.texts(taken.checksums))),
        norms={name: float(norm) for name, norm in zip(names, norms)},
        optimizer=digest.texts([taken.optimizer])[0],
    )
    ids, content = digest.texts([certificate[:2], certificate[2:]])
    fields = tuple(sorted(built.data.fields))
    return traces.RunTrace({number: traces.StepCertificate(ids, content, skipped, fields)}, {number: fingerprint})


def _compared(
    run: directory.Run, recorded: traces.RunTrace, now: traces.RunTrace, *, number: int, means: Mapping[str, float]
) -> list[Section]:
    """What the run recorded of the step, beside what came of it now."""
    before = number - 1
    held = recorded.certificates.get(number)
    if held is not None and held.skipped != now.certificates[number].skipped:
        about = f'the run rolled back; what holds of step {number} is of a batch with {held.skipped} left out before it'
        return [Section('data', (), about, compared=False)]
    data = diff.data(recorded, now, ({}, {}), before)
    data = data._replace(compared=number in recorded.certificates)
    reported = results.series(run, before).training.get((before, number))
    if reported is None:
        about = 'the run reported means of several steps, and not this one alone'
        of_metrics = Section('metrics', (), about, compared=False)
    else:
        of_metrics = results.of_metrics([((before, number), reported, means)], before).section
    layers = results.layers(recorded, now, before).section
    if not layers.compared:
        layers = layers._replace(otherwise=f'the run took no fingerprint of step {number}')
    return [data, diff.keys(recorded, now, same_seed=True, after=number), of_metrics, layers]
