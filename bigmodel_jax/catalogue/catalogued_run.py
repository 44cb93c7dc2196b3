"""What a catalogue knows of one run, and the form in which an index keeps it."""

from typing import Any, NamedTuple

from bigmodel_jax.evaluate import metric

VERSION = 1  # Of what to_json() gives; an index of another version is not used.
# Where a run stands. One that is not running and has no end was interrupted: killed, or ended by an error.
FINISHED, STOPPED, RUNNING, INTERRUPTED = 'finished', 'stopped', 'running', 'interrupted'
NOT_STARTED, DAMAGED = 'not started', 'damaged'
# Column -> what it is. A fact that is not known of a run is None.
FACTS = {
    'path': 'of its directory, as the root was given',
    'name': 'of the experiment',
    'state': f'{FINISHED}, {STOPPED}, {RUNNING}, {INTERRUPTED}, {NOT_STARTED} or {DAMAGED}',
    'ending': 'how it ended, in words',
    'step': 'the last step that was recorded',
    'steps': 'that the experiment asks for',
    'seed': 'of the experiment',
    'sweep': 'the directory of the sweep whose trial it is',
    'arm': 'of that sweep',
    'started': 'the first session, as 2026-03-01T14:05:09Z',
    'ended': 'the end, or the last record',
    'seconds': 'spent in all sessions',
    'commit': 'of the code of the last session',
    'dirty': 'whether files were changed since that commit',
    'backend': 'cpu, gpu or tpu',
    'devices': 'number and kind, as "8 x TPU v5e"',
    'processes': 'hosts of the last session',
    'platform': 'operating system',
    'python': 'version',
    'parameters': 'how many numbers the parameters are',
    'digest': 'of the final state: equal digests mean identical runs',
    'sessions': 'starts and resumptions',
    'segments': 'experiments that it had, one after another',
    'requirements': 'whether it meets what its experiment requires: met, not met or not measured',
    'damage': 'what could not be read',
}


class MetricSummary(NamedTuple):
    """The values of one metric in a run; `best` and `best_step` are None where no direction is known.

    Attributes:
      last: the last value; of a speed, which has a name in _per_s, the median.
      best: by its direction, never nan or infinite.
    """

    last: float
    best: float | None
    best_step: int | None
    direction: metric.Direction | None
    unit: str


class CataloguedRun(NamedTuple):
    """All that a catalogue knows of a run.

    Attributes:
      facts: see FACTS; and 'versions.jax', with the other libraries.
      fields: of the experiment by path, see fields.flatten().
      metrics: by name: 'loss' of training, 'validation/loss' of the evaluation 'validation'.
    """

    facts: dict[str, Any]
    fields: dict[str, Any]
    metrics: dict[str, MetricSummary]


def damaged(reason: str) -> CataloguedRun:
    """A run of which nothing can be read."""
    return CataloguedRun({'state': DAMAGED, 'damage': [reason]}, {}, {})


def to_json(run: CataloguedRun) -> dict[str, Any]:
    """For an index; metrics may be nan, which Python's own JSON can hold."""
    return {
        'facts': run.facts,
        'fields': run.fields,
        'metrics': {name: list(each) for name, each in run.metrics.items()},
    }


def from_json(stored: Any) -> CataloguedRun:
    """What to_json() gave.

    Raises:
      ValueError, TypeError, LookupError or AttributeError: it is something else.
    """
    metrics = {str(name): MetricSummary(*values) for name, values in stored['metrics'].items()}
    facts, flat = stored['facts'], stored['fields']
    if not (isinstance(facts, dict) and isinstance(flat, dict) and isinstance(facts['damage'], list)):
        raise TypeError('not an entry of an index')
    return CataloguedRun(facts, flat, metrics)
