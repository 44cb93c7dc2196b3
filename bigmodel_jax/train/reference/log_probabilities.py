"""Reference log-probabilities of preferences: computed once by the reference weights, and kept in the cache.

An entry of the cache is named by the weights (a digest of all their bits), the model, the tokens and which of them
count (hence the records, the tokenizer and the template): when one of these changes, another entry is made. A run
records the digest, and resumes, is evaluated and replayed with the same reference, wherever its weights came from.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from bigmodel_jax import config, initialization
from bigmodel_jax.data import batches, cache, preparation_progress
from bigmodel_jax.data.text.chats import preferences as preference_data
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.hosts import processes
from bigmodel_jax.objectives import objective, preferences
from bigmodel_jax.parallel import sharding
from bigmodel_jax.run_directory import digest, identity
from bigmodel_jax.storage import durable_files
from bigmodel_jax.train import initial_state, state

PyTree = Any
FILE = 'log_probabilities.npy'


class ReferenceWeights(NamedTuple):
    """The weights of the reference, laid out as those of the run."""

    module: Any
    params: PyTree
    model_state: PyTree
    digest: str


def attach(
    experiment: Experiment,
    spec: state.StateSpec,
    place: sharding.ShardingContext,
    *,
    opened: Sequence[batches.Batches | None],
    directory: epath.Path | None,
) -> None:
    """Gives all preferences among the data of a run their reference log-probabilities; every process calls it.

    Args:
      opened: the data of the training and of the evaluations; None where there is none.
      directory: of the run, which may have recorded its reference.

    Raises:
      InputError: the reference weights are missing, of another model, or no longer those that the run recorded; or the
        objective knows no reference.
    """
    found = [each for each in opened if each is not None]
    pairs = [each for each in found if isinstance(each, preference_data.PreferenceBatches)]
    if not pairs:
        return
    processes.run_on_all(lambda: _attach(experiment, spec, place, pairs=pairs, directory=directory))


def _attach(
    experiment: Experiment,
    spec: state.StateSpec,
    place: sharding.ShardingContext,
    *,
    pairs: Sequence[preference_data.PreferenceBatches],
    directory: epath.Path | None,
) -> None:
    chosen = experiment.objective
    if not isinstance(chosen, preferences.PreferenceObjective):
        raise config.InputError(
            f'data=Preferences is for an objective of preferences, such as Dpo(), not for {type(chosen).__name__}; to '
            'train on the chosen answers alone, use the data Instructions.'
        )
    source = experiment.initialization if chosen.reference is None else chosen.reference
    origin = {'source': config.to_json(source), 'is_initial': chosen.reference is None}
    recorded = processes.from_first(processes.on_first(lambda: _recorded(directory, origin)))

    @functools.cache
    def weights() -> ReferenceWeights:
        return _read(experiment, spec, directory, recorded)

    with sharding.use(place):
        about = {**origin, 'weights': recorded or weights().digest}
        for each in pairs:
            values = _of(each, experiment, place, weights=about['weights'], read=weights)
            each.examples.give_reference(values, about)


def _recorded(directory: epath.Path | None, origin: Mapping[str, Any]) -> str | None:
    """The digest of the reference weights with which the run began, if it has a checkpoint and the same settings."""
    if directory is None or not durable_files.saved_steps(directory):
        return None
    session = identity.recorded(directory)
    for known in (session.get('data', {}), *session.get('evaluations', {}).values()):
        about = known.get('reference')
        if about and all(about.get(name) == value for name, value in origin.items()):
            return about['weights']
    return None


def _read(
    experiment: Experiment, spec: state.StateSpec, directory: epath.Path | None, recorded: str | None
) -> ReferenceWeights:
    """The reference weights.

    Raises:
      InputError: they are missing, of another model, or not those that the run recorded.
    """
    chosen: Any = experiment.objective
    if chosen.reference is not None:
        chosen.reference.check(initial_state.wanted(spec))
    begun, record = initial_state.begin(chosen.reference or experiment.initialization, spec)
    if chosen.reference is not None and record is not None and record['by_chance']:
        raise config.InputError(
            f'objective.reference: it has not all parameters of the model: '
            f'{initialization.listed(record["by_chance"])} are missing, and would be random.'
        )
    now = digest.digest({'params': begun.params, 'model_state': begun.model_state})
    if recorded is not None and now != recorded:
        raise config.InputError(
            f'The reference log-probabilities of {directory} are not in the cache {cache.root()} any more, and the '
            f'weights they were computed with have changed since: their digest was {recorded[:12]}..., that of the '
            f'weights of {config.format_value(chosen.reference or experiment.initialization)} is {now[:12]}.... '
            'Restore those weights (of a run, say which step: FromRun(step=...)), or copy the cache.'
        )
    return ReferenceWeights(spec.module, begun.params, begun.model_state, now)


def _of(
    data: preference_data.PreferenceBatches,
    experiment: Experiment,
    place: sharding.ShardingContext,
    *,
    weights: str,
    read: Callable[[], ReferenceWeights],
) -> np.ndarray:
    """[N] float32: the log-probability of every token that counts; equal on every process.

    Args:
      weights: the digest of what `read` gives.
    """
    examples = data.examples
    key = {
        'data': dict(examples.fingerprint), 'weights': weights, 'model': config.to_json(experiment.model), 'format': 1
    }  # fmt: skip
    folder = cache.find('references', key)
    sums = None if folder is None else cache.contents(folder)['files'][FILE]['sha256']
    everywhere = processes.exchange(sums)
    if folder is not None and len(set(everywhere)) == 1:
        return np.load(folder / FILE)
    values = _computed(data, experiment, place, read())

    def make(directory: pathlib.Path, parts: pathlib.Path) -> None:
        np.save(directory / FILE, values)

    processes.first_then_others(lambda: cache.prepared('references', key, make))
    return values


def _computed(
    data: preference_data.PreferenceBatches,
    experiment: Experiment,
    place: sharding.ShardingContext,
    weights: ReferenceWeights,
) -> np.ndarray:
    """As _of(), in batches of the shape that training has, so that equal programs give equal bits where they can."""
    chosen: Any = experiment.objective

    def compute(params: PyTree, model_state: PyTree, batch: dict[str, jax.Array]) -> jax.Array:
        return chosen.log_probabilities(objective.Apply(weights.module, params, model_state), batch, {})[0]

    program = jax.jit(compute, out_shardings=place.replicated)
    examples = data.examples
    rows = -(-data.rows // place.shards('batch')) * place.shards('batch')
    values, mine = np.zeros(examples.stored_tokens, np.float32), place.local_rows(rows)
    starts = range(0, len(examples), rows)
    for first in preparation_progress.track(starts, total=len(starts), what='Reference log-probabilities'):
        indices = np.minimum(np.arange(first, first + rows), len(examples) - 1)
        batch = place.put_batch(examples.rows(indices[mine]), rows)
        found = jax.device_get(program(weights.params, weights.model_state, batch))
        layout = examples.places(indices)
        real = layout.segments > 0
        values[layout.sources[real] + 1] = found[real]
    return values
