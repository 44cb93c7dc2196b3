"""Reports: the means of the metrics of several steps, and the speed, for the log and the terminal."""

from collections.abc import Mapping
from typing import Any

import jax

from bigmodel_jax.train import metrics, preparation, services
from bigmodel_jax.train.monitoring import watching


class Reports:
    """Collects the metrics of steps, and writes their means when a report is due.

    Args:
      position: of the checkpoint that the session begins with.
    """

    def __init__(self, run: preparation.PreparedRun, tools: services.Services, position: Mapping[str, Any]):
        self._run, self._tools = run, tools
        # Read but not yet reported: saved with a checkpoint, so that a report after it is of the whole interval.
        self.pending: list[metrics.StepMetrics] = [
            {name: (total, count) for name, (total, count) in each.items()} for each in position['pending']
        ]
        self._reported: int = position.get('reported', 0)  # The step of the last report.
        self._is_diagnosed = False  # What is wrong is said once in a session.

    @property
    def position(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {'pending': list(self.pending), 'reported': self._reported}

    def write(self, number: int) -> None:
        """Writes the means since the last report."""
        tools, data = self._tools, self._run.experiment.data
        means, lap = metrics.mean(self.pending), tools.clock.lap()
        seconds, self.pending, self._reported = lap.seconds_per_step, [], number
        if means:  # Every step may have been skipped.
            tools.writer.scalars('train', number, means)
            self._diagnose(number, means)
        per_second = data.units_per_step / seconds if seconds else 0.0
        if seconds:
            speed = {'seconds_per_step': seconds, f'{data.units.name}_per_s': per_second}
            tools.writer.scalars('speed', number, speed | tools.utilization.metrics(seconds) | device_memory())
        tools.writer.event('time', number, metrics=watching.record(lap.times))
        tools.log_event('slow', number, lap.finding)
        tools.log_event('warning', number, tools.run_files.restored(), tools.utilization.problem())
        tools.progress.step(number, means, per_second=per_second, seconds_per_step=seconds)
        tools.hooks.after_metrics(number, {f'train/{name}': value for name, value in means.items()})

    def _diagnose(self, number: int, means: Mapping[str, float]) -> None:
        """Tells once what the objective finds wrong with training."""
        if self._is_diagnosed:
            return
        experiment = self._run.experiment
        found = experiment.objective.diagnosis(means, rows=experiment.data.batch, step=number)
        if found is not None:
            self._is_diagnosed = True
            self._tools.log_event('warning', number, found)

    def finish(self, number: int) -> None:
        """Writes the time since the last report, at the end of a session."""
        self._tools.writer.event('time', number, metrics=watching.record(self._tools.clock.lap().times))


def device_memory() -> dict[str, float]:
    """Memory of this process's fullest device, now and at its peak, in GiB; {} where the backend does not say, as CPU.

    Metrics of a record of kind 'speed'. The question does not wait for what the device computes.
    """
    found = [stats for device in jax.local_devices() if (stats := device.memory_stats())]
    names = {'device_memory_gib': 'bytes_in_use', 'device_memory_peak_gib': 'peak_bytes_in_use'}
    known = {name: [stats[key] for stats in found if key in stats] for name, key in names.items()}
    return {name: max(sizes) / 2**30 for name, sizes in known.items() if sizes}
