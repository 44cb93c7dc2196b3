"""A plan: what a train step needs on a slice, how long it takes, and what the run costs; and what would help."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from bigmodel_jax import config
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.optim import gradients
from bigmodel_jax.parallel import sharding
from bigmodel_jax.plan import analytic, estimates, formulas, mfu, request, roofline
from bigmodel_jax.plan.compiled import program as programs
from bigmodel_jax.plan.hardware import calibration, links, prices, slices

Say = Callable[[str], None]
LARGE_ARRAYS = 12
# Advice that saves less than this share of what is missing is left out.
WORTH_SAYING = 0.05
# What the compiled peak was over that of the formula, at most, in three decoders compiled for v5e:2x2 (1.09 with dense
# layers, 1.23 with routed experts; jax 0.10.2, libtpu 0.0.42.1).
UNDERSTATED = 1.24


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryPart:
    """A part of one chip's memory."""

    name: str
    bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArrayEstimate:
    """A parameter on the mesh, for the picture of the layout."""

    name: str
    shape: tuple[int, ...]
    axes: sharding.LogicalAxes
    cuts: tuple[tuple[str, ...], ...]  # The mesh axes of each dimension.
    chip_bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The train step of an experiment on a slice."""

    name: str
    steps: int
    units_per_step: tuple[float, str]  # Such as (65_536, 'tokens').
    microbatches: int
    remat: str
    program: estimates.Program
    time: roofline.StepTime
    transfers: tuple[tuple[estimates.Collective, float], ...]  # With the seconds of all executions.
    cost: prices.Cost
    factors: calibration.Factors
    arrays: tuple[ArrayEstimate, ...]
    advice: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return self.program.memory.peak <= self.program.memory.limit

    @property
    def uncertain(self) -> bool:
        """Whether it fits by a formula whose error is larger than the room that is left."""
        memory = self.program.memory
        return self.program.source == 'analytic' and memory.peak <= memory.limit < UNDERSTATED * memory.peak

    @property
    def waterfall(self) -> tuple[MemoryPart, ...]:
        """The parts of the memory at its peak, in the order in which they come to be."""
        memory = self.program.memory
        names = {
            'parameters': memory.parameters,
            'optimizer state': memory.optimizer,
            'other state': memory.other_state,
            'batch': memory.batch,
            'gradients': memory.gradients,
            'saved activations': memory.saved,
            'temporaries': memory.temporaries,
        }
        return tuple(MemoryPart(name=name, bytes=size) for name, size in names.items() if size)


def make(
    experiment: Experiment,
    on: slices.Slice,
    *,
    fast: bool = False,
    table: prices.Prices | None = None,
    say: Say | None = None,
) -> Plan:
    """The plan of `experiment` on a slice.

    Args:
      fast: by formula, in seconds, instead of by the compiler, in minutes.
      table: prices; by default those of prices.json.
      say: is told now and then what is going on.

    Raises:
      InputError: the request is impossible, or the TPU compiler is not installed.
    """
    if isinstance(experiment.gradients, gradients.FixedOrder):
        raise config.InputError(
            'gradients=FixedOrder: only the ordinary step can be planned; --set "gradients=WholeBatch()".'
        )
    laid = request.on_slice(experiment, on)
    traced = analytic.trace(laid, on)
    estimate = analytic.of(traced)
    found = estimate if fast else compiled(laid, on, estimate, say)
    return describe(traced, found, table)


def compiled(laid: Experiment, on: slices.Slice, estimate: estimates.Program, say: Say | None) -> estimates.Program:
    """What the compiler says; where the program is too large for it, the estimate with the compiler's peak."""
    try:
        return programs.program(laid, on, say=say)
    except programs.DoesNotFit as error:
        memory = estimate.memory
        rest = error.needed - (memory.peak - memory.temporaries)
        parts = {'temporaries': max(rest, 0), 'saved': memory.saved + min(rest, 0), 'peak': error.needed}
        return dataclasses.replace(estimate, memory=dataclasses.replace(memory, **parts), source='refused')


