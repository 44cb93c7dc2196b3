"""costs.json in a sweep's directory: what a trial of each arm costs, so that a report needs no class of a person's own.

It follows from the experiments alone, and is written when a sweep has run. An arm whose experiment changed afterwards
has no entry until the sweep has run again.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from bigmodel_jax import config
from bigmodel_jax.storage import durable_files
from bigmodel_jax.sweeps.sweep import Sweep
from bigmodel_jax.sweeps.sweep_directory import SweepDirectory

FILE = 'costs.json'


class RecordedCost(NamedTuple):
    """Of one trial of an arm, without its evaluations.

    Attributes:
      flops: of the model, a multiply-add being two.
      units: of data, in `unit`, such as tokens.
    """

    parameters: int
    flops: float
    units: float
    unit: str


def write(directory: SweepDirectory, sweep: Sweep) -> None:
    """Records the costs of the arms that are not recorded yet; one that fits no single device has none."""
    from bigmodel_jax.sweeps.planning import costs  # A report, which only reads, starts without the compiler's plans.

    found = dict(read(directory))
    missing = {arm: each for arm, each in sweep.arms.items() if arm not in found}
    if not missing:
        return
    for arm, each in missing.items():
        try:
            cost = costs.cost(each)
        except config.InputError:
            continue
        found[arm] = RecordedCost(cost.parameters, cost.flops, cost.units, cost.unit)
    content = {arm: {**each._asdict(), 'experiment': _hash(directory, arm)} for arm, each in found.items()}
    durable_files.write_json(directory.path / FILE, content)


def read(directory: SweepDirectory) -> Mapping[str, RecordedCost]:
    """Arm -> what is recorded of its present experiment.

    Raises:
      InputError: the file is damaged.
    """
    path = directory.path / FILE
    if not durable_files.exists(path):
        return {}
    content: Any = durable_files.read_json(path)
    try:
        return {
            arm: RecordedCost(int(each['parameters']), float(each['flops']), float(each['units']), str(each['unit']))
            for arm, each in content.items()
            if arm in directory.description.arms and each['experiment'] == _hash(directory, arm)
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise config.InputError(f'{path} is damaged: {error}. Delete it; the sweep command writes it again.') from error


def _hash(directory: SweepDirectory, arm: str) -> str:
    """Of an arm's experiment as sweep.json says it."""
    text = json.dumps(directory.description.arms[arm], sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(text.encode()).hexdigest()
