"""The best way to run an experiment: slices x legal meshes x batch x microbatches x remat, all tried by formula.

A policy, a batch and a mesh change each other's costs, so nothing is pruned by guessing. What is expensive, tracing, is
done once for each batch and policy.
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

from bigmodel_jax import config
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.optim import gradients
from bigmodel_jax.parallel import sharding, torus
from bigmodel_jax.plan import analytic, request, roofline
from bigmodel_jax.plan.hardware import links, prices, slices

Say = Callable[[str], None]
# From the fewest FLOPs to the least memory.
POLICIES = ('none', 'projections', 'heads', 'attention', 'full')
MICROBATCHES = (1, 2, 4, 8)
AXES = ('data', 'fsdp', 'tensor')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Space:
    """What is tried. `batches` of None: the experiment's own."""

    axes: tuple[str, ...] = AXES
    policies: tuple[str, ...] = POLICIES
    microbatches: tuple[config.Positive, ...] = MICROBATCHES
    batches: tuple[config.Positive, ...] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """One way to run the experiment that fits."""

    slice: str
    mesh: dict[str, int]
    batch: int
    microbatches: int
    remat: str
    peak: int
    time: roofline.StepTime
    run_s: float  # Of as many rows as the experiment has.
    dollars: float | None

    @property
    def settings(self) -> dict[str, object]:
        """The changes of the experiment that make it so."""
        mesh = {f'mesh.{axis}': size for axis, size in self.mesh.items()}
        remat = {'model.stack.remat': self.remat} if self.remat else {}
        return {**mesh, 'data.batch': self.batch, 'gradients': gradients.in_parts(self.microbatches), **remat}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The choices that fit, best first."""

    ranked: tuple[Choice, ...]
    tried: int
    skipped: tuple[str, ...]  # What was left out, and why.

    @property
    def why(self) -> str:
        """What the best has over the next on the same slice, term by term."""
        if not self.ranked:
            return 'Nothing fits: use a larger slice, a smaller batch, or more microbatches.'
        best, *others = self.ranked
        next_best = next((each for each in others if each.slice == best.slice), None)
        if next_best is None:
            return f'The best is bound by {best.time.bound}.'
        terms = {
            'compute': (best.time.compute_s / best.batch, next_best.time.compute_s / next_best.batch),
            'HBM': (best.time.memory_s / best.batch, next_best.time.memory_s / next_best.batch),
            'exposed links': (best.time.exposed_s / best.batch, next_best.time.exposed_s / next_best.batch),
        }
        name, (mine, other) = max(terms.items(), key=lambda item: abs(item[1][1] - item[1][0]))
        better = 'less' if mine < other else 'more'
        share = abs(other - mine) / max(other, mine, 1e-30)
        return (
            f'The best is bound by {best.time.bound}; against the next it has {share:.0%} {better} {name} time per row.'
        )


def search(
    experiment: Experiment,
    on: Sequence[slices.Slice],
    space: Space | None = None,
    *,
    table: prices.Prices | None = None,
    by_dollars: bool = False,
    say: Say | None = None,
) -> SearchResult:
    """Tries every choice of `space` on every slice.

    Args:
      by_dollars: rank by the dollars of the whole run instead of by its time.
      say: is told now and then what is going on.

    Raises:
      InputError: a slice has no price, and dollars were asked for.
    """
    space, table = space or Space(), table or prices.table()
    say = say or (lambda message: None)
    if by_dollars and (without := [str(each) for each in on if each.chip.name not in table]):
        raise config.InputError(f'There is no price for {", ".join(without)}; give one with --prices FILE.')
    reasons: collections.Counter[str] = collections.Counter()
    found: list[Choice] = []
    tried = 0
    for where in on:
        illegal = _illegal(where, space)
        reasons.update({illegal: 1} if illegal else {})
        for mesh in request.meshes(where, space.axes, experiment.mesh.across):
            say(f'{where}: {torus.shape_text(mesh)}')
            outcomes = [_try(experiment, where, changes, table) for changes in _changes(experiment, mesh, space)]
            tried += len(outcomes)
            reasons.update(each for each in outcomes if isinstance(each, str))
            found += [each for each in outcomes if isinstance(each, Choice)]
    ranked = sorted(found, key=lambda choice: _key(choice, by_dollars))
    skipped = tuple(f'{text} ({number}x)' if number > 1 else text for text, number in reasons.most_common(12))
    return SearchResult(ranked=tuple(ranked), tried=tried, skipped=skipped)


def _key(choice: Choice, by_dollars: bool) -> tuple[object, ...]:
    """Equal choices are told apart by their text, so that the order never depends on chance."""
    value = choice.dollars if by_dollars else choice.run_s
    return value, choice.peak, choice.slice, str(choice.mesh), choice.microbatches, choice.remat


def _illegal(on: slices.Slice, space: Space) -> str:
    """Which sizes of an axis the torus of a slice does not allow."""
    if on.chip.torus == 0:
        return ''
    total = on.size // on.count
    sizes = [size for size in range(2, total) if total % size == 0]
    refused = [size for size in sizes if not _can(on, size)]
    if not refused:
        return ''
    text = ', '.join(map(str, refused))
    return (
        f'{on}: a mesh axis of {text}, since an axis is a product of whole dimensions of {"x".join(map(str, on.shape))}'
    )


def _can(on: slices.Slice, size: int) -> bool:
    """Whether some mesh with an axis of that size can be laid on one slice."""
    alone = dataclasses.replace(on, count=1)
    mesh = dict.fromkeys(sharding.AXES, 1) | {'tensor': size, 'fsdp': alone.size // size}
    try:
        links.dimensions(alone, mesh)
    except config.InputError:
        return False
    return True


def _changes(experiment: Experiment, mesh: dict[str, int], space: Space) -> Iterator[dict[str, object]]:
    remats = space.policies if analytic.remat(experiment) else ('',)
    batches = space.batches or (experiment.data.batch,)
    laid = {f'mesh.{axis}': size for axis, size in mesh.items()}
    for batch, count, remat in itertools.product(batches, space.microbatches, remats):
        changes = {**laid, 'data.batch': batch, 'gradients': gradients.in_parts(count)}
        yield changes | ({'model.stack.remat': remat} if remat else {})


def _try(experiment: Experiment, on: slices.Slice, changes: dict[str, object], table: prices.Prices) -> Choice | str:
    """The choice, or why it is none."""
    try:
        varied = config.vary(experiment, changes)
        rows, parts = varied.data.batch, varied.gradients.microbatches
        if rows % parts:
            return f'batch {rows} does not divide into {parts} microbatches'
        varied = request.on_slice(varied, on)
        traced = analytic.trace(varied, on)
    except config.InputError as error:
        return f'{on}: {str(error).split(";")[0].split(". ")[0]}'
    found = analytic.of(traced)
    if found.memory.peak > found.memory.limit:
        return f'{on}: more memory than a chip has'
    time = roofline.step_time(found.counts, on, found.mesh, across=varied.mesh.across)
    # A larger batch needs fewer steps for the same rows.
    steps = experiment.steps * experiment.data.batch / varied.data.batch
    cost = prices.cost(on, steps=round(steps), seconds_per_step=time.seconds, prices=table)
    return Choice(
        slice=str(on),
        mesh=found.mesh,
        batch=varied.data.batch,
        microbatches=varied.gradients.microbatches,
        remat=analytic.remat(varied),
        peak=found.memory.peak,
        time=time,
        run_s=steps * time.seconds,
        dollars=cost.dollars,
    )
