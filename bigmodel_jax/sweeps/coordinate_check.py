"""The coordinate check of a parametrization: whether activations, and their changes in training, depend on the width.

In muP the mean absolute value of an activation stays the same as the width grows, and so does its change after a few
steps; in the standard parametrization the change grows, until at some width training diverges. Source: Yang et al.
(2022), "Tensor Programs V", arXiv:2203.03466, section 8 and appendix D.1.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.console import quantities
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.layers.base import intermediates
from bigmodel_jax.parallel import sharding
from bigmodel_jax.sweeps.scaling import panels
from bigmodel_jax.train import preparation, step
from bigmodel_jax.train.state import TrainState

# Of d log(mean |change|) / d log(width). Over a 16-fold width a slope of 0.2 is a factor of 1.7; in the standard
# parametrization with Adam slopes are between 0.5 and 1, a factor of 4 to 16.
SLOPE_BOUND = 0.2
LOGITS = 'logits'


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CoordinateCheck(config.Value):
    """Mean absolute values over one batch, at every width. `names` says what: layers in order, and the logits."""

    names: tuple[str, ...]
    widths: np.ndarray  # [w]
    sizes: np.ndarray  # [w, steps + 1, names]: of the activations, before the first step and after each.
    changes: np.ndarray  # [w, steps, names]: of their difference from those before the first step, after each step.

    @property
    def slopes(self) -> dict[str, float]:
        """Name -> d log(mean |change|) / d log(width) after the last step, by least squares."""
        return self._slopes(self.changes[:, -1])

    @property
    def size_slopes(self) -> dict[str, float]:
        """The same of the activations themselves. Those of the logits of muP fall: they begin as 1 / sqrt(width)."""
        return self._slopes(self.sizes[:, -1])

    def steep(self, bound: float = SLOPE_BOUND) -> dict[str, float]:
        """The activations that are not flat: the slope of the change is beyond +-bound, or that of the size above."""
        growing = {name: slope for name, slope in self.size_slopes.items() if slope > bound}
        return {name: slope for name, slope in self.slopes.items() if abs(slope) > bound} | growing

    def text(self, bound: float = SLOPE_BOUND) -> str:
        """A line for each activation, and the verdict."""
        sizes = self.size_slopes
        lines = [
            f'{name}: change ~ width^{slope:+.2f}, size ~ width^{sizes[name]:+.2f}'
            for name, slope in self.slopes.items()
        ]
        steep = self.steep(bound)
        verdict = f'flat: every slope is within {bound:g}' if not steep else f'not flat: {", ".join(steep)}'
        return '\n'.join([*lines, f'widths {self.widths.min()} to {self.widths.max()}: {verdict}'])

    def _slopes(self, values: np.ndarray) -> dict[str, float]:
        x = np.log(self.widths) - np.log(self.widths).mean()
        # An activation that does not change at all has no slope: it is flat.
        y = np.log(np.where(values > 0, values, 1.0))
        return dict(zip(self.names, ((x[:, None] * y).sum(axis=0) / (x**2).sum()).tolist()))


def coordinate_check(experiments: Mapping[int, Experiment], *, steps: int = 8) -> CoordinateCheck:
    """Trains each experiment for some steps and measures its residual stream and logits on the first batch.

    Args:
      experiments: width -> an experiment of that width; of one data set, seed, depth and learning rate.
      steps: the learning rate of a warm-up is small; take so many that it has an effect.

    Raises:
      InputError: fewer than two widths, or a model without logits or a residual stream.
    """
    if len(experiments) < 2:
        raise config.InputError(f'A coordinate check compares widths, but it was given {len(experiments)}.')
    if steps < 1:
        raise config.InputError(f'steps={steps}: a coordinate check needs at least one step.')
    measured = [_measure(experiment, steps) for _, experiment in sorted(experiments.items())]
    names = {tuple(each[0]) for each in measured}
    if len(names) > 1:
        raise config.InputError(
            'The experiments of a coordinate check must differ in the width alone, not in the depth.'
        )
    sizes, changes = (np.array([each[part] for each in measured]) for part in (1, 2))
    return CoordinateCheck(names=names.pop(), widths=np.array(sorted(experiments)), sizes=sizes, changes=changes[:, 1:])


def _measure(experiment: Experiment, steps: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The names of the activations; their sizes and their changes, [steps + 1, names] each."""
    built = preparation.build(dataclasses.replace(experiment, evaluations=()))
    with sharding.use(built.place):
        current: TrainState = built.spec.init()
        probe = jax.jit(lambda params, state, batch: _activations(built.spec.module, params, state, batch))
        # As jit takes them: the arrays are NumPy's.
        read: Callable[[int], Any] = built.data.training
        first = step.seen(read(0))
        before = probe(current.params, current.model_state, first)
        train_step = step.compile_step(experiment, built.spec, built.place)
        found = [_means(before, before)]
        for number in range(steps):
            current, _ = train_step(current, read(number))
            found.append(_means(probe(current.params, current.model_state, first), before))
    sizes, changes = (np.array(jax.device_get([each[part] for each in found])) for part in (0, 1))
    return list(before), sizes, changes


def _activations(module: Any, params: Any, model_state: Any, batch: step.Batch) -> dict[str, jax.Array]:
    """Name -> the residual stream before the first layer and after each, and the logits; in evaluation."""
    variables = {'params': params, **model_state}
    mutable = [intermediates.RESIDUAL_STREAM, intermediates.LOSSES]
    outputs, kept = module.apply(variables, batch, mutable=mutable)
    streams = intermediates.residual_streams(kept.get(intermediates.RESIDUAL_STREAM, {}))
    if LOGITS not in outputs or not streams:
        raise config.InputError(
            'A coordinate check needs a model with logits and a residual stream, such as a Decoder.'
        )
    found = {
        # Numbers of one length, because jit returns a dict in the order of its keys.
        (f'{stack}, layer {number:0{len(str(len(stream)))}}' if number else f'{stack}, input'): stream[number]
        for stack, stream in streams.items()
        for number in range(len(stream))
    }
    return {**found, LOGITS: outputs[LOGITS]}


@jax.jit
def _means(now: Mapping[str, jax.Array], before: Mapping[str, jax.Array]) -> tuple[list[jax.Array], list[jax.Array]]:
    """Mean absolute values of the activations, and of their differences."""
    sizes = [jnp.abs(value.astype(jnp.float32)).mean() for value in now.values()]
    changes = [jnp.abs((now[name] - before[name]).astype(jnp.float32)).mean() for name in now]
    return sizes, changes


def picture(checks: Mapping[str, CoordinateCheck], steps: Sequence[int] = ()) -> str:
    """An SVG file: a row of panels for each check, the changes and the sizes of the activations against the width.

    Args:
      checks: title of a row -> a check.
      steps: of the panels of changes; by default the last.
    """
    found = []
    for title, check in checks.items():
        for number in steps or (check.changes.shape[1],):
            lines = _lines(check, check.changes[:, number - 1])
            found.append(panels.LogPanel(f'{title}: change after {number} steps', 'width', 'mean |change|', lines))
        last = quantities.whole(check.sizes.shape[1] - 1)
        lines = _lines(check, check.sizes[:, -1])
        found.append(panels.LogPanel(f'{title}: size after {last} steps', 'width', 'mean |activation|', lines))
    return panels.svg(found, columns=len(found) // len(checks))


def _lines(check: CoordinateCheck, values: np.ndarray) -> list[panels.LogLine]:
    return [panels.LogLine(name, check.widths, values[:, number], number) for number, name in enumerate(check.names)]
