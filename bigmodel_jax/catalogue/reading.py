"""What is known of one run, read from its directory: facts, the fields of its experiment, and its metrics. No JAX."""

import datetime
import statistics
from collections.abc import Mapping
from typing import Any

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.catalogue import catalogued_run, fields
from bigmodel_jax.evaluate import metric
from bigmodel_jax.run_directory import event_log
from bigmodel_jax.runs import directory, requirements
from bigmodel_jax.storage import durable_files
from bigmodel_jax.train.monitoring import sessions as sessions_lib

SHOWN_DAMAGE = 5  # Sentences that are kept; thousands of lines may be damaged.
ENDED = (catalogued_run.FINISHED, catalogued_run.STOPPED)
# What reading a file raises whose content is of another form than any version wrote.
OTHER_FORM = (LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


def read(path: str) -> catalogued_run.CataloguedRun:
    """Reads the directory of a run; what cannot be read makes it a damaged one, with the reason."""
    try:
        return _read(epath.Path(path))
    except (config.InputError, OSError, ValueError) as error:
        return catalogued_run.damaged(str(error))
    except OTHER_FORM as error:
        return catalogued_run.damaged(f'{path} holds what no version wrote: {type(error).__name__}: {error}.')


def _read(path: epath.Path) -> catalogued_run.CataloguedRun:
    if not durable_files.exists(path / durable_files.EXPERIMENT):
        return catalogued_run.damaged(f'{path} holds parts of a run, but no {durable_files.EXPERIMENT}.')
    run = directory.Run(path)
    flat = fields.flatten(run.stored)
    environment, damage = run.environment, run.log_damage
    metrics = {name: _summary(run, name) for name in run.metric_names}
    try:
        segments = len(run.segments)
    except durable_files.DamagedFile as error:  # It tells of earlier experiments, and not of this one.
        segments, damage = None, [*damage, str(error)]
    state = catalogued_run.DAMAGED if damage and not run.records else _state(run.records)
    facts = {
        'name': run.name,
        'state': state,
        'ending': run.state if state in ENDED else state,
        'step': run.step,
        'steps': run.steps,
        'seed': run.stored.get('seed'),
        **_times(run),
        **_place(environment[-1] if environment else {}),
        'parameters': run.parameters,
        'digest': run.digest,
        'sessions': len(environment),
        'segments': segments,
        'requirements': requirements.overall(requirements.judge(run)),
        'damage': damage
        if len(damage) <= SHOWN_DAMAGE
        else [*damage[:SHOWN_DAMAGE], f'And {len(damage) - SHOWN_DAMAGE:,} more.'],
    }
    return catalogued_run.CataloguedRun(facts, flat, metrics)


def _state(records: list[event_log.Record]) -> str:
    """Where a run stands that no process works on."""
    kinds = (*event_log.BEGINNINGS, *sessions_lib.ENDINGS)
    last = next((each['kind'] for each in reversed(records) if each['kind'] in kinds), None)
    return {None: catalogued_run.NOT_STARTED, 'end': catalogued_run.FINISHED, 'stop': catalogued_run.STOPPED}.get(
        last, catalogued_run.INTERRUPTED
    )


def _times(run: directory.Run) -> dict[str, Any]:
    sessions, records = run.sessions, run.records
    ends = [each['time'] for each in records if each['kind'] in sessions_lib.ENDINGS]
    last = (
        ends[-1]
        if ends and _state(records) != catalogued_run.INTERRUPTED
        else max((each['time'] for each in records), default=None)
    )
    first = sessions[0].started_s if sessions else min((each['time'] for each in records), default=None)
    return {'started': _moment(first), 'ended': _moment(last), 'seconds': run.seconds if sessions else None}


def _moment(unix_s: float | None) -> str | None:
    """A time in UTC as text that sorts in the order of time: 2026-03-01T14:05:09Z."""
    return (
        None if unix_s is None else datetime.datetime.fromtimestamp(unix_s, datetime.UTC).strftime('%Y-%m-%dT%H:%M:%SZ')
    )


def _place(session: Mapping[str, Any]) -> dict[str, Any]:
    """Where and with which code the last session ran."""
    git = session.get('git') or {}
    devices = [f'{each["count"]} x {each["kind"]}' for each in session.get('devices', ())]
    versions = {f'versions.{name}': version for name, version in session.get('versions', {}).items()}
    return {
        'commit': git.get('commit'),
        'dirty': git.get('dirty'),
        'backend': session.get('backend'),
        'devices': ', '.join(devices) or None,
        'processes': session.get('processes'),
        'platform': session.get('platform'),
        'python': session.get('python'),
        **versions,
    }


def _summary(run: directory.Run, name: str) -> catalogued_run.MetricSummary:
    about = run.measured(name)
    steps, values = run.metrics(name)
    series = dict(zip(steps.tolist(), values.tolist()))
    step = None if about.direction is None else metric.best(series, about.direction)
    last = statistics.median(series.values()) if name.endswith('_per_s') else about.value
    return catalogued_run.MetricSummary(last, None if step is None else series[step], step, about.direction, about.unit)
