"""A run's directory, opened for reading: its experiment, metrics, samples, checkpoints. No JAX until it is needed."""

import functools
import hashlib
import html
import pathlib
import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from bigmodel_jax import __version__, config
from bigmodel_jax.checkpoints import restoring
from bigmodel_jax.console import quantities
from bigmodel_jax.evaluate import metric
from bigmodel_jax.evaluate.artifacts import Artifact
from bigmodel_jax.run_directory import artifact_files, event_log, run_files
from bigmodel_jax.run_directory import segments as segments_lib
from bigmodel_jax.runs import goodput, traces
from bigmodel_jax.storage import durable_files
from bigmodel_jax.train.monitoring import sessions as sessions_lib

Record = event_log.Record


def open_run(workdir: epath.PathLike, experiment_file: epath.PathLike | None = None) -> 'Run':
    """The run in `workdir`, as it is now; open it again to see what a running one has done since.

    Args:
      workdir: a local path or gs://...
      experiment_file: the Python file of the experiment; needed only if that file defines parts of its own.

    Raises:
      InputError: there is no such directory, or it holds no run.
    """
    path = durable_files.directory(workdir)
    if not durable_files.is_directory(path):
        raise config.InputError(f'{path}: there is no such directory. Pass the directory of a run.')
    restoring.from_checkpoints(path)
    if not durable_files.exists(path / durable_files.EXPERIMENT):
        names = durable_files.names_in(path)
        shown = ', '.join(names[:8]) + (f' and {len(names) - 8} more' if len(names) > 8 else '')
        raise config.InputError(
            f'{path} is not the directory of a run: it has no {durable_files.EXPERIMENT}. '
            f'It holds {shown or "nothing"}.'
        )
    return Run(path, experiment_file)


