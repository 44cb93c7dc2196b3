"""What `plan` predicts of a step that was measured, by the causes that a trace tells apart."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from bigmodel_jax import config
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.hosts import chips
from bigmodel_jax.plan import plan, roofline
from bigmodel_jax.plan.hardware import slices

Hardware = Sequence[Mapping[str, Any]]  # As environment.json has it: [{'kind': 'TPU v5 lite', 'count': 4}].


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The step time by formula on the devices of a run."""

    slice: str
    time: roofline.StepTime

    @property
    def parts(self) -> dict[str, float]:
        """Seconds of each cause of breakdown.CAUSES; they add up to time.seconds.

        Arithmetic and memory traffic overlap: the longer one counts, as compute. Of the collectives counts what does
        not fit beside it. Copies, input and idling are not expected.
        """
        time = self.time
        compute = max(time.compute_s, time.memory_s)
        return {'compute': compute, 'collectives': time.seconds - compute, 'copies': 0.0, 'input': 0.0, 'idle': 0.0}

    def to_json(self) -> dict[str, Any]:
        """It as JSON."""
        return {'slice': self.slice, 'seconds': self.time.seconds, 'parts': self.parts, **dataclasses.asdict(self.time)}


def of(experiment: Experiment, hardware: Hardware) -> Prediction | str:
    """The prediction for an experiment on its mesh; a sentence if there can be none."""
    (kind, count) = next(((str(each['kind']), int(each['count'])) for each in hardware), ('', 0))
    found = slice_of(kind, count)
    if found is None:
        return f'plan predicts nothing for {count} x {kind}: it knows {", ".join(chips.CHIPS)}.'
    try:
        return Prediction(str(found), plan.make(experiment, found, fast=True).time)
    except config.InputError as error:
        return f'plan predicts nothing here: {error}'


def slice_of(kind: str, count: int) -> slices.Slice | None:
    """The slice that so many devices of a kind (jax.Device.device_kind) are; None if plan does not know such devices.

    Of several shapes with equally many chips, the nearest to a cube, as slices.parse() chooses.
    """
    chip = chips.of_kind(kind)
    if chip is None or count % chip.devices:
        return None
    wanted = count // chip.devices
    shapes = slices.shapes(chip)
    machines, rest = divmod(wanted, math.prod(shapes[-1]))
    if chip.torus == 0 and machines > 1 and rest == 0:
        return slices.Slice(chip, shapes[-1], machines)
    fitting = [shape for shape in shapes if math.prod(shape) == wanted]
    return slices.Slice(chip, min(fitting, key=sum)) if fitting else None
