"""What became of each claim of a run's paper: one verdict for each, and never silence."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from bigmodel_jax import claims as papers
from bigmodel_jax import config, differences
from bigmodel_jax.console import quantities
from bigmodel_jax.evaluate import metric
from bigmodel_jax.papers import checks
from bigmodel_jax.reproduce import sections
from bigmodel_jax.runs import directory

MATCHED, WITHIN_NOISE, NOT_REPRODUCED = 'matched', 'within noise', 'not reproduced'
NOT_COMPARABLE, NOT_RUN = 'not comparable', 'not run'
NOT_CHECKED = 'not checked'  # A static claim on other arms, which the run does not hold.
CONFIDENCE = 0.95
# What runs that measure the noise may differ in.
FREE = ('seed', 'name', *differences.CIRCUMSTANCES)


class Judged(NamedTuple):
    """A claim with its verdict."""

    claim: papers.Claim
    quantity: str
    said: str  # The paper's.
    ours: str
    verdict: str
    reason: str = ''

    @property
    def measured(self) -> bool:
        return isinstance(self.claim, papers.Measured)


def judge(run: directory.Run, seeds: Sequence[directory.Run] = ()) -> list[Judged]:
    """Every claim of the run's experiment with its verdict, in their order; none if it has parts that are not loaded.

    Args:
      seeds: runs of the same experiment that differ in the seed alone.

    Raises:
      InputError: they differ in something else, or two have the same seed.
    """
    if run.unloaded:
        if seeds:
            raise config.InputError(run.unloaded)
        return []
    check_seeds(run, seeds)
    facts = checks.ExperimentFacts(run.experiment)
    return [_judge(claim, facts, [run, *seeds]) for claim in run.experiment.claims]


def check_seeds(run: directory.Run, seeds: Sequence[directory.Run]) -> None:
    """Raises InputError if the runs are not those of one experiment with different seeds."""
    for other in seeds:
        found = config.difference(run.experiment, other.experiment)
        apart = [str(each) for each in found if each.path.split('.')[0] not in FREE]
        if apart:
            shown = sections.listed(apart, 3)
            raise config.InputError(f'--seeds {other.path}: it differs from {run.path} in more than the seed: {shown}.')
    used = [each.experiment.seed for each in (run, *seeds)]
    twice = [seed for seed in used if used.count(seed) > 1]
    if twice:
        raise config.InputError(f'--seeds: two of the runs have seed={twice[0]}, and so are the same run.')


def _judge(claim: papers.Claim, facts: checks.ExperimentFacts, runs: Sequence[directory.Run]) -> Judged:
    if isinstance(claim, papers.Measured):
        return measured(claim, facts, runs)
    try:
        found = checks.check_one(claim, facts)
    except config.InputError as error:
        assert isinstance(claim, papers.Static), claim
        return Judged(claim, claim.quantity, claim.said, '', NOT_CHECKED, f'{error} `check FILE` compares all arms.')
    return Judged(claim, found.quantity, found.said, found.shown, found.verdict, found.note)


def measured(claim: papers.Measured, facts: checks.ExperimentFacts, runs: Sequence[directory.Run]) -> Judged:
    """The verdict on one metric, from runs that differ in the seed alone."""

    def verdict(word: str, reason: str, ours: str = '') -> Judged:
        return Judged(claim, claim.metric, papers.plus_minus(claim.value, claim.tolerance), ours, word, reason)

    against = _incomparable(claim, facts)
    if against:
        return verdict(NOT_COMPARABLE, f'because {against}')
    missing = [reason for run in runs if (reason := _not_run(claim.metric, run))]
    if missing:
        return verdict(NOT_RUN, missing[0])
    values = [run.metrics(claim.metric)[1][-1].item() for run in runs]
    scored = [reason for run in runs if (reason := _other_signature(claim, run))]
    ours = ', '.join(quantities.number(value) for value in values)
    if scored:
        return verdict(NOT_COMPARABLE, f'because {scored[0]}', ours)
    direction = runs[-1].measured(claim.metric).direction
    return verdict(*_by_value(claim, values, [run.experiment.seed for run in runs], direction), ours)


def _incomparable(claim: papers.Measured, facts: checks.ExperimentFacts) -> str:
    """Why the paper's number is one of something else; nothing if it is not."""
    if claim.missing:
        return claim.missing
    for path, value in claim.on:
        try:
            here = facts.setting(path)
        except config.InputError as error:
            return f'the paper has {path}={config.format_value(value)}, but {error}'
        if here != value:
            return f'{path} is {config.format_value(here)} here and {config.format_value(value)} in the paper'
    return ''


def _not_run(metric: str, run: directory.Run) -> str:
    """Why the run does not say it yet; nothing if it does."""
    of = f'the run of seed {run.experiment.seed}'
    if not run.finished:
        return f'{of} is at step {run.step:,} of {run.steps:,}'
    if metric not in run.metric_names:
        return f'{of} has no metric {metric!r}'
    return ''


def _other_signature(claim: papers.Measured, run: directory.Run) -> str:
    """In which way the metric was scored differently; nothing if it was not, or the paper does not say."""
    if claim.signature is None:
        return ''
    here = run.measured(claim.metric).signature
    if here == claim.signature:
        return ''
    return f'its signature is {here or "not recorded"} here and {claim.signature} in the paper'


def _by_value(
    claim: papers.Measured, values: Sequence[float], seeds: Sequence[int], direction: metric.Direction | None
) -> tuple[str, str]:
    """The verdict, and its reason.

    Args:
      direction: in which the metric is better, so that a value outside the tolerance is called better or worse.
    """
    mean = statistics.fmean(values)
    off = mean - claim.value
    # The tolerance is a decimal number, half a printed digit; neither it nor the difference is exact in binary.
    within = abs(off) <= claim.tolerance * (1 + 1e-9)
    shown = f'{off:+.3g}'
    if direction is not None and math.isfinite(off) and not within:
        shown += ', better' if metric.is_better(mean, claim.value, direction) else ', worse'
    if len(values) == 1:
        off_by = f'{shown}; one seed: no interval'
        return (MATCHED, off_by) if within else (NOT_REPRODUCED, off_by)
    low, high = interval(values)
    of = f'mean {quantities.number(mean)} of seeds {", ".join(map(str, seeds))}; '
    about = f'{of}{shown}; 95% interval {quantities.number(low)} to {quantities.number(high)}'
    if within:
        return MATCHED, about
    return (WITHIN_NOISE if low <= claim.value <= high else NOT_REPRODUCED), about


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's 95% interval of the mean of two or more values."""
    from scipy import special  # Takes 0.2 s to import, which other commands need not wait for.

    count, mean = len(values), statistics.fmean(values)
    half = float(special.stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * statistics.stdev(values) / math.sqrt(count)
    return mean - half, mean + half


def summary(found: Sequence[Judged]) -> str:
    """'matched: 2, not run: 1': how many claims have which verdict."""
    words = dict.fromkeys(each.verdict for each in found)
    return ', '.join(f'{word}: {sum(each.verdict == word for each in found)}' for word in words)