class Run:
    """What a run's directory holds. Made by open_run()."""

    def __init__(self, path: epath.Path, experiment_file: epath.PathLike | None = None):
        self.path = path
        self._experiment_file = experiment_file
        self._json = run_files.experiment(path)

    # ---- what was asked for ----

    @functools.cached_property
    def experiment(self) -> Any:
        """The Experiment.

        Raises:
          InputError: it has parts that only its experiment file defines, and that file was not given.
        """
        from bigmodel_jax import experiment_file  # Imports JAX.

        if self._experiment_file is not None:
            experiment_file.load_module(str(self._experiment_file))
        try:
            return config.from_json(self._json)
        except config.InputError as error:
            raise config.InputError(f'{self.path / durable_files.EXPERIMENT}: {error}{self._written_by()}') from None

    def _written_by(self) -> str:
        """A sentence if another version of this package, with other configs, may have written the run."""
        version = self.environment[-1].get('versions', {}).get('bigmodel_jax') if self.environment else None
        if version is None:
            return ''
        other = '' if version == __version__ else f', and this is {__version__}'
        return (
            f'\nThe run was written by bigmodel_jax {version}{other}. If that class or field was removed or renamed '
            f'since, use the code that wrote the run; {durable_files.ENVIRONMENT} names its version and commit.'
        )

    @functools.cached_property
    def unloaded(self) -> str:
        """Why the experiment cannot be made from its JSON, as where its own file was not named; '' if it can."""
        try:
            self.experiment  # noqa: B018 (Making it is the question.)
        except config.InputError as error:
            return f'{error}{self._own_file()}'
        return ''

    def _own_file(self) -> str:
        """Where the experiment file was, and whether it is still as it was. It is only read, and never run."""
        code = self.environment[-1].get('code') if self.environment else None
        if code is None or code['path'] is None:
            return ''
        path = pathlib.Path(code['path'])
        if path.suffix != '.py' or not path.is_file():
            return f' Its experiment file was {path}, which is not there any more.'
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        same = digest == code['files'].get(code['experiment_file'])
        return f' Its experiment file was {path}, which {"is as it was" if same else "has changed since"}.'

    @property
    def stored(self) -> dict[str, Any]:
        """The experiment as JSON, which needs no class to be there."""
        return self._json

    @functools.cached_property
    def segments(self) -> list[segments_lib.Segment]:
        """The experiments that it had, each with the step after which it began; the last is the current one."""
        return segments_lib.read(self.path)

    @property
    def name(self) -> str:
        return self._json['name']

    @property
    def steps(self) -> int:
        """Updates that the experiment asks for."""
        return self._json['steps']

    # ---- what happened ----

    @property
    def environment(self) -> list[dict[str, Any]]:
        """One dict for each session: versions, devices, mesh, git commit, fingerprint of the data."""
        return self._environment[0]

    @functools.cached_property
    def _environment(self) -> tuple[list[dict[str, Any]], list[str]]:
        try:
            return run_files.environment(self.path), []
        except durable_files.DamagedFile as error:
            return [], [f'{error} What it says of the sessions is left out.']

    @functools.cached_property
    def _log(self) -> event_log.Log:
        return event_log.scan(self.path / event_log.FILE)

    @property
    def _every_record(self) -> list[Record]:
        return self._log.records

    @functools.cached_property
    def trace(self) -> traces.RunTrace | None:
        """What trace.jsonl says of each step; None if there is none, as in the run of an older version."""
        return traces.read(self.path)

    @property
    def damage(self) -> list[str]:
        """A sentence for environment.json, and each line of metrics.jsonl and trace.jsonl, that is damaged."""
        return [*self.log_damage, *(self.trace.damage if self.trace else ())]

    @property
    def log_damage(self) -> list[str]:
        """`damage` without that of trace.jsonl, which is the largest of the files and is not read for this."""
        return [*self._environment[1], *self._log.damage]

    @functools.cached_property
    def records(self) -> list[Record]:
        """The records of metrics.jsonl that hold, without the steps that a later session did again."""
        return event_log.current(self._every_record)

    @functools.cached_property
    def sessions(self) -> list[sessions_lib.SessionSummary]:
        """Each start and resumption, how far it came and how it ended."""
        return sessions_lib.sessions(self.environment, self._every_record)

    @functools.cached_property
    def time_spent(self) -> list[goodput.TimePart] | None:
        """Where the time went; None if the run did not record it."""
        return goodput.goodput(self.sessions, self._every_record)

    @functools.cached_property
    def time_shares(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Part of the time, see goodput.PARTS -> steps and shares of the time since the report before, [n] each."""
        found = {each['step']: goodput.shares(each) for each in self.records if each['kind'] == 'time'}
        steps = sorted(step for step, each in found.items() if each)
        names = dict.fromkeys(name for step in steps for name in found[step])
        return {
            name: (np.array(steps, np.int64), np.array([found[step].get(name, 0.0) for step in steps], np.float64))
            for name in names
        }

    @property
    def resumptions(self) -> list[int]:
        """The steps after which a later session resumed."""
        return [session.first_step for session in self.sessions[1:]]

    @functools.cached_property
    def _series(self) -> dict[str, dict[int, float]]:
        """Metric -> step -> value; of several values at one step the last holds."""
        series: dict[str, dict[int, float]] = {}
        for record in self.records:
            if record['kind'] == 'time':
                continue  # Of the session, not of the model.
            prefix = f'{record["name"]}/' if record['kind'] == 'evaluation' else ''
            for name, value in record.get('metrics', {}).items():
                series.setdefault(prefix + name, {})[record['step']] = value
        return series

    @property
    def metric_names(self) -> list[str]:
        """Every metric: 'loss' and 'tokens_per_s' of training, 'validation/loss' of the evaluation 'validation'."""
        return list(self._series)

    def metrics(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The steps [n] int64 and values [n] float64 of a metric, in the order of the steps.

        Raises:
          InputError: the run has no metric of this name.
        """
        if name not in self._series:
            raise config.InputError(f'{self.path}: no metric {name!r}.{config.nearest(name, self.metric_names)}')
        steps, values = zip(*sorted(self._series[name].items()))
        return np.array(steps, np.int64), np.array(values, np.float64)

    def measured(self, name: str) -> metric.Metric:
        """The last value of a metric of an evaluation, with its direction, unit and signature, as far as recorded.

        Raises:
          InputError: the run has no metric of this name.
        """
        value = self.metrics(name)[1][-1].item()
        evaluation, _, own = name.rpartition('/')
        return metric.Metric.recorded(own, value, self._about.get(evaluation, {}).get(own))

    @functools.cached_property
    def _about(self) -> dict[str, dict[str, dict[str, str]]]:
        """Evaluation -> metric -> what the last record says of it."""
        found: dict[str, dict[str, dict[str, str]]] = {}
        for record in self.records:
            if record['kind'] == 'evaluation':
                found.setdefault(record['name'], {}).update(record.get('about', {}))
            elif record['kind'] == 'signatures':  # Of older versions.
                for entry in record['signatures']:
                    about = metric.known(entry['metric']).measured(0.0).about()
                    found.setdefault(record['name'], {})[entry['metric']] = {**about, 'signature': entry['signature']}
        return found

    @functools.cached_property
    def artifacts(self) -> list[artifact_files.ArtifactGroup]:
        """What evaluations showed besides numbers, such as generated texts, oldest first; load() gives one of them."""
        return artifact_files.groups(self.records)

    def load(self, entry: Mapping[str, Any]) -> Artifact:
        """An artifact of which `artifacts` holds the entry, with the content of its file.

        Raises:
          DamagedFile: its file is missing, or not as it was written.
        """
        return artifact_files.load(self.path, entry)

    # ---- where it stands ----

    @property
    def step(self) -> int:
        """The last step that was recorded."""
        return max((record['step'] for record in self.records), default=0)

    @property
    def _last_event(self) -> Mapping[str, Any]:
        kinds = (*event_log.BEGINNINGS, *sessions_lib.ENDINGS)
        events = [record for record in self.records if record['kind'] in kinds]
        return events[-1] if events else {}

    @property
    def finished(self) -> bool:
        return self._last_event.get('kind') == 'end'

    @property
    def state(self) -> str:
        """In words: finished, stopped and why, or not known to have ended."""
        if self.finished:
            return sessions_lib.finished(self._last_event)
        if self._last_event.get('kind') == 'stop':
            return f'stopped by {self._last_event.get("reason")}'
        return 'running or interrupted' if self._last_event else 'not started'

    @property
    def digest(self) -> str | None:
        """Of the final state: equal digests mean bit-identical runs. None before the end."""
        return self._last_event['digest'] if self.finished else None

    @property
    def seconds(self) -> float:
        """Time spent in all sessions."""
        return sum(session.seconds for session in self.sessions)

    @property
    def device_hours(self) -> float:
        """Time spent in all sessions, each times the devices that it used."""
        return sessions_lib.device_seconds(self.environment, self._every_record) / 3600

    @functools.cached_property
    def checkpoints(self) -> list[int]:
        """The steps of the checkpoints that are kept, oldest first."""
        return durable_files.saved_steps(self.path)

    # ---- its model ----

    def restore(
        self, step: int | None = None, experiment: Any = None, *, cast: bool = False, weights: str | None = None
    ) -> Any:
        """The model at a checkpoint (default: the newest), a restored_model.Trained: its weights, evaluate(), sample().

        Args:
          experiment: the run's own, with another mesh if need be; by default as it is stored.
          cast: convert weights that are stored with another dtype than this version gives them; else that is an error.
          weights: 'trained', or 'ema' for their moving average; by default those that evaluations use.

        Raises:
          InputError: there is no such checkpoint or moving average, or `experiment` is another than the run's.
        """
        from bigmodel_jax.runs import restored_model  # Imports JAX.

        chosen = self.experiment if experiment is None else experiment
        how: dict[str, Any] = {'cast': cast, 'weights': weights}
        return restored_model.restore(self.path, chosen, self.checkpoints, step, **how)

    def average(self, last: int, step: int | None = None, experiment: Any = None) -> Any:
        """The model whose parameters are the mean of the last checkpoints, a runs.restored_model.Trained.

        Args:
          last: how many.
          step: of the newest of them (default: the newest there is).
          experiment: as of restore().

        Raises:
          InputError: as restore(), or there are fewer checkpoints.
        """
        from bigmodel_jax.runs import averaging  # Imports JAX.

        chosen = self.experiment if experiment is None else experiment
        return averaging.restore(self.path, chosen, self.checkpoints, last=last, until=step)

    def params(self, step: int | None = None) -> Any:
        """The trained parameters at a checkpoint (default: the newest), as a tree of arrays."""
        return self.restore(step, weights='trained').params

    def predictor(self, **how: Any) -> Any:
        """The newest model as a function from new records to artifacts; see restored_model.Trained.predictor()."""
        return self.restore().predictor(**how)

    def sample(
        self, *prompts: str, tokens: int | None = None, how: Any = None, seed: int = 0, template: bool = True
    ) -> list[Any]:
        """What the newest model makes of each prompt: Text that continues, answers or translates it, or a Table.

        Args:
          tokens: new tokens at most; by default 200, or as many as the model has positions for.
          how: an evaluate.text.decoding.Decoding; by default Sampling().
          template: whether a model of conversations reads the prompt as a message, written as its data writes them.
        """
        return self.restore().sample(prompts, tokens=tokens, how=how, seed=seed, template=template)

    @property
    def parameters(self) -> int | None:
        """How many numbers the parameters are."""
        return self.environment[-1].get('parameters') if self.environment else None

    def summary(self) -> dict[str, Any]:
        """The run on one line of a table: where it stands, and the last value of each metric."""
        last = {name: self.metrics(name)[1][-1].item() for name in self.metric_names}
        speed = {name: statistics.median(self._series[name].values()) for name in last if name.endswith('_per_s')}
        return {
            'name': self.name,
            'path': str(self.path),
            'state': self.state,
            'step': self.step,
            'steps': self.steps,
            'seconds': self.seconds,
            'parameters': self.parameters,
            'digest': self.digest,
            **last,
            **speed,
        }

    def _shown(self) -> dict[str, str]:
        losses = [name for name in self.metric_names if name.rpartition('/')[2] == 'loss']
        values = {name: quantities.number(self.metrics(name)[1][-1]) for name in losses}
        return {'state': self.state, 'step': f'{self.step:,} of {self.steps:,}', **values}

    def __repr__(self) -> str:
        return f'Run({str(self.path)!r}: {self.name}, {", ".join(f"{k} {v}" for k, v in self._shown().items())})'

    def _repr_html_(self) -> str:
        items = {'run': self.name, **self._shown(), 'path': str(self.path)}
        rows = [f'<tr><th style="text-align:left">{html.escape(k)}<td>{html.escape(v)}' for k, v in items.items()]
        return f'<table>{"".join(rows)}</table>'
