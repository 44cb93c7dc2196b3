"""How much of what the devices can do a run uses: model FLOP/s and MFU, logged with each report."""

import jax

from bigmodel_jax.experiment import Experiment
from bigmodel_jax.hosts import chips, processes
from bigmodel_jax.parallel import sharding
from bigmodel_jax.train.flops import one_device

# What is counted; plan/mfu.py turns a figure into those of other projects.
SIGNATURE = 'matrix products, causal attention at one half, nothing computed again'


class Utilization:
    """Of the devices of a run, where their peak is known.

    Args:
      peak_flops: operations per second of one device; None for what hosts/chips.py says of it, if it knows the device.
    """

    def __init__(self, experiment: Experiment, place: sharding.ShardingContext, peak_flops: float | None = None):
        self._experiment, self._devices = experiment, place.mesh.size
        self._kind = jax.devices()[0].device_kind
        chip = chips.of_kind(self._kind)
        self._peak = peak_flops or (None if chip is None else chip.flops)
        self._flops: float | None = None  # Of a step of all devices.
        self._problem: str | None = None
        self._said = False

    def metrics(self, seconds_per_step: float) -> dict[str, float]:
        """Metrics of a record of kind 'speed'; {} without a peak, and where the MFU would be more than 1.

        The first call traces a step, which takes seconds and compiles nothing.
        """
        if self._peak is None or not processes.is_first():
            return {}
        if self._flops is None:
            self._flops = one_device.trace(self._experiment).work.model
        rate = self._flops / seconds_per_step / self._devices
        mfu = rate / self._peak
        if mfu > 1:
            self._problem = (
                f'An MFU of {mfu:.0%} cannot be, so none is logged: {rate / 1e12:,.1f} TFLOP/s of the model on each '
                f'device, of which {self._kind} has at most {self._peak / 1e12:,.1f}. The peak is of another device or '
                'type, or the device did not do what was asked.'
            )
            return {}
        return {'mfu': mfu, 'model_tflops_per_device': rate / 1e12}

    def problem(self) -> str | None:
        """A sentence, said once, if an MFU was more than 1."""
        if self._problem is None or self._said:
            return None
        self._said = True
        return self._problem