def describe(traced: analytic.TracedStep, found: estimates.Program, table: prices.Prices | None = None) -> Plan:
    """The plan of a step whose program is known."""
    experiment, on = traced.experiment, traced.on
    across = experiment.mesh.across
    time = roofline.step_time(found.counts, on, found.mesh, across=across)
    laid = links.dimensions(on, found.mesh, across)
    transfers = [(each, links.collective_s(each, on, laid)) for each in found.counts.collectives]
    seconds = time.seconds
    time = dataclasses.replace(time, other_mfus=mfu.by_others(time.mfu, mfu.size_of(experiment, traced.weights)))
    return Plan(
        name=experiment.name,
        steps=experiment.steps,
        units_per_step=(experiment.data.units_per_step, experiment.data.units.name),
        microbatches=experiment.gradients.microbatches,
        remat=analytic.remat(experiment),
        program=found,
        time=time,
        transfers=tuple(sorted(transfers, key=lambda pair: -pair[1])),
        cost=prices.cost(on, steps=experiment.steps, seconds_per_step=seconds, prices=table or prices.table()),
        factors=calibration.factors(on.chip.name),
        arrays=arrays(traced),
        advice=tuple(advice(traced, found)),
    )


def arrays(traced: analytic.TracedStep) -> tuple[ArrayEstimate, ...]:
    """The largest parameters, with how they lie."""
    found = [
        ArrayEstimate(
            name=weight.name,
            shape=weight.shape,
            axes=weight.axes,
            cuts=weight.entries,
            chip_bytes=formulas.own_bytes(weight, traced.place),
        )
        for weight in traced.weights
    ]
    return tuple(sorted(found, key=lambda array: -math.prod(array.shape))[:LARGE_ARRAYS])


def advice(traced: analytic.TracedStep, found: estimates.Program) -> list[str]:
    """What would save how many bytes, if it does not fit: each change tried, by formula."""
    missing = found.memory.peak - found.memory.limit
    if missing <= 0:
        return []
    before = analytic.memory(traced).peak
    lines = []
    for words, changes in _remedies(traced):
        try:
            other = analytic.program(config.vary(traced.experiment, changes), traced.on)
        except config.InputError:
            continue
        saved = before - other.memory.peak
        if saved > WORTH_SAYING * missing:
            enough = '; enough' if saved >= missing else ''
            lines.append((saved, f'{words} saves {saved / 2**30:.1f} GiB{enough}'))
    return [line for _, line in sorted(lines, key=lambda pair: -pair[0])]


def _remedies(traced: analytic.TracedStep) -> list[tuple[str, dict[str, Any]]]:
    experiment, mesh = traced.experiment, traced.experiment.mesh
    found: list[tuple[str, dict[str, Any]]] = []
    remat = {'model.stack.remat': 'full'} if analytic.remat(experiment) not in ('', 'full') else {}
    if remat:
        found.append(('model.stack.remat=full', remat))
    for factor in (2, 8):
        method = gradients.in_parts(factor * experiment.gradients.microbatches)
        text, change = f'gradients={config.format_value(method)}', {'gradients': method}
        found.append((text, change))
    if remat:
        found.append((f'model.stack.remat=full {text}', {**remat, **change}))
    for axis in ('fsdp', 'tensor'):
        for factor in (2, 4, 8, 16):
            if mesh.data % factor == 0 and (mesh.data // factor) % traced.on.count == 0:
                size = getattr(mesh, axis) * factor
                changes = {f'mesh.{axis}': size, 'mesh.data': mesh.data // factor}
                found.append((f'mesh.{axis}={size} mesh.data={mesh.data // factor}', changes))
    half = experiment.data.batch // 2
    return [*found, (f'data.batch={half}', {'data.batch': half})]


def to_json(plan: Plan) -> dict[str, Any]:
    """The plan as JSON-ready data."""
    data = dataclasses.asdict(plan)
    data['fits'] = plan.fits
    data['uncertain'] = plan.uncertain
    data['program'] = estimates.to_json(plan.program)
    data['transfers'] = [{**dataclasses.asdict(each), 'seconds_per_step': seconds} for each, seconds in plan.transfers]
    return data
