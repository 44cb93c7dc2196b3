"""The verdict on an arm as a sentence."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bigmodel_jax.sweeps.statistics import comparison

MOST_DECIMALS = 12
MOST_LISTED = 8


def verdict(found: 'comparison.ArmComparison') -> str:
    """'better by 0.031 (95% 0.012 to 0.050), p = 0.004 after Holm over 4 arms', or what else is found of an arm."""
    sentence = _of_finite(found)
    arm, reference = found.diverged
    if arm or reference:
        others = f'; on the rest: {sentence}' if found.measured.estimate is not None else ''
        sentence = f'diverged on {_seeds(arm)} ({found.baseline} on {_seeds(reference)}){others}'
    left_out = found.measured.left_out
    return f'{sentence}; not compared, as only one of the two has it: {_seeds(left_out)}' if left_out else sentence


def _of_finite(found: 'comparison.ArmComparison') -> str:
    measured, finding = found.measured, found.finding_of_finite
    if measured.estimate is None:
        return f'nothing to compare with {found.baseline}'
    if finding == 'equal':
        return f'equal on {_counts(measured.counts)}'
    side = 'better by ' if found.gain > 0 else 'worse by ' if found.gain < 0 else ''
    if finding == 'untested':
        return f'{side}{abs(found.gain):.3g} on {_counts(measured.counts)}: no interval'
    size = f'{side}{_size(found)}, {_p(found)}'
    if finding in ('better', 'worse'):
        return size
    low, high = found.interval
    return f'{"not settled" if low > 0 or high < 0 else "no difference found"}: {size}; {_outlook(found)}'


def _size(found: 'comparison.ArmComparison') -> str:
    """'0.031 (95% 0.012 to 0.050)', to two digits of half the interval's width."""
    low, high = sorted(math.copysign(1, found.gain) * end for end in found.gain_interval)
    half = (high - low) / 2
    if half == 0:
        return f'{abs(found.gain):.3g} (the same on every seed)'
    digits = min(max(1 - math.floor(math.log10(half)), 0), MOST_DECIMALS)
    percent = f'{100 * found.confidence:g}%'
    return f'{abs(found.gain):.{digits}f} ({percent} {low:.{digits}f} to {high:.{digits}f})'


def _p(found: 'comparison.ArmComparison') -> str:
    """'p = 0.031, 0.062 after Holm over 2 arms' where Holm's correction changes the verdict; otherwise its p alone."""
    alone = found.p.rank if math.isnan(found.p.t) else found.p.t
    test = ' by ranks' if math.isnan(found.p.t) else ''
    if found.arms == 1:
        return f'{_probability(found.p.holm)}{test}'
    before = f'{_probability(alone)} alone, ' if alone <= 1 - found.confidence < found.p.holm else ''
    return f'{before}{_probability(found.p.holm)}{test} after Holm over {found.arms} arms'


def _probability(p: float) -> str:
    return f'p = {p:.2g}' if p >= 1e-4 else 'p < 0.0001'


def _outlook(found: 'comparison.ArmComparison') -> str:
    """'5 seeds detect 0.05, and 14 would settle an effect of the size seen'."""
    detectable, seeds = found.power.detectable, found.power.seeds
    if not detectable > 0 or math.isinf(detectable):
        return 'the seeds do not vary, so that their noise is not known'
    needed = 'over 100,000' if seeds is None else f'{seeds:,}'
    seen = f'{needed} would settle an effect of the size seen'
    return f'{_counts(found.measured.counts)} detect {detectable:.2g}, and {seen}'


def _counts(counts: tuple[int, int]) -> str:
    arm, reference = counts
    if arm != reference:
        return f'{arm} and {reference} runs'
    return '1 seed' if arm == 1 else f'{arm} seeds'


def _seeds(seeds: Sequence[int]) -> str:
    if not seeds:
        return 'none'
    listed = ', '.join(map(str, seeds[:MOST_LISTED])) + (', ...' if len(seeds) > MOST_LISTED else '')
    return f'seed {listed}' if len(seeds) == 1 else f'{len(seeds)} seeds ({listed})'
