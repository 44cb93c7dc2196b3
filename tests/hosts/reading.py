"""An experiment file for tests: tests/tiny.py on data that writes down which rows each process reads."""

import dataclasses
import json
import pathlib

import tiny
from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.hosts import processes

ROWS = 84  # Divides by 1, 2, 3, 4 and 7.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Logged(tiny.Counting):
    """Counting; each process appends to a file of its own in `log`."""

    log: str

    def build(self, seed: int) -> batches.Batches:
        return LoggedBatches(super().build(seed), pathlib.Path(self.log))


class LoggedBatches(batches.Batches):
    """Batches that write down what is read."""

    def __init__(self, inner: batches.Batches, log: pathlib.Path):
        super().__init__(inner.examples, rows=inner.rows, seed=inner.seed)
        self._log = log

    def read(self, step, ids, rows=None):
        record = {'step': step, 'ids': {int(row): int(id_) for row, id_ in zip(rows, ids)}}
        self._log.mkdir(parents=True, exist_ok=True)
        with (self._log / f'{processes.count()}-{processes.index()}.jsonl').open('a') as file:
            file.write(json.dumps(record) + '\n')
        return super().read(step, ids, rows)


def experiment(log: str) -> Experiment:
    changes = {'data': Logged(batch=ROWS, log=log), 'steps': 12, 'evaluations': (), 'model.layers': 1, 'mesh.data': -1}
    changes |= {'watch.log_every': 2, 'checkpoints.every_steps': 4, 'optimizer.schedule.peak': 1e-3}
    return config.vary(tiny.experiment(), changes)
